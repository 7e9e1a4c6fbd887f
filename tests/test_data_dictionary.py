from __future__ import annotations

from enum import StrEnum

import pytest

from screener import code_meanings, schema
from screener.data_dictionary import PAGE, data_dictionary
from screener.errors import Reason, Status
from screener.records import Diagnosis, HeaderFlag, QualityFlag, Referral


def test_committed_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == data_dictionary(), "run: python -m screener.data_dictionary"


@pytest.mark.parametrize("table", schema.TABLES)
def test_every_column_is_described_once(table: str) -> None:
    section = data_dictionary().split(f"\n## {table}\n")[1].split("\n## ")[0]
    names = [column.name for column in schema.TABLES[table]]
    assert len(set(names)) == len(names)
    for column in schema.TABLES[table]:
        assert section.count(f"| `{column.name}` |") == 1
        assert column.meaning.endswith(".")


@pytest.mark.parametrize(
    ("codes", "meanings"),
    [
        (Status, code_meanings.STATUSES),
        (Reason, code_meanings.REASONS),
        (Referral, code_meanings.REFERRALS),
        (Diagnosis, code_meanings.DIAGNOSES),
        (QualityFlag, code_meanings.QUALITY_FLAGS),
        (HeaderFlag, code_meanings.HEADER_FLAGS),
    ],
)
def test_every_code_is_explained(codes: type[StrEnum], meanings: dict[StrEnum, str]) -> None:
    assert list(meanings) == list(codes)
    assert len(set(meanings.values())) == len(meanings)


def test_columns_the_field_expects_are_there() -> None:
    """The names of the data dictionary that epidemiologists were promised."""
    images = {column.name for column in schema.IMAGES}
    promised = """image_pid study_pid subject_pid source_sha256 pixel_sha256 modality view_tag photometric
    intent manufacturer rows cols bits_stored spacing_mm spacing_source status reason quality_grade
    quality_flags clipped_frac lung_area_cm2_r lung_area_cm2_l mask_valid"""
    assert set(promised.split()) <= images
    studies = {column.name for column in schema.STUDIES}
    results = """study_date p_normal p_pneumoconiosis p_tb dx_pred p_stage0 p_stage1 p_stage2 p_stage3
    stage_pred stage_expected stage_consistent tb_coexist_flag n_zones_pos referral
    threshold_set_id calibrated"""
    assert {*results.split(), *schema.ZONE_COLUMNS} <= studies & images
