"""Runs that start from a bundle: the same network until the first step, and one that can be trained."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from engines.bundle import Bundle, default_bundle, open_bundle
from screener.canvas import CANVAS_SIDE, CANVAS_VERSION
from screener.errors import ConfigError
from tests.test_training_fit import classification_task
from training.bundle_start import load_folded, measure_folded, start_at_bundle, start_facts
from training.classification_task import ClassificationRecipe, LossRecipe, WeightedClassifier
from training.commands import RECIPES
from training.efforts import efforts
from training.export import fold_normalisation
from training.fit import normalisations
from training.networks import (
    ClassificationConfig,
    LungClassifier,
    SegmentationConfig,
    SegmentationNetwork,
)
from training.own_films import ImportSettings, import_films
from training.recipe import FitRecipe, load_recipe
from training.restore import restore_networks
from training.runs import train_classification

SMALL = ClassificationConfig(growth=2, crop_side=64, finding_maps=True)
SHIPPED = ClassificationConfig(finding_maps=True)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_bundle(default_bundle(), canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)


def lived(network: nn.Module) -> nn.Module:
    """A network whose normalisations have seen something."""
    torch.manual_seed(3)
    for module in normalisations(network):
        module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
        module.running_var.uniform_(0.3, 2)  # type: ignore[union-attr]
        module.weight.data.uniform_(0.5, 1.5)
        module.bias.data.normal_(0, 0.2)
    return network.eval()


@torch.no_grad()
def test_a_folded_network_computes_the_same_before_and_after_it_is_measured() -> None:
    folded = lived(LungClassifier(SMALL))
    fold_normalisation(folded)
    task = classification_task()
    network = WeightedClassifier(SMALL)
    names = load_folded(network.classifier, folded)
    crop, lungs = torch.rand(2, 1, 64, 64), torch.ones(2, 2, 64, 64)
    wanted = folded(crop, lungs)
    assert len(names) == 1 + 58  # the stem's, and the second one of every dense layer
    for measured in (False, True):
        if measured:
            recipe = FitRecipe(batch_size=4)
            measure_folded(network, [f"classifier.{name}" for name in names], task, recipe)
        for have, want in zip(network.classifier.eval()(crop, lungs), wanted, strict=True):
            torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_measured_statistics_are_those_of_the_films() -> None:
    """With a batch's own statistics, as in training, the network still computes nearly the same."""
    folded = lived(SegmentationNetwork(SegmentationConfig(base=4, depth=1)))
    fold_normalisation(folded)
    network = SegmentationNetwork(SegmentationConfig(base=4, depth=1))
    names = load_folded(network, folded)
    pictures = torch.rand(16, 1, 64, 64)

    class Pictures:
        num_train = 16

        def loss(self, network: nn.Module, indices: torch.Tensor, _: torch.Generator) -> None:
            network.logits(pictures[indices])  # type: ignore[operator]

    wanted, _ = network.eval().logits(pictures)
    unmeasured, _ = copy.deepcopy(network).train().logits(pictures)
    measure_folded(network, names, Pictures(), FitRecipe(batch_size=16))  # type: ignore[arg-type]
    measured, _ = network.train().logits(pictures)
    assert (measured - wanted).abs().max() < 0.05 * wanted.std()
    assert (unmeasured - wanted).abs().max() > 0.5 * wanted.std()


@torch.no_grad()
def test_the_bundle_that_ships_is_taken_up_whole(bundle: Bundle, tmp_path: Path) -> None:
    network = LungClassifier(SHIPPED)
    start_at_bundle(network, "shipped", tmp_path, ["own"])
    found_lungs, found = restore_networks(bundle)
    crop, lungs = torch.rand(1, 1, 384, 384), torch.ones(1, 2, 384, 384)
    for have, want in zip(network.eval()(crop, lungs), found.classifier(crop, lungs), strict=True):
        torch.testing.assert_close(have, want, rtol=1e-3, atol=1e-3)
    segmentation = SegmentationNetwork(SegmentationConfig())
    start_at_bundle(segmentation, "shipped", tmp_path, ["own"])
    canvas = torch.rand(1, 1, 768, 768)
    torch.testing.assert_close(segmentation.eval()(canvas)[0], found_lungs(canvas)[0], rtol=1e-3, atol=1e-3)


def test_what_cannot_be_a_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="detail_px is 17"):
        start_at_bundle(LungClassifier(replace(SHIPPED, detail_px=9)), "shipped", tmp_path, ["own"])
    with pytest.raises(ConfigError, match="trained on films of nih"):
        start_at_bundle(LungClassifier(SHIPPED), "shipped", tmp_path, ["own", "nih"])
    with pytest.raises(ConfigError, match="neither a trained run nor a bundle"):
        start_at_bundle(LungClassifier(SHIPPED), "absent", tmp_path, ["own"])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").touch()
    with pytest.raises(ConfigError, match="initial_run"):
        start_at_bundle(LungClassifier(SHIPPED), "run", tmp_path, ["own"])
    with pytest.raises(ConfigError, match="one of them"):
        ClassificationRecipe(initial_run="a", initial_bundle="b")
    other = LungClassifier(replace(SMALL, growth=3))
    fold_normalisation(other.eval())
    with pytest.raises(ConfigError, match="another shape"):
        load_folded(LungClassifier(SMALL), other)
    assert start_facts(None, tmp_path) == {}


def test_a_hospital_goes_on_from_the_bundle_that_ships(tmp_path: Path) -> None:
    """The recipe for own films, on a handful of made pictures: the run says what it started from."""
    rng = np.random.default_rng(0)
    rows = ["file,patient,stage,tb,split"]
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number}.png"), rng.integers(0, 255, (96, 96), np.uint8))
        part = ("train", "calibration", "test")[number % 3]
        rows.append(f"{number}.png,p{number},{number // 3},{number // 3 % 2},{part}")
    (tmp_path / "readings.csv").write_text("\n".join(rows) + "\n")
    import_films(tmp_path / "readings.csv", tmp_path / "own", ImportSettings())
    shipped = load_recipe(RECIPES / "classification-own.toml", ClassificationRecipe)
    assert shipped.initial_bundle == "shipped"
    assert shipped.network == SHIPPED
    recipe = replace(
        shipped,
        train_side=64,
        loss=LossRecipe(tasks=("diagnosis", "stage")),
        fit=FitRecipe(epochs=1, batch_size=4, precision="32-true", accelerator="cpu"),
    )
    result = train_classification(recipe, tmp_path, tmp_path, tmp_path / "mine")
    assert np.isfinite(result.metrics["score"])
    said = json.loads((tmp_path / "mine" / "run.json").read_text())["initial_bundle"]
    assert said.startswith("demo ")
    (line, ended) = efforts(None, "mine", tmp_path, tmp_path)
    assert line.startswith("* classification: 1 epochs")
    assert said in ended
    assert "is not checked" in ended
