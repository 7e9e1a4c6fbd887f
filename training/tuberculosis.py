"""Tuberculosis and other lung disease as millimetres of extra soft tissue on a film's grid.

Tuberculosis is asymmetric and apical: patchy infiltrates with unequal satellite nodules, thick-walled
cavities, strands towards the hilum, effusion, calcified foci, or miliary seeding. Confounders (mass, basal
consolidation, granuloma, effusion) keep a classifier from calling every shadow tuberculosis. Volume loss is
drawn only as strands and density: a reader would miss the lung's outline moving.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from training.conspicuity import taken_as_visible, until_visible
from training.findings import Confounder, FindingPlan, TbPattern
from training.large_opacities import irregular_body
from training.opacities import (
    Drawing,
    Field,
    Opacity,
    draw_rounded,
    draw_strands,
    smooth_noise,
)

Float32 = npt.NDArray[np.float32]

_CASEOUS = 1.5
"""Attenuation of caseous and fibrous tissue over that of as much soft tissue, set by eye."""
_CALCIUM = 2.8
"""Attenuation of a calcified focus relative to soft tissue."""
_MILIARY = 3.2
"""Attenuation of a miliary nodule over that of as much soft tissue, before `_CASEOUS`: about half of what a
silicotic nodule of that size has."""


def _spot(
    field: Field, zone: int, rng: np.random.Generator, *, margin_mm: float = 8.0
) -> tuple[float, float] | None:
    """A random point of a zone (1-6), off the lung's edge where the zone allows it."""
    lung = (field.lungs > 0).astype(np.uint8)
    inner = cv2.erode(lung, np.ones((3, 3), np.uint8), iterations=max(int(margin_mm / field.pixel_mm), 1))
    rows, columns = np.nonzero((field.zones == zone) & (inner > 0))
    if rows.size == 0:
        rows, columns = np.nonzero(field.zones == zone)
    if rows.size == 0:
        return None
    chosen = int(rng.integers(rows.size))
    return float(rows[chosen]), float(columns[chosen])


def _infiltrate(
    field: Field, spot: tuple[float, float], size_mm: float, depth_mm: float, rng: np.random.Generator
) -> Float32:
    """Patchy consolidation with fluffy edges and satellites."""
    shape = field.shape
    lean = size_mm * rng.uniform(0.6, 0.9), float(rng.uniform(-60, 60))
    outline = irregular_body(field, spot, size_mm * 1.2, *lean, rng)
    envelope = cv2.GaussianBlur(outline, (0, 0), 0.12 * size_mm / field.pixel_mm)
    patch = smooth_noise(shape, 3.2 / field.pixel_mm, rng) + 0.8 * smooth_noise(
        shape, 8 / field.pixel_mm, rng
    )
    patchy = 1 / (1 + np.exp(-1.8 * (patch + 0.2)))
    soft = depth_mm * envelope * (0.30 + 0.9 * patchy)
    count = int(size_mm * rng.uniform(0.5, 1.1))
    points = (np.asarray(spot) + rng.normal(0, 0.6 * size_mm / field.pixel_mm, (count, 2))).astype(np.float32)
    diameter = np.clip(rng.lognormal(np.log(4.0), 0.45, count), 1.5, 11).astype(np.float32)
    peak = (diameter * rng.uniform(0.7, 1.4, count)).astype(np.float32)
    return np.asarray(soft + draw_rounded(shape, points, diameter, peak, field.pixel_mm), np.float32)


