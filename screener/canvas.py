"""Picture → canvas: the single definition of the networks' input, for training and for every backend.

A canvas is float32 (768, 768) in [0, 1]: 0 black, lungs dark, letterboxed and centred, 0 outside the
picture. A reader may question that grey levels are mapped after the resize: averaging stored values
needs no full-size floating point picture, costs a tenth, and every backend can do it exactly alike.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from screener.borders import Rectangle, inside_borders
from screener.codecs import COVER_SHARE, Picture, decode
from screener.display import (
    DisplayTransform,
    display_transform,
    linear_ramp,
    modality_values,
    voi_values,
)
from screener.errors import DecodeError, Reason
from screener.frame import EncodedFrame
from screener.polarity import Polarity, judge_polarity
from screener.records import Bool, CanvasFacts, Float32, HeaderFlag, Letterbox

__all__ = [
    "CANVAS_SIDE",
    "CANVAS_VERSION",
    "canvas_from_grey",
    "decode_for_canvas",
    "display_transform",
    "draw_canvas",
]

Image = npt.NDArray[Any]
"""(H, W) uint8, uint16 or int16."""
Mask = npt.NDArray[np.uint8]
"""(H, W) 0 or 255."""

CANVAS_SIDE = 768
"""Pixels of each side."""
CANVAS_VERSION = "1"
"""Rises with any change that alters a canvas; a bundle and a campaign are bound to it."""

_PERCENTILES = (0.5, 99.5)
_PERCENTILE_STRIDE = 3
"""Every third row and column is plenty for percentiles, and a tenth of the time."""
_HIDDEN_SHARE = 0.5
"""A window that clips more than this share of the picture hides it."""
_SMALLEST_SPAN = 0.1
"""So does one that shows the middle 98 % of the picture in less than this share of the grey levels."""
_LARGEST_PADDING = 0.9
"""A padding value that covers more than this share of the picture is not believed."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """How a cropped picture is brought to canvas scale."""

    halvings: int
    height: int
    width: int
    shift: float
    """Canvas pixels down and right, below 1: where a wavelet's first sample really lies."""


@dataclass(frozen=True, slots=True)
class _Drawing:
    """The picture at canvas scale, still in stored values, and where it lies."""

    stored: Float32
    """(h, w) stored values, area-averaged over the pixels that are not padding."""
    inside: Bool | None
    """(h, w) True where there is picture; None when that is everywhere."""
    letterbox: Letterbox
    top: int
    left: int
    cropped: bool

    def visible(self, values: Image) -> Image:
        """Every third row and column of `values` (h, w), without padding, flat."""
        sparse = values[::_PERCENTILE_STRIDE, ::_PERCENTILE_STRIDE]
        if self.inside is None:
            return sparse.reshape(-1)
        return sparse[self.inside[::_PERCENTILE_STRIDE, ::_PERCENTILE_STRIDE]]


def decode_for_canvas(frame: EncodedFrame) -> Picture:
    """Decode a frame at the smallest size that covers the canvas once its borders are cropped.

    A film with wide collimator borders is decoded a second time, finer: its borders show only then.

    Raises:
        DecodeError: as `codecs.decode`.
    """
    picture = decode(frame, cover_px=CANVAS_SIDE)
    if picture.reduction == 1:
        return picture
    crop = inside_borders(picture.pixels)
    shown_px = max(crop.height, crop.width)
    if shown_px >= COVER_SHARE * CANVAS_SIDE:
        return picture
    return decode(frame, cover_px=CANVAS_SIDE * max(picture.pixels.shape) / shown_px)


