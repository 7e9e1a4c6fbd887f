"""Labelled logits to a `Scaling`, by maximum likelihood: temperature, vector and Platt scaling.

All three negative log-likelihoods are convex in weight and bias, so one bounded quasi-Newton run finds the
only minimum. Questionable: weights are kept at 0.01 or more. A fit that wants less says that the score
carries no information, and a zero or negative weight would turn the order of the patients round.

Shape letters: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from calibration.errors import CalibrationError
from calibration.scaling import Float64, Scaling, log_softmax, sigmoid

_WEIGHT_RANGE = (0.01, 100.0)
_BIAS_RANGE = (-50.0, 50.0)


def fit_platt(logits_N: npt.ArrayLike, labels_N: npt.ArrayLike) -> Scaling:
    """Fit weight and bias of one independent label (Platt 1999, with his smoothed targets).

    The targets (n1 + 1) / (n1 + 2) and 1 / (n0 + 2) keep the fit finite when the classes do not overlap.

    Args:
        logits_N: log-odds of the label.
        labels_N: 0 or 1.

    Raises:
        CalibrationError: a class is missing, or lengths differ.
    """
    logits, labels = _checked(logits_N, labels_N, num_classes=2)
    num_positive = int(labels.sum())
    targets = np.where(
        labels == 1, (num_positive + 1) / (num_positive + 2), 1 / (labels.size - num_positive + 2)
    )

    def loss(parameters: Float64) -> tuple[float, Float64]:
        scaled = parameters[0] * logits + parameters[1]
        residual = sigmoid(scaled) - targets
        value = np.mean(np.logaddexp(0, scaled) - targets * scaled)
        return float(value), np.array([np.mean(residual * logits), np.mean(residual)])

    weight, bias = _minimum(loss, np.array([1.0, 0.0]), [_WEIGHT_RANGE, _BIAS_RANGE])
    return Scaling("platt", (float(weight),), (float(bias),))


def fit_temperature(logits_NK: npt.ArrayLike, labels_N: npt.ArrayLike) -> Scaling:
    """Fit one temperature for K exclusive classes.

    Args:
        logits_NK: logits or log-probabilities of the classes.
        labels_N: class of each image, 0 to K - 1.

    Raises:
        CalibrationError: lengths differ, or fewer than two classes occur.
    """
    logits, labels = _checked(logits_NK, labels_N)
    normal = log_softmax(logits)

    def loss(parameters: Float64) -> tuple[float, Float64]:
        value, residual = _class_loss(parameters[0] * normal, labels)
        return value, np.array([np.sum(residual * normal) / labels.size])

    inverse = float(_minimum(loss, np.array([1.0]), [_WEIGHT_RANGE])[0])
    classes = normal.shape[1]
    return Scaling("temperature", (inverse,) * classes, (0.0,) * classes)


def fit_vector(logits_NK: npt.ArrayLike, labels_N: npt.ArrayLike, *, penalty: float = 1e-3) -> Scaling:
    """Fit a weight and a bias for each of K exclusive classes.

    Args:
        logits_NK: logits or log-probabilities of the classes.
        labels_N: class of each image, 0 to K - 1.
        penalty: pull of the weights towards one common value and of the biases towards zero; it fixes the one
            bias that the likelihood leaves free and steadies small samples.

    Raises:
        CalibrationError: lengths differ, or fewer than two classes occur.
    """
    logits, labels = _checked(logits_NK, labels_N)
    normal = log_softmax(logits)
    classes = normal.shape[1]

    def loss(parameters: Float64) -> tuple[float, Float64]:
        weight, bias = parameters[:classes], parameters[classes:]
        value, residual = _class_loss(weight * normal + bias, labels)
        uneven = weight - weight.mean()
        value += penalty * float(np.sum(uneven**2) + np.sum(bias**2))
        slope = (residual * normal).sum(axis=0) / labels.size + 2 * penalty * uneven
        return value, np.concatenate([slope, residual.sum(axis=0) / labels.size + 2 * penalty * bias])

    start = np.concatenate([np.ones(classes), np.zeros(classes)])
    found = _minimum(loss, start, [_WEIGHT_RANGE] * classes + [_BIAS_RANGE] * classes)
    return Scaling("vector", tuple(map(float, found[:classes])), tuple(map(float, found[classes:])))


def _class_loss(scaled_NK: Float64, labels_N: npt.NDArray[np.int64]) -> tuple[float, Float64]:
    """Mean negative log-likelihood and its residual (N, K): probability less the one-hot label."""
    log_p = log_softmax(scaled_NK)
    rows = np.arange(labels_N.size)
    residual = np.exp(log_p)
    residual[rows, labels_N] -= 1
    return -float(log_p[rows, labels_N].mean()), residual


def _minimum(
    loss: Callable[[Float64], tuple[float, Float64]], start: Float64, bounds: list[tuple[float, float]]
) -> Float64:
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"ftol": 1e-12})
    if not np.all(np.isfinite(found.x)):
        raise CalibrationError("calibration did not converge: the logits hold values that are not finite")
    return np.asarray(found.x, dtype=np.float64)


def _checked(
    logits: npt.ArrayLike, labels: npt.ArrayLike, num_classes: int | None = None
) -> tuple[Float64, npt.NDArray[np.int64]]:
    values, targets = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    limit = num_classes or values.shape[-1]
    if targets.ndim != 1 or len(values) != targets.size or not np.all(np.isin(targets, range(limit))):
        raise CalibrationError(
            f"{len(values)} logits and {targets.size} labels: expected as many labels, each 0 to {limit - 1}"
        )
    if np.unique(targets).size < 2:
        raise CalibrationError("calibration needs readings of at least two classes, found one")
    return values, targets.astype(np.int64)
