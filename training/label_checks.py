"""A cohort's labels to whether it can be trained, calibrated and judged, asked before anything is trained.

The decision a reader would question: a finding that nobody read is no error, it is not trained and keeps the
network's own probabilities. A finding that was read must occur both ways in the calibration part, because no
threshold can be chosen from one kind alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from screener.errors import ConfigError
from screener.records import ZONES
from training.splits import PARTS

LABELS_OF = {"diagnosis": ("pneumoconiosis", "tb"), "stage": ("stage",), "zones": ZONES}
"""Columns that each head learns from."""
_CALIBRATED = ("pneumoconiosis", "tb", "stage")


def check_labels(
    films: pl.DataFrame, tasks: Sequence[str], parts: Sequence[str] = PARTS, *, trained: bool = True
) -> None:
    """Refuse a cohort that would fail after training.

    Args:
        films: cohort rows with `split` and label columns.
        tasks: heads that are trained.
        parts: parts of the split that must hold films.
        trained: whether labels to learn from are wanted too.

    Raises:
        ConfigError: a part without films, no labels to train from, or a finding of which the calibration part
            shows one kind only; names part and label.
    """
    for part in parts:
        if not films.filter(pl.col("split") == part).height:
            raise ConfigError(f"the {part} part of the split has no films: add patients, or another split")
    counts = label_counts(films.filter(pl.col("split") == "train"))
    if trained and not any(counts[name] for name in tasks):
        raise ConfigError(f"the train part has no labels for {', '.join(tasks)}: nothing can be learnt")
    if "calibration" not in parts:
        return
    wanted = [name for task in tasks for name in LABELS_OF[task] if name in _CALIBRATED]
    held = films.filter(pl.col("split") == "calibration")
    for name in wanted:
        if name in films.columns and films[name].null_count() < films.height:
            _check_both(held[name].drop_nulls(), name)


def _check_both(values: pl.Series, name: str) -> None:
    positive = int((values >= 1).sum())
    if not 0 < positive < values.len():
        kind = "stage I or more" if name == "stage" else name
        raise ConfigError(
            f"the calibration part of the split has {positive} films with {kind} and "
            f"{values.len() - positive} without: at least one of each is needed"
        )


def label_counts(films: pl.DataFrame) -> Mapping[str, int]:
    """Films that were read for anything that a head learns from, by head."""
    counts = {}
    for task, names in LABELS_OF.items():
        known = [pl.col(name).is_not_null() for name in names if name in films.columns]
        counts[task] = films.filter(pl.any_horizontal(known)).height if known else 0
    return counts
