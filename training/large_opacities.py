"""Large opacities as millimetres of extra soft tissue: irregular masses, basal emphysema, eggshell nodes.

A large opacity's size is measured on what was drawn, at half of its height, because only that may decide the
stage; the plan's size is a wish. A reader would question the outline: an ellipse roughened by two scales of
noise, without the straight lateral border that conglomerates often have.
"""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import numpy.typing as npt

from training.conspicuity import until_visible
from training.findings import FindingPlan, LargePlan
from training.opacities import Drawing, Field, Opacity, draw_strands, place, smooth_noise, zone_weight

Float32 = npt.NDArray[np.float32]
_Made = tuple[Float32, tuple[float, float], Opacity]

_COLLAGEN = 2.0
"""Attenuation of a conglomerate over that of as much soft tissue: of the order of its nodules'."""


def irregular_body(
    field: Field,
    centre: tuple[float, float],
    long_mm: float,
    short_mm: float,
    angle_deg: float,
    rng: np.random.Generator,
) -> Float32:
    """An irregular soft-edged body with values 0 to 1, (rows, columns); half height at the given size."""
    row, column = np.mgrid[0 : field.shape[0], 0 : field.shape[1]].astype(np.float32)
    angle = np.deg2rad(angle_deg)
    down, right = (row - centre[0]) * field.pixel_mm, (column - centre[1]) * field.pixel_mm
    along, across = down * np.cos(angle) + right * np.sin(angle), right * np.cos(angle) - down * np.sin(angle)
    radius = np.sqrt((along / (long_mm / 2)) ** 2 + (across / (short_mm / 2)) ** 2)
    ragged = 0.13 * smooth_noise(field.shape, 0.16 * short_mm / field.pixel_mm + 1, rng)
    ragged += 0.10 * smooth_noise(field.shape, 0.45 * short_mm / field.pixel_mm + 1, rng)
    return np.asarray(1 / (1 + np.exp(np.clip((radius + ragged - 1) / 0.13, -40, 40))), np.float32)


def _measure(body: Float32, pixel_mm: float) -> tuple[float, float]:
    """Long and short side (mm) of the smallest rectangle round the half-height outline."""
    contours, _ = cv2.findContours((body > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return 0.0, 0.0
    _, (one, other), _ = cv2.minAreaRect(max(contours, key=cv2.contourArea))
    return (max(one, other) + 1) * pixel_mm, (min(one, other) + 1) * pixel_mm


def _large_opacity(plan: LargePlan, field: Field, rng: np.random.Generator, denser: float) -> _Made | None:
    inner = cv2.erode(
        (field.lungs > 0).astype(np.uint8),
        np.ones((3, 3), np.uint8),
        iterations=int(0.35 * plan.short_mm / field.pixel_mm),
    )
    spots = place(zone_weight(field, plan.zone + 1, inner.astype(np.float32)), 1, 1.0, rng)
    if spots.shape[0] == 0:
        return None
    row, column = float(spots[0, 0]), float(spots[0, 1])
    body = irregular_body(field, (row, column), plan.long_mm, plan.short_mm, float(rng.normal(0, 28)), rng)
    body *= cv2.GaussianBlur((field.lungs > 0).astype(np.float32), (0, 0), 1.5)
    size = _measure(body, field.pixel_mm)
    depth = _COLLAGEN * plan.short_mm * rng.uniform(0.7, 1.0) * denser
    texture = 1 + 0.12 * smooth_noise(field.shape, 2.5 / field.pixel_mm, rng)
    soft = depth * body**1.3 * texture
    ring = np.asarray(body * (1 - body) * 4, np.float32)
    points = place(ring, int(plan.long_mm * 0.5), 1.0, rng)
    width = np.asarray(rng.uniform(0.7, 1.6, points.shape[0]), np.float32)
    length = np.asarray(rng.uniform(6, 16, points.shape[0]), np.float32)
    soft = soft + draw_strands(field.shape, points, width, length, 1.6, field.pixel_mm, rng) * (
        field.lungs > 0
    )
    return soft.astype(np.float32), size, Opacity("large", row, column, size[0], float(depth), plan.zone)


def _attempt(
    plan: LargePlan, field: Field, rng: np.random.Generator, denser: float
) -> tuple[_Made | None, Float32]:
    made = _large_opacity(plan, field, rng, denser)
    return made, np.zeros(field.shape, np.float32) if made is None else made[0]


def large_opacities(plan: FindingPlan, field: Field, rng: np.random.Generator) -> Drawing:
    """Draw large opacities, the emphysema that goes with them, and eggshell nodes.

    Returns:
        Added thickness, entries, and the measured size of every large opacity above 10 mm.
    """
    total = np.zeros(field.shape, np.float32)
    drawn: list[Opacity] = []
    sizes: list[tuple[float, float]] = []
    for body in plan.large:
        made = until_visible(partial(_attempt, body, field, rng), field.judge)
        if made is not None:
            soft, size, opacity = made
            total = np.maximum(total, soft)
            drawn.append(opacity)
            sizes.append(size)
    bodies = total.copy() if sizes else None
    contrast = 0.0 if bodies is None else field.judge(bodies)
    if any(size[0] >= 30 for size in sizes):
        lower = cv2.GaussianBlur(np.isin(field.zones, (3, 6)).astype(np.float32), (0, 0), 18 / field.pixel_mm)
        total -= rng.uniform(0.02, 0.09) * field.thickness * lower * (field.lungs > 0)
    if plan.eggshell:
        total += _eggshell_nodes(field, rng)
    return Drawing(total, tuple(drawn), tuple(sizes), large_soft_mm=bodies, large_contrast=contrast)


def _eggshell_nodes(field: Field, rng: np.random.Generator) -> Float32:
    """Calcified rims of hilar nodes, in soft-tissue equivalents, mm."""
    total = np.zeros(field.shape, np.float32)
    row, column = np.mgrid[0 : field.shape[0], 0 : field.shape[1]].astype(np.float32)
    for lung in (1, 2):
        rows, columns = np.nonzero(field.lungs == lung)
        if rows.size == 0:
            continue
        medial = np.percentile(columns, 92 if lung == 1 else 8)
        for _ in range(int(rng.integers(1, 4))):
            centre = (np.percentile(rows, 48) + rng.normal(0, 14), medial + rng.normal(0, 10))
            radius, rim = rng.uniform(3.5, 7) / field.pixel_mm, 0.8 / field.pixel_mm
            distance = np.hypot(row - centre[0], column - centre[1])
            total += 3.2 * np.exp(-(((distance - radius) / rim) ** 2) / 2) + 1.5 * (distance < radius)
    return np.asarray(cv2.GaussianBlur(total, (0, 0), 0.8), np.float32)
