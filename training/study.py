"""Single- versus multi-task training on the same folds: predictions of every fold, tests side by side.

Diagnosis alone, stage alone, and both on a shared backbone, with the same films, seeds, epochs and budget.
The decision a reader would question: the test part of the cohort is locked away and judged once by the
networks of the first fold, for McNemar and the bootstrap; folds divide the training part only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from screener.errors import ConfigError
from training.classification_task import ClassificationRecipe, Predictions
from training.classifier_fit import crops_of, fit_classifier
from training.comparison import (
    Comparison,
    Interval,
    Test,
    adjusted,
    comparison_markdown,
    comparison_table,
    conclusion,
    corrected_t,
    mcnemar,
    paired_t,
    patient_bootstrap,
)
from training.crops import MISSING, CropFilms
from training.fit import seeded
from training.metrics import classification_metrics
from training.run_record import describe_run
from training.study_locked import CLUSTERING, locked_markdown, locked_table

WAYS: dict[str, tuple[str, ...]] = {
    "diagnosis": ("diagnosis",),
    "stage": ("stage",),
    "multi-task": ("diagnosis", "stage"),
}
"""Heads of each way to train."""
METRICS = {
    "diagnosis": ("accuracy", "precision", "recall", "f1"),
    "stage": ("accuracy", "precision", "recall", "f1", "kappa"),
}
"""Figures of each task. Quadratic weights need an order, which the diagnosis has not: no kappa there."""
TASKS = tuple(METRICS)
_CLASSES = {"diagnosis": 4, "stage": 4}
"""Diagnosis: normal, pneumoconiosis, tuberculosis, both; stage: 0, I, II, III."""


@dataclass(frozen=True, slots=True)
class StudyRecipe:
    """A comparison."""

    repeats: int = 5
    """Folds; each leaves out another fifth of the training patients where there are five."""
    classification: ClassificationRecipe = field(default_factory=ClassificationRecipe)
    """The run that every way and fold repeats, but for its heads and seed."""

    def __post_init__(self) -> None:
        if self.repeats < 2:
            raise ConfigError(f"repeats {self.repeats}: a comparison needs at least 2")
        if self.classification.initial_bundle is not None:
            raise ConfigError("initial_bundle: single-task training from multi-task weights is no comparison")


@dataclass(frozen=True, slots=True)
class _Fold:
    train: npt.NDArray[np.int64]
    test: npt.NDArray[np.int64]


def compare(
    recipe: StudyRecipe,
    data: Path,
    runs: Path,
    folder: Path,
    *,
    on_fold: Callable[[int, str], None] | None = None,
) -> str:
    """Run the study and write its table, plot and sentence.

    Args:
        recipe: folds and the run that they repeat.
        data: folder that the cohorts are below.
        runs: folder that the segmentation run, or bundle, is below.
        folder: study folder; folds finished earlier are not trained again.
        on_fold: called before each fold and way.

    Returns:
        The sentence that says what the data support.

    Raises:
        ConfigError: a cohort or run that cannot be used, or a fold in which a task was read on no film.
    """
    films = crops_of(recipe.classification, data, runs, runs / "crops", ("train",))
    folds = patient_folds(films, films.part("train"), recipe.repeats, recipe.classification.fit.seed)
    _check_folds(films, folds)
    describe_run(folder, recipe)
    locked = films.part("test")
    rows = []
    for number, fold in enumerate(folds):
        for way, tasks in WAYS.items():
            if on_fold is not None:
                on_fold(number, way)
            places = np.concatenate([fold.test, locked])
            run = folder / f"fold{number}-{way}"
            way_recipe = replace(recipe.classification, loss=replace(recipe.classification.loss, tasks=tasks))
            fitted = fit_classifier(
                way_recipe, films, run, train=fold.train, validation=fold.test, data=data, runs=runs
            )
            found = fitted.task.predict(fitted.trainer.average, places)
            rows.append(_table(films, places, found, number, way, len(fold.test)))
    predictions = pl.concat(rows)
    predictions.write_parquet(folder / "predictions.parquet")
    comparisons = adjusted(_comparisons(predictions, num_train=len(folds[0].train)))
    comparison_table(comparisons).write_parquet(folder / "comparison.parquet")
    sentence = conclusion(comparisons, "multi-task", "single-task")
    text = f"{comparison_markdown(comparisons)}\n{CLUSTERING}\n\n{sentence}\n"
    if len(locked):
        table = locked_table(predictions)
        table.write_parquet(folder / "locked.parquet")
        text += f"\nLocked test part, networks of the first fold:\n\n{locked_markdown(table)}"
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    _fold_metrics(predictions).write_parquet(folder / "folds.parquet")
    draw_folds(_fold_metrics(predictions), folder / "comparison.png")
    return sentence


def patient_folds(films: CropFilms, among: npt.NDArray[np.int64], repeats: int, seed: int) -> list[_Fold]:
    """Divide films into folds by patient, stratified by each patient's highest stage.

    Args:
        films: the cohort.
        among: positions of the films to divide.
        repeats: number of folds.
        seed: of the division.
    """
    patients = films.films["subject_id"].to_numpy()[among]
    stages = films.labels("stage")[among]
    highest: dict[str, int] = {}
    for patient, stage in zip(patients, stages, strict=True):
        highest[patient] = max(highest.get(patient, MISSING), int(stage))
    fold_of: dict[str, int] = {}
    order = torch.randperm(len(highest), generator=seeded(seed, 0)).tolist()
    shuffled = [sorted(highest)[i] for i in order]
    for place, patient in enumerate(sorted(shuffled, key=lambda patient: highest[patient])):
        fold_of[patient] = place % repeats
    fold = np.array([fold_of[patient] for patient in patients])
    return [_Fold(among[fold != k], among[fold == k]) for k in range(repeats)]


def diagnosis_labels(films: CropFilms) -> npt.NDArray[np.int64]:
    """(N,) 0 normal, 1 pneumoconiosis, 2 tuberculosis, 3 both; `MISSING` where either was not read."""
    pneumoconiosis, tb = films.labels("pneumoconiosis"), films.labels("tb")
    unread = (pneumoconiosis == MISSING) | (tb == MISSING)
    return np.where(unread, MISSING, pneumoconiosis + 2 * tb)


def _check_folds(films: CropFilms, folds: list[_Fold]) -> None:
    labels = {"diagnosis": diagnosis_labels(films), "stage": films.labels("stage")}
    for number, fold in enumerate(folds):
        for task, values in labels.items():
            for part, places in (("training", fold.train), ("test", fold.test)):
                if not (values[places] != MISSING).any():
                    raise ConfigError(
                        f"fold {number + 1}: no {part} film was read for {task}; "
                        "the comparison needs more patients, or fewer folds"
                    )


def _table(
    films: CropFilms, places: npt.NDArray[np.int64], found: Predictions, fold: int, way: str, num_fold: int
) -> pl.DataFrame:
    positive = (found.diagnosis > 0).astype(np.int64)
    label = diagnosis_labels(films)
    return pl.DataFrame(
        {
            "fold": np.full(len(places), fold),
            "way": [way] * len(places),
            "locked": np.arange(len(places)) >= num_fold,
            "patient": films.films["subject_id"].to_numpy()[places],
            "label_diagnosis": label[places],
            "label_stage": films.labels("stage")[places],
            "label_pneumoconiosis": films.labels("pneumoconiosis")[places],
            "label_tb": films.labels("tb")[places],
            "predicted_diagnosis": positive[:, 0] + 2 * positive[:, 1],
            "predicted_stage": found.stage.argmax(axis=1).astype(np.int64),
            "logit_pneumoconiosis": found.diagnosis[:, 0],
            "logit_tb": found.diagnosis[:, 1],
        }
    )


def _fold_metrics(predictions: pl.DataFrame) -> pl.DataFrame:
    """One row a fold, way and task that the way was trained for."""
    rows = []
    for (fold, way), part in predictions.filter(~pl.col("locked")).group_by("fold", "way"):
        for task in TASKS:
            if task in WAYS[str(way)]:
                read = part.filter(pl.col(f"label_{task}") != MISSING)
                figures = classification_metrics(
                    read[f"label_{task}"].to_numpy(), read[f"predicted_{task}"].to_numpy(), _CLASSES[task]
                )
                values = {name: getattr(figures, name) for name in METRICS[task]}
                rows.append({"fold": fold, "way": way, "task": task, **values})
    return pl.DataFrame(rows, infer_schema_length=None).sort("task", "way", "fold")


def _comparisons(predictions: pl.DataFrame, *, num_train: int) -> list[Comparison]:
    folds = _fold_metrics(predictions)
    opening = predictions.filter(pl.col("fold") == 0)
    first = opening.filter(pl.col("locked"))
    num_test = opening.filter(~pl.col("locked") & (pl.col("way") == "stage")).height
    found = []
    for task in TASKS:
        single, multi = (
            folds.filter((pl.col("task") == task) & (pl.col("way") == way)) for way in (task, "multi-task")
        )
        for metric in METRICS[task]:
            pair = (multi[metric].to_numpy(), single[metric].to_numpy())
            found.append(_named(task, metric, "paired_t", paired_t(*pair)))
            corrected = corrected_t(*pair, num_train=num_train, num_test=num_test)
            found.append(_named(task, metric, "corrected_t", corrected))
        found.extend(_locked(first, task))
    return found


def _locked(first: pl.DataFrame, task: str) -> list[Comparison]:
    """McNemar and the patient bootstrap of accuracy on the films of the locked test part that were read."""
    first = first.filter(pl.col(f"label_{task}") != MISSING)
    right = {
        way: (part[f"predicted_{task}"] == part[f"label_{task}"]).to_numpy()
        for way in (task, "multi-task")
        for part in (first.filter(pl.col("way") == way),)
    }
    patients = first.filter(pl.col("way") == task)["patient"].to_numpy()
    multi, single = right["multi-task"], right[task]
    if not multi.size:
        return []
    drawn = patient_bootstrap(lambda rows: (float(multi[rows].mean()), float(single[rows].mean())), patients)
    return [
        _named(task, "accuracy", "mcnemar", mcnemar(multi, single)),
        _named(task, "accuracy", "bootstrap", drawn),
    ]


def _named(task: str, metric: str, test: Test, interval: Interval) -> Comparison:
    return Comparison(task, metric, test, interval.difference, interval.low, interval.high, interval.p_value)


def draw_folds(folds: pl.DataFrame, picture: Path) -> None:
    """Draw each fold's metrics, single- beside multi-task, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for place, task in enumerate(TASKS, start=1):
        axes = figure.add_subplot(1, 2, place)
        for offset, way in ((-0.12, task), (0.12, "multi-task")):
            part = folds.filter((pl.col("task") == task) & (pl.col("way") == way))
            for column, metric in enumerate(METRICS[task]):
                values = part[metric].to_numpy()
                axes.scatter(
                    np.full(len(values), column + offset),
                    values,
                    s=14,
                    color="tab:blue" if offset < 0 else "tab:orange",
                    label=way if column == 0 else None,
                )
        axes.set_xticks(range(len(METRICS[task])), METRICS[task])
        axes.set_title(task)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(picture, dpi=110)
