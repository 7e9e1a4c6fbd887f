from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import approx_fprime, minimize_scalar

from calibration import temperature
from calibration.errors import CalibrationError
from calibration.prior_shift import estimate_prevalence, label_shift_bias, shift_bias
from calibration.scaling import Scaling, log_probabilities, log_softmax, logit, sigmoid
from calibration.temperature import fit_platt, fit_temperature, fit_vector

finite = st.floats(-30, 30)


def classes_drawn_from(logits: np.ndarray, seed: int) -> np.ndarray:
    """Labels that the logits are perfectly calibrated for."""
    noise = np.random.default_rng(seed).gumbel(size=logits.shape)
    return np.asarray((logits + noise).argmax(axis=1))


def nll(scaling: Scaling, logits: np.ndarray, labels: np.ndarray) -> float:
    return -float(np.log(scaling.classes(logits)[np.arange(labels.size), labels]).mean())


@given(st.lists(finite, min_size=1, max_size=8))
def test_sigmoid_and_logit_are_inverse(values: list[float]) -> None:
    inner = np.clip(values, -14, 14)
    assert logit(sigmoid(inner)) == pytest.approx(inner, abs=1e-6)


def test_extreme_scores_stay_finite() -> None:
    assert sigmoid([-1e4, 1e4]).tolist() == [0, 1]
    assert np.isfinite(logit([0.0, 1.0])).all()
    assert np.isfinite(log_probabilities([0.0, 1.0])).all()
    assert log_softmax([[1e4, 0, 0, 0]])[0, 0] == 0


@given(low=finite, step=st.floats(0.01, 10), weight=st.floats(0.01, 10), bias=st.floats(-5, 5))
def test_a_label_is_calibrated_monotonically(low: float, step: float, weight: float, bias: float) -> None:
    scaling = Scaling("platt", (weight,), (bias,))
    before, after = scaling.label([low, low + step])
    assert before <= after


@given(st.lists(finite, min_size=4, max_size=4), st.floats(-20, 20))
def test_stage_scaling_depends_on_probabilities_alone(logits: list[float], constant: float) -> None:
    scaling = Scaling("vector", (0.5, 1.0, 1.5, 2.0), (0.1, -0.2, 0.3, 0.0))
    moved = np.array([logits]) + constant
    assert scaling.classes([logits]) == pytest.approx(scaling.classes(moved), abs=1e-9)
    assert scaling.classes([logits]).sum() == pytest.approx(1)


@given(st.lists(finite, min_size=4, max_size=4))
def test_identity_is_softmax(logits: list[float]) -> None:
    expected = np.exp(logits - np.max(logits))
    assert Scaling.identity(4).classes([logits])[0] == pytest.approx(expected / expected.sum())


@pytest.mark.parametrize("weight", [(0.0,), (-1.0,), (float("nan"),), (1.0, 1.0), ()])
def test_scalings_that_turn_patients_round_are_refused(weight: tuple[float, ...]) -> None:
    with pytest.raises(CalibrationError, match="positive weights"):
        Scaling("platt", weight, (0.0,))


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 2.5])
def test_temperature_finds_the_one_that_made_the_labels(true_temperature: float) -> None:
    logits = np.random.default_rng(1).normal(scale=2, size=(20_000, 4))
    labels = classes_drawn_from(logits, 2)
    fitted = fit_temperature(logits * true_temperature, labels)
    assert 1 / fitted.weight[0] == pytest.approx(true_temperature, rel=0.04)
    assert len(set(fitted.weight)) == 1
    assert set(fitted.bias) == {0.0}


def test_temperature_agrees_with_a_line_search() -> None:
    logits = np.random.default_rng(3).normal(scale=4, size=(300, 4))
    labels = classes_drawn_from(logits / 3, 4)
    search = minimize_scalar(
        lambda t: nll(Scaling("temperature", (1 / t,) * 4, (0.0,) * 4), logits, labels), bounds=(0.1, 20)
    )
    assert 1 / fit_temperature(logits, labels).weight[0] == pytest.approx(search.x, rel=1e-3)


def test_vector_scaling_corrects_what_a_temperature_cannot() -> None:
    true = np.random.default_rng(5).normal(scale=2, size=(20_000, 4))
    labels = classes_drawn_from(true, 6)
    biased = true + np.array([1.5, 0, 0, -1.0])
    fitted = fit_vector(biased, labels)
    assert nll(fitted, biased, labels) < nll(fit_temperature(biased, labels), biased, labels) - 0.05
    ideal = nll(Scaling.identity(4), true, labels)
    assert nll(fitted, biased, labels) == pytest.approx(ideal, abs=0.005)


