import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from bench.synthetic_campaign import write_campaign
from screener import INTENDED_USE
from screener.epidemiology.tables import PRIVATE_TABLES, REPORT_TABLES
from screener.errors import ConfigError, ReportError
from screener.report import analyse, build_report
from screener.report_command import report
from screener.report_settings import ReportSettings
from screener.schema import polars_schema
from tests.synthetic_campaign import settings_for, shared_campaign, shared_content, shared_report


def tables() -> dict[str, pl.DataFrame]:
    return {name: pl.read_parquet(shared_report() / "tables" / f"{name}.parquet") for name in REPORT_TABLES}


def test_every_table_is_written_in_its_schema_with_the_intended_use() -> None:
    for name, table in tables().items():
        assert table.schema == polars_schema(REPORT_TABLES[name]), name
        metadata = pl.read_parquet_metadata(shared_report() / "tables" / f"{name}.parquet")
        assert metadata["intended_use"] == INTENDED_USE
        assert metadata["table"] == f"report/{name}"


def test_csv_holds_the_same_rows() -> None:
    for name, table in tables().items():
        stored = pl.read_csv(shared_report() / "tables" / f"{name}.csv", infer_schema=False)
        assert stored.columns == table.columns, name
        assert stored.height == table.height, name
        for column, dtype in table.schema.items():
            if dtype.is_float():
                read = stored[column].cast(pl.Float64)
                assert read.is_null().equals(table[column].is_null())
                assert (read - table[column]).abs().fill_null(0).sum() < 1e-4 * table.height + 1e-9, column
            elif dtype == pl.Boolean or dtype.is_integer():
                assert stored[column].to_list() == table[column].cast(pl.String).to_list(), column


def test_no_identifier_is_anywhere_in_the_report() -> None:
    patients = set(shared_campaign().persons["patient_id"])
    for path in shared_report().rglob("*"):
        if path.suffix in (".csv", ".html"):
            text = path.read_text(encoding="utf-8")
        elif path.suffix == ".parquet":
            text = pl.read_parquet(path).select(pl.col(pl.String)).write_csv()
        else:
            continue
        assert not patients & set(re.findall(r"W\d{7}", text)), path.name
        assert str(shared_campaign().folder) not in text, path.name


def test_the_worklist_holds_everyone_to_be_read_most_urgent_first() -> None:
    worklist = tables()["worklist"]
    studies = pl.read_parquet(shared_campaign().folder / "studies.parquet")
    wanted = studies.filter(pl.col("referral").is_in(["routine", "priority", "unreadable"]))
    assert set(worklist["study_pid"]) == set(wanted["study_pid"])
    assert worklist["priority"].is_sorted()
    assert (
        studies.filter(pl.col("status") == "failed")["study_pid"].is_in(worklist["study_pid"].implode()).all()
    )


def test_the_flow_ends_in_the_worklist() -> None:
    flow, worklist = tables()["flow"], tables()["worklist"]
    referred = flow.filter((pl.col("step") == "referred") & (pl.col("unit") == "studies"))["remaining"][0]
    assert referred == worklist.filter(pl.col("referral") != "unreadable").height


def test_the_hive_layout_is_read_back_by_duckdb() -> None:
    import duckdb

    folders = f"read_parquet('{shared_report()}/hive/**/*.parquet', hive_partitioning=true)"
    query = f"select site, count(*) from {folders} group by site order by site"
    found = duckdb.connect().execute(query).fetchall()
    persons = tables()["persons"].group_by("site").len().sort("site").rows()
    assert found == persons


def test_a_public_report_speaks_of_no_single_person(tmp_path: Path) -> None:
    campaign = shared_campaign()
    build_report(settings_for(campaign, tmp_path / "public", hive=True))  # an earlier, private report
    done = build_report(settings_for(campaign, tmp_path / "public", public=True))
    assert not (tmp_path / "public" / "hive").exists()
    written = {path.stem for path in (tmp_path / "public" / "tables").iterdir()}
    assert not written & {*PRIVATE_TABLES, "confusion"}
    page = done.page.read_text(encoding="utf-8")
    worklist = tables()["worklist"]
    pseudonyms = [*worklist["study_pid"], *worklist["subject_pid"].drop_nulls()]
    assert not [pid for pid in pseudonyms if pid in page]
    assert "data:image" not in page


def test_a_name_from_the_roster_is_text_and_never_markup_or_formula(tmp_path: Path) -> None:
    campaign = write_campaign(tmp_path / "c", num_studies=200, seed=5)
    hostile = "</script><script>alert(1)</script>"
    roster = pl.read_csv(campaign.roster, infer_schema=False).with_columns(
        site=pl.lit(hostile), job=pl.lit("=HYPERLINK(0)")
    )
    roster.write_csv(campaign.roster)
    settings = ReportSettings(
        campaign.folder, roster=campaign.roster, key_file=campaign.key_file, bootstrap_samples=100
    )
    done = build_report(settings)
    page = done.page.read_text(encoding="utf-8")
    assert hostile not in page
    assert "&lt;/script&gt;" in page
    jobs = pl.read_csv(done.folder / "tables" / "persons.csv", infer_schema=False)["job"].unique().to_list()
    assert "'=HYPERLINK(0)" in jobs
    assert "=HYPERLINK(0)" not in jobs


