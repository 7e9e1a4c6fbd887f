"""Persons to prevalence: every outcome, overall and by stratum, with intervals, correction and suppression.

One tidy row per dimension, stratum and outcome. Questionable: films of unreadable quality are outside
numerator and denominator (they are in the flow, and referred); a campaign where they cluster in one site has
a selection that no interval shows, so quality by site is printed beside the prevalence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from screener.epidemiology.intervals import IntervalMethod, cluster_intervals, proportion_interval
from screener.epidemiology.misclassification import TestAccuracy, lang_reiczigel, rogan_gladen
from screener.epidemiology.outcomes import Outcome, is_outcome
from screener.epidemiology.strata import UNKNOWN, Dimension, band_order, latest_per_person
from screener.epidemiology.suppression import Hidden, StratumCounts, suppress
from screener.epidemiology.tables import PREVALENCE, empty
from screener.schema import polars_schema

OVERALL = "overall"
"""Name of the dimension with one stratum, `all`."""
ALL = "all"


@dataclass(frozen=True, slots=True)
class PrevalenceSettings:
    """How prevalence is estimated."""

    method: IntervalMethod = "wilson"
    confidence: float = 0.95
    min_cell: int = 5
    """Counts below this are not published."""
    bootstrap_samples: int = 2000
    seed: int = 0


def prevalence_table(
    studies: pl.DataFrame,
    dimensions: Sequence[Dimension],
    accuracy: Mapping[Outcome, TestAccuracy],
    settings: PrevalenceSettings,
) -> pl.DataFrame:
    """Prevalence of every outcome, overall and by stratum.

    Args:
        studies: screened studies with strata and `person` (see `strata`).
        dimensions: what to group by.
        accuracy: outcomes whose prevalence is also corrected for misclassification.
        settings: intervals and suppression.

    Returns:
        Columns of `tables.PREVALENCE`, overall first, strata in their natural order.
    """
    flagged = studies.with_columns(
        is_outcome(outcome).fill_null(value=False).alias(outcome.value) for outcome in Outcome
    )
    persons = latest_per_person(flagged)
    rng = np.random.default_rng(settings.seed)
    overall = persons.with_columns(pl.lit(ALL).alias(OVERALL))
    frames = [_dimension_rows(overall, OVERALL, accuracy, settings, rng)]
    for dimension in dimensions:
        members = latest_per_person(flagged, by_year=True) if dimension is Dimension.YEAR else persons
        frames.append(_dimension_rows(members, dimension.value, accuracy, settings, rng))
    return pl.concat(frames)


def _dimension_rows(
    persons: pl.DataFrame,
    dimension: str,
    accuracy: Mapping[Outcome, TestAccuracy],
    settings: PrevalenceSettings,
    rng: np.random.Generator,
) -> pl.DataFrame:
    if persons.is_empty():
        return empty("prevalence")
    names = [outcome.value for outcome in Outcome]
    grouped = persons.group_by(dimension).agg(pl.len().alias("n"), *(pl.col(name).sum() for name in names))
    order = sorted(range(grouped.height), key=lambda row: band_order(grouped[dimension][row]))
    grouped = grouped[order]
    counts = StratumCounts(
        grouped["n"].to_numpy().astype(np.int64),
        {outcome: grouped[outcome.value].to_numpy().astype(np.int64) for outcome in Outcome},
    )
    hidden = suppress(counts, min_cell=settings.min_cell)
    strata = grouped[dimension].to_list()
    clusters = _cluster_limits(persons, dimension, strata, settings, rng)
    return pl.concat(
        _outcome_rows(dimension, strata, outcome, counts, hidden, accuracy.get(outcome), clusters, settings)
        for outcome in Outcome
    )


def _outcome_rows(
    dimension: str,
    strata: list[str],
    outcome: Outcome,
    counts: StratumCounts,
    hidden: Hidden,
    accuracy: TestAccuracy | None,
    clusters: pl.DataFrame,
    settings: PrevalenceSettings,
) -> pl.DataFrame:
    totals, positives = counts.totals, counts.positives[outcome]
    low, high = proportion_interval(positives, totals, method=settings.method, confidence=settings.confidence)
    columns = {
        "dimension": [dimension] * len(strata),
        "stratum": strata,
        "outcome": [outcome.value] * len(strata),
        "num_persons": totals,
        "num_positive": positives,
        "prevalence": positives / totals,
        "low": low,
        "high": high,
        "suppressed": hidden.positives[outcome],
    }
    if accuracy is not None:
        columns["corrected"] = rogan_gladen(positives, totals, accuracy)
        columns["corrected_low"], columns["corrected_high"] = lang_reiczigel(
            positives, totals, accuracy, confidence=settings.confidence
        )
    table = pl.DataFrame(columns).join(
        clusters.filter(pl.col("outcome") == outcome.value).drop("outcome"),
        on="stratum",
        how="left",
        maintain_order="left",
    )
    return _masked(table, hidden)


def _masked(table: pl.DataFrame, hidden: Hidden) -> pl.DataFrame:
    """The table in its schema, with every figure of a suppressed cell empty."""
    schema = polars_schema(PREVALENCE)
    named = ("dimension", "stratum", "outcome", "suppressed", "num_persons")
    complete = table.with_columns(
        pl.lit(None).alias(name) for name in schema if name not in table.columns
    ).with_columns(pl.Series("total_hidden", hidden.totals))
    figures = [
        pl.when(pl.col("suppressed")).then(None).otherwise(pl.col(name)).alias(name)
        for name in schema
        if name not in named
    ]
    size = pl.when(pl.col("total_hidden")).then(None).otherwise(pl.col("num_persons")).alias("num_persons")
    return complete.with_columns(*figures, size).select(
        pl.col(name).cast(dtype) for name, dtype in schema.items()
    )


def _cluster_limits(
    persons: pl.DataFrame,
    dimension: str,
    strata: list[str],
    settings: PrevalenceSettings,
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Bootstrap limits over the sites inside every stratum: stratum, outcome, num_sites, two limits.

    Persons whose site is unknown are left out of the bootstrap: they are no cluster.
    """
    names = [outcome.value for outcome in Outcome]
    known = persons.filter(pl.col(Dimension.SITE.value) != UNKNOWN)
    site = pl.col(Dimension.SITE.value).alias("cluster")
    by_site = (
        known.group_by(pl.col(dimension).alias("stratum"), site, maintain_order=True)
        .agg(pl.len().alias("n"), *(pl.col(name).sum() for name in names))
        .sort("stratum", "cluster")
    )
    rows = []
    for stratum in strata:
        sites = by_site.filter(pl.col("stratum") == stratum)
        limits = cluster_intervals(
            sites.select(names).to_numpy().astype(np.int64),
            sites["n"].to_numpy().astype(np.int64),
            confidence=settings.confidence,
            num_samples=settings.bootstrap_samples,
            rng=rng,
        )
        for index, name in enumerate(names):
            low, high = (None, None) if limits is None else limits[:, index].tolist()
            rows.append((stratum, name, sites.height, low, high))
    return pl.DataFrame(
        rows,
        schema={
            "stratum": pl.String,
            "outcome": pl.String,
            "num_sites": pl.Int32,
            "cluster_low": pl.Float64,
            "cluster_high": pl.Float64,
        },
        orient="row",
    )
