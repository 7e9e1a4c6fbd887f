"""The cohort's table: a row per film, labelled by what was drawn, its stage from the GBZ rule alone.

A reader would question the diagnosis column: pneumoconiosis is stage I or more, so a film with opacities in a
single zone is a negative.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import polars as pl

from screener.records import ZONES, CanvasFacts
from screener.staging import LARGE_OPACITY_MM, LargeOpacity, stage_from_zones
from training.cohort_deal import Slot
from training.findings import FindingPlan
from training.nuisances import Nuisance
from training.phantom_film import Film


@dataclass(frozen=True, slots=True)
class CohortFilm:
    """One row of cohort.parquet."""

    film_id: str
    subject_id: str
    source: str
    split: str
    film_class: str
    canvas: str
    lungs: str | None
    zones: str | None
    findings: str | None
    view: str
    content_top: float
    content_left: float
    content_bottom: float
    content_right: float
    pixel_mm: float
    pneumoconiosis: int | None
    tb: int | None
    stage: int | None
    stage_ambiguous: bool
    ru: int | None
    rm: int | None
    rl: int | None
    lu: int | None
    lm: int | None
    ll: int | None
    large_long_mm: float
    large_short_mm: float
    aggregation: bool
    opacity_type: str
    num_opacities: int
    large_contrast: float
    tb_contrast: float
    confounder: str
    tb_pattern: str
    exposure: float
    gamma: float
    noise_fraction: float
    rotation_deg: float
    inspiration: float
    cut_off_px: float
    unsharp: float
    num_devices: int
    num_markers: int
    monochrome1: bool
    seed: int
    licence: str
    host_findings: str


def film_row(
    slot: Slot, film: Film, plan: FindingPlan, nuisance: Nuisance, facts: CanvasFacts, seed: int
) -> CohortFilm:
    """Describe a film; large opacities enter the rule with their measured sizes."""
    frontal = film.lungs is not None
    large = tuple(
        LargeOpacity(long, short) for long, short in film.drawing.large_mm if long > LARGE_OPACITY_MM
    )
    staged = stage_from_zones(plan.levels, large_opacities=large, aggregation=plan.aggregation)
    biggest = max(film.drawing.large_mm, default=(0.0, 0.0))
    name = f"s{seed}-{slot.index:06d}"
    top, left, bottom, right = facts.content
    levels = dict(zip(ZONES, plan.levels, strict=True)) if frontal else dict.fromkeys(ZONES)
    return CohortFilm(
        film_id=name,
        subject_id=slot.host.subject_id if slot.host else f"phantom-{seed}-{slot.index:06d}",
        source=slot.source,
        split=slot.split,
        film_class=slot.film_class.value if frontal else "none",
        canvas=f"canvas/{name}.png",
        lungs=f"lungs/{name}.png" if frontal else None,
        zones=f"zones/{name}.png" if frontal else None,
        findings=f"findings/{name}.png" if frontal else None,
        view="frontal" if frontal else ("lateral" if slot.kind == "lateral" else "other"),
        content_top=top,
        content_left=left,
        content_bottom=bottom,
        content_right=right,
        pixel_mm=film.pixel_mm / facts.letterbox.scale,
        pneumoconiosis=int(staged.stage >= 1) if frontal else None,
        tb=int(bool(plan.tb)) if frontal else None,
        stage=staged.stage if frontal else None,
        stage_ambiguous=staged.stage_ambiguous or staged.large_opacity_unstaged,
        **levels,
        large_long_mm=float(biggest[0]),
        large_short_mm=float(biggest[1]),
        aggregation=plan.aggregation,
        opacity_type=plan.opacity_type,
        num_opacities=len(film.drawing.opacities),
        large_contrast=film.drawing.large_contrast,
        tb_contrast=film.drawing.tb_contrast,
        confounder=plan.confounder.value,
        tb_pattern=",".join(plan.tb) or "none",
        exposure=nuisance.exposure,
        gamma=nuisance.gamma,
        noise_fraction=nuisance.noise_fraction,
        rotation_deg=nuisance.rotation_deg,
        inspiration=nuisance.inspiration,
        cut_off_px=nuisance.cut_off_px,
        unsharp=nuisance.unsharp,
        num_devices=nuisance.num_devices,
        num_markers=nuisance.num_markers,
        monochrome1=nuisance.monochrome1,
        seed=seed,
        licence=slot.host.licence if slot.host else "generated",
        host_findings=slot.host.findings if slot.host else "",
    )


_POLARS_TYPES: dict[str, type[pl.DataType]] = {
    "str": pl.String,
    "str | None": pl.String,
    "float": pl.Float32,
    "bool": pl.Boolean,
    "int": pl.Int32,
    "int | None": pl.Int8,
}

FILM_SCHEMA = {column.name: _POLARS_TYPES[str(column.type)] for column in fields(CohortFilm)}
"""Columns of cohort.parquet."""

OPACITY_SCHEMA: dict[str, type[pl.DataType]] = {
    "film_id": pl.String,
    "kind": pl.String,
    "row": pl.Float32,
    "column": pl.Float32,
    "diameter_mm": pl.Float32,
    "peak_mm": pl.Float32,
    "zone": pl.Int8,
}
"""Columns of opacities.parquet; row and column in canvas pixels."""
