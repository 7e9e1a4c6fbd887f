"""Writes DICOM archives with known content: the files every benchmark reads.

A few distinct films are encoded per transfer syntax (7.8 million pixels as JPEG 2000 take a second) and sent
out under new patients, studies and UIDs until the count is reached: every file costs a reader the same as a
picture of its own. Films are chest-like: pictures the caller gives, or procedural phantoms, enlarged to
detector size, with the detector's grain, which is what lossless codecs spend their bytes on. The same
arguments write the same bytes. Archives too large for a disk can hold hard links: other paths to the same
bytes, which cost a reader exactly what the files cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmwrite
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from bench.archive_headers import UNITS, RadiographyUnit, describe
from screener.errors import ConfigError

if TYPE_CHECKING:
    from training.findings import FindingPlan

Film = npt.NDArray[np.uint16]
Picture = npt.NDArray[np.float32]

DISTINCT_FILMS = 4
FILES_PER_FOLDER = 500
GRAIN_LEVELS = 12.0
"""Standard deviation of the grain, in grey levels of a 12-bit film."""
LARGE_FILM = (3056, 2544)
"""Rows and columns of a 7.8-megapixel film: 43 cm at 0.14 mm."""
VARIED_SIZES = (LARGE_FILM, (2500, 2048), (2022, 2022), (2140, 1760), (2836, 2336))
"""What an archive of several units holds."""
PICTURE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff"))
VARIED_BITS = (12, 10, 14, 16, 12, 11, 13, 15)


class Syntax(StrEnum):
    """Encodings that a mix can name."""

    RAW = "raw"
    JPEG_LOSSLESS = "jpeg_lossless"
    J2K = "j2k"
    JPEGLS = "jpegls"
    HTJ2K = "htj2k"
    RLE = "rle"


UIDS: dict[Syntax, UID] = {
    Syntax.RAW: ExplicitVRLittleEndian,
    Syntax.JPEG_LOSSLESS: JPEGLosslessSV1,
    Syntax.J2K: JPEG2000Lossless,
    Syntax.JPEGLS: JPEGLSLossless,
    Syntax.HTJ2K: HTJ2KLossless,
    Syntax.RLE: RLELossless,
}


@dataclass(frozen=True, slots=True)
class ArchiveRecipe:
    """What to write; with the same recipe and pictures every byte is the same."""

    count: int
    """Files."""
    mix: Mapping[Syntax, float]
    """Relative weight of each encoding."""
    sizes: tuple[tuple[int, int], ...] = (LARGE_FILM,)
    """(rows, columns) of the films, taken in turn."""
    bits: tuple[int, ...] = (12,)
    """Bits stored of the films, taken in turn."""
    seed: int = 0
    num_distinct: int | None = None
    """Files after which the rest are hard links to them, in turn; None links nothing."""

    def __post_init__(self) -> None:
        if self.count < 1 or (self.num_distinct is not None and self.num_distinct < 1):
            raise ConfigError("an archive has at least one file")
        if not self.mix or min(self.mix.values()) < 0 or sum(self.mix.values()) <= 0:
            raise ConfigError("--mix: expected at least one encoding with a positive weight")
        if not self.sizes or any(not 16 <= side <= 20_000 for size in self.sizes for side in size):
            raise ConfigError("--sizes: expected sides of 16 to 20000 pixels")
        if not self.bits or any(not 8 < bits <= 16 for bits in self.bits):
            raise ConfigError("--bits: expected 9 to 16")


def write_archive(out: Path, recipe: ArchiveRecipe, pictures: Sequence[Picture] = ()) -> int:
    """Write an archive below `out` and return its size in bytes, every link counted.

    Args:
        out: made if missing; files of the same names are replaced.
        recipe: count, mix, sizes, bits and seed.
        pictures: float32 (H, W) in [0, 1], lungs dark; without any, procedural phantoms.
    """
    random = np.random.default_rng(recipe.seed)
    num_written = min(recipe.count, recipe.num_distinct or recipe.count)
    drawn = pictures or phantom_pictures(recipe)
    films = {
        syntax: list(_encode_films(syntax, recipe, drawn))
        for syntax, weight in recipe.mix.items()
        if weight > 0
    }
    order = random.permutation(np.array(_shares(recipe.mix, num_written)))
    sizes_bytes = []
    for number in range(recipe.count):
        path = _path(out, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if number < num_written:
            choices = films[Syntax(order[number])]
            dataset = _dataset(choices[number % len(choices)], number, recipe)
            dcmwrite(path, dataset, enforce_file_format=True)
            sizes_bytes.append(path.stat().st_size)
        else:
            path.hardlink_to(_path(out, number % num_written))
            sizes_bytes.append(sizes_bytes[number % num_written])
    return sum(sizes_bytes)


def _path(out: Path, number: int) -> Path:
    return out / f"{number // FILES_PER_FOLDER:04d}" / f"IM{number:06d}"


def _shares(mix: Mapping[Syntax, float], count: int) -> list[str]:
    """`count` names of encodings by their weights; whole files, the remainder to the first ones."""
    wanted = {syntax: weight for syntax, weight in mix.items() if weight > 0}
    total = sum(wanted.values())
    names = [str(syntax) for syntax, weight in wanted.items() for _ in range(int(weight / total * count))]
    return names + [str(syntax) for syntax in list(wanted)[: count - len(names)]]


@dataclass(frozen=True, slots=True)
class _EncodedFilm:
    syntax: Syntax
    payload: bytes
    rows: int
    columns: int
    bits: int
    unit: RadiographyUnit


def _encode_films(
    syntax: Syntax, recipe: ArchiveRecipe, pictures: Sequence[Picture]
) -> Iterator[_EncodedFilm]:
    for index in range(num_distinct(recipe)):
        random = np.random.default_rng((recipe.seed, index))
        rows, columns = recipe.sizes[index % len(recipe.sizes)]
        bits, unit = recipe.bits[index % len(recipe.bits)], UNITS[index % len(UNITS)]
        picture = pictures[index % len(pictures)]
        film = _to_film(picture, rows, columns, bits, random)
        if unit.photometric_interpretation == "MONOCHROME1":
            film = (2**bits - 1 - film).astype(np.uint16)
        yield _EncodedFilm(syntax, _encode(syntax, film, bits), rows, columns, bits, unit)


def phantom_pictures(recipe: ArchiveRecipe) -> list[Picture]:
    """A procedural chest, float32 (H, W) in [0, 1], for every distinct film."""
    from training.findings import FindingPlan

    return [
        _phantom(FindingPlan(), (recipe.seed, index), (0, 1, 2, 3)) for index in range(num_distinct(recipe))
    ]


def phantoms_with_findings() -> list[Picture]:
    """Two phantoms of every class of a cohort, float32 (H, W) in [0, 1]."""
    from training.findings import FilmClass, sample_plan

    return [
        _phantom(sample_plan(np.random.default_rng((7, index, 0)), film_class), (7, index), (2, 3, 4, 1))
        for index, film_class in enumerate(2 * list(FilmClass))
    ]


def _phantom(plan: FindingPlan, seed: tuple[int, int], streams: tuple[int, int, int, int]) -> Picture:
    """A phantom; the seed's streams decide anatomy, findings, film and nuisances."""
    from training.nuisances import sample_nuisance
    from training.phantom_film import phantom_film

    anatomy, findings, film, nuisance = (np.random.default_rng((*seed, stream)) for stream in streams)
    drawn = phantom_film(plan, sample_nuisance(nuisance), anatomy, findings, film)
    return np.asarray(drawn.grey / np.float32(255), np.float32)


