"""What is to be drawn into a film: zone levels, opacity types, tuberculosis, confounders — as a plan.

A plan is drawn by rejection: latent severities per zone are thresholded into levels, the GBZ rule stages the
result, and draws that miss the wanted stage are thrown away. So classes are balanced without ever
assigning a stage. A reader would question the latent model (one severity, one vertical trend, zone noise):
it is an engineering choice, as no published zone statistics were found.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from screener.staging import LargeOpacity, ZoneCount, stage_from_zones

OPACITY_TYPES = ("p", "q", "r", "s", "t", "u")

_BORDERLINE_SHARE = 0.15
"""Share of plans that may be staged differently by the two readings of the rule; the rest are not."""

_LEAST_ZONES_BESIDE_LARGE = 2
"""Zones with small opacities that a large one needs: it grows out of them, and alone it would be a mass."""
_SHARE_OF_BOTH = 0.25
"""Share of pneumoconiosis films with tuberculosis: more than among miners (about 10 %), because a network
learns each of the four diagnoses from the films that show it; calibration takes the prevalence back."""


class FilmClass(StrEnum):
    """What a film is planned to show; the stage itself is derived from what is drawn."""

    NORMAL = "normal"
    TB = "tb"
    OTHER = "other"
    STAGE_I = "stage_1"
    STAGE_II = "stage_2"
    STAGE_III = "stage_3"

    @property
    def stage(self) -> int:
        """Stage that the plan must reach, 0 to 3."""
        return int(self.value[-1]) if self.value.startswith("stage") else 0


class TbPattern(StrEnum):
    """Radiographic patterns of pulmonary tuberculosis."""

    INFILTRATE = "infiltrate"
    CAVITY = "cavity"
    FIBROSIS = "fibrosis"
    EFFUSION = "effusion"
    CALCIFICATION = "calcification"
    MILIARY = "miliary"


class Confounder(StrEnum):
    """Disease that is neither pneumoconiosis nor tuberculosis, or an innocent shadow."""

    NONE = "none"
    MASS = "mass"
    CONSOLIDATION = "consolidation"
    CARDIOMEGALY = "cardiomegaly"
    GRANULOMA = "granuloma"
    EFFUSION = "effusion"


@dataclass(frozen=True, slots=True)
class LargePlan:
    """One large opacity to be drawn; its measured size decides, not this one."""

    long_mm: float
    short_mm: float
    zone: int
    """0-5, index into `records.ZONES`."""


@dataclass(frozen=True, slots=True)
class FindingPlan:
    """Everything to be drawn into one film."""

    levels: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)
    """Profusion level 0-3 of RU RM RL LU LM LL."""
    primary: str = "none"
    """Predominant opacity type p q r s t u, or none."""
    secondary: str = "none"
    aggregation: bool = False
    large: tuple[LargePlan, ...] = ()
    eggshell: bool = False
    tb: tuple[TbPattern, ...] = ()
    confounder: Confounder = Confounder.NONE
    stray_share: float = 0.0
    """Density of small opacities in level 0 zones, as a share of the most that level 0 may have."""

    @property
    def opacity_type(self) -> str:
        """ILO notation, for example `q/t`; `none` without small opacities."""
        return "none" if self.primary == "none" else f"{self.primary}/{self.secondary}"


def stage_of(plan: FindingPlan, large: tuple[LargeOpacity, ...] | None = None) -> int:
    """Stage of a plan by the GBZ rule, with the planned or the measured large opacities."""
    if large is None:
        large = tuple(LargeOpacity(body.long_mm, body.short_mm) for body in plan.large)
    return stage_from_zones(plan.levels, large_opacities=large, aggregation=plan.aggregation).stage


def reading_matters(plan: FindingPlan) -> bool:
    """Whether the two readings of the rule (`staging.ZoneCount`) stage the plan differently."""
    large = tuple(LargeOpacity(body.long_mm, body.short_mm) for body in plan.large)
    affected, at_level = (
        stage_from_zones(
            plan.levels, large_opacities=large, aggregation=plan.aggregation, zone_count=zone_count
        )
        for zone_count in (ZoneCount.AFFECTED, ZoneCount.AT_LEVEL)
    )
    return affected.stage != at_level.stage


def _levels(rng: np.random.Generator, severity: float) -> tuple[int, int, int, int, int, int]:
    trend = rng.choice([0.5, 0.05, -0.45], p=[0.6, 0.3, 0.1])
    rows = np.array([0.6 * trend, 0.4 * trend, -trend])
    zones = np.concatenate([rows, rows]) + np.repeat(rng.normal(0, 0.15, 2), 3) + rng.normal(0, 0.22, 6)
    levels = np.clip(np.floor(severity + zones), 0, 3).astype(int)
    a, b, c, d, e, f = (int(level) for level in levels)
    return a, b, c, d, e, f


def _large(rng: np.random.Generator) -> tuple[LargePlan, ...]:
    bodies = []
    for _ in range(int(rng.choice([1, 2, 3], p=[0.45, 0.45, 0.10]))):
        if rng.random() < 0.25:
            long_mm, short_mm = rng.uniform(12, 19), rng.uniform(8, 12)
        else:
            long_mm = float(np.clip(rng.lognormal(np.log(36), 0.35), 22, 80))
            short_mm = long_mm * rng.uniform(0.45, 0.8)
        zone = int(rng.choice([0, 1, 3, 4], p=[0.32, 0.20, 0.28, 0.20]))
        bodies.append(LargePlan(float(long_mm), float(max(short_mm, 7.0)), zone))
    return tuple(bodies)


def _types(rng: np.random.Generator) -> tuple[str, str]:
    primary = str(rng.choice(OPACITY_TYPES, p=[0.24, 0.33, 0.17, 0.12, 0.11, 0.03]))
    near = {"p": "pqs", "q": "pqrt", "r": "qru", "s": "pst", "t": "qstu", "u": "rtu"}[primary]
    return primary, str(rng.choice([primary, *near]))


def _pneumoconiosis(rng: np.random.Generator, stage: int) -> FindingPlan:
    """Draw until the GBZ rule gives the wanted stage."""
    borderline = rng.random() < _BORDERLINE_SHARE
    while True:
        large = _large(rng) if stage == 3 and rng.random() < 0.72 else ()
        if stage < 3 and rng.random() < 0.05:
            large = (
                LargePlan(
                    float(rng.uniform(11, 17)), float(rng.uniform(7, 9.5)), int(rng.choice([0, 1, 3, 4]))
                ),
            )
        levels = _levels(rng, float(rng.uniform(0.5, 4.0)))
        crowded = bool(rng.random() < (0.55 if max(levels) == 3 else 0.08))
        primary, secondary = _types(rng)
        plan = FindingPlan(
            levels=levels,
            primary=primary,
            secondary=secondary,
            aggregation=crowded,
            large=large,
            eggshell=bool(rng.random() < 0.05),
            stray_share=float(rng.random()),
        )
        if large and sum(level > 0 for level in levels) < _LEAST_ZONES_BESIDE_LARGE:
            continue
        if stage_of(plan) == stage and (borderline or not reading_matters(plan)):
            return plan


def _tuberculosis(rng: np.random.Generator, *, beside_dust: bool) -> tuple[TbPattern, ...]:
    """Patterns of one patient; miliary seeding among small opacities is left out, as nobody could read it."""
    if rng.random() < 0.05 and not beside_dust:
        return (TbPattern.MILIARY,)
    chosen = [TbPattern.INFILTRATE] if rng.random() < 0.8 else [TbPattern.FIBROSIS]
    for pattern, share in (
        (TbPattern.CAVITY, 0.42),
        (TbPattern.FIBROSIS, 0.35),
        (TbPattern.EFFUSION, 0.16),
        (TbPattern.CALCIFICATION, 0.25),
    ):
        if pattern not in chosen and rng.random() < share:
            chosen.append(pattern)
    return tuple(chosen)


def sample_plan(rng: np.random.Generator, film_class: FilmClass) -> FindingPlan:
    """Draw the findings of one film.

    Args:
        rng: generator that decides everything.
        film_class: what the film should show; its stage is reached by rejection, never set.

    Returns:
        The plan. A quarter of pneumoconiosis films also show tuberculosis, 12 % an innocent confounder.
    """
    if film_class is FilmClass.TB:
        return FindingPlan(tb=_tuberculosis(rng, beside_dust=False), stray_share=float(rng.choice([0, 0.5])))
    if film_class is FilmClass.OTHER:
        kinds = (
            Confounder.MASS,
            Confounder.CONSOLIDATION,
            Confounder.CARDIOMEGALY,
            Confounder.GRANULOMA,
            Confounder.EFFUSION,
        )
        kind = kinds[int(rng.choice(5, p=[0.27, 0.28, 0.15, 0.15, 0.15]))]
        return FindingPlan(confounder=kind, stray_share=float(rng.choice([0, 0.5])))
    if film_class is FilmClass.NORMAL:
        if rng.random() < 0.12:
            return _subthreshold(rng)
        return FindingPlan(stray_share=float(rng.choice([0, rng.random()])))
    plan = _pneumoconiosis(rng, film_class.stage)
    tb = _tuberculosis(rng, beside_dust=True) if rng.random() < _SHARE_OF_BOTH else ()
    confounder = (
        Confounder(str(rng.choice(["granuloma", "cardiomegaly"]))) if rng.random() < 0.12 else Confounder.NONE
    )
    return FindingPlan(
        plan.levels,
        plan.primary,
        plan.secondary,
        plan.aggregation,
        plan.large,
        plan.eggshell,
        tb,
        confounder,
        plan.stray_share,
    )


def _subthreshold(rng: np.random.Generator) -> FindingPlan:
    """Level 1 in a single zone: by the rule still stage 0."""
    levels = [0] * 6
    levels[int(rng.integers(6))] = 1
    a, b, c, d, e, f = levels
    primary, secondary = _types(rng)
    return FindingPlan(
        levels=(a, b, c, d, e, f), primary=primary, secondary=secondary, stray_share=float(rng.random())
    )
