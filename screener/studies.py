"""Parts of the images table to `studies.parquet`: one row per study, its best image speaking for it.

Films are never averaged: two exposures of one patient are not independent readings, and a mean belongs to
no film that a reader could look at. But a study is referred when any of its readable films is, or when a
film of it failed, since picking one film must not lose a suspicion (docs/decisions/best-image.md).
"""

from __future__ import annotations

import polars as pl

from screener import schema
from screener.campaign import Campaign
from screener.errors import Status
from screener.parts import reading, write_table
from screener.records import QualityGrade, Referral

OTHER_IMAGE_REFERS = "other_image_refers"
"""Referral reason: a film that does not speak for the study is the one that refers it."""
OTHER_IMAGE_FAILED = "other_image_failed"
"""Referral reason: nothing is suspected on the films that could be screened, but one could not be."""
NO_IMAGE_SCREENED = "no_image_screened"
"""Referral reason: every film of the study that could have been screened failed."""

_STATUS_ORDER = {Status.SCREENED: 0, Status.FAILED: 1, Status.REJECTED: 2}
_VIEW_ORDER = {"PA": 0, "AP": 1}
_INTENT_ORDER = {"presentation": 0, "processing": 2}
_SEVERITY = {Referral.ROUTINE: 1, Referral.PRIORITY: 2}
_LAST = 9


def build_studies(campaign: Campaign) -> pl.DataFrame:
    """Write `studies.parquet` from all parts, and return it.

    The same images give the same bytes, however they are spread over parts.

    Args:
        campaign: an open campaign.

    Returns:
        The studies table, sorted by study_pid.

    Raises:
        ReportError: a part cannot be read, or the table cannot be written.
    """
    paths = campaign.parts.paths()
    with reading("a part of images"):
        studies = study_rows(pl.scan_parquet(paths)) if paths else _no_studies()
    write_table(campaign.folder / "studies.parquet", studies, "studies", campaign.metadata)
    return studies


def study_rows(images: pl.LazyFrame) -> pl.DataFrame:
    """The studies table of an images table.

    Args:
        images: `schema.IMAGES` columns; rows without a study_pid (files that are not DICOM) are left out.

    Returns:
        `schema.STUDIES` columns, one row per study, sorted by study_pid.
    """
    of_studies = images.filter(pl.col("study_pid").is_not_null())
    ranked = of_studies.select(
        "study_pid", "image_pid", "file_id", "status", _rank().alias("rank"), _pixels(), _severity()
    )
    order = ["study_pid", "rank", "pixels", "image_pid", "file_id"]
    per_study = (
        ranked.sort(order, descending=[False, False, True, False, False])
        .group_by("study_pid", maintain_order=True)
        .agg(
            pl.col("file_id").first(),
            _num_images().alias("num_images"),
            _num_images(Status.SCREENED).alias("num_screened"),
            _num_images(Status.FAILED).alias("num_failed"),
            pl.col("severity").max().alias("study_severity"),
            (_num_images(Status.SCREENED, Status.FAILED) - _num_images(Status.SCREENED)).alias("num_lost"),
        )
        .collect(engine="streaming")
    )
    best = of_studies.join(per_study.lazy().drop("study_pid"), on="file_id")
    columns = [column.name for column in schema.STUDIES]
    return best.with_columns(*_referral()).select(columns).collect(engine="streaming").sort("study_pid")


def _rank() -> pl.Expr:
    """Status, grade, view and intent as digits of one number; lower is better."""
    grade = pl.col("quality_grade").fill_null(_LAST).cast(pl.Int32)
    status = _ordered("status", _STATUS_ORDER, _LAST)
    return ((status * 10 + grade) * 10 + _ordered("view_tag", _VIEW_ORDER, 2)) * 10 + _ordered(
        "intent", _INTENT_ORDER, 1
    )


def _ordered(column: str, order: dict[str, int] | dict[Status, int], other: int) -> pl.Expr:
    """The rank of a code; codes that are not listed, and null, are `other`."""
    known = {str(code): rank for code, rank in order.items()}
    return pl.col(column).replace_strict(known, default=other, return_dtype=pl.Int32).fill_null(other)


def _pixels() -> pl.Expr:
    return (pl.col("rows").cast(pl.Int64) * pl.col("cols").cast(pl.Int64)).fill_null(0).alias("pixels")


def _severity() -> pl.Expr:
    """How urgently a readable film refers: 0 not, 1 routine, 2 priority."""
    severity = _code_severity()
    readable = pl.col("quality_grade") < int(QualityGrade.UNREADABLE)
    return pl.when(readable).then(severity).otherwise(0).alias("severity")


def _code_severity() -> pl.Expr:
    known = {str(referral): severity for referral, severity in _SEVERITY.items()}
    return pl.col("referral").replace_strict(known, default=0, return_dtype=pl.Int32).fill_null(0)


def _num_images(*statuses: Status) -> pl.Expr:
    """Distinct images of any of these statuses (none: of any at all); a film stored twice is one."""
    image = pl.col("image_pid")
    chosen = image.filter(pl.col("status").is_in(list(map(str, statuses)))) if statuses else image
    return chosen.n_unique().cast(pl.Int32)


def _referral() -> tuple[pl.Expr, pl.Expr]:
    """Referral and its reasons of the study, from the best image's and those of the others."""
    is_failed = pl.col("status") == str(Status.FAILED)
    is_raised = pl.col("study_severity") > _code_severity()
    is_lost = (pl.col("referral") == str(Referral.NONE)) & (pl.col("num_lost") > 0)
    raised_to = pl.col("study_severity").replace_strict(
        {severity: str(referral) for referral, severity in _SEVERITY.items()},
        default=None,
        return_dtype=pl.String,
    )
    referral = (
        pl.when(is_failed)
        .then(pl.lit(str(Referral.UNREADABLE)))
        .when(is_raised)
        .then(raised_to)
        .when(is_lost)
        .then(pl.lit(str(Referral.ROUTINE)))
        .otherwise("referral")
    )
    reasons = (
        pl.when(is_failed)
        .then(pl.lit([NO_IMAGE_SCREENED]))
        .when(is_raised)
        .then(pl.concat_list("referral_reasons", pl.lit([OTHER_IMAGE_REFERS])))
        .when(is_lost)
        .then(pl.lit([OTHER_IMAGE_FAILED]))
        .otherwise("referral_reasons")
    )
    return referral.alias("referral"), reasons.alias("referral_reasons")


def _no_studies() -> pl.DataFrame:
    return pl.DataFrame(schema=schema.polars_schema(schema.STUDIES))