def num_distinct(recipe: ArchiveRecipe) -> int:
    """Films that are encoded for each syntax."""
    return max(DISTINCT_FILMS, len(recipe.sizes), len(recipe.bits))


def _to_film(picture: Picture, rows: int, columns: int, bits: int, random: np.random.Generator) -> Film:
    large = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_CUBIC)
    grain = random.standard_normal((rows, columns), np.float32) * (GRAIN_LEVELS / 4096)
    levels = (large * 0.9 + 0.05 + grain) * (2**bits - 1)
    film: Film = np.clip(np.rint(levels), 0, 2**bits - 1).astype(np.uint16)
    return film


def _encode(syntax: Syntax, film: Film, bits: int) -> bytes:
    match syntax:
        case Syntax.RAW:
            return film.tobytes()
        case Syntax.JPEG_LOSSLESS:
            return bytes(imagecodecs.ljpeg_encode(film, bitspersample=bits))
        case Syntax.J2K:
            return bytes(
                imagecodecs.jpeg2k_encode(film, codecformat="j2k", reversible=True, bitspersample=bits)
            )
        case Syntax.JPEGLS:
            return bytes(imagecodecs.jpegls_encode(film))
        case Syntax.HTJ2K:
            return bytes(imagecodecs.htj2k_encode(film, reversible=True))
        case Syntax.RLE:
            return get_encoder(RLELossless).encode(
                film,
                rows=film.shape[0],
                columns=film.shape[1],
                number_of_frames=1,
                samples_per_pixel=1,
                bits_allocated=16,
                bits_stored=bits,
                pixel_representation=0,
                photometric_interpretation="MONOCHROME2",
            )


