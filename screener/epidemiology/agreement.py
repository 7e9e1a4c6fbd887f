"""Readings beside the model: confusion, sensitivity and specificity, kappa, reliability of probabilities.

The reference is each reader alone, and the consensus: the median stage (upper of two) and the majority, ties
positive, because a missed case costs more than a second look. Questionable: readings are usually collected
on an enriched sample, so predictive values of the sample say nothing about the campaign; they are printed
beside those expected at the campaign's own prevalence (Bayes). These are figures of the readings' sample and
are not suppressed; a public report leaves the confusion matrix out.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
import polars as pl
from statsmodels.stats.inter_rater import aggregate_raters, fleiss_kappa

from screener.epidemiology.intervals import Counts, Float64, IntervalMethod, proportion_interval
from screener.epidemiology.outcomes import Outcome, is_outcome
from screener.epidemiology.tables import ACCURACY, AGREEMENT, CONFUSION, RELIABILITY
from screener.records import Referral
from screener.schema import polars_schema

NUM_STAGES = 4
CONSENSUS, MODEL = "consensus", "model"
NUM_BINS = 10

_WEIGHTS = 1 - (np.subtract.outer(np.arange(NUM_STAGES), np.arange(NUM_STAGES)) / (NUM_STAGES - 1)) ** 2
"""Quadratic agreement weights of the four stages."""


@dataclass(frozen=True, slots=True)
class AgreementSettings:
    """How agreement is estimated."""

    method: IntervalMethod = "wilson"
    confidence: float = 0.95
    bootstrap_samples: int = 2000
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Agreement:
    """Tables of the comparison."""

    confusion: pl.DataFrame
    accuracy: pl.DataFrame
    agreement: pl.DataFrame
    reliability: pl.DataFrame


def compare(
    readings: pl.DataFrame, studies: pl.DataFrame, settings: AgreementSettings, *, prevalence: float | None
) -> Agreement:
    """Compare readers with the model and with each other.

    Args:
        readings: columns of `readings.READINGS`.
        studies: screened studies.
        settings: intervals.
        prevalence: share of positives in the campaign, for its predictive values; None leaves them out.

    Returns:
        The four tables of `Agreement`; empty where no film allows the comparison.
    """
    panel = pl.concat([readings, consensus(readings)])
    joined = panel.join(
        studies, on="study_pid", how="inner", suffix="_model", maintain_order="left"
    ).with_columns(
        model_pneumoconiosis=is_outcome(Outcome.PNEUMOCONIOSIS),
        model_stage_ge_1=is_outcome(Outcome.STAGE_GE_1),
        model_tb=is_outcome(Outcome.TB),
        model_referral=pl.col("referral") != Referral.NONE,
    )
    return Agreement(
        confusion=_confusion(joined),
        accuracy=_accuracy(joined, settings, prevalence),
        agreement=_agreement(readings, joined, settings),
        reliability=_reliability(joined.filter(pl.col("reader") == CONSENSUS), settings),
    )


def consensus(readings: pl.DataFrame) -> pl.DataFrame:
    """One row per study that any reader read: median stage (upper of two), majority (ties positive)."""

    def majority(name: str) -> pl.Expr:
        return (pl.col(name).mean() >= 0.5).alias(name)

    return (
        readings.group_by("study_pid", maintain_order=True)
        .agg(
            pl.lit(CONSENSUS).alias("reader"),
            pl.col("stage").quantile(0.5, interpolation="higher").cast(pl.Int8),
            majority("pneumoconiosis"),
            majority("tb"),
        )
        .select(readings.columns)
    )


def _confusion(joined: pl.DataFrame) -> pl.DataFrame:
    staged = joined.drop_nulls(["stage", "stage_pred"])
    counted = staged.group_by(
        pl.col("reader").alias("reference"),
        pl.col("stage").alias("stage_reference"),
        pl.col("stage_pred").alias("stage_model"),
    ).agg(pl.len().alias("num_studies"))
    return counted.sort("reference", "stage_reference", "stage_model").cast(polars_schema(CONFUSION))


_COMPARISONS = (
    ("stage_ge_1", "pneumoconiosis", "model_stage_ge_1"),
    ("pneumoconiosis", "pneumoconiosis", "model_pneumoconiosis"),
    ("referral", "pneumoconiosis", "model_referral"),
    ("tb", "tb", "model_tb"),
)
"""(finding, column of the readings, column of the model)."""


def _accuracy(joined: pl.DataFrame, settings: AgreementSettings, prevalence: float | None) -> pl.DataFrame:
    rows: list[tuple[object, ...]] = []
    for reference in joined["reader"].unique(maintain_order=True):
        of_reader = joined.filter(pl.col("reader") == reference)
        for finding, truth_name, test_name in _COMPARISONS:
            pairs = of_reader.select(truth_name, test_name).drop_nulls()
            if pairs.is_empty():
                continue
            truth, test = pairs[truth_name].to_numpy(), pairs[test_name].to_numpy()
            expected = prevalence if finding == "stage_ge_1" else None
            rows += [(reference, finding, *row) for row in _four_figures(truth, test, settings, expected)]
    return pl.DataFrame(rows, schema=polars_schema(ACCURACY), orient="row")


def _four_figures(
    truth: npt.NDArray[np.bool_],
    test: npt.NDArray[np.bool_],
    settings: AgreementSettings,
    prevalence: float | None,
) -> list[tuple[object, ...]]:
    """(metric, value, low, high, numerator, denominator) of accuracy and predictive values."""
    right_positive, right_negative = int((truth & test).sum()), int((~truth & ~test).sum())
    fractions = {
        "sensitivity": (right_positive, int(truth.sum())),
        "specificity": (right_negative, int((~truth).sum())),
        "ppv": (right_positive, int(test.sum())),
        "npv": (right_negative, int((~test).sum())),
    }
    rows: list[tuple[object, ...]] = []
    for metric, (numerator, denominator) in fractions.items():
        low, high = proportion_interval(
            np.array([numerator]),
            np.array([denominator]),
            method=settings.method,
            confidence=settings.confidence,
        )
        value = numerator / denominator if denominator else None
        rows.append((metric, value, _none(low[0]), _none(high[0]), numerator, denominator))
    sensitivity, specificity = rows[0][1], rows[1][1]
    if prevalence is not None and isinstance(sensitivity, float) and isinstance(specificity, float):
        ppv, npv = predictive_values(sensitivity, specificity, prevalence)
        rows += [("ppv_campaign", ppv, None, None, None, None), ("npv_campaign", npv, None, None, None, None)]
    return rows


def predictive_values(
    sensitivity: float, specificity: float, prevalence: float
) -> tuple[float | None, float | None]:
    """PPV and NPV at a prevalence, by Bayes; None where no test could be positive (negative)."""
    positive = sensitivity * prevalence + (1 - specificity) * (1 - prevalence)
    negative = (1 - sensitivity) * prevalence + specificity * (1 - prevalence)
    return (
        sensitivity * prevalence / positive if positive else None,
        specificity * (1 - prevalence) / negative if negative else None,
    )


def _agreement(readings: pl.DataFrame, joined: pl.DataFrame, settings: AgreementSettings) -> pl.DataFrame:
    """Reader-reader pairs first, then the model against each reader and the consensus, on common films."""
    staged = readings.drop_nulls("stage")
    readers = staged["reader"].unique().sort().to_list()
    rng = np.random.default_rng(settings.seed)
    rows: list[tuple[object, ...]] = []
    for first, second in combinations(readers, 2):
        pairs = staged.filter(pl.col("reader") == first).join(
            staged.filter(pl.col("reader") == second), on="study_pid", suffix="_second"
        )
        rows += _pair_rows(
            "reader_reader", first, second, pairs["stage"], pairs["stage_second"], settings, rng
        )
    for reference in [*readers, CONSENSUS]:
        pairs = joined.filter(pl.col("reader") == reference).drop_nulls(["stage", "stage_pred"])
        kind = "model_consensus" if reference == CONSENSUS else "model_reader"
        rows += _pair_rows(kind, MODEL, reference, pairs["stage_pred"], pairs["stage"], settings, rng)
    rows += _panel_rows(staged, len(readers))
    return pl.DataFrame(rows, schema=polars_schema(AGREEMENT), orient="row")


def _pair_rows(
    kind: str,
    first: str,
    second: str,
    stages: pl.Series,
    others: pl.Series,
    settings: AgreementSettings,
    rng: np.random.Generator,
) -> list[tuple[object, ...]]:
    num_studies = len(stages)
    if not num_studies:
        return []
    table = np.zeros((NUM_STAGES, NUM_STAGES), np.int64)
    np.add.at(table, (stages.to_numpy(), others.to_numpy()), 1)
    distance = np.abs(np.subtract.outer(np.arange(NUM_STAGES), np.arange(NUM_STAGES)))
    rows: list[tuple[object, ...]] = []
    for metric, limit in (("exact_stage", 0), ("within_one_stage", 1)):
        agree = int(table[distance <= limit].sum())
        low, high = proportion_interval(
            np.array([agree]), np.array([num_studies]), method=settings.method, confidence=settings.confidence
        )
        rows.append(
            (kind, first, second, metric, agree / num_studies, float(low[0]), float(high[0]), num_studies)
        )
    kappa = float(quadratic_kappa(table[None])[0])
    resampled = rng.multinomial(num_studies, table.ravel() / num_studies, size=settings.bootstrap_samples)
    samples = quadratic_kappa(resampled.reshape(-1, NUM_STAGES, NUM_STAGES))
    samples = samples[np.isfinite(samples)]
    tail = (1 - settings.confidence) / 2
    limits = (
        np.quantile(samples, (tail, 1 - tail)) if np.isfinite(kappa) and len(samples) else (np.nan, np.nan)
    )
    rows.append(
        (
            kind,
            first,
            second,
            "kappa_quadratic",
            _none(kappa),
            _none(limits[0]),
            _none(limits[1]),
            num_studies,
        )
    )
    return rows


def quadratic_kappa(tables: Counts) -> Float64:
    """Quadratic-weighted kappa of (B, 4, 4) tables; NaN where chance agreement is perfect.

    Equal to `statsmodels.stats.inter_rater.cohens_kappa(wt="quadratic")`, vectorised for the bootstrap.
    """
    shares = tables / np.maximum(tables.sum(axis=(1, 2), keepdims=True), 1)
    observed = (shares * _WEIGHTS).sum(axis=(1, 2))
    chance = np.einsum("bi,bj,ij->b", shares.sum(axis=2), shares.sum(axis=1), _WEIGHTS)
    with np.errstate(divide="ignore", invalid="ignore"):
        kappa: Float64 = np.where(chance < 1 - 1e-12, (observed - chance) / (1 - chance), np.nan)
    return kappa


def _panel_rows(staged: pl.DataFrame, num_readers: int) -> list[tuple[object, ...]]:
    """Fleiss' kappa over the films that every reader staged."""
    if num_readers < 3:
        return []
    wide = staged.pivot("reader", index="study_pid", values="stage").drop_nulls()
    if wide.height < 2:
        return []
    counts, _ = aggregate_raters(wide.drop("study_pid").to_numpy(), n_cat=NUM_STAGES)
    all_same = int((counts.sum(axis=0) > 0).sum()) == 1
    kappa = None if all_same else float(fleiss_kappa(counts))
    return [("all_readers", "all", "all", "fleiss_kappa", kappa, None, None, wide.height)]


