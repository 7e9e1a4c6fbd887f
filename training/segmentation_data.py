"""Image and mask pairs, and films without masks, to the arrays that segmentation training reads.

Every picture goes through the screening canvas and is pooled to the mask's resolution once; masks follow the
canvas' own letterbox. The decision a reader would question: only pairs of the anatomical convention (heart
excluded) are read. Pairs that include the heart shadow would teach a different organ.

Shape letters: N films, M side of the masks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import polars as pl

from screener.canvas import CANVAS_SIDE, canvas_from_grey
from screener.errors import ConfigError, DecodeError
from screener.records import Letterbox
from training.splits import split_by_patient

MASK_SIDE = 256
ANATOMICAL = "anatomical"
"""Start of the convention name of pairs whose masks exclude the heart."""

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class SegmentationFilms:
    """Films of one part, pooled to the mask's resolution."""

    pictures: UInt8
    """(N, M, M) canvas, 255 white."""
    masks: UInt8
    """(N, M, M) 0 background, 1 patient right lung, 2 left."""
    has_mask: npt.NDArray[np.bool_]
    """(N,) False where the film has no mask and only the frontal head learns from it."""
    frontal: npt.NDArray[np.bool_]
    """(N,) True for upright frontal chest films."""
    patients: tuple[str, ...]
    sources: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.patients)
        if self.pictures.shape != (count, MASK_SIDE, MASK_SIDE) or self.masks.shape != self.pictures.shape:
            raise ValueError(f"pictures {self.pictures.shape}, masks {self.masks.shape}, {count} patients")

    def __len__(self) -> int:
        return len(self.patients)

    def take(self, chosen: npt.NDArray[np.bool_]) -> SegmentationFilms:
        """The films where `chosen` (N,) is True."""
        return self.at(np.flatnonzero(chosen))

    def at(self, places: npt.NDArray[np.int64]) -> SegmentationFilms:
        """The films at `places`, in that order, some of them perhaps more than once."""
        return SegmentationFilms(
            self.pictures[places],
            self.masks[places],
            self.has_mask[places],
            self.frontal[places],
            tuple(self.patients[i] for i in places),
            tuple(self.sources[i] for i in places),
        )

    def joined(self, others: SegmentationFilms) -> SegmentationFilms:
        """These films and others."""
        return SegmentationFilms(
            np.concatenate([self.pictures, others.pictures]),
            np.concatenate([self.masks, others.masks]),
            np.concatenate([self.has_mask, others.has_mask]),
            np.concatenate([self.frontal, others.frontal]),
            self.patients + others.patients,
            self.sources + others.sources,
        )


@dataclass(frozen=True, slots=True)
class _Film:
    picture: UInt8
    mask: UInt8 | None
    frontal: bool
    patient: str
    source: str


def read_grey(path: Path, where: str) -> UInt8:
    """Read an 8-bit grey picture.

    Raises:
        ConfigError: not readable; names the index file and row.
    """
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise ConfigError(f"{where}: picture cannot be read")
    return np.asarray(picture, np.uint8)


def draw_grey(grey: UInt8, where: str) -> tuple[npt.NDArray[np.float32], Letterbox]:
    """(768, 768) canvas of a grey picture, and where it lies on it.

    Raises:
        ConfigError: the picture is blank; says where it is listed.
    """
    canvas = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    try:
        return canvas, canvas_from_grey(grey, canvas).letterbox
    except DecodeError as error:
        raise ConfigError(f"{where}: {error}") from error


def pooled_canvas(canvas: npt.NDArray[np.float32]) -> UInt8:
    """(768, 768) canvas in [0, 1] to (256, 256) bytes, averaged as the network averages."""
    small = cv2.resize(canvas, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA)
    return np.rint(small * 255).astype(np.uint8)


