"""A recipe and folders to a finished run: the functions behind `screener train segmentation` and `classify`.

A run folder holds everything that a reader of its figures needs: resolved recipe, commit, versions, split,
metrics of every epoch, learning curves, predictions on the held-out part and the networks. The decision a
reader would question: the moving average of the weights is what is evaluated and exported, not the last
step's weights. It costs nothing, and short runs end several points better.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import nn

from screener.errors import ConfigError
from training.classification_task import (
    ClassificationRecipe,
    ClassificationTask,
    Predictions,
    WeightedClassifier,
)
from training.crops import CropFilms, concatenate, crop_cohort
from training.curves import draw_curves
from training.densenet import import_backbone, read_weights
from training.fit import FitResult, OnEpoch, Trainer, describe_run, settle_statistics
from training.networks import ClassificationNetwork, LungCrop, SegmentationNetwork
from training.recipe import load_recipe
from training.segmentation_data import (
    SegmentationFilms,
    gather,
    parts_of,
    read_cohort_films,
    read_films,
    read_pairs,
)
from training.segmentation_task import (
    PooledSegmentation,
    SegmentationRecipe,
    SegmentationTask,
    held_out_dice,
)
from training.splits import write_split


def train_segmentation(
    recipe: SegmentationRecipe, data: Path, folder: Path, *, on_epoch: OnEpoch | None = None
) -> FitResult:
    """Train the segmentation network.

    Args:
        recipe: the run.
        data: folder that the recipe's paths are below.
        folder: run folder; a run found there is continued.
        on_epoch: called with each epoch's metrics.

    Raises:
        ConfigError: an index that cannot be used; names file and row.
    """
    describe_run(folder, recipe)
    films = read_pairs(data / recipe.pairs)
    if recipe.films is not None:
        films += read_films(data / recipe.films)[:: recipe.every_film]
    phantoms = [film for name in recipe.cohorts for film in read_cohort_films(data / name, "train")]
    everything = gather(films)
    parts = parts_of(everything, seed=recipe.fit.seed)
    names = [f"{i:05d}_{source}" for i, source in enumerate(everything.sources)]
    write_split(folder / "split.csv", names, list(everything.patients), list(parts))
    train = repeated(everything.take(parts == "train"), recipe.repeat_real)
    if phantoms:
        train = train.joined(gather(phantoms[:: recipe.every_phantom]))
    torch.manual_seed(recipe.fit.seed)
    network = PooledSegmentation(SegmentationNetwork(recipe.network))
    if recipe.initial_run is not None:
        network.network.load_state_dict(average_of(data / recipe.initial_run, "network."))
    validation = everything.take(parts == "calibration")
    if not len(validation) or not len(train):
        raise ConfigError(
            f"{len(everything)} films are too few to split into training and validation patients"
        )
    task = SegmentationTask(train, validation, recipe.augmentation)
    result = Trainer(network, task, recipe.fit, folder).run(on_epoch)
    draw_curves(folder / "metrics.parquet", folder / "curves.png")
    test = everything.take(parts == "test")
    unseen = [film for name in recipe.cohorts for film in read_cohort_films(data / name, "test")]
    if unseen:
        test = test.joined(gather(unseen))
    held_out_dice(load_segmentation(folder), test).write_parquet(folder / "test.parquet")
    return result


def repeated(films: SegmentationFilms, times: int) -> SegmentationFilms:
    """Films with real masks `times` times, so that films without masks do not crowd them out."""
    once, again = np.flatnonzero(~films.has_mask), np.flatnonzero(films.has_mask)
    return films.at(np.concatenate([once, *([again] * times)]))


def average_of(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Averaged weights of a run's last checkpoint, without the prefix of the training module."""
    try:
        held = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"run {folder.name} has no checkpoint; train it first") from error
    return {k.removeprefix(prefix): v for k, v in held["average"].items() if k.startswith(prefix)}


