"""pydicom without its voice: what it warns of or logs may quote values of the file and identify someone."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal


@contextmanager
def quiet_pydicom(warned: Literal["ignore", "error"] = "ignore") -> Iterator[None]:
    """Keep pydicom's warnings and log messages in: they may quote values of the file.

    Args:
        warned: whether what it warns of is ignored or raised.
    """
    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(warned)
            yield
    finally:
        logger.disabled = was_disabled
