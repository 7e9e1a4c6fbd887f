"""What a header states (region, view, age, spacing), in many spellings, and what is made of it."""

from __future__ import annotations

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from screener.errors import Reason
from screener.records import HeaderFlag
from tests.headers import altered, eligible, read, reason_of, with_tags, with_text


@pytest.mark.parametrize(
    ("body_part", "stated"),
    [
        ("CHEST", "chest"), ("Thorax", "chest"), ("TÓRAX", "chest"), ("THX", "chest"), ("LUNG", "chest"),
        ("Brustkorb", "chest"), ("Cage thoracique", "chest"), ("胸部", "chest"), ("胸", "chest"),
        ("흉부", "chest"), ("ОГК", "chest"), ("Грудная клетка", "chest"), ("CHEST_PA", "chest"),
        ("CSPINE", "other"), ("TSPINE", "other"), ("Thoracic spine", "other"), ("BWS", "other"),
        ("胸椎", "other"), ("Bäcken", "other"), ("PELVIS", "other"), ("HIP", "other"), ("SKULL", "other"),
        ("EXTREMITY", "other"), ("HAND", "other"), ("Knie", "other"), ("TEETH", "other"), ("膝関節", "other"),
        ("ABDOMEN", "other"), ("左手", "other"), ("Череп", "other"),
        ("RIBCAGE", None), ("RIB", None), ("CHESTABDOMEN", None), ("WHOLE BODY", None), ("7", None),
        ("DEFAULT", None),
    ],
)  # fmt: skip
def test_body_part_in_many_spellings(body_part: str, stated: str | None) -> None:
    content = with_text("BodyPartExamined", body_part)
    parsed = read(content)
    assert parsed.instance is not None
    assert parsed.instance.body_part == stated
    if stated == "other":
        assert reason_of(content) is Reason.NOT_CHEST
    else:
        assert (HeaderFlag.DOUBTFUL_BODY_PART in eligible(content).flags) == (stated is None)


@pytest.mark.parametrize(
    ("view", "position"),
    [
        ("PA", "PA"), ("AP", "AP"), ("AP SUPINE", "AP"), ("Posteroanterior", "PA"), ("正位", "FRONTAL"),
        ("LL", "LL"), ("RL", "RL"), ("LATERAL", "LATERAL"), ("LEFT LATERAL", "LL"), ("LAT", "LATERAL"),
        ("侧位", "LATERAL"), ("LPO", "OBLIQUE"), ("OBLIQUE", "OBLIQUE"),
        ("LLD", None), ("PA LAT", None), ("XX", None),
    ],
)  # fmt: skip
def test_view_in_many_spellings(view: str, position: str | None) -> None:
    content = with_text("ViewPosition", view)
    parsed = read(content)
    assert parsed.instance is not None
    assert parsed.instance.view_position == position
    if position in ("PA", "AP", "FRONTAL", None):
        assert (HeaderFlag.DOUBTFUL_VIEW in eligible(content).flags) == (position is None)
    else:
        assert reason_of(content) is Reason.LATERAL_VIEW


