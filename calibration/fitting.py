"""Labelled logits to a whole `Calibration`: scaling of every head, then thresholds at required sensitivities.

Thresholds are chosen on the scaled probabilities and never lie above one half. Questionable: the defaults
ask for 0.95 sensitivity for pneumoconiosis (a screening programme's miss is not seen again for years) and
0.90 for tuberculosis (the triage target of WHO's product profile); a site sets its own.

Shape letters: N images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from calibration.model_calibration import Calibration
from calibration.operating_points import OperatingPoint, choose_threshold, operating_curve
from calibration.prior_shift import label_shift_bias, shift_bias
from calibration.scaling import Float64, Scaling
from calibration.temperature import fit_platt, fit_temperature, fit_vector
from calibration.threshold_set import FittedOn

UNREAD = -1
"""Label of a film that was not read for a head."""
StageMethod = Literal["temperature", "vector"]
TB_PRIORITY_SPECIFICITY = 0.98
"""Specificity from which a suspicion of tuberculosis is read first: two in a hundred healthy at most (E)."""


@dataclass(frozen=True, slots=True)
class Requirements:
    """What the thresholds must reach on the readings."""

    sensitivity: float = 0.95
    """For pneumoconiosis and for stage I or more."""
    tb_sensitivity: float = 0.90
    tb_priority_specificity: float = TB_PRIORITY_SPECIFICITY
    prevalence: float | None = None
    """Prevalence of pneumoconiosis expected in use; None keeps that of the readings."""
    tb_prevalence: float | None = None


@dataclass(frozen=True, slots=True)
class LabelFit:
    """Scaling of one label (or of the stage head) and the operating point chosen on it."""

    scaling: Scaling
    probabilities: Float64
    """(N,) calibrated probabilities at the prevalence in use: of the label, or of stage I or more."""
    at_readings: Float64
    """(N,) the same at the prevalence of the readings, which is what they can be compared with."""
    point: OperatingPoint


def fit_label(
    logits_N: npt.ArrayLike, labels_N: npt.ArrayLike, sensitivity: float, prevalence: float | None = None
) -> LabelFit:
    """Fit one independent label: Platt scaling, moved to the prevalence, and a threshold.

    Args:
        logits_N: (N,) log-odds.
        labels_N: (N,) 0 or 1.
        sensitivity: required of the threshold.
        prevalence: prevalence in use; None keeps that of the readings.

    Raises:
        CalibrationError: a class is missing, or a number is out of range.
    """
    labels = np.asarray(labels_N)
    fitted = scaling = fit_platt(logits_N, labels)
    if prevalence is not None:
        scaling = fitted.shifted(label_shift_bias(float(labels.mean()), prevalence))
    probabilities = scaling.label(logits_N)
    curve = operating_curve(probabilities, labels, prevalence=prevalence)
    return LabelFit(scaling, probabilities, fitted.label(logits_N), choose_threshold(curve, sensitivity))


def fit_stage(
    logits_NK: npt.ArrayLike,
    stages_N: npt.ArrayLike,
    sensitivity: float,
    prevalence: float | None = None,
    *,
    method: StageMethod = "vector",
) -> LabelFit:
    """Fit the stage head, and a threshold on P(stage I or more).

    A prevalence moves stage 0 against the three others, whose proportions are kept.

    Args:
        logits_NK: (N, 4) logits or log-probabilities of stage 0, I, II, III.
        stages_N: (N,) 0 to 3.
        sensitivity: required of the threshold.
        prevalence: prevalence of stage I or more in use; None keeps that of the readings.
        method: one temperature, or a weight and a bias for each stage.

    Raises:
        CalibrationError: only one stage occurs, none is above 0, or a number is out of range.
    """
    stages = np.asarray(stages_N)
    positive = (stages >= 1).astype(np.int64)
    fitted = fit_vector(logits_NK, stages) if method == "vector" else fit_temperature(logits_NK, stages)
    scaling = fitted
    if prevalence is not None and 0 < positive.mean() < 1:
        share = float(positive.mean())
        first, others = shift_bias((1 - share, share), (1 - prevalence, prevalence))
        scaling = fitted.shifted((first, others, others, others))
    probabilities, at_readings = (used.classes(logits_NK)[:, 1:].sum(axis=1) for used in (scaling, fitted))
    curve = operating_curve(probabilities, positive, prevalence=prevalence)
    return LabelFit(scaling, probabilities, at_readings, choose_threshold(curve, sensitivity))


def tb_priority_threshold(fit: LabelFit, labels_N: npt.ArrayLike, specificity: float) -> float:
    """Threshold from which tuberculosis is read first; never below the one that suspects it."""
    curve = operating_curve(fit.probabilities, labels_N, prevalence=fit.point.prevalence)
    return max(curve.at_specificity(specificity).threshold, fit.point.threshold)


def fit_calibration(
    diagnosis_logits: npt.ArrayLike,
    diagnosis_labels: npt.ArrayLike,
    stage_logits: npt.ArrayLike,
    stages: npt.ArrayLike,
    *,
    model_sha256: str,
    fitted_on: FittedOn,
    requirements: Requirements | None = None,
    stage_method: StageMethod = "vector",
) -> Calibration:
    """Calibrate every head of a model on labelled images that it was not trained on.

    Args:
        diagnosis_logits: (N, 2) log-odds of pneumoconiosis and tuberculosis.
        diagnosis_labels: (N, 2) 0 or 1, or `UNREAD`.
        stage_logits: (N, 4) logits of stage 0, I, II, III.
        stages: (N,) 0 to 3, or `UNREAD`.
        model_sha256: hash of the model; the calibration is bound to it.
        fitted_on: what the images are.
        requirements: what the thresholds must reach.
        stage_method: temperature or vector scaling of the stage head.

    Returns:
        The calibration. A head that no image was read for keeps the network's own probabilities and the
        default threshold; `calibrated` then is False.

    Raises:
        CalibrationError: a class is missing, or a number is out of range.
    """
    needs = requirements or Requirements()
    logits, labels = np.asarray(diagnosis_logits), np.asarray(diagnosis_labels)
    found = Calibration.identity(model_sha256)
    chosen, read = found.thresholds, labels != UNREAD
    if read[:, 0].any():
        first = fit_label(*_read(logits[:, 0], labels[:, 0]), needs.sensitivity, needs.prevalence)
        found = replace(found, pneumoconiosis=first.scaling, prevalence=first.point.prevalence)
        chosen = replace(chosen, pneumoconiosis=first.point.threshold)
    if read[:, 1].any():
        tb_logits, tb_labels = _read(logits[:, 1], labels[:, 1])
        second = fit_label(tb_logits, tb_labels, needs.tb_sensitivity, needs.tb_prevalence)
        priority = tb_priority_threshold(second, tb_labels, needs.tb_priority_specificity)
        found = replace(found, tb=second.scaling, tb_prevalence=second.point.prevalence)
        chosen = replace(chosen, tb=second.point.threshold, tb_priority=priority)
    staged = bool((np.asarray(stages) != UNREAD).any())
    if staged:
        known = _read(stage_logits, stages)
        stage = fit_stage(*known, needs.sensitivity, needs.prevalence, method=stage_method)
        found, chosen = (
            replace(found, stage=stage.scaling),
            replace(chosen, stage_positive=stage.point.threshold),
        )
    return replace(
        found,
        thresholds=chosen,
        threshold_set_id=f"bundle-{model_sha256[:12]}",
        calibrated=bool(read.any(axis=0).all()) and staged,
        fitted_on=fitted_on,
    )


def _read(logits: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[Float64, npt.NDArray[np.int64]]:
    """The images that were read, with their labels."""
    known = np.asarray(labels) != UNREAD
    return np.asarray(logits, dtype=np.float64)[known], np.asarray(labels, dtype=np.int64)[known]
