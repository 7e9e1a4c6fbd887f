"""Probabilities and outcomes to how far they can be believed: reliability bins, ECE, Brier, slope, diagram.

Questionable: ECE depends on its bins, so the rule is part of every figure. The default is 15 bins of equal
mass (a quantile each): bins of equal width leave most of a screening campaign in the first one.

Shape letters: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError
from calibration.operating_points import Rate
from calibration.scaling import Float64, logit, sigmoid

BinRule = Literal["equal_mass", "equal_width"]
NUM_BINS = 15


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Images of similar probability."""

    mean_probability: float
    observed: Rate
    """Share of them in which the event was found."""


@dataclass(frozen=True, slots=True)
class CalibrationLine:
    """Logistic recalibration: 1 and 0 when the probabilities are right."""

    slope: float
    """Of the outcome on the log-odds; below 1 is overconfident."""
    intercept: float
    """With the slope held at 1 (calibration in the large); above 0 is too low on average."""


def reliability_bins(
    probabilities_N: npt.ArrayLike,
    outcomes_N: npt.ArrayLike,
    *,
    num_bins: int = NUM_BINS,
    rule: BinRule = "equal_mass",
) -> tuple[ReliabilityBin, ...]:
    """Group images by probability, rising. Bins without images are left out.

    Args:
        probabilities_N: (N,) in [0, 1].
        outcomes_N: (N,) 0 or 1.
        num_bins: bins at most; `equal_mass` has no more than images.
        rule: `equal_mass` splits the sorted images, `equal_width` the interval 0 to 1. Images of one
            probability always share a bin.

    Raises:
        CalibrationError: no images, or lengths differ.
    """
    probabilities, outcomes = _checked(probabilities_N, outcomes_N)
    return tuple(
        ReliabilityBin(float(probabilities[group].mean()), Rate.of(int(outcomes[group].sum()), group.size))
        for group in _groups(probabilities, num_bins, rule)
    )


def expected_calibration_error(
    probabilities_N: npt.ArrayLike,
    outcomes_N: npt.ArrayLike,
    *,
    num_bins: int = NUM_BINS,
    rule: BinRule = "equal_mass",
) -> float:
    """Mean distance of probability and observed share over the bins, weighted by their images."""
    probabilities, outcomes = _checked(probabilities_N, outcomes_N)
    distances = (
        abs(float(probabilities[group].mean() - outcomes[group].mean())) * group.size
        for group in _groups(probabilities, num_bins, rule)
    )
    return sum(distances) / probabilities.size


def top_label(
    probabilities_NK: npt.ArrayLike, labels_N: npt.ArrayLike
) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Confidence (N,) in the most probable class, and whether it was right (N,), for the ECE of K classes."""
    probabilities = np.asarray(probabilities_NK, dtype=np.float64)
    right = probabilities.argmax(axis=1) == np.asarray(labels_N)
    return probabilities.max(axis=1), right.astype(np.int64)


def brier_score(probabilities: npt.ArrayLike, labels_N: npt.ArrayLike) -> float:
    """Mean squared error of the probabilities: of one event (N,), or summed over K classes (N, K)."""
    values, labels = np.asarray(probabilities, dtype=np.float64), np.asarray(labels_N)
    if values.ndim == 1:
        return float(np.mean((values - labels) ** 2))
    one_hot = labels[:, None] == np.arange(values.shape[1])
    return float(np.mean(((values - one_hot) ** 2).sum(axis=1)))


def calibration_line(probabilities_N: npt.ArrayLike, outcomes_N: npt.ArrayLike) -> CalibrationLine:
    """Slope and intercept of logistic recalibration (Cox 1958).

    Raises:
        CalibrationError: no images, lengths differ, or one of the outcomes is missing.
    """
    probabilities, outcomes = _checked(probabilities_N, outcomes_N)
    if np.unique(outcomes).size < 2:
        raise CalibrationError("slope needs images with and without the event")
    log_odds = logit(probabilities)
    slope = _logistic(np.stack([log_odds, np.ones_like(log_odds)], axis=1), outcomes, np.zeros_like(log_odds))
    intercept = _logistic(np.ones((log_odds.size, 1)), outcomes, log_odds)
    return CalibrationLine(float(slope[0]), float(intercept[0]))


def _logistic(design: Float64, outcomes: Float64, offset: Float64) -> Float64:
    """Maximum likelihood coefficients of a logistic regression, bounded at +-50 when separable."""
    from scipy.optimize import minimize

    def loss(coefficients: Float64) -> tuple[float, Float64]:
        linear = design @ coefficients + offset
        value = np.mean(np.logaddexp(0, linear) - outcomes * linear)
        return float(value), design.T @ (sigmoid(linear) - outcomes) / outcomes.size

    width = design.shape[1]
    found = minimize(
        loss,
        np.zeros(width),
        jac=True,
        bounds=[(-50, 50)] * width,
        method="L-BFGS-B",
        options={"ftol": 1e-13},
    )
    return np.asarray(found.x, dtype=np.float64)


def draw_reliability(curves: Mapping[str, tuple[ReliabilityBin, ...]], file: Path) -> None:
    """Draw a reliability diagram as PNG: observed share with its interval against mean probability.

    Args:
        curves: bins by legend text.
        file: where the PNG is written.

    Raises:
        CalibrationError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CalibrationError("drawing needs matplotlib: pip install '.[train]'") from error
    figure = Figure(figsize=(5.2, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="perfect")
    for name, bins in curves.items():
        observed = np.array([(each.observed.value, each.observed.low, each.observed.high) for each in bins])
        errors = np.abs(observed[:, 1:].T - observed[:, 0])
        means = [each.mean_probability for each in bins]
        axes.errorbar(means, observed[:, 0], yerr=errors, marker="o", markersize=4, capsize=2, label=name)
    axes.set_xlabel("calibrated probability")
    axes.set_ylabel("observed share (95 % Clopper-Pearson)")
    axes.legend(loc="upper left")
    figure.savefig(file, dpi=120)


def _groups(probabilities: Float64, num_bins: int, rule: BinRule) -> list[npt.NDArray[np.int64]]:
    """Positions of the images of each bin that has any, by rising probability."""
    order = np.argsort(probabilities, kind="stable")
    rising = probabilities[order]
    bounds = np.linspace(0, 1, num_bins + 1)[1:-1]
    if rule == "equal_mass":
        # A bound in the middle of equal probabilities would part images that nothing tells apart.
        firsts = [group[0] for group in np.array_split(np.arange(rising.size), min(num_bins, rising.size))]
        bounds = rising[firsts[1:]]
    groups = np.split(order, np.searchsorted(rising, bounds))
    return [group for group in groups if group.size]


def _checked(probabilities: npt.ArrayLike, outcomes: npt.ArrayLike) -> tuple[Float64, Float64]:
    values, events = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if values.shape != events.shape or values.ndim != 1 or not values.size:
        raise CalibrationError(
            f"{values.size} probabilities and {events.size} outcomes: expected as many, above 0"
        )
    return values, events
