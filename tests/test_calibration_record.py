from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.errors import CalibrationError
from calibration.fitting import (
    UNREAD,
    Requirements,
    fit_calibration,
    fit_label,
    fit_stage,
    tb_priority_threshold,
)
from calibration.model_calibration import Calibration, Thresholds
from calibration.reliability import expected_calibration_error, top_label
from calibration.scaling import Scaling, sigmoid
from calibration.threshold_set import FittedOn, HeadChoice, ThresholdSet

MODEL, OTHER = "a" * 64, "b" * 64
FITTED_ON = FittedOn(400, "simulated opacities in real films", simulated=True)


def readings(size: int = 2000, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Overconfident logits of both heads with their labels, as a network gives them."""
    rng = np.random.default_rng(seed)
    stages = rng.choice(4, size=size, p=[0.5, 0.25, 0.15, 0.1])
    tb = (rng.random(size) < 0.3).astype(int)
    pneumoconiosis = (stages >= 1).astype(int)
    diagnosis_labels = np.stack([pneumoconiosis, tb], axis=1)
    diagnosis = 8 * (diagnosis_labels - 0.5 + rng.normal(scale=0.5, size=(size, 2)))
    stage = 5 * (np.eye(4)[stages] + rng.normal(scale=0.6, size=(size, 4)))
    return diagnosis, diagnosis_labels, stage, stages


def fitted() -> Calibration:
    return fit_calibration(*readings(), model_sha256=MODEL, fitted_on=FITTED_ON)


def chosen() -> ThresholdSet:
    return ThresholdSet(
        MODEL,
        FittedOn(120, "site readings", simulated=False),
        pneumoconiosis=HeadChoice(Scaling("platt", (0.4,), (-2.0,)), 0.1, prevalence=0.06),
    )


def test_fitting_calibrates_unseen_images() -> None:
    diagnosis, labels, stage, stages = readings(4000, seed=1)
    calibrated = fitted().apply(diagnosis, stage)
    raw = Calibration.identity(MODEL).apply(diagnosis, stage)
    assert expected_calibration_error(raw.pneumoconiosis, labels[:, 0]) > 0.05
    assert expected_calibration_error(calibrated.pneumoconiosis, labels[:, 0]) < 0.03
    assert expected_calibration_error(calibrated.tb, labels[:, 1]) < 0.03
    assert expected_calibration_error(*top_label(raw.stage, stages)) > 0.08
    assert expected_calibration_error(*top_label(calibrated.stage, stages)) < 0.03


def test_thresholds_reach_what_was_required() -> None:
    diagnosis, labels, stage, stages = readings()
    calibration = fitted()
    found = calibration.apply(diagnosis, stage)
    at = calibration.thresholds
    assert np.mean(found.pneumoconiosis[labels[:, 0] == 1] >= at.pneumoconiosis) >= 0.95
    assert np.mean(found.tb[labels[:, 1] == 1] >= at.tb) >= 0.90
    assert np.mean(found.stage[stages >= 1, 1:].sum(axis=1) >= at.stage_positive) >= 0.95
    assert np.mean(found.tb[labels[:, 1] == 0] < at.tb_priority) >= 0.98


def test_prevalence_moves_the_mean_probability() -> None:
    diagnosis, labels, stage, stages = readings()
    kept = fit_label(diagnosis[:, 0], labels[:, 0], 0.95)
    moved = fit_label(diagnosis[:, 0], labels[:, 0], 0.95, prevalence=0.06)
    assert kept.probabilities.mean() == pytest.approx(labels[:, 0].mean(), abs=0.01)
    # Reweighted to the campaign's prevalence, the shifted probabilities average to it.
    weights = np.where(labels[:, 0] == 1, 0.06 / labels[:, 0].mean(), 0.94 / (1 - labels[:, 0].mean()))
    assert np.average(moved.probabilities, weights=weights) == pytest.approx(0.06, abs=0.01)
    assert moved.point.prevalence == 0.06
    assert moved.point.sensitivity.value >= 0.95
    staged = fit_stage(stage, stages, 0.95, prevalence=0.06)
    assert np.average(staged.probabilities, weights=weights) == pytest.approx(0.06, abs=0.01)


def test_priority_is_never_below_suspicion() -> None:
    diagnosis, labels, _, _ = readings()
    fit = fit_label(diagnosis[:, 1], labels[:, 1], 0.9)
    assert tb_priority_threshold(fit, labels[:, 1], 0.01) == fit.point.threshold


@given(
    logits=st.lists(st.floats(-20, 20), min_size=2, max_size=2),
    stage=st.lists(st.floats(-20, 20), min_size=4, max_size=4),
)
def test_identity_leaves_probabilities_alone(logits: list[float], stage: list[float]) -> None:
    found = Calibration.identity(MODEL).apply([logits], [stage])
    assert found.pneumoconiosis[0] == pytest.approx(float(sigmoid(logits[0])))
    assert found.tb[0] == pytest.approx(float(sigmoid(logits[1])))
    assert found.stage[0].sum() == pytest.approx(1)
    assert not Calibration.identity(MODEL).calibrated


@pytest.mark.parametrize("calibration", [fitted(), Calibration.identity(MODEL)])
def test_a_calibration_survives_its_file(calibration: Calibration, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    calibration.save(file)
    assert Calibration.load(file, MODEL) == calibration


def test_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    fitted().save(file)
    with pytest.raises(CalibrationError, match=f"model {MODEL[:12]} and this model is {OTHER[:12]}"):
        Calibration.load(file, OTHER)
    with pytest.raises(CalibrationError, match="threshold set site-"):
        replace(fitted(), model_sha256=OTHER).with_thresholds(chosen())


def test_a_threshold_set_survives_its_file_and_names_itself_by_content(tmp_path: Path) -> None:
    file = tmp_path / "thresholds.json"
    chosen().save(file)
    assert ThresholdSet.load(file) == chosen()
    other = replace(chosen(), pneumoconiosis=HeadChoice(Scaling("platt", (0.4,), (-2.0,)), 0.11, 0.06))
    assert other.threshold_set_id != chosen().threshold_set_id


def test_a_threshold_set_replaces_only_what_the_site_read() -> None:
    bundle = fitted()
    site = bundle.with_thresholds(chosen())
    assert site.pneumoconiosis == Scaling("platt", (0.4,), (-2.0,))
    assert (site.tb, site.stage) == (bundle.tb, bundle.stage)
    assert site.thresholds == replace(bundle.thresholds, pneumoconiosis=0.1)
    assert site.threshold_set_id == chosen().threshold_set_id
    assert site.calibrated
    assert (site.prevalence, site.tb_prevalence) == (0.06, bundle.tb_prevalence)
    assert not Calibration.identity(MODEL).with_thresholds(chosen()).calibrated


def test_a_site_threshold_above_the_bundles_priority_raises_that_too() -> None:
    high = replace(chosen(), tb=HeadChoice(Scaling("platt", (1.0,), (0.0,)), 0.95, prevalence=None))
    assert Calibration.identity(MODEL).with_thresholds(high).thresholds.tb_priority == 0.95
    both = replace(
        chosen(), tb=HeadChoice(Scaling("platt", (1.0,), (0.0,)), 0.2, None, priority_threshold=0.6)
    )
    assert Calibration.identity(MODEL).with_thresholds(both).thresholds.tb_priority == 0.6


def test_a_threshold_set_edited_by_hand_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "thresholds.json"
    chosen().save(file)
    content = json.loads(file.read_text())
    content["pneumoconiosis"]["threshold"] = 0.01
    file.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match="changed after it was written"):
        ThresholdSet.load(file)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "not JSON"),
        ("[]", "format None"),
        ('{"format": "screener-calibration/9"}', "expected screener-calibration/1"),
        ('{"format": "screener-calibration/1"}', "not a complete calibration"),
    ],
)
def test_what_is_not_a_calibration_is_refused_by_name(text: str, match: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(text)
    with pytest.raises(CalibrationError, match=match) as caught:
        Calibration.load(file)
    assert "calibration.json" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="No such file"):
        ThresholdSet.load(tmp_path / "thresholds.json")


@pytest.mark.parametrize("field", ["pneumoconiosis", "tb", "stage", "thresholds", "fitted_on"])
def test_damaged_fields_are_refused(field: str, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    fitted().save(file)
    content = json.loads(file.read_text())
    content[field] = 7 if field == "fitted_on" else None
    file.write_text(json.dumps(content))
    with pytest.raises(CalibrationError):
        Calibration.load(file)


@pytest.mark.parametrize(
    "values", [{"tb": 1.5}, {"pneumoconiosis": -0.1}, {"tb": 0.8, "tb_priority": 0.5}, {"tb": float("nan")}]
)
def test_impossible_thresholds_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(CalibrationError, match="threshold"):
        Thresholds(**values)


def test_requirements_reach_the_fit() -> None:
    strict = fit_calibration(
        *readings(), model_sha256=MODEL, fitted_on=FITTED_ON, requirements=Requirements(sensitivity=0.999)
    )
    assert strict.thresholds.pneumoconiosis < fitted().thresholds.pneumoconiosis


def test_films_that_were_not_read_for_a_head_do_not_count() -> None:
    diagnosis, labels, stage, stages = readings()
    labels, stages = labels.copy(), stages.copy()
    labels[::2, 0], stages[::3] = UNREAD, UNREAD
    half = fit_calibration(diagnosis, labels, stage, stages, model_sha256=MODEL, fitted_on=FITTED_ON)
    assert half.tb == fitted().tb
    assert half.pneumoconiosis == fit_label(diagnosis[1::2, 0], labels[1::2, 0], 0.95).scaling
    assert half.calibrated
    labels[:, 1] = UNREAD
    without = fit_calibration(diagnosis, labels, stage, stages, model_sha256=MODEL, fitted_on=FITTED_ON)
    assert without.tb == Calibration.identity(MODEL).tb
    assert without.stage == half.stage
    assert not without.calibrated