def draw_canvas(
    picture: Picture,
    transform: DisplayTransform,
    rows: int,
    columns: int,
    out: Float32,
    *,
    check_polarity: bool = True,
) -> CanvasFacts:
    """Draw a decoded picture on a canvas.

    Args:
        picture: stored values at full or reduced size.
        transform: the header's display transform.
        rows: the full-size picture's rows.
        columns: the full-size picture's columns.
        out: float32 (768, 768); overwritten whole.
        check_polarity: flip a clear negative whatever the header says.

    Returns:
        Where the picture lies, what was clipped, what was corrected.

    Raises:
        DecodeError: `BLANK_IMAGE`, the picture has a single value.
    """
    drawing = _resize(picture, transform, rows, columns)
    grey, flags = _grey_levels(drawing, transform)
    if transform.inverted:
        np.subtract(1, grey, out=grey)
    if drawing.inside is not None:
        grey[~drawing.inside] = 0
    if check_polarity:
        flags += _correct_polarity(grey, drawing.inside)
    height, width = grey.shape
    bottom, right = drawing.top + height, drawing.left + width
    out.fill(0)
    out[drawing.top : bottom, drawing.left : right] = grey
    levels = cv2.convertScaleAbs(out, alpha=255)
    return CanvasFacts(
        letterbox=drawing.letterbox,
        content=(drawing.top, drawing.left, bottom, right),
        reduction=picture.reduction,
        route=picture.route,
        clipped_fraction=_clipped(_histogram(grey, drawing.inside)),
        pixel_sha256=hashlib.sha256(levels.tobytes()).hexdigest(),
        flags=picture.flags + ((HeaderFlag.BORDER_CROPPED,) if drawing.cropped else ()) + flags,
    )


def canvas_from_grey(image: Image, out: Float32, *, check_polarity: bool = True) -> CanvasFacts:
    """Draw a grey picture that never was DICOM, uint8 or uint16 (H, W), lungs dark: the same steps, no tags.

    Raises:
        DecodeError: `BLANK_IMAGE`, the picture has a single value.
    """
    picture = Picture(image, reduction=1, route="grey")
    rows, columns = image.shape
    return draw_canvas(picture, DisplayTransform(), rows, columns, out, check_polarity=check_polarity)


def _resize(picture: Picture, transform: DisplayTransform, rows: int, columns: int) -> _Drawing:
    """Crop the borders and bring stored values to the canvas scale."""
    crop = inside_borders(picture.pixels)
    cropped = (crop.height, crop.width) != picture.pixels.shape
    crop, halvings = _even_crop(crop)
    pixels = picture.pixels[crop.top : crop.bottom, crop.left : crop.right]
    scale = CANVAS_SIDE / max(crop.height, crop.width)
    height, width = max(1, round(crop.height * scale)), max(1, round(crop.width * scale))
    padded = _padding_mask(pixels, transform.padding, spread=picture.reduction > 1)
    fit = _Fit(halvings, height, width, picture.origin_px / picture.reduction * scale)
    if padded is None:
        stored, inside = _area_average(pixels, fit), None
    else:
        stored, inside = _average_unpadded(pixels, padded, fit)
    top, left = (CANVAS_SIDE - height) // 2, (CANVAS_SIDE - width) // 2
    full_scale = scale / picture.reduction
    # The drawing's sides are whole pixels: half of what rounding took is given back at either side.
    letterbox = Letterbox(
        scale=full_scale,
        top=top + (height - crop.height * scale) / 2 - crop.top * scale,
        left=left + (width - crop.width * scale) / 2 - crop.left * scale,
    )
    return _Drawing(stored, inside, letterbox, top, left, cropped)


