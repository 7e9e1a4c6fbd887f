"""Judged films to figures: agreement with the calibration package, slices, the model card."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from calibration.model_calibration import Calibration
from calibration.reliability import expected_calibration_error
from screener.records import ZONES
from training.figures import figures_of, frontal_figures, segmentation_figures, sliced_figures
from training.model_card import model_card
from training.networks import ClassificationConfig

IDENTITY = Calibration.identity("0" * 64)


def judged(count: int = 120) -> pl.DataFrame:
    generator = np.random.default_rng(0)
    stage = generator.integers(0, 4, count)
    columns: dict[str, object] = {
        "film_id": [f"f{i}" for i in range(count)],
        "subject_id": [f"s{i // 2}" for i in range(count)],
        "source": ["phantom" if i % 2 else "nih" for i in range(count)],
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
    (dice,) = segmentation_figures(masks())
    assert dice.value == pytest.approx(0.96)
    accepted, turned_away = frontal_figures(masks())
    assert accepted.value == turned_away.value == 1


def test_the_card_says_what_is_simulated_and_for_whom() -> None:
    card = model_card(
        judged(),
        IDENTITY,
        segmentation=masks(),
        licences=("set A (terms)",),
        facts={"git_commit": "abc", "versions": {"torch": "2"}},
        network=ClassificationConfig(),
        training="* classification: 3 epochs.",
        intended_use="Research only.",
    )
    assert "No real pneumoconiosis film was used" in card
    assert "Research only." in card
    assert "* set A (terms)" in card
    assert "stage accuracy" in card
