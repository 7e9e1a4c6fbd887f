"""A label index of real films to the list of host films that a cohort draws into: film, lung mask, patient.

Masks come from the segmentation network, so that no film needs an outline drawn by hand. The decision a
reader would question: a film whose mask is implausible (a lung missing, lungs of very unequal size, lungs
that fill little or most of the picture) is left out. A finding drawn beside a lung would be a wrong label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch.nn import functional

from screener.canvas import CANVAS_SIDE, canvas_from_grey
from screener.errors import ConfigError, DecodeError
from screener.records import Letterbox
from training.networks import SegmentationNetwork
from training.segmentation_data import MASK_SIDE, UInt8, read_grey, read_index

_LUNG_SHARE = (0.10, 0.60)
"""Plausible share of the picture that both lungs fill."""
_LARGEST_RATIO = 2.5
"""Of one lung's area to the other's."""
_FRONTAL = ("PA", "AP", "frontal")
_SOURCES = {"nihj": "nih"}
"""Sources whose files begin with something else than their name."""
_UNITS_A_YEAR = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}
_LEAST_SOLIDITY = 0.86
"""Area of a lung over that of its convex hull; below it, a bay was cut out or a limb stuck on."""


@dataclass(frozen=True, slots=True)
class HostSelection:
    """Which rows of a label index become hosts."""

    prefixes: tuple[str, ...] = ("nihj", "nih")
    """What the file names begin with, up to the first underscore; the default is the shipped bundle's. Empty
    takes every row."""
    youngest: int = 15
    """Age in years below which a chest is not an adult's; unknown ages are taken."""


@torch.inference_mode()
def segment_grey(network: SegmentationNetwork, grey: UInt8, where: str) -> UInt8:
    """Lung mask of a grey picture, on the picture's own grid: 0, 1 patient right, 2 left.

    The mean of the network's answers on the canvas, on a blurred and on a brighter copy: steadier than one.

    Raises:
        ConfigError: the picture is blank.
    """
    canvas = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    try:
        letterbox = canvas_from_grey(grey, canvas).letterbox
    except DecodeError as error:
        raise ConfigError(f"{where}: {error}") from error
    pooled = functional.avg_pool2d(torch.from_numpy(canvas)[None, None], CANVAS_SIDE // MASK_SIDE)
    blurred = functional.avg_pool2d(pooled, 3, stride=1, padding=1)
    logits, _ = network.logits(torch.cat((pooled, blurred, blurred.clamp_min(1e-4) ** 0.8)))
    return mask_on_picture(logits.sigmoid().mean(dim=0).numpy(), letterbox, grey.shape)


def mask_on_picture(
    probability: npt.NDArray[np.float32], letterbox: Letterbox, shape: tuple[int, ...]
) -> UInt8:
    """Lay lung probability (2, M, M) on a picture of `shape` (H, W); largest component of each lung."""
    factor = MASK_SIDE / CANVAS_SIDE
    scale = 1 / (letterbox.scale * factor)
    top, left = letterbox.top * factor, letterbox.left * factor
    matrix = np.array(
        [[scale, 0, (0.5 - left) * scale - 0.5], [0, scale, (0.5 - top) * scale - 0.5]], dtype=np.float64
    )
    size = (shape[1], shape[0])
    soft = [cv2.warpAffine(lung, matrix, size, flags=cv2.INTER_LINEAR) for lung in probability]
    labelled = np.zeros(shape[:2], np.uint8)
    for lung, other, label in ((soft[0], soft[1], 1), (soft[1], soft[0], 2)):
        inside = ((lung >= 0.5) & (lung >= other)).astype(np.uint8)
        count, components, stats, _ = cv2.connectedComponentsWithStats(inside)
        if count > 1:
            labelled[components == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())] = label
    return labelled


def plausible(labelled: UInt8) -> bool:
    """Two lungs of comparable size and even outline that fill a plausible share of the picture."""
    right, left = int((labelled == 1).sum()), int((labelled == 2).sum())
    if min(right, left) == 0 or max(right, left) > _LARGEST_RATIO * min(right, left):
        return False
    if min(_solidity(labelled == lung) for lung in (1, 2)) < _LEAST_SOLIDITY:
        return False
    return _LUNG_SHARE[0] <= (right + left) / labelled.size <= _LUNG_SHARE[1]


def _solidity(lung: npt.NDArray[np.bool_]) -> float:
    outlines, _ = cv2.findContours(lung.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    largest = max(outlines, key=cv2.contourArea)
    return float(cv2.contourArea(largest) / max(cv2.contourArea(cv2.convexHull(largest)), 1.0))


def age_years(cell: str | None, where: str) -> float:
    """Age of an index's cell in years: a number, perhaps with a DICOM unit; unknown ages are infinite.

    Raises:
        ConfigError: the cell is something else; says where it stands.
    """
    if cell is None or not cell.strip():
        return math.inf
    found = re.fullmatch(r"(\d{1,3})(?:\.\d+)?([YMWD]?)", cell.strip().upper())
    if found is None:
        raise ConfigError(f"{where}: age is no number of years")
    return int(found[1]) / _UNITS_A_YEAR[found[2]]


def list_hosts(
    index: Path,
    network: SegmentationNetwork,
    out: Path,
    selection: HostSelection,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> int:
    """Write `films.csv` and `masks/` that `training.films.read_films` reads.

    Args:
        index: label index (CSV): file, view, orientation, licence, patient_group, age, findings, and perhaps
            `data_set`; without it a film's source is what its name begins with. Ages are years, or carry a
            unit as in DICOM (`058Y`, `006M`).
        network: segmentation network in evaluation mode.
        out: folder to write.
        selection: which rows.
        on_progress: called with the number of films listed so far.

    Returns:
        Number of films listed.

    Raises:
        ConfigError: a missing column, an empty file or patient, an age that is none, or an unreadable
            picture; names file and row.
    """
    table = read_index(index, {"file", "view", "orientation", "licence", "patient_group", "age", "findings"})
    (out / "masks").mkdir(parents=True, exist_ok=True)
    rows = []
    for row, film in enumerate(table.iter_rows(named=True), start=2):
        where = f"{index.name} row {row}"
        path = Path(film["file"] or "")
        prefix = path.name.split("_")[0]
        if selection.prefixes and prefix not in selection.prefixes:
            continue
        if film["view"] not in _FRONTAL or film["orientation"] != "upright":
            continue
        if not film["file"] or not film["patient_group"]:
            raise ConfigError(f"{where}: file and patient_group must not be empty")
        if age_years(film["age"], where) < selection.youngest:
            continue
        labelled = segment_grey(network, read_grey(index.parent / path, where), where)
        if not plausible(labelled):
            continue
        mask = out / "masks" / f"{path.stem}.png"
        cv2.imwrite(str(mask), labelled)
        rows.append(
            {
                "image": str((index.parent / path).resolve()),
                "mask": str(mask.relative_to(out)),
                "subject_id": film["patient_group"],
                "source": film.get("data_set") or _SOURCES.get(prefix, prefix),
                "findings": film["findings"] or "",
                "licence": film["licence"] or "",
            }
        )
        if on_progress is not None:
            on_progress(len(rows))
    if not rows:
        raise ConfigError(f"{index.name}: no film is usable as a host")
    pl.DataFrame(rows).write_csv(out / "films.csv")
    return len(rows)
