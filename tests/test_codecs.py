"""Every transfer syntax decodes to the right stored values, by an independent decoder and by the source."""

from __future__ import annotations

import struct
from dataclasses import replace
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

from screener.codecs import Picture, decode
from screener.codestreams import read_codestream
from screener.decoders import run_decoder
from screener.errors import DecodeError, Reason, UnsupportedTransferSyntax
from screener.frame import EncodedFrame
from screener.records import HeaderFlag
from tests.factories import (
    LOSSLESS_SYNTAXES,
    LOSSY_SYNTAXES,
    NATIVE_SYNTAXES,
    chest_picture,
    encode,
    jpeg2000,
    lossless_jpeg,
    read_film,
    write_film,
)

JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS, JPEG_LS = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"
J2K_LOSSLESS, HTJ2K_LOSSLESS, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5"
REAL = Path(__file__).parent / "dicom" / "codec"
ENCAPSULATED_LOSSLESS = [uid for uid in LOSSLESS_SYNTAXES if uid not in NATIVE_SYNTAXES]


def frame_of(
    payload: bytes, shape: tuple[int, ...], uid: str, *, bits: int = 12, is_signed: bool = False
) -> EncodedFrame:
    allocated = 8 if bits <= 8 else 16
    rows, columns = shape
    return EncodedFrame(uid, payload, rows, columns, allocated, bits, bits - 1, is_signed, "")


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


# Headers that disagree with the codestream


def test_unsigned_codestream_of_signed_pixels_is_unwrapped_and_never_reduced(tmp_path: Path) -> None:
    source = chest_picture(640, 480, is_signed=True)
    words = source.view(np.uint16) & np.uint16(0x0FFF)
    payload = jpeg2000(words, bits=12, reversible=True)
    path = write_film(
        tmp_path / "f.dcm", source, transfer_syntax_uid=J2K_LOSSLESS, bits_stored=12, payload=payload
    )
    picture = decode(read_film(path)[1], cover_px=160)
    assert picture.reduction == 1
    np.testing.assert_array_equal(picture.pixels, source)
    np.testing.assert_array_equal(picture.pixels, pixel_array(path))


def test_signed_codestream_wins_over_an_unsigned_header() -> None:
    source = chest_picture(64, 48, is_signed=True)
    payload = jpeg2000(source, bits=12, reversible=True)
    picture = decode(frame_of(payload, source.shape, J2K_LOSSLESS), cover_px=None)
    np.testing.assert_array_equal(picture.pixels, source)
    assert picture.flags == (HeaderFlag.BITS_STORED_CORRECTED,)


@pytest.mark.parametrize("uid", [JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS])
def test_codestream_precision_wins_over_too_few_bits_stored(uid: str) -> None:
    source = chest_picture(64, 48, bits=12)
    frame = frame_of(encode(source, uid, bits=12), source.shape, uid, bits=10)
    picture = decode(frame, cover_px=None)
    np.testing.assert_array_equal(picture.pixels, source)
    assert picture.flags == (HeaderFlag.BITS_STORED_CORRECTED,)


@pytest.mark.parametrize("uid", [JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS, HTJ2K_LOSSLESS])
def test_a_wider_codestream_is_not_worth_a_flag(uid: str) -> None:
    source = chest_picture(64, 48, bits=12)
    picture = decode(frame_of(encode(source, uid, bits=16), source.shape, uid, bits=12), cover_px=None)
    np.testing.assert_array_equal(picture.pixels, source)
    assert picture.flags == ()


def test_sign_in_the_low_bits_or_extended_is_the_same() -> None:
    source = chest_picture(64, 48, bits=12, is_signed=True)
    shape = source.shape
    for words in (source.view(np.uint16), source.view(np.uint16) & np.uint16(0x0FFF)):
        frame = frame_of(words.tobytes(), shape, NATIVE_SYNTAXES[0], bits=12, is_signed=True)
        np.testing.assert_array_equal(decode(frame, cover_px=None).pixels, source)


