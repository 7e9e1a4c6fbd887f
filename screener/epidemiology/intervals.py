"""Counts to confidence intervals of a proportion: Wilson, Clopper-Pearson, and a bootstrap over sites.

Wilson and Clopper-Pearson are statsmodels'. The cluster bootstrap resamples whole sites, because workers
of one site share dust, dose and X-ray unit and are not independent. Questionable: below `MIN_CLUSTERS`
sites no bootstrap interval is given; a percentile interval from a handful of sites is far too short.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from statsmodels.stats.proportion import proportion_confint

Float64 = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
IntervalMethod = Literal["wilson", "clopper_pearson"]

MIN_CLUSTERS = 10
"""Fewest sites for a bootstrap interval (E)."""

_STATSMODELS_NAME = {"wilson": "wilson", "clopper_pearson": "beta"}


def proportion_interval(
    positives: Counts, totals: Counts, *, method: IntervalMethod, confidence: float
) -> tuple[Float64, Float64]:
    """Two-sided interval of `positives / totals`.

    Args:
        positives: (K,) counts, 0 to totals.
        totals: (K,) counts; zero gives NaN limits.
        method: `wilson` (score) or `clopper_pearson` (exact, conservative).
        confidence: coverage, 0 to 1.

    Returns:
        (K,) lower and (K,) upper limits in [0, 1].
    """
    positives, totals = np.atleast_1d(positives), np.atleast_1d(totals)
    low, high = np.full(totals.shape, np.nan), np.full(totals.shape, np.nan)
    some = totals > 0
    if some.any():
        low[some], high[some] = proportion_confint(
            positives[some], totals[some], alpha=1 - confidence, method=_STATSMODELS_NAME[method]
        )
    # A limit beside no or only positives is 0 or 1 up to rounding; say so exactly.
    return np.where(some & (positives == 0), 0.0, low), np.where(some & (positives == totals), 1.0, high)


def cluster_intervals(
    positives: Counts, totals: Counts, *, confidence: float, num_samples: int, rng: np.random.Generator
) -> Float64 | None:
    """Percentile bootstrap intervals of K prevalences, resampling clusters with replacement.

    Args:
        positives: (S, K) positives of each cluster (site) for each outcome.
        totals: (S,) persons of each cluster, all above zero.
        confidence: coverage, 0 to 1.
        num_samples: bootstrap samples, the same for all outcomes.
        rng: source of the resamples.

    Returns:
        (2, K) lower and upper limits of sum(positives) / sum(totals), or None below `MIN_CLUSTERS` clusters.
    """
    num_clusters = len(totals)
    if num_clusters < MIN_CLUSTERS:
        return None
    weights = rng.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size=num_samples)
    prevalence = (weights @ positives) / (weights @ totals)[:, None]
    tail = (1 - confidence) / 2
    limits: Float64 = np.quantile(prevalence, (tail, 1 - tail), axis=0)
    return limits
