"""Run folders to networks, and the weights that another run starts from.

The decision a reader would question: a run is refused as a start when a patient that it, or a run that it
started from, was trained on stands in this run's held-out films. Its figures would be of known patients.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path

import polars as pl
import torch
from torch import nn

from engines.bundle import Bundle, default_bundle, open_bundle
from screener.canvas import CANVAS_SIDE, CANVAS_VERSION
from screener.errors import ConfigError
from training.classification_task import ClassificationRecipe
from training.networks import ClassificationNetwork, SegmentationNetwork
from training.recipe import load_recipe
from training.restore import restore_segmentation
from training.run_record import RECIPE
from training.segmentation_task import SegmentationRecipe


def average_of(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Averaged weights of a run's last checkpoint, without the prefix of the training module."""
    try:
        held = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)
    except OSError as error:
        raise ConfigError(f"run {folder.name} has no checkpoint; train it first") from error
    return {k.removeprefix(prefix): v for k, v in held["average"].items() if k.startswith(prefix)}


def start_from(network: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load another run's weights; parts that it did not have keep their fresh ones.

    Raises:
        ConfigError: a weight that the network has no place for, or of another shape.
    """
    try:
        unknown = network.load_state_dict(weights, strict=False).unexpected_keys
    except RuntimeError as error:
        raise ConfigError("the run to start from has a network of another shape") from error
    if unknown:
        raise ConfigError(f"the run to start from has weights of another network: {unknown[0]}")


def refuse_seen_patients(run: Path, below: Path, held_out: Iterable[str]) -> None:
    """Refuse a run as a start when held-out patients were in its training part or in that of its own starts.

    Args:
        run: run folder to start from.
        below: folder that the `initial_run` of its recipe is below.
        held_out: patients of this run's calibration and test parts.

    Raises:
        ConfigError: some were; says how many. A run without its `split.csv` is refused too.
    """
    patients, passed = set(held_out), set[Path]()
    while run not in passed:
        passed.add(run)
        try:
            split = pl.read_csv(run / "split.csv", infer_schema=False)
            settings = tomllib.loads((run / RECIPE).read_text(encoding="utf-8"))
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise ConfigError(f"run {run.name} to start from: split.csv or {RECIPE} is missing") from error
        seen = patients & set(split.filter(pl.col("part") == "train")["patient"].to_list())
        if seen:
            raise ConfigError(
                f"run {run.name} was trained on {len(seen)} patients that this run holds out for calibration "
                "or test: start from a run with the same split, or from none"
            )
        if settings.get("initial_run") is None:
            return
        run = below / settings["initial_run"]


def load_segmentation(folder: Path) -> SegmentationNetwork:
    """The segmentation network of a run, in evaluation mode."""
    recipe = load_recipe(folder / RECIPE, SegmentationRecipe)
    network = SegmentationNetwork(recipe.network)
    network.load_state_dict(average_of(folder, "network."))
    return network.eval()


def load_classification(folder: Path) -> ClassificationNetwork:
    """The classification network of a run, in evaluation mode."""
    recipe = load_recipe(folder / RECIPE, ClassificationRecipe)
    network = ClassificationNetwork(recipe.network)
    network.classifier.load_state_dict(average_of(folder, "classifier."))
    return network.eval()


def segmentation_bundle(name: str | None, runs: Path) -> Bundle | None:
    """The bundle that a recipe's `segmentation` names; None where it names a run.

    Args:
        name: run folder or bundle (folder or file) below `runs`; None for the bundle that ships.
        runs: folder of the run folders.

    Raises:
        ConfigError: it is neither.
        BundleError: a bundle that cannot be used.
    """
    path = default_bundle() if name is None else runs / name
    if path.is_file() or (path / "manifest.json").exists():
        return open_bundle(path, canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    if not (path / "last.pt").exists():
        raise ConfigError(
            f"segmentation {Path(str(name)).name}: neither a trained run nor a bundle; leave `segmentation` "
            "out of the recipe to take the network of the bundle that ships"
        )
    return None


def segmentation_of(name: str | None, runs: Path) -> SegmentationNetwork:
    """The segmentation network that a recipe names, in evaluation mode; see `segmentation_bundle`."""
    bundle = segmentation_bundle(name, runs)
    return load_segmentation(runs / str(name)) if bundle is None else restore_segmentation(bundle)
