"""Judged films to figures: agreement with the calibration package, slices, the model card."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from calibration.model_calibration import Calibration
from calibration.reliability import expected_calibration_error
from screener.records import ZONES
from training.figures import figures_of, frontal_figures, segmentation_figures, sliced_figures
from training.model_card import CardFacts, model_card
from training.networks import ClassificationConfig

IDENTITY = Calibration.identity("0" * 64)


def judged(count: int = 120) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    stage = generator.integers(0, 4, count)
    columns: dict[str, object] = {
        "film_id": [f"f{i}" for i in range(count)],
        "subject_id": [f"s{i // 2}" for i in range(count)],
        "source": ["phantom" if i % 2 else "nih" for i in range(count)],
        "split": ["test"] * count,
        "stage": stage,
        "pneumoconiosis": (stage >= 1).astype(int),
        "tb": generator.integers(0, 2, count),
        "gamma": generator.random(count),
        **dict.fromkeys(ZONES, stage),
    }
    columns["logit_pneumoconiosis"] = (stage >= 1) * 4.0 - 2 + generator.normal(0, 1, count)
    columns["logit_tb"] = generator.normal(0, 1, count)
    for k in range(4):
        columns[f"logit_stage{k}"] = (stage == k) * 3.0 + generator.normal(0, 1, count)
        for zone in ZONES:
            columns[f"logit_{zone}_{k}"] = (stage == k) * 3.0 + generator.normal(0, 1, count)
    return pl.DataFrame(columns)


def masks() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "patient": ["a", "b", "c"],
            "source": ["nlm128", "nlm128", "nihrot"],
            "frontal": [True, True, False],
            "frontal_logit": [3.0, 2.0, -4.0],
            "dice": [0.95, 0.97, None],
            "dice_opacified": [0.91, 0.93, None],
        }
    )


def test_figures_lie_inside_their_intervals() -> None:
    figures = {figure.name: figure for figure in figures_of(judged(), IDENTITY)}
    for figure in figures.values():
        assert figure.low <= figure.value + 0.03, figure
        assert figure.value <= figure.high + 0.03, figure
    assert figures["stage accuracy"].value > 0.9
    assert figures["tuberculosis AUC"].value == pytest.approx(0.5, abs=0.15)


def test_calibration_error_is_that_of_the_calibration_package() -> None:
    films = judged()
    figures = {figure.name: figure.value for figure in figures_of(films, IDENTITY)}
    probabilities = 1 / (1 + np.exp(-films["logit_tb"].to_numpy()))
    expected = expected_calibration_error(probabilities, films["tb"].to_numpy())
    assert figures["ECE tuberculosis"] == pytest.approx(expected)


def test_slices_are_sources_and_halves_of_nuisances() -> None:
    names = " ".join(sliced_figures(judged(), IDENTITY))
    assert "source nih (60 films)" in names
    assert "gamma below its median" in names


def test_masks_and_views_have_figures() -> None:
    dice, opacified = segmentation_figures(masks())
    assert dice.name == "lung Dice, nlm128, 2 films"
    assert dice.value == pytest.approx(0.96)
    assert opacified.name.startswith("lung Dice with drawn opacities")
    assert opacified.value == pytest.approx(0.92)
    accepted, turned_away = frontal_figures(masks())
    assert accepted.value == turned_away.value == 1


def test_figures_are_over_the_films_that_were_read() -> None:
    films = judged().with_columns(
        tb=pl.lit(None, dtype=pl.Int64), stage=pl.when(pl.col("gamma") < 0.5).then(pl.col("stage"))
    )
    figures = {figure.name: figure.value for figure in figures_of(films, IDENTITY)}
    assert "tuberculosis AUC" not in figures
    assert "diagnosis accuracy (both findings right)" not in figures
    read = judged().filter(pl.col("gamma") < 0.5)
    predicted = read.select(pl.concat_list(f"logit_stage{k}" for k in range(4)).list.arg_max()).to_series()
    assert figures["stage accuracy"] == pytest.approx((predicted == read["stage"]).mean())


@pytest.mark.parametrize("seed", range(4))
def test_the_interval_of_a_calibration_error_holds_it(seed: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 1.5, 300)
    outcomes = (generator.random(300) < 1 / (1 + np.exp(-logits))).astype(int)
    films = judged(300).with_columns(logit_tb=pl.Series(logits), tb=pl.Series(outcomes))
    (figure,) = figures_of(films, IDENTITY, ["ECE tuberculosis"])
    assert figure.low <= figure.value <= figure.high
    assert figure.low < figure.high


def card(films: pl.DataFrame, trained_on: dict[str, object] | None = None, **facts: object) -> str:
    run: dict[str, object] = {"git_commit": "abc", "git_dirty": True, "versions": {"torch": "2"}}
    given: dict[str, object] = {
        "name": "mine",
        "intended_use": "Research only.",
        "licences": ("set A (terms)",),
        "network": ClassificationConfig(),
        "training": "* classification: 3 epochs.",
        "run": run if trained_on is None else run | {"trained_on": trained_on},
    }
    return model_card(films, IDENTITY, CardFacts(**(given | facts)), segmentation=masks())  # type: ignore[arg-type]


def test_the_card_of_drawn_films_says_what_is_simulated_and_for_whom() -> None:
    text = card(judged().with_columns(film_class=pl.lit("dust")), not_used="Not used: set B.")
    assert "No real pneumoconiosis film was used" in text
    assert "## What is simulated" in text
    for said in ("bundle `mine`", "Research only.", "* set A (terms)", "Not used: set B.", "stage accuracy"):
        assert said in text
    assert "with uncommitted changes" in text
    assert "of the torch network" in text


def test_the_card_of_real_readings_does_not_speak_of_simulation() -> None:
    trained_on = {"num_train": 50, "num_simulated": 0, "labels": {"diagnosis": 50, "stage": 50, "zones": 0}}
    text = card(judged(), trained_on)
    assert "imulated" not in text
    assert "drawn ones" not in text
    assert "Trained on 50 films" in text
    assert "Not trained, no labels: zones" in text


def test_the_card_of_own_readings_over_a_simulated_start_says_so() -> None:
    trained_on = {"num_train": 50, "num_simulated": 0, "labels": {"diagnosis": 50, "zones": 0}}
    start = {"bundle": "demo 5, model 0123", "simulated": True, "licences": [], "model_sha256": "0"}
    run = {"git_commit": "abc", "versions": {"torch": "2"}, "trained_on": trained_on, "initial_bundle": start}
    text = card(judged(), run=run)
    assert "went on from the weights of bundle demo 5, model 0123**, which were trained on simulated" in text
    assert "## What is simulated" in text
    assert "Real dust opacities differ" in text
    assert "Not read in these films, weights of the bundle started from: zones" in text
    assert "Not trained" not in text
    real = card(judged(), run=run | {"initial_bundle": start | {"simulated": False}})
    assert "demo 5" in real
    assert "imulated" not in real


def test_the_card_of_both_kinds_counts_them() -> None:
    drawn = pl.when(pl.col("gamma") < 0.5).then(pl.lit("dust"))
    films = judged().with_columns(film_class=drawn)
    count = films["film_class"].drop_nulls().len()
    text = card(films, {"num_train": 50, "num_simulated": 20, "labels": {}})
    assert f"20 of 50 in training, {count} of 120 in calibration and test" in text
    only_trained = card(judged(), {"num_train": 50, "num_simulated": 50, "labels": {}})
    assert "50 of 50 in training" in only_trained, "real test films do not hide simulated training"
