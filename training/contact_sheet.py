"""A cohort as one picture to look at: small films side by side, a row for each class, captioned.

Looking is part of the method: the numbers cannot say whether a radiologist would take a film for real. Zone
outlines can be laid over the films to check masks and levels at a glance.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from screener.errors import ConfigError
from screener.records import ZONES

_YELLOW, _ORANGE = (0, 255, 255), (0, 165, 255)


def _caption(film: dict[str, Any]) -> str:
    if film["stage"] is None:
        return str(film["view"])
    levels = "".join(str(film[zone]) for zone in ZONES)
    parts = [f"stage {film['stage']}", levels, film["source"]]
    for name in ("opacity_type", "tb_pattern", "confounder"):
        if film[name] != "none":
            parts.append(film[name])
    if film["large_long_mm"] > 0:
        parts.append(f"{film['large_long_mm']:.0f}x{film['large_short_mm']:.0f} mm")
    return " ".join(parts)


def _tile(cohort: Path, film: dict[str, Any], side: int, *, outlines: bool) -> npt.NDArray[np.uint8]:
    grey = cv2.imread(str(cohort / film["canvas"]), cv2.IMREAD_GRAYSCALE)
    if grey is None:
        raise ConfigError(f"film {film['film_id']}: its canvas is missing or unreadable")
    tile = cv2.cvtColor(cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2BGR)
    if outlines and film["zones"] is not None:
        zones = cv2.imread(str(cohort / film["zones"]), cv2.IMREAD_GRAYSCALE)
        if zones is None:
            raise ConfigError(f"film {film['film_id']}: its zones are missing or unreadable")
        zones = cv2.resize(zones, (side, side), interpolation=cv2.INTER_NEAREST)
        for zone in range(1, len(ZONES) + 1):
            edges, _ = cv2.findContours(
                (zones == zone).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
            )
            cv2.drawContours(tile, edges, -1, _ORANGE, 1)
    cv2.putText(
        tile, _caption(film)[: side // 6], (3, 12), cv2.FONT_HERSHEY_SIMPLEX, 0.34, _YELLOW, 1, cv2.LINE_AA
    )
    return np.asarray(tile, np.uint8)


def contact_sheet(
    cohort: Path,
    out: Path,
    *,
    columns: int = 8,
    side: int = 300,
    outlines: bool = False,
    by: str = "film_class",
) -> int:
    """Draw a contact sheet: the first films of every class, one class a row.

    Args:
        cohort: cohort folder.
        out: PNG to write.
        columns: films of a row.
        side: side of one film in pixels.
        outlines: draw the six zones.
        by: column of the cohort that makes the rows.

    Returns:
        Number of films shown.

    Raises:
        ConfigError: no such column, or a picture is missing.
    """
    import polars as pl

    table = pl.read_parquet(cohort / "cohort.parquet")
    if by not in table.columns:
        raise ConfigError(f"--by {by}: the cohort has no such column")
    rows, shown = [], 0
    for _, group in sorted(table.group_by(by), key=lambda item: str(item[0])):
        films = group.sort("film_id").head(columns)
        tiles = [_tile(cohort, film, side, outlines=outlines) for film in films.iter_rows(named=True)]
        shown += len(tiles)
        tiles += [np.zeros((side, side, 3), np.uint8)] * (columns - len(tiles))
        rows.append(np.hstack(tiles))
    if not cv2.imwrite(str(out), np.vstack(rows)):
        raise ConfigError(
            "the contact sheet cannot be written; check the folder and that the name ends in .png"
        )
    return shown
