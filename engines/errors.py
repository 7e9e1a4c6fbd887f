"""Errors of the ground floor: engines know nothing of DICOM or campaigns, nor of screener's error tree."""

from __future__ import annotations


class BundleError(Exception):
    """A model bundle is missing a file, has a wrong hash, or was made for another canvas."""


class EngineError(Exception):
    """An inference engine cannot be opened, compiled or run."""
