"""DALI's painting against OpenCV's: weights, stored values at canvas scale, windows, DALI's own filters."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nvidia import dali
from nvidia.dali import fn, types

from screener.borders import inside_borders, sampling_steps
from screener.canvas import draw_canvas
from screener.codecs import Picture
from screener.dali_lane import CANVAS_TOLERANCE
from screener.dali_painting import Device, PicturePainter
from screener.display import DisplayTransform, VoiFunction, Window
from screener.letterbox import CANVAS_SIDE, draw_stored_values, place_picture
from screener.paint_arguments import area_taps, can_paint, has_plain_window
from screener.records import Float32
from tests.factories import chest_picture


@given(st.integers(2, 1535), st.data())
@settings(max_examples=200, deadline=None)
def test_area_taps_are_opencvs_weights(source: int, data: st.DataObject) -> None:
    target = data.draw(st.integers(source // 2 + 1, source))
    line = np.random.default_rng(source).random((1, source)).astype(np.float32)
    taps = area_taps(source, target)
    pixels = np.minimum(np.arange(target) * source // target + np.arange(3)[:, None], source - 1)
    expected = cv2.resize(line, (target, 1), interpolation=cv2.INTER_AREA)[0]
    np.testing.assert_allclose((taps * line[0, pixels]).sum(axis=0), expected, atol=1e-6)
    assert np.abs(taps.sum(axis=0) - 1).max() < 3e-3  # touches of less than a thousandth are left out


@pytest.mark.parametrize(
    ("rows", "columns", "bits", "is_signed"),
    [
        (1250, 1024, 12, False),
        (1024, 1024, 8, False),  # thirds and halves: every second mean is a tie for rounding
        (768, 700, 12, False),
        (1500, 1240, 16, False),
        (2022, 1777, 14, True),
        (801, 1333, 8, False),
        (1532, 16, 12, False),
    ],
)
def test_stored_values_at_canvas_scale_are_the_hosts_to_the_last_bit(
    rows: int, columns: int, bits: int, is_signed: bool
) -> None:
    film = chest_picture(rows, columns, bits=bits, is_signed=is_signed)
    painter = PicturePainter(Device(), str(film.dtype), 2, on_host=False)
    steps = sampling_steps(rows, columns)
    (sample,) = painter.sample([film[..., None]])
    np.testing.assert_array_equal(sample, film[:: steps[0], :: steps[1]])
    place = place_picture(inside_borders(film), 1, rows, columns)
    assert can_paint(place)
    painted = painter.paint([film[..., None]], [place], [DisplayTransform()], [None])
    expected = draw_stored_values(Picture(film, 1, "raw"), None, rows, columns).stored
    np.testing.assert_array_equal(painted.stored_values(0), expected)


@pytest.mark.parametrize("function", list(VoiFunction))
@pytest.mark.parametrize("inverted", [False, True])
def test_windows_and_polarity(function: VoiFunction, inverted: bool) -> None:
    film = chest_picture(800, 700)
    transform = DisplayTransform(1.5, -100, window=Window(2900, 5000, function), inverted=inverted)
    assert has_plain_window(transform)
    place = place_picture(inside_borders(film), 1, 800, 700)
    painter = PicturePainter(Device(), "uint16", 1, on_host=True)
    canvas = painter.paint([film[..., None]], [place], [transform], [None]).canvas_array()[0]
    expected = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    draw_canvas(Picture(film, 1, "raw"), transform, 800, 700, expected, check_polarity=False)
    assert np.abs(canvas - expected).max() < 1e-6


def test_overshoot_is_cut_at_the_ceiling() -> None:
    film = chest_picture(800, 700)
    place = place_picture(inside_borders(film), 1, 800, 700)
    painter = PicturePainter(Device(), "uint16", 1, on_host=False)
    painted = painter.paint([film[..., None]], [place], [DisplayTransform()], [2000])
    expected = draw_stored_values(Picture(np.minimum(film, 2000), 1, "raw"), None, 800, 700).stored
    np.testing.assert_array_equal(painted.stored_values(0), expected)


def resized_by_dali(film: Float32, height: int, width: int, interpolation: types.DALIInterpType) -> Float32:
    pipeline = dali.Pipeline(batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1)
    with pipeline:
        picture = fn.external_source(name="picture", ndim=3, layout="HWC")
        pipeline.set_outputs(
            fn.resize(picture, size=[height, width], interp_type=interpolation, antialias=True)
        )
    pipeline.build()
    pipeline.feed_input("picture", [film[..., None]])
    resized: Float32 = np.array(pipeline.run()[0][0])[..., 0]
    return resized


@pytest.mark.parametrize(
    "interpolation",
    [types.INTERP_LINEAR, types.INTERP_CUBIC, types.INTERP_LANCZOS3, types.INTERP_GAUSSIAN],
)
def test_no_filter_of_dali_is_an_area_mean(interpolation: types.DALIInterpType) -> None:
    film = chest_picture(1250, 1024).astype(np.float32) / np.float32(4095)
    expected = cv2.resize(film, (629, 768), interpolation=cv2.INTER_AREA)
    error = float(np.abs(resized_by_dali(film, 768, 629, interpolation) - expected).max())
    assert error > 5 * CANVAS_TOLERANCE
