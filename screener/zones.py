"""Lung probability to lung fields: areas, the six zones and the masks that are drawn or saved.

Each lung is the largest connected part of its channel; its apex is its topmost row and its dome the
lowest row of its central third of columns, because the lateral sulcus dips lower than the hemidiaphragm
(domain.md §1.4). Zones are thirds from apex to dome and the sulcus below the dome belongs to the lower
zone. Questionable: everything is measured on the mask grid (256 over a 768 canvas, about 1.7 mm) and
only the saved mask is interpolated to the picture; an area changes by less than 1 %.

Shape letters: M mask side, S canvas side, K points of a polygon, H and W rows and columns of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from screener.canvas import CANVAS_SIDE
from screener.records import Bool, Float32, Int8, Letterbox, LungGeometry, QualityFlag

MASK_THRESHOLD = 0.5

MIN_LUNG_SHARE = 0.01
"""A part smaller than this share of the canvas is not a lung (E): about 18 cm2 of a 43 cm film."""
AREA_RANGE_CM2 = (150.0, 800.0)
"""Plausible area of both lungs together (E)."""
AREA_RANGE_SHARE = (0.08, 0.75)
"""The same without a pixel spacing, as share of the picture (E): 35 x 43 cm hold 1505 cm2."""
MIN_AREA_RATIO = 0.45
"""Smaller lung over larger; below this the mask is taken as asymmetric (E)."""
MIN_SOLIDITY = 0.70
"""Lung area over its convex hull's; a lung is a bean, a leaked mask is a star (E)."""
MAX_STRAY_SHARE = 0.10
"""Share of a lung channel outside its largest part (E)."""

MASK_RIGHT, MASK_LEFT = 128, 255
"""Grey values of a saved mask: both are above half, so that any viewer and `> 0` show both lungs."""


@dataclass(frozen=True, slots=True)
class LungField:
    """One lung on the mask grid; `top`, `left`, `bottom` and `right` are edges, half open."""

    mask: Bool
    """(M, M) largest part of the channel."""
    contour: npt.NDArray[np.int32]
    """(K, 2) outline as (column, row) mask pixels."""
    num_pixels: int
    stray_share: float
    """Share of the channel's pixels that lie outside the largest part."""
    top: int
    left: int
    bottom: int
    right: int
    dome: int
    """One past the lowest row of the central third of columns."""

    @property
    def zone_lines(self) -> tuple[float, float]:
        """Rows (mask pixels) of the lower edge of the upper zone and of the middle zone."""
        third = (self.dome - self.top) / 3
        return self.top + third, self.top + 2 * third

    @property
    def solidity(self) -> float:
        """Area of the outline over the area of its convex hull, 0 to 1."""
        hull = cv2.contourArea(cv2.convexHull(self.contour))
        return cv2.contourArea(self.contour) / hull if hull else 0.0


@dataclass(frozen=True, slots=True)
class LungFields:
    """Both lungs of one film; None where no plausible lung was found."""

    right: LungField | None
    left: LungField | None
    mask_side: int
    canvas_side: int

    @property
    def both(self) -> tuple[LungField | None, LungField | None]:
        """Patient right, then left."""
        return self.right, self.left

    @property
    def found(self) -> tuple[LungField, ...]:
        """The lungs that were found."""
        return tuple(lung for lung in self.both if lung is not None)

    @property
    def mask(self) -> Bool:
        """(M, M) both lungs together."""
        together = np.zeros((self.mask_side, self.mask_side), dtype=np.bool_)
        for lung in self.found:
            together |= lung.mask
        return together

    @property
    def canvas_pixels(self) -> float:
        """Canvas pixels along one mask pixel."""
        return self.canvas_side / self.mask_side


