"""Placement and display transform → the arrays that steer DALI's painting of one film. No DALI here.

A reader may question the weights: they are OpenCV's for its area mean (`computeResizeAreaTab`), down to the
touched pixels that it leaves out, so that a canvas painted on a device is the host's own canvas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from screener.borders import sampling_steps
from screener.codecs import MOST_HALVINGS
from screener.display import DisplayTransform, VoiFunction
from screener.letterbox import Placement
from screener.records import Float32

Arrays = dict[str, npt.NDArray[Any]]
"""One film's arrays by the name of the pipeline's input."""

NUM_TAPS = 3
"""Source pixels that an area of less than two pixels' side can touch."""
_SMALLEST_SHARE = 1e-3
"""OpenCV leaves out a source pixel that an area touches by less."""


def can_paint(place: Placement) -> bool:
    """Whether a placement is one that `paint` draws: not enlarged, and no area touches too many pixels."""
    shape, _ = _halved(place)
    sides = zip(shape, (place.height, place.width), strict=True)
    return place.shift == 0 and all(wanted <= side < 2 * wanted for side, wanted in sides)


def has_plain_window(transform: DisplayTransform) -> bool:
    """Whether slope, intercept and one window are the whole way from stored values to grey levels."""
    window = transform.window
    has_tables = transform.modality_lut is not None or transform.voi_lut is not None
    if window is None or has_tables or transform.for_processing:
        return False
    return window.function is VoiFunction.SIGMOID or window.ends[1] > window.ends[0]


def area_taps(source: int, target: int) -> Float32:
    """Weights of area means along one axis, as OpenCV computes them.

    Args:
        source: pixels there are.
        target: pixels wanted; at least half as many.

    Returns:
        (NUM_TAPS, target); row k is for source pixel `i * source // target + k` under target pixel i.
    """
    scale = source / target
    start = np.arange(target) * scale
    width = np.minimum(scale, source - start)
    first = np.arange(target) * source // target
    pixel = first + np.arange(NUM_TAPS)[:, None]
    share = np.minimum(start + scale, pixel + 1) - np.maximum(start, pixel)
    share[(share < _SMALLEST_SHARE) | (pixel >= source)] = 0
    taps: Float32 = (share / width).astype(np.float32)
    return taps


def sampling_arguments(rows: int, columns: int) -> Arrays:
    """How to cut a picture into blocks whose first pixels are its sample."""
    step_rows, step_columns = sampling_steps(rows, columns)
    num_rows, num_columns = -(-rows // step_rows), -(-columns // step_columns)
    return {
        "whole": np.array([num_rows * step_rows, num_columns * step_columns], np.int32),
        "blocks": np.array([num_rows, step_rows, num_columns, step_columns], np.int32),
    }


def _halved(place: Placement) -> tuple[tuple[int, int], int]:
    """The crop's size after all 2 × 2 means, and how many: while both sides are even and large enough."""
    height, width, halvings = place.crop.height, place.crop.width, 0
    while (
        halvings < MOST_HALVINGS
        and height % 2 == width % 2 == 0
        and height >= 2 * place.height
        and width >= 2 * place.width
    ):
        height, width, halvings = height // 2, width // 2, halvings + 1
    return (height, width), halvings


def geometry_arguments(place: Placement) -> Arrays:
    """Crop, halvings, area means and place on the canvas."""
    crop = place.crop
    arrays: Arrays = {
        "crop_start": np.array([crop.top, crop.left], np.int32),
        "crop_shape": np.array([crop.height, crop.width], np.int32),
        "corner": np.array([-place.top, -place.left], np.int32),
    }
    (rows, columns), halvings = _halved(place)
    height, width = crop.height, crop.width
    for level in range(MOST_HALVINGS):
        block = 2 if level < halvings else 1
        height, width = height // block, width // block
        arrays[f"blocks_{level}"] = np.array([height, block, width, block], np.int32)
        arrays[f"share_{level}"] = np.array(1 / block**2, np.float32)
    arrays["halved"] = np.array([rows, columns, 1], np.int32)
    # Columns first, as OpenCV: the other order rounds a pixel in ten thousand the other way.
    arrays |= _axis_arguments("column", rows, columns, place.width)
    arrays |= _axis_arguments("row", place.width, rows, place.height)
    return arrays


def _axis_arguments(name: str, lines: int, source: int, target: int) -> Arrays:
    """Regions for `resize` that make its nearest neighbour the first, second and third pixel of each area."""
    weights = area_taps(source, target)
    arrays: Arrays = {
        f"{name}_size": np.array([lines, target], np.float32),
        f"{name}_padded": np.array([lines, source + NUM_TAPS + 1], np.int32),
    }
    # Nearest neighbour reads pixel floor(start + (i + 1/2) source/target). With this start that is
    # floor((i source + 1/2) / target): half a step away from any integer, out of reach of float32's rounding.
    start = (0.5 - source / 2) / target
    for tap in range(NUM_TAPS):
        begin = start + tap + 1  # one pixel of padding comes before the first
        arrays[f"{name}_start_{tap}"] = np.array([0, begin], np.float32)
        arrays[f"{name}_end_{tap}"] = np.array([lines, begin + source], np.float32)
        arrays[f"{name}_weight_{tap}"] = weights[tap].reshape(1, -1, 1)
    return arrays


def grey_arguments(transform: DisplayTransform) -> Arrays:
    """Scalars of `display.modality_values`, `display.apply_window` and the inversion."""
    origin, rate, is_sigmoid = 0.0, 0.0, False
    if has_plain_window(transform):
        assert transform.window is not None
        window = transform.window
        is_sigmoid = window.function is VoiFunction.SIGMOID
        low, high = window.ends
        origin, rate = (window.centre, -4 / window.width) if is_sigmoid else (low, 1 / (high - low))
    scalars = {
        "slope": transform.slope,
        "intercept": transform.intercept,
        "origin": origin,
        "rate": rate,
        "is_sigmoid": float(is_sigmoid),
        "is_ramp": float(not is_sigmoid),
        "sign": -1.0 if transform.inverted else 1.0,
        "offset": 1.0 if transform.inverted else 0.0,
    }
    return {name: np.array(value, np.float32) for name, value in scalars.items()}
