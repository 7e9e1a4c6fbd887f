"""Pulmonary vessels of the phantom: a 3-D tree from each hilum, as projected thickness of soft tissue.

Every generation halves by Murray's law (radius by about 2^-1/3) and spreads in three dimensions; branches are
kept if they stay in the cavity. Calibre grows towards the bases, as it does upright. The tree is drawn for
its picture, not its physiology: arteries and veins are not told apart.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.phantom_anatomy import Anatomy
from training.phantom_projection import Frame

Float32 = npt.NDArray[np.float32]

_ROOT_ANGLES_DEG = (-78.0, -62.0, -42.0, -22.0, 0.0, 22.0, 42.0, 58.0, 70.0, 82.0)
"""Directions of segmental vessels in the frontal plane, 0 outwards, positive towards the base."""
_GENERATIONS = 8


def _roots(anatomy: Anatomy, side: int, rng: np.random.Generator) -> tuple[Float32, Float32, Float32]:
    hilum_z = 0.47 * anatomy.lung_height - (12 if side > 0 else 0)
    angles = np.deg2rad(np.repeat(_ROOT_ANGLES_DEG, 2) + rng.normal(0, 8, 2 * len(_ROOT_ANGLES_DEG)))
    n = angles.size
    start = np.stack(
        [
            side * (anatomy.mediastinum + 2 + rng.normal(0, 7, n)),
            rng.normal(8, 9, n),
            hilum_z + 24 * np.sin(angles) + rng.normal(0, 9, n),
        ],
        axis=1,
    )
    tilt = rng.uniform(-0.9, 0.9, n)
    heading = np.stack(
        [side * np.cos(angles) * np.cos(tilt), np.sin(tilt), np.sin(angles) * np.cos(tilt)], axis=1
    )
    radius = anatomy.vessel_calibre * (2.1 + 0.8 * np.sin(angles)) * rng.uniform(0.7, 1.25, n)
    return start.astype(np.float32), heading.astype(np.float32), radius.astype(np.float32)


def _stays_inside(anatomy: Anatomy, points: Float32) -> npt.NDArray[np.bool_]:
    x, y, z = points.T
    reach = anatomy.cavity_chord(x, z)
    dome_z = np.where(x < 0, anatomy.lung_height, anatomy.lung_height + anatomy.dome_drop)
    inside = (np.abs(y) < 0.93 * reach) & (np.abs(x) < anatomy.lateral(z) - 4) & (z > 5) & (z < dome_z + 30)
    return np.asarray(inside, np.bool_)


def _grow(
    anatomy: Anatomy, side: int, rng: np.random.Generator
) -> list[tuple[Float32, Float32, Float32, Float32]]:
    """Branches as (start, end, bend, radius), one entry a generation."""
    start, heading, radius = _roots(anatomy, side, rng)
    branches = []
    for generation in range(_GENERATIONS):
        n = radius.size
        length = (27.0 * 0.86**generation * rng.uniform(0.6, 1.35, n)).astype(np.float32)
        end = start + heading * length[:, None]
        inside = _stays_inside(anatomy, end)
        start, heading, radius, length, end = (a[inside] for a in (start, heading, radius, length, end))
        n = radius.size
        bend = rng.normal(0, 0.07, (n, 3)).astype(np.float32) * length[:, None]
        branches.append((start, end, bend, radius))
        turn = rng.normal(0, 1, (2 * n, 3))
        spread = rng.uniform(0.22, 0.75, 2 * n)[:, None]
        major = np.tile([0, 1], n)
        spread = np.where(major[:, None] == 0, 0.55 * spread, spread)
        parent = np.repeat(heading, 2, axis=0)
        turn -= (turn * parent).sum(1, keepdims=True) * parent
        turn /= np.linalg.norm(turn, axis=1, keepdims=True)
        heading = (parent * np.cos(spread) + turn * np.sin(spread)).astype(np.float32)
        share = rng.uniform(0.62, 0.86, 2 * n)
        radius = (np.repeat(radius, 2) * np.where(major == 0, np.maximum(share, 0.8), share)).astype(
            np.float32
        )
        start = np.repeat(end, 2, axis=0)
        thick = radius > 0.16
        start, heading, radius = start[thick], heading[thick], radius[thick]
    return branches


def strand_cloud(
    start: Float32, end: Float32, bend: Float32, radius: Float32, step_mm: float
) -> tuple[Float32, Float32, Float32]:
    """Mass cloud of curved round strands seen from the front.

    Args:
        start: (n, 3) mm.
        end: (n, 3) mm.
        bend: (n, 3) displacement of the middle from the chord, mm.
        radius: (n,) mm.
        step_mm: distance between points on the film.

    Returns:
        x, z (m,) mm and the volume (m,) mm3 at each point.
    """
    span = end - start
    in_film = np.hypot(span[:, 0], span[:, 2]) + 0.3
    depth_factor = np.linalg.norm(span, axis=1) / in_film
    num = np.maximum(np.ceil(in_film / step_mm).astype(int), 2)
    owner = np.repeat(np.arange(num.size), num)
    t = (np.arange(owner.size) - np.repeat(np.cumsum(num) - num, num) + 0.5) / num[owner]
    centre = start[owner] + t[:, None] * span[owner] + (4 * t * (1 - t))[:, None] * bend[owner]
    across = np.stack([-span[:, 2], span[:, 0]], axis=1) / in_film[:, None]
    r = radius[owner]
    area = np.pi * r**2 * np.minimum(depth_factor[owner], 2.2)
    volume = area * in_film[owner] / num[owner]
    rays = np.clip(np.ceil(2 * r / step_mm), 3, 31).astype(int) | 1
    point = np.repeat(np.arange(owner.size), rays)
    order = np.arange(point.size) - np.repeat(np.cumsum(rays) - rays, rays)
    u = (2 * order + 1) / rays[point] - 1
    lens = np.sqrt(1 - u**2)
    lens /= np.bincount(point, weights=lens)[point]
    x = centre[point, 0] + across[owner[point], 0] * u * r[point]
    z = centre[point, 2] + across[owner[point], 1] * u * r[point]
    return x.astype(np.float32), z.astype(np.float32), (volume[point] * lens).astype(np.float32)


def vessels(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Float32:
    """Soft-tissue thickness of both lungs' vessels, mm, (rows, columns)."""
    clouds = []
    for side in (-1, 1):
        for start, end, bend, radius in _grow(anatomy, side, rng):
            if radius.size:
                for points in (start, end):
                    points[:, 0] += anatomy.shift(points[:, 1])
                clouds.append(strand_cloud(start, end, bend, radius, 0.7 * frame.pixel_mm))
    x, z, volume = (np.concatenate(parts) for parts in zip(*clouds, strict=True))
    return frame.splat(x, z, volume)
