"""Canvas, lungs and activation of one film to a small picture that a reader can check a referral by.

Three panels side by side: the film with lung outline and zone lines, then the same film under the
class-activation map of each finding (pneumoconiosis, tuberculosis), straight from the graph's own outputs.
Questionable: only the surroundings of the lungs are drawn. Burned-in names stand in the corners of a film; no
pixel from beyond the lung box and a small margin leaves the canvas.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from screener.records import Float32
from screener.zones import LungFields, find_lungs, outlines, zone_segments

PANEL_SIDE = 288
"""Side of one panel in pixels; a picture is (PANEL_SIDE, 3 PANEL_SIDE)."""
PANELS = ("film", "pneumoconiosis", "tb")
"""What the panels show, left to right."""
MAX_BYTES = 25_000
"""A picture is compressed further until it is no larger."""
MARGIN = 0.06
"""Of the lung box's longer side, drawn around it."""

Rgb = npt.NDArray[np.uint8]

_CONTOUR, _ZONE = (64, 208, 255), (255, 200, 64)
_LINE_PX = 1
_STRONGEST = 0.55
"""Opacity of the map where it is highest; the film must stay readable below."""
_QUALITIES = (70, 55, 40, 25, 12, 5)


def draw_overlay(canvas: Float32, lungs: Float32, box: Float32, activation: Float32) -> bytes:
    """Draw one film for its report.

    Args:
        canvas: (S, S) in [0, 1], 0 black.
        lungs: (2, M, M) lung probability, patient right then left, over the whole canvas.
        box: (4,) top, left, bottom, right of both lungs in canvas pixels.
        activation: (2, h, w) class activation over the square around the box: pneumoconiosis, tuberculosis.
            Negative values speak against the finding and are not drawn.

    Returns:
        A WebP picture of `PANELS`, at most `MAX_BYTES`.

    Raises:
        ValueError: the arrays do not have these ranks.
    """
    if canvas.ndim != 2 or lungs.ndim != 3 or box.shape != (4,) or activation.ndim != 3:
        raise ValueError(
            "overlay: expected ranks 2, 3, 1, 3, found "
            f"{canvas.shape} {lungs.shape} {box.shape} {activation.shape}"
        )
    to_panel = _to_panel(box, canvas.shape[0])
    blur_px = max(1, round(1 / to_panel[0, 0]))  # the warp interpolates and does not average: avoid moiré
    smooth = cv2.blur(canvas, (blur_px, blur_px))
    grey = cv2.warpAffine(smooth, to_panel, (PANEL_SIDE, PANEL_SIDE), flags=cv2.INTER_LINEAR)
    film = np.repeat(_eight_bit(grey)[:, :, None], 3, axis=2)
    maps = [_heated(film, _over_crop(channel, box, to_panel)) for channel in activation]
    fields = find_lungs(lungs, canvas_side=canvas.shape[0])
    panels = [_lined(panel, fields, to_panel) for panel in (film, *maps)]
    return _webp(np.concatenate(panels, axis=1))


def _to_panel(box: Float32, canvas_side: int) -> npt.NDArray[np.float64]:
    """(2, 3) affine map, canvas (x, y) to panel pixels: lung box with margin, centred, aspect kept."""
    finite = box if np.isfinite(box).all() and box[2] > box[0] and box[3] > box[1] else None
    top, left, bottom, right = (0, 0, canvas_side, canvas_side) if finite is None else map(float, finite)
    side = max(bottom - top, right - left) * (1 + 2 * MARGIN)
    scale = PANEL_SIDE / side
    x, y = (left + right) / 2 - side / 2, (top + bottom) / 2 - side / 2
    # Pixel centres: panel = (canvas + 0.5 - corner) * scale - 0.5.
    return np.array([[scale, 0, (0.5 - x) * scale - 0.5], [0, scale, (0.5 - y) * scale - 0.5]])