def _dataset(film: _EncodedFilm, number: int, recipe: ArchiveRecipe) -> Dataset:
    dataset = describe(
        number,
        film.unit,
        seed=recipe.seed,
        rows=film.rows,
        columns=film.columns,
        bits_stored=film.bits,
    )
    is_raw = film.syntax is Syntax.RAW
    dataset.PixelData = film.payload if is_raw else encapsulate([film.payload])
    dataset["PixelData"].VR = "OW" if is_raw else "OB"
    dataset["PixelData"].is_undefined_length = not is_raw
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UIDS[film.syntax]
    return dataset


def parse_mix(text: str) -> dict[Syntax, float]:
    """`raw=40,j2k=20` to weights by encoding.

    Raises:
        ConfigError: not of that form, or an encoding that is not known.
    """
    try:
        parts = [part.partition("=") for part in text.split(",")]
        return {Syntax(name.strip()): float(weight or 1) for name, _, weight in parts}
    except ValueError as error:
        raise ConfigError(
            f"--mix {text}: expected for example raw=40,j2k=20; of {', '.join(Syntax)}"
        ) from error


def parse_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """`3056x2544,2022x2022` to (rows, columns).

    Raises:
        ConfigError: not of that form.
    """
    try:
        sides = [part.split("x") for part in text.split(",")]
        return tuple((int(rows), int(columns)) for rows, columns in sides)
    except ValueError as error:
        raise ConfigError(f"--sizes {text}: expected for example 3056x2544,2022x2022") from error


def parse_bits(text: str) -> tuple[int, ...]:
    """`12`, `10,12` or the range `10-16` to bits stored.

    Raises:
        ConfigError: not of that form.
    """
    first, is_range, last = text.partition("-")
    try:
        if is_range:
            return tuple(range(int(first), int(last) + 1))
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--bits {text}: expected for example 12 or 10-16") from error


def read_pictures(folder: Path) -> list[Picture]:
    """Every PNG, JPEG or TIFF of a folder, by name, as float32 (H, W) in [0, 1].

    Raises:
        ConfigError: none there, or one that cannot be read.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURE_SUFFIXES)
    if not paths:
        raise ConfigError("--pictures: the folder holds no PNG, JPEG or TIFF")
    return [_read_picture(path) for path in paths]


def _read_picture(path: Path) -> Picture:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH)
    if image is None or image.dtype not in (np.uint8, np.uint16):
        raise ConfigError(f"--pictures: {path.name} is no picture of 8 or 16 bits")
    picture: Picture = image.astype(np.float32) / np.float32(255 if image.dtype == np.uint8 else 65535)
    return picture
