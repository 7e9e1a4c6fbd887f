"""Every transfer syntax decodes to the right stored values, by an independent decoder and by the source."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array

from screener.codecs import decode
from screener.codestreams import read_codestream
from tests.codec_frames import (
    HTJ2K_LOSSLESS,
    J2K_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LOSSLESS,
    JPEG_LS,
    REAL,
    frame_of,
)
from tests.factories import (
    LOSSLESS_SYNTAXES,
    LOSSY_SYNTAXES,
    chest_picture,
    encode,
    jpeg2000,
    lossless_jpeg,
    read_film,
    write_film,
)


def independent(path: Path, uid: str) -> npt.NDArray[Any]:
    """Pixels by pydicom with a library that the product does not decode with."""
    plugin = {JPEG_LS: "pyjpegls"}.get(uid, "pylibjpeg")
    plugin = plugin if plugin in get_decoder(uid).available_plugins else ""
    return pixel_array(dcmread(path), decoding_plugin=plugin)


@pytest.fixture(scope="module")
def film() -> npt.NDArray[Any]:
    return chest_picture(3056, 2544)


@pytest.mark.parametrize("uid", LOSSLESS_SYNTAXES)
def test_full_size_film_is_bit_exact(tmp_path: Path, film: npt.NDArray[Any], uid: str) -> None:
    path = write_film(tmp_path / "film.dcm", film, transfer_syntax_uid=uid, bits_stored=12)
    picture = decode(read_film(path)[1], cover_px=None)
    assert picture.reduction == 1
    np.testing.assert_array_equal(picture.pixels, film)
    np.testing.assert_array_equal(picture.pixels, independent(path, uid))


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15, 16])
@pytest.mark.parametrize("uid", LOSSLESS_SYNTAXES)
def test_every_depth_sign_and_odd_size_is_bit_exact(
    tmp_path: Path, uid: str, bits: int, is_signed: bool
) -> None:
    source = chest_picture(101, 77, bits=bits, is_signed=is_signed)
    path = write_film(tmp_path / "film.dcm", source, transfer_syntax_uid=uid, bits_stored=bits)
    picture = decode(read_film(path)[1], cover_px=None)
    np.testing.assert_array_equal(picture.pixels, source)
    assert picture.flags == ()


@pytest.mark.parametrize("uid", LOSSY_SYNTAXES)
def test_lossy_agrees_with_an_independent_decoder(tmp_path: Path, uid: str) -> None:
    bits = 8 if uid == JPEG_BASELINE else 12
    source = chest_picture(301, 255, bits=bits)
    path = write_film(tmp_path / "film.dcm", source, transfer_syntax_uid=uid, bits_stored=bits)
    pixels = decode(read_film(path)[1], cover_px=None).pixels.astype(int)
    # Inverse cosine and 9/7 wavelet transforms may round differently in two libraries.
    assert np.abs(pixels - independent(path, uid)).max() <= 2
    assert np.abs(pixels - source).mean() < 0.01 * 2**bits


@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("bits", [2, 7, 8, 9, 12, 16])
def test_lossless_jpeg_with_every_predictor(tmp_path: Path, predictor: int, bits: int) -> None:
    source = chest_picture(63, 85, bits=bits)
    payload = lossless_jpeg(source, bits=bits, predictor=predictor)
    uid = "1.2.840.10008.1.2.4.57"
    path = write_film(tmp_path / "f.dcm", source, transfer_syntax_uid=uid, bits_stored=bits, payload=payload)
    picture = decode(read_film(path)[1], cover_px=None)
    np.testing.assert_array_equal(picture.pixels, source)
    np.testing.assert_array_equal(pixel_array(path), source)


def test_lossless_jpeg_has_a_second_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(payload: bytes) -> None:
        raise RuntimeError("this build of libjpeg has no 16-bit samples")

    source = chest_picture(63, 85)
    frame = frame_of(lossless_jpeg(source, bits=12, predictor=4), source.shape, JPEG_LOSSLESS)
    monkeypatch.setattr(imagecodecs, "jpeg8_decode", refuse)
    picture = decode(frame, cover_px=None)
    np.testing.assert_array_equal(picture.pixels, source)
    assert picture.route == "jpeg_lossless-lj92"


def test_htj2k_has_a_second_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(payload: bytes, skipres: int | None) -> None:
        raise RuntimeError("unsupported marker")

    source = chest_picture(300, 257)
    frame = frame_of(encode(source, HTJ2K_LOSSLESS, bits=12), source.shape, HTJ2K_LOSSLESS)
    fast = decode(frame, cover_px=150)
    monkeypatch.setattr(imagecodecs, "htj2k_decode", refuse)
    picture = decode(frame, cover_px=None)
    np.testing.assert_array_equal(picture.pixels, source)
    assert picture.route == "htj2k-openjpeg"
    np.testing.assert_array_equal(decode(frame, cover_px=150).pixels, fast.pixels)


# Reduced sizes


@pytest.mark.parametrize(
    ("shape", "cover_px", "reduction"),
    [
        ((3056, 2544), 768, 4),  # 764: within COVER_SHARE
        ((2544, 3056), 768, 4),
        ((2940, 2000), 768, 2),  # 735: not
        ((1500, 1200), 768, 2),
        ((1490, 1200), 768, 2),
        ((1488, 1200), 768, 1),
        ((100, 100), None, 1),
        ((6200, 100), 768, 8),
        ((20000, 100), 768, 8),  # 16 is not offered
    ],
)
def test_reduction_is_the_largest_that_covers(
    shape: tuple[int, int], cover_px: int | None, reduction: int
) -> None:
    blank = np.full(shape, 7, np.uint16)
    payload = jpeg2000(blank, bits=12, reversible=True)
    picture = decode(frame_of(payload, shape, J2K_LOSSLESS), cover_px=cover_px)
    assert picture.reduction == reduction
    assert picture.pixels.shape == (-(-shape[0] // reduction), -(-shape[1] // reduction))
    assert picture.route == ("jpeg2000" if reduction == 1 else f"jpeg2000/{reduction}")


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize(
    "uid", [J2K_LOSSLESS, "1.2.840.10008.1.2.4.91", HTJ2K_LOSSLESS, "1.2.840.10008.1.2.4.203"]
)
def test_reduced_wavelets_keep_the_value_scale(uid: str, bits: int, is_signed: bool) -> None:
    """The low-pass band has a gain of one: a reduced picture is in stored values, sign included."""
    source = chest_picture(641, 479, bits=bits, is_signed=is_signed)
    frame = frame_of(encode(source, uid, bits=bits), source.shape, uid, bits=bits, is_signed=is_signed)
    for reduction in (2, 4):
        picture = decode(frame, cover_px=640 // reduction)
        assert picture.reduction == reduction
        assert picture.origin_px == 0.5 - reduction / 2
        inner = source[: 480 // 4 * 4, : 476 // 4 * 4].astype(float)
        means = inner.reshape(inner.shape[0] // reduction, reduction, -1, reduction).mean((1, 3))
        reduced = picture.pixels[: means.shape[0], : means.shape[1]]
        # The 5/3 wavelet's integer steps round up: half a unit for each level.
        assert abs(reduced.mean() - means.mean()) < 1.2 + 0.002 * 2**bits
        assert np.corrcoef(reduced.ravel(), means.ravel())[0, 1] > 0.97


def test_reduced_jpeg_keeps_the_value_scale() -> None:
    source = chest_picture(640, 480, bits=8)
    frame = frame_of(encode(source, JPEG_BASELINE, bits=8), source.shape, JPEG_BASELINE, bits=8)
    for reduction in (2, 4, 8):
        picture = decode(frame, cover_px=640 // reduction)
        means = source.reshape(640 // reduction, reduction, -1, reduction).mean((1, 3))
        assert (picture.reduction, picture.route) == (reduction, f"jpeg/{reduction}")
        assert np.abs(picture.pixels - means).mean() < 2


@pytest.mark.parametrize("tile", [256, 211])
def test_tiled_jpeg2000_is_exact_and_reduces(tile: int) -> None:
    source = chest_picture(901, 700, bits=8)  # Pillow writes tiles of 16-bit pictures wrong
    written = BytesIO()
    image = Image.fromarray(source)
    image.save(written, "JPEG2000", tile_size=(tile, tile), irreversible=False, no_jp2=True)
    frame = frame_of(written.getvalue(), source.shape, J2K_LOSSLESS, bits=8)
    np.testing.assert_array_equal(decode(frame, cover_px=None).pixels, source)
    reduced = decode(frame, cover_px=450)
    means = source[:900].reshape(450, 2, 350, 2).mean((1, 3))
    assert reduced.reduction == 2
    assert np.corrcoef(reduced.pixels[:450].ravel(), means.ravel())[0, 1] > 0.97


def test_reduction_stops_at_the_codestreams_levels() -> None:
    source = chest_picture(640, 480)
    payload = imagecodecs.jpeg2k_encode(
        source, codecformat="J2K", reversible=True, bitspersample=12, resolutions=2
    )
    assert read_codestream(bytes(payload)).halvings == 1
    assert decode(frame_of(bytes(payload), source.shape, J2K_LOSSLESS), cover_px=80).reduction == 2


# Real files


@pytest.mark.parametrize("name", ["RG3_J2KR", "RG3_JLSL", "RG3_JPLL"])
def test_real_lossless_encodings_of_one_film_are_identical(name: str) -> None:
    reference = decode(read_film(REAL / "RG3_RLE")[1], cover_px=None)
    assert (reference.route, reference.pixels.shape, int(reference.pixels.max())) == (
        "rle",
        (1760, 1760),
        1023,
    )
    picture = decode(read_film(REAL / name)[1], cover_px=None)
    np.testing.assert_array_equal(picture.pixels, reference.pixels)
    np.testing.assert_array_equal(picture.pixels, dcmread(REAL / name).pixel_array)


def test_real_near_lossless_encoding_is_within_its_bound() -> None:
    reference = decode(read_film(REAL / "RG3_RLE")[1], cover_px=None).pixels.astype(int)
    picture = decode(read_film(REAL / "RG3_JLSN")[1], cover_px=None)
    assert np.abs(picture.pixels - reference).max() <= 4


def test_real_extended_jpeg_that_libjpeg_refuses_is_decoded() -> None:
    """Its scan header is illegal; libjpeg-turbo reads it, and lossy overshoot is cut off at 10 bits."""
    reference = decode(read_film(REAL / "RG3_RLE")[1], cover_px=None).pixels.astype(int)
    picture = decode(read_film(REAL / "RG3_JPLY")[1], cover_px=None)
    assert int(picture.pixels.max()) == 1023
    assert np.abs(picture.pixels - reference).mean() < 3
    assert np.abs(picture.pixels - reference).max() < 64
