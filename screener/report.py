"""A campaign folder to its report: tables as Parquet and CSV, the clinic's worklist, one page.

`build_report` reads the campaign once, joins the operator's roster by pseudonym, and hands the same tables to
the files and to the page, so that the two cannot disagree. Questionable: the report folder is written anew
each time and holds no identifiers, but `persons`, `worklist` and the page's table of referred studies still
speak of single persons; `public` leaves them out.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from screener.epidemiology.agreement import CONSENSUS, Agreement, AgreementSettings, compare
from screener.epidemiology.campaign_tables import CampaignTables, acquisition_months, read_campaign
from screener.epidemiology.flow import flow
from screener.epidemiology.misclassification import (
    ACCURACY_FILE,
    accuracy_of_readings,
    read_accuracy,
    write_accuracy,
)
from screener.epidemiology.monitoring import (
    drift_table,
    observed_thresholds,
    quality_table,
    score_table,
    throughput_table,
)
from screener.epidemiology.outcomes import Outcome
from screener.epidemiology.prevalence import OVERALL, PrevalenceSettings, prevalence_table
from screener.epidemiology.readings import Readings, read_readings
from screener.epidemiology.roster import Pseudonymise, Roster, RosterMatch, join, read_roster
from screener.epidemiology.serial import Progression, progression
from screener.epidemiology.strata import (
    Dimension,
    default_dimensions,
    latest_per_person,
    parse_dimensions,
    with_strata,
)
from screener.epidemiology.tables import (
    PERSONS,
    PRIVATE_TABLES,
    REPORT_TABLES,
    empty,
    write_hive,
    write_tables,
)
from screener.epidemiology.worklist import worklist
from screener.errors import ConfigError, ReportError
from screener.pseudonyms import Pseudonyms, load_key
from screener.records import Identity
from screener.report_content import ReportContent
from screener.report_settings import ReportSettings
from screener.schema import polars_schema
from screener.settings import default_key_file


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """What a report came to."""

    folder: Path
    page: Path
    page_bytes: int
    num_studies: int
    num_referred: int
    num_thumbnails: int
    warnings: dict[str, int]


def build_report(settings: ReportSettings) -> ReportSummary:
    """Write the report of a campaign.

    Args:
        settings: what to report and where to.

    Returns:
        Where it is and what could not be used.

    Raises:
        ConfigError: a setting, roster, readings or accuracy file cannot be used as given.
        ReportError: the campaign's tables contradict each other, or a file cannot be written.
    """
    from screener.page.page import write_page

    content = analyse(settings)
    folder = settings.output or settings.campaign / "report"
    private = PRIVATE_TABLES if settings.public else ()
    written = {name: table for name, table in content.tables.items() if name not in private}
    if settings.public:
        written.pop("confusion", None)
    try:
        _clear(folder)
        write_tables(folder / "tables", written, content.campaign.metadata)
        if from_readings := accuracy_of_readings(content.tables["accuracy"], CONSENSUS):
            write_accuracy(folder / ACCURACY_FILE, from_readings)
        if settings.hive:
            write_hive(folder / "hive", content.tables["persons"])
        page = write_page(folder / "report.html", content)
    except OSError as error:
        raise ReportError(f"the report cannot be written: {error.strerror}; choose another --out") from error
    return ReportSummary(
        folder=folder,
        page=page.path,
        page_bytes=page.path.stat().st_size,
        num_studies=content.campaign.studies.height,
        num_referred=content.tables["worklist"].height,
        num_thumbnails=page.num_thumbnails,
        warnings=content.warnings,
    )


def _clear(folder: Path) -> None:
    """Remove what an earlier report wrote: a public one must not stand beside a private one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in REPORT_TABLES:
        for suffix in ("parquet", "csv"):
            (folder / "tables" / f"{name}.{suffix}").unlink(missing_ok=True)
    for name in ("report.html", ACCURACY_FILE):
        (folder / name).unlink(missing_ok=True)
    if (folder / "hive").is_dir():
        shutil.rmtree(folder / "hive")


def analyse(settings: ReportSettings) -> ReportContent:
    """Compute everything a report says, writing nothing. Errors as `build_report`."""
    campaign = read_campaign(settings.campaign)
    roster = _roster(settings, campaign)
    dimensions = _dimensions(settings, roster)
    accuracy = read_accuracy(settings.accuracy) if settings.accuracy else {}
    found = flow(campaign.images, campaign.studies, campaign.run)
    joined, match = join(campaign.studies, roster)
    studies = with_strata(joined).with_columns(pl.coalesce("subject_pid", "study_pid").alias("person"))
    screened = studies.filter(pl.col("study_pid").is_in(found.analysed.implode()))
    unique = studies.filter(pl.col("study_pid").is_in(found.unique.implode()))
    readings = read_readings(settings.readings, screened["study_pid"]) if settings.readings else None
    before = progression(
        screened, min_cell=settings.min_cell, confidence=settings.confidence, method=settings.interval
    )
    prevalence = prevalence_table(screened, dimensions, accuracy, _prevalence_settings(settings))
    thresholds = observed_thresholds(screened)
    tables = {
        "flow": found.steps,
        "flow_reasons": found.reasons,
        "prevalence": prevalence,
        "persons": latest_per_person(screened).select(list(polars_schema(PERSONS))),
        "progression": before.table,
        "scores": score_table(screened, min_cell=settings.min_cell),
        "quality": quality_table(unique, _quality_dimensions(roster), min_cell=settings.min_cell),
        "drift": _drift(settings, unique),
        "throughput": throughput_table(campaign.parts),
        "worklist": worklist(studies, found.duplicates, before.pairs),
        **_agreement_tables(readings, screened, settings, prevalence),
    }
    warnings = _warnings(roster, match, readings, screened, before)
    if found.num_shared_pictures:
        warnings["same_picture_two_subjects"] = found.num_shared_pictures
    return ReportContent(
        settings, campaign, found, tables, before, dimensions, thresholds, match, accuracy, warnings
    )


