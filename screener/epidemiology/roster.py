"""The operator's roster joined to studies by pseudonym, with every unmatched row counted.

The roster is a CSV or Parquet file with one row per worker. Its key is `patient_id` (with
`issuer_of_patient_id` where the archive has one), turned into `subject_pid` with the campaign's key before
anything else is done, or `subject_pid` itself. Questionable: only the columns named in `ROSTER` are kept,
so a name or telephone number that the operator left in the file cannot reach a report; conflicting rows for
one subject stop the command, because picking one would move a worker to another site unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from screener.errors import ConfigError, ReportError

Pseudonymise = Callable[[str | None, str], str]
"""(issuer of patient ID, patient ID) to subject_pid."""

ROSTER = pl.Schema(
    {
        "subject_pid": pl.String(),
        "roster_site": pl.String(),
        "roster_job": pl.String(),
        "roster_dust": pl.String(),
        "exposure_years": pl.Float64(),
        "birth_year": pl.Int32(),
        "roster_sex": pl.String(),
        "prior_stage": pl.Int8(),
        "prior_year": pl.Int32(),
    }
)

_ALIASES = {
    "roster_site": ("site",),
    "roster_job": ("job", "job_code"),
    "roster_dust": ("dust", "dust_type"),
    "exposure_years": ("exposure_years",),
    "birth_year": ("birth_year",),
    "roster_sex": ("sex",),
    "prior_stage": ("prior_stage",),
    "prior_year": ("prior_year",),
}

_SEX = {"m": "M", "male": "M", "男": "M", "f": "F", "female": "F", "女": "F", "o": "O", "other": "O"}
_RANGES = {
    "exposure_years": (0, 70),
    "birth_year": (1900, 2025),
    "prior_stage": (0, 3),
    "prior_year": (1950, 2100),
}


@dataclass(frozen=True, slots=True)
class Roster:
    """A roster without identities, and what was found wrong with it."""

    subjects: pl.DataFrame
    """Columns of `ROSTER`; one row per subject."""
    columns: tuple[str, ...]
    """Columns of `ROSTER` that the file had."""
    num_rows: int
    warnings: dict[str, int]
    """Counted: `roster_duplicate_rows`, `roster_unknown_sex`, `roster_bad_<column>`, `roster_no_key`."""


@dataclass(frozen=True, slots=True)
class RosterMatch:
    """How the roster and the campaign met."""

    roster_subjects: int
    matched_subjects: int
    unmatched_roster_subjects: int
    """On the roster, no study in the campaign."""
    unmatched_campaign_subjects: int
    """Studied, not on the roster."""
    studies_without_subject: int


def read_table(path: Path, what: str) -> pl.DataFrame:
    """Read a CSV (UTF-8, comma, header line) or Parquet file, every CSV column as text.

    Raises:
        ConfigError: it is missing, empty or not such a file. The message names no path.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return pl.read_parquet(path)
        return pl.read_csv(path, infer_schema=False, encoding="utf8", truncate_ragged_lines=False)
    except (OSError, pl.exceptions.PolarsError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the {what} cannot be read as CSV (UTF-8, commas, a header line) or Parquet: "
            f"{type(error).__name__}"
        ) from error


def read_roster(path: Path, pseudonymise: Pseudonymise | None) -> Roster:
    """Read a roster and forget its identities.

    Args:
        path: CSV or Parquet file.
        pseudonymise: from the campaign's key; None when the key is not at hand.

    Raises:
        ConfigError: no key column, or `patient_id` without the key.
        ReportError: rows that contradict each other about one subject.
    """
    table = read_table(path, "roster").rename(lambda name: name.strip().lower().lstrip("\ufeff"))
    keyed = _keyed(table, pseudonymise)
    warnings: dict[str, int] = {}
    columns, expressions = [], [pl.col("subject_pid")]
    for name, dtype in list(ROSTER.items())[1:]:
        source = next((alias for alias in _ALIASES[name] if alias in keyed.columns), None)
        if source:
            columns.append(name)
        expressions.append(_parsed(source, name, dtype))
    parsed = keyed.select(*expressions)
    for name in columns:
        source = next(alias for alias in _ALIASES[name] if alias in keyed.columns)
        lost = int((_text(keyed[source]).is_not_null() & parsed[name].is_null()).sum())
        _count(warnings, "roster_unknown_sex" if name == "roster_sex" else f"roster_bad_{name}", lost)
    _count(warnings, "roster_no_key", parsed["subject_pid"].null_count())
    parsed = parsed.drop_nulls("subject_pid")
    subjects = parsed.unique(maintain_order=True)
    _count(warnings, "roster_duplicate_rows", parsed.height - subjects.height)
    _refuse_contradictions(parsed)
    return Roster(subjects, tuple(columns), table.height, warnings)


