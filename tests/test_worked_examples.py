"""The worked examples of docs/epidemiology.md give what the report's own table says."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import duckdb
import polars as pl
import pytest

from screener.epidemiology.table_dictionary import PAGE, table_dictionary
from tests.synthetic_campaign import shared_report

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"


def answer_of_sql() -> pl.DataFrame:
    script = (EXAMPLES / "stage_by_dust.sql").read_text(encoding="utf-8")
    persons = shared_report() / "tables" / "persons.parquet"
    rows = duckdb.connect().execute(script.replace("'persons.parquet'", f"'{persons}'")).fetchall()
    return pl.DataFrame(rows, schema=["dust", "n", "k", "prevalence", "low", "high"], orient="row")


def answer_of_python(name: str) -> pl.DataFrame:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), str(shared_report() / "tables")],
        capture_output=True,
        check=True,
        timeout=120,
    )
    return pl.read_csv(io.BytesIO(done.stdout))


@pytest.mark.parametrize(
    "example", ["stage_by_dust.sql", "stage_by_dust_polars.py", "stage_by_dust_pandas.py"]
)
def test_stage_by_dust_equals_the_report(example: str) -> None:
    answer = answer_of_sql() if example.endswith(".sql") else answer_of_python(example)
    reported = pl.read_parquet(shared_report() / "tables" / "prevalence.parquet").filter(
        (pl.col("dimension") == "dust") & (pl.col("outcome") == "stage_ge_1")
    )
    assert sorted(answer["dust"]) == sorted(reported["stratum"])
    both = reported.filter(~pl.col("suppressed")).join(
        answer, left_on="stratum", right_on="dust", suffix="_answer"
    )
    assert both.height >= 3
    assert both["num_persons"].to_list() == both["n"].to_list()
    assert both["num_positive"].to_list() == both["k"].to_list()
    for figure in ("prevalence", "low", "high"):
        assert (both[figure] - both[f"{figure}_answer"]).abs().max() < 1e-9  # type: ignore[operator]


def test_the_r_script_asks_the_same_question() -> None:
    script = (EXAMPLES / "stage_by_dust.R").read_text(encoding="utf-8")
    for word in ("persons.parquet", "dust", "stage_pred >= 1", "qnorm(0.975)"):
        assert word in script


def test_the_manual_names_every_example() -> None:
    manual = (EXAMPLES.parent / "epidemiology.md").read_text(encoding="utf-8")
    assert all(f"examples/{path.name}" in manual for path in EXAMPLES.glob("stage_by_dust*"))


def test_the_dictionary_of_report_tables_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == table_dictionary(), (
        "run: python -m screener.epidemiology.table_dictionary"
    )
