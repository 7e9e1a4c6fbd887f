from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.proportion import proportion_confint

from calibration.errors import CalibrationError
from calibration.operating_points import (
    choose_threshold,
    clopper_pearson,
    operating_curve,
    predictive_values,
)

readings = st.lists(
    st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.integers(0, 1)), min_size=2, max_size=60
).filter(lambda rows: len({label for _, label in rows}) == 2)


@pytest.mark.parametrize("trials", [1, 2, 17, 400])
def test_clopper_pearson_agrees_with_statsmodels(trials: int) -> None:
    for hits in {0, 1, trials // 2, trials - 1, trials}:
        expected = proportion_confint(hits, trials, alpha=0.05, method="beta")
        low, high = clopper_pearson(hits, trials)
        assert low == pytest.approx(expected[0] if hits else 0.0)
        assert high == pytest.approx(expected[1] if hits < trials else 1.0)


@pytest.mark.parametrize(("hits", "trials"), [(0, 0), (-1, 3), (4, 3)])
def test_not_a_proportion(hits: int, trials: int) -> None:
    with pytest.raises(CalibrationError, match="not a proportion"):
        clopper_pearson(hits, trials)


# Published arithmetic: sensitivity 0.95, specificity 0.90 give PPV 0.38 at 6 % and 0.16 at 2 %.
@pytest.mark.parametrize(("prevalence", "expected"), [(0.06, 0.38), (0.02, 0.16)])
def test_predictive_values_at_a_prevalence(prevalence: float, expected: float) -> None:
    ppv, npv = predictive_values(0.95, 0.90, prevalence)
    assert ppv == pytest.approx(expected, abs=0.005)
    assert npv == pytest.approx(0.9 * (1 - prevalence) / (0.9 * (1 - prevalence) + 0.05 * prevalence))


def test_predictive_values_of_nobody_are_unknown() -> None:
    assert predictive_values(0, 1, 0.1) == (None, 0.9)
    assert predictive_values(1, 0, 0.1) == (0.1, None)


@given(rows=readings, prevalence=st.floats(0.01, 0.9))
def test_every_threshold_counts_what_it_refers(rows: list[tuple[float, int]], prevalence: float) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    curve = operating_curve(scores, labels, prevalence=prevalence)
    assert len(curve.thresholds) == len(set(scores)) + 1
    for index, threshold in enumerate(curve.thresholds):
        referred = scores >= threshold
        sensitivity = referred[labels == 1].mean()
        false = referred[labels == 0].mean()
        assert curve.sensitivity[index] == pytest.approx(sensitivity)
        assert curve.specificity[index] == pytest.approx(1 - false)
        assert curve.missed_per_1000[index] == pytest.approx(1000 * prevalence * (1 - sensitivity))
        expected = 1000 * (prevalence * sensitivity + (1 - prevalence) * false)
        assert curve.referred_per_1000[index] == pytest.approx(expected)


@given(rows=readings, required=st.floats(0.05, 1))
def test_required_sensitivity_is_reached_with_the_fewest_referrals(
    rows: list[tuple[float, int]], required: float
) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    point = operating_curve(scores, labels).at_sensitivity(required)
    assert np.mean(scores[labels == 1] >= point.threshold) >= required - 1e-9
    assert point.sensitivity.low <= point.sensitivity.value <= point.sensitivity.high
    next_score = scores[scores >= point.threshold].min()
    assert np.mean(scores[labels == 1] > next_score) < required


@given(rows=readings, required=st.floats(0.05, 1))
def test_a_chosen_threshold_keeps_its_sensitivity_and_never_passes_one_half(
    rows: list[tuple[float, int]], required: float
) -> None:
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    point = choose_threshold(operating_curve(scores, labels), required)
    assert point.threshold <= 0.5
    referred = scores >= point.threshold
    assert referred[labels == 1].mean() >= required - 1e-9
    assert point.sensitivity.value == pytest.approx(referred[labels == 1].mean())
    assert point.specificity.value == pytest.approx(1 - referred[labels == 0].mean())


def test_rounding_to_float32_does_not_turn_the_film_that_set_the_threshold() -> None:
    scores = np.random.default_rng(0).random(200) * 0.4
    labels = (np.arange(200) % 2).astype(int)
    point = choose_threshold(operating_curve(scores, labels), 0.95)
    rounded = scores.astype(np.float32)
    assert np.array_equal(scores >= point.threshold, rounded >= point.threshold)


@pytest.mark.parametrize("required", [0.5, 0.9, 0.99])
def test_required_specificity(required: float) -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 400)
    scores = np.clip(rng.normal(0.4 + 0.2 * labels, 0.15), 0, 1)
    point = operating_curve(scores, labels).at_specificity(required)
    assert np.mean(scores[labels == 0] < point.threshold) >= required
    lower = np.max(scores[scores < point.threshold])
    assert np.mean(scores[labels == 0] < lower) < required


@pytest.mark.parametrize(
    ("scores", "labels", "prevalence", "match"),
    [
        ([0.1, 0.2], [1, 1], None, "need both"),
        ([0.1, 0.2], [0, 1, 1], None, "as many"),
        ([0.1, 0.2], [0, 2], None, "each 0 or 1"),
        ([0.1, 0.2], [0, 1], 0.0, "prevalence"),
    ],
)
def test_unusable_readings(
    scores: list[float], labels: list[int], prevalence: float | None, match: str
) -> None:
    with pytest.raises(CalibrationError, match=match):
        operating_curve(scores, labels, prevalence=prevalence)


@pytest.mark.parametrize("required", [0.0, 1.1])
def test_impossible_requirements(required: float) -> None:
    curve = operating_curve([0.1, 0.9], [0, 1])
    with pytest.raises(CalibrationError, match="required sensitivity"):
        curve.at_sensitivity(required)
    with pytest.raises(CalibrationError, match="required specificity"):
        curve.at_specificity(required)


def test_predictive_values_of_a_curve_are_those_of_its_points() -> None:
    curve = operating_curve([0.1, 0.2, 0.2, 0.6, 0.9], [0, 0, 1, 0, 1], prevalence=0.1)
    for index in range(len(curve.thresholds)):
        point = curve.point(index)
        for values, value in ((curve.ppv, point.ppv), (curve.npv, point.npv)):
            assert values[index] == pytest.approx(float("nan") if value is None else value, nan_ok=True)
