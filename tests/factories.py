"""Chest-like pictures and DICOM files of them, across transfer syntax × photometric × bits × sign.

Every file is a valid CR image of an invented patient unless tags are overridden; encoders are libraries
other than those that the product decodes with wherever there is a second one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ComputedRadiographyImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

from screener.frame import EncodedFrame, read_frame
from screener.header import ParsedHeader, read_header
from screener.settings import RunSettings

Pixels = npt.NDArray[Any]

NATIVE_SYNTAXES = (
    "1.2.840.10008.1.2",
    str(ExplicitVRLittleEndian),
    str(ExplicitVRBigEndian),
    "1.2.840.10008.1.2.1.99",
)
LOSSLESS_SYNTAXES = (
    *NATIVE_SYNTAXES,
    str(RLELossless),
    str(JPEGLossless),
    str(JPEGLosslessSV1),
    str(JPEGLSLossless),
    str(JPEG2000Lossless),
    str(HTJ2KLossless),
    str(HTJ2KLosslessRPCL),
)
LOSSY_SYNTAXES = (
    str(JPEGBaseline8Bit),
    str(JPEGExtended12Bit),
    str(JPEGLSNearLossless),
    str(JPEG2000),
    str(HTJ2K),
)


def chest_picture(
    rows: int = 320, columns: int = 264, *, bits: int = 12, is_signed: bool = False, seed: int = 0
) -> Pixels:
    """A frontal chest as crude shapes with texture and noise, lungs dark, over most of the value range.

    Returns:
        (rows, columns) uint8 or int8 up to 8 bits, else uint16 or int16; centred on zero when signed.
    """
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:rows, 0:columns].astype(np.float32)
    y, x = y / rows, x / columns
    body = 0.75 - 0.5 * (np.abs(x - 0.5) > 0.46)
    lungs = sum(
        np.exp(-((((x - middle) / 0.15) ** 2 + ((y - 0.45) / 0.3) ** 2) ** 2)) for middle in (0.28, 0.72)
    )
    ribs = 0.04 * np.sin(60 * (y + 0.35 * np.abs(x - 0.5)))
    texture = cv2.GaussianBlur(rng.standard_normal((rows, columns)).astype(np.float32), (0, 0), 2)
    picture = body - 0.5 * lungs + ribs * (0.4 + lungs) + 0.1 * texture
    picture += 0.006 * rng.standard_normal((rows, columns)).astype(np.float32)
    picture = np.clip(picture, 0.02, 0.98) * (2**bits - 1)
    if is_signed:
        picture -= 2 ** (bits - 1)
    dtype = f"{'i' if is_signed else 'u'}{1 if bits <= 8 else 2}"
    rounded: Pixels = picture.round().astype(dtype)
    return rounded


def film_dataset(pixels: Pixels, *, bits_stored: int | None = None, **tags: Any) -> Dataset:
    """The header of a frontal chest CR image of an invented patient, without pixel data.

    Args:
        pixels: (H, W) uint8, int8, uint16 or int16.
        bits_stored: all allocated bits unless given.
        tags: further elements by keyword; None removes one.
    """
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.StudyDate, dataset.Modality, dataset.Manufacturer = "20250314", "CR", "Maker"
    dataset.PatientName, dataset.PatientID, dataset.PatientSex = "Invented^Miner", "X-1", "M"
    dataset.PatientAge, dataset.BodyPartExamined, dataset.ViewPosition = "051Y", "CHEST", "PA"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PixelSpacing = [0.14, 0.14]
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *pixels.shape, 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = 8 * pixels.itemsize
    dataset.BitsStored = bits_stored or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    for keyword, value in tags.items():
        if value is None:
            del dataset[keyword]
        else:
            setattr(dataset, keyword, value)
    return dataset


def write_film(
    path: Path,
    pixels: Pixels | None = None,
    *,
    transfer_syntax_uid: str = str(ExplicitVRLittleEndian),
    bits_stored: int | None = None,
    payload: bytes | None = None,
    **tags: Any,
) -> Path:
    """Write a DICOM Part 10 file.

    Args:
        path: the file.
        pixels: (H, W) stored values; a 12-bit chest picture unless given.
        transfer_syntax_uid: how the pixels are encoded.
        bits_stored: 12 for the picture that is drawn here, else all allocated bits.
        payload: pixel data as they are (already encoded), in place of encoding `pixels`.
        tags: further elements by keyword; None removes one.
    """
    if pixels is None:
        pixels, bits_stored = chest_picture(), bits_stored or 12
    dataset = film_dataset(pixels, bits_stored=bits_stored, **tags)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    if transfer_syntax_uid in NATIVE_SYNTAXES:
        big_endian = transfer_syntax_uid == str(ExplicitVRBigEndian)
        stored = pixels.byteswap() if big_endian else pixels
        value = stored.tobytes() if payload is None else payload
        dataset.PixelData = value + b"\x00" * (len(value) % 2)
        dataset["PixelData"].VR = "OW" if pixels.itemsize == 2 else "OB"
    else:
        bits = bits_stored or 8 * pixels.itemsize
        frame = encode(pixels, transfer_syntax_uid, bits=bits) if payload is None else payload
        dataset.PixelData = encapsulate([frame])
        dataset["PixelData"].VR = "OB"
        dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    return path


def encode(pixels: Pixels, transfer_syntax_uid: str, *, bits: int) -> bytes:
    """One frame of an encapsulated transfer syntax; lossy ones at high quality.

    Signed pixels go in as two's complement of `bits` bits, except into JPEG 2000, which knows a sign.
    """
    uid = transfer_syntax_uid
    words = pixels.view(f"u{pixels.itemsize}")
    if pixels.dtype.kind == "i":
        words = words & words.dtype.type(2**bits - 1)
    if uid == str(RLELossless):
        return _rle(pixels)
    if uid in (str(JPEGLossless), str(JPEGLosslessSV1)):
        predictor = 1 if uid == str(JPEGLosslessSV1) else 6
        return lossless_jpeg(words, bits=bits, predictor=predictor)
    if uid in (str(JPEGLSLossless), str(JPEGLSNearLossless)):
        return _jpeg_ls(words, bits=bits, near=2 * (uid == str(JPEGLSNearLossless)))
    if uid in (str(JPEG2000Lossless), str(JPEG2000)):
        return jpeg2000(pixels, bits=bits, reversible=uid == str(JPEG2000Lossless))
    if uid in (str(HTJ2KLossless), str(HTJ2KLosslessRPCL), str(HTJ2K)):
        return bytes(imagecodecs.htj2k_encode(pixels, reversible=uid != str(HTJ2K)))
    if uid in (str(JPEGBaseline8Bit), str(JPEGExtended12Bit)):
        depth = 8 if uid == str(JPEGBaseline8Bit) else 12
        return bytes(imagecodecs.jpeg8_encode(words, level=95, bitspersample=depth))
    raise ValueError(f"no encoder for {uid}")


def lossless_jpeg(words: Pixels, *, bits: int, predictor: int) -> bytes:
    """Process 14 with any predictor, 1 to 7."""
    encoded = imagecodecs.jpeg8_encode(words, lossless=True, predictor=predictor, bitspersample=bits)
    return bytes(encoded)


def jpeg2000(pixels: Pixels, *, bits: int, reversible: bool) -> bytes:
    """A JPEG 2000 codestream, signed where the pixels are."""
    level = None if reversible else 60
    return bytes(
        imagecodecs.jpeg2k_encode(
            pixels, level=level, codecformat="J2K", reversible=reversible, bitspersample=bits
        )
    )


def _jpeg_ls(words: Pixels, *, bits: int, near: int) -> bytes:
    import jpeg_ls

    rows, columns = words.shape
    return bytes(jpeg_ls.encode_buffer(words.tobytes(), rows, columns, 1, bits, lossy_error=near))


def _rle(pixels: Pixels) -> bytes:
    encoder = get_encoder(RLELossless)
    return encoder.encode(
        pixels,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        bits_allocated=8 * pixels.itemsize,
        bits_stored=8 * pixels.itemsize,
        pixel_representation=int(pixels.dtype.kind == "i"),
        photometric_interpretation="MONOCHROME2",
        encoding_plugin="pylibjpeg",
    )


def read_film(path: Path, settings: RunSettings | None = None) -> tuple[ParsedHeader, EncodedFrame]:
    """A file's header and encoded frame, as a decoder process reads them."""
    settings = settings or RunSettings()
    with path.open("rb") as file:
        parsed = read_header(file, settings)
        return parsed, read_frame(file, parsed, settings)
