from collections.abc import Callable

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screener.epidemiology.campaign_tables import IMAGE_COLUMNS, read_campaign
from screener.epidemiology.flow import REASON_STEP, STEPS, UNITS, Flow, Step, flow
from screener.errors import REASON_STATUS, Reason, ReportError
from screener.schema import IMAGES, polars_schema
from screener.studies import study_rows
from tests.synthetic_campaign import shared_campaign


def image(file_id: str, **columns: object) -> dict[str, object]:
    """A screened frontal film of good quality that is not referred."""
    screened = {
        "file_id": file_id,
        "image_pid": f"i-{file_id}",
        "study_pid": f"s-{file_id}",
        "subject_pid": f"p-{file_id}",
        "pixel_sha256": f"x-{file_id}",
        "status": "screened",
        "quality_grade": 1,
        "p_pneumoconiosis": 0.1,
        "stage_pred": 0,
        "referral": "none",
        "referral_reasons": [],
    }
    return screened | columns


def rejected(file_id: str, reason: Reason, **columns: object) -> dict[str, object]:
    status = REASON_STATUS[reason]
    nothing = {"pixel_sha256": None, "quality_grade": None, "p_pneumoconiosis": None, "stage_pred": None}
    return image(file_id, status=str(status), reason=str(reason), referral=None, **nothing) | columns


def tables(*rows: dict[str, object]) -> tuple[pl.DataFrame, pl.DataFrame]:
    schema = polars_schema(IMAGES)
    filled = pl.DataFrame([{name: row.get(name) for name in schema} for row in rows], schema=schema)
    return filled.select(IMAGE_COLUMNS), study_rows(filled.lazy())


def flow_of(*rows: dict[str, object]) -> Flow:
    images, studies = tables(*rows)
    return flow(images, studies, {})


def test_every_reason_leaves_at_one_step() -> None:
    assert set(REASON_STEP) == {str(reason) for reason in Reason}


def test_the_simulated_campaign_reconciles_in_every_unit() -> None:
    campaign = read_campaign(shared_campaign().folder)
    found = flow(campaign.images, campaign.studies, campaign.run)
    for unit in UNITS:
        rows = found.steps.filter(pl.col("unit") == unit)
        assert rows["step"].to_list() == [step.value for step in STEPS]
        assert (rows["entered"] - rows["excluded"] == rows["remaining"]).all()
        assert rows["entered"][1:].to_list() == rows["remaining"][:-1].to_list()
    assert found.remaining(Step.SCREENED, "studies") == len(found.analysed)
    assert found.reasons.filter(pl.col("reason") == "lateral_view")["count"].to_list() == [75]


def test_a_study_stays_as_long_as_one_of_its_images() -> None:
    found = flow_of(image("a"), rejected("b", Reason.LATERAL_VIEW, study_pid="s-a", subject_pid="p-a"))
    assert found.remaining(Step.CHEST_FRONTAL, "images") == 1
    assert found.remaining(Step.CHEST_FRONTAL, "studies") == 1
    assert found.remaining(Step.CHEST_FRONTAL, "subjects") == 1


def test_files_that_are_not_dicom_are_images_only() -> None:
    nobody = {"image_pid": None, "study_pid": None, "subject_pid": None}
    found = flow_of(image("a"), rejected("b", Reason.NOT_DICOM, **nobody))
    assert found.remaining(Step.FOUND, "images") == 2
    assert found.remaining(Step.DICOM, "images") == 1
    assert found.remaining(Step.FOUND, "studies") == 1


def test_the_same_picture_counts_once_for_one_subject() -> None:
    found = flow_of(image("a"), image("b", subject_pid="p-a", pixel_sha256="x-a"))
    assert found.remaining(Step.UNIQUE, "studies") == 1
    assert len(found.duplicates) == 1
    assert found.num_shared_pictures == 0


def test_the_same_picture_under_two_subjects_is_kept_and_counted() -> None:
    found = flow_of(image("a"), image("b", pixel_sha256="x-a"))
    assert found.remaining(Step.UNIQUE, "studies") == 2
    assert found.num_shared_pictures == 1


