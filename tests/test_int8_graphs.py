"""int8 ranges of a bundle: measured, checked on unseen films, shipped or refused, and taken by default."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from calibration.model_calibration import Calibration
from engines.bundle import Bundle, open_bundle
from engines.engine import open_engines
from engines.openvino import has_int8_units
from screener.canvas import CANVAS_SIDE, CANVAS_VERSION
from screener.errors import ConfigError
from training.classification_task import ClassificationRecipe
from training.cohort import build
from training.cohort_deal import CohortSettings
from training.int8_graphs import Int8Check, Int8Limits, add_int8, check
from training.networks import ClassificationConfig, SegmentationConfig
from training.packing import PackRecipe, pack
from training.recipe import FitRecipe
from training.runs import train_classification, train_segmentation
from training.segmentation_task import SegmentationRecipe

ANY = Int8Limits(dice_drop=1.0, accuracy_drop=1.0, flips=1.01)
NONE = Int8Limits(dice_drop=-1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    build(root / "films", CohortSettings(40, seed=2, other_share=0.0))
    films = pl.read_parquet(root / "films" / "cohort.parquet")
    (root / "small").mkdir()
    for path in films["canvas"]:
        picture = cv2.imread(str(root / "films" / path), cv2.IMREAD_GRAYSCALE)
        assert picture is not None
        small = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(root / "small" / f"made_{Path(path).name}"), small)
    rows = films.select(
        pl.format("small/made_{}.png", "film_id").alias("image"),
        pl.format("films/{}", "lungs").alias("mask"),
        pl.lit("anatomical").alias("convention"),
        pl.col("subject_id").alias("patient_group"),
    )
    rows.write_csv(root / "pairs.csv")
    return root


@pytest.fixture(scope="module")
def bundle(data: Path) -> Bundle:
    """A bundle of two small networks that were trained for one epoch on phantoms."""
    fit = FitRecipe(epochs=1, batch_size=4, precision="32-true", accelerator="cpu")
    recipe = SegmentationRecipe(
        pairs="pairs.csv", films=None, network=SegmentationConfig(base=4, depth=1), fit=fit
    )
    train_segmentation(recipe, data, data / "runs" / "segmentation")
    classes = ClassificationRecipe(
        cohorts=("films",),
        segmentation="segmentation",
        network=ClassificationConfig(growth=4, crop_side=64, finding_maps=True),
        fit=fit,
    )
    train_classification(classes, data, data / "runs", data / "runs" / "classification")
    return pack(PackRecipe(cohorts=("films",), licences=("phantoms",)), data, data / "runs", data / "bundle")


def test_graphs_that_pass_are_shipped_and_taken_by_default(
    bundle: Bundle, data: Path, tmp_path: Path
) -> None:
    found = add_int8(bundle, [data / "films"], tmp_path, num_films=6, limits=ANY)
    for done, convolutions in found.quantised.values():
        assert 0 < convolutions - done <= 2 < done, "all but those of fewer than four input channels"
    assert found.num_films == pl.read_parquet(data / "films/cohort.parquet").filter(split="test").height
    opened = open_bundle(tmp_path, canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    assert opened.model_card.count("## INT8") == 1
    checked = tmp_path / "checked"
    assert add_int8(bundle, [data / "films"], checked, num_films=6, limits=ANY, check_only=True) == found
    assert "holds no int8 ranges" in (checked / "MODEL_CARD.md").read_text()
    assert not list(checked.glob("*.int8.json"))
    assert opened.model_sha256 == bundle.model_sha256, "calibration stays bound to the same networks"
    canvas = np.random.default_rng(0).random((2, 1, CANVAS_SIDE, CANVAS_SIDE), np.float32)
    with open_engines(opened, device="cpu") as default, open_engines(bundle, device="cpu") as plain:
        assert default.precision == ("int8" if has_int8_units() else plain.precision)
        assert plain.precision != "int8"
        lungs, expected = (e.segmentation.run({"canvas": canvas})["lungs"] for e in (default, plain))
    assert np.abs(lungs - expected).max() < 0.2
    with open_engines(opened, device="cpu", precision="fp32") as chosen:
        assert chosen.precision == "fp32"
    again = add_int8(opened, [data / "films"], tmp_path / "again", num_films=6, limits=ANY)
    assert again == found
    assert (tmp_path / "again" / "MODEL_CARD.md").read_text().count("## INT8") == 1


def test_graphs_that_fail_give_layers_back_and_are_not_shipped(
    bundle: Bundle, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.int8_graphs._ROUNDS", {1: 2, 2: 2})
    steps: list[str] = []
    every = add_int8(bundle, [data / "films"], tmp_path / "every", num_films=4, limits=ANY)
    found = add_int8(bundle, [data / "films"], tmp_path, num_films=4, limits=NONE, on_step=steps.append)
    assert "layers of segmentation that suffer most" in steps
    assert found.quantised["segmentation"][0] == every.quantised["segmentation"][0] - 4
    opened = open_bundle(tmp_path, canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    assert all(graph.int8 is None for graph in opened.manifest.graphs.values())
    assert "not shipped: lung Dice" in opened.model_card


def test_the_segmentation_alone_is_shipped_where_only_the_classification_fails(
    bundle: Bundle, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.int8_graphs._ROUNDS", {1: 2, 2: 2})
    at_first: list[int] = []

    def failures(found: Int8Check, _: Int8Limits) -> dict[str, list[str]]:
        done, _convolutions = found.quantised["segmentation"]
        at_first.append(done)
        is_well = done < at_first[0] and not found.quantised["classification"][0]
        return {} if is_well else {"classification": ["it flips"]}

    monkeypatch.setattr(Int8Check, "failures", failures)
    found = add_int8(bundle, [data / "films"], tmp_path, num_films=4)
    assert found.quantised["classification"][0] == 0
    assert 0 < found.quantised["segmentation"][0] == at_first[0] - 4
    opened = open_bundle(tmp_path, canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    assert opened.graph("segmentation").int8
    assert not opened.graph("classification").int8
    for precision in ("auto", "int8") if has_int8_units() else ("int8",):
        with open_engines(opened, device="cpu", precision=precision) as engines:
            assert engines.segmentation.precision == "int8"
            assert engines.classification.precision in ("bf16", "fp32")
            assert engines.precision == f"int8+{engines.classification.precision}"


def test_the_classification_alone_is_shipped_where_the_segmentation_is_to_blame(
    bundle: Bundle, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the segmentation does to a crop flips decisions; no layer of the classification can help."""
    monkeypatch.setattr("training.int8_graphs._ROUNDS", {1: 1, 2: 1})

    def failures(found: Int8Check, _: Int8Limits) -> dict[str, list[str]]:
        return {"classification": ["it flips"]} if found.quantised["segmentation"][0] else {}

    monkeypatch.setattr(Int8Check, "failures", failures)
    steps: list[str] = []
    found = add_int8(bundle, [data / "films"], tmp_path, num_films=4, on_step=steps.append)
    assert "classification alone" in steps
    assert "segmentation alone" not in steps
    assert found.quantised["classification"][0] > 0
    opened = open_bundle(tmp_path, canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    assert opened.graph("classification").int8
    assert not opened.graph("segmentation").int8


def test_a_classification_is_taken_over_with_its_ranges_and_they_are_checked_again(
    bundle: Bundle, data: Path, tmp_path: Path
) -> None:
    films, runs = [data / "films"], data / "runs"
    add_int8(bundle, films, runs / "quantised", num_films=6, limits=ANY)
    held = open_bundle(runs / "quantised", canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    recipe = PackRecipe("segmentation", "quantised", cohorts=("films",), name="joined")
    joined = pack(recipe, data, runs, tmp_path / "joined")
    assert joined.read_graph("classification") == held.read_graph("classification")
    assert joined.read_ranges("classification") == held.read_ranges("classification")
    assert joined.read_ranges("segmentation") is None, "that was trained, not taken"
    assert f"Taken unchanged from bundle {held.title}." in joined.model_card
    assert "classification: not trained for this bundle" in joined.model_card
    assert "lung Dice, made" in joined.model_card, "figures of the segmentation that was trained"
    assert joined.manifest.licences == ("phantoms",)
    assert "not checked with this segmentation" in joined.model_card
    whole = pack(PackRecipe(None, "quantised", cohorts=("films",)), data, runs, tmp_path / "whole")
    assert whole.read_graph("segmentation") == held.read_graph("segmentation"), "its own, not the shipped one"
    found = add_int8(joined, films, tmp_path / "kept", limits=ANY, own_ranges=True)
    assert found.quantised["segmentation"][0] == 0 < found.quantised["classification"][0]
    kept = open_bundle(tmp_path / "kept", canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    assert kept.read_ranges("classification") == held.read_ranges("classification")
    assert "not checked with this segmentation" not in kept.model_card
    add_int8(joined, films, tmp_path / "dropped", limits=NONE, own_ranges=True)
    dropped = open_bundle(tmp_path / "dropped", canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    assert not dropped.has_int8
    with pytest.raises(ConfigError, match="holds no int8 ranges"):
        add_int8(bundle, films, tmp_path / "none", own_ranges=True)
    with pytest.raises(ConfigError, match="leave --check-only out"):
        add_int8(joined, films, tmp_path / "none", own_ranges=True, check_only=True)


def test_every_limit_has_its_say(bundle: Bundle, data: Path) -> None:
    judged = pl.read_parquet(data / "runs/classification/judged.parquet").filter(split="test")
    calibration = Calibration.parse(bundle.calibration, "calibration.json")
    same = check(judged, judged, calibration, {})
    assert same.failures(Int8Limits()) == {}
    # Far beyond any scaling that calibration found on four films.
    turned = judged.with_columns(logit_stage0=pl.lit(-1e6), logit_stage3=pl.lit(1e6))
    worse = check(judged, turned.with_columns(lung_dice=pl.col("lung_dice") - 0.01), calibration, {})
    assert "lung Dice falls by 0.0100" in worse.failures(Int8Limits())["segmentation"]
    assert any("stages flip" in text for text in worse.failures(Int8Limits())["classification"])
    losing = replace(same, stage_accuracy=(0.8, 0.7), diagnosis_accuracy=(0.9, 0.89))
    assert len(losing.failures(Int8Limits())["classification"]) == 2


def test_without_masks_it_cannot_be_told(bundle: Bundle, data: Path, tmp_path: Path) -> None:
    films = pl.read_parquet(data / "films" / "cohort.parquet")
    for name in ("canvas", "lungs"):
        (tmp_path / name).symlink_to(data / "films" / name)
    films.with_columns(lungs=pl.lit(None, pl.String)).write_parquet(tmp_path / "cohort.parquet")
    with pytest.raises(ConfigError, match="no lung masks"):
        add_int8(bundle, [tmp_path], tmp_path / "out", num_films=4)
