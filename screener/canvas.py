"""Picture → canvas: the single definition of the networks' input, for training and for every backend.

A canvas is float32 (768, 768) in [0, 1]: 0 black, lungs dark, letterboxed and centred, 0 outside the
picture. A reader may question that grey levels are mapped after the resize: averaging stored values
needs no full-size floating point picture, costs a tenth, and every backend can do it exactly alike.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from screener.borders import inside_borders
from screener.codecs import COVER_SHARE, Picture, decode
from screener.display import (
    DisplayTransform,
    display_transform,
    linear_ramp,
    modality_values,
    voi_values,
)
from screener.errors import CorruptPixelData, DecodeError, Reason
from screener.frame import EncodedFrame
from screener.letterbox import CANVAS_SIDE, Drawing, Image, Placement, draw_stored_values
from screener.polarity import Polarity, judge_polarity
from screener.records import Bool, CanvasFacts, Float32, HeaderFlag, Letterbox

__all__ = [
    "CANVAS_SIDE",
    "CANVAS_VERSION",
    "DECODE_VERSION",
    "Decoded",
    "canvas_from_grey",
    "check_canvas",
    "decode_for_canvas",
    "display_transform",
    "draw_canvas",
    "paint_canvas",
]

CANVAS_VERSION = "1"
"""Rises with any change of what a canvas is; a bundle and a campaign are bound to it."""
DECODE_VERSION = "3"
"""Rises with any change that alters canvases by rounding only; a campaign is bound to it, a bundle is not."""

_PERCENTILES = (0.5, 99.5)
_HIDDEN_SHARE = 0.5
"""A window that clips more than this share of the picture hides it."""
_SMALLEST_SPAN = 0.1
"""So does one that shows the middle 98 % of the picture in less than this share of the grey levels."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """How a picture was decoded; its pixels may be elsewhere."""

    reduction: int
    route: str
    flags: tuple[HeaderFlag, ...] = ()


def decode_for_canvas(frame: EncodedFrame, step: int = 1) -> Picture:
    """Decode a frame at the smallest size that covers the canvas once its borders are cropped.

    A film with wide collimator borders is decoded a second time, finer: its borders show only then.

    Args:
        frame: the encoded frame.
        step: stored values that may fall together, a power of two (`display.coarsest_step`).

    Raises:
        DecodeError: as `codecs.decode`.
    """
    picture = decode(frame, cover_px=CANVAS_SIDE, step=step)
    if picture.reduction == 1:
        return picture
    crop = inside_borders(picture.pixels)
    shown_px = max(crop.height, crop.width)
    if shown_px >= COVER_SHARE * CANVAS_SIDE:
        return picture
    return decode(frame, cover_px=CANVAS_SIDE * max(picture.pixels.shape) / shown_px, step=step)


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
        DecodeError: `BLANK_IMAGE`, the picture has a single value; `DECODE_FAILED`, its grey levels are not
            finite.
    """
    drawing = draw_stored_values(picture, transform.padding, rows, columns)
    decoded = Decoded(picture.reduction, picture.route, picture.flags)
    return paint_canvas(drawing, transform, decoded, out, check_polarity=check_polarity)


def paint_canvas(
    drawing: Drawing,
    transform: DisplayTransform,
    decoded: Decoded,
    out: Float32,
    *,
    check_polarity: bool = True,
) -> CanvasFacts:
    """The second half of `draw_canvas`: grey levels of stored values already at canvas scale.

    Raises:
        DecodeError: `BLANK_IMAGE`, the picture has a single value.
    """
    grey, flags = _grey_levels(drawing, transform)
    if not np.isfinite(grey).all():  # one such film would stop the networks, and with them the whole run
        raise CorruptPixelData("the header's transforms give grey levels that are not finite")
    if transform.inverted:
        np.subtract(1, grey, out=grey)
    if drawing.inside is not None:
        grey[~drawing.inside] = 0
    if check_polarity:
        flags += _correct_polarity(grey, drawing.inside)
    out.fill(0)
    bottom, right = drawing.top + grey.shape[0], drawing.left + grey.shape[1]
    out[drawing.top : bottom, drawing.left : right] = grey
    flags = decoded.flags + ((HeaderFlag.BORDER_CROPPED,) if drawing.cropped else ()) + flags
    content = (drawing.top, drawing.left, bottom, right)
    clipped = _clipped(_histogram(grey, drawing.inside))
    return _facts(out, drawing.letterbox, content, clipped, decoded, flags)


def check_canvas(
    out: Float32, place: Placement, decoded: Decoded, *, check_polarity: bool = True
) -> CanvasFacts | None:
    """Facts of a canvas that a device painted with the header's window and polarity, as `paint_canvas` would.

    Args:
        out: float32 (768, 768); a clear negative is flipped in place.
        place: where the picture lies on it.
        decoded: how its picture was decoded.
        check_polarity: flip a clear negative whatever the header says.

    Returns:
        None if the header's window hides the picture: it has to be painted from its stored values.
    """
    bottom, right = place.top + place.height, place.left + place.width
    grey = out[place.top : bottom, place.left : right]
    shares = _histogram(grey, None)
    if _hides(shares):
        return None
    flags = decoded.flags + ((HeaderFlag.BORDER_CROPPED,) if place.cropped else ())
    if check_polarity:
        flags += _correct_polarity(grey, None)
    content = (place.top, place.left, bottom, right)
    return _facts(out, place.letterbox, content, _clipped(shares), decoded, flags)


def _facts(
    out: Float32,
    letterbox: Letterbox,
    content: tuple[float, float, float, float],
    clipped_fraction: float,
    decoded: Decoded,
    flags: tuple[HeaderFlag, ...],
) -> CanvasFacts:
    levels = cv2.convertScaleAbs(out, alpha=255)
    return CanvasFacts(
        letterbox=letterbox,
        content=content,
        reduction=decoded.reduction,
        route=decoded.route,
        clipped_fraction=clipped_fraction,
        pixel_sha256=hashlib.sha256(levels.tobytes()).hexdigest(),
        flags=flags,
    )


def canvas_from_grey(image: Image, out: Float32, *, check_polarity: bool = True) -> CanvasFacts:
    """Draw a grey picture that never was DICOM, uint8 or uint16 (H, W), lungs dark: the same steps, no tags.

    Raises:
        DecodeError: `BLANK_IMAGE`, the picture has a single value.
    """
    picture = Picture(image, reduction=1, route="grey")
    rows, columns = image.shape
    return draw_canvas(picture, DisplayTransform(), rows, columns, out, check_polarity=check_polarity)


def _grey_levels(drawing: Drawing, transform: DisplayTransform) -> tuple[Float32, tuple[HeaderFlag, ...]]:
    """Display values in [0, 1] before any inversion: modality LUT, then VOI or a percentile window."""
    visible = drawing.visible(drawing.stored)
    if visible.size == 0 or visible.min() == visible.max():
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


def _log_exposure(drawing: Drawing, values: Float32, transform: DisplayTransform) -> Float32:
    """Raw detector values, linear in exposure, to a logarithmic scale as presentation has it."""
    if transform.logarithmic:
        return values
    darkest = float(np.percentile(drawing.visible(values), _PERCENTILES[0]))
    exposure: Float32 = np.log1p(np.maximum(values - np.float32(min(darkest, 0)), 0))
    return exposure


def _percentile_window(drawing: Drawing, values: Float32) -> Float32:
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
