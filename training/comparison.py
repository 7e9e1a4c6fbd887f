"""Repeated results of two ways to train to what the data support about their difference.

Four tests answer four questions, side by side: the plain paired t of the paper, Nadeau and Bengio's corrected
resampled t over the same folds, exact McNemar on one locked test set, and a bootstrap over its patients.
Questionable: the conclusion rests on the corrected t and McNemar after Holm's correction, not on the
plain t: folds share training films, and a t that takes them as independent is too often significant.

Shape letters: J folds, N images, P patients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import binomtest
from scipy.stats import t as student_t

Float64 = npt.NDArray[np.float64]
Test = Literal["paired_t", "corrected_t", "mcnemar", "bootstrap"]
SIGNIFICANT = 0.05
DECIDING: frozenset[Test] = frozenset({"corrected_t", "mcnemar"})
"""Tests whose p-values Holm's correction runs over and the conclusion rests on."""
NUM_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Comparison:
    """One test of one metric of one task; the difference is the first way less the second."""

    task: str
    metric: str
    test: Test
    difference: float
    low: float | None
    """95 % interval of the difference; None where the test gives none."""
    high: float | None
    p_value: float
    p_holm: float | None = None
    """Adjusted over the deciding tests; None for the others."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference with its 95 % interval and two-sided p-value."""

    difference: float
    low: float | None
    high: float | None
    p_value: float


def paired_t(first_J: npt.ArrayLike, second_J: npt.ArrayLike) -> Interval:
    """Student's paired t over folds, as in the paper: takes folds as independent, which they are not.

    Raises:
        ValueError: fewer than two folds, or lengths differ.
    """
    return _resampled_t(first_J, second_J, test_share=0.0)


def corrected_t(
    first_J: npt.ArrayLike, second_J: npt.ArrayLike, *, num_train: int, num_test: int
) -> Interval:
    """Corrected resampled t (Nadeau and Bengio 2003): t = d / sqrt((1/J + n_test/n_train) s2), J - 1 df.

    Args:
        first_J: (J,) metric of one way to train, fold by fold.
        second_J: (J,) metric of the other on the same folds.
        num_train: training images of a fold.
        num_test: test images of a fold.

    Raises:
        ValueError: fewer than two folds, lengths differ, or no images.
    """
    if num_train < 1 or num_test < 1:
        raise ValueError(f"{num_train} training and {num_test} test images: expected at least one each")
    return _resampled_t(first_J, second_J, test_share=num_test / num_train)


def mcnemar(first_right_N: npt.ArrayLike, second_right_N: npt.ArrayLike) -> Interval:
    """Exact McNemar test on the images that only one of the two got right; the difference is of accuracy.

    Args:
        first_right_N: (N,) whether the first was right.
        second_right_N: (N,) whether the second was right on the same image.

    Raises:
        ValueError: no images, or lengths differ.
    """
    first, second = (np.asarray(right, dtype=bool) for right in (first_right_N, second_right_N))
    if first.shape != second.shape or not first.size:
        raise ValueError(f"{first.size} and {second.size} images: expected the same, at least one")
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    discordant = only_first + only_second
    p_value = float(binomtest(only_first, discordant).pvalue) if discordant else 1.0
    return Interval((only_first - only_second) / first.size, None, None, p_value)