def split_lungs(mask: npt.NDArray[np.bool_]) -> UInt8:
    """Union mask to 1 (patient right, image left) and 2 (left).

    Components go to the side of the gap between the lungs that their centroid lies on; lungs that touch are
    parted at the column with the fewest mask pixels in the middle of the mask's extent.
    """
    columns = np.flatnonzero(mask.any(axis=0))
    labelled = np.zeros(mask.shape, np.uint8)
    if not columns.size:
        return labelled
    left, right = int(columns[0]), int(columns[-1]) + 1
    middle = slice(left + (right - left) * 3 // 10, left + (right - left) * 7 // 10 + 1)
    filled = mask[:, middle].sum(axis=0)
    gap = middle.start + float(np.flatnonzero(filled == filled.min()).mean())
    count, components, _, centroids = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    for component in range(1, count):
        inside = components == component
        extent = np.flatnonzero(inside.any(axis=0))
        if extent[-1] - extent[0] > 0.6 * (right - left):
            is_right = np.arange(mask.shape[1])[None, :] < gap
            labelled[inside & is_right] = 1
            labelled[inside & ~is_right] = 2
        else:
            labelled[inside] = 1 if centroids[component][0] < gap else 2
    return labelled


def mask_on_canvas(labelled: UInt8, letterbox: Letterbox) -> UInt8:
    """Lay a mask of the picture's geometry (H, W) on the pooled canvas (M, M), outlines interpolated."""
    factor = MASK_SIDE / CANVAS_SIDE
    scale = letterbox.scale * factor
    # cv2 maps pixel centres; letterboxes map pixel edges.
    matrix = np.array(
        [
            [scale, 0, letterbox.left * factor + scale / 2 - 0.5],
            [0, scale, letterbox.top * factor + scale / 2 - 0.5],
        ]
    )
    out = np.zeros((MASK_SIDE, MASK_SIDE), np.uint8)
    for lung in (1, 2):
        soft = cv2.warpAffine(
            (labelled == lung).astype(np.float32), matrix, out.shape, flags=cv2.INTER_LINEAR
        )
        out[soft >= 0.5] = lung
    return out


def read_pairs(index: Path) -> list[_Film]:
    """Films with masks of the anatomical convention listed in a pairs index (CSV).

    Raises:
        ConfigError: missing column or unreadable file; names file and row.
    """
    table = read_index(index, {"image", "mask", "convention", "patient_group"})
    films = []
    for row, pair in enumerate(table.iter_rows(named=True), start=2):
        where = f"{index.name} row {row}"
        if not (pair["convention"] or "").startswith(ANATOMICAL):
            continue
        if None in (pair["image"], pair["mask"], pair["patient_group"]):
            raise ConfigError(f"{where}: image, mask and patient_group must not be empty")
        grey = read_grey(index.parent / pair["image"], where)
        mask = read_grey(index.parent / pair["mask"], where)
        if grey.shape != mask.shape:
            raise ConfigError(f"{where}: image {grey.shape} and mask {mask.shape} differ in size")
        canvas, letterbox = draw_grey(grey, where)
        labelled = mask_on_canvas(split_lungs(mask > 127), letterbox)
        source = Path(pair["image"]).name.split("_")[0]
        films.append(_Film(pooled_canvas(canvas), labelled, True, pair["patient_group"], source))
    return films


def read_films(
    index: Path, *, licence_excludes: str = "NC", prefixes: tuple[str, ...] = ("nih", "ieee")
) -> list[_Film]:
    """Films without masks listed in a label index (CSV): only whether they are upright frontal is used.

    Args:
        index: columns file, view, orientation, licence, patient_group.
        licence_excludes: rows whose licence holds this word are left out of what ships.
        prefixes: what the file names begin with; empty takes every row.

    Raises:
        ConfigError: missing column, empty file or patient, or unreadable file; names file and row.
    """
    table = read_index(index, {"file", "view", "orientation", "licence", "patient_group"})
    films = []
    for row, film in enumerate(table.iter_rows(named=True), start=2):
        where = f"{index.name} row {row}"
        name = Path(film["file"] or "").name
        if licence_excludes in (film["licence"] or "") or (prefixes and not name.startswith(prefixes)):
            continue
        if not name or not film["patient_group"]:
            raise ConfigError(f"{where}: file and patient_group must not be empty")
        canvas, _ = draw_grey(read_grey(index.parent / film["file"], where), where)
        frontal = film["orientation"] == "upright" and film["view"] != "lateral"
        films.append(_Film(pooled_canvas(canvas), None, frontal, film["patient_group"], name.split("_")[0]))
    return films


def read_cohort_films(folder: Path, part: str) -> list[_Film]:
    """Pictures of a cohort folder with their exact masks; those that are not frontal chests have empty masks.

    Only phantoms are read: the masks of real films in a cohort are a network's own.

    Args:
        folder: cohort folder.
        part: part of the cohort's own split.

    Raises:
        ConfigError: no cohort there, or an unreadable file; names the row.
    """
    try:
        table = pl.read_parquet(folder / "cohort.parquet")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{folder.name}/cohort.parquet cannot be read: {type(error).__name__}") from error
    films = []
    for row, film in enumerate(table.iter_rows(named=True), start=1):
        if film["source"] != "phantom" or film["split"] != part:
            continue
        where = f"{folder.name}/cohort.parquet row {row}"
        canvas = read_grey(folder / film["canvas"], where).astype(np.float32) / np.float32(255)
        mask = np.zeros((MASK_SIDE, MASK_SIDE), np.uint8)
        if film["lungs"] is not None:
            mask = read_grey(folder / film["lungs"], where)
        films.append(
            _Film(pooled_canvas(canvas), mask, film["view"] == "frontal", film["subject_id"], "phantom")
        )
    return films


def gather(films: list[_Film]) -> SegmentationFilms:
    """Stack films into arrays."""
    empty = np.zeros((MASK_SIDE, MASK_SIDE), np.uint8)
    return SegmentationFilms(
        np.stack([film.picture for film in films]),
        np.stack([empty if film.mask is None else film.mask for film in films]),
        np.array([film.mask is not None for film in films]),
        np.array([film.frontal for film in films]),
        tuple(film.patient for film in films),
        tuple(film.source for film in films),
    )


def parts_of(films: SegmentationFilms, *, seed: int) -> npt.NDArray[np.str_]:
    """(N,) `train`, `calibration` or `test` by patient, stratified by source and kind."""
    strata = [
        f"{source}/{masked}/{frontal}"
        for source, masked, frontal in zip(films.sources, films.has_mask, films.frontal, strict=True)
    ]
    return np.array(split_by_patient(films.patients, strata, shares=(0.7, 0.1, 0.2), seed=seed))


def read_index(index: Path, wanted: set[str]) -> pl.DataFrame:
    """Read an index file (CSV), every value as text.

    Raises:
        ConfigError: not readable, or a wanted column is missing.
    """
    try:
        table = pl.read_csv(index, infer_schema=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{index.name} cannot be read: {type(error).__name__}") from error
    missing = sorted(wanted - set(table.columns))
    if missing:
        raise ConfigError(f"{index.name}: column {', '.join(missing)} is missing")
    return table