def _cavity(field: Field, spot: tuple[float, float], rng: np.random.Generator) -> tuple[Float32, float]:
    """Thick irregular wall round air; returns the thickness change and the outer diameter, mm."""
    outer = float(np.clip(rng.lognormal(np.log(24), 0.32), 12, 42))
    wall = rng.uniform(3.0, 7.0)
    angle = float(rng.uniform(-90, 90))
    shell = irregular_body(field, spot, outer, outer * rng.uniform(0.75, 1.0), angle, rng)
    hole_mm = max(outer - 2 * wall, 4.0)
    offset = (spot[0] + rng.normal(0, 1.2), spot[1] + rng.normal(0, 1.2))
    hole = irregular_body(field, offset, hole_mm, hole_mm * rng.uniform(0.75, 1.0), angle, rng)
    depth = rng.uniform(0.55, 0.8) * outer
    soft = depth * shell**0.8 - (depth * 0.80 + 0.22 * hole_mm) * hole
    return soft.astype(np.float32), outer


def _fibrosis(field: Field, spot: tuple[float, float], lung: int, rng: np.random.Generator) -> Float32:
    """Strands between the apex and the hilum, haze and a thickened apical pleura."""
    shape = field.shape
    rows, columns = np.nonzero(field.lungs == lung)
    hilum = np.array([np.percentile(rows, 45), np.percentile(columns, 90 if lung == 1 else 10)])
    count = int(rng.integers(40, 75))
    t = rng.random(count)[:, None]
    middle = (
        np.asarray(spot) * (1 - 0.7 * t) + hilum * 0.7 * t + rng.normal(0, 13 / field.pixel_mm, (count, 2))
    )
    width = np.clip(rng.lognormal(np.log(1.5), 0.40, count), 0.8, 3.2).astype(np.float32)
    length = rng.uniform(12, 42, count).astype(np.float32)
    strands = draw_strands(shape, middle.astype(np.float32), width, length, 3.2, field.pixel_mm, rng)
    haze = irregular_body(field, spot, 44, 30, float(rng.uniform(-40, 40)), rng)
    hazy = rng.uniform(9, 20) * cv2.GaussianBlur(haze, (0, 0), 5 / field.pixel_mm)
    return np.asarray(strands + hazy + _apical_cap(field, lung, rng), np.float32)


def _apical_cap(field: Field, lung: int, rng: np.random.Generator) -> Float32:
    """Thickened pleura over the apex, a few millimetres to a centimetre and a half high."""
    inside = field.lungs == lung
    thick = int(rng.uniform(4, 15) / field.pixel_mm) + 1
    below = np.zeros_like(inside)
    below[thick:] = inside[:-thick]
    rows = np.nonzero(inside.any(axis=1))[0]
    apex = np.zeros(field.shape, np.float32)
    apex[: int(rows.min() + 0.22 * np.ptp(rows))] = 1
    rim = (
        (inside & ~below).astype(np.float32)
        * apex
        * (1 + 0.4 * smooth_noise(field.shape, 6 / field.pixel_mm, rng))
    )
    return np.asarray(rng.uniform(8, 20) * cv2.GaussianBlur(rim, (0, 0), 1.5 / field.pixel_mm), np.float32)


def _calcification(field: Field, spot: tuple[float, float], rng: np.random.Generator) -> Float32:
    count = int(rng.integers(5, 18))
    points = (np.asarray(spot) + rng.normal(0, 13 / field.pixel_mm, (count, 2))).astype(np.float32)
    diameter = np.clip(rng.lognormal(np.log(3.4), 0.4, count), 1.6, 9).astype(np.float32)
    return draw_rounded(
        field.shape,
        points,
        diameter,
        diameter * np.float32(_CALCIUM),
        field.pixel_mm,
    )


