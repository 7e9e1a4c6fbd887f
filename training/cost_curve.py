"""Accuracy against cost over network width and input side: one short run a point, all with the same budget.

Every point sees the same films equally often; its cost is the time of the exported graph in the embedded
engine on one core. The decision a reader would question: the runs are far shorter than a shipped one, so the
curve ranks shapes, and says nothing of what the chosen shape reaches at length.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from engines.openvino import OpenVinoEngine
from screener.errors import ConfigError
from training.classification_task import ClassificationRecipe
from training.classifier_fit import crops_of, fit_classifier
from training.crops import MISSING, CropFilms
from training.export import example_feeds, export_classification, round_weights
from training.metrics import auc, classification_metrics
from training.networks import ClassificationNetwork
from training.run_record import describe_run

_TIMED_FILMS = 24
_TIMED_ROUNDS = 3
OnPoint = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class CurveRecipe:
    """Points of the curve."""

    growths: tuple[int, ...] = (8, 16)
    """Growth rates, by point."""
    sides: tuple[int, ...] = (192, 192)
    """Input sides in pixels, by point; multiples of 32."""
    classification: ClassificationRecipe = field(default_factory=ClassificationRecipe)
    """The run that every point repeats, but for width and side."""

    def __post_init__(self) -> None:
        if len(self.growths) != len(self.sides) or not self.growths:
            raise ConfigError("growths and sides: expected one of each a point")
        if any(side % 32 for side in self.sides):
            raise ConfigError("sides: expected multiples of 32")
        if self.classification.initial_bundle is not None:
            raise ConfigError("initial_bundle: a bundle has weights for one width only")


def cost_curve(
    recipe: CurveRecipe, data: Path, runs: Path, folder: Path, *, on_point: OnPoint | None = None
) -> pl.DataFrame:
    """Train and time every point; write `curve.parquet`, `curve.md` and `curve.png`.

    Args:
        recipe: the points.
        data: folder that the cohorts are below.
        runs: folder that the segmentation run, or bundle, is below.
        folder: folder of the curve; points trained earlier are not trained again.
        on_point: told growth and side before each point.

    Returns:
        growth, side, accuracies and areas on the test part, milliseconds a film on one core, minutes trained.
    """
    films = crops_of(recipe.classification, data, runs, runs / "crops")
    describe_run(folder, recipe)
    rows = []
    for growth, side in zip(recipe.growths, recipe.sides, strict=True):
        if on_point is not None:
            on_point(growth, side)
        point = replace(
            recipe.classification,
            network=replace(recipe.classification.network, growth=growth),
            train_side=side,
        )
        rows.append(_point(point, films, folder / f"growth{growth}-side{side}", data, runs))
    table = pl.DataFrame(rows).sort("ms_per_film")
    table.write_parquet(folder / "curve.parquet")
    (folder / "curve.md").write_text(curve_markdown(table), encoding="utf-8")
    draw_curve(table, folder / "curve.png")
    return table


def _point(
    recipe: ClassificationRecipe, films: CropFilms, folder: Path, data: Path, runs: Path
) -> dict[str, float]:
    fitted = fit_classifier(
        recipe,
        films,
        folder,
        train=films.part("train"),
        validation=films.part("calibration"),
        data=data,
        runs=runs,
    )
    test = films.part("test")
    found = fitted.task.predict(fitted.trainer.average, test)
    stages, predicted = films.labels("stage")[test], found.stage.argmax(axis=1)
    findings = np.stack([films.labels("pneumoconiosis")[test], films.labels("tb")[test]], axis=1)
    both, staged = (findings != MISSING).all(axis=1), stages != MISSING
    right = ((found.diagnosis > 0) == (findings == 1)).all(axis=1)
    growth, side = recipe.network.growth, recipe.train_side or recipe.network.crop_side
    return {
        "growth": growth,
        "side": side,
        "diagnosis_accuracy": _mean(right[both]),
        "stage_accuracy": _mean((predicted == stages)[staged]),
        "stage_kappa": classification_metrics(stages[staged], predicted[staged], 4).kappa
        if staged.any()
        else float("nan"),
        "auc_pneumoconiosis": _area(findings[:, 0], found.diagnosis[:, 0]),
        "auc_tb": _area(findings[:, 1], found.diagnosis[:, 1]),
        "ms_per_film": milliseconds(fitted.trainer.average, recipe, growth, side),
        "minutes_trained": fitted.trainer.rows[-1]["seconds"] / 60,
    }


def _mean(right: npt.NDArray[np.bool_]) -> float:
    return float(right.mean()) if right.size else float("nan")


def _area(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float32]) -> float:
    """Area under the ROC curve over the films that were read; NaN where one kind is missing."""
    read = labels != MISSING
    if np.unique(labels[read]).size < 2:
        return float("nan")
    return auc(labels[read], scores[read]).value


def milliseconds(network: torch.nn.Module, recipe: ClassificationRecipe, growth: int, side: int) -> float:
    """Processor time of one film in the embedded engine on one core, crop included; best of three rounds."""
    exported = ClassificationNetwork(replace(recipe.network, growth=growth, crop_side=side))
    exported.classifier.load_state_dict(network.get_submodule("classifier").state_dict())
    round_weights(exported)
    engine = OpenVinoEngine(export_classification(exported), threads=1)
    feeds = example_feeds(_TIMED_FILMS)
    rounds = []
    for _ in range(_TIMED_ROUNDS):
        started = time.process_time()
        engine.run(feeds)
        rounds.append((time.process_time() - started) / _TIMED_FILMS * 1000)
    engine.close()
    return min(rounds)


def curve_markdown(table: pl.DataFrame) -> str:
    """The points as a Markdown table."""
    lines = [
        "| growth | side | ms a film | diagnosis accuracy | stage accuracy | kappa | AUC pneumoc. | AUC TB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['growth']} | {row['side']} | {row['ms_per_film']:.1f} | {row['diagnosis_accuracy']:.3f} | "
        f"{row['stage_accuracy']:.3f} | {row['stage_kappa']:.3f} | {row['auc_pneumoconiosis']:.3f} | "
        f"{row['auc_tb']:.3f} |"
        for row in table.iter_rows(named=True)
    ]
    return "\n".join(lines) + "\n"


def draw_curve(table: pl.DataFrame, picture: Path) -> None:
    """Draw accuracy over cost, one labelled point a shape, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.add_subplot()
    cost = table["ms_per_film"].to_numpy()
    for name, label in (
        ("stage_accuracy", "stage accuracy"),
        ("diagnosis_accuracy", "diagnosis accuracy"),
        ("stage_kappa", "stage kappa"),
    ):
        axes.plot(cost, table[name].to_numpy(), marker="o", label=label)
    for row in table.iter_rows(named=True):
        place = (row["ms_per_film"], row["stage_accuracy"])
        axes.annotate(
            f"{row['growth']} @ {row['side']}", place, fontsize=8, textcoords="offset points", xytext=(4, 4)
        )
    axes.set_xlabel("classification, ms a film on one core (growth rate @ input side)")
    axes.grid(visible=True, alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(picture, dpi=110)
