"""Writes DICOM archives with known content: the files every benchmark reads.

A few distinct films are encoded per transfer syntax (7.8 million pixels as JPEG 2000 take a second) and sent
out under new patients, studies and UIDs until the count is reached: every file costs a reader the same as a
picture of its own. Films are chest-like: pictures the caller gives, or smooth lung shadows, enlarged to
detector size, with the detector's grain, which is what lossless codecs spend their bytes on. The same
arguments write the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

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
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

Film = npt.NDArray[np.uint16]

ROOT_UID = "2.25.7411"
"""Prefix of every UID written, under the UUID-derived root of PS3.5 B.2."""
DISTINCT_FILMS = 4
FILES_PER_FOLDER = 500
IMAGES_PER_STUDY = 2
STUDIES_PER_PATIENT = 2
GRAIN_LEVELS = 12.0
"""Standard deviation of the grain, in grey levels of a 12-bit film."""
DETECTOR_MM = 430.0
"""Longer side of the detector."""


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
    sizes: tuple[tuple[int, int], ...] = ((3056, 2544),)
    """(rows, columns) of the films, taken in turn."""
    bits_stored: int = 12
    seed: int = 0


def write_archive(out: Path, recipe: ArchiveRecipe, pictures: Sequence[npt.NDArray[np.float32]] = ()) -> int:
    """Write an archive below `out` and return its size in bytes.

    Args:
        out: made if missing; files of the same names are replaced.
        recipe: count, mix, sizes, bits and seed.
        pictures: float32 (H, W) in [0, 1], lungs dark; without any, lung shadows are drawn.
    """
    random = np.random.default_rng(recipe.seed)
    encoded = {syntax: list(_encode_films(syntax, recipe, pictures)) for syntax in recipe.mix}
    syntaxes = list(recipe.mix)
    weights = np.array([recipe.mix[syntax] for syntax in syntaxes], float)
    shares = np.floor(weights / weights.sum() * recipe.count).astype(int)
    shares[: recipe.count - shares.sum()] += 1
    order = random.permutation(np.repeat(np.arange(len(syntaxes)), shares))
    size_bytes = 0
    for number, choice in enumerate(order):
        films = encoded[syntaxes[choice]]
        path = out / f"{number // FILES_PER_FOLDER:04d}" / f"IM{number:06d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        dcmwrite(path, _dataset(films[number % len(films)], number, recipe), enforce_file_format=True)
        size_bytes += path.stat().st_size
    return size_bytes


@dataclass(frozen=True, slots=True)
class _EncodedFilm:
    syntax: Syntax
    payload: bytes
    rows: int
    columns: int


def _encode_films(
    syntax: Syntax, recipe: ArchiveRecipe, pictures: Sequence[npt.NDArray[np.float32]]
) -> Iterator[_EncodedFilm]:
    for index in range(max(DISTINCT_FILMS, len(recipe.sizes))):
        random = np.random.default_rng((recipe.seed, index))
        rows, columns = recipe.sizes[index % len(recipe.sizes)]
        picture = pictures[index % len(pictures)] if pictures else lung_shadows(random)
        film = _to_film(picture, rows, columns, recipe.bits_stored, random)
        yield _EncodedFilm(syntax, _encode(syntax, film, recipe.bits_stored), rows, columns)


def lung_shadows(random: np.random.Generator, side: int = 512) -> npt.NDArray[np.float32]:
    """A smooth chest-like picture, float32 (side, side) in [0, 1]: two dark ovals, ribs, a bright middle."""
    down, across = np.mgrid[0 : 1 : side * 1j, 0 : 1 : side * 1j].astype(np.float32)
    shift = random.uniform(-0.02, 0.02)
    picture = 0.75 + 0.1 * np.cos(np.pi * (across - 0.5))
    for centre in (0.3 + shift, 0.7 + shift):
        oval = ((across - centre) / 0.15) ** 2 + ((down - 0.48) / 0.33) ** 2
        picture = picture - 0.5 / (1 + np.exp(np.minimum(8 * (oval - 1), 60)))
    ribs = 0.04 * np.sin(2 * np.pi * (11 * down + 1.2 * np.abs(across - 0.5) + random.uniform()))
    shadows: npt.NDArray[np.float32] = np.clip(picture + ribs, 0, 1).astype(np.float32)
    return shadows


def _to_film(
    picture: npt.NDArray[np.float32], rows: int, columns: int, bits: int, random: np.random.Generator
) -> Film:
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
    """Header of one file; patients, studies and instances are numbered from the file's number."""
    study = number // IMAGES_PER_STUDY
    patient = study // STUDIES_PER_PATIENT
    dataset = Dataset()
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = UID(f"{ROOT_UID}.{recipe.seed}.3.{number + 1}")
    dataset.StudyInstanceUID = UID(f"{ROOT_UID}.{recipe.seed}.1.{study + 1}")
    dataset.SeriesInstanceUID = UID(f"{ROOT_UID}.{recipe.seed}.2.{number + 1}")
    dataset.PatientID, dataset.PatientName = f"BENCH{patient:07d}", f"Bench^Patient{patient}"
    dataset.PatientAge, dataset.PatientSex = f"{40 + patient % 40:03d}Y", "MF"[patient % 2]
    dataset.StudyDate, dataset.Modality = f"{2015 + study % 10}0{1 + study % 9}15", "DX"
    dataset.BodyPartExamined, dataset.ViewPosition = "CHEST", "PA"
    dataset.Manufacturer, dataset.ImageType = "Benchmark", ["ORIGINAL", "PRIMARY"]
    dataset.Rows, dataset.Columns = film.rows, film.columns
    spacing = DETECTOR_MM / max(film.rows, film.columns)
    dataset.ImagerPixelSpacing = [f"{spacing:.5f}", f"{spacing:.5f}"]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        16,
        recipe.bits_stored,
        recipe.bits_stored - 1,
    )
    dataset.PixelRepresentation = 0
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (recipe.bits_stored - 1), 2**recipe.bits_stored
    is_raw = film.syntax is Syntax.RAW
    dataset.PixelData = film.payload if is_raw else encapsulate([film.payload])
    dataset["PixelData"].VR = "OW" if is_raw else "OB"
    dataset["PixelData"].is_undefined_length = not is_raw
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UIDS[film.syntax]
    return dataset
