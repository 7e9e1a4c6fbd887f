from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screener.staging import (
    ILO_PROFUSION,
    STAGE_2002,
    IloLarge,
    LargeOpacity,
    ZoneCount,
    ilo_profusions,
    profusion_level,
    stage_from_ilo,
    stage_from_zones,
)

BIG, SMALL = LargeOpacity(20, 10), LargeOpacity(20, 9.9)
levels = st.lists(st.integers(0, 3), min_size=6, max_size=6)


@pytest.mark.parametrize(
    ("zones", "large", "aggregation", "stage"),
    [
        ((0, 0, 0, 0, 0, 0), (), False, 0),
        ((1, 0, 0, 0, 0, 0), (), False, 0),
        ((3, 0, 0, 0, 0, 0), (), False, 0),
        ((1, 0, 0, 1, 0, 0), (), False, 1),
        ((2, 2, 0, 2, 2, 0), (), False, 1),  # level 2 in exactly four zones: I+ in the 2002 text
        ((2, 2, 1, 1, 1, 0), (), False, 2),
        ((3, 3, 0, 0, 0, 0), (), False, 1),
        ((3, 3, 3, 0, 0, 0), (), False, 1),
        ((3, 1, 1, 1, 0, 0), (), False, 2),
        ((3, 3, 3, 3, 0, 0), (), True, 2),  # aggregation needs more than four zones
        ((3, 3, 3, 3, 3, 0), (), False, 2),
        ((3, 3, 3, 3, 3, 0), (), True, 3),
        ((3, 1, 1, 1, 1, 0), (SMALL,), False, 3),
        ((2, 2, 2, 2, 2, 2), (SMALL,), True, 2),
        ((0, 0, 0, 0, 0, 0), (BIG,), False, 3),
        ((0, 0, 0, 0, 0, 0), (SMALL,), False, 0),
    ],
)
def test_rule(zones: tuple[int, ...], large: tuple[LargeOpacity, ...], aggregation: bool, stage: int) -> None:
    assert stage_from_zones(zones, large_opacities=large, aggregation=aggregation).stage == stage


def literal_rule(zones: tuple[int, ...], aggregation: bool, long_mm: float, short_mm: float) -> int:
    """domain.md §1.1, line by line, as an independent reference."""
    level, count, any_large = max(zones), sum(z >= 1 for z in zones), long_mm > 10
    if (long_mm >= 20 and short_mm >= 10) or (level == 3 and count > 4 and (aggregation or any_large)):
        return 3
    if (level == 2 and count > 4) or (level == 3 and count >= 4):
        return 2
    return 1 if level >= 1 and count >= 2 else 0


def test_every_pattern_agrees_with_the_literal_rule() -> None:
    for zones in itertools.product(range(4), repeat=6):
        for aggregation, size in itertools.product((False, True), (None, SMALL, BIG)):
            found = stage_from_zones(zones, large_opacities=(size,) if size else (), aggregation=aggregation)
            mm = (size.long_mm, size.short_mm) if size else (0.0, 0.0)
            assert found.stage == literal_rule(zones, aggregation, *mm)


@pytest.mark.parametrize("zone_count", ZoneCount)
@given(zones=levels, zone=st.integers(0, 5), aggregation=st.booleans(), large=st.sampled_from([(), (SMALL,)]))
def test_raising_a_zone_never_lowers_the_stage(
    zone_count: ZoneCount, zones: list[int], zone: int, aggregation: bool, large: tuple[LargeOpacity, ...]
) -> None:
    raised = [min(level + (i == zone), 3) for i, level in enumerate(zones)]
    before, after = (
        stage_from_zones(z, large_opacities=large, aggregation=aggregation, zone_count=zone_count).stage
        for z in (zones, raised)
    )
    assert before <= after


@given(zones=levels, aggregation=st.booleans())
def test_counting_only_zones_at_the_level_never_raises_the_stage(zones: list[int], aggregation: bool) -> None:
    strict = stage_from_zones(zones, aggregation=aggregation, zone_count=ZoneCount.AT_LEVEL)
    assert strict.stage <= stage_from_zones(zones, aggregation=aggregation).stage


@given(zones=levels, order=st.permutations(range(6)))
def test_which_zone_is_which_does_not_matter(zones: list[int], order: list[int]) -> None:
    assert stage_from_zones(zones) == stage_from_zones([zones[i] for i in order])


def test_what_gbz_leaves_open_is_flagged() -> None:
    assert stage_from_zones((3, 3, 0, 0, 0, 0)).stage_ambiguous
    assert stage_from_zones((3, 1, 1, 0, 0, 0)).stage_ambiguous
    assert not stage_from_zones((3, 3, 0, 0, 0, 0), large_opacities=(BIG,)).stage_ambiguous
    assert not stage_from_zones((3, 3, 3, 3, 0, 0)).stage_ambiguous
    assert stage_from_zones((1, 1, 0, 0, 0, 0), large_opacities=(SMALL,)).large_opacity_unstaged
    assert not stage_from_zones((1, 1, 0, 0, 0, 0), large_opacities=(BIG,)).large_opacity_unstaged


@pytest.mark.parametrize("zones", [(1, 1), (1, 1, 1, 1, 1, 4), (-1, 0, 0, 0, 0, 0)])
def test_impossible_levels_are_refused(zones: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="six zone levels"):
        stage_from_zones(zones)


@pytest.mark.parametrize("size", [(10, 5), (20, 21), (20, 0)])
def test_impossible_large_opacity_is_refused(size: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="large opacity"):
        LargeOpacity(*size)


def test_ilo_levels() -> None:
    assert [profusion_level(category) for category in ILO_PROFUSION] == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    with pytest.raises(ValueError, match="4/4"):
        profusion_level("4/4")


@pytest.mark.parametrize(
    ("profusion", "zones", "large", "coalescence", "stage"),
    [
        ("0/1", 6, IloLarge.NONE, False, 0),
        ("1/0", 1, IloLarge.NONE, False, 0),
        ("1/0", 2, IloLarge.NONE, False, 1),
        ("2/2", 4, IloLarge.NONE, False, 1),
        ("2/1", 5, IloLarge.NONE, False, 2),
        ("3/3", 6, IloLarge.NONE, False, 2),
        ("3/2", 5, IloLarge.NONE, True, 3),
        ("3/2", 5, IloLarge.A, False, 3),
        ("1/1", 4, IloLarge.A, False, 1),
        ("0/0", 0, IloLarge.B, False, 3),
        ("0/0", 0, IloLarge.C, False, 3),
    ],
)
def test_stage_from_ilo(profusion: str, zones: int, large: IloLarge, coalescence: bool, stage: int) -> None:
    assert stage_from_ilo(profusion, zones, large=large, coalescence=coalescence).stage == stage


def test_stage_from_ilo_refuses_seven_zones() -> None:
    with pytest.raises(ValueError, match="affected zones"):
        stage_from_ilo("1/1", 7)


@given(profusion=st.sampled_from(ILO_PROFUSION), zones=st.integers(2, 6))
def test_ilo_round_trip_keeps_the_reading(profusion: str, zones: int) -> None:
    assert profusion in ilo_profusions(stage_from_ilo(profusion, zones))


def test_2002_grades() -> None:
    assert STAGE_2002 == {"0": 0, "0+": 0, "I": 1, "I+": 1, "II": 2, "II+": 2, "III": 3, "III+": 3}
