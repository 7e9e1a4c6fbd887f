from __future__ import annotations

import itertools
import random
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screener import schema
from screener.errors import Reason
from screener.records import Identity, Referral, Rejection, ScreenedImage
from screener.rows import images_frame, rejection_rows, screened_rows
from screener.studies import (
    NO_IMAGE_SCREENED,
    OTHER_IMAGE_FAILED,
    OTHER_IMAGE_REFERS,
    build_studies,
    study_rows,
)
from tests.campaigns import PSEUDONYMS, entry, identity, instance, open_campaign, rejected, screened

STUDY = "1.2.840"


def studies_of(*outcomes: ScreenedImage | Rejection) -> pl.DataFrame:
    rows = [
        screened_rows(each, PSEUDONYMS)
        if isinstance(each, ScreenedImage)
        else rejection_rows(each, PSEUDONYMS)
        for each in outcomes
    ]
    return study_rows(images_frame(rows).lazy())


def of(number: int) -> Identity:
    """Another image of the one study."""
    return Identity(patient_id="P", study_instance_uid=STUDY, sop_instance_uid=f"1.2.3.{number}")


def film(number: int, **how: object) -> ScreenedImage:
    return screened(number, of=of(number), **how)  # type: ignore[arg-type]


def image_pid(number: int) -> str:
    return PSEUDONYMS.of_image(of(number), "").image_pid


def the_study(*outcomes: ScreenedImage | Rejection) -> dict[str, object]:
    """The one study's row, which the order of its images must not change."""
    answers = [studies_of(*order) for order in itertools.islice(itertools.permutations(outcomes), 6)]
    assert all(answer.equals(answers[0]) for answer in answers)
    assert len(answers[0]) == 1
    return answers[0].row(0, named=True)


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (film(1, grade=3), rejected(2, of=of(2))),
        (film(1, grade=4), rejected(2, Reason.DECODE_FAILED, of=of(2))),
        (film(1, grade=1, header=instance(view=None)), film(2, grade=2)),
        (film(1), film(2, header=instance(view="AP"))),
        (film(1, header=instance(view="AP")), film(2, header=instance(view=None))),
        (film(1, header=instance(presentation=True)), film(2, header=instance(presentation=None))),
        (film(1, header=instance(presentation=None)), film(2, header=instance(presentation=False))),
        (film(1, header=instance(presentation=True, rows=999)), film(2, header=instance(presentation=False))),
        (film(1, header=instance(rows=2501)), film(2)),
    ],
    ids=[
        "screened",
        "screened-unreadable",
        "grade",
        "PA",
        "AP",
        "presentation",
        "undeclared",
        "intent",
        "pixels",
    ],
)
def test_best_image_speaks_for_the_study(better: ScreenedImage, worse: ScreenedImage | Rejection) -> None:
    study = the_study(worse, better)
    assert study["image_pid"] == image_pid(1)
    assert study["status"] == "screened"
    assert study["num_images"] == 2


def test_equal_images_are_told_apart_by_pseudonym() -> None:
    assert the_study(film(1), film(2))["image_pid"] == min(image_pid(1), image_pid(2))


def test_results_are_those_of_the_best_image_and_never_a_mean() -> None:
    study = the_study(film(1, p_pneumoconiosis=0.125), film(2, p_pneumoconiosis=0.875, grade=2))
    assert study["p_pneumoconiosis"] == 0.125


@pytest.mark.parametrize("referral", [Referral.ROUTINE, Referral.PRIORITY])
def test_readable_image_that_refers_is_not_lost(referral: Referral) -> None:
    study = the_study(film(1), film(2, grade=3, referral=referral))
    assert study["image_pid"] == image_pid(1)
    assert study["referral"] == referral
    assert study["referral_reasons"] == [OTHER_IMAGE_REFERS]


def test_more_severe_image_adds_to_the_best_images_own_reasons() -> None:
    study = the_study(film(1, referral=Referral.ROUTINE), film(2, grade=2, referral=Referral.PRIORITY))
    assert study["referral"] == "priority"
    assert study["referral_reasons"] == ["p_tb", OTHER_IMAGE_REFERS]
    less_severe = the_study(film(1, referral=Referral.PRIORITY), film(2, grade=2, referral=Referral.ROUTINE))
    assert (less_severe["referral"], less_severe["referral_reasons"]) == ("priority", ["p_tb"])


