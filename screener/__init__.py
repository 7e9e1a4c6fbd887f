"""Screens archives of DICOM chest radiographs for suspected pneumoconiosis. See `screener.pipeline`."""

__version__ = "0.1.0"

INTENDED_USE = (
    "Research and epidemiological triage; not a medical device; no diagnosis or compensation decision; "
    "qualified reader required."
)
