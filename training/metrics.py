"""Predictions and labels to the figures that the field reports. numpy and scipy only.

Macro figures average over the classes that occur in labels or predictions, as scikit-learn does.
Questionable: a ratio with nothing in its denominator (precision of a class never predicted) counts as 0,
which is scikit-learn's default too; it punishes a network that never says "stage II".

Shape letters: N images, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClassificationMetrics:
    """Figures of one task, each in [0, 1] but kappa (at most 1)."""

    num_images: int
    accuracy: float
    precision: float
    """Macro average, as the three below."""
    recall: float
    """Also called sensitivity."""
    specificity: float
    f1: float
    kappa: float
    """Quadratic-weighted; for two classes it is Cohen's."""
    recall_by_class: tuple[float | None, ...]
    """None where no image has the class."""


@dataclass(frozen=True, slots=True)
class Auc:
    """Area under the ROC curve with DeLong's 95 % interval."""

    value: float
    low: float
    high: float
    variance: float


def confusion_matrix(labels_N: npt.ArrayLike, predictions_N: npt.ArrayLike, num_classes: int) -> Int64:
    """Count images by label (rows) and prediction (columns).

    Raises:
        ValueError: lengths differ, no images, or a class outside 0 to `num_classes` - 1.
    """
    labels, predictions = np.asarray(labels_N), np.asarray(predictions_N)
    if labels.shape != predictions.shape or labels.ndim != 1 or not labels.size:
        raise ValueError(
            f"{labels.size} labels and {predictions.size} predictions: expected as many, above 0"
        )
    if not np.all(np.isin(np.concatenate([labels, predictions]), range(num_classes))):
        raise ValueError(f"expected classes 0 to {num_classes - 1}")
    cells = labels.astype(np.int64) * num_classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes).astype(np.int64)


def classification_metrics(
    labels_N: npt.ArrayLike, predictions_N: npt.ArrayLike, num_classes: int
) -> ClassificationMetrics:
    """Compute every figure of one task.

    Args:
        labels_N: (N,) true classes, 0 to K - 1.
        predictions_N: (N,) predicted classes.
        num_classes: K.

    Raises:
        ValueError: as `confusion_matrix`.
    """
    counts = confusion_matrix(labels_N, predictions_N, num_classes)
    total, right = int(counts.sum()), np.diag(counts).astype(np.float64)
    labelled, predicted = counts.sum(axis=1), counts.sum(axis=0)
    precision, recall = _ratio(right, predicted), _ratio(right, labelled)
    specificity = _ratio(total - labelled - predicted + right, total - labelled)
    occurring = (labelled + predicted) > 0
    return ClassificationMetrics(
        num_images=total,
        accuracy=float(right.sum()) / total,
        precision=float(precision[occurring].mean()),
        recall=float(recall[occurring].mean()),
        specificity=float(specificity[occurring].mean()),
        f1=float(_ratio(2 * precision * recall, precision + recall)[occurring].mean()),
        kappa=quadratic_weighted_kappa(counts),
        recall_by_class=tuple(
            float(value) if count else None for value, count in zip(recall, labelled, strict=True)
        ),
    )


def quadratic_weighted_kappa(counts_KK: npt.ArrayLike) -> float:
    """Cohen's kappa of a confusion matrix with quadratic weights (Cohen 1968); 1 when all say one class."""
    counts = np.asarray(counts_KK, dtype=np.float64)
    classes = np.arange(len(counts))
    weights = (classes[:, None] - classes[None, :]) ** 2
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    disagreement = float((weights * expected).sum())
    return 1 - float((weights * counts).sum()) / disagreement if disagreement else 1.0


def auc(labels_N: npt.ArrayLike, scores_N: npt.ArrayLike) -> Auc:
    """Area under the ROC curve, DeLong variance and interval on the logit scale.

    DeLong, DeLong and Clarke-Pearson (1988), computed by midranks (Sun and Xu 2014). The logit keeps the
    interval inside 0 to 1; at an area of 0 or 1, where the variance is 0, both limits are the area. A single
    image of either class has no variance to estimate: it counts as infinite, and the interval is 0 to 1.

    Args:
        labels_N: (N,) 0 or 1.
        scores_N: (N,) higher means more probably 1.

    Raises:
        ValueError: a class is missing.
    """
    value, positive, negative = _placements(labels_N, scores_N)
    variance = float(_variance_of_mean(positive) + _variance_of_mean(negative))
    low, high = _logit_interval(value, variance)
    return Auc(value, low, high, variance)


def auc_difference(
    labels_N: npt.ArrayLike, scores_N: npt.ArrayLike, other_N: npt.ArrayLike
) -> tuple[float, float]:
    """Compare two scores of the same images by DeLong's test.

    Returns:
        Area of the first less that of the second, and the two-sided p-value (1 when they rank alike).

    Raises:
        ValueError: a class is missing.
    """
    first, positive, negative = _placements(labels_N, scores_N)
    second, other_positive, other_negative = _placements(labels_N, other_N)
    difference = first - second
    variance = _variance_of_mean(positive - other_positive) + _variance_of_mean(negative - other_negative)
    if variance <= 0:
        return difference, 1.0 if difference == 0 else 0.0
    return difference, float(2 * norm.sf(abs(difference) / np.sqrt(variance)))


def dice(mask: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Overlap of two masks of the same shape, 2|A and B| / (|A| + |B|); 1 when both are empty."""
    found, true = np.asarray(mask, dtype=bool), np.asarray(reference, dtype=bool)
    if found.shape != true.shape:
        raise ValueError(f"masks of shapes {found.shape} and {true.shape}: expected the same")
    total = np.count_nonzero(found) + np.count_nonzero(true)
    return 2 * np.count_nonzero(found & true) / total if total else 1.0


def _ratio(hits: npt.ArrayLike, trials: npt.ArrayLike) -> Float64:
    numerator, denominator = np.asarray(hits, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _placements(labels_N: npt.ArrayLike, scores_N: npt.ArrayLike) -> tuple[float, Float64, Float64]:
    """The area, the share of negatives that each positive beats, and of positives that beat each negative."""
    labels, scores = np.asarray(labels_N), np.asarray(scores_N, dtype=np.float64)
    positive, negative = scores[labels == 1], scores[labels == 0]
    if not positive.size or not negative.size or labels.shape != scores.shape:
        raise ValueError(
            f"{positive.size} positive and {negative.size} negative labels: need both, one a score"
        )
    together = rankdata(np.concatenate([positive, negative]))
    beaten = (together[: positive.size] - rankdata(positive)) / negative.size
    beating = 1 - (together[positive.size :] - rankdata(negative)) / positive.size
    return float(beaten.mean()), beaten, beating


def _variance_of_mean(values: Float64) -> float:
    return float(values.var(ddof=1)) / values.size if values.size > 1 else float("inf")


def _logit_interval(value: float, variance: float) -> tuple[float, float]:
    if not np.isfinite(variance):
        return 0.0, 1.0
    if not 0 < value < 1:
        return value, value
    centre = np.log(value / (1 - value))
    reach = norm.ppf(0.975) * np.sqrt(variance) / (value * (1 - value))
    low, high = (1 / (1 + np.exp(-(centre + side * reach))) for side in (-1, 1))
    return float(low), float(high)