def start_from(network: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load another run's weights; parts that it did not have keep their fresh ones.

    Raises:
        ConfigError: a weight that the network has no place for, or of another shape.
    """
    try:
        unknown = network.load_state_dict(weights, strict=False).unexpected_keys
    except RuntimeError as error:
        raise ConfigError("the run to start from has a network of another shape") from error
    if unknown:
        raise ConfigError(f"the run to start from has weights of another network: {unknown[0]}")


def load_segmentation(folder: Path) -> SegmentationNetwork:
    """The segmentation network of a run, in evaluation mode."""
    recipe = load_recipe(folder / "recipe.toml", SegmentationRecipe)
    network = SegmentationNetwork(recipe.network)
    network.load_state_dict(average_of(folder, "network."))
    return network.eval()


def load_classification(folder: Path) -> ClassificationNetwork:
    """The classification network of a run, in evaluation mode."""
    recipe = load_recipe(folder / "recipe.toml", ClassificationRecipe)
    network = ClassificationNetwork(recipe.network)
    network.classifier.load_state_dict(average_of(folder, "classifier."))
    return network.eval()


def crops_of(recipe: ClassificationRecipe, data: Path, runs: Path, cache: Path) -> CropFilms:
    """Crops of every cohort of a recipe, made once."""
    segmentation = load_segmentation(runs / recipe.segmentation)
    crop = LungCrop(recipe.network)
    parts = [
        crop_cohort(data / name, segmentation, crop, cache / name.replace("/", "_"))
        for name in recipe.cohorts
    ]
    return concatenate(parts) if len(parts) > 1 else parts[0]


def train_classification(
    recipe: ClassificationRecipe,
    data: Path,
    runs: Path,
    folder: Path,
    *,
    on_epoch: OnEpoch | None = None,
) -> FitResult:
    """Train the classification network on cohorts and write its predictions on the held-out parts.

    Args:
        recipe: the run.
        data: folder that the cohorts are below.
        runs: folder that holds the segmentation run.
        folder: run folder; a run found there is continued.
        on_epoch: called with each epoch's metrics.

    Raises:
        ConfigError: a cohort or run that cannot be used.
    """
    describe_run(folder, recipe)
    films = crops_of(recipe, data, runs, folder.parent / "crops")
    names, subjects, parts = (films.films[name].to_list() for name in ("film_id", "subject_id", "split"))
    write_split(folder / "split.csv", names, subjects, parts)
    torch.manual_seed(recipe.fit.seed)
    network = WeightedClassifier(recipe.network)
    if recipe.initial_weights is not None:
        import_backbone(network.classifier.backbone, read_weights(data / recipe.initial_weights))
    if recipe.initial_run is not None:
        start_from(network.classifier, average_of(runs / recipe.initial_run, "classifier."))
    task = ClassificationTask(
        films,
        train=films.part("train"),
        validation=films.part("calibration"),
        loss=recipe.loss,
        train_side=recipe.train_side,
    )
    if recipe.fit.freeze_statistics and not (folder / "last.pt").exists():
        settle_statistics(network, task, recipe.fit)
    trainer = Trainer(network, task, recipe.fit, folder, compiled=network.classifier.backbone)
    result = trainer.run(on_epoch)
    draw_curves(folder / "metrics.parquet", folder / "curves.png")
    # Judged at the crop's full side whatever side it was trained at: that is what is exported.
    task = ClassificationTask(
        films, train=films.part("train"), validation=films.part("calibration"), loss=recipe.loss
    )
    for part in ("calibration", "test"):
        places = films.part(part)
        found = task.predict(trainer.average, places)
        predictions_table(films, places, found).write_parquet(folder / f"predictions_{part}.parquet")
    return result


def predictions_table(films: CropFilms, places: npt.NDArray[np.int64], found: Predictions) -> pl.DataFrame:
    """The cohort's rows of some films with the logits beside their labels."""
    columns = {
        "logit_pneumoconiosis": found.diagnosis[:, 0],
        "logit_tb": found.diagnosis[:, 1],
        **{f"logit_stage{k}": found.stage[:, k] for k in range(4)},
        **{f"logit_zone{z}_{k}": found.zones[:, z, k] for z in range(6) for k in range(4)},
    }
    return films.films[places].with_columns(**{name: pl.Series(value) for name, value in columns.items()})


def single_task(recipe: ClassificationRecipe, tasks: tuple[str, ...]) -> ClassificationRecipe:
    """The same run with other heads trained."""
    unknown = sorted(set(tasks) - {"diagnosis", "stage", "zones"})
    if unknown or not tasks:
        raise ConfigError(f"tasks {', '.join(unknown) or 'none'}: expected diagnosis, stage, zones")
    return replace(recipe, loss=replace(recipe.loss, tasks=tasks))


def count_parameters(network: nn.Module) -> int:
    """Weights of a network."""
    return sum(parameter.numel() for parameter in network.parameters())
