"""Probabilities of one population to those of another that differs only in prevalence.

A hospital's training set may be half diseased and a campaign six in a hundred. If the films of each class
look the same in both (label shift), Bayes' rule moves the log-odds by a constant per class; Saerens, Latinne
and Decaestecker (2002) estimate the new prevalence from the scores alone by EM. Questionable: nothing uses
that estimate by default. A campaign's scanners differ too, and EM would call that prevalence.

Shape letters: N images, K classes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError
from calibration.scaling import Float64, log_probabilities, log_softmax

MAX_STEPS = 10_000
TOLERANCE = 1e-9


def shift_bias(source_K: npt.ArrayLike, target_K: npt.ArrayLike) -> Float64:
    """What Bayes' rule adds to the log-probabilities (K,) when class prevalences change.

    log p'(k|x) = log p(k|x) + log(target_k / source_k) + constant.

    Raises:
        CalibrationError: a prevalence is not inside 0 to 1, or they do not sum to one.
    """
    source, target = (np.asarray(prevalence, dtype=np.float64) for prevalence in (source_K, target_K))
    for prevalence in (source, target):
        if np.any(prevalence <= 0) or not np.isclose(prevalence.sum(), 1):
            raise CalibrationError(f"class prevalences {prevalence.tolist()}: expected above 0, summing to 1")
    return np.log(target) - np.log(source)


def label_shift_bias(source: float, target: float) -> float:
    """The same for the log-odds of one independent label.

    Args:
        source: prevalence among the images that the probabilities were calibrated on.
        target: prevalence expected in the campaign.

    Raises:
        CalibrationError: a prevalence is not inside 0 to 1.
    """
    negative, positive = shift_bias((1 - source, source), (1 - target, target))
    return float(positive - negative)


def estimate_prevalence(probabilities_NK: npt.ArrayLike, source_K: npt.ArrayLike) -> Float64:
    """Estimate class prevalences of a new population from its calibrated probabilities, by EM.

    Args:
        probabilities_NK: (N, K) calibrated on a population with the prevalences `source_K`.
        source_K: (K,) class prevalences there.

    Returns:
        (K,) the maximum likelihood prevalences, if only prevalence has changed.

    Raises:
        CalibrationError: no images, impossible prevalences, or no convergence in 10,000 steps.
    """
    log_p = log_probabilities(probabilities_NK)
    source: Float64 = np.asarray(source_K, dtype=np.float64)
    if log_p.ndim != 2 or not len(log_p):
        raise CalibrationError(f"probabilities of shape {log_p.shape}: expected (images, classes)")
    target: Float64 = source
    for _ in range(MAX_STEPS):
        posterior = np.exp(log_softmax(log_p + shift_bias(source, target)))
        # A class that vanishes keeps a trace, so that its logarithm stays finite.
        updated = np.clip(posterior.mean(axis=0), 1e-12, 1)
        previous = target
        target = np.asarray(updated / updated.sum(), dtype=np.float64)
        if np.abs(target - previous).max() < TOLERANCE:
            return target
    raise CalibrationError(f"prevalence did not converge in {MAX_STEPS} steps")
