"""Suppression against an attacker who solves for the hidden cells with linear programs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from screener.epidemiology.outcomes import STAGES, Outcome
from screener.epidemiology.suppression import Hidden, StratumCounts, suppress

MIN_CELL = 5


def counts_of(rows: list[tuple[int, int, int, int, int, int]]) -> StratumCounts:
    """(stage 0, I, II, III, tuberculosis among all, both) of every stratum."""
    table = np.array(rows, dtype=np.int64).reshape(-1, 6)
    totals = table[:, :4].sum(axis=1)
    tb = np.minimum(table[:, 4], totals)
    ge_1 = table[:, 1:4].sum(axis=1)
    positives = {
        Outcome.PNEUMOCONIOSIS: ge_1,
        Outcome.STAGE_GE_1: ge_1,
        Outcome.STAGE_1: table[:, 1],
        Outcome.STAGE_2: table[:, 2],
        Outcome.STAGE_3: table[:, 3],
        Outcome.TB: tb,
        Outcome.BOTH: np.minimum(np.minimum(tb, ge_1), table[:, 5]),
    }
    return StratumCounts(totals, positives)


def whole(counts: StratumCounts) -> StratumCounts:
    """The dimension's total row as one stratum, as the report publishes it."""
    return StratumCounts(
        counts.totals.sum(keepdims=True),
        {outcome: values.sum(keepdims=True) for outcome, values in counts.positives.items()},
    )


class Attacker:
    """Knows every published cell and total; asks how large and small a hidden cell can be."""

    def __init__(self, counts: StratumCounts, hidden: Hidden, total_hidden: Hidden) -> None:
        self.size = len(counts.totals)
        self.names = ["total", "stage_0", *STAGES, Outcome.TB, Outcome.BOTH]
        known_whole = whole(counts)
        self.rows: list[np.ndarray] = []
        self.values: list[float] = []
        for stratum in range(self.size):
            self.equal({("total", stratum): 1} | {(name, stratum): -1 for name in ("stage_0", *STAGES)}, 0)
            if not hidden.totals[stratum]:
                self.equal({("total", stratum): 1}, counts.totals[stratum])
            for outcome, terms in self.published().items():
                if not hidden.positives[outcome][stratum]:
                    self.equal({(name, stratum): 1 for name in terms}, counts.positives[outcome][stratum])
        if not total_hidden.totals[0]:
            self.equal({("total", stratum): 1 for stratum in range(self.size)}, counts.totals.sum())
        for outcome, terms in self.published().items():
            if not total_hidden.positives[outcome][0]:
                cells = {(name, stratum): 1 for name in terms for stratum in range(self.size)}
                self.equal(cells, known_whole.positives[outcome][0])

    @staticmethod
    def published() -> dict[Outcome, tuple[str, ...]]:
        return {
            Outcome.STAGE_GE_1: tuple(STAGES),
            **{stage: (stage,) for stage in STAGES},
            Outcome.TB: (Outcome.TB,),
            Outcome.BOTH: (Outcome.BOTH,),
        }

    def equal(self, cells: dict[tuple[str, int], int], value: float) -> None:
        row = np.zeros(len(self.names) * self.size)
        for (name, stratum), weight in cells.items():
            row[self.names.index(name) * self.size + stratum] += weight
        self.rows.append(row)
        self.values.append(float(value))

    def largest(self, cells: dict[tuple[str, int], int]) -> float:
        """Upper bound of a sum of cells: each at least zero, an outcome at most its stratum's size."""
        objective = np.zeros(len(self.names) * self.size)
        for (name, stratum), weight in cells.items():
            objective[self.names.index(name) * self.size + stratum] = -weight
        limits, bounds = [], []
        for outcome in (Outcome.TB, Outcome.BOTH):
            for stratum in range(self.size):
                row = np.zeros(len(objective))
                row[self.names.index(outcome) * self.size + stratum] = 1
                row[stratum] = -1
                limits.append(row)
                bounds.append(0.0)
        solved = linprog(
            objective, np.array(limits), bounds, np.array(self.rows), self.values, method="highs"
        )
        if solved.status == 3:  # unbounded
            return np.inf
        assert solved.status == 0, solved.message
        return float(-solved.fun)


def assert_nothing_small_is_proven(counts: StratumCounts) -> None:
    hidden, in_total = suppress(counts, min_cell=MIN_CELL), suppress(whole(counts), min_cell=MIN_CELL)
    attacker = Attacker(counts, hidden, in_total)
    for stratum in range(attacker.size):
        total = int(counts.totals[stratum])
        if total < MIN_CELL:
            assert hidden.totals[stratum]
            if counts.totals.sum() >= MIN_CELL:
                assert attacker.largest({("total", stratum): 1}) >= MIN_CELL - 1e-6
        for outcome, terms in attacker.published().items():
            count = int(counts.positives[outcome][stratum])
            if count < MIN_CELL:
                assert hidden.positives[outcome][stratum]
                if counts.positives[outcome].sum() >= MIN_CELL:
                    largest = attacker.largest({(name, stratum): 1 for name in terms})
                    assert largest >= MIN_CELL - 1e-6, (outcome, stratum)
            if total - count < MIN_CELL:
                assert hidden.positives[outcome][stratum], "the negatives are a small cell too"


row = st.tuples(
    st.integers(0, 60),
    st.integers(0, 20),
    st.integers(0, 12),
    st.integers(0, 8),
    st.integers(0, 9),
    st.integers(0, 5),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(row, min_size=1, max_size=6))
def test_no_small_cell_can_be_proven(rows: list[tuple[int, int, int, int, int, int]]) -> None:
    assert_nothing_small_is_proven(counts_of(rows))


def test_a_single_small_cell_takes_a_second_one_with_it() -> None:
    counts = counts_of([(200, 30, 9, 6, 12, 6), (200, 25, 8, 7, 3, 0), (200, 40, 10, 9, 20, 9)])
    hidden = suppress(counts, min_cell=MIN_CELL)
    assert hidden.positives[Outcome.TB].tolist() == [True, True, False]
    assert hidden.positives[Outcome.STAGE_GE_1].tolist() == [False, False, False]
    assert_nothing_small_is_proven(counts)


def test_few_healthy_persons_are_a_small_cell_too() -> None:
    counts = counts_of([(2, 60, 20, 18, 20, 9), (200, 25, 8, 7, 30, 9), (200, 40, 10, 9, 20, 9)])
    hidden = suppress(counts, min_cell=MIN_CELL)
    assert hidden.positives[Outcome.STAGE_GE_1][0]
    assert hidden.positives[Outcome.STAGE_GE_1].sum() >= 2


def test_nothing_is_hidden_when_every_cell_is_large() -> None:
    counts = counts_of([(200, 30, 9, 6, 12, 6)] * 3)
    hidden = suppress(counts, min_cell=MIN_CELL)
    assert not any(flags.any() for flags in hidden.positives.values())
    assert not hidden.totals.any()


def test_suppression_can_be_turned_off() -> None:
    hidden = suppress(counts_of([(2, 1, 0, 0, 0, 0)]), min_cell=0)
    assert not any(flags.any() for flags in hidden.positives.values())
