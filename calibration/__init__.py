"""Scores to probabilities to decisions. Knows nothing of DICOM or campaigns."""
