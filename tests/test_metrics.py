from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu, norm
from statsmodels.stats.inter_rater import cohens_kappa

from training.metrics import (
    auc,
    auc_difference,
    classification_metrics,
    confusion_matrix,
    dice,
    quadratic_weighted_kappa,
)

# Rows are labels, columns predictions: the worked example of every figure below.
COUNTS = np.array([[5, 1, 0], [2, 3, 1], [0, 0, 4]])
LABELS = np.repeat([0, 0, 1, 1, 1, 2], [5, 1, 2, 3, 1, 4])
PREDICTIONS = np.repeat([0, 1, 0, 1, 2, 2], [5, 1, 2, 3, 1, 4])

scored = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 12)), min_size=4, max_size=60).filter(
    lambda rows: 2 <= sum(label for label, _ in rows) <= len(rows) - 2
)


def test_confusion_matrix() -> None:
    assert np.array_equal(confusion_matrix(LABELS, PREDICTIONS, 3), COUNTS)


def test_figures_by_hand() -> None:
    found = classification_metrics(LABELS, PREDICTIONS, 3)
    assert found.num_images == 16
    assert found.accuracy == pytest.approx(12 / 16)
    assert found.recall_by_class == pytest.approx((5 / 6, 3 / 6, 4 / 4))
    assert found.recall == pytest.approx((5 / 6 + 3 / 6 + 1) / 3)
    assert found.precision == pytest.approx((5 / 7 + 3 / 4 + 4 / 5) / 3)
    assert found.specificity == pytest.approx((8 / 10 + 9 / 10 + 11 / 12) / 3)
    f1 = [2 * 5 / (7 + 6), 2 * 3 / (4 + 6), 2 * 4 / (5 + 4)]
    assert found.f1 == pytest.approx(np.mean(f1))
    assert found.kappa == quadratic_weighted_kappa(COUNTS)


def test_classes_that_occur_nowhere_do_not_count() -> None:
    found = classification_metrics([0, 0, 1], [0, 1, 1], 4)
    assert found.recall == pytest.approx((0.5 + 1) / 2)
    assert found.recall_by_class == (0.5, 1.0, None, None)


def test_a_class_never_predicted_has_no_precision_and_counts_as_zero() -> None:
    assert classification_metrics([0, 1], [0, 0], 2).precision == pytest.approx(0.25)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_kappa_agrees_with_statsmodels(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = zip(*pairs, strict=True)
    counts = confusion_matrix(labels, predictions, 4)
    found = quadratic_weighted_kappa(counts)
    if len({*labels, *predictions}) == 1:
        assert found == 1
    else:
        assert found == pytest.approx(cohens_kappa(counts, wt="quadratic", return_results=False))


@pytest.mark.parametrize(
    ("labels", "predictions", "match"),
    [([], [], "above 0"), ([0, 1], [0], "expected as many"), ([0, 4], [0, 1], "classes 0 to 3")],
)
def test_unusable_labels(labels: list[int], predictions: list[int], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        confusion_matrix(labels, predictions, 4)


@given(scored)
def test_auc_is_mann_whitney(rows: list[tuple[int, int]]) -> None:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    positive, negative = scores[labels == 1], scores[labels == 0]
    u = mannwhitneyu(positive, negative).statistic / (positive.size * negative.size)
    found = auc(labels, scores)
    assert found.value == pytest.approx(u)
    assert 0 <= found.low <= found.value <= found.high <= 1


@given(scored)
def test_delong_variance_agrees_with_its_definition(rows: list[tuple[int, int]]) -> None:
    labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    positive, negative = scores[labels == 1], scores[labels == 0]
    # psi of DeLong (1988): 1 when the positive ranks higher, 1/2 for a tie.
    psi = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    expected = psi.mean(axis=1).var(ddof=1) / positive.size + psi.mean(axis=0).var(ddof=1) / negative.size
    assert auc(labels, scores).variance == pytest.approx(expected, abs=1e-12)


def test_delong_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    truth = norm.cdf(1.2 / np.sqrt(2))
    found = [auc(labels, rng.normal(1.2 * labels)) for _ in range(400)]
    covered = np.mean([each.low <= truth <= each.high for each in found])
    # 95 % with a standard error of 1.1 % over 400 draws.
    assert 0.915 <= covered <= 0.985


def test_delong_test_has_its_level_and_finds_differences() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 80)
    rejected = 0
    for _ in range(300):
        shared = rng.normal(1.0 * labels)
        first, second = (shared + rng.normal(size=160) for _ in range(2))
        rejected += auc_difference(labels, first, second)[1] < 0.05
    assert 0.02 <= rejected / 300 <= 0.09
    difference, p_value = auc_difference(
        labels, labels + rng.normal(scale=0.3, size=160), rng.normal(size=160)
    )
    assert difference > 0.3
    assert p_value < 1e-6


def test_scores_that_rank_alike_do_not_differ() -> None:
    scores = np.array([1.0, 2, 3, 4])
    assert auc_difference([0, 1, 0, 1], scores, np.exp(scores)) == (0.0, 1.0)


def test_perfect_separation_has_no_width() -> None:
    found = auc([0, 0, 1, 1], [1, 2, 3, 4])
    assert (found.value, found.low, found.high) == (1, 1, 1)


def test_one_positive_leaves_the_area_open() -> None:
    found = auc([0, 0, 0, 1], [1, 2, 3, 4])
    assert (found.value, found.low, found.high) == (1, 0, 1)
    assert auc_difference([0, 0, 0, 1], [1, 2, 3, 4], [4, 3, 2, 1])[1] == 1


def test_auc_needs_both_classes() -> None:
    with pytest.raises(ValueError, match="need both"):
        auc([1, 1], [0.1, 0.2])


def test_dice() -> None:
    left, right = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    assert dice(left, right) == 1
    left[:2], right[1:3] = True, True
    assert dice(left, right) == pytest.approx(2 * 4 / 16)
    assert dice(left, left) == 1
    with pytest.raises(ValueError, match="same"):
        dice(left, right[:2])
