"""Header and codestream to a route: the table of who decodes and who draws."""

from __future__ import annotations

from dataclasses import replace

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screener.codestreams import read_codestream
from screener.display import DisplayTransform
from screener.frame import EncodedFrame
from screener.routes import Abilities, Place, StreamKind, choose_route, predictor, stream_kind
from tests.factories import Pixels, chest_picture, encode, jpeg2000, lossless_jpeg

GPU = Abilities(frozenset(StreamKind), 4 << 30)
CPU = Abilities(
    frozenset(StreamKind) - {StreamKind.LOSSLESS_16, StreamKind.J2K_SIGNED, StreamKind.LOSSLESS_8}, 4 << 30
)
PLAIN = DisplayTransform()
J2K, SV1, RAW = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.1"


def frame_of(uid: str, payload: bytes, film: Pixels, bits_stored: int = 12) -> EncodedFrame:
    rows, columns = film.shape
    allocated = 8 * film.itemsize
    return EncodedFrame(
        uid, payload, rows, columns, allocated, bits_stored, bits_stored - 1, film.dtype.kind == "i", ""
    )


def encoded(uid: str, *, bits: int = 12, is_signed: bool = False) -> EncodedFrame:
    film = chest_picture(800, 64, bits=bits, is_signed=is_signed)
    return frame_of(uid, encode(film, uid, bits=bits), film, bits)


@pytest.mark.parametrize(
    ("uid", "bits", "is_signed", "on_gpu", "on_cpu"),
    [
        ("1.2.840.10008.1.2.4.50", 8, False, Place.DEVICE, Place.DEVICE),
        ("1.2.840.10008.1.2.4.51", 12, False, Place.UPLOAD, Place.UPLOAD),
        ("1.2.840.10008.1.2.4.57", 12, False, Place.UPLOAD, Place.UPLOAD),  # predictor 6
        ("1.2.840.10008.1.2.4.70", 12, False, Place.DEVICE, Place.UPLOAD),
        ("1.2.840.10008.1.2.4.70", 8, False, Place.DEVICE, Place.UPLOAD),
        ("1.2.840.10008.1.2.4.70", 12, True, Place.UPLOAD, Place.UPLOAD),  # a sign that JPEG does not know
        ("1.2.840.10008.1.2.4.80", 12, False, Place.UPLOAD, Place.UPLOAD),
        ("1.2.840.10008.1.2.4.81", 12, False, Place.UPLOAD, Place.UPLOAD),
        ("1.2.840.10008.1.2.4.90", 12, False, Place.DEVICE, Place.DEVICE),
        ("1.2.840.10008.1.2.4.90", 12, True, Place.DEVICE, Place.HOST),
        ("1.2.840.10008.1.2.4.91", 16, False, Place.DEVICE, Place.DEVICE),
        ("1.2.840.10008.1.2.4.201", 12, False, Place.DEVICE, Place.DEVICE),
        ("1.2.840.10008.1.2.4.203", 8, False, Place.DEVICE, Place.DEVICE),
        ("1.2.840.10008.1.2.5", 12, False, Place.UPLOAD, Place.UPLOAD),
    ],
)
def test_place_of_each_transfer_syntax(
    uid: str, bits: int, is_signed: bool, on_gpu: Place, on_cpu: Place
) -> None:
    frame = encoded(uid, bits=bits, is_signed=is_signed)
    assert choose_route(frame, PLAIN, GPU).place is on_gpu
    assert choose_route(frame, PLAIN, CPU).place is on_cpu


def test_native_pixels_are_uploaded() -> None:
    film = chest_picture(800, 64)
    assert choose_route(frame_of(RAW, film.tobytes(), film), PLAIN, GPU).place is Place.UPLOAD


def test_the_device_gets_the_codestream_without_its_wrapper() -> None:
    film = chest_picture(800, 64)
    wrapped = bytes(imagecodecs.jpeg2k_encode(film, codecformat="JP2", reversible=True, bitspersample=12))
    route = choose_route(frame_of(J2K, wrapped, film), PLAIN, GPU)
    assert route.place is Place.DEVICE
    assert route.stream is not None
    assert bytes(route.stream.payload[:4]) == b"\xff\x4f\xff\x51"


@pytest.mark.parametrize(
    ("rows", "columns", "place"),
    [(744, 700, Place.HOST), (745, 700, Place.DEVICE), (12287, 16, Place.DEVICE), (12288, 16, Place.HOST)],
)
def test_sizes_that_the_device_draws(rows: int, columns: int, place: Place) -> None:
    film = np.zeros((rows, columns), np.uint16)
    frame = frame_of(J2K, jpeg2000(film, bits=12, reversible=True), film)
    assert choose_route(frame, PLAIN, GPU).place is place


def test_films_beyond_the_memory_budget_and_with_padding_stay_on_the_host() -> None:
    frame = encoded(J2K)
    small = replace(GPU, memory_bytes=frame.rows * frame.columns * 12 - 1)
    assert choose_route(frame, PLAIN, small).place is Place.HOST
    assert choose_route(frame, DisplayTransform(padding=(0, 0)), GPU).place is Place.HOST


def test_a_codestream_that_contradicts_its_header_is_for_the_host_to_judge() -> None:
    frame = encoded(J2K)
    assert choose_route(replace(frame, rows=frame.rows + 1), PLAIN, GPU).place is Place.HOST
    assert choose_route(replace(frame, payload=frame.payload[:500]), PLAIN, GPU).place is Place.HOST
    assert choose_route(replace(frame, payload=b"nonsense"), PLAIN, GPU).place is Place.HOST


@pytest.mark.parametrize(
    ("precision", "bits_stored", "ceiling", "corrected"),
    [(12, 12, None, False), (16, 12, 4095, False), (12, 16, None, True)],
)
def test_bits_stored_against_the_codestreams_precision(
    precision: int, bits_stored: int, ceiling: int | None, corrected: bool
) -> None:
    film = chest_picture(800, 64)
    payload = jpeg2000(film, bits=precision, reversible=True)
    route = choose_route(frame_of(J2K, payload, film, bits_stored), PLAIN, GPU)
    assert (route.ceiling, route.bits_corrected) == (ceiling, corrected)


@pytest.mark.parametrize("wanted", range(1, 8))
def test_predictor_is_read_from_the_scan(wanted: int) -> None:
    payload = lossless_jpeg(chest_picture(64, 48), bits=12, predictor=wanted)
    assert predictor(payload) == wanted
    kind = stream_kind(read_codestream(payload))
    assert kind == (StreamKind.LOSSLESS_16 if wanted == 1 else None)


@given(st.integers(0, 400), st.binary(max_size=8))
@settings(max_examples=100, deadline=None)
def test_damaged_codestreams_never_raise(position: int, damage: bytes) -> None:
    damaged = bytearray(DAMAGEABLE)
    damaged[position : position + len(damage)] = damage
    film = chest_picture(64, 48)
    choose_route(replace(frame_of(SV1, bytes(damaged), film), rows=800), PLAIN, GPU)
    predictor(bytes(damaged))


DAMAGEABLE = lossless_jpeg(chest_picture(64, 48), bits=12, predictor=1)
