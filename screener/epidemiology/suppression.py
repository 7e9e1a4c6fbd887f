"""Counts by stratum to which of them may be published: cells under five hidden, and hidden for good.

A hidden cell must not come back by subtraction from its total, nor be proven small, so further cells are
hidden (complementary suppression) until, whatever is published, each hidden small cell could still hold
`min_cell` or more. Positives and negatives are both protected. Questionable: a stratum's stages I, II and III
are hidden or shown together. It costs detail in small strata, and makes the guarantee provable in closed
form (row and column totals of a transport table bound a cell by the smaller of the two) instead of by
hundreds of linear programs; the tests run those programs as the attacker.

Shape letters: S strata, K outcomes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from screener.epidemiology.intervals import Counts
from screener.epidemiology.outcomes import STAGES, Outcome

Bool = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StratumCounts:
    """Persons and positives of every stratum of one dimension; the strata share no person."""

    totals: Counts
    """(S,) persons."""
    positives: dict[Outcome, Counts]
    """(S,) persons with each outcome; all of `Outcome`."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Which cells are not published."""

    totals: Bool
    """(S,) the stratum's size itself."""
    positives: dict[Outcome, Bool]
    """(S,) for each outcome."""


def suppress(counts: StratumCounts, *, min_cell: int) -> Hidden:
    """Decide which cells of a dimension to hide; its totals over strata count as published.

    Args:
        counts: strata that partition the persons.
        min_cell: smallest count that may be published; 0 or 1 hides nothing.

    Returns:
        Hidden cells. A single stratum is the dimension's total itself.
    """
    if min_cell <= 1:
        none = np.zeros(len(counts.totals), dtype=np.bool_)
        return Hidden(none, dict.fromkeys(Outcome, none))
    total_hidden = hide_until_safe(counts.totals < min_cell, [counts.totals], min_cell)
    whole = _hidden_in_total(counts, min_cell)
    hidden = {
        outcome: _hide_outcome(
            counts.totals, positives, total_hidden, min_cell=min_cell, whole=outcome in whole
        )
        for outcome, positives in counts.positives.items()
        if outcome not in STAGES
    }
    stage_rows = _hide_stages(counts, hidden[Outcome.STAGE_GE_1], min_cell)
    if len(counts.totals) == 1:
        stages = {stage: np.array([stage in whole]) for stage in STAGES}
    else:
        everywhere = np.ones_like(stage_rows)
        hide_all = any(stage in whole for stage in STAGES)
        stages = dict.fromkeys(STAGES, everywhere if hide_all else stage_rows)
    return Hidden(total_hidden, hidden | stages)


def _hidden_in_total(counts: StratumCounts, min_cell: int) -> frozenset[Outcome]:
    """Outcomes hidden in the dimension's total row."""
    total = int(counts.totals.sum())
    sums = {outcome: int(positives.sum()) for outcome, positives in counts.positives.items()}
    hidden = {
        outcome
        for outcome, count in sums.items()
        if outcome not in STAGES and _is_small(count, total, min_cell)
    }
    if Outcome.STAGE_GE_1 in hidden:
        return frozenset(hidden | set(STAGES))
    stages = np.array([sums[stage] for stage in STAGES])
    flags = hide_until_safe(stages < min_cell, [stages], min_cell)
    return frozenset(hidden | {stage for stage, flag in zip(STAGES, flags, strict=True) if flag})


def _is_small(count: int, total: int, min_cell: int) -> bool:
    return count < min_cell or total - count < min_cell


def _hide_outcome(
    totals: Counts, positives: Counts, total_hidden: Bool, *, min_cell: int, whole: bool
) -> Bool:
    if whole:
        return np.ones(len(totals), dtype=np.bool_)
    negatives = totals - positives
    small = total_hidden | (positives < min_cell) | (negatives < min_cell)
    return hide_until_safe(small, [positives, negatives], min_cell)


def _hide_stages(counts: StratumCounts, ge_1_hidden: Bool, min_cell: int) -> Bool:
    stages = [counts.positives[stage] for stage in STAGES]
    small = ge_1_hidden | np.any([stage < min_cell for stage in stages], axis=0)
    return hide_until_safe(small, stages, min_cell)


def hide_until_safe(hidden: Bool, columns: Sequence[Counts], min_cell: int) -> Bool:
    """Hide the next smallest rows until each column's hidden part is at least two rows and `min_cell`.

    Args:
        hidden: (S,) rows hidden already.
        columns: (S,) counts whose sums over all rows are published.
        min_cell: what the hidden rows of each column must add up to.
    """
    hidden = hidden.copy()
    while hidden.any() and not hidden.all():
        lacking = [column for column in columns if column[hidden].sum() < min_cell]
        if hidden.sum() >= 2 and not lacking:
            break
        smallest = np.where(hidden, np.iinfo(np.int64).max, (lacking or columns)[0])
        hidden[np.argmin(smallest)] = True
    return hidden