def test_a_report_without_roster_readings_or_pictures_is_complete(tmp_path: Path) -> None:
    campaign = write_campaign(tmp_path / "c", num_studies=150, seed=6)
    done = build_report(ReportSettings(campaign.folder, bootstrap_samples=100))
    assert done.num_thumbnails == 0
    dimensions = (
        pl.read_parquet(done.folder / "tables" / "prevalence.parquet")["dimension"].unique().to_list()
    )
    assert "site" not in dimensions
    assert {"overall", "sex", "year", "age_band"} <= set(dimensions)
    assert pl.read_parquet(done.folder / "tables" / "agreement.parquet").is_empty()


def test_a_campaign_in_which_nothing_was_screened_still_reports(tmp_path: Path) -> None:
    campaign = write_campaign(tmp_path / "c", num_studies=60, seed=8)
    for path in sorted((campaign.folder / "images").glob("*.parquet")):
        rows = pl.read_parquet(path).filter(pl.col("status") != "screened")
        rows.write_parquet(path)
    from screener.studies import study_rows

    images = pl.concat([pl.read_parquet(path) for path in (campaign.folder / "images").glob("*.parquet")])
    study_rows(images.lazy()).write_parquet(campaign.folder / "studies.parquet")
    (campaign.folder / "run.json").unlink()
    done = build_report(ReportSettings(campaign.folder, bootstrap_samples=100))
    assert pl.read_parquet(done.folder / "tables" / "prevalence.parquet").is_empty()
    assert done.page.stat().st_size > 100_000


def test_the_same_campaign_gives_the_same_tables(tmp_path: Path) -> None:
    campaign = shared_campaign()
    build_report(settings_for(campaign, tmp_path / "again"))
    for name in REPORT_TABLES:
        first, second = (
            folder / "tables" / f"{name}.parquet" for folder in (shared_report(), tmp_path / "again")
        )
        assert first.read_bytes() == second.read_bytes(), name


def test_warnings_count_both_sides_of_the_roster() -> None:
    warnings = shared_content().warnings
    assert warnings["roster_subjects_without_study"] == 7
    assert warnings["subjects_not_on_roster"] == 200


def test_a_roster_with_the_wrong_key_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "other.key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    with pytest.raises(ConfigError, match="is not the one that made this campaign"):
        analyse(settings_for(shared_campaign(), tmp_path, key_file=key))


def test_a_report_never_makes_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--key-file"):
        analyse(settings_for(shared_campaign(), tmp_path, key_file=tmp_path / "none.key"))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_campaign_fails_and_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "campaign"
    shutil.copytree(shared_campaign().folder, folder)
    part = sorted((folder / "images").glob("*.parquet"))[0]
    pl.read_parquet(part).head(10).write_parquet(part)
    with pytest.raises(ReportError, match="does not reconcile"):
        build_report(ReportSettings(folder))
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"confidence": 1.0}, "--confidence"),
        ({"min_cell": -1}, "--min-cell"),
        ({"max_thumbnails": -1}, "--max-thumbnails"),
        ({"interval": "wald"}, "--interval"),
        ({"language": "fr"}, "--language"),
        ({"public": True, "hive": True}, "--hive"),
    ],
)
def test_settings_out_of_range_name_their_flag(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ReportSettings(Path(), **changes)  # type: ignore[arg-type]


def test_a_folder_that_is_no_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no campaign\.json"):
        build_report(ReportSettings(tmp_path))


def run_command(*arguments: str) -> tuple[int, str]:
    import typer

    app = typer.Typer()
    app.command()(report)
    done = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return done.exit_code, done.stdout


def test_the_command_writes_the_report_and_says_where(tmp_path: Path) -> None:
    campaign = shared_campaign()
    code, output = run_command(
        str(campaign.folder), "--out", str(tmp_path / "r"), "--roster", str(campaign.roster), "--key-file",
        str(campaign.key_file), "--by", "dust,sex", "--json", "--max-thumbnails", "3",
    )  # fmt: skip
    assert code == 0
    summary = json.loads(output)
    assert summary["thumbnails"] == 3
    assert summary["warnings"]["roster_subjects_without_study"] == 7
    dimensions = pl.read_parquet(tmp_path / "r" / "tables" / "prevalence.parquet")["dimension"]
    assert dimensions.unique(maintain_order=True).to_list() == ["overall", "dust", "sex"]
