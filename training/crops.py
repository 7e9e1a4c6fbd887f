"""A cohort folder to lung crops and labels in memory-mapped arrays, made once before classification training.

The crop of a film depends only on the film and on the segmentation network, so it is made by that network,
through the very module that is exported. The decision a reader would question: crops are made with the
network's own masks even where the cohort knows the true ones, because the shipped classifier will never see
true masks.

Shape letters: N films, C side of the crop, L side of the stored lung masks.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch.nn import functional

from screener.errors import ConfigError
from screener.records import ZONES
from screener.settings import available_cores
from training.lung_geometry import crop_square
from training.networks import CANVAS_SIDE, LungCrop, SegmentationNetwork
from training.segmentation_data import read_grey
from training.splits import refuse_divided_patients

LUNG_SIDE = 256
"""L: masks vary slowly, half the crop's resolution is enough."""
MISSING = -1
"""Label of a task that a film was not read for."""
MAP_CROP_SIDE = 48
"""F: twice as fine as the network's own cells at a crop of 384 pixels would need."""
DrawCanvas = Callable[[int, int], torch.Tensor]
REQUIRED = ("film_id", "subject_id", "source", "split", "canvas", "view", "pneumoconiosis", "tb", "stage")


@dataclass(frozen=True, slots=True)
class CropFilms:
    """Crops and labels of a cohort; the arrays may be memory maps."""

    films: pl.DataFrame
    """The cohort's rows, in the order of the arrays."""
    crops: npt.NDArray[np.uint8]
    """(N, C, C) grey levels of the canvas, 255 white."""
    lungs: npt.NDArray[np.uint8]
    """(N, 2, L, L) lung probability times 255, patient right then left."""
    maps: npt.NDArray[np.uint8] | None = None
    """(N, 3, F, F) maps of drawn findings (`training.finding_maps`); None where a cohort has none."""

    def __post_init__(self) -> None:
        if not self.films.height == len(self.crops) == len(self.lungs):
            raise ValueError(f"{self.films.height} films, {len(self.crops)} crops, {len(self.lungs)} masks")

    def __len__(self) -> int:
        return self.films.height

    def part(self, name: str) -> npt.NDArray[np.int64]:
        """Positions of the films of one part of the split."""
        return np.flatnonzero((self.films["split"] == name).to_numpy())

    def labels(self, column: str) -> npt.NDArray[np.int64]:
        """(N,) labels of one column, `MISSING` where the film was not read for it."""
        if column not in self.films.columns:
            return np.full(len(self), MISSING, np.int64)
        return self.films[column].cast(pl.Int64).fill_null(MISSING).to_numpy()

    def zone_levels(self) -> npt.NDArray[np.int64]:
        """(N, 6) profusion levels of RU RM RL LU LM LL, `MISSING` where not graded."""
        return np.stack([self.labels(zone) for zone in ZONES], axis=1)


def read_cohort(folder: Path) -> pl.DataFrame:
    """Frontal films of a cohort folder.

    Raises:
        ConfigError: no cohort there, or a column is missing.
    """
    try:
        films = pl.read_parquet(folder / "cohort.parquet")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{folder.name}/cohort.parquet cannot be read: {type(error).__name__}") from error
    missing = [name for name in REQUIRED if name not in films.columns]
    if missing:
        raise ConfigError(f"{folder.name}/cohort.parquet: column {', '.join(missing)} is missing")
    return films.filter(pl.col("view") == "frontal")