def find_lungs(probability: Float32, *, canvas_side: int = CANVAS_SIDE) -> LungFields:
    """Find both lungs on the mask grid.

    Args:
        probability: (2, M, M) in [0, 1], patient right then left; M x M covers the whole canvas.
        canvas_side: side of the canvas in pixels.

    Returns:
        The largest part of either channel, or None where it is too small to be a lung. A pixel that both
        channels claim goes to the more probable lung.
    """
    right, left = probability
    owner = right >= left
    right_mask = (right >= MASK_THRESHOLD) & owner
    left_mask = (left >= MASK_THRESHOLD) & ~owner
    return LungFields(_largest_part(right_mask), _largest_part(left_mask), probability.shape[-1], canvas_side)


def _largest_part(mask: Bool) -> LungField | None:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=4)
    if count < 2:
        return None
    label = 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    left, top, width, height, num_pixels = (int(value) for value in stats[label])
    if num_pixels < MIN_LUNG_SHARE * mask.size:
        return None
    part = labels == label
    contours, _ = cv2.findContours(part.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    central = part[:, left + width // 3 : left + width - width // 3]
    return LungField(
        mask=part,
        contour=max(contours, key=cv2.contourArea)[:, 0, :],
        num_pixels=num_pixels,
        stray_share=1 - num_pixels / int(np.count_nonzero(mask)),
        top=top,
        left=left,
        bottom=top + height,
        right=left + width,
        dome=int(np.flatnonzero(central.any(axis=1))[-1]) + 1,
    )


def pixel_area_cm2(
    fields: LungFields, letterbox: Letterbox, spacing_mm: tuple[float, float] | None
) -> float | None:
    """Area of one mask pixel at the detector, or None without a (row, column) pixel spacing."""
    if spacing_mm is None:
        return None
    picture_pixels = fields.canvas_pixels / letterbox.scale
    return picture_pixels**2 * spacing_mm[0] * spacing_mm[1] / 100


def implausibilities(
    fields: LungFields,
    letterbox: Letterbox,
    spacing_mm: tuple[float, float] | None,
    content: tuple[float, float, float, float],
) -> tuple[QualityFlag, ...]:
    """Say why the lung mask cannot be a pair of lungs; empty when it is plausible.

    Args:
        fields: both lungs.
        letterbox: where the picture lies on the canvas.
        spacing_mm: (row, column) pixel spacing of the picture, or None.
        content: canvas rectangle (top, left, bottom, right) that holds picture.
    """
    if len(fields.found) < 2:
        return (QualityFlag.MISSING_LUNG,)
    sizes = sorted(lung.num_pixels for lung in fields.found)
    cm2 = pixel_area_cm2(fields, letterbox, spacing_mm)
    if cm2 is None:
        top, left, bottom, right = content
        picture = max((bottom - top) * (right - left), 1.0) / fields.canvas_pixels**2
        total, (low, high) = sum(sizes) / picture, AREA_RANGE_SHARE
    else:
        total, (low, high) = sum(sizes) * cm2, AREA_RANGE_CM2
    scattered = any(
        lung.stray_share > MAX_STRAY_SHARE or lung.solidity < MIN_SOLIDITY for lung in fields.found
    )
    checks = (
        (QualityFlag.MASK_AREA, not low <= total <= high),
        (QualityFlag.MASK_COMPONENTS, scattered),
        (QualityFlag.MASK_ASYMMETRY, sizes[0] < MIN_AREA_RATIO * sizes[1]),
    )
    return tuple(flag for flag, raised in checks if raised)


def measure(
    fields: LungFields,
    letterbox: Letterbox,
    spacing_mm: tuple[float, float] | None,
    content: tuple[float, float, float, float],
) -> LungGeometry:
    """Measure both lungs at the detector.

    Arguments as `implausibilities`. A lung that was not found has no area: null, not zero.
    """
    cm2 = pixel_area_cm2(fields, letterbox, spacing_mm)
    right, left = (None if lung is None or cm2 is None else lung.num_pixels * cm2 for lung in fields.both)
    return LungGeometry((right, left), not implausibilities(fields, letterbox, spacing_mm, content))


def zone_labels(fields: LungFields) -> Int8:
    """Label every mask pixel with its zone.

    Returns:
        (M, M): 0 outside, 1-6 for RU RM RL LU LM LL as in `records.ZONES`. A row belongs to the zone that
        holds its centre.
    """
    labels = np.zeros((fields.mask_side, fields.mask_side), dtype=np.int8)
    centres = np.arange(fields.mask_side) + 0.5
    for first, lung in zip((1, 4), fields.both, strict=True):
        if lung is not None:
            zone = first + np.searchsorted(np.asarray(lung.zone_lines), centres, side="right")
            labels[lung.mask] = np.broadcast_to(zone[:, None], labels.shape)[lung.mask]
    return labels


def zone_masks(fields: LungFields) -> Bool:
    """(6, M, M) masks of RU RM RL LU LM LL."""
    masks: Bool = zone_labels(fields) == np.arange(1, 7, dtype=np.int8)[:, None, None]
    return masks


def zone_areas_cm2(
    fields: LungFields, letterbox: Letterbox, spacing_mm: tuple[float, float] | None
) -> tuple[float, ...] | None:
    """Areas of RU RM RL LU LM LL at the detector; None without a pixel spacing."""
    cm2 = pixel_area_cm2(fields, letterbox, spacing_mm)
    if cm2 is None:
        return None
    counts = np.bincount(zone_labels(fields).ravel(), minlength=7)
    return tuple(float(count) * cm2 for count in counts[1:])


def outlines(fields: LungFields) -> tuple[Float32, ...]:
    """Outline polygons of the lungs found, right first: each (K, 2) (row, column) in canvas pixels."""
    return tuple(
        ((lung.contour[:, ::-1] + 0.5) * fields.canvas_pixels).astype(np.float32) for lung in fields.found
    )


def zone_segments(fields: LungFields) -> Float32:
    """Lines between the zones, for drawing.

    Returns:
        (L, 4) row, left column, row, right column in canvas pixels; two lines for each lung found, from
        the lung's first to its last column in that row.
    """
    segments = []
    for lung in fields.found:
        for line in lung.zone_lines:
            columns = np.flatnonzero(lung.mask[min(int(line), lung.bottom - 1)])
            if columns.size:
                segments.append((line, columns[0], line, columns[-1] + 1))
    return np.asarray(segments, dtype=np.float32).reshape(-1, 4) * np.float32(fields.canvas_pixels)


def mask_in_picture(
    probability: Float32,
    letterbox: Letterbox,
    rows: int,
    columns: int,
    *,
    canvas_side: int = CANVAS_SIDE,
) -> npt.NDArray[np.uint8]:
    """Draw both lungs in the picture's own geometry.

    The probability is interpolated bilinearly and cut at one half, so the outline is smooth; parts that are
    not lung by `find_lungs` are left out.

    Args:
        probability: (2, M, M) in [0, 1], patient right then left.
        letterbox: where the picture lies on the canvas.
        rows: rows H of the picture.
        columns: columns W of the picture.
        canvas_side: side of the canvas in pixels.

    Returns:
        (H, W): 0 outside, 128 patient's right lung, 255 left lung.
    """
    fields = find_lungs(probability, canvas_side=canvas_side)
    to_mask = fields.mask_side / canvas_side
    step = letterbox.scale * to_mask
    # Pixel centres: mask = ((picture + 0.5) * scale + offset) * M / S - 0.5.
    picture_to_mask = np.array(
        [
            [step, 0, 0.5 * step + letterbox.left * to_mask - 0.5],
            [0, step, 0.5 * step + letterbox.top * to_mask - 0.5],
        ]
    )
    drawn = np.zeros((rows, columns), dtype=np.uint8)
    for lung, channel, grey in zip(fields.both, probability, (MASK_RIGHT, MASK_LEFT), strict=True):
        if lung is None:
            continue
        # One pixel around the part is kept: interpolation needs the falling edge of the probability.
        near = cv2.dilate(lung.mask.view(np.uint8), np.ones((3, 3), np.uint8))
        enlarged = cv2.warpAffine(
            channel * near, picture_to_mask, (columns, rows), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        )
        drawn[enlarged >= MASK_THRESHOLD] = grey
    return drawn
