from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import CalibrationError
from calibration.reliability import (
    BinRule,
    brier_score,
    calibration_line,
    draw_reliability,
    expected_calibration_error,
    reliability_bins,
    top_label,
)
from calibration.scaling import logit, sigmoid

pairs = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=80)


def drawn(size: int, slope: float = 1, intercept: float = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and outcomes whose log-odds are slope * logit(p) + intercept."""
    rng = np.random.default_rng(seed)
    log_odds = rng.normal(scale=1.5, size=size)
    outcomes = (rng.random(size) < sigmoid(slope * log_odds + intercept)).astype(int)
    return sigmoid(log_odds), outcomes


def test_ece_by_hand() -> None:
    probabilities, outcomes = [0.1, 0.2, 0.7, 0.8], [0, 1, 1, 1]
    # Two bins: |0.15 - 0.5| and |0.75 - 1|, half of the images each.
    for rule in ("equal_mass", "equal_width"):
        error = expected_calibration_error(probabilities, outcomes, num_bins=2, rule=rule)
        assert error == pytest.approx(0.3)


def test_bin_rules_differ_where_mass_is_uneven() -> None:
    probabilities, outcomes = [0.01, 0.02, 0.03, 0.9], [0, 0, 1, 1]
    sizes = {
        rule: [
            each.observed.num_trials
            for each in reliability_bins(probabilities, outcomes, num_bins=2, rule=rule)
        ]
        for rule in ("equal_mass", "equal_width")
    }
    assert sizes == {"equal_mass": [2, 2], "equal_width": [3, 1]}


def test_equal_probabilities_share_a_bin_whatever_their_order() -> None:
    probabilities = [0.2] * 5 + [0.7] * 5
    for outcomes in ([0, 0, 0, 0, 1, 0, 1, 1, 1, 1], [1, 0, 0, 0, 0, 1, 1, 1, 1, 0]):
        bins = reliability_bins(probabilities, outcomes, num_bins=4)
        assert [each.observed.num_trials for each in bins] == [5, 5]
        assert expected_calibration_error(probabilities, outcomes, num_bins=4) == pytest.approx(0.05)


@pytest.mark.parametrize("rule", ["equal_mass", "equal_width"])
@given(rows=pairs)
def test_bins_partition_the_images(rule: BinRule, rows: list[tuple[float, int]]) -> None:
    probabilities, outcomes = zip(*rows, strict=True)
    bins = reliability_bins(probabilities, outcomes, rule=rule)
    assert sum(each.observed.num_trials for each in bins) == len(rows)
    assert sum(each.observed.num_hits for each in bins) == sum(outcomes)
    means = [each.mean_probability for each in bins]
    assert means == sorted(means)
    assert 0 <= expected_calibration_error(probabilities, outcomes, rule=rule) <= 1


def test_ece_is_small_for_true_probabilities_and_large_for_overconfident_ones() -> None:
    probabilities, outcomes = drawn(20_000)
    assert expected_calibration_error(probabilities, outcomes) < 0.015
    overconfident = sigmoid(3 * logit(probabilities))
    assert expected_calibration_error(overconfident, outcomes) > 0.1


def test_brier_by_hand() -> None:
    assert brier_score([0.1, 0.8], [0, 1]) == pytest.approx((0.01 + 0.04) / 2)
    assert brier_score([[0.5, 0.3, 0.2, 0.0]], [1]) == pytest.approx(0.25 + 0.49 + 0.04)


def test_top_label() -> None:
    confidence, right = top_label([[0.1, 0.6, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]], [1, 2])
    assert confidence.tolist() == [0.6, 0.4]
    assert right.tolist() == [1, 0]


def test_slope_and_intercept_agree_with_statsmodels() -> None:
    probabilities, outcomes = drawn(3000, slope=0.6, intercept=-0.5, seed=1)
    log_odds = logit(probabilities)
    slope = sm.Logit(outcomes, sm.add_constant(log_odds)).fit(disp=False).params[1]
    large = sm.GLM(outcomes, np.ones(3000), family=sm.families.Binomial(), offset=log_odds).fit().params[0]
    line = calibration_line(probabilities, outcomes)
    assert line.slope == pytest.approx(slope, abs=1e-4)
    assert line.intercept == pytest.approx(large, abs=1e-4)
    assert line.slope == pytest.approx(0.6, abs=0.08)


def test_separable_outcomes_end_at_the_bound() -> None:
    assert calibration_line([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1]).slope == pytest.approx(50, abs=45)


@pytest.mark.parametrize(("probabilities", "outcomes"), [([], []), ([0.1], [0, 1]), ([0.1, 0.2], [1, 1])])
def test_unusable_outcomes(probabilities: list[float], outcomes: list[int]) -> None:
    with pytest.raises(CalibrationError):
        calibration_line(probabilities, outcomes)


def test_diagram_is_a_png(tmp_path: Path) -> None:
    bins = reliability_bins(*drawn(500))
    draw_reliability({"pneumoconiosis": bins}, tmp_path / "reliability.png")
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