def _roster(settings: ReportSettings, campaign: CampaignTables) -> Roster | None:
    if settings.roster is None:
        return None
    key_file = settings.key_file or default_key_file()
    # A report must never make a key: a fresh one would match nobody.
    pseudonyms = load_key(key_file, settings.campaign) if key_file.exists() else None
    if pseudonyms is not None and campaign.key_id not in (None, pseudonyms.key_id):
        if settings.key_file is not None:
            raise ConfigError(
                f"the pseudonym key ({pseudonyms.key_id}) is not the one that made this campaign "
                f"({campaign.key_id}): give the right --key-file"
            )
        pseudonyms = None
    return read_roster(settings.roster, _pseudonymise(pseudonyms) if pseudonyms else None)


def _pseudonymise(pseudonyms: Pseudonyms) -> Pseudonymise:
    def subject_pid(issuer: str | None, patient_id: str) -> str:
        identity = Identity(patient_id=patient_id, issuer_of_patient_id=issuer)
        found = pseudonyms.of_image(identity, "").subject_pid
        assert found is not None
        return found

    return subject_pid


def _dimensions(settings: ReportSettings, roster: Roster | None) -> tuple[Dimension, ...]:
    has_roster = roster is not None
    if settings.by is not None:
        return parse_dimensions(settings.by, has_roster=has_roster)
    return default_dimensions(has_roster=has_roster)


def _quality_dimensions(roster: Roster | None) -> tuple[Dimension, ...]:
    return (Dimension.SITE, Dimension.MANUFACTURER) if roster else (Dimension.MANUFACTURER,)


def _prevalence_settings(settings: ReportSettings) -> PrevalenceSettings:
    return PrevalenceSettings(
        method=settings.interval,
        confidence=settings.confidence,
        min_cell=settings.min_cell,
        bootstrap_samples=settings.bootstrap_samples,
        seed=settings.seed,
    )


def _drift(settings: ReportSettings, studies: pl.DataFrame) -> pl.DataFrame:
    months = acquisition_months(settings.campaign, studies)
    period = studies[Dimension.YEAR.value] if months is None else months
    return drift_table(studies, period, min_cell=settings.min_cell, confidence=settings.confidence)


def _agreement_tables(
    readings: Readings | None, screened: pl.DataFrame, settings: ReportSettings, prevalence: pl.DataFrame
) -> dict[str, pl.DataFrame]:
    if readings is None or readings.table.is_empty():
        return {name: empty(name) for name in ("confusion", "accuracy", "agreement", "reliability")}
    found: Agreement = compare(
        readings.table,
        screened,
        AgreementSettings(settings.interval, settings.confidence, settings.bootstrap_samples, settings.seed),
        prevalence=_campaign_prevalence(prevalence),
    )
    return {
        "confusion": found.confusion,
        "accuracy": found.accuracy,
        "agreement": found.agreement,
        "reliability": found.reliability,
    }


def _campaign_prevalence(prevalence: pl.DataFrame) -> float | None:
    """Stage I or more overall: corrected where it can be, None when suppressed."""
    overall = prevalence.filter(
        (pl.col("dimension") == OVERALL) & (pl.col("outcome") == Outcome.STAGE_GE_1.value)
    )
    if overall.is_empty():
        return None
    value = overall.select(pl.coalesce("corrected", "prevalence")).item()
    return float(value) if value is not None else None


def _warnings(
    roster: Roster | None,
    match: RosterMatch | None,
    readings: Readings | None,
    screened: pl.DataFrame,
    before: Progression,
) -> dict[str, int]:
    """Everything that could not be used, counted; zero counts are left out."""
    counted = {
        **(roster.warnings if roster else {}),
        **(readings.warnings if readings else {}),
        "studies_without_subject": screened["subject_pid"].null_count(),
        "studies_unordered": before.num_unordered,
    }
    if match:
        counted["roster_subjects_without_study"] = match.unmatched_roster_subjects
        counted["subjects_not_on_roster"] = match.unmatched_campaign_subjects
    return {name: count for name, count in counted.items() if count}