def test_platt_agrees_with_logistic_regression() -> None:
    rng = np.random.default_rng(7)
    scores = rng.normal(scale=3, size=5000)
    labels = (rng.random(5000) < sigmoid(0.4 * scores - 1)).astype(int)
    reference = sm.Logit(labels, sm.add_constant(scores)).fit(disp=False).params
    fitted = fit_platt(scores, labels)
    # Platt's smoothed targets pull by about one image in each class.
    assert fitted.weight[0] == pytest.approx(reference[1], rel=0.01)
    assert fitted.bias[0] == pytest.approx(reference[0], rel=0.01)


def test_platt_stays_finite_when_classes_do_not_overlap() -> None:
    fitted = fit_platt([-3, -2, -1, 1, 2, 3], [0, 0, 0, 1, 1, 1])
    assert 0 < fitted.weight[0] < 10
    assert fitted.label([3.0])[0] < 0.95


def test_platt_keeps_the_order_of_a_useless_score() -> None:
    assert fit_platt([3, 2, 1, -1, -2, -3], [0, 0, 0, 1, 1, 1]).weight[0] > 0


def test_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(8)
    logits, labels = rng.normal(size=(40, 4)), rng.integers(0, 4, 40)
    checked = []

    def check(
        loss: Callable[[np.ndarray], tuple[float, np.ndarray]], start: np.ndarray, bounds: object
    ) -> np.ndarray:
        at = rng.uniform(0.3, 1.5, start.size)
        numeric = approx_fprime(at, lambda p: loss(p)[0], 1e-7)
        checked.append(np.allclose(loss(at)[1], numeric, atol=1e-5))
        return start

    monkeypatch.setattr(temperature, "_minimum", check)
    fit_platt(logits[:, 0], labels % 2)
    fit_temperature(logits, labels)
    fit_vector(logits, labels)
    assert checked == [True, True, True]


@pytest.mark.parametrize(
    ("labels", "match"),
    [([0, 0, 0], "at least two classes"), ([0, 1], "as many"), ([0, 1, 2], "each 0 to 1")],
)
def test_unusable_labels_are_refused(labels: list[int], match: str) -> None:
    with pytest.raises(CalibrationError, match=match):
        fit_platt([0.1, 0.2, 0.3], labels)


@given(
    likelihood=st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
    source=st.floats(0.05, 0.95),
    target=st.floats(0.01, 0.95),
)
def test_label_shift_is_bayes_rule(likelihood: tuple[float, float], source: float, target: float) -> None:
    def posterior(prevalence: float) -> float:
        diseased = likelihood[1] * prevalence
        return diseased / (diseased + likelihood[0] * (1 - prevalence))

    moved = sigmoid(logit(posterior(source)) + label_shift_bias(source, target))
    assert float(moved) == pytest.approx(posterior(target), abs=1e-6)


def test_shifting_a_scaling_is_shifting_its_log_odds() -> None:
    scaling = Scaling("platt", (0.5,), (0.2,))
    assert scaling.shifted(1.0).label([2.0])[0] == pytest.approx(float(sigmoid(0.5 * 2 + 0.2 + 1)))


def test_prevalence_is_found_from_scores_alone() -> None:
    rng = np.random.default_rng(9)
    source, target = np.array([0.5, 0.3, 0.15, 0.05]), np.array([0.8, 0.1, 0.05, 0.05])
    labels = rng.choice(4, size=20_000, p=target)
    features = np.eye(4)[labels] * 2 + rng.normal(size=(20_000, 4))
    # log p(x | k) of unit Gaussians at 2 e_k, times the source's prevalence: the ideal source classifier.
    posterior = np.exp(log_softmax(2 * features + np.log(source)))
    assert estimate_prevalence(posterior, source) == pytest.approx(target, abs=0.015)
    assert posterior.mean(axis=0) != pytest.approx(target, abs=0.05)


@pytest.mark.parametrize("prevalence", [(0.0, 1.0), (0.5, 0.6), (-0.1, 1.1)])
def test_impossible_prevalences_are_refused(prevalence: tuple[float, float]) -> None:
    with pytest.raises(CalibrationError, match="prevalences"):
        shift_bias((0.5, 0.5), prevalence)
