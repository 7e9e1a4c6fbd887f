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
from training.classification_task import (
    ClassificationRecipe,
    ClassificationTask,
    Predictions,
    WeightedClassifier,
)
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
from training.fit import Trainer, describe_run, seeded
from training.metrics import classification_metrics
from training.runs import crops_of
from training.study_locked import locked_markdown, locked_table

WAYS: dict[str, tuple[str, ...]] = {
    "diagnosis": ("diagnosis",),
    "stage": ("stage",),
    "multi-task": ("diagnosis", "stage"),
}
"""Heads of each way to train."""
METRICS = ("accuracy", "precision", "recall", "f1", "kappa")
TASKS = ("diagnosis", "stage")
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
        runs: folder that holds the segmentation run.
        folder: study folder; folds finished earlier are not trained again.
        on_fold: called before each fold and way.

    Returns:
        The sentence that says what the data support.
    """
    describe_run(folder, recipe)
    films = crops_of(recipe.classification, data, runs, runs / "crops")
    folds = patient_folds(films, films.part("train"), recipe.repeats, recipe.classification.fit.seed)
    locked = films.part("test")
    rows = []
    for number, fold in enumerate(folds):
        for way, tasks in WAYS.items():
            if on_fold is not None:
                on_fold(number, way)
            places = np.concatenate([fold.test, locked])
            run = folder / f"fold{number}-{way}"
            found = _predict(recipe.classification, films, fold, places, tasks, run)
            rows.append(_table(films, places, found, number, way, len(fold.test)))
    predictions = pl.concat(rows)
    predictions.write_parquet(folder / "predictions.parquet")
    comparisons = adjusted(_comparisons(predictions, num_train=len(folds[0].train)))
    comparison_table(comparisons).write_parquet(folder / "comparison.parquet")
    sentence = conclusion(comparisons, "multi-task", "single-task")
    text = f"{comparison_markdown(comparisons)}\n{sentence}\n"
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


def _predict(
    recipe: ClassificationRecipe,
    films: CropFilms,
    fold: _Fold,
    places: npt.NDArray[np.int64],
    tasks: tuple[str, ...],
    folder: Path,
) -> Predictions:
    torch.manual_seed(recipe.fit.seed)
    network = WeightedClassifier(recipe.network)
    loss = replace(recipe.loss, tasks=tasks)
    task = ClassificationTask(
        films, train=fold.train, validation=fold.test, loss=loss, train_side=recipe.train_side
    )
    trainer = Trainer(network, task, recipe.fit, folder, compiled=network.classifier.backbone)
    trainer.run()
    return task.predict(trainer.average, places)


def _table(
    films: CropFilms, places: npt.NDArray[np.int64], found: Predictions, fold: int, way: str, num_fold: int
) -> pl.DataFrame:
    positive = (found.diagnosis > 0).astype(np.int64)
    label = films.labels("pneumoconiosis") + 2 * films.labels("tb")
    return pl.DataFrame(
        {
            "fold": np.full(len(places), fold),
            "way": [way] * len(places),
            "locked": np.arange(len(places)) >= num_fold,
            "patient": films.films["subject_id"].to_numpy()[places],
            "label_diagnosis": label[places],
            "label_stage": films.labels("stage")[places],
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
                figures = classification_metrics(
                    part[f"label_{task}"].to_numpy(), part[f"predicted_{task}"].to_numpy(), _CLASSES[task]
                )
                values = {name: getattr(figures, name) for name in METRICS}
                rows.append({"fold": fold, "way": way, "task": task, **values})
    return pl.DataFrame(rows).sort("task", "way", "fold")


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
        for metric in METRICS:
            pair = (multi[metric].to_numpy(), single[metric].to_numpy())
            found.append(_named(task, metric, "paired_t", paired_t(*pair)))
            corrected = corrected_t(*pair, num_train=num_train, num_test=num_test)
            found.append(_named(task, metric, "corrected_t", corrected))
        found.extend(_locked(first, task))
    return found


def _locked(first: pl.DataFrame, task: str) -> list[Comparison]:
    """McNemar and the patient bootstrap of accuracy on the locked test part."""
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
            for column, metric in enumerate(METRICS):
                values = part[metric].to_numpy()
                axes.scatter(
                    np.full(len(values), column + offset),
                    values,
                    s=14,
                    color="tab:blue" if offset < 0 else "tab:orange",
                    label=way if column == 0 else None,
                )
        axes.set_xticks(range(len(METRICS)), METRICS)
        axes.set_title(task)
        axes.grid(visible=True, alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(picture, dpi=110)
