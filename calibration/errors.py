"""The error of this floor: calibration imports nothing of screener, nor of its error tree."""

from __future__ import annotations


class CalibrationError(Exception):
    """A calibration or threshold set cannot be read, or was made for another model.

    The text names the file where there is one, says what was found and expected, and what to do.
    """
