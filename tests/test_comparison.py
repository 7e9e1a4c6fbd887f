from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests

from training.comparison import (
    Comparison,
    Interval,
    Test,
    adjusted,
    comparison_markdown,
    comparison_table,
    conclusion,
    corrected_t,
    holm,
    mcnemar,
    paired_t,
    patient_bootstrap,
)

FIRST = np.array([0.86, 0.84, 0.88, 0.85, 0.87])
SECOND = np.array([0.83, 0.84, 0.85, 0.81, 0.86])


def compared(
    p_value: float, difference: float = 0.05, test: Test = "corrected_t", metric: str = "f1"
) -> Comparison:
    return Comparison("stage", metric, test, difference, None, None, p_value)


def test_paired_t_agrees_with_scipy() -> None:
    reference = ttest_rel(FIRST, SECOND)
    found = paired_t(FIRST, SECOND)
    assert found.p_value == pytest.approx(reference.pvalue)
    interval = reference.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_corrected_t_by_hand() -> None:
    # d = 0.022, s2 = 0.00027, J = 5, n_test / n_train = 1/4: t = 0.022 / sqrt(0.45 * 0.00027) = 1.9959.
    found = corrected_t(FIRST, SECOND, num_train=400, num_test=100)
    assert found.difference == pytest.approx(0.022)
    assert found.low is not None
    assert (found.difference - found.low) / 2.7764451 == pytest.approx(0.022 / 1.9959, rel=1e-4)
    assert found.p_value == pytest.approx(0.11665, abs=2e-5)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=10), st.integers(1, 500))
def test_the_correction_never_finds_more(pairs: list[tuple[float, float]], num_test: int) -> None:
    first, second = zip(*pairs, strict=True)
    plain = paired_t(first, second)
    corrected = corrected_t(first, second, num_train=500, num_test=num_test)
    assert corrected.p_value >= plain.p_value - 1e-12


def test_equal_folds_do_not_differ() -> None:
    assert paired_t(FIRST, FIRST).p_value == 1


@pytest.mark.parametrize(
    ("first", "second"), [([0.5], [0.4]), ([0.5, 0.6], [0.4]), ([0.5, float("nan")], [0.4, 0.5])]
)
def test_unusable_folds(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="fold"):
        paired_t(first, second)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_mcnemar_agrees_with_statsmodels(pairs: list[tuple[bool, bool]]) -> None:
    first, second = (np.array(column) for column in zip(*pairs, strict=True))
    table = [
        [np.sum(first & second), np.sum(first & ~second)],
        [np.sum(~first & second), np.sum(~first & ~second)],
    ]
    found = mcnemar(first, second)
    assert found.p_value == pytest.approx(float(statsmodels_mcnemar(table, exact=True).pvalue))
    assert found.difference == pytest.approx(first.mean() - second.mean())


def test_mcnemar_refuses_other_images() -> None:
    with pytest.raises(ValueError, match="images"):
        mcnemar([True], [True, False])


@pytest.mark.parametrize("num_tests", [1, 2, 5, 16])
def test_holm_agrees_with_statsmodels(num_tests: int) -> None:
    for p_values in np.random.default_rng(num_tests).random((3, num_tests)) ** 3:
        assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1])


def paired_accuracy(first: np.ndarray, second: np.ndarray, patients: np.ndarray, seed: int = 0) -> Interval:
    return patient_bootstrap(
        lambda images: (float(first[images].mean()), float(second[images].mean())),
        patients,
        num_resamples=400,
        seed=seed,
    )


def width(interval: Interval) -> float:
    assert interval.low is not None
    assert interval.high is not None
    return interval.high - interval.low


def test_bootstrap_finds_a_difference_and_none_where_there_is_none() -> None:
    rng = np.random.default_rng(0)
    good, poor = rng.random(300) < 0.9, rng.random(300) < 0.7
    found = paired_accuracy(good, poor, np.arange(300))
    assert found.difference == pytest.approx(good.mean() - poor.mean())
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < found.difference < found.high
    assert found.p_value < 0.02
    same = paired_accuracy(good, good, np.arange(300))
    assert (same.low, same.high, same.p_value) == (0, 0, 1)


