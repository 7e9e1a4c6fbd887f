"""Headers of real files and what they say of themselves: the right typed outcome."""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRBigEndian,
)

from screener.eligibility import check_eligible
from screener.errors import REASON_STATUS, DecodeError, Reason, Status
from screener.header import read_header
from screener.quiet import quiet_pydicom
from screener.records import HeaderFlag
from tests.dicom_archive import Outcome, copied_outcomes, read_outcomes, real_file
from tests.headers import FILM, SETTINGS, altered, eligible, read, reason_of

_DECIDED_LATER = {"not_frontal_chest", ""}


@pytest.mark.parametrize(("path", "outcome"), copied_outcomes(), ids=lambda value: getattr(value, "file", ""))
def test_real_file_ends_where_the_table_says(path: Path, outcome: Outcome) -> None:
    content = path.read_bytes()
    assert hashlib.sha256(content).hexdigest() == outcome.sha256
    try:
        with path.open("rb", buffering=65536) as file:
            check_eligible(read_header(file, SETTINGS), SETTINGS)
        ended = "eligible"
    except DecodeError as error:
        ended = error.reason.value
    assert ended == outcome.header


def test_table_of_outcomes_agrees_with_itself() -> None:
    outcomes = read_outcomes()
    assert len(outcomes) == 68
    assert sum(outcome.path is not None for outcome in outcomes) == 59
    for outcome in outcomes:
        if outcome.header == "eligible":
            assert outcome.reason in _DECIDED_LATER
        else:
            assert outcome.reason == outcome.header
        status = REASON_STATUS[Reason(outcome.reason)] if outcome.reason else Status.SCREENED
        assert outcome.status == status


@pytest.mark.parametrize(("path", "outcome"), copied_outcomes(), ids=lambda value: getattr(value, "file", ""))
def test_walk_of_elements_agrees_with_pydicom(path: Path, outcome: Outcome) -> None:
    """The quick walk is a second reader of the same bytes: it must see what pydicom sees."""
    if outcome.header in ("not_dicom", "dicomdir") or path.name.startswith(("GH177", "UN_sequence")):
        return  # pydicom gives up on the last two
    parsed = read(path.read_bytes())
    with quiet_pydicom():
        dataset = pydicom.dcmread(path, force=True, stop_before_pixels=True)
        for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "SamplesPerPixel"):
            expected = dataset.get(keyword)
            assert parsed.elements.unsigned_short(pydicom.datadict.tag_for_keyword(keyword) or 0) == expected
        for keyword in ("Modality", "StudyInstanceUID", "SOPInstanceUID", "StudyDate", "PatientBirthDate"):
            text = str(dataset.get(keyword) or "") or None
            assert parsed.elements.code(pydicom.datadict.tag_for_keyword(keyword) or 0) == text
    if parsed.dataset:
        assert parsed.dataset.keys() == dataset.keys()
    if parsed.pixel_data_offset is not None:
        at = parsed.pixel_data_offset
        content = path.read_bytes() if parsed.inflated is None else parsed.inflated
        tag = struct.unpack_from(
            ">HH" if parsed.transfer_syntax_uid == ExplicitVRBigEndian else "<HH", content, at
        )
        assert tag == (0x7FE0, 0x0010)


def test_reject_by_file_meta_reads_the_head_only() -> None:
    content = real_file("codec/CT_small.dcm").read_bytes()
    file = io.BytesIO(content + bytes(10_000_000))
    parsed = read_header(file, SETTINGS)
    assert file.tell() <= 65536
    assert (parsed.identity.patient_id, len(parsed.dataset)) == ("1CT1", 0)
    with pytest.raises(DecodeError, match="CT Image Storage"):
        check_eligible(parsed, SETTINGS)


def test_file_meta_that_contradicts_the_data_set_does_not_reject() -> None:
    def alter(dataset: Dataset) -> None:
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage

    with quiet_pydicom():
        dataset = pydicom.dcmread(real_file(FILM))
        alter(dataset)
        file = io.BytesIO()
        pydicom.dcmwrite(file, dataset, enforce_file_format=False)
    assert eligible(file.getvalue()).modality == "CR"


# The udacity files that are not copied share their pixels with test1 and differ in one tag each.


def _udacity(**tags: str | None) -> bytes:
    def alter(dataset: Dataset) -> None:
        for keyword, value in tags.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return altered(alter, "chest/udacity_test1.dcm")


def test_rib_cage_is_doubtful_and_the_picture_decides() -> None:
    instance = eligible(_udacity(BodyPartExamined="RIBCAGE"))
    assert instance.body_part is None
    assert HeaderFlag.DOUBTFUL_BODY_PART in instance.flags


def test_modality_ct_is_a_statement() -> None:
    assert reason_of(_udacity(Modality="CT")) is Reason.NOT_A_RADIOGRAPH


def test_nonsense_patient_position_is_no_view() -> None:
    instance = eligible(_udacity(PatientPosition="XX"))
    assert instance.view_position is None
    assert HeaderFlag.NO_VIEW in instance.flags


def test_patient_position_carries_the_view_in_nih_files() -> None:
    assert eligible(_udacity()).view_position == "PA"


def test_missing_body_part_and_view_do_not_reject() -> None:
    instance = eligible(_udacity(BodyPartExamined=None, PatientPosition=None))
    assert {HeaderFlag.NO_BODY_PART, HeaderFlag.NO_VIEW} <= set(instance.flags)