def test_overlay_bits_are_dropped_and_wrong_bits_stored_are_not_believed() -> None:
    source = chest_picture(64, 48, bits=12)
    overlay = source.copy()
    overlay[:4, :4] |= np.uint16(0x8000)
    frame = frame_of(overlay.tobytes(), source.shape, NATIVE_SYNTAXES[0])
    np.testing.assert_array_equal(decode(frame, cover_px=None).pixels, source)
    wrong = frame_of(source.tobytes(), source.shape, NATIVE_SYNTAXES[0], bits=10)
    picture = decode(wrong, cover_px=None)
    np.testing.assert_array_equal(picture.pixels, source)
    assert picture.flags == (HeaderFlag.BITS_STORED_CORRECTED,)


def test_high_bit_above_bits_stored_shifts() -> None:
    source = chest_picture(64, 48, bits=12)
    payload = (source << np.uint16(4)).tobytes()
    frame = replace(frame_of(payload, source.shape, NATIVE_SYNTAXES[0]), high_bit=15)
    np.testing.assert_array_equal(decode(frame, cover_px=None).pixels, source)


def test_the_codestream_decides_within_the_jpeg_family() -> None:
    source = chest_picture(64, 48)
    for uid, route in ((JPEG_LOSSLESS, "jpeg_lossless"), (JPEG_LS, "jpeg_ls"), (J2K_LOSSLESS, "jpeg2000")):
        frame = frame_of(encode(source, uid, bits=12), source.shape, JPEG_EXTENDED)
        picture = decode(frame, cover_px=None)
        np.testing.assert_array_equal(picture.pixels, source)
        assert picture.route == route


def test_jp2_wrapper_is_taken_off() -> None:
    source = chest_picture(640, 480)
    payload = bytes(imagecodecs.jpeg2k_encode(source, codecformat="JP2", reversible=True, bitspersample=12))
    frame = frame_of(payload, source.shape, J2K_LOSSLESS)
    np.testing.assert_array_equal(decode(frame, cover_px=None).pixels, source)
    assert decode(frame, cover_px=320).reduction == 2


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


# Faults


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("uid", [*ENCAPSULATED_LOSSLESS, *LOSSY_SYNTAXES])
def test_truncated_codestream_fails_and_is_never_half_grey(uid: str, kept: float) -> None:
    bits = 8 if uid == JPEG_BASELINE else 12
    source = chest_picture(320, 264, bits=bits)
    payload = encode(source, uid, bits=bits)
    cut = payload[: int(len(payload) * kept)]
    for cover_px in (None, 80):
        with pytest.raises(DecodeError) as error:
            decode(frame_of(cut, source.shape, uid, bits=bits), cover_px=cover_px)
        assert error.value.reason in (Reason.DECODE_FAILED, Reason.TRUNCATED_PIXEL_DATA)


