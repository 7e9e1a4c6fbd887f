"""Pneumoconiotic opacities as millimetres of extra soft tissue on a film's grid, from planned zone levels.

Small opacities are placed per zone as an inhomogeneous Poisson process (density by level and type, more where
the lung is thick, softly repelling each other), as if they were bodies in the lung seen from the front. Every
rounded one is a Gaussian whose peak thickness is its diameter: disks look wrong. The same code serves
phantoms and real films, because it only needs a lung mask, zones and a thickness map.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.conspicuity import Judge, taken_as_visible
from training.findings import FindingPlan
from training.phantom_projection import Frame
from training.phantom_vessels import strand_cloud

Float32 = npt.NDArray[np.float32]

DENSITY_PER_CM2: dict[str, tuple[float, float, float, float]] = {
    "p": (0.5, 3.0, 6.0, 12.0),
    "q": (0.4, 3.0, 5.0, 9.0),
    "r": (0.1, 1.0, 1.8, 3.0),
    "s": (0.1, 0.8, 1.5, 2.5),
    "t": (0.1, 0.8, 1.5, 2.5),
    "u": (0.1, 0.8, 1.5, 2.5),
}
"""Opacities per cm2 of film at levels 0 (upper bound), 1, 2, 3 (domain §6; levels 2 and 3 are our choice)."""
_SIZE_MM = {
    "p": (1.2, 1.0, 1.5),
    "q": (2.2, 1.5, 3.0),
    "r": (4.5, 3.0, 10.0),
    "s": (1.1, 0.7, 1.5),
    "t": (2.0, 1.5, 3.0),
    "u": (3.8, 3.0, 10.0),
}
"""Median, least and greatest diameter or width."""
_SHEET = {"s": 7.5, "t": 4.0, "u": 2.2}
"""Depth of a strand over its width: septa are sheets seen on edge."""
_BODY = {"p": 7.5, "q": 3.2, "r": 1.9}
"""Attenuation of a nodule over that of as much soft tissue: collagen and some calcium. Set by eye so that
level 1 can be seen at the canvas's resolution on most films, as in standard films of category 1."""
_SIGMA_PER_DIAMETER = 1 / 2.5
_MINOR_SPREAD = 0.13
"""Log-normal spread of a zone's density, so that minor categories of neighbouring levels overlap."""


@dataclass(frozen=True, slots=True)
class Field:
    """Where findings may be drawn."""

    lungs: npt.NDArray[np.uint8]
    """(rows, columns) 0 background, 1 patient right, 2 left."""
    zones: npt.NDArray[np.uint8]
    """(rows, columns) 0 background, 1-6 RU RM RL LU LM LL."""
    thickness: Float32
    """(rows, columns) path through lung, mm."""
    pixel_mm: float
    judge: Judge = taken_as_visible
    """How clearly soft tissue would stand out here."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.lungs.shape[0], self.lungs.shape[1]


@dataclass(frozen=True, slots=True)
class Opacity:
    """One drawn body; position in canvas pixels."""

    kind: str
    row: float
    column: float
    diameter_mm: float
    peak_mm: float
    """Soft-tissue thickness added at its centre."""
    zone: int


@dataclass(frozen=True, slots=True)
class Drawing:
    """Findings on a film."""

    soft_mm: Float32
    """(rows, columns) added soft-tissue thickness; negative where tissue is lost."""
    opacities: tuple[Opacity, ...]
    large_mm: tuple[tuple[float, float], ...] = ()
    """Measured (long, short) of every large opacity."""
    large_soft_mm: Float32 | None = None
    """What of `soft_mm` is large opacities; None where there is none."""
    tb_soft_mm: Float32 | None = None
    """What of `soft_mm` is tuberculosis; None where there is none."""
    large_contrast: float = 0.0
    """Largest contrast of large opacities over the anatomy's spread; infinite where the film is not known."""
    tb_contrast: float = 0.0
    """The same of tuberculosis."""


