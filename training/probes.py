"""Can a simple classifier tell the class from what must not carry it: nuisances, or the film round the lungs?

Each probe is a ridge-penalised logistic regression, cross-validated by subject and scored by AUC with an
interval by the normal approximation of Hanley and McNeil (1982). A probe whose interval holds 0.5 found
nothing. A reader would question so plain a classifier: a network could find more, but what a linear look at
24 x 24 pixels finds is what a network would use first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import polars as pl

from screener.errors import ConfigError
from training.nuisances import NUISANCE_FIELDS

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_SIDE = 24
"""Side of the masked picture that the probe sees."""
_PENALTY = 30.0
_FOLDS = 5
_MARGIN_PX = 3
"""Mask pixels (256 grid) by which the lungs are grown before they are cut out: about 5 mm."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What one probe found."""

    probe: str
    """nuisance or outside_lungs."""
    target: str
    """pneumoconiosis or tb."""
    source: str
    """Source the films came from, or all."""
    num_films: int
    auc: float
    low: float
    """Lower end of the 95 % interval."""
    high: float

    @property
    def at_chance(self) -> bool:
        """The interval holds one half."""
        return self.low <= 0.5 <= self.high


def logistic_weights(features: Float64, labels: Bool, penalty: float) -> Float64:
    """Ridge-penalised logistic regression by Newton's method.

    Args:
        features: (n, d) standardised; an intercept is added.
        labels: (n,).
        penalty: weight of the squared norm; the intercept is free.

    Returns:
        (d + 1,) weights, the intercept last.
    """
    design = np.hstack([features, np.ones((features.shape[0], 1))])
    weights = np.zeros(design.shape[1])
    ridge = np.full(design.shape[1], penalty)
    ridge[-1] = 1e-6
    for _ in range(25):
        expected = 1 / (1 + np.exp(-np.clip(design @ weights, -30, 30)))
        gradient = design.T @ (labels - expected) - ridge * weights
        curvature = (design * (expected * (1 - expected))[:, None]).T @ design + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        weights += step
        if float(np.abs(step).max()) < 1e-6:
            break
    return weights


def area_under_curve(scores: Float64, labels: Bool) -> tuple[float, float, float]:
    """AUC by rank sum and its 95 % interval (Hanley and McNeil 1982), clipped to 0-1."""
    from scipy.stats import rankdata

    positive, negative = int(labels.sum()), int((~labels).sum())
    ranks = rankdata(scores)
    auc = (float(ranks[labels].sum()) - positive * (positive + 1) / 2) / (positive * negative)
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (positive - 1) * (q1 - auc**2) + (negative - 1) * (q2 - auc**2)
    half = 1.96 * math.sqrt(max(variance, 0.0) / (positive * negative))
    return auc, max(auc - half, 0.0), min(auc + half, 1.0)


def cross_validated(features: Float64, labels: Bool, subjects: list[str]) -> tuple[float, float, float]:
    """AUC and interval of out-of-fold scores; a subject's films are always in one fold."""
    order = {subject: place for place, subject in enumerate(sorted(set(subjects)))}
    fold = np.array([order[subject] % _FOLDS for subject in subjects])
    scores = np.zeros(labels.size)
    for held_out in range(_FOLDS):
        test = fold == held_out
        mean, spread = features[~test].mean(axis=0), features[~test].std(axis=0) + 1e-9
        scaled = (features - mean) / spread
        weights = logistic_weights(scaled[~test], labels[~test], _PENALTY)
        # Ranks within the fold: intercepts differ between folds and would bias the pooled AUC downwards.
        raw = scaled[test] @ weights[:-1]
        scores[test] = (np.argsort(np.argsort(raw)) + 0.5) / max(int(test.sum()), 1)
    return area_under_curve(scores, labels)


def _outside_lungs(cohort: Path, film: dict[str, str]) -> Float64:
    """The picture with both lungs cut out and replaced by the mean of the rest, 24 x 24, flat."""
    grey = cv2.imread(str(cohort / film["canvas"]), cv2.IMREAD_GRAYSCALE)
    lungs = cv2.imread(str(cohort / film["lungs"]), cv2.IMREAD_GRAYSCALE)
    if grey is None or lungs is None:
        raise ConfigError(f"film {film['film_id']}: its canvas or lungs are missing or unreadable")
    hidden = cv2.dilate((lungs > 0).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=_MARGIN_PX)
    seen = (1 - hidden).astype(np.float32)
    small = cv2.resize(grey, (lungs.shape[1], lungs.shape[0]), interpolation=cv2.INTER_AREA).astype(
        np.float32
    )
    weight = cv2.resize(seen, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    value = cv2.resize(small * seen, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    mean = float((small * seen).sum() / max(float(seen.sum()), 1.0))
    picture = np.where(weight > 0.05, value / np.maximum(weight, 0.05), mean)
    return np.asarray(picture, np.float64).ravel()


def _features(cohort: Path, films: pl.DataFrame, probe: str) -> Float64:
    if probe == "nuisance":
        return (
            films.select(name for name in NUISANCE_FIELDS if name in films.columns)
            .to_numpy()
            .astype(np.float64)
        )
    return np.stack([_outside_lungs(cohort, film) for film in films.iter_rows(named=True)])


def run_probes(cohort: Path) -> tuple[ProbeResult, ...]:
    """Run every probe on a cohort's frontal films, over all sources and within each.

    Large hearts are left out of the picture probe: they lie outside the lungs, and belong to one class.

    Args:
        cohort: cohort folder.

    Raises:
        ConfigError: too few films of a class, or a picture is missing.
    """
    table = pl.read_parquet(cohort / "cohort.parquet").filter(pl.col("view") == "frontal")
    results = []
    for probe in ("nuisance", "outside_lungs"):
        films = table if probe == "nuisance" else table.filter(pl.col("confounder") != "cardiomegaly")
        features = _features(cohort, films, probe)
        sources = sorted(films["source"].unique().to_list())
        for source in ["all", *sources] if len(sources) > 1 else ["all"]:
            chosen = (
                np.ones(films.height, bool) if source == "all" else (films["source"] == source).to_numpy()
            )
            subjects = films["subject_id"].filter(pl.Series(chosen)).to_list()
            for target in ("pneumoconiosis", "tb"):
                labels = (films[target] == 1).to_numpy()[chosen]
                if min(int(labels.sum()), int((~labels).sum())) < 2 * _FOLDS:
                    raise ConfigError(
                        f"{source}: too few films with or without {target}; build a larger cohort"
                    )
                auc, low, high = cross_validated(features[chosen], labels, subjects)
                results.append(ProbeResult(probe, target, source, labels.size, auc, low, high))
    return tuple(results)
