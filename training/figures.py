"""Judged films to figures with intervals, for model cards and accuracy-versus-cost tables.

Intervals are percentile bootstraps over subjects, because a subject's films are not independent; those of
calibration errors are recentred. The decision a reader would question: accuracy of the diagnosis counts a
film as right only when both findings are, so that it is never flattered by the finding that is rare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from calibration.fitting import UNREAD
from calibration.model_calibration import Calibration, Probabilities
from calibration.reliability import expected_calibration_error, top_label
from screener.records import ZONES
from training.metrics import auc, confusion_matrix, quadratic_weighted_kappa

NUM_DRAWS = 500
_FEWEST = 20
"""Films below which a slice is not reported."""

DIAGNOSIS_ACCURACY = "diagnosis accuracy (both findings right)"
STAGE_ACCURACY = "stage accuracy"
STAGE_KAPPA = "stage quadratic-weighted kappa"
_MAIN = (DIAGNOSIS_ACCURACY, STAGE_ACCURACY, STAGE_KAPPA)

Statistic = Callable[[npt.NDArray[np.int64]], float]
Known = npt.NDArray[np.bool_]
"""(N,) films that were read for a figure."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of merit with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"


@dataclass(frozen=True, slots=True)
class _Judged:
    pneumoconiosis: npt.NDArray[np.float64]
    tb: npt.NDArray[np.float64]
    stage: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    """(N, 2) pneumoconiosis, tuberculosis; like the two below `UNREAD` where a film was not read."""
    stages: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]
    """(N, 6) drawn zone levels."""
    zone_levels: npt.NDArray[np.int64]
    """(N, 6) most probable zone levels."""
    subjects: npt.NDArray[np.str_]


def figures_of(
    films: pl.DataFrame, calibration: Calibration, names: Sequence[str] | None = None
) -> list[Figure]:
    """Accuracy, agreement, discrimination and calibration of test films, each over the films read for it.

    Args:
        films: rows with `logit_*` columns, and labels that are null where a film was not read.
        calibration: of the same model.
        names: figures wanted; None for all. A figure that no film was read for is left out.
    """
    judged = _judged(films, calibration)
    wanted = {
        name: figure
        for name, figure in (_pooled(judged) | _calibration_errors(judged) | _recalls(judged)).items()
        if (names is None or name in names) and figure[1].any()
    }
    return [
        _bootstrap(name, statistic, judged.subjects, known, recentred=name.startswith("ECE"))
        for name, (statistic, known) in wanted.items()
    ]


def _pooled(j: _Judged) -> dict[str, tuple[Statistic, Known]]:
    """Accuracies, areas and kappa, each with the films that it is over."""
    read, staged, graded = j.labels != UNREAD, j.stages != UNREAD, j.levels != UNREAD
    right = ((np.stack([j.pneumoconiosis, j.tb], axis=1) >= 0.5) == (j.labels == 1)).all(axis=1)
    predicted = j.stage.argmax(axis=1)
    num_graded = np.maximum(graded.sum(axis=1), 1)
    zones_right = ((j.zone_levels == j.levels) & graded).sum(axis=1) / num_graded
    return {
        DIAGNOSIS_ACCURACY: (partial(_mean, right), read.all(axis=1)),
        "pneumoconiosis AUC": (lambda rows: _area(j.labels[rows, 0], j.pneumoconiosis[rows]), read[:, 0]),
        "tuberculosis AUC": (lambda rows: _area(j.labels[rows, 1], j.tb[rows]), read[:, 1]),
        STAGE_ACCURACY: (partial(_mean, predicted == j.stages), staged),
        STAGE_KAPPA: (
            lambda rows: quadratic_weighted_kappa(confusion_matrix(j.stages[rows], predicted[rows], 4)),
            staged,
        ),
        "zone level accuracy": (partial(_mean, zones_right), graded.any(axis=1)),
    }


def _calibration_errors(j: _Judged) -> dict[str, tuple[Statistic, Known]]:
    read, (confidence, sure) = j.labels != UNREAD, top_label(j.stage, j.stages)
    error = expected_calibration_error
    return {
        "ECE pneumoconiosis": (lambda rows: error(j.pneumoconiosis[rows], j.labels[rows, 0]), read[:, 0]),
        "ECE tuberculosis": (lambda rows: error(j.tb[rows], j.labels[rows, 1]), read[:, 1]),
        "ECE stage (top label)": (lambda rows: error(confidence[rows], sure[rows]), j.stages != UNREAD),
    }


def _recalls(j: _Judged) -> dict[str, tuple[Statistic, Known]]:
    agreed = j.stage.argmax(axis=1) == j.stages
    return {
        f"recall of stage {roman}": (partial(_recall, agreed, j.stages == stage), j.stages != UNREAD)
        for stage, roman in enumerate(("0", "I", "II", "III"))
        if (j.stages == stage).sum() >= _FEWEST // 2
    }


