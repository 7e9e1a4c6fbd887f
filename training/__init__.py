"""Networks, cohorts, training and the bundle builder."""