def _count(warnings: dict[str, int], name: str, number: int) -> None:
    if number:
        warnings[name] = number


def _keyed(table: pl.DataFrame, pseudonymise: Pseudonymise | None) -> pl.DataFrame:
    """The table with `subject_pid` and without the identifiers it came from."""
    if "subject_pid" in table.columns:
        return table.with_columns(_text(table["subject_pid"]).str.to_lowercase().alias("subject_pid"))
    if "patient_id" not in table.columns:
        raise ConfigError(
            "the roster has no key column: expected patient_id (or subject_pid), found "
            f"{', '.join(table.columns[:12])}"
        )
    if pseudonymise is None:
        raise ConfigError(
            "the roster has patient_id, which needs the campaign's pseudonym key: give --key-file, "
            "or a roster with subject_pid"
        )
    patients = _text(table["patient_id"])
    issuers = (
        _text(table["issuer_of_patient_id"])
        if "issuer_of_patient_id" in table.columns
        else pl.Series([None] * table.height, dtype=pl.String)
    )
    pids = [
        None if patient is None else pseudonymise(issuer, patient)
        for issuer, patient in zip(issuers, patients, strict=True)
    ]
    return table.drop("patient_id", "issuer_of_patient_id", strict=False).with_columns(
        pl.Series("subject_pid", pids, dtype=pl.String)
    )


def _text(series: pl.Series) -> pl.Series:
    """Trimmed text; blank is null."""
    text = series.cast(pl.String).str.strip_chars()
    return text.set(text == "", None)


def _parsed(source: str | None, name: str, dtype: pl.DataType) -> pl.Expr:
    """One roster column, typed; what cannot be understood is null."""
    if source is None:
        return pl.lit(None, dtype=dtype).alias(name)
    text = pl.col(source).cast(pl.String).str.strip_chars()
    if name == "roster_sex":
        return text.str.to_lowercase().replace_strict(_SEX, default=None, return_dtype=pl.String).alias(name)
    if name not in _RANGES:
        return pl.when(text == "").then(None).otherwise(text).alias(name)
    low, high = _RANGES[name]
    number = text.cast(pl.Float64, strict=False)
    return pl.when(number.is_between(low, high)).then(number).cast(dtype, strict=False).alias(name)


def _refuse_contradictions(parsed: pl.DataFrame) -> None:
    numbered = parsed.with_row_index("line", offset=2)
    lines = (
        numbered.group_by("subject_pid")
        .agg(pl.col("line"), pl.struct(pl.exclude("line", "subject_pid")).n_unique().alias("versions"))
        .filter(pl.col("versions") > 1)
        .get_column("line")
        .sort()
    )
    if len(lines):
        shown = "; ".join(", ".join(map(str, group)) for group in lines.head(5).to_list())
        raise ReportError(
            f"the roster contradicts itself about {len(lines)} subjects: keep one row each. "
            f"Rows with a key, counted from line 2: {shown}"
        )


def join(studies: pl.DataFrame, roster: Roster | None) -> tuple[pl.DataFrame, RosterMatch | None]:
    """Add the roster's columns to the studies.

    Args:
        studies: the studies table.
        roster: None adds the columns empty.

    Returns:
        The same studies in the same order, and how the two sides met.
    """
    if roster is None:
        empty = [pl.lit(None, dtype=dtype).alias(name) for name, dtype in list(ROSTER.items())[1:]]
        return studies.with_columns(*empty), None
    joined = studies.join(roster.subjects, on="subject_pid", how="left", maintain_order="left")
    studied = set(studies["subject_pid"].drop_nulls().unique())
    listed = set(roster.subjects["subject_pid"])
    match = RosterMatch(
        roster_subjects=len(listed),
        matched_subjects=len(studied & listed),
        unmatched_roster_subjects=len(listed - studied),
        unmatched_campaign_subjects=len(studied - listed),
        studies_without_subject=studies["subject_pid"].null_count(),
    )
    return joined, match