def _eight_bit(grey: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """The panel stretched between its 1st and 99th percentile."""
    finite = np.nan_to_num(grey)
    low, high = np.percentile(finite, (1, 99))
    stretched: npt.NDArray[np.uint8] = np.clip(
        (finite - low) * (255 / max(float(high - low), 1e-6)), 0, 255
    ).astype(np.uint8)
    return stretched


def _over_crop(channel: Float32, box: Float32, to_panel: npt.NDArray[np.float64]) -> Float32:
    """One activation map (h, w) in panel pixels, 0 outside the crop, 1 at its highest positive value.

    The graph crops the square around the box, so that is what the map lies over.
    """
    positive = np.maximum(np.nan_to_num(channel), 0).astype(np.float32)
    highest = float(positive.max(initial=0.0))
    top, left, bottom, right = (float(edge) for edge in box)
    if highest <= 0 or not (bottom > top and right > left):
        return np.zeros((PANEL_SIDE, PANEL_SIDE), np.float32)
    rows, columns = channel.shape
    side = max(bottom - top, right - left)
    x, y = (left + right - side) / 2, (top + bottom - side) / 2
    step_x, step_y = side / columns, side / rows
    crop_to_canvas = np.array(
        [[step_x, 0, x + 0.5 * step_x - 0.5], [0, step_y, y + 0.5 * step_y - 0.5], [0, 0, 1]]
    )
    drawn = cv2.warpAffine(
        positive / highest,
        (np.vstack([to_panel, [0, 0, 1]]) @ crop_to_canvas)[:2],
        (PANEL_SIDE, PANEL_SIDE),
        flags=cv2.INTER_LINEAR,
    )
    return drawn.astype(np.float32, copy=False)


def _heated(film: Rgb, strength: Float32) -> Rgb:
    """The film under a map; where it is weak nothing is drawn, so the film itself shows."""
    colours = cv2.cvtColor(
        cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB
    )
    opacity = (_STRONGEST * strength)[:, :, None]
    blended: Rgb = (film * (1 - opacity) + colours * opacity).astype(np.uint8)
    return blended


def _lined(panel: Rgb, fields: LungFields, to_panel: npt.NDArray[np.float64]) -> Rgb:
    """Draw lung outlines and zone lines on a panel, in place."""
    for row, first, _, last in zone_segments(fields):
        ends = _panel_points(np.array([[row, first], [row, last]]), to_panel)
        cv2.line(panel, ends[0].tolist(), ends[1].tolist(), _ZONE, _LINE_PX, cv2.LINE_AA)
    for outline in outlines(fields):
        points = _panel_points(outline, to_panel)
        cv2.polylines(panel, [points.astype(np.int32)], True, _CONTOUR, _LINE_PX, cv2.LINE_AA)
    return panel


def _panel_points(
    rows_columns: npt.NDArray[np.floating], to_panel: npt.NDArray[np.float64]
) -> npt.NDArray[np.int64]:
    """(K, 2) canvas edge coordinates (row, column) to the nearest panel pixels (x, y)."""
    edges = rows_columns[:, ::-1] - 0.5
    points: npt.NDArray[np.int64] = np.rint(edges @ to_panel[:, :2].T + to_panel[:, 2]).astype(np.int64)
    return points


def _webp(picture: Rgb) -> bytes:
    """The best quality that fits into `MAX_BYTES`; the coarsest if none does (pure noise)."""
    encoded = b""
    for quality in _QUALITIES:
        done, stored = cv2.imencode(
            ".webp", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_WEBP_QUALITY, quality]
        )
        if not done:
            raise ValueError("overlay: the picture cannot be encoded as WebP")
        encoded = stored.tobytes()
        if len(encoded) <= MAX_BYTES:
            return encoded
    shrink = math.sqrt(0.5)
    smaller: Rgb = cv2.resize(picture, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA).astype(
        np.uint8
    )
    return _webp(smaller)