def patient_bootstrap(
    metric: Callable[[npt.NDArray[np.int64]], tuple[float, float]],
    patients_N: npt.ArrayLike,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a difference over patients, all images of a patient drawn together.

    Args:
        metric: indices (any number) of images to the metric of both ways; NaN where it is not defined.
        patients_N: (N,) patient of each image.
        num_resamples: resamples drawn.
        seed: of the resampling.

    Returns:
        The difference on all images, its 2.5-97.5 % interval, and the two-sided p-value: twice the smaller
        share of resamples on either side of zero.

    Raises:
        ValueError: no images, or the metric is nowhere defined.
    """
    _, groups = np.unique(np.asarray(patients_N), return_inverse=True)
    if not groups.size:
        raise ValueError("bootstrap: no images")
    order = np.argsort(groups, kind="stable")
    images = np.split(order, np.cumsum(np.bincount(groups))[:-1])
    rng = np.random.default_rng(seed)
    drawn = np.empty(num_resamples)
    for index in range(num_resamples):
        chosen = rng.integers(0, len(images), len(images))
        first, second = metric(np.concatenate([images[patient] for patient in chosen]))
        drawn[index] = first - second
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size:
        raise ValueError("bootstrap: the metric is not defined on any resample")
    first, second = metric(np.arange(groups.size))
    low, high = np.quantile(drawn, (0.025, 0.975))
    tail = min((np.sum(drawn <= 0) + 1) / (drawn.size + 1), (np.sum(drawn >= 0) + 1) / (drawn.size + 1))
    return Interval(float(first - second), float(low), float(high), float(min(1.0, 2 * tail)))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjustment (1979): smallest p times the number of tests, and so on, never falling."""
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    stepped = values[order] * (values.size - np.arange(values.size))
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return tuple(map(float, adjusted))


def adjusted(comparisons: Sequence[Comparison]) -> tuple[Comparison, ...]:
    """The same comparisons with Holm's correction over the deciding tests of all tasks and metrics."""
    deciding = [index for index, each in enumerate(comparisons) if each.test in DECIDING]
    p_holm = dict(zip(deciding, holm([comparisons[index].p_value for index in deciding]), strict=True))
    return tuple(replace(each, p_holm=p_holm.get(index)) for index, each in enumerate(comparisons))


def comparison_table(comparisons: Sequence[Comparison]) -> pl.DataFrame:
    """One row for each test."""
    schema = {
        "task": pl.String,
        "metric": pl.String,
        "test": pl.String,
        "difference": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "p_value": pl.Float64,
        "p_holm": pl.Float64,
    }
    return pl.DataFrame([asdict(each) for each in comparisons], schema=schema)


def comparison_markdown(comparisons: Sequence[Comparison]) -> str:
    """The table as Markdown."""
    lines = [
        "| task | metric | test | difference | 95 % interval | p | p (Holm) |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for each in comparisons:
        interval = "-" if each.low is None or each.high is None else f"{each.low:+.4f} to {each.high:+.4f}"
        p_holm = "-" if each.p_holm is None else f"{each.p_holm:.4f}"
        cells = (each.task, each.metric, each.test, f"{each.difference:+.4f}", interval)
        lines.append(f"| {' | '.join(cells)} | {each.p_value:.4f} | {p_holm} |")
    return "\n".join(lines) + "\n"


def conclusion(comparisons: Sequence[Comparison], first: str, second: str) -> str:
    """One sentence that says what the data support.

    A difference is claimed for a task and metric only when every deciding test made of it is significant
    after Holm's correction and all of them point the same way.

    Args:
        comparisons: the adjusted comparisons.
        first: name of the first way, for example `multi-task`.
        second: name of the second.

    Raises:
        ValueError: a deciding comparison was not adjusted, or there is none.
    """
    deciding = [each for each in comparisons if each.test in DECIDING]
    if not deciding or any(each.p_holm is None for each in deciding):
        raise ValueError("conclusion: expected comparisons by corrected_t or mcnemar, after `adjusted`")
    better: dict[str, list[str]] = {first: [], second: []}
    for task, metric in dict.fromkeys((each.task, each.metric) for each in deciding):
        tests = [each for each in deciding if (each.task, each.metric) == (task, metric)]
        significant = all(each.p_holm is not None and each.p_holm < SIGNIFICANT for each in tests)
        directions = {each.difference > 0 for each in tests}
        if significant and len(directions) == 1:
            better[first if directions.pop() else second].append(f"{task} {metric}")
    claims = [f"{way} training is better in {', '.join(found)}" for way, found in better.items() if found]
    if not claims:
        return (
            f"These data show no difference between {first} and {second} training: no metric stays "
            f"significant (Holm, {SIGNIFICANT}) in the corrected resampled t and McNemar tests."
        )
    return f"These data support that {' and that '.join(claims)} (Holm-corrected, {SIGNIFICANT})."


def _resampled_t(first_J: npt.ArrayLike, second_J: npt.ArrayLike, test_share: float) -> Interval:
    first, second = (np.asarray(values, dtype=np.float64) for values in (first_J, second_J))
    if first.shape != second.shape or first.ndim != 1 or first.size < 2:
        raise ValueError(f"{first.size} and {second.size} folds: expected the same, at least two")
    if not np.all(np.isfinite([first, second])):
        raise ValueError("a fold's metric is not finite: leave that metric out")
    differences = first - second
    mean, folds = float(differences.mean()), differences.size
    error = float(np.sqrt((1 / folds + test_share) * differences.var(ddof=1)))
    if error == 0:
        return Interval(mean, mean, mean, 1.0 if mean == 0 else 0.0)
    reach = float(student_t.ppf(0.975, folds - 1)) * error
    p_value = float(2 * student_t.sf(abs(mean) / error, folds - 1))
    return Interval(mean, mean - reach, mean + reach, p_value)
