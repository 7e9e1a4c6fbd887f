import polars as pl
import pytest

from screener.epidemiology.outcomes import Outcome
from screener.epidemiology.prevalence import PrevalenceSettings, prevalence_table
from screener.epidemiology.strata import Dimension
from tests.synthetic_campaign import shared_campaign, shared_content


def overall(outcome: Outcome) -> dict[str, object]:
    table = shared_content().tables["prevalence"]
    rows = table.filter((pl.col("dimension") == "overall") & (pl.col("outcome") == outcome.value))
    return rows.row(0, named=True)


@pytest.mark.parametrize(("outcome", "truth"), [(Outcome.STAGE_GE_1, "true_stage"), (Outcome.TB, "true_tb")])
def test_the_corrected_interval_holds_the_simulated_truth(outcome: Outcome, truth: str) -> None:
    row = overall(outcome)
    simulated = float((shared_campaign().persons[truth].cast(pl.Int64) > 0).to_numpy().mean())
    assert row["corrected_low"] <= simulated <= row["corrected_high"]  # type: ignore[operator]
    assert abs(row["prevalence"] - simulated) > abs(row["corrected"] - simulated)  # type: ignore[operator]


def test_counts_equal_a_plain_count_of_the_persons() -> None:
    persons = shared_content().tables["persons"]
    table = shared_content().tables["prevalence"]
    assert overall(Outcome.STAGE_GE_1)["num_positive"] == persons.filter(pl.col("stage_pred") >= 1).height
    assert (
        overall(Outcome.TB)["num_positive"] == persons.filter(pl.col("dx_pred").is_in(["tb", "both"])).height
    )
    shown = table.filter(
        (pl.col("dimension") == "dust") & (pl.col("outcome") == "stage_ge_1") & ~pl.col("suppressed")
    )
    assert shown.height >= 3
    for row in shown.iter_rows(named=True):
        group = persons.filter(pl.col("dust") == row["stratum"])
        assert row["num_persons"] == group.height
        assert row["num_positive"] == group.filter(pl.col("stage_pred") >= 1).height


def test_nothing_of_a_suppressed_cell_is_written() -> None:
    table = shared_content().tables["prevalence"]
    hidden = table.filter("suppressed")
    assert hidden.height > 0
    figures = ["num_positive", "prevalence", "low", "high", "corrected", "corrected_low", "corrected_high"]
    assert all(
        hidden[name].null_count() == hidden.height for name in [*figures, "cluster_low", "cluster_high"]
    )
    shown = table.filter(~pl.col("suppressed"))
    assert shown["num_positive"].min() >= 5  # type: ignore[operator]
    assert (shown["num_persons"] - shown["num_positive"]).min() >= 5  # type: ignore[operator]


def test_every_stratum_has_every_outcome_and_unknown_comes_last() -> None:
    table = shared_content().tables["prevalence"]
    sizes = table.group_by("dimension", "stratum").len()
    assert sizes["len"].unique().to_list() == [len(Outcome)]
    sites = table.filter((pl.col("dimension") == "site") & (pl.col("outcome") == "tb"))["stratum"].to_list()
    assert sites[0] == "Mine 01"
    assert sites[-1] == "unknown"


def test_sites_are_clusters_only_overall_and_the_interval_is_wider() -> None:
    row = overall(Outcome.STAGE_GE_1)
    assert row["num_sites"] == 14
    assert row["cluster_low"] < row["prevalence"] < row["cluster_high"]  # type: ignore[operator]
    table = shared_content().tables["prevalence"].filter(pl.col("dimension") == "site")
    assert table["cluster_low"].null_count() == table.height


def test_the_same_seed_gives_the_same_table() -> None:
    persons = (
        shared_content()
        .tables["persons"]
        .with_columns(
            pl.lit(None, pl.Int16).alias("study_year"),
            pl.lit(None, pl.Date).alias("study_date"),
            pl.lit(None, pl.Int8).alias("quality_grade"),
        )
    )
    settings = PrevalenceSettings(bootstrap_samples=100)
    first, second = (prevalence_table(persons, [Dimension.SITE], {}, settings) for _ in range(2))
    assert first.equals(second)


def test_a_campaign_without_screened_films_has_an_empty_table() -> None:
    persons = (
        shared_content()
        .tables["persons"]
        .head(0)
        .with_columns(
            pl.lit(None, pl.Int16).alias("study_year"),
            pl.lit(None, pl.Date).alias("study_date"),
            pl.lit(None, pl.Int8).alias("quality_grade"),
        )
    )
    assert prevalence_table(persons, [Dimension.SEX], {}, PrevalenceSettings()).is_empty()
