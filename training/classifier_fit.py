"""Cohorts and a classification recipe to crops, and to a classifier fitted on some of the films.

What `train classify`, `train compare` and `train curve` share, so that a setting of the recipe means the same
in all three. The decision a reader would question: labels and splits are looked over before the first crop is
made. A cohort that cannot be calibrated in the end would cost hours to find out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from engines.bundle import Bundle
from training.bundle_start import measure_folded, open_start, start_at_bundle
from training.checkpoints import average_of, refuse_seen_patients, segmentation_of, start_from
from training.classification_task import ClassificationRecipe, ClassificationTask, WeightedClassifier
from training.crops import CropFilms, concatenate, crop_cohort, read_cohort
from training.densenet import import_backbone, read_weights
from training.fit import FitResult, OnEpoch, OnStep, Trainer, settle_first
from training.label_checks import check_labels
from training.networks import LungCrop
from training.run_record import run_identity
from training.splits import PARTS, refuse_divided_patients

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class FittedClassifier:
    """A classifier after its last epoch."""

    trainer: Trainer
    task: ClassificationTask
    """Predicts at the side that was trained at."""
    result: FitResult


def start_of(recipe: ClassificationRecipe, data: Path, runs: Path) -> Bundle | None:
    """The bundle that a recipe starts from, before anything is cropped; None if it names none.

    Raises:
        ConfigError: as `open_start`, or a cohort that cannot be read.
        BundleError: a bundle that cannot be used.
    """
    if recipe.initial_bundle is None:
        return None
    held_out: set[str] = set()
    for name in recipe.cohorts:
        films = read_cohort(data / name)
        held_out |= set(films.filter(pl.col("split") != "train")["subject_id"])
    return open_start(recipe.initial_bundle, runs, recipe.network, held_out)


def crops_of(
    recipe: ClassificationRecipe, data: Path, runs: Path, cache: Path, parts: tuple[str, ...] = PARTS
) -> CropFilms:
    """Crops of every cohort of a recipe, made once.

    Args:
        recipe: cohorts, segmentation and the heads that are trained.
        data: folder that the cohorts are below.
        runs: folder that a segmentation run is below.
        cache: folder for the crops.
        parts: parts of the split that must not be empty.

    Raises:
        ConfigError: a cohort or network that cannot be used, a patient in two parts, a part without films, or
            labels of one class only where calibration needs both.
    """
    tables = pl.concat([read_cohort(data / name) for name in recipe.cohorts], how="diagonal_relaxed")
    refuse_divided_patients(tables)
    check_labels(tables, recipe.loss.tasks, parts)
    segmentation = segmentation_of(recipe.segmentation, runs)
    crop = LungCrop(recipe.network)
    made = [
        crop_cohort(data / name, segmentation, crop, cache / name.replace("/", "_"))
        for name in recipe.cohorts
    ]
    return concatenate(made) if len(made) > 1 else made[0]


def fit_classifier(
    recipe: ClassificationRecipe,
    films: CropFilms,
    folder: Path,
    *,
    train: Int64,
    validation: Int64,
    data: Path,
    runs: Path,
    start: Bundle | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> FittedClassifier:
    """Train a classifier from the weights that the recipe names, or continue the folder's checkpoint.

    Args:
        recipe: the run.
        films: crops and labels.
        folder: run folder.
        train: (N,) positions of the training films; every other film counts as held out.
        validation: (M,) positions of the films that choose the best checkpoint.
        data: folder that `initial_weights` is below.
        runs: folder that `initial_run` is below.
        start: bundle whose weights a run that has not begun starts from (`start_of`); row 0 of its metrics
            is what the bundle itself does on the validation films.
        on_epoch: told each epoch's figures.
        on_step: told each step.

    Raises:
        ConfigError: weights that do not fit or know held-out patients, or a checkpoint of another run.
    """
    torch.manual_seed(recipe.fit.seed)
    network = WeightedClassifier(recipe.network)
    if recipe.initial_weights is not None:
        import_backbone(network.classifier.backbone, read_weights(data / recipe.initial_weights))
    if recipe.initial_run is not None:
        others = np.setdiff1d(np.arange(len(films)), train)
        refuse_seen_patients(runs / recipe.initial_run, runs, films.films["subject_id"][others].to_list())
        start_from(network.classifier, average_of(runs / recipe.initial_run, "classifier."))
    folded = [] if start is None else start_at_bundle(network.classifier, start)
    task = ClassificationTask(
        films,
        train=train,
        validation=validation,
        loss=recipe.loss,
        train_side=recipe.train_side,
        augmentation=recipe.augmentation,
    )
    if folded:  # statistics as the bundle had them, else the first step would not start from its network
        measure_folded(network, [f"classifier.{name}" for name in folded], task, recipe.fit)
    else:
        settle_first(network, task, recipe.fit, folder)
    identity = run_identity(recipe, films.films["film_id"][train].to_list())
    trainer = Trainer(
        network,
        task,
        recipe.fit,
        folder,
        compiled=network.classifier.backbone,
        graphed=network.classifier,
        identity=identity,
    )
    if folded:
        trainer.rows.append({"epoch": 0.0, "seconds": 0.0, **task.evaluate(trainer.average)})
    return FittedClassifier(trainer, task, trainer.run(on_epoch, on_step))