def test_bootstrap_agrees_with_the_normal_interval() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random(500) < 0.8, rng.random(500) < 0.8
    found = paired_accuracy(first, second, np.arange(500))
    standard_error = (first.astype(float) - second).std(ddof=1) / np.sqrt(500)
    assert width(found) / 2 == pytest.approx(1.96 * standard_error, rel=0.15)


def test_images_of_one_patient_are_drawn_together() -> None:
    rng = np.random.default_rng(2)
    patients = np.repeat(np.arange(50), 10)
    first, second = (np.repeat(rng.random(50) < 0.7, 10) for _ in range(2))
    clustered = paired_accuracy(first, second, patients)
    independent = paired_accuracy(first, second, np.arange(500))
    # Ten equal images a patient carry no more than one: the interval is sqrt(10) times as wide.
    assert width(clustered) > 2 * width(independent)


def test_bootstrap_is_repeatable_and_refuses_nothing_at_all() -> None:
    first, second = FIRST, SECOND
    assert paired_accuracy(first, second, np.arange(5)) == paired_accuracy(first, second, np.arange(5))
    with pytest.raises(ValueError, match="no images"):
        paired_accuracy(first, second, np.array([]))
    with pytest.raises(ValueError, match="not defined"):
        patient_bootstrap(lambda _: (float("nan"), 0.0), [1, 2], num_resamples=5)


def test_holm_runs_over_the_deciding_tests_only() -> None:
    found = adjusted(
        [
            compared(0.01),
            compared(0.02, test="mcnemar"),
            compared(0.001, test="paired_t"),
            compared(0.04, test="bootstrap"),
        ]
    )
    assert [each.p_holm for each in found] == [pytest.approx(0.02), pytest.approx(0.02), None, None]


def test_no_difference_is_said_in_so_many_words() -> None:
    # The plain t alone never decides.
    found = adjusted([compared(0.2), compared(0.3, test="mcnemar"), compared(1e-6, test="paired_t")])
    sentence = conclusion(found, "multi-task", "single-task")
    assert sentence.startswith("These data show no difference between multi-task and single-task training")
    assert sentence.count(". ") == 0


def test_a_difference_is_claimed_for_the_better_way_and_metric() -> None:
    found = adjusted(
        [
            compared(0.001),
            compared(0.001, test="mcnemar"),
            compared(0.001, -0.05, metric="auc"),
            compared(0.5, metric="kappa"),
        ]
    )
    sentence = conclusion(found, "multi-task", "single-task")
    assert "multi-task training is better in stage f1" in sentence
    assert "single-task training is better in stage auc" in sentence
    assert "kappa" not in sentence


def test_tests_that_contradict_each_other_claim_nothing() -> None:
    found = adjusted([compared(0.001, 0.05), compared(0.001, -0.05, test="mcnemar")])
    assert "no difference" in conclusion(found, "multi-task", "single-task")


def test_unadjusted_comparisons_have_no_conclusion() -> None:
    with pytest.raises(ValueError, match="after `adjusted`"):
        conclusion([compared(0.001)], "multi-task", "single-task")


def test_table_and_markdown_hold_every_test() -> None:
    found = adjusted([compared(0.01), Comparison("diagnosis", "f1", "bootstrap", 0.02, -0.01, 0.05, 0.2)])
    table = comparison_table(found)
    assert table["test"].to_list() == ["corrected_t", "bootstrap"]
    assert table["p_holm"].to_list() == [0.01, None]
    text = comparison_markdown(found)
    assert "| stage | f1 | corrected_t | +0.0500 | - | 0.0100 | 0.0100 |" in text
    assert "| diagnosis | f1 | bootstrap | +0.0200 | -0.0100 to +0.0500 | 0.2000 | - |" in text
