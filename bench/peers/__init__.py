"""What users would otherwise run."""
