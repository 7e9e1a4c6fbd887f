"""JPEG 2000 without its lowest bit-planes: close to the whole decode, asked for only where nobody sees it."""

from __future__ import annotations

import struct
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from screener.archive import walk
from screener.bit_planes import without_low_planes
from screener.canvas import CANVAS_SIDE
from screener.codecs import decode
from screener.codestreams import read_codestream
from screener.decode_worker import load_file
from screener.display import DisplayTransform, LookupTable, VoiFunction, Window, coarsest_step
from screener.records import CanvasFacts, Float32, HeaderFlag, Source
from screener.settings import RunSettings
from tests.codec_frames import HTJ2K_LOSSLESS, J2K_LOSSLESS, REAL, frame_of
from tests.factories import chest_picture, encode, jpeg2000, read_film, write_film

QCC = b"\xff\x5d\x00\x04\x00\x40"
RGN = b"\xff\x5e\x00\x05\x00\x00\x03"


def film_of(bits: int, *, is_signed: bool = False) -> npt.NDArray[Any]:
    grain = np.random.default_rng(bits).normal(0, 2.0 ** (bits - 9), (641, 479))
    smooth = chest_picture(641, 479, bits=bits, is_signed=is_signed).astype(float)
    low = -(2 ** (bits - 1)) if is_signed else 0
    return np.clip(smooth + grain, low, low + 2**bits - 1).astype(np.int16 if is_signed else np.uint16)


