"""Canvas and lung mask to an ILO-style technical quality grade, with the reasons computed from the pixels.

Every measure is a number of the picture inside or around the lungs (`FilmMeasures`), compared with one
named limit. Limits marked (E) are engineering choices at the rim of what 341 public films with radiologists'
or landmark lung masks show (docs/decisions/quality.md has the percentiles). Questionable: a film with one
lung not found is poor, not unreadable: a white lung is disease, and must still be read.

Shape letters: S canvas side, M mask side.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from screener.records import (
    Batch,
    Bool,
    Float32,
    LungGeometry,
    Lungs,
    Quality,
    QualityFlag,
    QualityGrade,
    Source,
)
from screener.zones import LungField, LungFields, find_lungs, implausibilities, measure

BLANK_SPAN = 0.05
"""1-99 % span of the picture below which nothing can be seen (E)."""
LOW_SPAN = 0.25
"""1-99 % span of the picture below which contrast is low (E)."""
LOW_LUNG_CONTRAST = 0.04
"""Median of the mediastinum less that of the lungs; lungs must be darker (E)."""
DARK_LUNG, BRIGHT_LUNG = 0.15, 0.80
"""Median of the lungs on the display scale: below is overexposed, above is underexposed (E)."""
CLIPPED_SHARE = 0.05
"""Share of lung pixels at either end of the display window (E)."""
NOISE_SD = 0.025
"""Standard deviation of the noise in the lungs on the display scale (E)."""
CUT_OFF_MM = 5.0
"""Apex or base nearer to the picture's edge than this is cut off."""
CUT_OFF_SHARE = 0.012
"""The same without a pixel spacing, as share of the picture's height: 5 mm of 43 cm."""
ROTATION = 0.085
"""Offset of the upper mediastinum from the middle of the thorax, in thorax widths (E)."""
TILT_DEGREES = 10.0
"""Mean angle of both lungs' long axes against the picture's vertical (E)."""
LOW_HEIGHT = 0.52
"""Mean lung height, apex to dome, over the width of both lungs (E)."""
FINEST_MM = 0.75
"""mm per pixel above which p opacities (1.5 mm) are lost (E: two pixels across the smallest opacity)."""
THORAX_WIDTH_MM = 280.0
"""Width of both lungs taken when the header gives no pixel spacing (E)."""
CROP_SIDE = 512
"""Side of the lung crop that the classification graph samples from the box."""
FRONTAL_LOGIT, DOUBTFUL_LOGIT = 0.0, 1.4
"""Below the first the view is not frontal, below the second (probability 0.8) it is doubtful (E)."""
METAL_LEVEL, METAL_CONTRAST = 0.95, 0.35
"""A foreign object reaches this share of the picture's 99 % level and rises this much of its span (E)."""
METAL_AREA_SHARE = (2e-4, 2e-2)
"""Area of a foreign object as share of both lungs: about 0.1 to 10 cm2 (E)."""

_POOR = frozenset(
    {
        QualityFlag.UNDEREXPOSED,
        QualityFlag.OVEREXPOSED,
        QualityFlag.LOW_CONTRAST,
        QualityFlag.LUNG_CUT_OFF,
        QualityFlag.MISSING_LUNG,
        QualityFlag.MASK_AREA,
        QualityFlag.MASK_COMPONENTS,
        QualityFlag.MASK_ASYMMETRY,
    }
)
_MINOR_MAKE_POOR = 3
"""So many lesser defects together make a film poor (E)."""


@dataclass(frozen=True, slots=True)
class FilmMeasures:
    """What the pixels of one film say; shares and levels on the display scale 0 to 1."""

    span: float
    """1-99 % span of the picture."""
    lung_median: float
    lung_contrast: float
    """Median of the mediastinum less that of the lungs."""
    clipped_share: float
    """Share of lung pixels at either end of the window."""
    noise_sd: float
    edge_margin: float
    """Smallest distance of apex or base from the picture's upper or lower edge, in `CUT_OFF` limits."""
    side_margin: float
    """Smallest distance of the lungs from the picture's sides, in mask pixels."""
    rotation: float
    tilt_degrees: float
    height_over_width: float
    num_foreign_objects: int


