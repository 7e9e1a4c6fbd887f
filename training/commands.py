"""`screener train ...`: recipes and folders on the command line, one call each, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import typer

app = typer.Typer(help="Train, compare and pack the networks of a bundle.", no_args_is_help=True)

Recipe = TypeVar("Recipe")

RECIPES = Path(__file__).parent / "recipes"

DataOption = Annotated[Path, typer.Option("--data", help="Folder that the recipe's paths are below.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of the run folders.")]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="Recipe (TOML); the shipped one if left out.")
]


def _recipe(path: Path | None, name: str, kind: type[Recipe]) -> Recipe:
    from training.recipe import load_recipe

    return load_recipe(path or RECIPES / f"{name}.toml", kind)


def _report(row: Mapping[str, float]) -> None:
    shown = ", ".join(f"{name} {value:.4g}" for name, value in row.items())
    print(shown, file=sys.stderr, flush=True)  # noqa: T201 - this is the progress display


@app.command()
def segmentation(
    data: DataOption, runs: RunsOption = Path("runs"), recipe: RecipeOption = None, name: str = "segmentation"
) -> None:
    """Train the lung segmentation network on image and mask pairs; continues a run that was interrupted."""
    from training.runs import train_segmentation
    from training.segmentation_task import SegmentationRecipe

    loaded = _recipe(recipe, "segmentation", SegmentationRecipe)
    train_segmentation(loaded, data, runs / name, on_epoch=_report)


@app.command()
def classify(
    data: DataOption,
    runs: RunsOption = Path("runs"),
    recipe: RecipeOption = None,
    name: str = "classification",
    tasks: Annotated[
        str | None, typer.Option(help="Heads to train, for example diagnosis or diagnosis,stage.")
    ] = None,
) -> None:
    """Train the multi-task classification network on cohorts; continues a run that was interrupted."""
    from training.classification_task import ClassificationRecipe
    from training.runs import single_task, train_classification

    loaded = _recipe(recipe, "classification", ClassificationRecipe)
    if tasks is not None:
        loaded = single_task(loaded, tuple(tasks.split(",")))
    train_classification(loaded, data, runs, runs / name, on_epoch=_report)


@app.command()
def bundle(
    data: DataOption,
    out: Annotated[Path, typer.Option("--out", help="Bundle folder to write.")],
    runs: RunsOption = Path("runs"),
    recipe: RecipeOption = None,
    version: Annotated[str | None, typer.Option(help="Version written into the manifest.")] = None,
) -> None:
    """Export both networks, verify them, calibrate them on held-out films and write a bundle."""
    from training.packing import PackRecipe, pack

    loaded = _recipe(recipe, "bundle", PackRecipe)
    if version is not None:
        loaded = replace(loaded, version=version)
    packed = pack(loaded, data, runs, out)
    print(f"{packed.manifest.name} {packed.manifest.version} {packed.model_sha256[:12]}")  # noqa: T201


if __name__ == "__main__":
    app()
