"""Studies to what shows whether a campaign runs well: scores, quality, drift over time, throughput.

Questionable: a *period* is the true month of acquisition where the private links are at hand and the year
otherwise; the shifted dates of the studies table would smear every drift over a year.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from screener.epidemiology.campaign_tables import PartWritten
from screener.epidemiology.intervals import proportion_interval
from screener.epidemiology.strata import UNKNOWN, Dimension
from screener.epidemiology.suppression import hide_until_safe
from screener.epidemiology.tables import DRIFT, QUALITY, SCORES, THROUGHPUT
from screener.records import Referral
from screener.schema import polars_schema

NUM_SCORE_BINS = 40
FINDINGS = ("pneumoconiosis", "tb")
_POOR_GRADE = 3
_MIN_PART_SECONDS = 1.0
"""Parts written closer together (a copied folder) say nothing about speed."""


def score_table(studies: pl.DataFrame, *, min_cell: int) -> pl.DataFrame:
    """Histogram of both calibrated probabilities; bins below `min_cell` are empty."""
    edges = pl.DataFrame({"bin": range(NUM_SCORE_BINS)}, schema={"bin": pl.Int32})
    frames = []
    for finding in FINDINGS:
        index = (pl.col(f"p_{finding}") * NUM_SCORE_BINS).floor().clip(0, NUM_SCORE_BINS - 1).cast(pl.Int32)
        counted = (
            studies.drop_nulls(f"p_{finding}").group_by(index.alias("bin")).agg(pl.len().alias("num_studies"))
        )
        filled = edges.join(counted, on="bin", how="left", maintain_order="left").with_columns(
            pl.col("num_studies").fill_null(0)
        )
        hidden = _hidden(filled["num_studies"], min_cell)
        frames.append(
            filled.select(
                pl.lit(finding).alias("finding"),
                (pl.col("bin") / NUM_SCORE_BINS).alias("bin_low"),
                ((pl.col("bin") + 1) / NUM_SCORE_BINS).alias("bin_high"),
                pl.when(~hidden).then(pl.col("num_studies")).cast(pl.Int64).alias("num_studies"),
            )
        )
    return pl.concat(frames).cast(polars_schema(SCORES))


def observed_thresholds(studies: pl.DataFrame) -> dict[str, float]:
    """The lowest probability at which each finding was suspected; findings never suspected are missing.

    The campaign records the threshold set's name; its values are recovered from the decisions it made, and
    lie at most one film's score above the true thresholds.
    """
    suspected = {
        finding: studies.filter(pl.col("dx_pred").is_in([finding, "both"]))[f"p_{finding}"].min()
        for finding in FINDINGS
    }
    return {finding: float(lowest) for finding, lowest in suspected.items() if isinstance(lowest, float)}


def quality_table(studies: pl.DataFrame, dimensions: Sequence[Dimension], *, min_cell: int) -> pl.DataFrame:
    """Quality grades within each site and manufacturer.

    A grade says nothing about a person's health, so small grades are shown; a stratum of fewer than
    `min_cell` studies is not, since its size would give away what the prevalence table hides.
    """
    frames = [pl.DataFrame(schema=polars_schema(QUALITY))]
    graded = studies.drop_nulls("quality_grade")
    for dimension in dimensions:
        stratum = pl.col(dimension.value).alias("stratum")
        sizes = graded.group_by(stratum).agg(pl.len().alias("size")).sort("stratum")
        sizes = sizes.with_columns(_hidden(sizes["size"], min_cell).alias("hidden"))
        counted = graded.group_by(stratum, "quality_grade").agg(pl.len().alias("num_studies"))
        shown = pl.when(~pl.col("hidden"))
        frames.append(
            counted.join(sizes, on="stratum")
            .sort("stratum", "quality_grade")
            .with_columns(
                pl.lit(dimension.value).alias("dimension"),
                shown.then(pl.col("num_studies") / pl.col("size")).alias("share"),
                shown.then(pl.col("num_studies")).alias("num_studies"),
            )
            .select(pl.col(name).cast(dtype) for name, dtype in polars_schema(QUALITY).items())
        )
    return pl.concat(frames)


def _hidden(counts: pl.Series, min_cell: int) -> pl.Series:
    """Counts that must not be shown, their sum being known."""
    values = counts.to_numpy().astype(np.int64)
    if min_cell <= 1:
        return pl.Series(np.zeros(len(values), dtype=np.bool_))
    return pl.Series(hide_until_safe(values < min_cell, [values], min_cell))


def drift_table(
    studies: pl.DataFrame, period: pl.Series, *, min_cell: int, confidence: float
) -> pl.DataFrame:
    """Mean scores, referral and poor quality by period of acquisition; periods below `min_cell` are left out.

    Args:
        studies: screened studies.
        period: of each study, null where not known.
        min_cell: fewest studies of a period.
        confidence: of the intervals (normal for mean scores, Wilson for shares).
    """
    dated = studies.with_columns(period.alias("period")).filter(
        pl.col("period").is_not_null() & (pl.col("period") != UNKNOWN)
    )
    measures = {
        "p_pneumoconiosis": pl.col("p_pneumoconiosis").cast(pl.Float64),
        "p_tb": pl.col("p_tb").cast(pl.Float64),
        "referred": (pl.col("referral") != Referral.NONE).cast(pl.Float64),
        "quality_poor": (pl.col("quality_grade") >= _POOR_GRADE).cast(pl.Float64),
    }
    frames = [pl.DataFrame(schema=polars_schema(DRIFT))]
    for name, expression in measures.items():
        by_period = (
            dated.group_by("period")
            .agg(
                expression.count().alias("num_studies"),
                expression.mean().alias("mean"),
                expression.std().alias("deviation"),
                expression.sum().alias("total"),
            )
            .filter(pl.col("num_studies") >= min_cell)
            .sort("period")
        )
        if name.startswith("p_"):
            limited = _mean_limits(by_period, confidence)
        else:
            limited = _share_limits(by_period, confidence, min_cell)
        frames.append(
            limited.with_columns(pl.lit(name).alias("measure")).select(
                pl.col(column).cast(dtype) for column, dtype in polars_schema(DRIFT).items()
            )
        )
    return pl.concat(frames)


def _mean_limits(by_period: pl.DataFrame, confidence: float) -> pl.DataFrame:
    from scipy.special import ndtri

    half = (
        float(ndtri((1 + confidence) / 2)) * pl.col("deviation").fill_null(0) / pl.col("num_studies").sqrt()
    )
    return by_period.with_columns(
        (pl.col("mean") - half).clip(0, 1).alias("low"), (pl.col("mean") + half).clip(0, 1).alias("high")
    )


def _share_limits(by_period: pl.DataFrame, confidence: float, min_cell: int) -> pl.DataFrame:
    """Limits of a share; a count below `min_cell` takes its share with it."""
    low, high = proportion_interval(
        by_period["total"].to_numpy().astype(np.int64),
        by_period["num_studies"].to_numpy().astype(np.int64),
        method="wilson",
        confidence=confidence,
    )
    limited = by_period.with_columns(pl.Series("low", low), pl.Series("high", high))
    shown = pl.col("total") >= min_cell
    return limited.with_columns(
        pl.when(shown).then(pl.col(name)).otherwise(None).alias(name) for name in ("mean", "low", "high")
    )


def throughput_table(parts: Sequence[PartWritten]) -> pl.DataFrame:
    """Files per minute between parts, by when each part was last written.

    The first part has no predecessor and no speed. Parts written within a second of each other (a copied
    folder) have none either.
    """
    ordered = sorted(parts, key=lambda part: part.ended)
    rows = []
    for before, part in zip([None, *ordered], ordered, strict=False):
        seconds = (part.ended - before.ended).total_seconds() if before else 0.0
        speed = part.num_files * 60 / seconds if seconds >= _MIN_PART_SECONDS else None
        rows.append((part.ended, part.num_files, speed))
    return pl.DataFrame(rows, schema=polars_schema(THROUGHPUT), orient="row")
