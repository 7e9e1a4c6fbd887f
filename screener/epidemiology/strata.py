"""Studies and the roster to the persons and strata that prevalence is computed over.

The unit is the person: the latest screened study of each subject, so that a worker filmed three times
counts once. Questionable: a study without a subject pseudonym counts as one person (their number is
reported), and the stratum `year` keeps each person's latest study of *every* year, so years may add up to
more than the persons overall.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise

import polars as pl

from screener.errors import ConfigError

UNKNOWN = "unknown"
"""Stratum of persons whose value is not known or who are not on the roster."""

_AGE_EDGES = (30, 40, 50, 60, 70)
_EXPOSURE_EDGES = (5, 10, 15, 20, 30)


class Dimension(StrEnum):
    """What persons can be grouped by."""

    SITE = "site"
    JOB = "job"
    DUST = "dust"
    AGE_BAND = "age_band"
    SEX = "sex"
    YEAR = "year"
    EXPOSURE_BAND = "exposure_band"
    MANUFACTURER = "manufacturer"
    QUALITY = "quality"


FROM_ROSTER = (Dimension.SITE, Dimension.JOB, Dimension.DUST, Dimension.EXPOSURE_BAND)
"""Dimensions that only a roster gives."""


def parse_dimensions(names: Sequence[str], *, has_roster: bool) -> tuple[Dimension, ...]:
    """Dimensions by name, in the order given and once each.

    Raises:
        ConfigError: an unknown name, or one that needs the roster that was not given.
    """
    unknown = [name for name in names if name not in list(Dimension)]
    if unknown:
        raise ConfigError(f"--by {','.join(unknown)}: unknown, expected some of {','.join(Dimension)}")
    dimensions = tuple(dict.fromkeys(Dimension(name) for name in names))
    missing = [dimension for dimension in dimensions if dimension in FROM_ROSTER]
    if missing and not has_roster:
        raise ConfigError(f"--by {','.join(missing)} needs a roster; give --roster or leave it out")
    return dimensions


def default_dimensions(*, has_roster: bool) -> tuple[Dimension, ...]:
    """Every dimension that the campaign can have."""
    return tuple(dimension for dimension in Dimension if has_roster or dimension not in FROM_ROSTER)


def with_strata(studies: pl.DataFrame) -> pl.DataFrame:
    """Add a text column for every dimension to studies that `roster.join` has seen.

    Args:
        studies: columns of the studies table and of `roster.ROSTER`.

    Returns:
        The same rows; missing values are `unknown`.
    """
    age = pl.coalesce(
        (pl.col("study_year").cast(pl.Int32) - pl.col("birth_year")), pl.col("age_years").cast(pl.Int32)
    )
    labels = {
        Dimension.SITE: pl.col("roster_site"),
        Dimension.JOB: pl.col("roster_job"),
        Dimension.DUST: pl.col("roster_dust"),
        Dimension.AGE_BAND: _band(age, _AGE_EDGES),
        Dimension.SEX: pl.coalesce(pl.col("roster_sex"), pl.col("sex")),
        Dimension.YEAR: pl.col("study_year").cast(pl.String),
        Dimension.EXPOSURE_BAND: _band(pl.col("exposure_years"), _EXPOSURE_EDGES),
        Dimension.MANUFACTURER: pl.col("manufacturer"),
        Dimension.QUALITY: pl.col("quality_grade").cast(pl.String),
    }
    return studies.with_columns(
        expression.fill_null(UNKNOWN).alias(dimension.value) for dimension, expression in labels.items()
    )


def _band(value: pl.Expr, edges: Sequence[int]) -> pl.Expr:
    """Half-open bands as text that also sorts: `<30`, `30-39`, ..., `>=70`."""
    names = [f"<{edges[0]}", *(f"{low}-{high - 1}" for low, high in pairwise(edges)), f">={edges[-1]}"]
    index = pl.sum_horizontal((value >= edge).cast(pl.Int32) for edge in edges)
    label = index.replace_strict(dict(enumerate(names)), return_dtype=pl.String)
    return pl.when(value.is_not_null()).then(label)


def band_order(stratum: str) -> tuple[int, float, str]:
    """Sort key: bands by their lower edge, other text by itself, unknown last."""
    if stratum == UNKNOWN:
        return (2, 0.0, "")
    lower = stratum.lstrip("<>=").split("-")[0]
    if not lower.isdigit():
        return (1, 0.0, stratum)
    return (0, float(lower) - (0.5 if stratum.startswith("<") else 0.0), stratum)


def latest_per_person(studies: pl.DataFrame, *, by_year: bool = False) -> pl.DataFrame:
    """One row per person (and year): the latest study; ties go to the better picture, then the pseudonym.

    Args:
        studies: screened studies; `person` names the subject, or the study where it has none.
        by_year: keep the latest study of every year.
    """
    keys = ["person", Dimension.YEAR.value] if by_year else ["person"]
    order = studies.sort(
        "study_year",
        "study_date",
        "quality_grade",
        "study_pid",
        descending=[True, True, False, False],
        nulls_last=True,
    )
    return order.unique(subset=keys, keep="first", maintain_order=True)