def _reliability(joined: pl.DataFrame, settings: AgreementSettings) -> pl.DataFrame:
    """Share positive by consensus in bins of calibrated probability; empty bins are left out."""
    frames = [pl.DataFrame(schema=polars_schema(RELIABILITY))]
    for finding in ("pneumoconiosis", "tb"):
        pairs = joined.select(pl.col(finding).alias("truth"), pl.col(f"p_{finding}").alias("p")).drop_nulls()
        index = (pl.col("p") * NUM_BINS).floor().clip(0, NUM_BINS - 1).cast(pl.Int32).alias("bin")
        bins = (
            pairs.group_by(index)
            .agg(
                pl.len().alias("num_studies"),
                pl.col("p").mean().alias("mean_probability"),
                pl.col("truth").sum(),
            )
            .sort("bin")
        )
        if bins.is_empty():
            continue
        low, high = proportion_interval(
            bins["truth"].to_numpy().astype(np.int64),
            bins["num_studies"].to_numpy().astype(np.int64),
            method=settings.method,
            confidence=settings.confidence,
        )
        rows = bins.with_columns(
            pl.lit(finding).alias("finding"),
            (pl.col("bin") / NUM_BINS).alias("bin_low"),
            ((pl.col("bin") + 1) / NUM_BINS).alias("bin_high"),
            (pl.col("truth") / pl.col("num_studies")).alias("observed"),
            pl.Series("low", low),
            pl.Series("high", high),
        )
        frames.append(
            rows.select(pl.col(name).cast(dtype) for name, dtype in polars_schema(RELIABILITY).items())
        )
    return pl.concat(frames)


def _none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
