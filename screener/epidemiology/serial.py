"""Films of one subject in time: the stage suspected now against the stage before.

The film before is the subject's previous screened study in the campaign; where there is none, the stage that
the roster knows from earlier. Questionable: pneumoconiosis does not regress, so a lower stage now is reading
variation or a worse film; such pairs are counted like all others, as a measure of exactly that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from screener.epidemiology.intervals import IntervalMethod, proportion_interval
from screener.epidemiology.suppression import hide_until_safe
from screener.epidemiology.tables import PROGRESSION
from screener.schema import polars_schema

CAMPAIGN, ROSTER = "campaign", "roster"
DIRECTIONS = (1, 0, -1)
"""Stage now minus stage before: higher, unchanged, lower."""


@dataclass(frozen=True, slots=True)
class Progression:
    """Stage changes of a campaign."""

    table: pl.DataFrame
    """`tables.PROGRESSION`."""
    pairs: pl.DataFrame
    """One row per person with an earlier stage: study_pid (now), stage_before, source."""
    num_progressed: int | None
    """Persons whose stage is higher now; None when suppressed, like the next two."""
    num_unchanged: int | None
    num_lower: int | None
    progressed_low: float | None
    """Limits of the share that progressed; None without pairs or when suppressed."""
    progressed_high: float | None
    num_unordered: int
    """Earlier films left out because they have no date that would order them."""


def progression(
    studies: pl.DataFrame, *, min_cell: int, confidence: float, method: IntervalMethod = "wilson"
) -> Progression:
    """Compare each person's latest film with the one before.

    Args:
        studies: screened studies with `person` and the roster's `prior_stage`, `prior_year`.
        min_cell: smallest count that may be published.
        confidence: of the interval for the share that progressed.
        method: of that interval.
    """
    pairs, num_unordered = _pairs(studies)
    counted = _counted(pairs)
    totals = np.array(
        [int(counted.filter(pl.col("direction") == step)["num_persons"].sum()) for step in DIRECTIONS],
        np.int64,
    )
    hidden = hide_until_safe(totals < min_cell, [totals], min_cell) if min_cell > 1 else totals < 0
    shown = {
        step: None if hide else int(total)
        for step, hide, total in zip(DIRECTIONS, hidden, totals, strict=True)
    }
    low = high = None
    if pairs.height and not hidden[0]:
        limits = proportion_interval(
            totals[:1], totals[:1] * 0 + pairs.height, method=method, confidence=confidence
        )
        low, high = float(limits[0][0]), float(limits[1][0])
    return Progression(
        table=_masked(counted, [step for step in DIRECTIONS if shown[step] is None], min_cell),
        pairs=pairs.select("study_pid", "stage_before", "source"),
        num_progressed=shown[1],
        num_unchanged=shown[0],
        num_lower=shown[-1],
        progressed_low=low,
        progressed_high=high,
        num_unordered=num_unordered,
    )


def _pairs(studies: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """person, study_pid, stage_now, stage_before, years, source; and films that cannot be ordered."""
    with_subject = studies.drop_nulls("subject_pid")
    dated = with_subject.drop_nulls("study_date").unique(["subject_pid", "study_date"], keep="none")
    several = with_subject.group_by("subject_pid").len().filter(pl.col("len") > 1)
    undated = with_subject.join(dated, on="study_pid", how="anti").join(several, on="subject_pid", how="semi")
    ordered = dated.sort("subject_pid", "study_date")
    before = ordered.select(
        "subject_pid",
        "study_pid",
        pl.col("stage_pred").alias("stage_now"),
        pl.col("stage_pred").shift(1).over("subject_pid").alias("stage_before"),
        (
            (pl.col("study_date") - pl.col("study_date").shift(1).over("subject_pid")).dt.total_days()
            / 365.25
        ).alias("years"),
    )
    latest = before.group_by("subject_pid", maintain_order=True).last()
    from_campaign = latest.drop_nulls("stage_before").with_columns(pl.lit(CAMPAIGN).alias("source"))
    newest = (
        with_subject.sort("study_year", "study_date", "study_pid", nulls_last=True)
        .group_by("subject_pid", maintain_order=True)
        .last()
    )
    from_roster = (
        newest.join(from_campaign, on="subject_pid", how="anti")
        .drop_nulls("prior_stage")
        .select(
            "subject_pid",
            "study_pid",
            pl.col("stage_pred").alias("stage_now"),
            pl.col("prior_stage").alias("stage_before"),
            (pl.col("study_year").cast(pl.Float64) - pl.col("prior_year")).alias("years"),
            pl.lit(ROSTER).alias("source"),
        )
    )
    columns = ["study_pid", "stage_now", "stage_before", "years", "source"]
    return pl.concat([from_campaign.select(columns), from_roster.select(columns)]), undated.height


def _counted(pairs: pl.DataFrame) -> pl.DataFrame:
    """Persons of every source and change, with `direction`: 1 progressed, 0 unchanged, -1 lower."""
    counted = pairs.group_by("source", "stage_before", "stage_now").agg(
        pl.len().cast(pl.Int64).alias("num_persons"), pl.col("years").median().alias("median_years")
    )
    direction = (pl.col("stage_now") - pl.col("stage_before")).sign().cast(pl.Int8)
    return counted.with_columns(direction.alias("direction")).sort("source", "stage_before", "stage_now")


def _masked(counted: pl.DataFrame, hidden_directions: list[int], min_cell: int) -> pl.DataFrame:
    """Hide small cells, so that no direction's published total gives them away."""
    masked = []
    for direction in DIRECTIONS:
        cells = counted.filter(pl.col("direction") == direction)
        counts = cells["num_persons"].to_numpy()
        small = (counts < min_cell) | (direction in hidden_directions)
        hidden = (
            hide_until_safe(small, [counts], min_cell) if min_cell > 1 else np.zeros(len(counts), np.bool_)
        )
        masked.append(cells.with_columns(pl.Series("suppressed", hidden, dtype=pl.Boolean)))
    figures = [
        pl.when("suppressed").then(None).otherwise(pl.col(name)).alias(name)
        for name in ("num_persons", "median_years")
    ]
    table = pl.concat(masked).with_columns(*figures).sort("source", "stage_before", "stage_now")
    return table.select(pl.col(name).cast(dtype) for name, dtype in polars_schema(PROGRESSION).items())
