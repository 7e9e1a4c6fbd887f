from __future__ import annotations

import csv
from pathlib import Path

import polars as pl
import pytest

from screener import schema
from screener.errors import ConfigError, Reason
from screener.records import Identity
from screener.resolve import csv_text, resolve, write_resolved
from screener.studies import build_studies
from tests.campaigns import PSEUDONYMS, entry, open_campaign, rejected, run_and_retry, screened

NAMES = ["王^小东", "ヤマダ^タロウ=山田^太郎", "Люкceмбypг", "홍^길동", 'O"Brien, "Pat"', "Äneas^Rudi\\ges"]


@pytest.fixture
def campaign(tmp_path: Path) -> Path:
    with open_campaign(tmp_path) as opened:
        with opened.writer() as report:
            for number, name in enumerate(NAMES):
                who = Identity(f"P{number}", patient_name=name, study_date="20200131")
                report.add(screened(number, of=who, grade=2))
            failed = Identity("P99", patient_name="failed", study_instance_uid="1.9")
            report.add(rejected(99, Reason.DECODE_FAILED, of=failed))
        build_studies(opened)
    return tmp_path / "campaign"


def test_studies_find_their_patients(campaign: Path) -> None:
    resolved = resolve(campaign)
    assert sorted(resolved["patient_name"]) == sorted([*NAMES, "failed"])
    for row in resolved.iter_rows(named=True):
        number = int(row["patient_id"][1:])
        assert row["file_id"] == PSEUDONYMS.file_id(entry(number).relative_path)
        assert row["relative_path"] == entry(number).relative_path
        if number != 99:
            assert row["true_study_date"] == "20200131"
    assert resolved.select(column.name for column in schema.STUDIES).equals(
        pl.read_parquet(campaign / "studies.parquet")
    )


def test_images_find_their_patients_also_before_links_are_merged(tmp_path: Path) -> None:
    with open_campaign(tmp_path) as opened:
        with opened.writer() as report:
            report.add(screened(1))
        assert not (tmp_path / "campaign/private/links.parquet").exists()
        assert resolve(tmp_path / "campaign", "images")["patient_name"].to_list() == ["王^小东"]
        with pytest.raises(ConfigError, match="no studies yet"):
            resolve(tmp_path / "campaign")


def test_newest_link_wins(tmp_path: Path) -> None:
    for name in ("before", "after"):
        with open_campaign(tmp_path) as opened, opened.writer() as report:
            report.add(screened(1, of=Identity("P", patient_name=name)))
    assert resolve(tmp_path / "campaign", "images")["patient_name"].to_list() == ["after"]


def test_csv_keeps_every_character_set_and_is_private(campaign: Path, tmp_path: Path) -> None:
    out = tmp_path / "named.csv"
    write_resolved(resolve(campaign), out, campaign)
    assert out.stat().st_mode & 0o777 == 0o600
    assert out.read_bytes().startswith("\ufeff".encode())
    with out.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["patient_name"] for row in rows) == sorted([*NAMES, "failed"])
    assert {row["quality_flags"] for row in rows} == {"rotated", ""}
    assert csv_text(resolve(campaign)) == out.read_text("utf-8-sig")


def test_no_cell_is_a_formula_to_a_spreadsheet(tmp_path: Path) -> None:
    hostile = ['=HYPERLINK("http://x","y")', "@SUM(1)", "+1+cmd|'/C calc'!A0", "-2+3", "\t=1", " =1"]
    harmless = ["-12", "O=Brien", "王^小东"]
    with open_campaign(tmp_path) as opened, opened.writer() as report:
        for number, name in enumerate([*hostile, *harmless]):
            report.add(screened(number, of=Identity(f"P{number}", patient_name=name)))
    out = tmp_path / "named.csv"
    write_resolved(resolve(tmp_path / "campaign", "images"), out, tmp_path / "campaign")
    with out.open(encoding="utf-8-sig", newline="") as file:
        written = {row["patient_name"] for row in csv.DictReader(file)}
    assert written == {*(f"'{name}" for name in hostile), *harmless}


def test_names_are_not_written_where_they_outlive_the_private_folder(campaign: Path) -> None:
    with pytest.raises(ConfigError, match="outside the campaign"):
        write_resolved(resolve(campaign), campaign / "named.csv", campaign)
    write_resolved(resolve(campaign), campaign / "private" / "named.csv", campaign)


def test_anonymous_campaign_cannot_be_resolved(tmp_path: Path) -> None:
    list(run_and_retry(tmp_path, 4))
    (tmp_path / "campaign" / "private").rename(tmp_path / "gone")
    with pytest.raises(ConfigError, match="anonymous"):
        resolve(tmp_path / "campaign")
    with pytest.raises(ConfigError, match="not a campaign"):
        resolve(tmp_path)