def _even_crop(crop: Rectangle) -> tuple[Rectangle, int]:
    """How often the picture can be halved and still cover the canvas, and the crop cut to fit that.

    At most the last 2**halvings - 1 rows and columns of a far larger picture go.
    """
    halvings = 0
    while max(crop.height, crop.width) >> (halvings + 1) >= CANVAS_SIDE and min(crop.height, crop.width) > 64:
        halvings += 1
    unit = 1 << halvings
    bottom = crop.top + max(unit, crop.height // unit * unit)
    right = crop.left + max(unit, crop.width // unit * unit)
    return Rectangle(crop.top, crop.left, bottom, right), halvings


def _area_average(pixels: Image, fit: _Fit) -> Float32:
    """`pixels` at canvas scale: 2 × 2 means while they cover, then area means; bilinear if enlarged.

    Halving first is twice as fast as one resize: only the 2 × 2 mean has a vector routine.
    """
    for _ in range(fit.halvings):
        half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
        pixels = cv2.resize(pixels, half, interpolation=cv2.INTER_AREA)
    size = (fit.width, fit.height)
    shrinks = fit.height < pixels.shape[0] or fit.width < pixels.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    drawn: Float32 = cv2.resize(pixels, size, interpolation=method).astype(np.float32)
    if fit.shift == 0:
        return drawn
    matrix = np.array([[1, 0, fit.shift], [0, 1, fit.shift]])
    shifted: Float32 = cv2.warpAffine(
        drawn, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
    ).astype(np.float32, copy=False)
    return shifted


def _padding_mask(pixels: Image, padding: tuple[int, int] | None, *, spread: bool) -> Mask | None:
    """255 where `pixels` are padding; None when none are or when nearly all would be."""
    if padding is None:
        return None
    mask = cv2.inRange(pixels, np.array(padding[0]), np.array(padding[1])).astype(np.uint8, copy=False)
    if not 0 < cv2.countNonZero(mask) < _LARGEST_PADDING * mask.size:
        return None
    # A wavelet's or a cosine's skirts mix padding into its neighbours.
    return cv2.dilate(mask, np.ones((5, 5), np.uint8)).astype(np.uint8, copy=False) if spread else mask


def _average_unpadded(pixels: Image, padded: Mask, fit: _Fit) -> tuple[Float32, Bool]:
    """Area means over the pixels that are not padding, and where at least half of them are not."""
    unpadded = cv2.bitwise_not(padded)
    weight = _area_average(unpadded, fit) / np.float32(255)
    total = _area_average(cv2.copyTo(pixels, unpadded), fit)
    return total / np.maximum(weight, np.float32(0.5)), weight >= 0.5


def _grey_levels(drawing: _Drawing, transform: DisplayTransform) -> tuple[Float32, tuple[HeaderFlag, ...]]:
    """Display values in [0, 1] before any inversion: modality LUT, then VOI or a percentile window."""
    if np.ptp(drawing.visible(drawing.stored)) == 0:
        raise DecodeError(Reason.BLANK_IMAGE, "the picture has a single value")
    values = modality_values(drawing.stored, transform)
    if transform.for_processing:
        return _percentile_window(drawing, _log_exposure(drawing, values, transform)), (
            HeaderFlag.FOR_PROCESSING,
        )
    grey = voi_values(values, transform)
    if grey is None:
        flag = HeaderFlag.WINDOW_IGNORED if transform.unusable_window else HeaderFlag.NO_WINDOW
        return _percentile_window(drawing, values), (flag,)
    if _hides(_histogram(grey, drawing.inside)):
        return _percentile_window(drawing, values), (HeaderFlag.WINDOW_IGNORED,)
    return grey, ()


def _log_exposure(drawing: _Drawing, values: Float32, transform: DisplayTransform) -> Float32:
    """Raw detector values, linear in exposure, to a logarithmic scale as presentation has it."""
    if transform.logarithmic:
        return values
    darkest = np.percentile(drawing.visible(values), _PERCENTILES[0])
    exposure: Float32 = np.log1p(np.maximum(values - np.float32(min(darkest, 0)), 0))
    return exposure


def _percentile_window(drawing: _Drawing, values: Float32) -> Float32:
    low, high = np.percentile(drawing.visible(values), _PERCENTILES)
    if high <= low:
        raise DecodeError(Reason.BLANK_IMAGE, "99 % of the picture have a single value")
    return linear_ramp(values, float(low), float(high))


def _histogram(grey: Float32, inside: Bool | None) -> npt.NDArray[np.float64]:
    """(256,) shares of the picture's pixels by 8-bit grey level."""
    mask = None if inside is None else inside.view(np.uint8)
    levels = cv2.convertScaleAbs(grey, alpha=255)
    counts = cv2.calcHist([levels], [0], mask, [256], [0, 256]).astype(np.float64).reshape(-1)
    shares: npt.NDArray[np.float64] = counts / max(1.0, counts.sum())
    return shares


def _clipped(shares: npt.NDArray[np.float64]) -> float:
    return float(shares[0] + shares[255])


def _hides(shares: npt.NDArray[np.float64]) -> bool:
    """Whether a window leaves too little of the picture to see."""
    low, high = np.searchsorted(np.cumsum(shares), (0.01, 0.99))
    return _clipped(shares) > _HIDDEN_SHARE or (high - low) / 255 < _SMALLEST_SPAN


def _correct_polarity(grey: Float32, inside: Bool | None) -> tuple[HeaderFlag, ...]:
    """Flip a clear negative in place."""
    polarity = judge_polarity(grey)
    if polarity is Polarity.POSITIVE:
        return ()
    if polarity is Polarity.DOUBTFUL:
        return (HeaderFlag.POLARITY_DOUBTFUL,)
    np.subtract(1, grey, out=grey)
    if inside is not None:
        grey[~inside] = 0
    return (HeaderFlag.POLARITY_CORRECTED,)
