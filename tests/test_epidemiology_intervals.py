import numpy as np
import pytest

from screener.epidemiology.intervals import (
    MIN_CLUSTERS,
    IntervalMethod,
    cluster_intervals,
    proportion_interval,
)


def test_wilson_of_a_textbook_example() -> None:
    # Newcombe, Stat Med 1998;17:857, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    low, high = proportion_interval(
        np.array([81, 15, 0, 1]), np.array([263, 148, 20, 29]), method="wilson", confidence=0.95
    )
    assert np.round(low, 4).tolist() == [0.2553, 0.0624, 0.0, 0.0061]
    assert np.round(high, 4).tolist() == [0.3662, 0.1605, 0.1611, 0.1718]


def test_clopper_pearson_of_the_same_examples() -> None:
    low, high = proportion_interval(
        np.array([81, 15, 0, 1]), np.array([263, 148, 20, 29]), method="clopper_pearson", confidence=0.95
    )
    assert np.round(low, 4).tolist() == [0.2527, 0.0578, 0.0, 0.0009]
    assert np.round(high, 4).tolist() == [0.3676, 0.1617, 0.1684, 0.1776]


@pytest.mark.parametrize("method", ["wilson", "clopper_pearson"])
def test_limits_beside_no_and_all_positives_are_exact(method: IntervalMethod) -> None:
    low, high = proportion_interval(
        np.array([0, 7, 14]),
        np.array([14, 14, 14]),
        method=method,
        confidence=0.95,
    )
    assert low[0] == 0.0
    assert high[2] == 1.0
    assert (low < high).all()


def test_no_persons_have_no_interval() -> None:
    low, high = proportion_interval(np.array([0, 3]), np.array([0, 9]), method="wilson", confidence=0.95)
    assert np.isnan(low[0])
    assert np.isnan(high[0])
    assert 0 < low[1] < 3 / 9 < high[1] < 1


@pytest.mark.parametrize(("method", "least"), [("wilson", 0.93), ("clopper_pearson", 0.95)])
def test_intervals_cover_the_truth(method: IntervalMethod, least: float) -> None:
    rng = np.random.default_rng(1)
    truth, total = 0.06, 400
    positives = rng.binomial(total, truth, size=4000)
    low, high = proportion_interval(
        positives,
        np.full(4000, total),
        method=method,
        confidence=0.95,
    )
    assert least <= np.mean((low <= truth) & (truth <= high)) <= 0.99


def test_the_bootstrap_over_sites_covers_where_wilson_does_not() -> None:
    rng = np.random.default_rng(2)
    truth, num_sites, per_site = 0.10, 40, 60
    covered = {"cluster": 0, "wilson": 0}
    for _ in range(200):
        site_truth = rng.beta(2, 18, size=num_sites)  # mean 0.10; sites differ far more than chance
        positives = rng.binomial(per_site, site_truth)
        totals = np.full(num_sites, per_site)
        limits = cluster_intervals(positives[:, None], totals, confidence=0.95, num_samples=400, rng=rng)
        assert limits is not None
        covered["cluster"] += bool(limits[0, 0] <= truth <= limits[1, 0])
        low, high = proportion_interval(
            positives.sum(keepdims=True), totals.sum(keepdims=True), method="wilson", confidence=0.95
        )
        covered["wilson"] += bool(low[0] <= truth <= high[0])
    assert covered["cluster"] >= 178  # 95 % of 200, minus the bootstrap's own shortfall and chance
    assert covered["wilson"] < 150


def test_few_sites_have_no_bootstrap_interval() -> None:
    few = MIN_CLUSTERS - 1
    rng = np.random.default_rng(0)
    counts, totals = np.full((few, 1), 3), np.full(few, 50)
    assert cluster_intervals(counts, totals, confidence=0.95, num_samples=100, rng=rng) is None