def smooth_noise(shape: tuple[int, int], sigma_px: float, rng: np.random.Generator) -> Float32:
    """Unit-variance Gaussian random field with the given correlation length."""
    step = max(int(sigma_px / 3), 1)
    small = rng.standard_normal((shape[0] // step + 2, shape[1] // step + 2), dtype=np.float32)
    smooth = cv2.GaussianBlur(small, (0, 0), max(sigma_px / step, 0.4))
    field = cv2.resize(smooth, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), np.float32)


def place(weight: Float32, count: int, apart_px: float, rng: np.random.Generator) -> Float32:
    """(n, 2) row, column positions with density `weight`; pairs closer than `apart_px` mostly lose one."""
    from scipy.spatial import cKDTree

    allowed = np.flatnonzero(weight > 0)
    if count == 0 or allowed.size == 0:
        return np.zeros((0, 2), np.float32)
    rising = np.cumsum(weight.ravel()[allowed], dtype=np.float64)
    index = allowed[np.searchsorted(rising, rng.random(int(count * 1.5) + 2) * rising[-1])]
    points = np.stack(np.divmod(index, weight.shape[1]), axis=1) + rng.random((index.size, 2))
    close = cKDTree(points).query_pairs(apart_px, output_type="ndarray")
    drop = np.zeros(index.size, bool)
    drop[close[rng.random(len(close)) < 0.75, 1]] = True
    return np.asarray(np.concatenate([points[~drop], points[drop]])[:count], np.float32)


def zone_weight(field: Field, zone: int, cover: Float32) -> Float32:
    """Density (rows, columns) of opacities in a zone, 1-6: `cover` times the root of lung thickness."""
    inside = field.zones == zone
    weight = np.where(inside, cover * np.sqrt(np.maximum(field.thickness, 1.0)), 0)
    return np.asarray(weight, np.float32)


def _sizes(kind: str, n: int, rng: np.random.Generator) -> Float32:
    median, least, greatest = _SIZE_MM[kind]
    return np.asarray(np.clip(rng.lognormal(np.log(median), 0.22, n), least, greatest), np.float32)


def draw_rounded(
    shape: tuple[int, int], points: Float32, diameter: Float32, peak: Float32, pixel_mm: float
) -> Float32:
    """Sum of Gaussian bodies: points (n, 2) in pixels, full width and peak thickness (n,) in mm."""
    total = np.zeros(shape, np.float32)
    frame = Frame(shape[0], shape[1], pixel_mm, 0.0, 0.0)
    sigma = diameter * _SIGMA_PER_DIAMETER / pixel_mm
    bins = np.round(np.log(np.maximum(sigma, 0.3)) / 0.18).astype(int)
    for group in np.unique(bins):
        chosen = bins == group
        spread = float(np.exp(0.18 * group))
        volume = peak[chosen] * np.float32(2 * np.pi * (spread * pixel_mm) ** 2)
        dots = frame.splat(points[chosen, 1] * pixel_mm, points[chosen, 0] * pixel_mm, volume)
        total += cv2.GaussianBlur(dots, (0, 0), spread)
    return total


def _lobulate(
    points: Float32, diameter: Float32, peak: Float32, pixel_mm: float, rng: np.random.Generator
) -> tuple[Float32, Float32, Float32]:
    """Break round bodies into three unequal lobes each, so that their outlines are not circles."""
    lobes = 3
    spread = (0.24 * diameter / pixel_mm)[:, None, None]
    where = points[:, None] + rng.normal(0, 1, (points.shape[0], lobes, 2)) * spread
    size = diameter[:, None] * rng.uniform(0.6, 0.95, (points.shape[0], lobes))
    share = rng.dirichlet(np.full(lobes, 3.0), points.shape[0])
    top = peak[:, None] * share * (diameter[:, None] / size) ** 2 * 0.95
    return (
        where.reshape(-1, 2).astype(np.float32),
        size.ravel().astype(np.float32),
        top.ravel().astype(np.float32),
    )


def draw_strands(
    shape: tuple[int, int],
    points: Float32,
    width: Float32,
    length: Float32,
    depth: float,
    pixel_mm: float,
    rng: np.random.Generator,
) -> Float32:
    """Sum of curved strands centred at points (n, 2) pixels; width and length (n,) in mm."""
    n = points.shape[0]
    if n == 0:
        return np.zeros(shape, np.float32)
    centre = np.stack([points[:, 1] * pixel_mm, np.zeros(n), points[:, 0] * pixel_mm], axis=1)
    angle = rng.random(n) * 2 * np.pi
    half = np.stack([np.cos(angle), np.zeros(n), np.sin(angle)], axis=1) * length[:, None] / 2
    bend = rng.normal(0, 0.13, (n, 3)) * length[:, None]
    start, end = (centre - half).astype(np.float32), (centre + half).astype(np.float32)
    x, z, volume = strand_cloud(
        start, end, bend.astype(np.float32), (width / 2).astype(np.float32), 0.6 * pixel_mm
    )
    frame = Frame(shape[0], shape[1], pixel_mm, 0.0, 0.0)
    return np.asarray(
        cv2.GaussianBlur(frame.splat(x, z, volume * np.float32(depth)), (0, 0), 0.6), np.float32
    )


@dataclass(frozen=True, slots=True)
class _Seeds:
    """Where opacities of one kind will be drawn."""

    kind: str
    zone: int
    points: Float32
    gain: float = 1.0


def _draw_kind(
    field: Field, kind: str, seeds: list[_Seeds], strength: float, rng: np.random.Generator
) -> tuple[Float32, list[Opacity]]:
    """All opacities of one kind at once."""
    shape = field.shape
    points = np.concatenate([seed.points for seed in seeds])
    zones = np.concatenate([np.full(len(seed.points), seed.zone) for seed in seeds])
    gains = np.concatenate([np.full(len(seed.points), seed.gain * strength, np.float32) for seed in seeds])
    size = _sizes(kind, points.shape[0], rng)
    if kind in "pqr":
        peak = (size * _BODY[kind] * gains * rng.lognormal(0, 0.18, size.size)).astype(np.float32)
        where, width, top = points, size, peak
        if kind == "r":
            where, width, top = _lobulate(points, size, peak, field.pixel_mm, rng)
        soft = draw_rounded(shape, where, width, top, field.pixel_mm)
    else:
        peak = size * np.float32(_SHEET[kind]) * gains
        length = rng.uniform(5, 15, size.size).astype(np.float32)
        soft = draw_strands(shape, points, size, length, _SHEET[kind] * strength, field.pixel_mm, rng)
    drawn = [
        Opacity(kind, float(p[0]), float(p[1]), float(s), float(t), int(z))
        for p, s, t, z in zip(points, size, peak, zones, strict=True)
    ]
    return soft, drawn


def small_opacities(plan: FindingPlan, field: Field, rng: np.random.Generator) -> Drawing:
    """Draw the small opacities of a plan.

    Args:
        plan: levels and types.
        field: lungs of the film.
        rng: decides positions, sizes and densities.

    Returns:
        Added thickness and one entry for every opacity.
    """
    total = np.zeros(field.shape, np.float32)
    strength = float(np.clip(rng.lognormal(0, 0.12), 0.75, 1.35))
    kinds = ("p", "q") if plan.primary == "none" else (plan.primary, plan.secondary)
    cover = 0.30 + 1 / (1 + np.exp(-2.2 * (smooth_noise(field.shape, 14 / field.pixel_mm, rng) + 0.6)))
    seeds = []
    for zone, level in enumerate(plan.levels):
        weight = zone_weight(field, zone + 1, cover.astype(np.float32))
        area_cm2 = float((field.zones == zone + 1).sum()) * field.pixel_mm**2 / 100
        for kind, share in zip(kinds, (0.7, 0.3), strict=True):
            density = DENSITY_PER_CM2[kind][level]
            density *= float(rng.lognormal(0, _MINOR_SPREAD)) if level else plan.stray_share
            count = int(rng.poisson(density * share * area_cm2))
            seeds.append(
                _Seeds(kind, zone, place(weight, count, 0.9 * _SIZE_MM[kind][0] / field.pixel_mm, rng))
            )
    if plan.aggregation:
        seeds += _crowds(plan, field, rng)
    drawn: list[Opacity] = []
    for kind in sorted(set(kinds)):
        soft, opacities = _draw_kind(
            field, kind, [seed for seed in seeds if seed.kind == kind], strength, rng
        )
        total += soft
        drawn += opacities
    return Drawing(total, tuple(drawn))


def _crowds(plan: FindingPlan, field: Field, rng: np.random.Generator) -> list[_Seeds]:
    """Three to five foci of 15-30 mm in which opacities crowd without becoming one."""
    worst = max(plan.levels)
    candidates = [zone for zone, level in enumerate(plan.levels) if level == worst]
    row, column = np.mgrid[0 : field.shape[0], 0 : field.shape[1]].astype(np.float32)
    kind = plan.primary if plan.primary != "none" else "q"
    crowds = []
    for _ in range(int(rng.integers(3, 6))):
        zone = int(rng.choice(candidates))
        focus = place(zone_weight(field, zone + 1, np.ones_like(field.thickness)), 1, 1.0, rng)
        if focus.shape[0] == 0:
            continue
        reach = rng.uniform(7, 13) / field.pixel_mm
        near = np.exp(-((row - focus[0, 0]) ** 2 + (column - focus[0, 1]) ** 2) / (2 * reach**2))
        weight = (near * (field.lungs > 0)).astype(np.float32)
        count = int(
            rng.poisson(3.0 * DENSITY_PER_CM2[kind][3] * 2 * np.pi * (reach * field.pixel_mm / 10) ** 2)
        )
        points = place(weight, count, 0.5 * _SIZE_MM[kind][0] / field.pixel_mm, rng)
        crowds.append(_Seeds(kind, zone, points, 1.2))
    return crowds