def _effusion(field: Field, lung: int, rng: np.random.Generator) -> Float32:
    """Fluid at the base with a meniscus that climbs the lateral wall."""
    inside = field.lungs == lung
    rows, columns = np.nonzero(inside)
    if rows.size == 0:
        return np.zeros(field.shape, np.float32)
    row, column = np.mgrid[0 : inside.shape[0], 0 : inside.shape[1]].astype(np.float32)
    height = rng.uniform(18, 75) / field.pixel_mm
    lateral = np.percentile(columns, 1 if lung == 1 else 99)
    reach = (np.abs(column - lateral) / max(float(np.ptp(columns)), 1.0)).astype(np.float32)
    level = np.percentile(rows, 99.5) - height * (0.45 + 0.9 * np.exp(-reach / 0.16))
    level = level + 2.0 * smooth_noise(field.shape, 10 / field.pixel_mm, rng)
    depth = np.clip((row - level) / (26 / field.pixel_mm), 0, 1)
    edge = cv2.GaussianBlur(inside.astype(np.float32), (0, 0), 1.0)
    return np.asarray(depth**0.8 * (0.55 * field.thickness + 14) * edge, np.float32)


def _miliary(field: Field, rng: np.random.Generator) -> Float32:
    rows, columns = np.nonzero(field.lungs > 0)
    area_cm2 = rows.size * field.pixel_mm**2 / 100
    count = min(int(rng.poisson(rng.uniform(7, 12) * area_cm2)), rows.size)
    chosen = rng.choice(rows.size, count, replace=False)
    points = np.stack([rows[chosen], columns[chosen]], axis=1).astype(np.float32) + rng.random(
        (count, 2), dtype=np.float32
    )
    diameter = np.clip(rng.lognormal(np.log(1.6), 0.18, count), 1.0, 2.5).astype(np.float32)
    return draw_rounded(
        field.shape,
        points,
        diameter,
        diameter * np.float32(_MILIARY),
        field.pixel_mm,
    )


def tuberculosis(plan: FindingPlan, field: Field, rng: np.random.Generator) -> Drawing:
    """Draw the plan's tuberculosis patterns; asymmetric, upper zones first.

    Returns:
        Added thickness and one entry for each focus.
    """
    if not plan.tb:
        return Drawing(np.zeros(field.shape, np.float32), ())
    # Miliary seeding is no body with a contrast of its own.
    judge = taken_as_visible if TbPattern.MILIARY in plan.tb else field.judge
    soft, drawn = until_visible(partial(_attempt, plan, field, rng), judge)
    if not drawn:
        return Drawing(soft, ())
    return Drawing(soft, drawn, tb_soft_mm=soft, tb_contrast=field.judge(soft))


def _attempt(
    plan: FindingPlan, field: Field, rng: np.random.Generator, denser: float
) -> tuple[tuple[Float32, tuple[Opacity, ...]], Float32]:
    total = np.zeros(field.shape, np.float32)
    drawn: list[Opacity] = []
    lead = int(rng.integers(1, 3))
    lungs = [lead] if rng.random() < 0.62 else [lead, 3 - lead]
    for order, lung in enumerate(lungs):
        first_zone = 1 if lung == 1 else 4
        zone = first_zone + int(rng.choice([0, 1, 2], p=[0.76, 0.19, 0.05]))
        spot = _spot(field, zone, rng)
        if spot is None:
            continue
        fade = 1.0 if order == 0 else rng.uniform(0.45, 0.9)
        for pattern in plan.tb:
            soft, size = _pattern(pattern, field, spot, lung, rng, first=order == 0)
            total += np.float32(fade) * soft
            drawn.append(Opacity(f"tb_{pattern}", spot[0], spot[1], size, float(soft.max()), zone - 1))
    soft = _keep_inside(np.float32(_CASEOUS * denser) * total, field)
    return (soft, tuple(drawn)), soft


def _pattern(
    pattern: TbPattern,
    field: Field,
    spot: tuple[float, float],
    lung: int,
    rng: np.random.Generator,
    *,
    first: bool,
) -> tuple[Float32, float]:
    nothing = np.zeros(field.shape, np.float32)
    if pattern is TbPattern.INFILTRATE:
        size = float(rng.uniform(22, 60))
        return _infiltrate(field, spot, size, float(rng.uniform(17, 36)), rng), size
    if pattern is TbPattern.CAVITY:
        return _cavity(field, spot, rng)
    if pattern is TbPattern.FIBROSIS:
        return _fibrosis(field, spot, lung, rng), 40.0
    if pattern is TbPattern.CALCIFICATION:
        return _calcification(field, spot, rng), 15.0
    if pattern is TbPattern.EFFUSION:
        return (_effusion(field, lung, rng), 60.0) if first else (nothing, 0.0)
    return (_miliary(field, rng), 1.6) if first else (nothing, 0.0)


