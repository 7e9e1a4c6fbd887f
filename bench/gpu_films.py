"""The films of `bench.gpu_check`: archives of benchmark films drawn from real pictures, and real canvases.

Everything real comes from this repository: ten DICOM films of the demo archive and thirty reduced pictures of
the tests. A reader may question flips over variants of forty films: they are turned, enlarged, brightened and
grained copies, not independent films, and the rows say how many are real.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from bench.archive_factory import LARGE_FILM, VARIED_BITS, VARIED_SIZES, ArchiveRecipe, Syntax, write_archive
from bench.gpu_findings import Bench, Findings, Row
from screener.archive import walk
from screener.canvas import CANVAS_SIDE, canvas_from_grey
from screener.errors import DecodeError
from screener.frame import EncodedFrame, read_frame
from screener.header import ParsedHeader, read_header
from screener.records import ArchiveEntry, Float32
from screener.settings import RunSettings

REPOSITORY = Path(__file__).parents[1]
REAL_ARCHIVE = REPOSITORY / "examples" / "archive"
REAL_CODECS = REPOSITORY / "tests" / "dicom" / "codec"
REAL_PICTURES = (REPOSITORY / "tests" / "films", REPOSITORY / "tests" / "chestxray14" / "images")
DEVICE_SYNTAXES = (Syntax.J2K, Syntax.HTJ2K, Syntax.JPEG_LOSSLESS)
EXACT_BITS = (12, 10, 14, 16)
STREAM_MIX = {Syntax.RAW: 4.0, Syntax.JPEG_LOSSLESS: 3.0, Syntax.J2K: 2.0, Syntax.JPEGLS: 1.0}
"""As the figures of the CPU path."""
SMALL_FILM = (860, 772)
"""Of a rehearsal: just larger than the canvas, so that it is not enlarged."""


def prepare(bench: Bench) -> Findings:
    """Write every archive, side by side: the encoders release the interpreter."""
    began = time.monotonic()
    pictures = [picture.astype(np.float32) / np.float32(255) for picture in real_pictures()]
    yield Row("real pictures that films are drawn from", len(pictures))
    recipes = _recipes(bench)
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(lambda each: write_archive(bench.folder / each[0], each[1], pictures), recipes)
        yield Row("archives", sum(sizes) / 1e9, "GB, links counted")
    yield Row("preparation", time.monotonic() - began, "s")


def _recipes(bench: Bench) -> list[tuple[str, ArchiveRecipe]]:
    is_real = bench.gpu is not None
    size = LARGE_FILM if is_real else SMALL_FILM
    count = 1600 if is_real else 10
    every = dict.fromkeys((*DEVICE_SYNTAXES, Syntax.RAW, Syntax.JPEGLS), 1.0)
    varied = VARIED_SIZES if is_real else (SMALL_FILM,)
    bits = VARIED_BITS if is_real else (12, 10, 9, 16)
    films = [
        (f"exact/{syntax}", ArchiveRecipe(4, {syntax: 1.0}, (size,), EXACT_BITS))
        for syntax in DEVICE_SYNTAXES
    ]
    return [
        *films,
        ("mixed", ArchiveRecipe(count, STREAM_MIX, (size,), num_distinct=40)),
        ("j2k", ArchiveRecipe(count // 2, {Syntax.J2K: 1.0}, (size,), num_distinct=40)),
        ("varied", ArchiveRecipe(40 if is_real else 10, every, varied, bits)),
    ]


def real_pictures() -> list[npt.NDArray[np.uint8]]:
    """The tests' real films, (H, W) grey; without a checkout there are none."""
    paths = [path for folder in REAL_PICTURES for path in sorted(folder.glob("*.png"))]
    read = (cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in paths if ".mask." not in path.name)
    return [np.asarray(image, np.uint8) for image in read if image is not None]


def frames(root: Path) -> Iterator[tuple[ArchiveEntry, ParsedHeader, EncodedFrame]]:
    """Every file of a folder that has a frame to decode."""
    for entry in walk(root):
        try:
            with (root / entry.relative_path).open("rb") as file:
                parsed = read_header(file, RunSettings())
                yield entry, parsed, read_frame(file, parsed, RunSettings())
        except (DecodeError, OSError):  # what is no picture stands there to be rejected
            continue


def canvases_path(bench: Bench) -> Path:
    """Where the canvases of DICOM films are kept, host's and device's: (2, N, 1, 768, 768)."""
    return bench.folder / "canvases.npy"


def judged_canvases(bench: Bench) -> tuple[Float32, Float32, int]:
    """Host's and device's canvases (N, 1, 768, 768) to compare networks on, and how many are no variants.

    A DICOM film has two canvases; a picture, and a variant of either, stands on both sides alike.
    """
    path = canvases_path(bench)
    shape = (2, 0, 1, CANVAS_SIDE, CANVAS_SIDE)
    host, device = np.load(path) if path.exists() else np.zeros(shape, np.float32)
    pictures = real_pictures()
    if bench.gpu is None:
        host, device, pictures = host[:3], device[:3], pictures[:1]
    drawn = np.zeros((len(pictures), 1, CANVAS_SIDE, CANVAS_SIDE), np.float32)
    for picture, canvas in zip(pictures, drawn, strict=True):
        canvas_from_grey(picture, canvas[0])
    originals = np.concatenate([host, drawn])
    count = 1000 if bench.gpu else len(originals) + 1
    with ThreadPoolExecutor() as pool:
        variants = list(pool.map(partial(variant, originals), range(count - len(originals))))
    alike = np.concatenate([drawn, np.array(variants, np.float32).reshape(-1, 1, CANVAS_SIDE, CANVAS_SIDE)])
    return np.concatenate([host, alike]), np.concatenate([device, alike]), len(originals)


def variant(originals: Float32, number: int) -> Float32:
    """One film turned, enlarged, moved, brightened and grained by seeded amounts, (1, 768, 768) in [0, 1]."""
    random = np.random.default_rng(number)
    turn = cv2.getRotationMatrix2D(
        (CANVAS_SIDE / 2, CANVAS_SIDE / 2), random.uniform(-6, 6), random.uniform(0.92, 1.08)
    )
    turn[:, 2] += random.uniform(-20, 20, 2)  # type: ignore[arg-type]  # OpenCV's own number type
    moved = cv2.warpAffine(originals[number % len(originals), 0], turn, (CANVAS_SIDE, CANVAS_SIDE))
    grain = random.normal(0, 0.01, moved.shape)
    changed: Float32 = np.clip(moved ** random.uniform(0.8, 1.25) + grain, 0, 1).astype(np.float32)
    return changed[None]
