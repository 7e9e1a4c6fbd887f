"""Where a cohort's labels come from: drawn by the generator, or read by people.

A film counts as simulated when its row says what was drawn into it. The decision a reader would question: the
row decides, not the cohort's name, so that a bundle made from both kinds can say how many there are of each.
"""

from __future__ import annotations

from typing import Any

import polars as pl

from training.label_checks import label_counts
from training.splits import PARTS

_DRAWN = "film_class"
"""Column that only the generator writes."""


def num_simulated(films: pl.DataFrame) -> int:
    """Films whose findings, or their absence, were drawn."""
    return films[_DRAWN].drop_nulls().len() if _DRAWN in films.columns else 0


def cohort_facts(films: pl.DataFrame) -> dict[str, Any]:
    """What `run.json` says of the films: number by part, how many were drawn, and labels by head."""
    train = films.filter(pl.col("split") == "train")
    parts = {name: films.filter(pl.col("split") == name).height for name in PARTS}
    return {
        "trained_on": {
            "films": parts,
            "num_train": train.height,
            "num_simulated": num_simulated(train),
            "labels": dict(label_counts(train)),
        }
    }
