"""Where a film's drawn findings lie, as coarse maps: the densest supervision a simulated cohort can give.

Three maps on the canvas, 8 pixels a cell: small opacities as local profusion (1 is the density of level 3),
large opacities, tuberculosis. They exist only where findings were drawn, so films of one's own train without
them. The decision a reader would question: profusion is smoothed over about a centimetre, because a zone's
level is a density and single opacities are not to be found one by one.

Shape letters: G cells of a side of the map.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from screener.canvas import CANVAS_SIDE
from screener.records import CanvasFacts
from training.opacities import DENSITY_PER_CM2
from training.phantom_film import Film

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

MAP_SIDE = 96
"""G: a cell is 8 x 8 canvas pixels, about 4 mm."""
MAP_NAMES = ("small", "large", "tb")
MOST_PROFUSION = 2.0
"""Profusion that the map's 255 stands for, as a multiple of level 3."""
FULL_DEPTH_MM = 12.0
"""Soft-tissue thickness from which a cell of a large opacity or of tuberculosis counts in full."""
_SMOOTHING_CELLS = 2.0


def finding_maps(film: Film, facts: CanvasFacts) -> UInt8:
    """(G, G, 3) maps in the order of `MAP_NAMES`, 0 nothing to 255.

    Args:
        film: the film with what was drawn into it.
        facts: where its picture lies on the canvas.
    """
    drawing = film.drawing
    maps = [_profusion(film, facts)]
    maps += [_depth(layer, facts) for layer in (drawing.large_soft_mm, drawing.tb_soft_mm)]
    return np.ascontiguousarray(np.stack(maps, axis=2))


def _profusion(film: Film, facts: CanvasFacts) -> UInt8:
    box = facts.letterbox
    step = CANVAS_SIDE // MAP_SIDE
    counts = np.zeros((MAP_SIDE, MAP_SIDE), np.float32)
    cell_cm2 = (film.pixel_mm / box.scale * step / 10) ** 2
    for body in film.drawing.opacities:
        if body.kind in DENSITY_PER_CM2:
            row, column = (int(at / step) for at in box.to_canvas(body.row, body.column))
            if 0 <= row < MAP_SIDE and 0 <= column < MAP_SIDE:
                counts[row, column] += 1 / (DENSITY_PER_CM2[body.kind][3] * cell_cm2)
    lung = np.zeros((MAP_SIDE, MAP_SIDE), np.float32)
    if film.lungs is not None:
        lung = canvas_grid((film.lungs > 0).astype(np.float32), facts, MAP_SIDE)
    near = cv2.GaussianBlur(lung, (0, 0), _SMOOTHING_CELLS)
    smooth = cv2.GaussianBlur(counts, (0, 0), _SMOOTHING_CELLS) / np.maximum(near, 0.25)
    return _levels(np.asarray(smooth, np.float32) * (lung > 0) / MOST_PROFUSION)


def _depth(soft_mm: Float32 | None, facts: CanvasFacts) -> UInt8:
    if soft_mm is None:
        return np.zeros((MAP_SIDE, MAP_SIDE), np.uint8)
    return _levels(canvas_grid(np.abs(soft_mm), facts, MAP_SIDE) / FULL_DEPTH_MM)


def _levels(share: Float32) -> UInt8:
    return np.asarray(np.clip(np.round(share * 255), 0, 255), np.uint8)


def canvas_grid(picture: Float32, facts: CanvasFacts, side: int) -> Float32:
    """Bring something on a film's own grid to (side, side) cells over the whole canvas, area means."""
    box, step = facts.letterbox, side / CANVAS_SIDE
    scale = box.scale * step
    soft = cv2.GaussianBlur(picture, (0, 0), 0.5 / scale)
    forward: Any = np.array(
        [
            [scale, 0, step * (box.left + 0.5 * box.scale) - 0.5],
            [0, scale, step * (box.top + 0.5 * box.scale) - 0.5],
        ]
    )
    moved = cv2.warpAffine(soft, forward, (side, side), flags=cv2.INTER_LINEAR)
    return np.asarray(moved, np.float32)