def test_pictures_without_a_hash_are_never_duplicates() -> None:
    found = flow_of(image("a", pixel_sha256=None), image("b", subject_pid="p-a", pixel_sha256=None))
    assert found.remaining(Step.UNIQUE, "studies") == 2


def test_repeat_exposures_and_unreadable_films_leave_with_their_reason() -> None:
    found = flow_of(
        image("a", quality_grade=2),
        image("b", study_pid="s-a", subject_pid="p-a", quality_grade=1),
        image("c", quality_grade=4, referral="unreadable"),
        image("d", referral="priority", referral_reasons=["tb_high"]),
    )
    reasons = {
        row["reason"]: row["count"] for row in found.reasons.filter(pl.col("unit") == "images").to_dicts()
    }
    assert reasons == {"repeat_exposure": 1, "unreadable_quality": 1, "not_referred": 1}
    assert found.remaining(Step.REFERRED, "subjects") == 1


Damage = Callable[[pl.DataFrame, pl.DataFrame], tuple[pl.DataFrame, pl.DataFrame]]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda i, s: (i, s.head(1)), "missing from studies.parquet"),
        (lambda i, s: (i.head(1), s), "have no image"),
        (lambda i, s: (pl.concat([i, i.head(1)]), s), "more than one row"),
        (lambda i, s: (i, pl.concat([s, s.head(1)])), "more than one row"),
        (lambda i, s: (i.with_columns(status=pl.lit("failed"), reason=pl.lit("x")), s), "unknown reason"),
        (lambda i, s: (i, s.with_columns(num_images=pl.col("num_images") + 1)), "count their images"),
        (lambda i, s: (i, s.with_columns(referral=pl.lit("none"))), "lost the referral"),
        (lambda i, s: (i, s.with_columns(file_id=s["file_id"].reverse())), "not theirs"),
    ],
)
def test_tables_that_contradict_each_other_are_refused(damage: Damage, complaint: str) -> None:
    images, studies = damage(*tables(image("a", referral="routine"), image("b")))
    with pytest.raises(ReportError, match=complaint):
        flow(images, studies, {})


def test_a_run_that_counted_otherwise_is_refused() -> None:
    images, studies = tables(image("a"), image("b"))
    flow(images, studies, {"campaign": {"files": 2, "screened": 2, "rejected": 0, "failed": 0}})
    with pytest.raises(ReportError, match=r"3 by run\.json, 2 in the images table"):
        flow(images, studies, {"campaign": {"files": 3}})


REASONS = st.sampled_from([None, *Reason])
FILES = st.lists(
    st.tuples(
        REASONS, st.integers(0, 5), st.integers(0, 3), st.integers(1, 4), st.integers(0, 4), st.booleans()
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(FILES)
def test_any_campaign_reconciles(files: list[tuple[Reason | None, int, int, int, int, bool]]) -> None:
    rows = []
    for number, (reason, study, picture, grade, stage, referred) in enumerate(files):
        subject = f"p{study % 3}" if study else None
        ids: dict[str, object] = {"study_pid": f"s{study}", "subject_pid": subject}
        if reason is None:
            results: dict[str, object] = {
                "pixel_sha256": f"x{picture}",
                "quality_grade": grade,
                "stage_pred": None if stage == 4 else stage,
                "referral": "routine" if referred else "none",
            }
            rows.append(image(f"f{number:02d}", **ids, **results))
        else:
            rows.append(rejected(f"f{number:02d}", reason, **ids))
    found = flow_of(*rows)
    assert found.remaining(Step.FOUND, "images") == len(files)
    left = found.reasons.group_by("unit").agg(pl.col("count").sum())
    for unit, count in left.iter_rows():
        assert found.remaining(Step.FOUND, unit) - count == found.remaining(Step.REFERRED, unit)
    screened = sum(reason is None for reason, *_ in files)
    assert found.remaining(Step.CHEST_FRONTAL, "images") == screened
    assert len(found.analysed) == found.remaining(Step.SCREENED, "studies")
    assert np.all(found.steps["remaining"].to_numpy() >= 0)
