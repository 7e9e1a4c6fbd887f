"""A hospital's own folder and CSV, or ChestX-ray14, to a cohort folder: canvases, labels, splits.

DICOM goes through the same decoding as screening, PNG and JPEG through the same canvas. The decision a reader
would question: labels are optional column by column. A set that was only read for tuberculosis trains that
head alone; what was not read is missing, never negative.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import polars as pl

from screener.canvas import CANVAS_SIDE
from screener.decode_worker import load_file
from screener.errors import ConfigError, DecodeError
from screener.records import ZONES, ArchiveEntry, Rejection
from screener.settings import RunSettings
from screener.staging import MAX_LEVEL
from training.segmentation_data import draw_grey, read_grey, read_index
from training.splits import PARTS, split_by_patient

Float32 = npt.NDArray[np.float32]

_PICTURES = frozenset({".png", ".jpg", ".jpeg"})
_RANGES = {"pneumoconiosis": 1, "tb": 1, "stage": 3, **dict.fromkeys(ZONES, MAX_LEVEL)}
"""Label columns and their highest value."""


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """How a labelled folder becomes a cohort."""

    shares: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Training, calibration and test patients, where the CSV has no `split` column."""
    seed: int = 1
    source: str = "own"
    """Name of the source, for figures within each source."""


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    file: str
    patient: str
    labels: dict[str, int | None]
    split: str | None


def canvas_of_file(path: Path, where: str) -> Float32:
    """(768, 768) canvas of a DICOM, PNG or JPEG file.

    Raises:
        ConfigError: the file cannot be used; says where it is listed and the typed reason, never its path.
    """
    out = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    if path.suffix.lower() in _PICTURES:
        return draw_grey(read_grey(path, where), where)[0]
    try:
        status = path.stat()
        entry = ArchiveEntry(path.name, status.st_size, status.st_mtime_ns)
        found = load_file(path, entry, RunSettings(), out)
    except (OSError, DecodeError) as error:
        raise ConfigError(f"{where}: file cannot be read: {type(error).__name__}") from error
    if isinstance(found, Rejection):
        raise ConfigError(f"{where}: {found.reason} {found.detail}".rstrip())
    return out


def import_films(
    index: Path,
    out: Path,
    settings: ImportSettings,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Make a cohort folder from a CSV of labelled films.

    Args:
        index: CSV with columns `file` (below its own folder) and `patient`, any of `pneumoconiosis`, `tb`
            (0 or 1), `stage`, `ru rm rl lu lm ll` (0 to 3), and `split` (train, calibration, test); an
            empty cell was not read.
        out: cohort folder to write.
        settings: split and source name.
        on_progress: called with films done and films in all.

    Returns:
        Number of films.

    Raises:
        ConfigError: a missing column, a label out of range, a file that cannot be used; names file and row.
    """
    rows = list(_rows(index))
    if not rows:
        raise ConfigError(f"{index.name} lists no films")
    (out / "canvas").mkdir(parents=True, exist_ok=True)
    names = [f"{place:06d}" for place in range(len(rows))]
    for place, row in enumerate(rows):
        canvas = canvas_of_file(index.parent / row.file, row.where)
        cv2.imwrite(str(out / "canvas" / f"{names[place]}.png"), np.rint(canvas * 255).astype(np.uint8))
        if on_progress is not None:
            on_progress(place + 1, len(rows))
    labels = {
        name: pl.Series(name, [row.labels.get(name) for row in rows], dtype=pl.Int8) for name in _RANGES
    }
    table = pl.DataFrame(
        {
            "film_id": names,
            "subject_id": [row.patient for row in rows],
            "source": [settings.source] * len(rows),
            "split": _split(rows, settings, index.name),
            "canvas": [f"canvas/{name}.png" for name in names],
            "view": ["frontal"] * len(rows),
            **labels,
        }
    )
    table.write_parquet(out / "cohort.parquet")
    facts = {"format": "screener-cohort", "source": settings.source, "num_films": len(rows)}
    (out / "cohort.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return len(rows)


def _rows(index: Path) -> Iterator[_Row]:
    table = read_index(index, {"file", "patient"})
    present = [name for name in _RANGES if name in table.columns]
    for number, cells in enumerate(table.iter_rows(named=True), start=2):
        where = f"{index.name} row {number}"
        file, patient = (str(cells[name] or "").strip() for name in ("file", "patient"))
        if not file or not patient:
            raise ConfigError(f"{where}: file and patient must not be empty")
        labels = {name: _label(cells[name], name, where) for name in present}
        if labels.get("pneumoconiosis") is None and labels.get("stage") is not None:
            labels["pneumoconiosis"] = int((labels["stage"] or 0) >= 1)
        if labels.get("pneumoconiosis") == 0 and (labels.get("stage") or 0) >= 1:
            raise ConfigError(f"{where}: stage is {labels['stage']} but pneumoconiosis is 0; correct one")
        split = (cells.get("split") or "").strip() or None
        if split is not None and split not in PARTS:
            raise ConfigError(f"{where}: split {split!r}, expected one of {', '.join(PARTS)}")
        yield _Row(where, file, patient, labels, split)


def _label(cell: str | None, name: str, where: str) -> int | None:
    if cell is None or not cell.strip():
        return None
    if not cell.strip().isdigit() or int(cell) > _RANGES[name]:
        raise ConfigError(f"{where}: {name} is {cell!r}, expected 0 to {_RANGES[name]} or nothing")
    return int(cell)


def _split(rows: list[_Row], settings: ImportSettings, name: str) -> list[str]:
    given = [row.split for row in rows if row.split is not None]
    if len(given) == len(rows):
        parts_of: dict[str, set[str]] = {}
        for row in rows:
            parts_of.setdefault(row.patient, set()).add(str(row.split))
        crossing = sum(len(parts) > 1 for parts in parts_of.values())
        if crossing:
            raise ConfigError(f"{name}: {crossing} patients are in more than one part of the split")
        return given
    if given:
        raise ConfigError(
            f"{name}: column split is filled in {len(given)} of {len(rows)} rows; fill all or none"
        )
    strata = [
        f"{row.labels.get('stage')}/{row.labels.get('pneumoconiosis')}/{row.labels.get('tb')}" for row in rows
    ]
    patients = [row.patient for row in rows]
    return list(split_by_patient(patients, strata, shares=settings.shares, seed=settings.seed))