def test_unreadable_image_does_not_outweigh_its_readable_repeat() -> None:
    study = the_study(film(1), film(2, grade=4, referral=Referral.UNREADABLE))
    assert (study["referral"], study["quality_grade"]) == ("none", 1)
    study = the_study(
        film(2, grade=4, referral=Referral.UNREADABLE), film(3, grade=4, referral=Referral.UNREADABLE)
    )
    assert study["referral"] == "unreadable"


def test_failed_image_beside_a_clean_one_is_no_clean_negative() -> None:
    study = the_study(film(1), rejected(2, Reason.DECODE_FAILED, of=of(2)))
    assert (study["image_pid"], study["status"], study["num_failed"]) == (image_pid(1), "screened", 1)
    assert (study["referral"], study["referral_reasons"]) == ("routine", [OTHER_IMAGE_FAILED])
    urgent = the_study(film(1, referral=Referral.PRIORITY), rejected(2, Reason.DECODE_FAILED, of=of(2)))
    assert (urgent["referral"], urgent["referral_reasons"]) == ("priority", ["p_tb"])


def test_broken_copy_of_a_screened_image_refers_nobody() -> None:
    study = the_study(film(1), rejected(2, Reason.TRUNCATED_PIXEL_DATA, of=of(1)))
    assert (study["referral"], study["num_images"], study["num_failed"]) == ("none", 1, 1)


def test_study_that_could_not_be_screened_is_unreadable_and_never_negative() -> None:
    study = the_study(rejected(1, of=of(1)), rejected(2, Reason.DECODER_CRASHED, of=of(2)))
    assert (study["status"], study["reason"]) == ("failed", "decoder_crashed")
    assert study["referral"] == "unreadable"
    assert study["referral_reasons"] == [NO_IMAGE_SCREENED]
    assert study["p_pneumoconiosis"] is None
    assert (study["num_images"], study["num_screened"], study["num_failed"]) == (2, 0, 1)


def test_study_of_rejected_images_has_no_referral() -> None:
    study = the_study(rejected(1, of=of(1)), rejected(2, Reason.NOT_CHEST, of=of(2)))
    assert study["status"] == "rejected"
    assert study["referral"] is None
    assert study["referral_reasons"] is None


def test_image_stored_twice_counts_once() -> None:
    study = the_study(film(1), screened(2, of=of(1)))
    assert (study["num_images"], study["num_screened"]) == (1, 1)


def test_files_that_are_not_dicom_belong_to_no_study() -> None:
    assert studies_of(film(1), Rejection(entry(2), Reason.NOT_DICOM)).height == 1
    assert studies_of(Rejection(entry(2), Reason.NOT_DICOM)).height == 0


def test_empty_campaign_has_an_empty_table(tmp_path: Path) -> None:
    with open_campaign(tmp_path) as campaign:
        assert build_studies(campaign).height == 0
    written = pl.read_parquet(tmp_path / "campaign" / "studies.parquet")
    assert written.schema == schema.polars_schema(schema.STUDIES)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**32), part_rows=st.integers(1, 40))
def test_same_bytes_whatever_the_parts_and_the_order(
    tmp_path_factory: pytest.TempPathFactory, seed: int, part_rows: int
) -> None:
    root = tmp_path_factory.mktemp("campaign")
    outcomes: list[ScreenedImage | Rejection] = [
        screened(n, grade=1 + n % 4, of=identity(n, study=str(n // 5))) if n % 3 else rejected(n)
        for n in range(40)
    ]
    written = []
    for name, rows in (("sorted", 40), ("shuffled", part_rows)):
        with open_campaign(root, name=name, part_rows=rows) as campaign:
            with campaign.writer() as report:
                for each in outcomes:
                    report.add(each)
            build_studies(campaign)
        written.append((root / name / "studies.parquet").read_bytes())
        random.Random(seed).shuffle(outcomes)
    assert written[0] == written[1]