def grade(
    canvas: Float32, probability: Float32, box: Float32, frontal_logit: float, source: Source
) -> tuple[LungGeometry, Quality]:
    """Grade one film.

    Args:
        canvas: (1, S, S) in [0, 1], lungs dark.
        probability: (2, M, M) lung probability, patient right then left.
        box: (4,) top, left, bottom, right of both lungs in canvas pixels.
        frontal_logit: log-odds that the picture is a frontal chest radiograph.
        source: header and canvas facts of the film.

    Returns:
        Areas and plausibility of the mask; the grade with its reasons, in the order of `QualityFlag`.
    """
    spacing_mm, facts = source.instance.pixel_spacing_mm, source.canvas
    fields = find_lungs(probability, canvas_side=canvas.shape[-1])
    geometry = measure(fields, facts.letterbox, spacing_mm, facts.content)
    raised = set(implausibilities(fields, facts.letterbox, spacing_mm, facts.content))
    small = cv2.resize(canvas[0], probability.shape[1:][::-1], interpolation=cv2.INTER_AREA)
    if frontal_logit < DOUBTFUL_LOGIT:
        raised.add(QualityFlag.VIEW_DOUBTFUL)
    if fields.found and _mm_per_pixel(box, fields, source) > FINEST_MM:
        raised.add(QualityFlag.LOW_RESOLUTION)
    if len(fields.found) == 2:
        film = measure_film(canvas, small, fields, source)
        span = film.span
        raised |= _pixel_flags(film)
    else:
        low, high = _levels(small, _inner(facts.content, fields))
        span = high - low
        raised |= {QualityFlag.LOW_CONTRAST} if span < LOW_SPAN else set()
    unreadable = not fields.found or span < BLANK_SPAN or frontal_logit < FRONTAL_LOGIT
    flags = tuple(flag for flag in QualityFlag if flag in raised)
    return geometry, Quality(QualityGrade.UNREADABLE if unreadable else _grade(flags), flags)


def grade_batch(batch: Batch, lungs: Lungs) -> tuple[tuple[LungGeometry, Quality], ...]:
    """Grade every film of a batch, in its order."""
    return tuple(
        grade(batch.canvas[i], lungs.probability[i], lungs.box[i], float(lungs.frontal_logit[i, 0]), source)
        for i, source in enumerate(batch.sources)
    )


def _grade(flags: tuple[QualityFlag, ...]) -> QualityGrade:
    if _POOR.intersection(flags) or len(flags) >= _MINOR_MAKE_POOR:
        return QualityGrade.POOR
    return QualityGrade.ACCEPTABLE if flags else QualityGrade.GOOD


def _pixel_flags(film: FilmMeasures) -> set[QualityFlag]:
    checks = {
        QualityFlag.UNDEREXPOSED: film.lung_median > BRIGHT_LUNG,
        QualityFlag.OVEREXPOSED: film.lung_median < DARK_LUNG,
        QualityFlag.LOW_CONTRAST: film.span < LOW_SPAN or film.lung_contrast < LOW_LUNG_CONTRAST,
        QualityFlag.CLIPPED: film.clipped_share > CLIPPED_SHARE,
        QualityFlag.NOISY: film.noise_sd > NOISE_SD,
        QualityFlag.LUNG_CUT_OFF: film.edge_margin < 1 or film.side_margin < 1,
        QualityFlag.ROTATED: abs(film.rotation) > ROTATION,
        QualityFlag.TILTED: abs(film.tilt_degrees) > TILT_DEGREES,
        QualityFlag.LOW_INSPIRATION: film.height_over_width < LOW_HEIGHT,
        QualityFlag.FOREIGN_OBJECT: film.num_foreign_objects > 0,
    }
    return {flag for flag, raised in checks.items() if raised}


def measure_film(canvas: Float32, small: Float32, fields: LungFields, source: Source) -> FilmMeasures:
    """Measure a film of which both lungs were found.

    Args:
        canvas: (1, S, S) in [0, 1].
        small: (M, M) the canvas averaged to the mask grid.
        fields: both lungs.
        source: header and canvas facts of the film.
    """
    right, left = fields.found
    inner = _inner(source.canvas.content, fields)
    low, high = _levels(small, inner)
    lung = small[fields.mask]
    lung_median = float(np.median(lung))
    first, last = _row_edges(right.mask | left.mask)
    _, inner_right = _row_edges(right.mask)
    inner_left, _ = _row_edges(left.mask)
    mediastinum = _between(inner_right, inner_left, right, left)
    contrast = float(np.median(small[mediastinum])) - lung_median if mediastinum.any() else 0.0
    upper = slice(max(right.top, left.top), int(min(right.zone_lines[0], left.zone_lines[0])))
    offset = (inner_right + inner_left - first - last)[upper] / 2 / np.maximum(last - first, 1)[upper]
    return FilmMeasures(
        span=high - low,
        lung_median=lung_median,
        lung_contrast=contrast,
        clipped_share=float(np.mean((lung <= 1 / 255) | (lung >= 254 / 255))),
        noise_sd=_noise_sd(canvas[0], fields),
        edge_margin=_edge_margin(fields, source),
        side_margin=min(right.left - inner[1], inner[3] - left.right),
        rotation=float(np.mean(offset)) if offset.size else 0.0,
        tilt_degrees=(_axis_degrees(right) + _axis_degrees(left)) / 2,
        height_over_width=(right.dome - right.top + left.dome - left.top)
        / 2
        / max(left.right - right.left, 1),
        num_foreign_objects=_foreign_objects(small, fields, low, high),
    )


