"""A site's readings (CSV) to labels joined with a campaign's raw scores, film by film.

Bad input names file and row, never an identifier. Questionable: an empty cell means not read, not negative,
so a site can read some films for tuberculosis only; and a stage alone says whether there is
pneumoconiosis, so that column may be left out.

Shape letters: N films with a reading.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from calibration.scaling import Float64
from screener.errors import ConfigError, ReportError

Unit = Literal["image_pid", "study_pid"]
FINDINGS = {"pneumoconiosis": 1, "tb": 1, "stage": 3}
"""Columns of a reading and their highest value; the lowest is 0."""
UNREAD = -1

_RAW = ("p_pneumoconiosis_raw", "p_tb_raw", "p_stage0_raw", "p_stage1_raw", "p_stage2_raw", "p_stage3_raw")
_UNREADABLE = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """One row of the readings file; `UNREAD` where a cell is empty."""

    pid: str
    pneumoconiosis: int
    tb: int
    stage: int


@dataclass(frozen=True, slots=True)
class Readings:
    """The whole file, one reading a film or study."""

    unit: Unit
    rows: tuple[Reading, ...]


@dataclass(frozen=True, slots=True)
class ReadFilms:
    """Films of the campaign that have a reading, with their raw scores."""

    pneumoconiosis: npt.NDArray[np.int64]
    """(N,) 0, 1 or `UNREAD`."""
    tb: npt.NDArray[np.int64]
    """(N,) 0, 1 or `UNREAD`."""
    stage: npt.NDArray[np.int64]
    """(N,) 0-3 or `UNREAD`."""
    p_pneumoconiosis_raw: Float64
    """(N,)"""
    p_tb_raw: Float64
    """(N,)"""
    p_stage_raw: Float64
    """(N, 4)"""
    num_unmatched: int
    """Readings whose film or study the campaign did not screen."""
    num_unreadable: int
    """Readings left out because the film is unreadable: it is referred whatever the thresholds are."""

    def __len__(self) -> int:
        return len(self.tb)


def load_readings(file: Path) -> Readings:
    """Load a readings file.

    It has a header, one column `image_pid` or `study_pid`, and any of `pneumoconiosis` (0, 1), `tb` (0, 1)
    and `stage` (0-3). Other columns are not looked at.

    Raises:
        ConfigError: the file cannot be read, or a row is wrong; names the file and the row.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            table = csv.DictReader(lines, strict=True)
            unit = _unit(file.name, table.fieldnames or ())
            rows = tuple(_rows(file.name, unit, table))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a CSV file in UTF-8"
        raise ConfigError(f"{file.name} cannot be read: {reason}") from error
    if not rows:
        raise ConfigError(f"{file.name} has no readings")
    return Readings(unit, rows)


def _unit(name: str, columns: object) -> Unit:
    found = set(columns) if isinstance(columns, list | tuple) else set()
    units: list[Unit] = [unit for unit in ("image_pid", "study_pid") if unit in found]
    if len(units) != 1:
        raise ConfigError(f"{name}: expected one of the columns image_pid and study_pid, found {len(units)}")
    if not found.intersection(FINDINGS):
        raise ConfigError(f"{name}: expected at least one of the columns {', '.join(FINDINGS)}")
    return units[0]


def _rows(name: str, unit: Unit, table: csv.DictReader[str]) -> Iterator[Reading]:
    seen: dict[str, int] = {}
    for row in table:
        number = table.line_num
        pid = (row[unit] or "").strip()
        if not pid:
            raise ConfigError(f"{name} row {number}: {unit} is empty")
        if pid in seen:
            raise ConfigError(
                f"{name} row {number}: the same {unit} as row {seen[pid]}; give one reading (consensus) each"
            )
        seen[pid] = number
        yield _reading(name, number, pid, row)


def _reading(name: str, number: int, pid: str, row: Mapping[str, str | None]) -> Reading:
    values = {}
    for column, highest in FINDINGS.items():
        cell = (row.get(column) or "").strip()
        if cell and cell not in {str(value) for value in range(highest + 1)}:
            raise ConfigError(
                f"{name} row {number}: {column} is {cell[:12]!r}, expected 0 to {highest} or empty"
            )
        values[column] = int(cell) if cell else UNREAD
    staged = UNREAD if values["stage"] == UNREAD else int(values["stage"] >= 1)
    if UNREAD not in (staged, values["pneumoconiosis"]) and staged != values["pneumoconiosis"]:
        raise ConfigError(
            f"{name} row {number}: stage {values['stage']} with pneumoconiosis {values['pneumoconiosis']}; "
            "stage I or more is pneumoconiosis and stage 0 is not"
        )
    if values["pneumoconiosis"] == UNREAD:
        values["pneumoconiosis"] = staged
    return Reading(pid, **values)


def join_readings(campaign: Path, readings: Readings) -> ReadFilms:
    """Join readings with the raw scores of a finished campaign.

    Readings by `study_pid` take the image that speaks for the study.

    Raises:
        ReportError: the campaign's tables cannot be read.
        ConfigError: not one reading belongs to a film that was screened.
    """
    scores = _scores(campaign, readings.unit)
    labels = pl.DataFrame(
        {
            readings.unit: [row.pid for row in readings.rows],
            **{name: [getattr(row, name) for row in readings.rows] for name in FINDINGS},
        }
    )
    joined = labels.join(scores, on=readings.unit, how="inner").sort(readings.unit)
    readable = joined.filter(pl.col("quality_grade") < _UNREADABLE)
    if readable.is_empty():
        raise ConfigError(
            f"none of {labels.height} readings belongs to a readable film of this campaign: "
            f"{readings.unit} must be copied from the campaign's own tables"
        )
    return ReadFilms(
        **{name: readable[name].to_numpy().astype(np.int64) for name in FINDINGS},
        p_pneumoconiosis_raw=_float64(readable.select(_RAW[:1]))[:, 0],
        p_tb_raw=_float64(readable.select(_RAW[1:2]))[:, 0],
        p_stage_raw=_float64(readable.select(_RAW[2:])),
        num_unmatched=labels.height - joined.height,
        num_unreadable=joined.height - readable.height,
    )


def _scores(campaign: Path, unit: Unit) -> pl.DataFrame:
    """Raw scores of everything screened, one row for each `unit`."""
    source = campaign / ("studies.parquet" if unit == "study_pid" else "images/part-*.parquet")
    columns = [unit, "quality_grade", *_RAW]
    try:
        screened = pl.scan_parquet(source).filter(pl.col("status") == "screened").select(columns).collect()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ReportError(
            "the campaign's tables cannot be read: let screener run finish, and give the campaign folder"
        ) from error
    # The same image may lie in the archive twice; both copies have the same scores.
    return screened.unique(unit, keep="first", maintain_order=True)


def _float64(frame: pl.DataFrame) -> Float64:
    return frame.to_numpy().astype(np.float64)
