"""Apparent prevalence to true prevalence, given a test's sensitivity and specificity.

The point is Rogan and Gladen's; the interval is Lang and Reiczigel's, which counts the uncertainty of
estimated sensitivity and specificity as well (adjusting only the interval of the apparent prevalence covers
as low as 60 %). Questionable: sensitivity and specificity must come with the number of films they were
estimated on; figures without numbers are refused, because an interval from them would be a false promise.

Sources: Rogan & Gladen, Am J Epidemiol 1978;107:71. Lang & Reiczigel, Prev Vet Med 2014;113:13.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy.special import ndtri

from screener.durable import replace_file
from screener.epidemiology.intervals import Counts, Float64
from screener.epidemiology.outcomes import Outcome
from screener.errors import ConfigError

ACCURACY_FILE = "accuracy.json"
"""Name of the file in a model bundle, and in the report of a campaign with readings."""

_FIELDS = ("sensitivity", "num_diseased", "specificity", "num_healthy")


@dataclass(frozen=True, slots=True)
class TestAccuracy:
    """Sensitivity and specificity for one outcome, estimated against qualified readers."""

    __test__ = False  # the name is the field's word; pytest must not collect it

    sensitivity: float
    num_diseased: int
    """Films with the outcome that the sensitivity was estimated on."""
    specificity: float
    num_healthy: int
    """Films without the outcome that the specificity was estimated on."""

    def __post_init__(self) -> None:
        shares = (self.sensitivity, self.specificity)
        if any(not 0 <= share <= 1 for share in shares) or min(self.num_diseased, self.num_healthy) < 1:
            raise ConfigError(f"accuracy {self}: expected shares in 0 to 1 and at least one film of each")
        if sum(shares) <= 1:
            raise ConfigError(
                f"sensitivity {self.sensitivity} + specificity {self.specificity} is not above 1: "
                "the test carries no information and prevalence cannot be corrected"
            )


def read_accuracy(path: Path) -> dict[Outcome, TestAccuracy]:
    """Read a JSON object: outcome to `sensitivity`, `num_diseased`, `specificity`, `num_healthy`.

    Args:
        path: the file, or a folder (a model bundle, an earlier report) that holds it as `accuracy.json`.

    Raises:
        ConfigError: not JSON, an unknown outcome, a missing or impossible figure.
    """
    file = path / ACCURACY_FILE if path.is_dir() else path
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"the accuracy file cannot be read as JSON: {type(error).__name__}") from error
    if not isinstance(stored, dict):
        raise ConfigError("the accuracy file must hold an object: outcome to figures")
    return {_outcome(name): _accuracy(name, figures) for name, figures in stored.items()}


def _outcome(name: str) -> Outcome:
    if name not in list(Outcome):
        raise ConfigError(f"accuracy file: unknown outcome {name!r}, expected {', '.join(Outcome)}")
    return Outcome(name)


def _accuracy(name: str, figures: object) -> TestAccuracy:
    if not isinstance(figures, dict) or set(_FIELDS) - set(figures):
        raise ConfigError(f"accuracy file: {name} needs {', '.join(_FIELDS)}")
    values = [figures[field] for field in _FIELDS]
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
        raise ConfigError(f"accuracy file: {name} must hold numbers for {', '.join(_FIELDS)}")
    return TestAccuracy(float(values[0]), int(values[1]), float(values[2]), int(values[3]))


def accuracy_of_readings(accuracy: pl.DataFrame, reference: str) -> dict[Outcome, TestAccuracy]:
    """Sensitivity and specificity found against readers, for campaigns that have no readings.

    Args:
        accuracy: columns of `tables.ACCURACY`.
        reference: whose row to take.

    Returns:
        Outcomes with films of both kinds whose figures say anything (their sum is above 1).
    """
    found = {}
    rows = accuracy.filter(pl.col("reference") == reference)
    for outcome in (Outcome.PNEUMOCONIOSIS, Outcome.STAGE_GE_1, Outcome.TB):
        of_outcome = rows.filter(pl.col("finding") == outcome.value)
        figures = {row["metric"]: (row["value"], row["denominator"]) for row in of_outcome.to_dicts()}
        sensitivity, num_diseased = figures.get("sensitivity", (None, 0))
        specificity, num_healthy = figures.get("specificity", (None, 0))
        if sensitivity is not None and specificity is not None and sensitivity + specificity > 1:
            found[outcome] = TestAccuracy(sensitivity, num_diseased, specificity, num_healthy)
    return found


def write_accuracy(path: Path, accuracy: Mapping[Outcome, TestAccuracy]) -> None:
    """Write what `read_accuracy` reads.

    Raises:
        ReportError: the file cannot be written.
    """
    text = json.dumps({outcome.value: asdict(figures) for outcome, figures in accuracy.items()}, indent=2)
    replace_file(path, lambda place: place.write_text(text + "\n", encoding="utf-8"))


def rogan_gladen(positives: Counts, totals: Counts, accuracy: TestAccuracy) -> Float64:
    """(p + Sp - 1) / (Se + Sp - 1), clipped to [0, 1]; NaN where totals are zero."""
    apparent = _shares(positives, totals)
    youden = accuracy.sensitivity + accuracy.specificity - 1
    corrected: Float64 = np.clip((apparent + accuracy.specificity - 1) / youden, 0, 1)
    return corrected


def lang_reiczigel(
    positives: Counts, totals: Counts, accuracy: TestAccuracy, *, confidence: float
) -> tuple[Float64, Float64]:
    """Interval of the true prevalence with estimated sensitivity and specificity.

    Args:
        positives: (K,) positive tests.
        totals: (K,) tested; zero gives NaN limits.
        accuracy: figures and the samples they come from.
        confidence: coverage, 0 to 1.

    Returns:
        (K,) lower and (K,) upper limits, clipped to [0, 1] (Lang & Reiczigel 2014, equations of §2.2:
        add z^2/2 positives and negatives to the survey, one of each to both accuracy samples, shift, Wald).
        An upper limit may fall below the Rogan-Gladen point only when that point is clipped.
    """
    z = float(ndtri((1 + confidence) / 2))
    survey = totals + z * z
    apparent = np.where(totals > 0, (positives + z * z / 2) / survey, np.nan)
    diseased, healthy = accuracy.num_diseased + 2, accuracy.num_healthy + 2
    sensitivity = (accuracy.num_diseased * accuracy.sensitivity + 1) / diseased
    specificity = (accuracy.num_healthy * accuracy.specificity + 1) / healthy
    youden = sensitivity + specificity - 1
    if youden <= 0:
        return np.zeros(np.shape(totals)), np.ones(np.shape(totals))
    prevalence = (apparent + specificity - 1) / youden
    sensitivity_variance = sensitivity * (1 - sensitivity) / diseased
    specificity_variance = specificity * (1 - specificity) / healthy
    shift = 2 * z * z * (prevalence * sensitivity_variance - (1 - prevalence) * specificity_variance)
    variance = (
        apparent * (1 - apparent) / survey
        + prevalence**2 * sensitivity_variance
        + (1 - prevalence) ** 2 * specificity_variance
    )
    half = z * np.sqrt(variance) / youden
    return np.clip(prevalence + shift - half, 0, 1), np.clip(prevalence + shift + half, 0, 1)


def _shares(positives: Counts, totals: Counts) -> Float64:
    shares: Float64 = np.where(totals > 0, positives / np.maximum(totals, 1), np.nan)
    return shares
