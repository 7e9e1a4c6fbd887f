from pathlib import Path

import numpy as np
import polars as pl
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from screener.epidemiology.agreement import (
    CONSENSUS,
    AgreementSettings,
    compare,
    consensus,
    predictive_values,
    quadratic_kappa,
)
from screener.epidemiology.readings import READINGS, read_readings
from screener.errors import ConfigError
from screener.schema import STUDIES, polars_schema
from tests.synthetic_campaign import shared_content


def readings_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "readings.csv"
    path.write_text(text, encoding="utf-8")
    return path


def studies(stages: dict[str, int], **columns: object) -> pl.DataFrame:
    schema = polars_schema(STUDIES)
    rows = []
    for study, stage in stages.items():
        row: dict[str, object] = dict.fromkeys(schema)
        found = {
            "study_pid": study,
            "stage_pred": stage,
            "p_pneumoconiosis": 0.9 if stage else 0.1,
            "p_tb": 0.05,
        }
        referral = {
            "dx_pred": "pneumoconiosis" if stage else "normal",
            "referral": "routine" if stage else "none",
        }
        rows.append(row | found | referral | columns)
    return pl.DataFrame(rows, schema=schema)


def readings(*rows: tuple[str, str, int | None]) -> pl.DataFrame:
    full = [
        (study, reader, stage, None if stage is None else stage >= 1, None) for study, reader, stage in rows
    ]
    return pl.DataFrame(full, schema=READINGS, orient="row")


FEW = AgreementSettings(bootstrap_samples=300)


def test_gbz_codes_of_any_spelling_are_read(tmp_path: Path) -> None:
    codes = ["0", "0+", "I", "1", "II+", "贰期", "Ⅲ", "叁期"]
    text = "study_pid,reader,gbz_stage\n" + "".join(f"s{n},r,{code}\n" for n, code in enumerate(codes))
    found = read_readings(readings_file(tmp_path, text), pl.Series([f"s{n}" for n in range(8)]))
    assert found.table["stage"].to_list() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert found.warnings == {}


def test_ilo_becomes_a_stage_only_with_its_zones(tmp_path: Path) -> None:
    text = (
        "study_pid,reader,ilo_profusion,ilo_zones,ilo_large\n"
        "a,r,0/1,0,\nb,r,1/1,4,\nc,r,2/2,6,0\nd,r,1/0,,\ne,r,2/1,6,B\nf,r,0/0,,A\n"
    )
    table = read_readings(readings_file(tmp_path, text), pl.Series(list("abcdef"))).table
    assert table["stage"].to_list() == [0, 1, 2, None, 3, None]
    assert table["pneumoconiosis"].to_list() == [False, True, True, True, True, True]


def test_unusable_readings_are_counted_each_for_its_reason(tmp_path: Path) -> None:
    text = (
        "study_pid,reader,gbz_stage,tb,quality,read_at\n"
        "a,r1,I,yes,1,2025-01-02\n"
        "a,r1,II,no,1,2025-01-01\n"  # earlier reading of the same reader
        "x,r1,I,no,1,2025-01-01\n"  # not in the campaign
        "b,r1,IV,no,1,2025-01-01\n"  # no such stage
        "b,r2,I,maybe,1,2025-01-01\n"  # no such answer
        "c,r1,I,no,4,2025-01-01\n"  # unclassifiable film
        ",r1,I,no,1,2025-01-01\n"  # no study
    )
    found = read_readings(readings_file(tmp_path, text), pl.Series(list("abc")))
    assert found.table.rows() == [("a", "r1", 1, True, True)]
    assert found.warnings == {
        "readings_no_key": 1,
        "readings_unknown_study": 1,
        "readings_unclassifiable": 1,
        "readings_unknown_code": 2,
        "readings_repeated": 1,
    }
    assert found.num_rows == found.table.height + sum(found.warnings.values())


@pytest.mark.parametrize("header", ["reader,gbz_stage", "study_pid,reader,colour"])
def test_readings_without_key_or_finding_are_refused(tmp_path: Path, header: str) -> None:
    with pytest.raises(ConfigError, match="needs study_pid, reader and at least one of"):
        read_readings(
            readings_file(tmp_path, f"{header}\n" + "x," * header.count(",") + "x\n"), pl.Series(["x"])
        )


def test_the_file_of_calibrate_is_one_reader(tmp_path: Path) -> None:
    text = "study_pid,pneumoconiosis,tb,stage\na,1,0,2\nb,0,,\nc,,1,\n"
    found = read_readings(readings_file(tmp_path, text), pl.Series(list("abc")))
    assert found.warnings == {}
    assert found.table.rows() == [
        ("a", "reader", 2, True, False),
        ("b", "reader", None, False, None),
        ("c", "reader", None, None, True),
    ]


