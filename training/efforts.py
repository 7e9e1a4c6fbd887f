"""Run folders to what a model card says of the training: epochs and minutes of each run, back to the first.

The decision a reader would question: a run that started from a bundle ends the list with that bundle's
identity and a warning. A bundle does not say which patients it was trained on, so nobody can check that none
of them is among the films that it is judged on now.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import polars as pl

from training.run_record import FACTS, RECIPE

_UNCHECKED = (
    "A bundle does not say which patients it was trained on: that none of them is among the films of the "
    "figures below is not checked."
)


def efforts(segmentation: str | None, classification: str | None, data: Path, runs: Path) -> list[str]:
    """Epochs and minutes of each run, and what it started from, as Markdown.

    Args:
        segmentation: run folder below the runs folder; None where a bundle's graph was taken over.
        classification: likewise.
        data: folder that the starts of segmentation runs are below.
        runs: folder of the runs, and of the starts of classification runs.
    """
    lines = [] if segmentation is None else _effort("segmentation", runs / segmentation, data)
    if classification is None:
        return [*lines, f"* classification: not trained for this bundle. {_UNCHECKED}"]
    return [*lines, *_effort("classification", runs / classification, runs)]


def _effort(title: str, run: Path, below: Path) -> list[str]:
    """One line a run, back to the first; `below` holds the runs that it started from."""
    lines: list[str] = []
    passed: set[Path] = set()
    while run not in passed and (run / "metrics.parquet").exists():
        passed.add(run)
        metrics = pl.read_parquet(run / "metrics.parquet")
        minutes = float(metrics["seconds"][-1]) / 60
        before = " before that" if lines else ""
        lines.append(f"* {title}{before}: {int(metrics['epoch'][-1])} epochs, {minutes:.0f} minutes.")
        settings = tomllib.loads((run / RECIPE).read_text(encoding="utf-8"))
        if settings.get("initial_bundle") is not None:
            return [*lines, f"* {title} before that: {_bundle(run)}"]
        if settings.get("initial_run") is None:
            return lines
        run = below / settings["initial_run"]
    return [*lines, f"* {title} before that: a run whose figures are not at hand."]


def _bundle(run: Path) -> str:
    facts = json.loads((run / FACTS).read_text(encoding="utf-8"))["initial_bundle"]
    return f"the weights of bundle {facts['bundle']}. {_UNCHECKED}"
