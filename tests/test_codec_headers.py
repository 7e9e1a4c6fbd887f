"""Headers that disagree with the codestream: which of the two is believed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.pixels.utils import pixel_array

from screener.codecs import decode
from screener.records import HeaderFlag
from tests.codec_frames import (
    HTJ2K_LOSSLESS,
    J2K_LOSSLESS,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LS,
    frame_of,
)
from tests.factories import (
    NATIVE_SYNTAXES,
    chest_picture,
    encode,
    jpeg2000,
    read_film,
    write_film,
)


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