def _inner(content: tuple[float, float, float, float], fields: LungFields) -> tuple[int, int, int, int]:
    """Content rectangle on the mask grid, top left bottom right."""
    top, left, bottom, right = (round(edge / fields.canvas_pixels) for edge in content)
    return top, left, max(bottom, top + 1), max(right, left + 1)


def _levels(small: Float32, inner: tuple[int, int, int, int]) -> tuple[float, float]:
    """1 % and 99 % grey level of the picture."""
    low, high = np.percentile(small[inner[0] : inner[2], inner[1] : inner[3]], (1, 99))
    return float(low), float(high)


def _row_edges(mask: Bool) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last column of every row."""
    return mask.argmax(axis=1), mask.shape[1] - mask[:, ::-1].argmax(axis=1)


def _between(inner_right: np.ndarray, inner_left: np.ndarray, right: LungField, left: LungField) -> Bool:
    """(M, M) columns between the lungs, in the rows that both have above their domes."""
    rows = np.arange(inner_right.size)[:, None]
    columns = np.arange(inner_right.size)[None, :]
    shared = (rows >= max(right.top, left.top)) & (rows < min(right.dome, left.dome))
    between: Bool = shared & (columns >= inner_right[:, None]) & (columns < inner_left[:, None])
    return between


def _noise_sd(canvas: Float32, fields: LungFields) -> float:
    """Noise by a second difference along both axes (Immerkaer 1996), robust: median instead of mean.

    The operator's response to white noise has 6 times its standard deviation; 0.6745 is the median of the
    absolute value of a standard normal variate. Every twelfth row is plenty.
    """
    above, middle, below = (canvas[first : canvas.shape[0] - 2 + first : 12] for first in range(3))
    down = above - 2 * middle + below
    response = np.abs(down[:, :-2] - 2 * down[:, 1:-1] + down[:, 2:])
    rows = (np.arange(1, canvas.shape[0] - 1, 12) / fields.canvas_pixels).astype(np.intp)
    columns = (np.arange(1, canvas.shape[1] - 1) / fields.canvas_pixels).astype(np.intp)
    return float(np.median(response[fields.mask[np.ix_(rows, columns)]])) / (6 * 0.6745)


def _edge_margin(fields: LungFields, source: Source) -> float:
    top, _, bottom, _ = source.canvas.content
    above = min(lung.top for lung in fields.found) * fields.canvas_pixels - top
    below = bottom - max(lung.bottom for lung in fields.found) * fields.canvas_pixels
    spacing_mm = source.instance.pixel_spacing_mm
    if spacing_mm is None:
        return min(above, below) / (CUT_OFF_SHARE * max(bottom - top, 1.0))
    return min(above, below) / source.canvas.letterbox.scale * spacing_mm[0] / CUT_OFF_MM


def _axis_degrees(lung: LungField) -> float:
    """Angle of the lung's long axis against the vertical; its sign only says to which side."""
    moments = cv2.moments(lung.contour[:, None, :])
    # Columns take the part of y, so that the angle is measured from the vertical.
    return float(-np.degrees(0.5 * np.arctan2(2 * moments["mu11"], moments["mu02"] - moments["mu20"])))


def _foreign_objects(small: Float32, fields: LungFields, low: float, high: float) -> int:
    """Count compact, near-white spots with sharp relief in the lungs of a picture from `low` to `high`."""
    inside = np.zeros(small.shape, dtype=np.uint8)
    cv2.fillPoly(inside, [lung.contour for lung in fields.found], 1)
    eroded = cv2.erode(inside, np.ones((5, 5), np.uint8))
    bright = (small >= METAL_LEVEL * high) & (eroded > 0)
    if not bright.any():
        return 0
    size = 2 * (fields.mask_side // 24) + 1
    element = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    spots = bright & (cv2.morphologyEx(small, cv2.MORPH_TOPHAT, element) > METAL_CONTRAST * (high - low))
    count, _, stats, _ = cv2.connectedComponentsWithStats(spots.view(np.uint8))
    share = stats[1:count, cv2.CC_STAT_AREA] / sum(lung.num_pixels for lung in fields.found)
    return int(np.count_nonzero((share >= METAL_AREA_SHARE[0]) & (share <= METAL_AREA_SHARE[1])))


def _mm_per_pixel(box: Float32, fields: LungFields, source: Source) -> float:
    """Coarsest sampling between the detector and the classification network, in mm per pixel."""
    scale, spacing_mm = source.canvas.letterbox.scale, source.instance.pixel_spacing_mm
    if spacing_mm is None:
        left, right = min(lung.left for lung in fields.found), max(lung.right for lung in fields.found)
        lungs_share = 1.0 if len(fields.found) == 2 else 0.45
        picture_mm = THORAX_WIDTH_MM * lungs_share / ((right - left) * fields.canvas_pixels / scale)
    else:
        picture_mm = max(spacing_mm)
    canvas_mm = picture_mm / scale
    crop_mm = canvas_mm * max(float(box[2] - box[0]), float(box[3] - box[1])) / CROP_SIDE
    return max(picture_mm, canvas_mm, crop_mm)
