"""Run folders to networks, and the weights that another run starts from.

The decision a reader would question: a run is refused as a start when a patient that it, or a run that it
started from, was trained on stands in this run's held-out films. Its figures would be of known patients.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

import polars as pl
import torch
from torch import nn

from engines.bundle import Bundle, default_bundle, open_bundle
from screener.canvas import CANVAS_SIDE, CANVAS_VERSION
from screener.errors import ConfigError
from training.classification_task import ClassificationRecipe
from training.fit import write_torch
from training.networks import ClassificationNetwork, SegmentationNetwork
from training.recipe import load_recipe
from training.restore import restore_segmentation
from training.run_record import FACTS, RECIPE
from training.segmentation_task import SegmentationRecipe

_CHESTXRAY14 = re.compile(r"nih_\d+")
"""Patients of ChestX-ray14 as the index of the shipped bundle's films names them."""
_BLENDED = "blended.pt"
_LEFT_OUT = {
    "segmentation": "to take the network of the bundle that ships",
    "initial_bundle": "to start from random weights, or say `shipped`",
    "classification": "to pack the run `classification`, or say `shipped`",
}


def average_of(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    """Averaged weights of a run, `blend`'s if there are any, without the prefix of the training module."""
    blended = folder / _BLENDED
    try:
        held = torch.load(
            blended if blended.exists() else folder / "last.pt", map_location="cpu", weights_only=True
        )
    except OSError as error:
        raise ConfigError(f"run {folder.name} has no checkpoint; train it first") from error
    return {k.removeprefix(prefix): v for k, v in held["average"].items() if k.startswith(prefix)}


def blend(folder: Path, start: Mapping[str, torch.Tensor], share: float) -> None:
    """Average what a run ended with and what it started from; `average_of` then gives the result.

    A short run on harder films gains on those and loses on others; between both ends of it lie weights that
    keep most of either (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).

    Args:
        folder: run folder with its last checkpoint; `blended.pt` is written there.
        start: weights of the whole training module that the run started from.
        share: of `start`, 0 to 1; 0 leaves the run's own weights.
    """
    if not share:
        (folder / _BLENDED).unlink(missing_ok=True)
        return
    last = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)["average"]
    mixed = {
        name: torch.lerp(end, start[name].to(end), share) if end.is_floating_point() else end
        for name, end in last.items()
    }
    write_torch(folder / _BLENDED, {"average": mixed})


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
        if settings.get("initial_bundle") is not None:
            facts = json.loads((run / FACTS).read_text(encoding="utf-8"))
            refuse_patients_of_bundle(facts["initial_bundle"]["model_sha256"], patients)
        if settings.get("initial_run") is None:
            return
        run = below / settings["initial_run"]


def refuse_patients_of_bundle(model_sha256: str, held_out: Iterable[str]) -> None:
    """Refuse the bundle that ships as a start for a run that holds out patients of ChestX-ray14.

    Which of them it was trained on is not recorded. Of other bundles nothing is known; model cards say so.

    Args:
        model_sha256: of the bundle to start from.
        held_out: patients of the run's calibration and test parts.

    Raises:
        ConfigError: some are named like patients of ChestX-ray14; says how many.
    """
    seen = sum(_CHESTXRAY14.fullmatch(patient) is not None for patient in set(held_out))
    if seen and model_sha256 == _opened(default_bundle()).model_sha256:
        raise ConfigError(
            f"{seen} patients that this run holds out for calibration or test are of ChestX-ray14, which the "
            "bundle that ships was trained on: hold out others, or start from other weights"
        )


def _opened(path: Path) -> Bundle:
    return open_bundle(path, canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)


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


def network_bundle(name: str | None, runs: Path, setting: str = "segmentation") -> Bundle | None:
    """The bundle that a setting of a recipe names; None where it names a run.

    Args:
        name: run folder or bundle (folder or file) below `runs`; None for the bundle that ships.
        runs: folder of the run folders.
        setting: for the message.

    Raises:
        ConfigError: it is neither.
        BundleError: a bundle that cannot be used.
    """
    path = default_bundle() if name is None else runs / name
    if path.is_file() or (path / "manifest.json").exists():
        return _opened(path)
    if not (path / "last.pt").exists():
        raise ConfigError(
            f"{setting} {Path(str(name)).name}: neither a trained run nor a bundle; leave `{setting}` out of "
            f"the recipe {_LEFT_OUT[setting]}"
        )
    return None


def segmentation_of(name: str | None, runs: Path) -> SegmentationNetwork:
    """The segmentation network that a recipe names, in evaluation mode; see `network_bundle`."""
    bundle = network_bundle(name, runs)
    return load_segmentation(runs / str(name)) if bundle is None else restore_segmentation(bundle)