def test_end_marker_of_a_thumbnail_is_not_the_films() -> None:
    source = chest_picture(320, 264, bits=8)
    payload = encode(source, JPEG_BASELINE, bits=8)
    thumbnail = b"\xff\xe1\x00\x08\xff\xd8\xff\xd9\x00\x00"
    cut = payload[:2] + thumbnail + payload[2 : len(payload) // 2]
    with pytest.raises(DecodeError) as error:
        decode(frame_of(cut, source.shape, JPEG_BASELINE, bits=8), cover_px=None)
    assert error.value.reason is Reason.TRUNCATED_PIXEL_DATA


@pytest.mark.parametrize("uid", ENCAPSULATED_LOSSLESS)
def test_noise_instead_of_a_codestream_is_a_typed_failure(uid: str) -> None:
    rng = np.random.default_rng(5)
    source = chest_picture(64, 48)
    good = encode(source, uid, bits=12)
    for payload in (b"", b"\xff", rng.bytes(500), good[:40] + rng.bytes(500)):
        with pytest.raises(DecodeError) as error:
            decode(frame_of(payload, source.shape, uid), cover_px=None)
        assert error.value.reason in (Reason.DECODE_FAILED, Reason.TRUNCATED_PIXEL_DATA)


def test_damaged_codestreams_never_crash() -> None:
    rng = np.random.default_rng(6)
    source = chest_picture(64, 48)
    for uid in ENCAPSULATED_LOSSLESS:
        payload = np.frombuffer(encode(source, uid, bits=12), np.uint8)
        for _ in range(40):
            damaged = payload.copy()
            damaged[rng.integers(0, len(damaged), 4)] = rng.integers(0, 256, 4)
            try:
                picture = decode(frame_of(damaged.tobytes(), source.shape, uid), cover_px=32)
            except DecodeError as error:
                assert error.reason is not Reason.BLANK_IMAGE
            else:
                assert picture.pixels.shape in (source.shape, (32, 24))


@pytest.mark.parametrize("uid", [JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS, HTJ2K_LOSSLESS])
def test_padding_after_the_end_marker_is_fine(uid: str) -> None:
    source = chest_picture(64, 48)
    for padding in (b"\x00", b"\x00" * 4096):
        frame = frame_of(encode(source, uid, bits=12) + padding, source.shape, uid)
        np.testing.assert_array_equal(decode(frame, cover_px=None).pixels, source)


def test_missing_end_marker_of_a_whole_jpeg2000_is_put_back() -> None:
    source = chest_picture(64, 48)
    payload = jpeg2000(source, bits=12, reversible=True)
    frame = frame_of(payload[:-2], source.shape, J2K_LOSSLESS)
    np.testing.assert_array_equal(decode(frame, cover_px=None).pixels, source)


@pytest.mark.parametrize("uid", [JPEG_LOSSLESS, JPEG_LS, J2K_LOSSLESS, HTJ2K_LOSSLESS])
def test_codestream_larger_than_declared_is_refused_before_decoding(
    uid: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = chest_picture(64, 48)
    frame = frame_of(encode(source, uid, bits=12), (32, 48), uid)
    monkeypatch.setattr("screener.codecs.run_decoder", lambda *_: pytest.fail("decoder was run"))
    with pytest.raises(DecodeError, match="codestream of 64 x 48 pixels, the header says 32 x 48"):
        decode(frame, cover_px=None)


def test_jpeg2000_bomb_is_refused_by_its_header() -> None:
    source = chest_picture(64, 48)
    bomb = bytearray(jpeg2000(source, bits=12, reversible=True))
    struct.pack_into(">II", bomb, 8, 1 << 30, 1 << 30)
    with pytest.raises(DecodeError, match="the header says 64 x 48"):
        decode(frame_of(bytes(bomb), source.shape, J2K_LOSSLESS), cover_px=None)


def test_colour_codestream_is_an_unsupported_format() -> None:
    colour = np.dstack([chest_picture(64, 48, bits=8)] * 3)
    payload = bytes(imagecodecs.jpeg8_encode(colour, level=90))
    with pytest.raises(DecodeError) as error:
        decode(frame_of(payload, (64, 48), JPEG_BASELINE, bits=8), cover_px=None)
    assert error.value.reason is Reason.UNSUPPORTED_PIXEL_FORMAT


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.840.10008.1.2.4.110", "JPEG XL"),
        ("1.2.840.10008.1.2.4.55", "Process 10 and 12"),
        ("1.2.3.4", "1.2.3.4"),
    ],
)
def test_unsupported_transfer_syntax_is_named(uid: str, name: str) -> None:
    with pytest.raises(UnsupportedTransferSyntax) as error:
        decode(frame_of(b"", (1, 1), uid), cover_px=None)
    assert name in error.value.detail or uid in error.value.detail


def test_rle_with_the_wrong_number_of_segments_fails(tmp_path: Path) -> None:
    source = chest_picture(64, 48, bits=8)
    frame = frame_of(encode(source, RLE, bits=8), source.shape, RLE, bits=12)
    with pytest.raises(DecodeError, match="1 segments, 2 expected"):
        decode(frame, cover_px=None)


def test_picture_checks_itself() -> None:
    with pytest.raises(ValueError, match="uint8, uint16 or int16"):
        Picture(np.zeros((2, 2), np.float32), 1, "raw")


def test_signed_reduced_jpeg2000_by_pillow_equals_the_full_decode_when_not_reduced() -> None:
    """Pillow shifts samples; at full size its route must give what OpenJPEG gives directly."""
    for bits, is_signed in ((8, False), (12, False), (12, True), (16, True)):
        source = chest_picture(65, 47, bits=bits, is_signed=is_signed)
        stream = read_codestream(jpeg2000(source, bits=bits, reversible=True))
        words, _ = run_decoder(stream, 1)
        np.testing.assert_array_equal(words, source)
