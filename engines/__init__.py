"""Networks as files, and what runs them. Knows nothing of DICOM or campaigns."""
