"""Runs that start from a bundle: the same network until the first step, and one that can be trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
import torch

from engines.bundle import Bundle, default_bundle, open_bundle
from screener.canvas import CANVAS_SIDE, CANVAS_VERSION
from screener.errors import ConfigError
from tests.test_training_fit import classification_task
from training.bundle_start import load_folded, measure_folded, open_start, start_at_bundle
from training.checkpoints import refuse_seen_patients
from training.classification_task import ClassificationRecipe, LossRecipe, WeightedClassifier
from training.commands import RECIPES
from training.cost_curve import CurveRecipe
from training.efforts import efforts
from training.export import fold_normalisation
from training.fit import normalisations
from training.networks import ClassificationConfig, LungClassifier
from training.own_films import ImportSettings, import_films
from training.recipe import FitRecipe, load_recipe
from training.restore import restore_networks
from training.runs import train_classification
from training.study import StudyRecipe

SMALL = ClassificationConfig(growth=2, crop_side=64, finding_maps=True)
SHIPPED = ClassificationConfig(crop_side=448, detail_px=19, surround_px=20, finding_maps=True)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(default_bundle(), canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)


@pytest.fixture
def folded() -> LungClassifier:
    """A network whose normalisations have seen something, folded."""
    torch.manual_seed(3)
    network = LungClassifier(SMALL)
    for module in normalisations(network):
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.normal_(0, 0.3)
        module.running_var.uniform_(0.3, 2)
        module.weight.data.uniform_(0.5, 1.5)
        module.bias.data.normal_(0, 0.2)
    fold_normalisation(network.eval())
    return network


def taken_apart(folded: LungClassifier) -> tuple[WeightedClassifier, list[str]]:
    network = WeightedClassifier(SMALL)
    names = load_folded(network.classifier, folded)
    assert len(names) == 1 + 58  # the stem's, and the second one of every dense layer
    return network, [f"classifier.{name}" for name in names]


@torch.no_grad()
@pytest.mark.parametrize("measured", [False, True])
def test_a_network_taken_apart_computes_the_same(folded: LungClassifier, measured: bool) -> None:
    network, names = taken_apart(folded)
    if measured:
        measure_folded(network, names, classification_task(), FitRecipe(batch_size=4))
    crop, lungs = torch.rand(2, 1, 64, 64), torch.ones(2, 2, 64, 64)
    for have, want in zip(network.classifier.eval()(crop, lungs), folded(crop, lungs), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_what_is_measured_is_what_the_films_give(folded: LungClassifier) -> None:
    """Mean and variance over all batches, of what flows into a normalisation."""
    network, names = taken_apart(folded)
    inputs: list[torch.Tensor] = []
    watched = network.get_submodule(names[1])
    assert isinstance(watched, torch.nn.BatchNorm2d)
    hook = watched.register_forward_pre_hook(lambda _, given: inputs.append(given[0].clone()))
    measure_folded(network, names, classification_task(), FitRecipe(batch_size=4))
    hook.remove()
    assert len(inputs) == 3
    whole = torch.cat(inputs)
    variance = whole.var((0, 2, 3), correction=0)
    torch.testing.assert_close(watched.running_mean, whole.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(watched.running_var, variance, rtol=1e-3, atol=1e-5)
    assert (variance - 1).abs().min() > 0.01, "else nothing was measured"


@torch.no_grad()
def test_the_bundle_that_ships_is_taken_up_whole(bundle: Bundle) -> None:
    network = LungClassifier(SHIPPED)
    start_at_bundle(network, bundle)
    wanted = restore_networks(bundle)[1].classifier
    crop, lungs = torch.rand(1, 1, 448, 448), torch.ones(1, 2, 448, 448)
    for have, want in zip(network.eval()(crop, lungs), wanted(crop, lungs), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-3)


def test_what_cannot_be_a_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="detail_px is 19"):
        open_start("shipped", tmp_path, replace(SHIPPED, detail_px=9), ["q1"])
    with pytest.raises(ConfigError, match=r"initial_bundle absent: .* random weights"):
        open_start("absent", tmp_path, SHIPPED, ["q1"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").touch()
    with pytest.raises(ConfigError, match="name it in initial_run"):
        open_start("run", tmp_path, SHIPPED, ["q1"])
    with pytest.raises(ConfigError, match="name one of them"):
        ClassificationRecipe(initial_run="a", initial_bundle="b")
    started = ClassificationRecipe(initial_bundle="shipped")
    with pytest.raises(ConfigError, match="no comparison"):
        StudyRecipe(classification=started)
    with pytest.raises(ConfigError, match="one width only"):
        CurveRecipe(classification=started)


def test_patients_that_the_shipped_bundle_may_know_are_not_held_out(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"2 patients .* ChestX-ray14"):
        open_start("shipped", tmp_path, SHIPPED, ["q1", "nih_12", "nih_345"])
    # By another name the bundle is the same.
    with pytest.raises(ConfigError, match=r"1 patients .* ChestX-ray14"):
        open_start(str(bundle.path), tmp_path, SHIPPED, ["nih_12"])
    # And a run that started from it knows what it knew.
    run = tmp_path / "first"
    run.mkdir()
    (run / "recipe.toml").write_text('initial_bundle = "shipped"\n')
    (run / "split.csv").write_text("film,patient,part\nf,q1,train\n")
    facts = {"initial_bundle": {"model_sha256": bundle.model_sha256}}
    (run / "run.json").write_text(json.dumps(facts))
    refuse_seen_patients(run, tmp_path, ["q2"])
    with pytest.raises(ConfigError, match="ChestX-ray14"):
        refuse_seen_patients(run, tmp_path, ["q2", "nih_12"])


def hospital(folder: Path) -> ClassificationRecipe:
    """A cohort of a dozen made pictures, and the recipe for own films at a size for a test."""
    rng = np.random.default_rng(0)
    rows = ["file,patient,stage,tb,split"]
    for number in range(12):
        cv2.imwrite(str(folder / f"{number}.png"), rng.integers(0, 255, (96, 96), np.uint8))
        part = ("train", "calibration", "test")[number % 3]
        rows.append(f"{number}.png,p{number},{number // 3},{number // 3 % 2},{part}")
    (folder / "readings.csv").write_text("\n".join(rows) + "\n")
    import_films(folder / "readings.csv", folder / "own", ImportSettings())
    shipped = load_recipe(RECIPES / "classification-own.toml", ClassificationRecipe)
    assert shipped.initial_bundle == "shipped"
    assert shipped.network == SHIPPED
    fit = replace(shipped.fit, epochs=1, batch_size=4, precision="32-true", accelerator="cpu")
    return replace(shipped, train_side=64, loss=LossRecipe(tasks=("diagnosis", "stage")), fit=fit)


def test_a_hospital_goes_on_from_the_bundle_that_ships(bundle: Bundle, tmp_path: Path) -> None:
    """The run begins as the bundle and says so in its record; another run may begin where it ended."""
    recipe = hospital(tmp_path)
    assert recipe.fit.freeze_statistics
    result = train_classification(recipe, tmp_path, tmp_path, tmp_path / "mine")
    assert np.isfinite(result.metrics["score"])
    told = pl.read_parquet(tmp_path / "mine" / "metrics.parquet")
    assert told["epoch"].to_list() == [0, 1]
    assert told["score"].null_count() == 0
    said = json.loads((tmp_path / "mine" / "run.json").read_text())["initial_bundle"]
    assert said["model_sha256"] == bundle.model_sha256
    assert said["simulated"]
    (line, ended) = efforts(None, "mine", tmp_path, tmp_path)
    assert line.startswith("* classification: 1 epochs")
    assert said["bundle"] in ended
    assert "is not checked" in ended
    again = replace(recipe, initial_bundle=None, initial_run="mine")
    train_classification(again, tmp_path, tmp_path, tmp_path / "second")
    assert json.loads((tmp_path / "second" / "run.json").read_text())["initial_bundle"] == said


def test_a_run_that_began_from_a_bundle_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    recipe = hospital(tmp_path)
    longer = replace(recipe, fit=replace(recipe.fit, epochs=2))
    train_classification(recipe, tmp_path, tmp_path, tmp_path / "mine")
    first = torch.load(tmp_path / "mine" / "last.pt", weights_only=True)["average"]
    train_classification(recipe, tmp_path, tmp_path, tmp_path / "mine")
    same = torch.load(tmp_path / "mine" / "last.pt", weights_only=True)["average"]
    assert all(torch.equal(same[name], first[name]) for name in first)
    train_classification(longer, tmp_path, tmp_path, tmp_path / "mine")
    assert pl.read_parquet(tmp_path / "mine" / "metrics.parquet")["epoch"].to_list() == [0, 1, 2]
