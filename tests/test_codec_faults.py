"""Truncated, damaged, oversized and unsupported codestreams: a typed reason, never half a picture."""

from __future__ import annotations

import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from screener.codecs import Picture, decode
from screener.codestreams import read_codestream
from screener.decoders import run_decoder
from screener.errors import DecodeError, Reason, UnsupportedTransferSyntax
from tests.codec_frames import (
    ENCAPSULATED_LOSSLESS,
    HTJ2K_LOSSLESS,
    J2K_LOSSLESS,
    JPEG_BASELINE,
    JPEG_LOSSLESS,
    JPEG_LS,
    RLE,
    frame_of,
)
from tests.factories import (
    LOSSY_SYNTAXES,
    chest_picture,
    encode,
    jpeg2000,
)


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
