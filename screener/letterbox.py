"""Picture → the same picture at canvas scale, still in stored values, and where it lies.

Geometry is worked out in full-size pixels whatever size the codec decoded at, so that a film draws the same
canvas from every transfer syntax. A reader may question two things. Up to 7 rows and columns at the lower
and right edge of a large film are left out: a codec's last reduced pixel may stand for a part of a block
only, and a picture cut to whole blocks has the same scale at every reduction. And a picture that 2 × 2 means
alone bring to 97-100 % of the canvas is not enlarged to fill it: a 3056-row film is drawn at exactly a
quarter, with no interpolation to blur its finest opacities.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from screener.borders import Rectangle, inside_borders
from screener.codecs import COVER_SHARE, MOST_HALVINGS, Picture
from screener.records import Bool, Float32, Letterbox

CANVAS_SIDE = 768
"""Pixels of each side."""

Image = npt.NDArray[Any]
"""(H, W) uint8, uint16 or int16."""
Mask = npt.NDArray[np.uint8]
"""(H, W) 0 or 255."""

_STATISTICS_STRIDE = 3
"""Every third row and column is plenty for percentiles, and a tenth of the time."""
_LARGEST_PADDING = 0.9
"""A padding value that covers more than this share of the picture is not believed."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """The picture at canvas scale."""

    stored: Float32
    """(h, w) stored values, area-averaged over the pixels that are not padding."""
    inside: Bool | None
    """(h, w) True where there is picture; None when that is everywhere."""
    letterbox: Letterbox
    top: int
    left: int
    cropped: bool
    """Borders were found and left out."""

    def visible(self, values: Float32) -> Float32:
        """Every third row and column of `values` (h, w), without padding, flat."""
        sparse = values[::_STATISTICS_STRIDE, ::_STATISTICS_STRIDE]
        if self.inside is None:
            return sparse.reshape(-1)
        return sparse[self.inside[::_STATISTICS_STRIDE, ::_STATISTICS_STRIDE]]


@dataclass(frozen=True, slots=True)
class Placement:
    """Which part of a decoded picture is drawn, how large and where."""

    crop: Rectangle
    """Pixels of the decoded picture, cut to whole blocks."""
    height: int
    """Rows drawn, in canvas pixels."""
    width: int
    top: int
    left: int
    shift: float
    """Canvas pixels down and right, above -1: where a wavelet's first sample really lies."""
    letterbox: Letterbox
    cropped: bool
    """Borders were found and left out."""


def draw_stored_values(picture: Picture, padding: tuple[int, int] | None, rows: int, columns: int) -> Drawing:
    """Crop plain borders and bring a picture to canvas scale.

    Args:
        picture: stored values at full or reduced size.
        padding: lowest and highest stored value that mark pixels outside the picture.
        rows: the full-size picture's rows.
        columns: the full-size picture's columns.
    """
    found = inside_borders(picture.pixels)
    place = place_picture(found, picture.reduction, rows, columns, origin_px=picture.origin_px)
    crop = place.crop
    pixels = picture.pixels[crop.top : crop.bottom, crop.left : crop.right]
    padded = _padding_mask(pixels, padding, spread=picture.reduction > 1)
    if padded is None:
        stored, inside = _area_average(pixels, place), None
    else:
        stored, inside = _average_unpadded(pixels, padded, place)
    return Drawing(stored, inside, place.letterbox, place.top, place.left, place.cropped)


