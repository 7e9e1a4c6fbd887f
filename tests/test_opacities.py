"""Findings: plans reach their stage by the rule, densities and sizes are as planned, lungs hold them all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screener.staging import LargeOpacity, stage_from_zones
from training.findings import Confounder, FilmClass, FindingPlan, LargePlan, TbPattern, sample_plan, stage_of
from training.large_opacities import irregular_body, large_opacities
from training.opacities import (
    DENSITY_PER_CM2,
    Field,
    draw_rounded,
    draw_strands,
    small_opacities,
)
from training.tuberculosis import confounder, merge, tuberculosis

PIXEL_MM = 0.56


def make_field() -> Field:
    """Two plain lungs of three zones each: columns 20-140 and 180-300, rows 20-380."""
    lungs = np.zeros((400, 320), np.uint8)
    lungs[20:380, 20:140] = 1
    lungs[20:380, 180:300] = 2
    zones = np.zeros_like(lungs)
    for third in range(3):
        rows = slice(20 + 120 * third, 140 + 120 * third)
        zones[rows, 20:140] = 1 + third
        zones[rows, 180:300] = 4 + third
    return Field(lungs, zones, np.where(lungs > 0, 120.0, 0.0).astype(np.float32), PIXEL_MM)


FIELD = make_field()
ZONE_CM2 = 120 * 120 * PIXEL_MM**2 / 100


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), film_class=st.sampled_from(list(FilmClass)))
def test_a_plan_reaches_its_stage_by_the_rule(seed: int, film_class: FilmClass) -> None:
    plan = sample_plan(np.random.default_rng(seed), film_class)
    large = [LargeOpacity(body.long_mm, body.short_mm) for body in plan.large]
    staged = stage_from_zones(plan.levels, large_opacities=large, aggregation=plan.aggregation)
    assert staged.stage == film_class.stage == stage_of(plan)
    if film_class is FilmClass.TB:
        assert plan.tb
    if film_class in (FilmClass.NORMAL, FilmClass.OTHER):
        assert not plan.tb
    if film_class is FilmClass.OTHER:
        assert plan.confounder is not Confounder.NONE


@given(seed=st.integers(0, 10**6), film_class=st.sampled_from([FilmClass.STAGE_I, FilmClass.STAGE_III]))
def test_a_large_opacity_stands_among_small_ones(seed: int, film_class: FilmClass) -> None:
    plan = sample_plan(np.random.default_rng(seed), film_class)
    assert not plan.large or sum(level > 0 for level in plan.levels) >= 2
    assert TbPattern.MILIARY not in plan.tb, "nobody could tell it from the small opacities"


def test_stage_patterns_vary() -> None:
    plans = [sample_plan(np.random.default_rng(seed), FilmClass.STAGE_II) for seed in range(60)]
    assert len({plan.levels for plan in plans}) > 20
    assert {plan.primary for plan in plans} >= {"p", "q", "r", "s", "t"}
    assert any(3 in plan.levels for plan in plans)
    assert any(3 not in plan.levels for plan in plans)


@pytest.mark.parametrize("kind", sorted(DENSITY_PER_CM2))
@pytest.mark.parametrize("level", [1, 3])
def test_density_is_the_tables(kind: str, level: int) -> None:
    plan = FindingPlan((level, level, level, level, level, level), kind, kind)
    drawn = small_opacities(plan, FIELD, np.random.default_rng(5)).opacities
    expected = DENSITY_PER_CM2[kind][level] * 6 * ZONE_CM2
    # Six zones with a log-normal spread of 13 % each, and Poisson counts.
    assert len(drawn) == pytest.approx(expected, rel=0.13 * 3 / 6**0.5 + 3 / expected**0.5)


def test_more_profusion_is_more_shadow() -> None:
    shadows = []
    for level in range(4):
        plan = FindingPlan((level, level, level, level, level, level), "q", "q")
        shadows.append(float(small_opacities(plan, FIELD, np.random.default_rng(2)).soft_mm.sum()))
    assert shadows == sorted(shadows)
    assert shadows[1] > 3 * shadows[0]


def test_opacities_lie_in_the_zones_of_the_plan() -> None:
    plan = FindingPlan((3, 0, 0, 0, 0, 0), "q", "q")
    drawn = small_opacities(plan, FIELD, np.random.default_rng(1))
    assert len(drawn.opacities) > 100
    assert {opacity.zone for opacity in drawn.opacities} == {0}
    assert all(FIELD.zones[int(o.row), int(o.column)] == 1 for o in drawn.opacities)


def test_affected_zones_are_covered_for_two_thirds() -> None:
    """GBZ grades a zone only if opacities cover two thirds of it: here, 1.5 cm squares that hold one."""
    plan = FindingPlan((1, 1, 1, 1, 1, 1), "q", "q")
    drawn = small_opacities(plan, FIELD, np.random.default_rng(8)).opacities
    cell = round(15 / PIXEL_MM)
    for zone in range(1, 7):
        rows, columns = np.nonzero(FIELD.zones == zone)
        cells = {(row // cell, column // cell) for row, column in zip(rows, columns, strict=True)}
        hit = {(int(o.row) // cell, int(o.column) // cell) for o in drawn if o.zone == zone - 1}
        assert len(hit & cells) >= 2 / 3 * len(cells)


@pytest.mark.parametrize(("kind", "least", "greatest"), [("p", 1.0, 1.5), ("q", 1.5, 3.0), ("r", 3.0, 10.0)])
def test_sizes_are_those_of_the_type(kind: str, least: float, greatest: float) -> None:
    drawn = small_opacities(
        FindingPlan((2, 2, 2, 2, 2, 2), kind, kind), FIELD, np.random.default_rng(4)
    ).opacities
    sizes = np.array([opacity.diameter_mm for opacity in drawn])
    assert sizes.min() >= least - 1e-6
    assert sizes.max() <= greatest + 1e-6


def test_a_rounded_opacity_is_as_wide_and_thick_as_told() -> None:
    one = np.float32
    soft = draw_rounded(
        (101, 101), np.array([[50.5, 50.5]], one), np.array([8.0], one), np.array([5.0], one), 0.5
    )
    profile = soft[50]
    assert soft.max() == pytest.approx(5.0, rel=0.1)
    width_mm = float((profile > soft.max() / 2).sum()) * 0.5
    assert width_mm == pytest.approx(8.0, rel=0.15)


def test_strands_keep_their_volume() -> None:
    one = np.float32
    rng = np.random.default_rng(0)
    soft = draw_strands(
        (200, 200), np.array([[100, 100]], one), np.array([2.0], one), np.array([12.0], one), 1.0, 0.5, rng
    )
    assert soft.sum() * 0.25 == pytest.approx(np.pi * 12.0, rel=0.15)


def test_large_opacity_has_about_the_planned_size() -> None:
    plan = FindingPlan((1, 1, 1, 1, 1, 1), "q", "q", large=(LargePlan(40, 24, 0),))
    drawn = large_opacities(plan, FIELD, np.random.default_rng(3))
    ((long_mm, short_mm),) = drawn.large_mm
    assert long_mm == pytest.approx(40, rel=0.35)
    assert short_mm == pytest.approx(24, rel=0.40)
    assert drawn.soft_mm.max() > 10


def test_irregular_body_is_not_an_ellipse() -> None:
    body = irregular_body(FIELD, (200, 80), 40, 30, 0, np.random.default_rng(1)) > 0.5
    mirrored = body[:, ::-1]
    assert body.sum() * PIXEL_MM**2 == pytest.approx(np.pi * 20 * 15, rel=0.3)
    assert not np.array_equal(np.roll(mirrored, 2 * 80 - 319, axis=1), body)


@pytest.mark.parametrize("pattern", list(TbPattern))
def test_every_tb_pattern_draws_inside_the_lungs(pattern: TbPattern) -> None:
    drawn = tuberculosis(FindingPlan(tb=(pattern,)), FIELD, np.random.default_rng(6))
    far = np.zeros(FIELD.lungs.shape, bool)
    far[:, :10] = far[:, 310:] = True
    assert np.abs(drawn.soft_mm[FIELD.lungs > 0]).max() > 1
    assert np.abs(drawn.soft_mm[far]).max() == 0
    assert drawn.opacities


def test_tuberculosis_prefers_the_upper_zones() -> None:
    zones = [
        tuberculosis(FindingPlan(tb=(TbPattern.INFILTRATE,)), FIELD, np.random.default_rng(seed))
        .opacities[0]
        .zone
        % 3
        for seed in range(40)
    ]
    assert zones.count(0) > 20


def test_a_cavity_has_a_dark_middle() -> None:
    """Air in the middle of a thick wall: some centre is below its own rim."""
    drawn = tuberculosis(FindingPlan(tb=(TbPattern.CAVITY,)), FIELD, np.random.default_rng(2))
    focus = drawn.opacities[0]
    row, column = int(focus.row), int(focus.column)
    reach = int(0.6 * focus.diameter_mm / PIXEL_MM)
    around = drawn.soft_mm[max(row - reach, 0) : row + reach, max(column - reach, 0) : column + reach]
    assert drawn.soft_mm[row, column] < 0.6 * around.max()


@pytest.mark.parametrize(
    "kind", [Confounder.MASS, Confounder.CONSOLIDATION, Confounder.GRANULOMA, Confounder.EFFUSION]
)
def test_confounders_draw_something(kind: Confounder) -> None:
    drawn = confounder(FindingPlan(confounder=kind), FIELD, np.random.default_rng(6))
    assert drawn.soft_mm.max() > 2
    assert drawn.opacities[0].kind == f"other_{kind}"


def test_an_empty_plan_draws_nothing() -> None:
    plan, rng = FindingPlan(), np.random.default_rng(0)
    drawn = merge(
        small_opacities(plan, FIELD, rng),
        large_opacities(plan, FIELD, rng),
        tuberculosis(plan, FIELD, rng),
        confounder(plan, FIELD, rng),
    )
    assert not drawn.soft_mm.any()
    assert drawn.opacities == ()