def make_crops(
    films: pl.DataFrame,
    draw: DrawCanvas,
    segmentation: SegmentationNetwork,
    crop: LungCrop,
    out: Path,
    *,
    folder: Path | None = None,
    batch_size: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> CropFilms:
    """Crop every film of a table, or open the crops made earlier with the same network and films.

    Args:
        films: one row a film, with `film_id`.
        draw: canvases (K, 1, 768, 768) of the films at rows [start, stop).
        segmentation: network in evaluation mode.
        crop: the crop module of the classification network to be trained.
        out: folder for the arrays.
        folder: cohort folder, for the maps of drawn findings; None if there are none.
        batch_size: films at a time; None takes 8, and 8 for each core beside a GPU.
        on_progress: called with films done and films in all.

    Raises:
        ConfigError: a picture that cannot be read; names it.
    """
    fingerprint = _fingerprint(films, folder, segmentation, crop)
    stamp = out / "crops.json"
    if stamp.exists() and json.loads(stamp.read_text())["fingerprint"] == fingerprint:
        films.write_parquet(out / "films.parquet")  # labels and splits may have been corrected since
        return open_crops(out)
    out.mkdir(parents=True, exist_ok=True)
    stamp.unlink(missing_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    segmentation, crop = copy.deepcopy(segmentation).to(device), crop.to(device)
    batch_size = batch_size or (8 if device.type == "cpu" else 8 * available_cores())
    side, count = crop.config.crop_side, films.height
    crops = np.lib.format.open_memmap(out / "crops.npy", "w+", np.uint8, (count, side, side))
    lungs = np.lib.format.open_memmap(out / "lungs.npy", "w+", np.uint8, (count, 2, LUNG_SIDE, LUNG_SIDE))
    boxes = torch.zeros((count, 4))
    for start in range(0, count, batch_size):
        stop = min(start + batch_size, count)
        canvas = draw(start, stop).to(device)
        with torch.inference_mode():
            probability, box, _ = segmentation(canvas)
            grey, inside = crop(canvas, probability, box)
            boxes[start:stop] = box.cpu()
            inside = functional.interpolate(inside, size=(LUNG_SIDE, LUNG_SIDE), mode="area")
        crops[start:stop] = (grey[:, 0] * 255).round().byte().cpu().numpy()
        lungs[start:stop] = (inside * 255).round().byte().cpu().numpy()
        if on_progress is not None:
            on_progress(stop, count)
    crops.flush()
    lungs.flush()
    _crop_maps(films, folder, boxes, out)
    films.write_parquet(out / "films.parquet")
    stamp.write_text(json.dumps({"fingerprint": fingerprint, "crop": asdict(crop.config)}, indent=2) + "\n")
    return open_crops(out)


def crop_cohort(
    folder: Path,
    segmentation: SegmentationNetwork,
    crop: LungCrop,
    out: Path,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> CropFilms:
    """Crop every frontal film of a cohort folder; see `make_crops`."""
    films = read_cohort(folder)
    paths = films["canvas"].to_list()
    return make_crops(
        films,
        lambda start, stop: canvases(folder, paths[start:stop]),
        segmentation,
        crop,
        out,
        folder=folder,
        on_progress=on_progress,
    )


def _crop_maps(films: pl.DataFrame, folder: Path | None, boxes: torch.Tensor, out: Path) -> None:
    """Cut the maps of drawn findings as the pictures were cut; nothing for a cohort without maps."""
    target = out / "maps.npy"
    if folder is None or "findings" not in films.columns or films["findings"].null_count():
        target.unlink(missing_ok=True)
        return
    maps = np.empty((films.height, 3, MAP_CROP_SIDE, MAP_CROP_SIDE), np.uint8)
    for place, path in enumerate(films["findings"].to_list()):
        whole = cv2.imread(str(folder / path), cv2.IMREAD_COLOR)
        if whole is None:
            raise ConfigError(f"cohort.parquet, {path}: map of findings cannot be read")
        picture = torch.from_numpy(whole).permute(2, 0, 1)[None].float()
        cut = crop_square(picture, boxes[place : place + 1], CANVAS_SIDE, MAP_CROP_SIDE)
        maps[place] = cut[0].round().byte().numpy()
    np.save(target, maps)


def open_crops(folder: Path) -> CropFilms:
    """Open crops made by `make_crops`, without reading them into memory."""
    return CropFilms(
        pl.read_parquet(folder / "films.parquet"),
        np.load(folder / "crops.npy", mmap_mode="r"),
        np.load(folder / "lungs.npy", mmap_mode="r"),
        np.load(folder / "maps.npy", mmap_mode="r") if (folder / "maps.npy").exists() else None,
    )


def concatenate(parts: list[CropFilms]) -> CropFilms:
    """Several cohorts as one; read into memory.

    Raises:
        ConfigError: a patient stands in different parts of the split.
    """
    films = pl.concat([part.films for part in parts], how="diagonal_relaxed")
    refuse_divided_patients(films)
    return CropFilms(
        films,
        np.concatenate([part.crops for part in parts]),
        np.concatenate([part.lungs for part in parts]),
        None
        if any(part.maps is None for part in parts)
        else np.concatenate([part.maps for part in parts if part.maps is not None]),
    )


def canvases(folder: Path, paths: list[str]) -> torch.Tensor:
    """(N, 1, 768, 768) float32 canvases in [0, 1] of a cohort's films.

    Args:
        folder: cohort folder.
        paths: pictures below it, as the cohort names them.

    Raises:
        ConfigError: unreadable, or not a canvas; names the picture.
    """
    canvas = np.empty((len(paths), 1, CANVAS_SIDE, CANVAS_SIDE), np.float32)

    def fill(place: int) -> None:
        picture = read_grey(folder / paths[place], f"cohort.parquet, {paths[place]}")
        if picture.shape != (CANVAS_SIDE, CANVAS_SIDE):
            wrong = " x ".join(map(str, picture.shape))
            raise ConfigError(f"cohort.parquet, {paths[place]}: canvas is {wrong}, expected 768 x 768")
        np.divide(picture, 255, out=canvas[place, 0], dtype=np.float32)

    with ThreadPoolExecutor(min(len(paths), available_cores()) or 1) as pool:  # decoding PNG takes no lock
        list(pool.map(fill, range(len(paths))))
    return torch.from_numpy(canvas)


def _pictures(films: pl.DataFrame) -> list[str]:
    """Paths of the canvases and of the maps of drawn findings that a cohort's table names."""
    columns = [name for name in ("canvas", "findings") if name in films.columns]
    return [path for name in columns for path in films[name].drop_nulls()]


def _fingerprint(
    films: pl.DataFrame, folder: Path | None, segmentation: SegmentationNetwork, crop: LungCrop
) -> str:
    """What decides the crops: the films in their order, their pictures as files, and the networks."""
    # Of the network to be trained only this changes a crop; width, heads and the like share the crops.
    digest = hashlib.sha256(json.dumps({"crop_side": crop.config.crop_side, "maps": MAP_CROP_SIDE}).encode())
    digest.update(json.dumps(films["film_id"].to_list()).encode())
    for name in () if folder is None else _pictures(films):
        try:
            picture = Path(folder or "", name).stat()
        except OSError as error:
            raise ConfigError(f"cohort.parquet, {name}: picture cannot be read") from error
        digest.update(f"{picture.st_size} {picture.st_mtime_ns};".encode())
    for tensor in segmentation.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()
