"""Every table that a report writes: name, columns, and how it reaches Parquet, CSV and a Hive layout.

Tidy: one row per observation, codes rather than text to read. Counts under the smallest cell and everything
computed from them are null where `suppressed`. Questionable: `persons` holds one row per person analysed
(pseudonyms and strata, no names), so that SQL and data frames can answer questions nobody foresaw; it is not
written for a public report.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from screener.durable import replace_file
from screener.parts import write_table
from screener.schema import Column, polars_schema

_STRATA = (
    Column("site", pl.String(), "", "Site from the roster; unknown without one."),
    Column("job", pl.String(), "", "Job from the roster."),
    Column("dust", pl.String(), "", "Dust type from the roster."),
    Column("age_band", pl.String(), "years", "Age at study, from the roster's birth year or the header."),
    Column("sex", pl.String(), "code", "Sex from the roster, else the header."),
    Column("year", pl.String(), "year", "Year of the study."),
    Column("exposure_band", pl.String(), "years", "Years of exposure from the roster."),
    Column("manufacturer", pl.String(), "", "Manufacturer of the X-ray unit."),
    Column("quality", pl.String(), "1-4", "Technical quality grade, as text."),
)
_INTERVAL = (
    Column("low", pl.Float64(), "0-1", "Lower confidence limit."),
    Column("high", pl.Float64(), "0-1", "Upper confidence limit."),
)

FLOW = (
    Column("step", pl.String(), "code", "Step of the flow, in order."),
    Column("unit", pl.String(), "code", "images, studies or subjects."),
    Column("entered", pl.Int64(), "units", "Units that reached the step."),
    Column("excluded", pl.Int64(), "units", "Units that left at the step."),
    Column("remaining", pl.Int64(), "units", "Units that passed the step: entered - excluded."),
)
FLOW_REASONS = (
    FLOW[0],
    FLOW[1],
    Column("reason", pl.String(), "code", "Why units left at the step."),
    Column("count", pl.Int64(), "units", "Units that left for this reason."),
)
PREVALENCE = (
    Column("dimension", pl.String(), "code", "What persons are grouped by; overall for everyone."),
    Column("stratum", pl.String(), "", "Value of the dimension; unknown where it is not known."),
    Column("outcome", pl.String(), "code", "Suspected finding."),
    Column("num_persons", pl.Int64(), "persons", "Persons screened; null below the smallest cell."),
    Column("num_positive", pl.Int64(), "persons", "Persons with the outcome; null when suppressed."),
    Column("prevalence", pl.Float64(), "0-1", "num_positive / num_persons."),
    *_INTERVAL,
    Column(
        "corrected", pl.Float64(), "0-1", "Rogan-Gladen prevalence; null without sensitivity and specificity."
    ),
    Column("corrected_low", pl.Float64(), "0-1", "Lower Lang-Reiczigel limit."),
    Column("corrected_high", pl.Float64(), "0-1", "Upper Lang-Reiczigel limit."),
    Column("num_sites", pl.Int32(), "sites", "Known sites in the stratum."),
    Column(
        "cluster_low", pl.Float64(), "0-1", "Lower limit of the bootstrap over sites; null below ten sites."
    ),
    Column("cluster_high", pl.Float64(), "0-1", "Upper limit of the bootstrap over sites."),
    Column("suppressed", pl.Boolean(), "", "The count is small, or would give a small one away."),
)
PERSONS = (
    Column("person", pl.String(), "hex", "subject_pid, or study_pid of a study without a subject."),
    Column("study_pid", pl.String(), "hex", "The person's latest screened study."),
    *_STRATA,
    Column("dx_pred", pl.String(), "code", "Suspected: normal, pneumoconiosis, tb or both."),
    Column("stage_pred", pl.Int8(), "0-3", "Suspected stage."),
    Column("p_pneumoconiosis", pl.Float32(), "0-1", "Calibrated probability."),
    Column("p_tb", pl.Float32(), "0-1", "Calibrated probability."),
    Column("referral", pl.String(), "code", "none, routine, priority or unreadable."),
)
PROGRESSION = (
    Column("source", pl.String(), "code", "campaign: an earlier film; roster: the stage known before."),
    Column("stage_before", pl.Int8(), "0-3", "Stage of the film before, or the roster's."),
    Column("stage_now", pl.Int8(), "0-3", "Suspected stage of the latest film."),
    Column("num_persons", pl.Int64(), "persons", "Persons with this change; null when suppressed."),
    Column("median_years", pl.Float64(), "years", "Median time between the two; null when not known."),
    Column("suppressed", pl.Boolean(), "", "The count is small, or would give a small one away."),
)
CONFUSION = (
    Column("reference", pl.String(), "code", "Reader, or consensus: the readers' median stage."),
    Column("stage_reference", pl.Int8(), "0-3", "Stage by the reference."),
    Column("stage_model", pl.Int8(), "0-3", "Suspected stage."),
    Column("num_studies", pl.Int64(), "studies", "Studies with this pair."),
)
ACCURACY = (
    Column(
        "reference", pl.String(), "code", "Reader, or consensus: the readers' majority (ties are positive)."
    ),
    Column(
        "finding", pl.String(), "code", "stage_ge_1, pneumoconiosis (against stage I or more), tb, referral."
    ),
    Column("metric", pl.String(), "code", "sensitivity, specificity, ppv, npv, ppv_campaign, npv_campaign."),
    Column("value", pl.Float64(), "0-1", "Estimate; null with an empty denominator."),
    *_INTERVAL,
    Column("numerator", pl.Int64(), "studies", "Null for the figures at campaign prevalence."),
    Column("denominator", pl.Int64(), "studies", "Null for the figures at campaign prevalence."),
)
AGREEMENT = (
    Column("kind", pl.String(), "code", "reader_reader, model_reader, model_consensus or all_readers."),
    Column("first", pl.String(), "", "Reader or model."),
    Column("second", pl.String(), "", "Reader or consensus."),
    Column("metric", pl.String(), "code", "kappa_quadratic, within_one_stage, exact_stage or fleiss_kappa."),
    Column("value", pl.Float64(), "-1 to 1", "Estimate; null when not defined."),
    *_INTERVAL,
    Column("num_studies", pl.Int64(), "studies", "Studies that both staged."),
)
RELIABILITY = (
    Column("finding", pl.String(), "code", "pneumoconiosis or tb."),
    Column("bin_low", pl.Float64(), "0-1", "Lower edge of the probability bin."),
    Column("bin_high", pl.Float64(), "0-1", "Upper edge of the probability bin."),
    Column("num_studies", pl.Int64(), "studies", "Studies read whose probability lies in the bin."),
    Column("mean_probability", pl.Float64(), "0-1", "Mean calibrated probability."),
    Column("observed", pl.Float64(), "0-1", "Share positive by consensus."),
    *_INTERVAL,
)
SCORES = (
    Column("finding", pl.String(), "code", "pneumoconiosis or tb."),
    Column("bin_low", pl.Float64(), "0-1", "Lower edge of the probability bin."),
    Column("bin_high", pl.Float64(), "0-1", "Upper edge of the probability bin."),
    Column("num_studies", pl.Int64(), "studies", "Studies in the bin; null below the smallest cell."),
)
QUALITY = (
    Column("dimension", pl.String(), "code", "site or manufacturer."),
    Column("stratum", pl.String(), "", "Site or manufacturer."),
    Column("quality_grade", pl.Int8(), "1-4", "1 good, 2 acceptable, 3 poor, 4 unreadable."),
    Column("num_studies", pl.Int64(), "studies", "Studies with this grade; null in a small stratum."),
    Column("share", pl.Float64(), "0-1", "Share within the stratum."),
)
DRIFT = (
    Column("period", pl.String(), "", "Year, or month as YYYY-MM, of acquisition."),
    Column("measure", pl.String(), "code", "p_pneumoconiosis, p_tb, referred or quality_poor."),
    Column("num_studies", pl.Int64(), "studies", "Studies of the period."),
    Column("mean", pl.Float64(), "0-1", "Mean probability, or share."),
    *_INTERVAL,
)
THROUGHPUT = (
    Column("ended_utc", pl.Datetime("us", "UTC"), "time", "When a part of the images table was written."),
    Column("num_files", pl.Int64(), "files", "Files of the part."),
    Column(
        "files_per_minute", pl.Float64(), "1/min", "Files of the part over the time since the one before."
    ),
)
WORKLIST = (
    Column("priority", pl.Int8(), "1-3", "1 priority, 2 routine, 3 unreadable or not decoded."),
    Column("study_pid", pl.String(), "hex", "Pseudonym of the study; private/links leads to the patient."),
    Column("subject_pid", pl.String(), "hex", "Pseudonym of the subject."),
    Column("image_pid", pl.String(), "hex", "Pseudonym of the image that speaks for the study."),
    Column("referral", pl.String(), "code", "routine, priority or unreadable."),
    Column("referral_reasons", pl.String(), "codes", "What led to the referral, separated by semicolons."),
    Column("dx_pred", pl.String(), "code", "Suspected: normal, pneumoconiosis, tb or both."),
    Column("stage_pred", pl.Int8(), "0-3", "Suspected stage."),
    Column("stage_before", pl.Int8(), "0-3", "Stage of the film before, or the roster's; null when none."),
    Column("p_pneumoconiosis", pl.Float32(), "0-1", "Calibrated probability."),
    Column("p_tb", pl.Float32(), "0-1", "Calibrated probability."),
    Column("quality_grade", pl.Int8(), "1-4", "Technical quality."),
    Column("quality_flags", pl.String(), "codes", "Why the grade is not 1, separated by semicolons."),
    Column("year", pl.String(), "year", "Year of the study."),
    Column("site", pl.String(), "", "Site from the roster."),
    Column("age_band", pl.String(), "years", "Age at study."),
    Column("sex", pl.String(), "code", "Sex."),
)

REPORT_TABLES: dict[str, tuple[Column, ...]] = {
    "flow": FLOW,
    "flow_reasons": FLOW_REASONS,
    "prevalence": PREVALENCE,
    "persons": PERSONS,
    "progression": PROGRESSION,
    "confusion": CONFUSION,
    "accuracy": ACCURACY,
    "agreement": AGREEMENT,
    "reliability": RELIABILITY,
    "scores": SCORES,
    "quality": QUALITY,
    "drift": DRIFT,
    "throughput": THROUGHPUT,
    "worklist": WORKLIST,
}
PRIVATE_TABLES = ("persons", "worklist")
"""One row per person: left out of a public report."""


def empty(table: str) -> pl.DataFrame:
    """A report table without rows."""
    return pl.DataFrame(schema=polars_schema(REPORT_TABLES[table]))


def write_tables(folder: Path, tables: Mapping[str, pl.DataFrame], metadata: Mapping[str, str]) -> None:
    """Write each table as `<name>.parquet` and `<name>.csv` (UTF-8 with byte order mark, for spreadsheets).

    Raises:
        ReportError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        ordered = table.select(list(polars_schema(REPORT_TABLES[name]))).cast(
            polars_schema(REPORT_TABLES[name])
        )
        write_table(folder / f"{name}.parquet", ordered, f"report/{name}", metadata)
        write_csv(folder / f"{name}.csv", ordered)


def write_csv(path: Path, table: pl.DataFrame) -> None:
    """Write a CSV that spreadsheets open safely.

    Text from a roster that a spreadsheet would take for a formula (`=`, `+`, `-`, `@`) gets a leading
    apostrophe (OWASP CSV injection); missing values are empty.
    """
    texts = [name for name, dtype in table.schema.items() if dtype == pl.String]
    safe = table.with_columns(pl.col(name).str.replace(r"^([=+\-@\t\r])", "'$1") for name in texts)
    replace_file(path, lambda place: safe.write_csv(place, include_bom=True))


def write_hive(folder: Path, persons: pl.DataFrame) -> None:
    """Write `persons` as `site=.../year=.../*.parquet`; an earlier layout is replaced."""
    import shutil

    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if persons.height:
        persons.write_parquet(temporary, partition_by=["site", "year"], mkdir=True)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
