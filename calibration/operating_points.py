"""Calibrated probabilities and readings to operating points: what each threshold finds, misses and refers.

Sensitivity and specificity come with Clopper-Pearson intervals; predictive values, referrals and missed cases
are worked out for a stated prevalence, because the readings are rarely a fair sample of the campaign.
Questionable: a threshold lies half way between two observed scores, so that rounding to float32 between a
campaign and the next cannot turn the very film that set it.

Shape letters: N images, T thresholds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from calibration.errors import CalibrationError
from calibration.scaling import Float64

HIGHEST_THRESHOLD = 0.5
"""A film more likely diseased than not is always referred, whatever sensitivity was asked for."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A proportion with its 95 % Clopper-Pearson interval."""

    value: float
    low: float
    high: float
    num_hits: int
    num_trials: int

    @classmethod
    def of(cls, num_hits: int, num_trials: int) -> Rate:
        """The proportion of hits among trials.

        Raises:
            CalibrationError: no trials.
        """
        low, high = clopper_pearson(num_hits, num_trials)
        return cls(num_hits / num_trials, low, high, num_hits, num_trials)


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What one threshold does."""

    threshold: float
    sensitivity: Rate
    specificity: Rate
    prevalence: float
    """Prevalence that the next four are worked out for."""
    ppv: float | None
    """Share of the referred that are diseased; None when nobody is referred."""
    npv: float | None
    """Share of the others that are not; None when everybody is referred."""
    referred_per_1000: float
    missed_per_1000: float


@dataclass(frozen=True, slots=True)
class OperatingCurve:
    """Every threshold that the readings can tell apart, rising: from refer everybody to nearly nobody."""

    scores: Float64
    """(T - 1,) distinct scores, rising."""
    thresholds: Float64
    """(T,) below the first score, half way between neighbours, above the last."""
    num_found: npt.NDArray[np.int64]
    """(T,) diseased at or above the threshold."""
    num_false: npt.NDArray[np.int64]
    """(T,) not diseased at or above the threshold."""
    num_diseased: int
    num_healthy: int
    prevalence: float

    @property
    def sensitivity(self) -> Float64:
        """(T,) share of the diseased that is found."""
        return self.num_found / self.num_diseased

    @property
    def specificity(self) -> Float64:
        """(T,) share of the others that is not referred."""
        return 1 - self.num_false / self.num_healthy

    @property
    def referred_per_1000(self) -> Float64:
        """(T,) referrals expected among 1,000 films at the prevalence."""
        false = (1 - self.prevalence) * (1 - self.specificity)
        return 1000 * (self.prevalence * self.sensitivity + false)

    @property
    def missed_per_1000(self) -> Float64:
        """(T,) diseased films not referred, expected among 1,000 at the prevalence."""
        return 1000 * self.prevalence * (1 - self.sensitivity)

    @property
    def ppv(self) -> Float64:
        """(T,) share of the referred that are diseased at the prevalence; NaN where nobody is referred."""
        found = self.prevalence * self.sensitivity
        return _share(found, found + (1 - self.prevalence) * (1 - self.specificity))

    @property
    def npv(self) -> Float64:
        """(T,) share of the others that are not diseased, likewise; NaN where everybody is referred."""
        cleared = (1 - self.prevalence) * self.specificity
        return _share(cleared, cleared + self.prevalence * (1 - self.sensitivity))

    def point(self, index: int) -> OperatingPoint:
        """One threshold with intervals."""
        found, false = int(self.num_found[index]), int(self.num_false[index])
        sensitivity = Rate.of(found, self.num_diseased)
        specificity = Rate.of(self.num_healthy - false, self.num_healthy)
        ppv, npv = predictive_values(sensitivity.value, specificity.value, self.prevalence)
        return OperatingPoint(
            threshold=float(self.thresholds[index]),
            sensitivity=sensitivity,
            specificity=specificity,
            prevalence=self.prevalence,
            ppv=ppv,
            npv=npv,
            referred_per_1000=float(self.referred_per_1000[index]),
            missed_per_1000=float(self.missed_per_1000[index]),
        )

    def at_threshold(self, threshold: float) -> OperatingPoint:
        """What any threshold does to these readings; the point names the candidate that splits them alike."""
        return self.point(int(np.searchsorted(self.scores, threshold)))

    def at_sensitivity(self, required: float) -> OperatingPoint:
        """The highest threshold whose sensitivity, as estimated, reaches `required`.

        Raises:
            CalibrationError: the requirement is not above 0 and at most 1.
        """
        if not 0 < required <= 1:
            raise CalibrationError(f"required sensitivity {required}: expected above 0 and at most 1")
        return self.point(int(np.flatnonzero(self.sensitivity >= required - 1e-12)[-1]))

    def at_specificity(self, required: float) -> OperatingPoint:
        """The lowest threshold whose specificity, as estimated, reaches `required`; else the highest of all.

        Raises:
            CalibrationError: the requirement is not above 0 and at most 1.
        """
        if not 0 < required <= 1:
            raise CalibrationError(f"required specificity {required}: expected above 0 and at most 1")
        enough = np.flatnonzero(self.specificity >= required - 1e-12)
        return self.point(int(enough[0]) if enough.size else len(self.thresholds) - 1)


def operating_curve(
    probabilities_N: npt.ArrayLike, labels_N: npt.ArrayLike, *, prevalence: float | None = None
) -> OperatingCurve:
    """Work out every operating point of a score against readings.

    Args:
        probabilities_N: (N,) calibrated probabilities.
        labels_N: (N,) readings, 0 or 1.
        prevalence: prevalence expected where the thresholds will be used; None takes that of the readings.

    Raises:
        CalibrationError: a class is missing, a prevalence is not inside 0 to 1, or lengths differ.
    """
    scores, labels = np.asarray(probabilities_N, dtype=np.float64), np.asarray(labels_N)
    if scores.shape != labels.shape or scores.ndim != 1 or not np.all(np.isin(labels, (0, 1))):
        raise CalibrationError(
            f"{scores.size} scores and {labels.size} readings: expected as many, each 0 or 1"
        )
    num_diseased = int(labels.sum())
    num_healthy = labels.size - num_diseased
    if not num_diseased or not num_healthy:
        raise CalibrationError(f"{num_diseased} positive and {num_healthy} negative readings: need both")
    expected = num_diseased / labels.size if prevalence is None else prevalence
    if not 0 < expected < 1:
        raise CalibrationError(f"prevalence {expected}: expected above 0 and below 1")
    distinct = np.unique(scores)
    thresholds = np.concatenate([[0.0], (distinct[:-1] + distinct[1:]) / 2, [(distinct[-1] + 1) / 2]])
    diseased, healthy = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    return OperatingCurve(
        scores=distinct,
        thresholds=thresholds,
        num_found=num_diseased - np.searchsorted(diseased, thresholds),
        num_false=num_healthy - np.searchsorted(healthy, thresholds),
        num_diseased=num_diseased,
        num_healthy=num_healthy,
        prevalence=expected,
    )


def choose_threshold(curve: OperatingCurve, sensitivity: float) -> OperatingPoint:
    """The operating point that refers fewest at a required sensitivity, but never above one half."""
    chosen = curve.at_sensitivity(sensitivity)
    if chosen.threshold <= HIGHEST_THRESHOLD:
        return chosen
    return replace(curve.at_threshold(HIGHEST_THRESHOLD), threshold=HIGHEST_THRESHOLD)


def clopper_pearson(num_hits: int, num_trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Exact binomial interval of a proportion (Clopper and Pearson 1934), by beta quantiles.

    Raises:
        CalibrationError: no trials, or more hits than trials.
    """
    if not 0 <= num_hits <= num_trials or not num_trials:
        raise CalibrationError(f"{num_hits} of {num_trials}: not a proportion")
    tail = (1 - confidence) / 2
    low = beta.ppf(tail, num_hits, num_trials - num_hits + 1) if num_hits else 0.0
    high = beta.ppf(1 - tail, num_hits + 1, num_trials - num_hits) if num_hits < num_trials else 1.0
    return float(low), float(high)


def _share(part: Float64, whole: Float64) -> Float64:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


def predictive_values(
    sensitivity: float, specificity: float, prevalence: float
) -> tuple[float | None, float | None]:
    """Positive and negative predictive value expected at a prevalence, by Bayes' rule."""
    found, missed = prevalence * sensitivity, prevalence * (1 - sensitivity)
    cleared, false = (1 - prevalence) * specificity, (1 - prevalence) * (1 - specificity)
    ppv = found / (found + false) if found + false > 0 else None
    npv = cleared / (cleared + missed) if cleared + missed > 0 else None
    return ppv, npv
