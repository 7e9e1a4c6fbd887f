from pathlib import Path

import polars as pl
import pytest

from screener.epidemiology.roster import join, read_roster
from screener.epidemiology.strata import (
    Dimension,
    band_order,
    default_dimensions,
    latest_per_person,
    parse_dimensions,
    with_strata,
)
from screener.errors import ConfigError, ReportError
from screener.schema import STUDIES, polars_schema


def pseudonym(issuer: str | None, patient_id: str) -> str:
    return f"pid-{issuer or ''}-{patient_id}".lower()


def roster_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "roster.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_identities_end_where_the_roster_is_read(tmp_path: Path) -> None:
    path = roster_file(
        tmp_path,
        "Patient_ID,issuer_of_patient_id,name,telephone,site,dust_type,exposure_years,birth_year,sex\n"
        "0017,MINE,Zhang San,13800000000,Mine A,silica,12.5,1970,男\n",
    )
    roster = read_roster(path, pseudonym)
    assert roster.subjects.to_dicts() == [
        {
            "subject_pid": "pid-mine-0017",
            "roster_site": "Mine A",
            "roster_job": None,
            "roster_dust": "silica",
            "exposure_years": 12.5,
            "birth_year": 1970,
            "roster_sex": "M",
            "prior_stage": None,
            "prior_year": None,
        }
    ]
    assert roster.columns == ("roster_site", "roster_dust", "exposure_years", "birth_year", "roster_sex")
    assert roster.warnings == {}


def test_a_patient_id_keeps_its_leading_zeros(tmp_path: Path) -> None:
    roster = read_roster(roster_file(tmp_path, "patient_id,site\n0017,A\n17,B\n"), pseudonym)
    assert roster.subjects["subject_pid"].to_list() == ["pid--0017", "pid--17"]


def test_a_roster_without_a_key_column_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"expected patient_id \(or subject_pid\), found name, site"):
        read_roster(roster_file(tmp_path, "name,site\nx,A\n"), pseudonym)


def test_patient_ids_need_the_key_and_pseudonyms_do_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--key-file"):
        read_roster(roster_file(tmp_path, "patient_id,site\n1,A\n"), None)
    roster = read_roster(roster_file(tmp_path, "subject_pid,site\nAB12,A\n"), None)
    assert roster.subjects["subject_pid"].to_list() == ["ab12"]


def test_rows_that_contradict_each_other_stop_with_their_numbers(tmp_path: Path) -> None:
    text = "patient_id,site\n1,A\n2,B\n1,C\n"
    with pytest.raises(ReportError, match="1 subjects") as failure:
        read_roster(roster_file(tmp_path, text), pseudonym)
    assert "2, 4" in str(failure.value)
    assert "pid" not in str(failure.value)


def test_what_cannot_be_understood_is_counted_and_unknown(tmp_path: Path) -> None:
    text = (
        "patient_id,site,exposure_years,birth_year,sex\n"
        "1,A,abc,1970,M\n2,A,-3,1870,F\n3,A,12,1980,robot\n,A,1,1990,M\n4,A,1,1990,M\n4,A,1,1990,M\n"
    )
    roster = read_roster(roster_file(tmp_path, text), pseudonym)
    assert roster.num_rows == 6
    assert roster.subjects.height == 4
    assert roster.warnings == {
        "roster_bad_exposure_years": 2,
        "roster_bad_birth_year": 1,
        "roster_unknown_sex": 1,
        "roster_no_key": 1,
        "roster_duplicate_rows": 1,
    }


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00\x00", b"a,b\n1,2,3\n"])
def test_a_file_that_is_no_table_is_refused_without_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret-name.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as failure:
        read_roster(path, pseudonym)
    assert "secret-name" not in str(failure.value)


def studies(**columns: list[object]) -> pl.DataFrame:
    schema = polars_schema(STUDIES)
    count = len(next(iter(columns.values())))
    filled = {name: columns.get(name, [None] * count) for name in schema}
    return pl.DataFrame(filled, schema=schema)


def test_both_sides_of_the_join_are_counted(tmp_path: Path) -> None:
    roster = read_roster(roster_file(tmp_path, "subject_pid,site\na,A\nb,B\nz,Z\n"), None)
    joined, match = join(
        studies(study_pid=["1", "2", "3", "4", "5"], subject_pid=["b", "a", "q", None, "a"]), roster
    )
    assert joined["study_pid"].to_list() == ["1", "2", "3", "4", "5"]
    assert joined["roster_site"].to_list() == ["B", "A", None, None, "A"]
    assert match is not None
    assert (match.matched_subjects, match.unmatched_roster_subjects) == (2, 1)
    assert (match.unmatched_campaign_subjects, match.studies_without_subject) == (1, 1)


def test_bands_have_half_open_edges_and_sort_by_number() -> None:
    table = studies(study_pid=list("abcdef"), study_year=[2020] * 6, age_years=[29, 30, 69, 70, None, 90])
    bands = with_strata(join(table, None)[0])["age_band"].to_list()
    assert bands == ["<30", "30-39", "60-69", ">=70", "unknown", ">=70"]
    assert sorted(set(bands), key=band_order) == ["<30", "30-39", "60-69", ">=70", "unknown"]


def test_age_and_sex_come_from_the_roster_first(tmp_path: Path) -> None:
    text = "subject_pid,birth_year,sex\na,1950,F\nb,,\n"
    table = studies(
        study_pid=["1", "2"],
        subject_pid=["a", "b"],
        study_year=[2020, 2020],
        age_years=[40, 40],
        sex=["M", "M"],
    )
    strata = with_strata(join(table, read_roster(roster_file(tmp_path, text), None))[0])
    assert strata["age_band"].to_list() == [">=70", "40-49"]
    assert strata["sex"].to_list() == ["F", "M"]


def test_a_person_counts_once_and_by_year_once_a_year() -> None:
    table = studies(
        study_pid=["1", "2", "3", "4"],
        subject_pid=["a", "a", "a", None],
        study_year=[2020, 2021, 2021, 2020],
        quality_grade=[1, 3, 1, 1],
    )
    rows = with_strata(join(table, None)[0]).with_columns(
        pl.coalesce("subject_pid", "study_pid").alias("person")
    )
    assert sorted(latest_per_person(rows)["study_pid"]) == ["3", "4"]
    assert sorted(latest_per_person(rows, by_year=True)["study_pid"]) == ["1", "3", "4"]


def test_dimensions_are_checked_by_name_and_by_roster() -> None:
    assert parse_dimensions(["sex", "year", "sex"], has_roster=False) == (Dimension.SEX, Dimension.YEAR)
    with pytest.raises(ConfigError, match="colour"):
        parse_dimensions(["colour"], has_roster=True)
    with pytest.raises(ConfigError, match="needs a roster"):
        parse_dimensions(["dust"], has_roster=False)
    assert Dimension.SITE in default_dimensions(has_roster=True)
    assert Dimension.SITE not in default_dimensions(has_roster=False)
