"""What training on a GPU relies on, held on a processor; tests marked `gpu` run the device's own side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
import torch

from screener.errors import ConfigError
from tests.gpu import gpu_or_skip
from tests.test_cohort import host_list
from tests.test_training_fit import CPU, TINY, crop_films, lung_films
from training.augmentation import mirror
from training.classification_task import (
    ClassificationTask,
    CropAugmentation,
    LossRecipe,
    WeightedClassifier,
)
from training.cohort import build, made_parts
from training.cohort_deal import CohortSettings
from training.crop_store import CropStore
from training.fit import Trainer, seeded
from training.recipe import FitRecipe
from training.runs import repeated, thinned
from training.segmentation_data import gather, parts_of, read_films, read_pairs
from training.splits import PARTS


def test_a_part_made_apart_holds_the_films_of_the_whole(tmp_path: Path) -> None:
    settings = CohortSettings(20, seed=7, films=host_list(tmp_path), real_share=0.5, other_share=0.0)
    whole, some = tmp_path / "whole", tmp_path / "some"
    build(whole, settings, workers=1)
    build(some, replace(settings, parts=("calibration", "test")), workers=1)
    expected = pl.read_parquet(whole / "cohort.parquet").filter(pl.col("split") != "train")
    found = pl.read_parquet(some / "cohort.parquet")
    assert found.height
    assert found.equals(expected)
    for path in found["canvas"]:
        assert (some / path).read_bytes() == (whole / path).read_bytes()
    assert made_parts(whole) == PARTS
    assert made_parts(some) == ("calibration", "test")
    with pytest.raises(ConfigError, match="another cohort"):
        build(some, settings, workers=1)


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="--parts train,held_out"):
        CohortSettings(5, parts=("train", "held_out"))


def test_stages_of_a_segmentation_agree_on_who_is_held_out(tmp_path: Path) -> None:
    """Stages take other shares of the films without masks: the split must not depend on the share."""
    lines = ["file,view,orientation,licence,patient_group"]
    films = lung_films(1)
    for number in range(40):
        cv2.imwrite(str(tmp_path / f"nih_{number}.png"), films.pictures[0])
        lines.append(f"nih_{number}.png,PA,upright,free,p{number}")
    cv2.imwrite(str(tmp_path / "mask.png"), (films.masks[0] > 0).astype(np.uint8) * 255)
    (tmp_path / "films.csv").write_text("\n".join(lines) + "\n")
    pairs = ["image,mask,convention,patient_group"]
    pairs += [f"nih_{number}.png,mask.png,anatomical,m{number}" for number in range(10)]
    (tmp_path / "pairs.csv").write_text("\n".join(pairs) + "\n")
    everything = gather(read_pairs(tmp_path / "pairs.csv") + read_films(tmp_path / "films.csv"))
    train = everything.take(parts_of(everything, seed=1) == "train")
    few, many = (repeated(thinned(train, every), 2) for every in (8, 2))
    assert set(few.patients) < set(many.patients) <= set(train.patients)
    assert {p for p in few.patients if p.startswith("m")} == {p for p in train.patients if p.startswith("m")}


def test_a_mirrored_film_exchanges_its_lungs() -> None:
    lungs = torch.arange(2 * 2 * 3 * 4, dtype=torch.float32).reshape(2, 2, 3, 4)
    found = mirror(lungs, torch.tensor([True, False]), sides=True)
    assert torch.equal(found[1], lungs[1])
    assert torch.equal(found[0, 0], lungs[0, 1].flip(1))
    assert torch.equal(mirror(found, torch.tensor([True, False]), sides=True), lungs)


def test_a_mirrored_film_is_graded_by_its_mirrored_labels() -> None:
    """A film and its mirror image, each with its own labels, must cost the same."""
    films = crop_films()
    task = ClassificationTask(films, train=np.arange(16), validation=np.arange(4), loss=LossRecipe())
    places = torch.arange(16)
    diagnosis, stage = torch.zeros(16, 2), torch.zeros(16, 4)
    zones = torch.randn((16, 6, 4), generator=seeded(3))
    plain = task._terms(diagnosis, stage, zones, places)
    mirrored = task._terms(diagnosis, stage, zones.roll(3, dims=1), places, torch.ones(16) > 0)
    assert torch.allclose(plain["zones"], mirrored["zones"])
    uneven = films.films.with_columns(ru=pl.lit(3), lu=pl.lit(0))
    other = ClassificationTask(
        replace(films, films=uneven), train=np.arange(16), validation=np.arange(4), loss=LossRecipe()
    )
    wrong = other._terms(diagnosis, stage, zones, places, torch.ones(16) > 0)["zones"]
    assert not torch.allclose(wrong, other._terms(diagnosis, stage, zones, places)["zones"])


def test_without_mirroring_a_step_is_what_it_was() -> None:
    """Recipes without the setting draw nothing for it: a run that was started before it can go on."""
    losses = []
    for augmentation in (None, CropAugmentation(), CropAugmentation(mirrored=1.0)):
        task = ClassificationTask(
            crop_films(),
            train=np.arange(16),
            validation=np.arange(4),
            loss=LossRecipe(),
            augmentation=augmentation,
        )
        torch.manual_seed(0)
        terms = task.loss(WeightedClassifier(TINY), torch.arange(8), seeded(1)).terms
        losses.append(terms["loss"])
    assert losses[0] == losses[1] != losses[2]


def test_cuda_graphs_are_nothing_on_a_processor(tmp_path: Path) -> None:
    weights = []
    for graphs in (False, True):
        torch.manual_seed(0)
        task = ClassificationTask(
            crop_films(), train=np.arange(16), validation=np.arange(4), loss=LossRecipe()
        )
        network = WeightedClassifier(TINY)
        trainer = Trainer(network, task, replace(CPU, epochs=1, cuda_graphs=graphs), tmp_path / f"{graphs}")
        trainer.run()
        weights.append(torch.cat([value.flatten() for value in network.parameters()]))
    assert torch.equal(weights[0], weights[1])


def test_compiling_and_graphs_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="compile or cuda_graphs"):
        FitRecipe(compile=True, cuda_graphs=True)


@pytest.mark.gpu
def test_films_on_the_device_are_those_of_the_processor() -> None:
    gpu = gpu_or_skip()
    films, places = crop_films(), np.array([3, 0, 11])
    store = CropStore(films)
    held = store.pictures(places, torch.device("cuda", gpu.index))
    assert store._held, "so few bytes fit"
    for here, there in zip(CropStore(films).pictures(places, torch.device("cpu")), held, strict=True):
        assert torch.allclose(here, there.cpu())


@pytest.mark.gpu
def test_graphs_train_as_single_launches_do(tmp_path: Path) -> None:
    gpu_or_skip()
    losses = []
    for graphs in (False, True):
        torch.manual_seed(0)
        task = ClassificationTask(
            crop_films(), train=np.arange(16), validation=np.arange(4), loss=LossRecipe()
        )
        network = WeightedClassifier(TINY)
        recipe = replace(CPU, accelerator="cuda", cuda_graphs=graphs)
        trainer = Trainer(network, task, recipe, tmp_path / f"{graphs}", graphed=network.classifier)
        trainer.run()
        losses.append([row["loss"] for row in trainer.rows])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