def sliced_figures(films: pl.DataFrame, calibration: Calibration) -> dict[str, list[Figure]]:
    """The main figures within each source and each half of each nuisance, where films are enough."""
    slices: dict[str, pl.DataFrame] = {
        f"source {source}": films.filter(pl.col("source") == source)
        for source in sorted(films["source"].unique().to_list())
    }
    if "host_findings" in films.columns:
        own = pl.col("host_findings").fill_null("")
        slices["host films that show nothing of their own"] = films.filter(own == "No Finding")
        slices["host films with a disease of their own"] = films.filter(~own.is_in(["No Finding", ""]))
    for name in ("exposure", "gamma", "noise_fraction", "rotation_deg"):
        if name in films.columns:
            size = films[name].abs() if name == "rotation_deg" else films[name]
            middle = size.median()
            slices[f"{name} below its median"] = films.filter(size < middle)
            slices[f"{name} above its median"] = films.filter(size >= middle)
    return {
        f"{name} ({part.height} films)": figures_of(part, calibration, _MAIN)
        for name, part in slices.items()
        if part.height >= _FEWEST
    }


def segmentation_figures(held_out: pl.DataFrame) -> list[Figure]:
    """Mean Dice by source of the held-out films that have masks, as they are and with opacities drawn in."""
    figures = []
    masked = held_out.filter(pl.col("dice").is_not_null() & pl.col("frontal"))
    kinds = {"dice": "lung Dice", "dice_opacified": "lung Dice with drawn opacities"}
    for column, title in kinds.items():
        for (source,), part in sorted(masked.group_by("source"), key=lambda group: str(group[0][0])):
            dice, patients = part[column].to_numpy(), part["patient"].to_numpy()
            label = f"{title}, {source}, {part.height} films"
            figures.append(_bootstrap(label, partial(_mean, dice), patients))
    return figures


def exported_dice(judged: pl.DataFrame) -> list[Figure]:
    """Mean lung Dice of the exported graph on judged phantoms: other cohort masks are a network's own."""
    if "lung_dice" not in judged.columns:
        return []
    exact = judged.filter(pl.col("lung_dice").is_not_null() & (pl.col("source") == "phantom"))
    if not exact.height:
        return []
    label = f"lung Dice of the exported graph, phantom, {exact.height} films"
    return [_bootstrap(label, partial(_mean, exact["lung_dice"].to_numpy()), exact["subject_id"].to_numpy())]


def frontal_figures(held_out: pl.DataFrame) -> list[Figure]:
    """How often frontal films are taken as such, and other pictures are not."""
    figures = []
    for frontal, name in ((True, "frontal films accepted"), (False, "other pictures turned away")):
        part = held_out.filter(pl.col("frontal") == frontal)
        if part.height:
            right = ((part["frontal_logit"] > 0) == frontal).to_numpy()
            label = f"{name}, {part.height} pictures"
            patients = part["patient"].to_numpy()
            figures.append(_bootstrap(label, partial(_mean, right), patients))
    return figures


def probabilities_of(films: pl.DataFrame, calibration: Calibration) -> Probabilities:
    """Calibrated probabilities of judged films, rows with `logit_*` columns."""
    return calibration.apply(
        films.select("logit_pneumoconiosis", "logit_tb").to_numpy(),
        films.select([f"logit_stage{k}" for k in range(4)]).to_numpy(),
    )


def _judged(films: pl.DataFrame, calibration: Calibration) -> _Judged:
    probabilities = probabilities_of(films, calibration)
    zone_logits = films.select([f"logit_{zone}_{k}" for zone in ZONES for k in range(4)]).to_numpy()
    return _Judged(
        probabilities.pneumoconiosis,
        probabilities.tb,
        probabilities.stage,
        labels_of(films, ("pneumoconiosis", "tb")),
        labels_of(films, ("stage",))[:, 0],
        labels_of(films, ZONES),
        zone_logits.reshape(-1, len(ZONES), 4).argmax(axis=2),
        films["subject_id"].to_numpy(),
    )


def labels_of(films: pl.DataFrame, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """(N, K) labels of K columns; `UNREAD` where null, or where a cohort has no such column."""
    columns = [pl.col(name) if name in films.columns else pl.lit(None).alias(name) for name in names]
    return films.select(column.cast(pl.Int64).fill_null(UNREAD) for column in columns).to_numpy()


def _bootstrap(
    name: str,
    statistic: Statistic,
    subjects: npt.NDArray[np.str_],
    known: Known | None = None,
    *,
    recentred: bool = False,
) -> Figure:
    """A figure over the films that were read for it, and its interval over their subjects.

    An expected calibration error rises when films are drawn twice, so that its percentiles can lie wholly
    above it: `recentred` moves them by the mean excess of the draws.
    """
    rows = np.arange(len(subjects)) if known is None else np.flatnonzero(known)
    order = rows[np.argsort(subjects[rows], kind="stable")]
    _, starts = np.unique(subjects[order], return_index=True)
    films_of = np.split(order, starts[1:])
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(NUM_DRAWS):
        chosen = generator.integers(0, len(films_of), len(films_of))
        draws.append(statistic(np.concatenate([films_of[i] for i in chosen])))
    value = statistic(rows)
    drawn = np.array(draws)[np.isfinite(draws)]
    if not drawn.size:
        return Figure(name, value, float("nan"), float("nan"))
    low, high = np.quantile(drawn, (0.025, 0.975)) - (drawn.mean() - value if recentred else 0.0)
    return Figure(name, value, max(0.0, float(low)) if recentred else float(low), float(high))


def _area(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> float:
    return auc(labels, scores).value if 0 < labels.sum() < labels.size else float("nan")


def _mean(values: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> float:
    return float(values[rows].mean())


def _recall(right: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]) -> float:
    held = rows[among[rows]]
    return float(right[held].mean()) if held.size else float("nan")
