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

from screener.errors import ConfigError
from training.bundle_start import inherited_start, start_facts
from training.checkpoints import (
    average_of,
    blend,
    load_classification,
    load_segmentation,
    refuse_seen_patients,
)
from training.classification_task import ClassificationRecipe, ClassificationTask, Predictions
from training.classifier_fit import crops_of, fit_classifier, start_of
from training.cohort import made_parts
from training.crops import CropFilms
from training.curves import draw_curves
from training.fit import FitResult, OnEpoch, OnStep, Trainer, settle_first
from training.networks import SegmentationNetwork
from training.origin import cohort_facts
from training.run_record import describe_run, run_identity
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
from training.splits import PARTS, write_split

__all__ = [
    "dealt_films",
    "load_classification",
    "load_segmentation",
    "predictions_table",
    "repeated",
    "single_task",
    "thinned",
    "train_classification",
    "train_segmentation",
    "training_films",
    "write_dealt",
]


def train_segmentation(
    recipe: SegmentationRecipe,
    data: Path,
    folder: Path,
    *,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> FitResult:
    """Train the segmentation network.

    Args:
        recipe: the run.
        data: folder that the recipe's paths are below.
        folder: run folder; a run found there is continued.
        on_epoch: called with each epoch's metrics.
        on_step: called after each step.

    Raises:
        ConfigError: an index that cannot be used (names file and row), or the folder holds another run.
    """
    everything, parts = dealt_films(recipe, data)
    phantoms = [film for name in recipe.cohorts for film in read_cohort_films(data / name, "train")]
    validation, test = everything.take(parts == "calibration"), everything.take(parts == "test")
    train = training_films(recipe, everything, parts)
    if not len(validation) or not len(train) or not len(test):
        raise ConfigError(
            f"{len(everything)} films are too few to split into training, validation and test patients"
        )
    if phantoms:
        train = train.joined(gather(phantoms[:: recipe.every_phantom]))
    torch.manual_seed(recipe.fit.seed)
    network = PooledSegmentation(SegmentationNetwork(recipe.network))
    if recipe.initial_run is not None:
        start = data / recipe.initial_run
        refuse_seen_patients(start, data, [*validation.patients, *test.patients])
        network.network.load_state_dict(average_of(start, "network."))
    began = {name: weight.clone() for name, weight in network.state_dict().items()}
    describe_run(folder, recipe)
    blend(folder, began, 0.0)  # of an earlier, shorter training
    write_dealt(folder, everything, parts)
    task = SegmentationTask(train, validation, recipe.augmentation)
    settle_first(network, task, recipe.fit, folder)
    shown = [f"{source}/{patient}" for source, patient in zip(train.sources, train.patients, strict=True)]
    identity = run_identity(recipe, shown)
    result = Trainer(network, task, recipe.fit, folder, identity=identity).run(on_epoch, on_step)
    draw_curves(folder / "metrics.parquet", folder / "curves.png")
    blend(folder, began, recipe.start_share)
    unseen = [film for name in recipe.cohorts for film in read_cohort_films(data / name, "test")]
    if unseen:
        test = test.joined(gather(unseen))
    held_out_dice(load_segmentation(folder), test).write_parquet(folder / "test.parquet")
    return result


def dealt_films(recipe: SegmentationRecipe, data: Path) -> tuple[SegmentationFilms, npt.NDArray[np.str_]]:
    """Every film of a recipe's indexes, and (N,) the part of the split that each is in.

    Raises:
        ConfigError: an index that cannot be used; names file and row.
    """
    films = read_pairs(data / recipe.pairs)
    if recipe.films is not None:
        films += read_films(data / recipe.films, prefixes=recipe.film_prefixes)
    everything = gather(films)
    return everything, parts_of(everything, seed=recipe.fit.seed)


def training_films(
    recipe: SegmentationRecipe, everything: SegmentationFilms, parts: npt.NDArray[np.str_]
) -> SegmentationFilms:
    """The training part as an epoch sees it, without phantoms.

    Thinned after the split: a run and the one that it starts from must agree on who is held out.
    """
    return repeated(thinned(everything.take(parts == "train"), recipe.every_film), recipe.repeat_real)


def write_dealt(folder: Path, everything: SegmentationFilms, parts: npt.NDArray[np.str_]) -> None:
    """Write who is where into a run folder's `split.csv`."""
    names = [f"{i:05d}_{source}" for i, source in enumerate(everything.sources)]
    write_split(folder / "split.csv", names, list(everything.patients), list(parts))


def thinned(films: SegmentationFilms, every: int) -> SegmentationFilms:
    """All films with real masks, and one in `every` of the others."""
    kept = films.has_mask.copy()
    kept[np.flatnonzero(~films.has_mask)[::every]] = True
    return films.take(kept)


def repeated(films: SegmentationFilms, times: int) -> SegmentationFilms:
    """Films with real masks `times` times, so that films without masks do not crowd them out."""
    once, again = np.flatnonzero(~films.has_mask), np.flatnonzero(films.has_mask)
    return films.at(np.concatenate([once, *([again] * times)]))


def train_classification(
    recipe: ClassificationRecipe,
    data: Path,
    runs: Path,
    folder: Path,
    *,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> FitResult:
    """Train the classification network on cohorts and write its predictions on the held-out parts.

    Args:
        recipe: the run.
        data: folder that the cohorts are below.
        runs: folder that the segmentation run, or bundle, is below.
        folder: run folder; a run found there is continued.
        on_epoch: called with each epoch's metrics.
        on_step: called after each step.

    Raises:
        ConfigError: a cohort or run that cannot be used, or the folder holds another run.
    """
    begun = (folder / "last.pt").exists()
    start = None if begun else start_of(recipe, data, runs)
    made = {part for name in recipe.cohorts for part in made_parts(data / name)}
    parts = tuple(part for part in PARTS if part in made or part != "test")
    films = crops_of(recipe, data, runs, folder.parent / "crops", parts)
    train, validation = films.part("train"), films.part("calibration")
    began = start_facts(start) if start else inherited_start(recipe.initial_run, runs)
    describe_run(folder, recipe, cohort_facts(films.films) | began)
    names, subjects, dealt = (films.films[name].to_list() for name in ("film_id", "subject_id", "split"))
    write_split(folder / "split.csv", names, subjects, dealt)
    fitted = fit_classifier(
        recipe,
        films,
        folder,
        train=train,
        validation=validation,
        data=data,
        runs=runs,
        start=start,
        on_epoch=on_epoch,
        on_step=on_step,
    )
    draw_curves(folder / "metrics.parquet", folder / "curves.png")
    # Judged at the crop's full side whatever side it was trained at: that is what is exported.
    task = ClassificationTask(films, train=train, validation=validation, loss=recipe.loss)
    for part in ("calibration", "test"):
        places = films.part(part)
        if part not in parts:  # its films are made and judged elsewhere
            continue
        found = task.predict(fitted.trainer.average, places)
        predictions_table(films, places, found).write_parquet(folder / f"predictions_{part}.parquet")
    return fitted.result


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