def place_picture(
    found: Rectangle, reduction: int, rows: int, columns: int, *, origin_px: float = 0.0
) -> Placement:
    """Where a picture comes to lie on the canvas.

    Args:
        found: the decoded picture inside its borders, in its own pixels.
        reduction: it was decoded at 1/reduction.
        rows: the full-size picture's rows.
        columns: the full-size picture's columns.
        origin_px: outer edge of its first pixel in full-size pixels.
    """
    crop, block = _whole_blocks(found, reduction, rows, columns)
    scale = _scale(max(crop.height, crop.width), block // reduction)
    height, width = (max(1, round(side * scale)) for side in (crop.height, crop.width))
    top, left = (CANVAS_SIDE - height) // 2, (CANVAS_SIDE - width) // 2
    # The drawing's sides are whole pixels: half of what rounding took is given back at either side.
    letterbox = Letterbox(
        scale=scale / reduction,
        top=top + (height - crop.height * scale) / 2 - crop.top * scale,
        left=left + (width - crop.width * scale) / 2 - crop.left * scale,
    )
    cropped = (found.height, found.width) != (-(-rows // reduction), -(-columns // reduction))
    return Placement(crop, height, width, top, left, origin_px / reduction * scale, letterbox, cropped)


def _whole_blocks(crop: Rectangle, reduction: int, rows: int, columns: int) -> tuple[Rectangle, int]:
    """The crop cut to whole blocks of the largest reduction that still covers the canvas, and that."""
    height = min(rows, crop.bottom * reduction) - crop.top * reduction
    width = min(columns, crop.right * reduction) - crop.left * reduction
    block = 1
    while block < 1 << MOST_HALVINGS and max(height, width) / (2 * block) >= COVER_SHARE * CANVAS_SIDE:
        block *= 2
    # A codec may have reduced further than a cropped picture would have been.
    block = max(block, reduction)
    height, width = (max(block, side // block * block) // reduction for side in (height, width))
    return Rectangle(crop.top, crop.left, crop.top + height, crop.left + width), block


def _scale(side: int, halving: int) -> float:
    """Canvas pixels per picture pixel: 1/halving where that nearly fills the canvas, else what fills it."""
    if COVER_SHARE * CANVAS_SIDE <= side / halving <= CANVAS_SIDE:
        return 1 / halving
    return CANVAS_SIDE / side


def _area_average(pixels: Image, fit: Placement) -> Float32:
    """`pixels` at canvas scale: 2 × 2 means as far as they go, then area means; bilinear if enlarged.

    Halving first is twice as fast as one resize: only the 2 × 2 mean has a vector routine.
    """
    while _can_halve(pixels, fit):
        half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
        pixels = cv2.resize(pixels, half, interpolation=cv2.INTER_AREA)
    if pixels.shape != (fit.height, fit.width):
        shrinks = fit.height < pixels.shape[0] or fit.width < pixels.shape[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
        pixels = cv2.resize(pixels, (fit.width, fit.height), interpolation=method)
    drawn: Float32 = pixels.astype(np.float32)
    return drawn if fit.shift == 0 else _shift(drawn, fit.shift)


def _can_halve(pixels: Image, fit: Placement) -> bool:
    sides = zip(pixels.shape, (fit.height, fit.width), strict=True)
    return all(side % 2 == 0 and side >= 2 * wanted for side, wanted in sides)


def _shift(drawn: Float32, shift: float) -> Float32:
    """`drawn` moved down and right by `shift`, -1 to 0, by Catmull-Rom interpolation.

    OpenCV's own cubic kernel does not keep the centre of gravity: it would be off by 0.05 pixels.
    """
    t = -shift
    taps = np.array(
        [
            -t / 2 + t**2 - t**3 / 2,
            1 - 5 * t**2 / 2 + 3 * t**3 / 2,
            t / 2 + 2 * t**2 - 3 * t**3 / 2,
            -(t**2) / 2 + t**3 / 2,
        ],
        np.float32,
    )
    shifted = cv2.sepFilter2D(drawn, cv2.CV_32F, taps, taps, anchor=(1, 1), borderType=cv2.BORDER_REPLICATE)
    return shifted.astype(np.float32, copy=False)


def _is_even(pixels: Image) -> bool:
    return all(side % 2 == 0 for side in pixels.shape)


def _padding_mask(pixels: Image, padding: tuple[int, int] | None, *, spread: bool) -> Mask | None:
    """255 where `pixels` are padding; None when none are or when nearly all would be."""
    if padding is None:
        return None
    mask = cv2.inRange(pixels, np.array(padding[0]), np.array(padding[1])).astype(np.uint8, copy=False)
    if not 0 < cv2.countNonZero(mask) < _LARGEST_PADDING * mask.size:
        return None
    # A wavelet's or a cosine's skirts mix padding into its neighbours.
    return cv2.dilate(mask, np.ones((5, 5), np.uint8)).astype(np.uint8, copy=False) if spread else mask


def _average_unpadded(pixels: Image, padded: Mask, fit: Placement) -> tuple[Float32, Bool]:
    """Area means over the pixels that are not padding, and where at least half of them are not."""
    unpadded = cv2.bitwise_not(padded)
    weight = _area_average(unpadded, fit) / np.float32(255)
    total = _area_average(cv2.copyTo(pixels, unpadded), fit)
    return total / np.maximum(weight, np.float32(0.5)), weight >= 0.5
