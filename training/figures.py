"""Judged films to figures with intervals, for model cards and accuracy-versus-cost tables.

Intervals are percentile bootstraps over subjects, because a subject's films are not independent. The
decision a reader would question: accuracy of the diagnosis counts a film as right only when both findings
are, so that it is never flattered by the finding that is rare.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from calibration.model_calibration import Calibration, Probabilities
from calibration.reliability import NUM_BINS, top_label
from screener.records import ZONES
from training.metrics import auc, confusion_matrix, quadratic_weighted_kappa

NUM_DRAWS = 500
_FEWEST = 20
"""Films below which a slice is not reported."""

Statistic = Callable[[npt.NDArray[np.int64]], float]


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
    """(N, 2) pneumoconiosis, tuberculosis."""
    stages: npt.NDArray[np.int64]
    levels: npt.NDArray[np.int64]
    """(N, 6) drawn zone levels."""
    zone_levels: npt.NDArray[np.int64]
    """(N, 6) most probable zone levels."""
    subjects: npt.NDArray[np.str_]


def figures_of(films: pl.DataFrame, calibration: Calibration) -> list[Figure]:
    """Accuracy, agreement, discrimination and calibration of test films.

    Args:
        films: rows with labels and `logit_*` columns, none of them null.
        calibration: of the same model.
    """
    j = _judged(films, calibration)
    right = ((np.stack([j.pneumoconiosis, j.tb], axis=1) >= 0.5) == (j.labels == 1)).all(axis=1)
    predicted = j.stage.argmax(axis=1)
    agreed = predicted == j.stages
    zones_right = (j.zone_levels == j.levels).mean(axis=1)
    statistics: dict[str, Statistic] = {
        "diagnosis accuracy (both findings right)": partial(_mean, right),
        "pneumoconiosis AUC": lambda rows: _area(j.labels[rows, 0], j.pneumoconiosis[rows]),
        "tuberculosis AUC": lambda rows: _area(j.labels[rows, 1], j.tb[rows]),
        "stage accuracy": partial(_mean, agreed),
        "stage quadratic-weighted kappa": lambda rows: quadratic_weighted_kappa(
            confusion_matrix(j.stages[rows], predicted[rows], 4)
        ),
        "zone level accuracy": partial(_mean, zones_right),
        "ECE pneumoconiosis": lambda rows: _ece(j.pneumoconiosis[rows], j.labels[rows, 0]),
        "ECE tuberculosis": lambda rows: _ece(j.tb[rows], j.labels[rows, 1]),
        "ECE stage (top label)": lambda rows: _ece(*top_label(j.stage[rows], j.stages[rows])),
    }
    for stage, roman in enumerate(("0", "I", "II", "III")):
        if (j.stages == stage).sum() >= _FEWEST // 2:
            statistics[f"recall of stage {roman}"] = partial(_recall, agreed, j.stages == stage)
    return [_bootstrap(name, statistic, j.subjects) for name, statistic in statistics.items()]


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
    keep = (0, 3, 4)
    return {
        f"{name} ({part.height} films)": [figures_of(part, calibration)[i] for i in keep]
        for name, part in slices.items()
        if part.height >= _FEWEST
    }


def segmentation_figures(held_out: pl.DataFrame) -> list[Figure]:
    """Mean Dice by source of the held-out films that have masks."""
    figures = []
    masked = held_out.filter(pl.col("dice").is_not_null() & pl.col("frontal"))
    for (source,), part in sorted(masked.group_by("source"), key=lambda group: str(group[0][0])):
        dice, patients = part["dice"].to_numpy(), part["patient"].to_numpy()
        label = f"lung Dice, {source}, {part.height} films"
        figures.append(_bootstrap(label, partial(_mean, dice), patients))
    return figures


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
        films.select("pneumoconiosis", "tb").to_numpy().astype(np.int64),
        films["stage"].to_numpy().astype(np.int64),
        films.select(ZONES).to_numpy().astype(np.int64),
        zone_logits.reshape(-1, len(ZONES), 4).argmax(axis=2),
        films["subject_id"].to_numpy(),
    )


def _bootstrap(name: str, statistic: Statistic, subjects: npt.NDArray[np.str_]) -> Figure:
    rows = np.arange(len(subjects))
    order = np.argsort(subjects, kind="stable")
    _, starts = np.unique(subjects[order], return_index=True)
    films_of = np.split(order, starts[1:])
    generator = np.random.default_rng(0)
    draws = []
    for _ in range(NUM_DRAWS):
        chosen = generator.integers(0, len(films_of), len(films_of))
        draws.append(statistic(np.concatenate([films_of[i] for i in chosen])))
    low, high = np.nanquantile(draws, (0.025, 0.975))
    return Figure(name, statistic(rows), float(low), float(high))


def _area(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> float:
    return auc(labels, scores).value if 0 < labels.sum() < labels.size else float("nan")


def _mean(values: npt.NDArray[Any], rows: npt.NDArray[np.int64]) -> float:
    return float(values[rows].mean())


def _recall(right: npt.NDArray[np.bool_], among: npt.NDArray[np.bool_], rows: npt.NDArray[np.int64]) -> float:
    held = rows[among[rows]]
    return float(right[held].mean()) if held.size else float("nan")


def _ece(probabilities: npt.NDArray[np.float64], outcomes: npt.NDArray[np.int64]) -> float:
    """Expected calibration error over equal-mass bins, as `expected_calibration_error`.

    That one also gives every bin an exact interval, which is too slow inside a bootstrap.
    """
    order = np.argsort(probabilities, kind="stable")
    bins = np.array_split(order, min(NUM_BINS, order.size))
    return sum(abs(float(probabilities[b].mean() - outcomes[b].mean())) * b.size for b in bins) / order.size
