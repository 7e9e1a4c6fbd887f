"""Images and studies to the flow of a STARD diagram, whose totals reconcile exactly or the command fails.

Every file leaves at exactly one step for exactly one reason, or stays to the end. A study leaves where the
last of its images leaves, a subject where the last of the subject's images leaves. Questionable: *referred*
counts films that were screened; unreadable films leave at `quality_ok`, are referred nevertheless, and
stand in the worklist with everything else a person must look at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import polars as pl

from screener.epidemiology.tables import FLOW, FLOW_REASONS
from screener.errors import Reason, ReportError, Status
from screener.records import QualityGrade, Referral
from screener.schema import polars_schema


class Step(StrEnum):
    """The steps in order; a unit that fails a step has left."""

    FOUND = "found"
    DICOM = "dicom"
    READABLE = "readable"
    CHEST_FRONTAL = "chest_frontal"
    UNIQUE = "unique"
    QUALITY_OK = "quality_ok"
    SCREENED = "screened"
    REFERRED = "referred"


STEPS = tuple(Step)
UNITS = ("images", "studies", "subjects")

DUPLICATE_PICTURE = "duplicate_picture"
"""The same picture as one that is counted, sent under another UID or file name."""
REPEAT_EXPOSURE = "repeat_exposure"
"""Another image of the study speaks for it."""
UNREADABLE_QUALITY = "unreadable_quality"
NO_RESULT = "no_result"
NOT_REFERRED = "not_referred"

_LEAVES_AT = {
    Step.DICOM: (
        Reason.NOT_DICOM,
        Reason.EMPTY_FILE,
        Reason.DICOMDIR,
        Reason.SYMBOLIC_LINK,
        Reason.LINK_OUTSIDE_ARCHIVE,
        Reason.BROKEN_LINK,
        Reason.NOT_REGULAR_FILE,
        Reason.UNREADABLE_FILE,
        Reason.UNREADABLE_FOLDER,
    ),
    Step.READABLE: (
        Reason.CORRUPT_HEADER,
        Reason.UNSUPPORTED_TRANSFER_SYNTAX,
        Reason.UNSUPPORTED_PIXEL_FORMAT,
        Reason.IMPLAUSIBLE_SIZE,
        Reason.TRUNCATED_PIXEL_DATA,
        Reason.DECODE_FAILED,
        Reason.BLANK_IMAGE,
        Reason.DECODER_CRASHED,
        Reason.DECODER_TIMEOUT,
        Reason.FILE_CHANGED,
    ),
    Step.CHEST_FRONTAL: (
        Reason.NOT_AN_IMAGE,
        Reason.NO_PIXEL_DATA,
        Reason.NOT_A_RADIOGRAPH,
        Reason.NOT_CHEST,
        Reason.LATERAL_VIEW,
        Reason.MULTI_FRAME,
        Reason.COLOUR,
        Reason.LOCALIZER,
        Reason.DERIVED_IMAGE,
        Reason.TOO_SMALL,
        Reason.NOT_FRONTAL_CHEST,
    ),
}

REASON_STEP: dict[str, Step] = {
    str(reason): step for step, reasons in _LEAVES_AT.items() for reason in reasons
}
"""The step at which a file with this reason leaves; every `Reason` has one."""


@dataclass(frozen=True, slots=True)
class Flow:
    """The flow of one campaign."""

    steps: pl.DataFrame
    """`tables.FLOW`: entered, excluded and remaining of every step and unit."""
    reasons: pl.DataFrame
    """`tables.FLOW_REASONS`: why units left."""
    analysed: pl.Series
    """study_pid of the studies that were screened and count once."""
    unique: pl.Series
    """study_pid of the studies that are no duplicate, whatever their quality."""
    duplicates: pl.Series
    """study_pid of the studies whose film is counted under another study."""
    num_shared_pictures: int
    """Pictures that occur under more than one subject: kept, and worth a look."""

    def remaining(self, step: Step, unit: str) -> int:
        """Units that passed a step."""
        row = self.steps.filter((pl.col("step") == step.value) & (pl.col("unit") == unit))
        return int(row["remaining"][0])


def flow(images: pl.DataFrame, studies: pl.DataFrame, run: Mapping[str, object]) -> Flow:
    """Follow every file, study and subject through the steps.

    Args:
        images: one row per file (columns of `campaign_tables.IMAGE_COLUMNS`).
        studies: one row per study.
        run: `run.json`, whose counts must agree; empty without one.

    Raises:
        ReportError: the two tables contradict each other, or a total does not reconcile.
    """
    _refuse_contradictions(images, studies)
    placed = _placed(images, studies)
    steps, reasons = [], []
    for unit, key in zip(UNITS, ("file_id", "study_pid", "subject_pid"), strict=True):
        last = (
            placed.drop_nulls(key)
            .sort("left_at", "reason_order", descending=[True, False])
            .unique(key, keep="first", maintain_order=True)
        )
        steps.append(_step_rows(last, unit))
        reasons.append(_reason_rows(last, unit))
    found = Flow(
        pl.concat(steps).cast(polars_schema(FLOW)),
        pl.concat(reasons).cast(polars_schema(FLOW_REASONS)),
        analysed=placed.filter(pl.col("left_at") > STEPS.index(Step.SCREENED))["study_pid"],
        unique=placed.filter(pl.col("left_at") > STEPS.index(Step.UNIQUE))["study_pid"],
        duplicates=placed.filter(pl.col("speaks") & (pl.col("left_why") == DUPLICATE_PICTURE))["study_pid"],
        num_shared_pictures=_num_shared_pictures(images),
    )
    _reconcile(found, images, studies)
    _compare_with_run(images, run)
    return found


def _placed(images: pl.DataFrame, studies: pl.DataFrame) -> pl.DataFrame:
    """Images with `left_at` (index of the step failed; one past the last if none) and `left_why`."""
    speaking = studies.filter(pl.col("status") == Status.SCREENED).select(
        "file_id", "referral", speaks=pl.lit(value=True)
    )
    joined = images.join(speaking, on="file_id", how="left", maintain_order="left")
    owner = pl.struct(pl.col("subject_pid").fill_null(""), "pixel_sha256")
    # Sorted so that the film that speaks for a study comes before its copies.
    joined = joined.sort(pl.col("speaks").is_null(), "study_pid", "file_id")
    is_copy = pl.col("pixel_sha256").is_not_null() & ~owner.is_first_distinct()
    screened = pl.col("status") == Status.SCREENED
    no_result = pl.col("p_pneumoconiosis").is_null() | pl.col("stage_pred").is_null()
    rules = [
        (
            ~screened,
            pl.col("reason").replace_strict(_STEP_INDEX, default=None, return_dtype=pl.Int8),
            pl.col("reason"),
        ),
        (is_copy, _at(Step.UNIQUE), pl.lit(DUPLICATE_PICTURE)),
        (pl.col("speaks").is_null(), _at(Step.UNIQUE), pl.lit(REPEAT_EXPOSURE)),
        (
            pl.col("quality_grade") == QualityGrade.UNREADABLE,
            _at(Step.QUALITY_OK),
            pl.lit(UNREADABLE_QUALITY),
        ),
        (no_result, _at(Step.SCREENED), pl.lit(NO_RESULT)),
        (
            pl.col("referral").fill_null(Referral.NONE) == Referral.NONE,
            _at(Step.REFERRED),
            pl.lit(NOT_REFERRED),
        ),
    ]
    left_at, left_why = pl.lit(len(STEPS), dtype=pl.Int8), pl.lit(None, dtype=pl.String)
    for applies, step, why in reversed(rules):
        left_at = pl.when(applies).then(step).otherwise(left_at)
        left_why = pl.when(applies).then(why).otherwise(left_why)
    placed = joined.with_columns(left_at=left_at, left_why=left_why)
    return placed.with_columns(
        reason_order=pl.col("left_why").replace_strict(_REASON_ORDER, default=99, return_dtype=pl.Int16)
    )


_STEP_INDEX = {reason: STEPS.index(step) for reason, step in REASON_STEP.items()}
_REASON_ORDER = {str(reason): order for order, reason in enumerate(Reason)}


def _at(step: Step) -> pl.Expr:
    return pl.lit(STEPS.index(step), dtype=pl.Int8)


def _step_rows(last: pl.DataFrame, unit: str) -> pl.DataFrame:
    entered = last.height
    rows = []
    for index, step in enumerate(STEPS):
        excluded = int((last["left_at"] == index).sum())
        rows.append((step.value, unit, entered, excluded, entered - excluded))
        entered -= excluded
    return pl.DataFrame(rows, schema=["step", "unit", "entered", "excluded", "remaining"], orient="row")


def _reason_rows(last: pl.DataFrame, unit: str) -> pl.DataFrame:
    gone = last.filter(pl.col("left_at") < len(STEPS))
    counted = gone.group_by("left_at", "left_why").agg(pl.len().alias("count"))
    names = dict(enumerate(step.value for step in STEPS))
    return counted.sort("left_at", pl.col("count"), "left_why", descending=[False, True, False]).select(
        pl.col("left_at").replace_strict(names, return_dtype=pl.String).alias("step"),
        pl.lit(unit).alias("unit"),
        pl.col("left_why").alias("reason"),
        "count",
    )


def _num_shared_pictures(images: pl.DataFrame) -> int:
    owned = images.drop_nulls(["pixel_sha256", "subject_pid"])
    owners = owned.group_by("pixel_sha256").agg(pl.col("subject_pid").n_unique())
    return int((owners["subject_pid"] > 1).sum())


def _refuse_contradictions(images: pl.DataFrame, studies: pl.DataFrame) -> None:
    """Every way in which the two tables can disagree, checked before anything is counted."""
    unknown = images.filter(
        (pl.col("status") != Status.SCREENED) & ~pl.col("reason").fill_null("").is_in(list(REASON_STEP))
    )
    in_images = images.drop_nulls("study_pid")
    speakers = studies.join(images, on="file_id", how="left", suffix="_image")
    per_study = in_images.group_by("study_pid").agg(pl.col("image_pid").n_unique().alias("images_found"))
    checks = {
        "rows of the images table carry an unknown reason": unknown.height,
        "files have more than one row": images.height - images["file_id"].n_unique(),
        "studies have more than one row": studies.height - studies["study_pid"].n_unique(),
        "studies of the images table are missing from studies.parquet": in_images.join(
            studies, on="study_pid", how="anti"
        ).height,
        "studies have no image": studies.join(in_images, on="study_pid", how="anti").height,
        "studies are spoken for by an image that is not theirs": speakers.filter(
            ~pl.col("study_pid").eq_missing(pl.col("study_pid_image"))
            | ~pl.col("status").eq_missing(pl.col("status_image"))
        ).height,
        "studies lost the referral of their image": speakers.filter(
            pl.col("referral_image").fill_null(Referral.NONE).ne(Referral.NONE)
            & pl.col("referral").fill_null(Referral.NONE).eq(Referral.NONE)
        ).height,
        "studies count their images differently": studies.join(per_study, on="study_pid")
        .filter(pl.col("num_images") != pl.col("images_found"))
        .height,
    }
    found = [f"{count} {what}" for what, count in checks.items() if count]
    if found:
        raise ReportError(
            f"the campaign does not reconcile: {'; '.join(found)}. Run `screener run` again on the archive: "
            "it rebuilds studies.parquet"
        )


def _reconcile(found: Flow, images: pl.DataFrame, studies: pl.DataFrame) -> None:
    """Each total from its own source; nothing here is derived from the steps table itself."""
    expected = {
        "images": images.height,
        "studies": studies.height,
        "subjects": images["subject_pid"].drop_nulls().n_unique(),
    }
    by_step = found.reasons.group_by("step", "unit").agg(pl.col("count").sum())
    joined = found.steps.join(by_step, on=["step", "unit"], how="left").with_columns(
        pl.col("count").fill_null(0)
    )
    wrong = [
        unit
        for unit, total in expected.items()
        if (rows := joined.filter(pl.col("unit") == unit))["entered"][0] != total
        or rows["excluded"].to_list() != rows["count"].to_list()
        or rows["remaining"][-1] + rows["count"].sum() != total
    ]
    screened = int((images["status"] == Status.SCREENED).sum())
    if found.remaining(Step.CHEST_FRONTAL, "images") != screened:
        wrong.append("screened images")
    if found.analysed.n_unique() != len(found.analysed):
        wrong.append("analysed studies")
    if wrong:
        raise ReportError(
            f"the flow does not reconcile for {', '.join(wrong)}; the campaign's tables are damaged"
        )


def _compare_with_run(images: pl.DataFrame, run: Mapping[str, object]) -> None:
    """The run's own counts against the tables; a run that was killed leaves an older manifest."""
    told = run.get("campaign")
    if not isinstance(told, dict):
        return
    counted = {"files": images.height} | {
        str(status): int((images["status"] == status).sum()) for status in Status
    }
    wrong = [
        f"{name} {told[name]} by run.json, {count} in the images table"
        for name, count in counted.items()
        if name in told and told[name] != count
    ]
    if wrong:
        raise ReportError(
            f"the flow does not reconcile: {'; '.join(wrong)}. Run `screener run` again on the archive "
            "to finish it"
        )