def test_consensus_is_the_upper_median_and_ties_are_positive() -> None:
    table = consensus(readings(("a", "1", 0), ("a", "2", 1), ("b", "1", 0), ("b", "2", 0), ("b", "3", 3)))
    found = {row["study_pid"]: (row["stage"], row["pneumoconiosis"]) for row in table.to_dicts()}
    assert found == {"a": (1, True), "b": (0, False)}


def test_kappa_equals_statsmodels() -> None:
    tables = np.random.default_rng(0).integers(1, 30, size=(20, 4, 4))
    ours = quadratic_kappa(tables)
    theirs = [cohens_kappa(table, wt="quadratic", return_results=False) for table in tables]
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_kappa_is_not_defined_when_everything_is_one_stage() -> None:
    table = np.zeros((1, 4, 4), dtype=np.int64)
    table[0, 0, 0] = 50
    assert np.isnan(quadratic_kappa(table)[0])


def test_predictive_values_of_the_reference_example() -> None:
    # domain.md 3.1: Se 0.95, Sp 0.90 give PPV 0.38 at 6 % and 0.16 at 2 %.
    assert predictive_values(0.95, 0.90, 0.06)[0] == pytest.approx(0.38, abs=0.005)
    assert predictive_values(0.95, 0.90, 0.02)[0] == pytest.approx(0.16, abs=0.005)


def test_a_known_two_by_two_table_gives_its_figures() -> None:
    model = {f"s{n}": int(n < 8 or 10 <= n < 15) for n in range(50)}
    truth = readings(*((study, "r", int(n < 10)) for n, study in enumerate(model)))
    found = compare(truth, studies(model), FEW, prevalence=0.05).accuracy
    rows = found.filter((pl.col("reference") == CONSENSUS) & (pl.col("finding") == "stage_ge_1"))
    figures = {row["metric"]: (row["numerator"], row["denominator"]) for row in rows.to_dicts()}
    assert figures["sensitivity"] == (8, 10)
    assert figures["specificity"] == (35, 40)
    assert figures["ppv"] == (8, 13)
    assert figures["npv"] == (35, 37)
    ppv = rows.filter(pl.col("metric") == "ppv_campaign")["value"][0]
    assert ppv == pytest.approx(0.8 * 0.05 / (0.8 * 0.05 + 0.125 * 0.95))


def test_readers_and_model_are_compared_pair_by_pair() -> None:
    agreement = shared_content().tables["agreement"]
    kappa = agreement.filter(pl.col("metric") == "kappa_quadratic")
    assert kappa["kind"].to_list() == ["reader_reader"] * 3 + ["model_reader"] * 3 + ["model_consensus"]
    assert ((kappa["low"] < kappa["value"]) & (kappa["value"] < kappa["high"])).all()
    within = agreement.filter(pl.col("metric") == "within_one_stage")["value"]
    exact = agreement.filter(pl.col("metric") == "exact_stage")["value"]
    assert (within >= exact).all()
    assert agreement.filter(pl.col("metric") == "fleiss_kappa").height == 1


def test_simulated_accuracy_is_found_again() -> None:
    accuracy = (
        shared_content()
        .tables["accuracy"]
        .filter((pl.col("reference") == CONSENSUS) & (pl.col("finding") == "stage_ge_1"))
    )
    found = {row["metric"]: row for row in accuracy.to_dicts()}
    assert found["sensitivity"]["low"] <= 0.90 <= found["sensitivity"]["high"]
    assert found["specificity"]["low"] <= 0.95 <= found["specificity"]["high"]


def test_confusion_holds_every_study_read_once_for_each_reference() -> None:
    confusion = shared_content().tables["confusion"]
    sums = confusion.group_by("reference").agg(pl.col("num_studies").sum())["num_studies"]
    assert sums.n_unique() == 1


def test_reliability_bins_hold_their_mean() -> None:
    table = shared_content().tables["reliability"]
    assert (
        (table["bin_low"] <= table["mean_probability"]) & (table["mean_probability"] <= table["bin_high"])
    ).all()
    assert ((table["low"] <= table["observed"]) & (table["observed"] <= table["high"])).all()


def test_readings_without_stages_still_give_sensitivity() -> None:
    only_tb = pl.DataFrame([("a", "r", None, None, True)], schema=READINGS, orient="row")
    found = compare(only_tb, studies({"a": 1}), FEW, prevalence=None)
    assert found.confusion.is_empty()
    assert found.accuracy["finding"].unique().to_list() == ["tb"]
