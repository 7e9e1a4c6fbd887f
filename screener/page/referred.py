"""The worklist to the rows and thumbnails of the page's table of studies.

Rows travel as compact JSON and are drawn by the page's script, a screenful at a time: twenty thousand table
rows of HTML would take a browser seconds. Questionable: pictures are handed out in worklist order until
`MAX_PICTURE_BYTES` or the operator's number is reached, so the most urgent films have theirs and the page
stays below 15 MB whatever the campaign.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import polars as pl

MAX_ROWS = 20_000
"""Most studies on the page; the CSV file has all."""
MAX_PICTURE_BYTES = 9_000_000
"""Of base64 text, all pictures together."""
MAX_PICTURE_FILE_BYTES = 200_000
"""A larger file in the pictures folder is not one of ours."""

COLUMNS = (
    "study_pid",
    "referral",
    "dx_pred",
    "stage_pred",
    "stage_before",
    "p_pneumoconiosis",
    "p_tb",
    "quality_grade",
    "referral_reasons",
    "quality_flags",
    "site",
    "year",
    "age_band",
    "sex",
)
"""Columns of the worklist on the page, in the order of the JSON rows."""

_WEBP = (b"RIFF", b"WEBP")


@dataclass(frozen=True, slots=True)
class ReferredStudies:
    """What the page's table shows."""

    rows: list[list[object]]
    """Values of `COLUMNS` for each study."""
    pictures: dict[int, str]
    """Row number to a data URI."""
    num_all: int
    """Studies of the whole worklist."""


def referred_studies(worklist: pl.DataFrame, pictures: Path, max_thumbnails: int) -> ReferredStudies:
    """Take the most urgent studies and their pictures.

    Args:
        worklist: columns of `tables.WORKLIST`, most urgent first.
        pictures: folder of `<image_pid>.webp`; need not exist.
        max_thumbnails: most pictures.
    """
    shown = worklist.head(MAX_ROWS)
    rounded = shown.with_columns(pl.col("p_pneumoconiosis", "p_tb").cast(pl.Float64).round(4))
    found: dict[int, str] = {}
    used = 0
    for number, image_pid in enumerate(shown["image_pid"]):
        if len(found) >= max_thumbnails or used >= MAX_PICTURE_BYTES:
            break
        uri = _data_uri(pictures / f"{image_pid}.webp") if image_pid else None
        if uri and used + len(uri) <= MAX_PICTURE_BYTES:
            found[number] = uri
            used += len(uri)
    rows = [list(row) for row in rounded.select(COLUMNS).iter_rows()]
    return ReferredStudies(rows, found, worklist.height)


def _data_uri(path: Path) -> str | None:
    """A WebP file as a data URI; None when there is none, or it is not WebP."""
    if not path.is_file() or path.stat().st_size > MAX_PICTURE_FILE_BYTES:
        return None
    content = path.read_bytes()
    if (content[:4], content[8:12]) != _WEBP:
        return None
    return f"data:image/webp;base64,{base64.b64encode(content).decode('ascii')}"
