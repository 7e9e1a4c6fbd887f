"""Zone profusion levels to a GBZ 70 pneumoconiosis stage, and the approximate map to and from ILO.

The one rule that turns six zone levels (RU RM RL LU LM LL), large opacities and aggregation into stage
0, I, II or III; training cohorts and the zone head both go through it, so a stage is never assigned by
hand. Questionable: *distribution* counts every zone at level 1 or more, not only those at the stated
level (GBZ 70 text as of 2009, kept by GBZ 70-2015 from memory); `ZoneCount.AT_LEVEL` takes the other reading.
The rules for asbestos (pleural plaques) need a dust type that a film does not carry: not applied here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

NUM_ZONES = 6
MAX_LEVEL = 3

LARGE_OPACITY_MM = 10.0
"""An opacity whose longest diameter exceeds this is a large opacity (GBZ 70, ILO)."""
STAGE_III_LONG_MM, STAGE_III_SHORT_MM = 20.0, 10.0
"""A large opacity at least this long and this wide is stage III by itself (GBZ 70)."""

ILO_PROFUSION = ("0/-", "0/0", "0/1", "1/0", "1/1", "1/2", "2/1", "2/2", "2/3", "3/2", "3/3", "3/+")
"""ILO minor categories in rising order; three to each of the levels 0-3."""


class ZoneCount(StrEnum):
    """Which zones count towards the distribution."""

    AFFECTED = "affected"
    """Every zone at level 1 or more."""
    AT_LEVEL = "at_level"
    """Only zones at or above the level that the rule names."""


class IloLarge(StrEnum):
    """ILO large opacity category."""

    NONE = "0"
    A = "A"
    B = "B"
    C = "C"


@dataclass(frozen=True, slots=True)
class LargeOpacity:
    """One opacity of more than 10 mm."""

    long_mm: float
    """Longest diameter."""
    short_mm: float
    """Diameter across the longest one."""

    def __post_init__(self) -> None:
        if not 0 < self.short_mm <= self.long_mm or self.long_mm <= LARGE_OPACITY_MM:
            raise ValueError(
                f"large opacity {self.long_mm} x {self.short_mm} mm: expected 0 < short <= long, long > 10"
            )

    @property
    def is_stage_iii(self) -> bool:
        """At least 20 mm x 10 mm."""
        return self.long_mm >= STAGE_III_LONG_MM and self.short_mm >= STAGE_III_SHORT_MM


@dataclass(frozen=True, slots=True)
class GbzStage:
    """A stage and how it was reached."""

    stage: int
    """0, 1, 2 or 3."""
    total_profusion: int
    """Level of the highest zone, 0 to 3."""
    distribution: int
    """Zones at level 1 or more, 0 to 6."""
    stage_ambiguous: bool
    """GBZ 70 does not spell this pattern out: level 3 in two or three zones; staged I."""
    large_opacity_unstaged: bool
    """A large opacity is present and did not make stage III (II+ in the 2002 text, dropped in 2009)."""


def stage_from_zones(
    levels: Sequence[int],
    *,
    large_opacities: Sequence[LargeOpacity] = (),
    aggregation: bool = False,
    zone_count: ZoneCount = ZoneCount.AFFECTED,
) -> GbzStage:
    """Stage a film by GBZ 70 from its zone profusion levels.

    Args:
        levels: profusion level 0-3 of the six zones, in the order of `screener.records.ZONES`. A zone
            has a level only if opacities cover at least two thirds of it.
        large_opacities: opacities of more than 10 mm.
        aggregation: small opacities crowd locally without forming a large opacity.
        zone_count: which zones count towards the distribution.

    Returns:
        The stage with its total profusion, distribution and flags.

    Raises:
        ValueError: not six levels, or a level outside 0-3.
    """
    if len(levels) != NUM_ZONES or any(level not in range(MAX_LEVEL + 1) for level in levels):
        raise ValueError(f"expected six zone levels of 0 to 3, found {list(levels)}")
    total_profusion = max(levels)

    def zones(level: int) -> int:
        if total_profusion < level:
            return 0
        floor = level if zone_count is ZoneCount.AT_LEVEL else 1
        return sum(found >= floor for found in levels)

    dense_and_large = zones(3) > 4 and (aggregation or bool(large_opacities))
    if any(opacity.is_stage_iii for opacity in large_opacities) or dense_and_large:
        stage = 3
    elif zones(2) > 4 or zones(3) >= 4:
        stage = 2
    elif zones(1) >= 2:
        stage = 1
    else:
        stage = 0
    return GbzStage(
        stage=stage,
        total_profusion=total_profusion,
        distribution=sum(level >= 1 for level in levels),
        stage_ambiguous=stage == 1 and zones(3) in (2, 3),
        large_opacity_unstaged=bool(large_opacities) and stage < 3,
    )


def profusion_level(minor_category: str) -> int:
    """Profusion level 0-3 of an ILO minor category: `1/2` is level 1.

    Raises:
        ValueError: not one of the twelve categories.
    """
    if minor_category not in ILO_PROFUSION:
        raise ValueError(f"ILO profusion {minor_category!r}: expected one of {', '.join(ILO_PROFUSION)}")
    return ILO_PROFUSION.index(minor_category) // 3


def stage_from_ilo(
    profusion: str, num_zones: int, *, large: IloLarge = IloLarge.NONE, coalescence: bool = False
) -> GbzStage:
    """Approximate GBZ stage of an ILO reading (engineering choice, domain.md §1.3; not one-to-one).

    ILO integrates profusion over the affected zones and GBZ takes the highest zone, so every affected zone is
    given the reading's level. Category A has no size in an ILO reading: it is taken as below 20 x 10 mm,
    B and C as above.

    Args:
        profusion: ILO minor category, for example `1/1`.
        num_zones: zones ticked as affected, 0 to 6.
        large: large opacity category.
        coalescence: symbol `ax`, read as aggregation.

    Raises:
        ValueError: an unknown category, or a number of zones outside 0-6.
    """
    if not 0 <= num_zones <= NUM_ZONES:
        raise ValueError(f"{num_zones} affected zones: expected 0 to 6")
    level = profusion_level(profusion)
    levels = [level] * num_zones + [0] * (NUM_ZONES - num_zones)
    sizes = {
        IloLarge.NONE: (),
        IloLarge.A: (LargeOpacity(15, 10),),
        IloLarge.B: (LargeOpacity(51, 20),),
        IloLarge.C: (LargeOpacity(80, 40),),
    }
    return stage_from_zones(levels, large_opacities=sizes[large], aggregation=coalescence)


def ilo_profusions(stage: GbzStage) -> tuple[str, ...]:
    """ILO minor categories that a GBZ stage may correspond to (engineering choice, domain.md §1.3).

    The highest zone's level bounds the reading from above. Fewer than two affected zones correspond to
    0/1 or less, whatever the level.
    """
    if stage.distribution < 2:
        return ILO_PROFUSION[:3]
    first = 3 * stage.total_profusion
    return ILO_PROFUSION[first : first + 3]


STAGE_2002 = {"0": 0, "0+": 0, "I": 1, "I+": 1, "II": 2, "II+": 2, "III": 3, "III+": 3}
"""Stages of the 2002 text, whose plus grades ended in 2009, as stages of today."""
