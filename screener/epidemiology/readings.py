"""Readers' findings on the same films, read from a file and matched to studies by pseudonym.

One row per study and reader: `study_pid`, `reader`, and any of `gbz_stage` (0, I, II, III; also 1-3, the plus
grades of 2002, 壹期 贰期 叁期), `ilo_profusion` with `ilo_zones` and `ilo_large`, `pneumoconiosis` and
`tb` (yes or no), `quality` (1-4) and `read_at`. The file of `screener calibrate` (`stage`, no reader) is read
too, as one reader's. Questionable: an ILO reading becomes a GBZ stage only when the number of affected zones
is given; without it, it says only whether pneumoconiosis is present (1/0 or more, or a large opacity).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from screener.epidemiology.roster import read_table
from screener.errors import ConfigError
from screener.staging import ILO_PROFUSION, NUM_ZONES, STAGE_2002, IloLarge, profusion_level, stage_from_ilo

READINGS = pl.Schema(
    {
        "study_pid": pl.String(),
        "reader": pl.String(),
        "stage": pl.Int8(),
        "pneumoconiosis": pl.Boolean(),
        "tb": pl.Boolean(),
    }
)

_FINDINGS = ("gbz_stage", "ilo_profusion", "pneumoconiosis", "tb")
_ALIASES = {"reader_pid": "reader", "stage": "gbz_stage"}
ONLY_READER = "reader"
"""Name of the reader of a file that names none."""
_STAGES = {
    **STAGE_2002,
    "1": 1,
    "2": 2,
    "3": 3,
    "无": 0,
    "0期": 0,
    "壹期": 1,
    "贰期": 2,
    "叁期": 3,
    "Ⅰ": 1,
    "Ⅱ": 2,
    "Ⅲ": 3,
}
_YES_NO = {
    "yes": True,
    "y": True,
    "1": True,
    "true": True,
    "是": True,
    "no": False,
    "n": False,
    "0": False,
    "false": False,
    "否": False,
}
_QUALITY = ("1", "2", "3", "4")


@dataclass(frozen=True, slots=True)
class Readings:
    """What readers found, and what could not be used."""

    table: pl.DataFrame
    """Columns of `READINGS`; one row per study and reader."""
    num_rows: int
    warnings: dict[str, int]
    """Counted rows: `readings_unknown_study`, `readings_unknown_code`, `readings_repeated`, ..."""


def read_readings(path: Path, studies: pl.Series) -> Readings:
    """Read a readings file.

    Args:
        path: CSV or Parquet.
        studies: study_pid of the campaign's screened studies.

    Raises:
        ConfigError: the key columns or every finding are missing.
    """
    table = read_table(path, "readings file").rename(lambda name: name.strip().lower().lstrip("\ufeff"))
    found = set(table.columns)
    table = table.rename({old: new for old, new in _ALIASES.items() if old in found and new not in found})
    if "study_pid" not in table.columns or not set(_FINDINGS) & set(table.columns):
        raise ConfigError(
            f"the readings file needs study_pid, reader and at least one of {', '.join(_FINDINGS)}; found "
            f"{', '.join(table.columns[:12])}"
        )
    if "reader" not in table.columns:
        table = table.with_columns(pl.lit(ONLY_READER).alias("reader"))
    text = table.select(
        pl.col(name).cast(pl.String).str.strip_chars().replace("", None) for name in _columns(table)
    ).with_columns(pl.col("study_pid").str.to_lowercase())
    warnings: dict[str, int] = {}

    def keep(rows: pl.DataFrame, condition: pl.Expr, warning: str) -> pl.DataFrame:
        kept = rows.filter(condition)
        if kept.height < rows.height:
            warnings[warning] = rows.height - kept.height
        return kept

    text = keep(text, pl.col("study_pid").is_not_null() & pl.col("reader").is_not_null(), "readings_no_key")
    text = keep(text, pl.col("study_pid").is_in(studies.implode()), "readings_unknown_study")
    if "quality" in text.columns:
        text = keep(text, pl.col("quality").fill_null("1") != "4", "readings_unclassifiable")
    text = keep(text, ~_has_unknown_code(text), "readings_unknown_code")
    if "read_at" in text.columns:
        text = text.sort("read_at", nulls_last=False, maintain_order=True)
    latest = text.unique(["study_pid", "reader"], keep="last", maintain_order=True)
    if latest.height < text.height:
        warnings["readings_repeated"] = text.height - latest.height
    return Readings(_findings(latest), table.height, warnings)


def _columns(table: pl.DataFrame) -> list[str]:
    known = ("study_pid", "reader", *_FINDINGS, "ilo_zones", "ilo_large", "quality", "read_at")
    return [name for name in known if name in table.columns]


def _has_unknown_code(text: pl.DataFrame) -> pl.Expr:
    """Rows in which any code is not one of its column's codes."""
    codes = {
        "gbz_stage": list(_STAGES),
        "ilo_profusion": list(ILO_PROFUSION),
        "ilo_zones": [str(count) for count in range(NUM_ZONES + 1)],
        "ilo_large": [str(large) for large in IloLarge],
        "quality": list(_QUALITY),
    }
    wrong = [
        pl.col(name).is_not_null() & ~pl.col(name).is_in(allowed)
        for name, allowed in codes.items()
        if name in text.columns
    ]
    wrong += [
        pl.col(name).is_not_null() & ~pl.col(name).str.to_lowercase().is_in(list(_YES_NO))
        for name in ("pneumoconiosis", "tb")
        if name in text.columns
    ]
    return pl.any_horizontal(pl.lit(value=False), *wrong)


def _findings(text: pl.DataFrame) -> pl.DataFrame:
    rows = []
    for row in text.iter_rows(named=True):
        stage = _STAGES[row["gbz_stage"]] if row.get("gbz_stage") else _ilo_stage(row)
        positive = stage >= 1 if stage is not None else _ilo_positive(row)
        if positive is None:
            positive = _answer(row, "pneumoconiosis")
        rows.append((row["study_pid"], row["reader"], stage, positive, _answer(row, "tb")))
    return pl.DataFrame(rows, schema=READINGS, orient="row")


def _answer(row: dict[str, str | None], name: str) -> bool | None:
    text = row.get(name)
    return _YES_NO[text.lower()] if text else None


def _ilo_stage(row: dict[str, str | None]) -> int | None:
    profusion, zones = row.get("ilo_profusion"), row.get("ilo_zones")
    if profusion is None or zones is None:
        return None
    return stage_from_ilo(profusion, int(zones), large=IloLarge(row.get("ilo_large") or "0")).stage


def _ilo_positive(row: dict[str, str | None]) -> bool | None:
    profusion = row.get("ilo_profusion")
    if profusion is None:
        return None
    return profusion_level(profusion) >= 1 or (row.get("ilo_large") or "0") != "0"