def _code(value: str, meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "SCT", meaning
    return Sequence([item])


@pytest.mark.parametrize("undefined_length", [False, True])
def test_view_and_region_codes(*, undefined_length: bool) -> None:
    def alter(dataset: Dataset) -> None:
        del dataset.ViewPosition, dataset.BodyPartExamined
        dataset.ViewCodeSequence = _code("399173006", "left lateral")
        dataset.AnatomicRegionSequence = _code("51185008", "Thoracic structure")
        for keyword in ("ViewCodeSequence", "AnatomicRegionSequence"):
            dataset[keyword].is_undefined_length = undefined_length
            dataset[keyword][0].is_undefined_length_sequence_item = undefined_length

    content = altered(alter)
    instance = read(content).instance
    assert instance is not None
    assert (instance.view_position, instance.body_part) == ("LL", "chest")
    assert reason_of(content) is Reason.LATERAL_VIEW


def test_contradictory_statements_leave_it_to_the_picture() -> None:
    def alter(dataset: Dataset) -> None:
        dataset.ViewCodeSequence = _code("399173006", "left lateral")
        dataset.AnatomicRegionSequence = _code("72696002", "Knee region")

    flags = eligible(altered(alter)).flags
    assert {HeaderFlag.DOUBTFUL_VIEW, HeaderFlag.DOUBTFUL_BODY_PART} <= set(flags)


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.22"}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.11.1"}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.2"}, Reason.NOT_A_RADIOGRAPH),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.39.1"}, Reason.NOT_AN_IMAGE),
        ({"Modality": "MG"}, Reason.NOT_A_RADIOGRAPH),
        ({"Modality": "PR"}, Reason.NOT_AN_IMAGE),
        ({"Modality": "RF", "BodyPartExamined": "ESOPHAGUS"}, Reason.NOT_A_RADIOGRAPH),
        ({"NumberOfFrames": "2"}, Reason.MULTI_FRAME),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, Reason.COLOUR),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.COLOUR),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Reason.LOCALIZER),
        ({"ImageType": ["DERIVED", "PRIMARY", "", "SOFT_TISSUE"]}, Reason.DERIVED_IMAGE),
        ({"ImageType": ["DERIVED", "SECONDARY", "DOSE_REPORT"]}, Reason.NOT_A_RADIOGRAPH),
        ({"SeriesDescription": "Chest PA bone suppressed"}, Reason.DERIVED_IMAGE),
        ({"BitsAllocated": 32}, Reason.UNSUPPORTED_PIXEL_FORMAT),
        ({"Rows": 40000, "Columns": 40000}, Reason.IMPLAUSIBLE_SIZE),
        ({"Rows": 255}, Reason.TOO_SMALL),
        ({"Rows": 0}, Reason.CORRUPT_HEADER),
        ({"Rows": None}, Reason.CORRUPT_HEADER),
        ({"PixelData": None}, Reason.NO_PIXEL_DATA),
        ({"SamplesPerPixel": None, "PhotometricInterpretation": "YBR_FULL_422"}, Reason.COLOUR),
        ({"SamplesPerPixel": None, "PhotometricInterpretation": "RGB"}, Reason.COLOUR),
    ],
)
def test_statement_gets_its_reason(tags: dict[str, object], reason: Reason) -> None:
    assert reason_of(with_tags(**tags)) is reason


@pytest.mark.parametrize(
    "tags",
    [
        {"Modality": "DR"},
        {"Modality": None},
        {"Modality": "OT"},
        {"Modality": "RF"},
        {"SOPClassUID": "1.3.46.670589.5.0.1.1"},
        {"ImageType": ["DERIVED", "PRIMARY", "POST_PROCESSED"]},
        {"NumberOfFrames": "1"},
        {"SamplesPerPixel": None, "PhotometricInterpretation": None},
        {"SeriesDescription": "Ribs and bone, chest LAT"},
        {"StudyInstanceUID": None},
    ],
)
def test_missing_or_doubtful_tags_do_not_reject(tags: dict[str, object]) -> None:
    eligible(with_tags(**tags))


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientAge": "054Y"}, 54),
        ({"PatientAge": "54"}, 54),
        ({"PatientAge": "018M"}, 1),
        ({"PatientAge": "099Y"}, 90),
        ({"PatientAge": "999Y"}, None),
        ({"PatientAge": "", "PatientBirthDate": "19600229", "StudyDate": "20200228"}, 59),
        ({"PatientAge": "", "PatientBirthDate": "1960.02.28", "StudyDate": "20200228"}, 60),
        ({"PatientAge": "", "PatientBirthDate": "20210101", "StudyDate": "20200228"}, None),
        ({"PatientAge": "", "PatientBirthDate": "19601399", "StudyDate": "20200228"}, None),
    ],
)
def test_age(tags: dict[str, object], age: int | None) -> None:
    assert eligible(with_tags(**tags)).patient_age_years == age


@pytest.mark.parametrize(
    ("tags", "spacing", "source"),
    [
        ({"ImagerPixelSpacing": ["0.2", "0.1"], "PixelSpacing": ["0.3", "0.3"]}, (0.2, 0.1), "imager"),
        ({"PixelSpacing": ["0.143", "0.143"]}, (0.143, 0.143), "pixel"),
        ({"PixelSpacing": None, "NominalScannedPixelSpacing": ["0.1", "0.1"]}, (0.1, 0.1), "nominal"),
        ({"PixelSpacing": ["0.000", "0.000"]}, None, None),
        ({"PixelSpacing": ["0.143"]}, None, None),
    ],
)
def test_spacing(tags: dict[str, object], spacing: tuple[float, float] | None, source: str | None) -> None:
    instance = eligible(with_tags(**tags))
    assert (instance.pixel_spacing_mm, instance.spacing_source) == (spacing, source)
    assert (HeaderFlag.NO_SPACING in instance.flags) == (spacing is None)


def test_impossible_bits_stored_is_corrected() -> None:
    instance = eligible(with_tags(BitsStored=12))
    assert instance.bits_stored == 8
    assert HeaderFlag.BITS_STORED_CORRECTED in instance.flags
