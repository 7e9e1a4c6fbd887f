"""Stored pixels → the rectangle inside plain collimator borders.

A border is a run of whole rows or columns from an edge that are plain: nearly one value from end to end,
and that value the same along the run. Lung rows and columns always cross ribs, mediastinum and skin, so
they are never plain; a border with burned-in text or an oblique edge is left in place rather than risked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SAMPLES = 192
"""Rows and columns looked at along each axis: a 3000-pixel film every 16 pixels."""
_PLAIN_SPAN = 0.02
"""A row is plain when its middle 90 % spans less than this share of what the middle of the picture spans."""
_SMALLEST_BORDER = 0.01
"""Borders thinner than this share of the side stay: cropping them gains nothing."""
_LARGEST_CROP = 0.5
"""If less than this share of a side would remain, what was found is not a collimator border."""


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Half-open pixel rectangle."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def height(self) -> int:
        """Rows covered."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns covered."""
        return self.right - self.left


def inside_borders(pixels: npt.NDArray[np.generic]) -> Rectangle:
    """The picture (H, W) without its plain borders; all of it when there are none to be sure of."""
    step_rows, step_columns = sampling_steps(*pixels.shape)
    return inside_sampled_borders(pixels[::step_rows, ::step_columns], *pixels.shape)


def sampling_steps(height: int, width: int) -> tuple[int, int]:
    """Every how many rows and columns a picture is looked at."""
    return max(1, height // _SAMPLES), max(1, width // _SAMPLES)


def inside_sampled_borders(sample: npt.NDArray[np.generic], height: int, width: int) -> Rectangle:
    """As `inside_borders`, from every so many rows and columns of a picture that lies elsewhere.

    Args:
        sample: `pixels[::step_rows, ::step_columns]` with the `sampling_steps`.
        height: the picture's rows.
        width: the picture's columns.
    """
    step_rows, step_columns = sampling_steps(height, width)
    values: npt.NDArray[np.float32] = sample.astype(np.float32)
    # Of the middle only: a border far outside the picture's own values would make all of it look plain.
    quarter_rows, quarter_columns = values.shape[0] // 4, values.shape[1] // 4
    middle = values[quarter_rows : 3 * quarter_rows + 1, quarter_columns : 3 * quarter_columns + 1]
    low, high = np.percentile(middle, (1, 99))
    tolerance = _PLAIN_SPAN * float(high - low)
    top, bottom = _plain_ends(values, tolerance)
    left, right = _plain_ends(values[top:bottom].T, tolerance)
    # A border on all four sides hides in the first pass: rows that end in the side borders are not plain.
    top, bottom = _plain_ends(values[:, left:right], tolerance)
    rows = _to_pixels(top, bottom, step_rows, height, len(values))
    columns = _to_pixels(left, right, step_columns, width, values.shape[1])
    return Rectangle(rows[0], columns[0], rows[1], columns[1])


def _plain_ends(lines: npt.NDArray[np.float32], tolerance: float) -> tuple[int, int]:
    """First and one past the last of `lines` (N, length) that do not belong to a plain run at an end."""
    # Most films have no border: where neither outermost line is plain, there is no run to measure.
    low, high = np.percentile(lines[[0, -1]], (5, 95), axis=1)
    if (high - low > tolerance).all():
        return 0, len(lines)
    low, middle, high = np.percentile(lines, (5, 50, 95), axis=1)
    plain = high - low <= tolerance
    start = _run_length(plain, middle, tolerance)
    end = _run_length(plain[::-1], middle[::-1], tolerance)
    return (0, len(lines)) if start + end >= len(lines) else (start, len(lines) - end)


def _run_length(plain: npt.NDArray[np.bool_], middle: npt.NDArray[np.floating], tolerance: float) -> int:
    """Length of the run at the start that is plain and keeps the first line's level."""
    same = plain & (np.abs(middle - middle[0]) <= tolerance)
    return len(same) if same.all() else int(np.argmin(same))


def _to_pixels(start: int, end: int, step: int, side: int, samples: int) -> tuple[int, int]:
    """Sampled line numbers to pixels, keeping up to one step of border rather than losing picture."""
    first = max(0, (start - 1) * step + 1) if start else 0
    last = min(side, end * step) if end < samples else side
    if first < _SMALLEST_BORDER * side:
        first = 0
    if side - last < _SMALLEST_BORDER * side:
        last = side
    return (first, last) if last - first >= _LARGEST_CROP * side else (0, side)
