"""DICOM dates as they are found in archives, to dates."""

from __future__ import annotations

import re
from datetime import date

_DATE = re.compile(r"([0-9]{4})([.-]?)([0-9]{2})\2([0-9]{2})")


def parse_date(text: str | None) -> date | None:
    """DICOM DA (`YYYYMMDD`, PS3.5 6.2), also as ACR-NEMA wrote it; None when it is no date.

    Args:
        text: also `YYYY.MM.DD` and `YYYY-MM-DD`; padding by spaces or NUL is left out.
    """
    found = _DATE.fullmatch((text or "").strip("\0 "))
    if not found:
        return None
    try:
        return date(int(found[1]), int(found[3]), int(found[4]))
    except ValueError:
        return None