@pytest.mark.parametrize("is_signed", [False, True])
@pytest.mark.parametrize(("bits", "step"), [(10, 2), (12, 2), (12, 4), (12, 8), (14, 16), (16, 64)])
def test_values_stay_within_steps_of_the_whole_decode(bits: int, step: int, is_signed: bool) -> None:
    source = film_of(bits, is_signed=is_signed)
    payload = jpeg2000(source, bits=bits, reversible=True)
    frame = frame_of(payload, source.shape, J2K_LOSSLESS, bits=bits, is_signed=is_signed)
    for reduction in (2, 4):
        whole = decode(frame, cover_px=640 // reduction)
        fast = decode(frame, cover_px=640 // reduction, step=step)
        assert (whole.step, fast.step) == (1, step)
        assert fast.route == f"jpeg2000/{reduction}-{step.bit_length() - 1}"
        assert fast.pixels.dtype == whole.pixels.dtype
        difference = fast.pixels.astype(int) - whole.pixels
        assert abs(difference.mean()) < 0.75 * step
        assert difference.std() < 1.6 * step
        assert np.abs(difference).max() < 9 * step


def test_at_full_size_and_for_other_codings_every_plane_is_decoded() -> None:
    source = film_of(12)
    frame = frame_of(jpeg2000(source, bits=12, reversible=True), source.shape, J2K_LOSSLESS)
    full = decode(frame, cover_px=None, step=8)
    assert (full.step, full.route) == (1, "jpeg2000")
    np.testing.assert_array_equal(full.pixels, source)
    lossy = frame_of(jpeg2000(source, bits=12, reversible=False), source.shape, "1.2.840.10008.1.2.4.91")
    blocks = frame_of(encode(source, HTJ2K_LOSSLESS, bits=12), source.shape, HTJ2K_LOSSLESS)
    for other in (lossy, blocks):
        fast = decode(other, cover_px=320, step=8)
        assert fast.step == 1
        np.testing.assert_array_equal(fast.pixels, decode(other, cover_px=320).pixels)


def test_at_least_nine_bits_remain() -> None:
    source = film_of(10)
    frame = frame_of(jpeg2000(source, bits=10, reversible=True), source.shape, J2K_LOSSLESS, bits=10)
    assert decode(frame, cover_px=320, step=64).step == 2
    eight = chest_picture(640, 480, bits=8)
    frame = frame_of(jpeg2000(eight, bits=8, reversible=True), eight.shape, J2K_LOSSLESS, bits=8)
    assert decode(frame, cover_px=320, step=8).step == 1


def test_tiles_are_shortened_too() -> None:
    source = film_of(16)
    written = BytesIO()
    Image.fromarray(source).save(written, "JPEG2000", tile_size=(256, 256), irreversible=False, no_jp2=True)
    frame = frame_of(written.getvalue(), source.shape, J2K_LOSSLESS, bits=16)
    fast, whole = decode(frame, cover_px=320, step=64), decode(frame, cover_px=320)
    assert (fast.step, whole.step) == (64, 1)
    difference = fast.pixels.astype(int) - whole.pixels
    assert abs(difference.mean()) < 64 and difference.std() < 1.6 * 64


def test_blocks_that_have_fewer_planes_than_are_left_out_decode_to_their_mean() -> None:
    flat = np.full((640, 480), 30_000, np.uint16)
    flat[200:300, 100:300] += 3
    flat[400:] = 50_000
    frame = frame_of(jpeg2000(flat, bits=16, reversible=True), flat.shape, J2K_LOSSLESS, bits=16)
    fast, whole = decode(frame, cover_px=320, step=128), decode(frame, cover_px=320)
    assert fast.step == 128
    assert np.abs(fast.pixels.astype(int) - whole.pixels).max() < 3 * 128


def test_unused_high_bits_are_judged_by_the_exact_values() -> None:
    """Twelve bits in a sixteen-bit codestream, much of it white: rounding must not pass for a 13th bit."""
    source = film_of(12)
    source[:, :60] = 4095
    frame = frame_of(jpeg2000(source, bits=16, reversible=True), source.shape, J2K_LOSSLESS, bits=12)
    fast = decode(frame, cover_px=320, step=4)
    assert (fast.step, fast.flags) == (1, ())
    assert fast.pixels.max() <= 4095


def test_malformed_headers_are_left_to_the_whole_decode() -> None:
    payload = jpeg2000(film_of(12), bits=12, reversible=True)
    start = payload.index(b"\xff\x90")
    stream = read_codestream(payload)
    for end in (start + 4, start + 8, start + 11, start + 13):
        assert without_low_planes(replace(stream, payload=payload[:end]), 2) is None
    size = payload.index(b"\xff\x51")
    (length,) = struct.unpack_from(">H", payload, size + 2)
    second = bytearray(payload[size : size + 2 + length])
    second[40] = 0
    doubled = payload[: size + 2 + length] + bytes(second) + payload[size + 2 + length :]
    assert without_low_planes(replace(stream, payload=doubled), 2) is None


@pytest.mark.parametrize("segment", [QCC, RGN])
def test_headers_with_more_than_is_known_are_left_alone(segment: bytes) -> None:
    payload = jpeg2000(film_of(12), bits=12, reversible=True)
    start = payload.index(b"\xff\x90")
    other = payload[:start] + segment + payload[start:]
    assert without_low_planes(read_codestream(payload), 2) is not None
    assert without_low_planes(read_codestream(other), 2) is None


def test_block_styles_are_left_alone() -> None:
    payload = bytearray(jpeg2000(film_of(12), bits=12, reversible=True))
    payload[payload.index(b"\xff\x52") + 12] = 1
    assert without_low_planes(read_codestream(bytes(payload)), 2) is None


@pytest.mark.parametrize(("segment", "plain"), [(b"\xff\x64\x00\x05\x00\x01x", True), (RGN, False)])
def test_tile_parts_may_hold_comments_but_no_settings(segment: bytes, plain: bool) -> None:
    payload = jpeg2000(film_of(12), bits=12, reversible=True)
    start = payload.index(b"\xff\x90")
    (length,) = struct.unpack_from(">I", payload, start + 6)
    longer = bytearray(payload[: start + 12] + segment + payload[start + 12 :])
    if length:
        struct.pack_into(">I", longer, start + 6, length + len(segment))
    shortened = without_low_planes(read_codestream(bytes(longer)), 2)
    assert (shortened is not None) == plain


@given(width=st.floats(1, 1e6), slope=st.floats(1e-3, 1e3), planes=st.integers(0, 7))
def test_a_step_is_at_most_a_512th_of_the_window(width: float, slope: float, planes: int) -> None:
    step = coarsest_step(DisplayTransform(slope=slope, window=Window(0, width)))
    assert step == 1 or step * 512 <= width / slope
    assert 1 <= step <= 128 and step & (step - 1) == 0
    assert coarsest_step(DisplayTransform(window=Window(0, 512.0 * 2**planes))) == 2**planes


@pytest.mark.parametrize(
    "transform",
    [
        DisplayTransform(),
        DisplayTransform(window=Window(2048, 4096), padding=(0, 0)),
        DisplayTransform(window=Window(2048, 4096), for_processing=True),
        DisplayTransform(window=Window(2048, 4096, VoiFunction.SIGMOID)),
        DisplayTransform(window=Window(2048, 4096), voi_lut=LookupTable(0, 8, np.zeros(4, np.float32))),
    ],
)
def test_without_a_straight_window_no_value_is_merged(transform: DisplayTransform) -> None:
    assert coarsest_step(transform) == 1


def load(path: Path) -> tuple[Float32, CanvasFacts]:
    out = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    (entry,) = walk(path.parent)
    source = load_file(path, entry, RunSettings(), out)
    assert isinstance(source, Source), source
    return out, source.canvas


def canvas(folder: Path, **tags: Any) -> tuple[Float32, CanvasFacts]:
    folder.mkdir()
    film = chest_picture(1700, 1501)
    return load(
        write_film(folder / "film.dcm", film, transfer_syntax_uid=J2K_LOSSLESS, bits_stored=12, **tags)
    )


def test_a_wide_window_is_drawn_from_fewer_planes_and_looks_the_same(tmp_path: Path) -> None:
    whole, exact = canvas(tmp_path / "whole", WindowCenter=2048, WindowWidth=4096, PixelPaddingValue=65535)
    fast, quick = canvas(tmp_path / "fast", WindowCenter=2048, WindowWidth=4096)
    assert (exact.route, quick.route) == ("jpeg2000/2", "jpeg2000/2-3")
    difference = np.abs(fast - whole) * 255
    assert difference.mean() < 0.5 and np.percentile(difference, 99) < 1.5
    assert exact.content == quick.content


def test_a_narrow_window_and_one_that_hides_the_film_take_every_plane(tmp_path: Path) -> None:
    _, narrow = canvas(tmp_path / "narrow", WindowCenter=2048, WindowWidth=1000)
    assert narrow.route == "jpeg2000/2"
    _, hidden = canvas(tmp_path / "hidden", WindowCenter=500_000, WindowWidth=4096)
    assert HeaderFlag.WINDOW_IGNORED in hidden.flags
    assert hidden.route == "jpeg2000/2"


def test_a_film_that_only_looks_blank_without_its_low_planes_is_screened(tmp_path: Path) -> None:
    faint = (2000 + chest_picture(1700, 1501) // 1400).astype(np.uint16)
    path = write_film(
        tmp_path / "film.dcm",
        faint,
        transfer_syntax_uid=J2K_LOSSLESS,
        bits_stored=12,
        WindowCenter=2048,
        WindowWidth=16384,
    )
    frame = read_film(path)[1]
    assert np.ptp(decode(frame, cover_px=CANVAS_SIDE).pixels) > 0
    _, facts = load(path)
    assert "-" not in facts.route
    assert HeaderFlag.WINDOW_IGNORED in facts.flags


def test_a_real_film_keeps_its_values() -> None:
    frame = read_film(REAL / "RG3_J2KR")[1]
    whole, fast = decode(frame, cover_px=400), decode(frame, cover_px=400, step=2)
    assert (whole.route, fast.route) == ("jpeg2000/4", "jpeg2000/4-1")
    assert np.abs(fast.pixels.astype(int) - whole.pixels).mean() < 2
