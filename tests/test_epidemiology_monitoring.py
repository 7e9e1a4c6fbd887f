from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from screener.epidemiology.campaign_tables import PartWritten, acquisition_months
from screener.epidemiology.monitoring import (
    drift_table,
    observed_thresholds,
    quality_table,
    score_table,
    throughput_table,
)
from screener.epidemiology.strata import Dimension
from tests.synthetic_campaign import shared_campaign, shared_content


def studies(count: int, **columns: object) -> pl.DataFrame:
    given = {
        "p_pneumoconiosis": 0.2,
        "p_tb": 0.1,
        "dx_pred": "normal",
        "referral": "none",
        "quality_grade": 1,
    }
    return pl.select(pl.repeat(0, count).alias("row")).with_columns(
        pl.lit(value).alias(name) for name, value in (given | columns).items()
    )


def test_score_bins_add_up_and_small_ones_are_hidden() -> None:
    table = pl.concat([studies(100), studies(60, p_pneumoconiosis=0.5), studies(3, p_pneumoconiosis=1.0)])
    shown = score_table(table, min_cell=0).filter(pl.col("finding") == "pneumoconiosis")
    assert shown["num_studies"].sum() == 163
    assert shown["num_studies"][-1] == 3
    hidden = score_table(table, min_cell=5).filter(pl.col("finding") == "pneumoconiosis")
    assert hidden["num_studies"].drop_nulls().to_list() == [100], "three alone would follow from the sum"


def test_the_threshold_is_the_lowest_score_that_was_suspected() -> None:
    suspected = studies(2, p_pneumoconiosis=0.61, dx_pred="both", p_tb=0.7)
    found = observed_thresholds(pl.concat([studies(5), suspected, suspected.with_columns(p_tb=pl.lit(0.9))]))
    assert found == {"pneumoconiosis": 0.61, "tb": 0.7}
    assert observed_thresholds(studies(3)) == {}


def test_quality_shares_add_up_within_a_site_and_tiny_sites_are_hidden() -> None:
    table = pl.concat(
        [
            studies(30, site="A"),
            studies(10, site="A", quality_grade=3),
            studies(2, site="B"),
            studies(9, site="C"),
        ]
    )
    found = quality_table(table, [Dimension.SITE], min_cell=5)
    shares = {(row["stratum"], row["quality_grade"]): row["share"] for row in found.to_dicts()}
    assert shares[("A", 1)] == pytest.approx(0.75)
    assert shares[("A", 3)] == pytest.approx(0.25)
    assert shares[("B", 1)] is None
    assert shares[("C", 1)] is None, "B would follow from the sum"


def test_drift_shows_a_step_and_leaves_out_short_periods() -> None:
    table = pl.concat([studies(50), studies(50, p_tb=0.6, referral="routine"), studies(3)])
    period = pl.Series(["2024-01"] * 50 + ["2024-02"] * 50 + ["2024-03"] * 3)
    found = drift_table(table, period, min_cell=5, confidence=0.95)
    assert found["period"].unique().sort().to_list() == ["2024-01", "2024-02"]
    means = {(row["measure"], row["period"]): row["mean"] for row in found.to_dicts()}
    assert means[("p_tb", "2024-02")] - means[("p_tb", "2024-01")] == pytest.approx(0.5)
    assert means[("referred", "2024-02")] == 1.0
    assert means[("referred", "2024-01")] is None, "no referral is a count under five"


def test_studies_without_a_period_are_left_out() -> None:
    found = drift_table(studies(20), pl.Series([None] * 20, dtype=pl.String), min_cell=5, confidence=0.95)
    assert found.is_empty()


def test_speed_is_between_parts_and_a_copied_folder_has_none() -> None:
    start = datetime(2025, 1, 1, tzinfo=UTC)
    parts = [PartWritten(start + timedelta(minutes=minute), 100) for minute in (4, 0, 2)]
    assert throughput_table(parts)["files_per_minute"].to_list() == [None, 50.0, 50.0]
    copied = [PartWritten(start + timedelta(milliseconds=number), 100) for number in range(3)]
    assert throughput_table(copied)["files_per_minute"].null_count() == 3


def test_months_come_from_the_private_links_and_go_with_them(tmp_path: Path) -> None:
    table = shared_content().campaign.studies
    months = acquisition_months(shared_campaign().folder, table)
    assert months is not None
    years = table["study_year"].cast(pl.String)
    assert (months.str.slice(0, 4) == years).filter(years.is_not_null() & months.is_not_null()).all()
    assert acquisition_months(tmp_path, table) is None