def _keep_inside(soft: Float32, field: Field) -> Float32:
    edge = cv2.GaussianBlur((field.lungs > 0).astype(np.float32), (0, 0), 1.2)
    return np.asarray(soft * edge, np.float32)


def confounder(plan: FindingPlan, field: Field, rng: np.random.Generator) -> Drawing:
    """Draw disease that is neither pneumoconiosis nor tuberculosis (cardiomegaly is the anatomy's own)."""
    kind = plan.confounder
    zone = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.14, 0.18, 0.18, 0.14, 0.18, 0.18]))
    if kind is Confounder.CONSOLIDATION:
        zone = int(rng.choice([3, 6, 2, 5], p=[0.36, 0.34, 0.15, 0.15]))
    spot = _spot(field, zone, rng)
    if spot is None or kind in (Confounder.NONE, Confounder.CARDIOMEGALY):
        return Drawing(np.zeros(field.shape, np.float32), ())
    if kind is Confounder.EFFUSION:
        soft, size = _effusion(field, int(rng.integers(1, 3)), rng), 0.0
    else:
        soft, size = _focus(kind, field, spot, rng)
    focus = Opacity(f"other_{kind}", spot[0], spot[1], size, float(soft.max()), zone - 1)
    return Drawing(_keep_inside(soft, field), (focus,))


def _focus(
    kind: Confounder, field: Field, spot: tuple[float, float], rng: np.random.Generator
) -> tuple[Float32, float]:
    """A mass, granuloma or consolidation and its size in mm."""
    if kind is Confounder.GRANULOMA:
        size = float(rng.uniform(3, 8))
        point, diameter = np.array([spot], np.float32), np.array([size], np.float32)
        return draw_rounded(
            field.shape, point, diameter, diameter * np.float32(_CALCIUM), field.pixel_mm
        ), size
    is_mass = kind is Confounder.MASS
    size = float(rng.uniform(14, 52) if is_mass else rng.uniform(35, 85))
    short = size * (rng.uniform(0.75, 1.0) if is_mass else rng.uniform(0.6, 0.9))
    body = irregular_body(field, spot, size, short, float(rng.uniform(-90, 90)), rng)
    if is_mass:
        return np.asarray(rng.uniform(0.5, 0.75) * size * body**1.2, np.float32), size
    soft_edged = cv2.GaussianBlur(body, (0, 0), 5 / field.pixel_mm)
    mottle = 1 + 0.22 * smooth_noise(field.shape, 4 / field.pixel_mm, rng)
    return np.asarray(rng.uniform(14, 34) * soft_edged * mottle, np.float32), size


def merge(*drawings: Drawing) -> Drawing:
    """Sum of drawings of one film."""
    total = np.asarray(sum(drawing.soft_mm for drawing in drawings), np.float32)
    opacities = tuple(opacity for drawing in drawings for opacity in drawing.opacities)
    return Drawing(
        total,
        opacities,
        tuple(size for drawing in drawings for size in drawing.large_mm),
        _sum_of([drawing.large_soft_mm for drawing in drawings]),
        _sum_of([drawing.tb_soft_mm for drawing in drawings]),
        max(drawing.large_contrast for drawing in drawings),
        max(drawing.tb_contrast for drawing in drawings),
    )


def _sum_of(layers: list[Float32 | None]) -> Float32 | None:
    drawn = [layer for layer in layers if layer is not None]
    return np.asarray(sum(drawn), np.float32) if drawn else None
