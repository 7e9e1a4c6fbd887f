"""`screener train ...`: recipes and folders on the command line, one call each, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

if TYPE_CHECKING:
    from training.fit import OnStep

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


@contextmanager
def _steps() -> Iterator[OnStep]:
    """A bar for the steps of an epoch on stderr; nothing is drawn where that is not a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        bar = progress.add_task("epoch 1", total=None)

        def told(epoch: int, step: int, steps: int) -> None:
            progress.update(bar, description=f"epoch {epoch + 1}", completed=step, total=steps)

        yield told


@app.command()
def segmentation(
    data: DataOption, runs: RunsOption = Path("runs"), recipe: RecipeOption = None, name: str = "segmentation"
) -> None:
    """Train the lung segmentation network on image and mask pairs; continues a run that was interrupted."""
    from training.runs import train_segmentation
    from training.segmentation_task import SegmentationRecipe

    loaded = _recipe(recipe, "segmentation", SegmentationRecipe)
    with _steps() as on_step:
        train_segmentation(loaded, data, runs / name, on_epoch=_report, on_step=on_step)


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
    with _steps() as on_step:
        train_classification(loaded, data, runs, runs / name, on_epoch=_report, on_step=on_step)


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


@app.command()
def int8(
    data: DataOption,
    bundle: Annotated[Path, typer.Option("--bundle", help="Bundle folder; rewritten with the result.")],
    cohorts: Annotated[str, typer.Option(help="Cohort folders below the data folder, by comma.")],
    films: Annotated[int, typer.Option(help="Training films that give the activation ranges.")] = 48,
    check_only: Annotated[bool, typer.Option(help="Write the result into the card, and no ranges.")] = False,
    own_ranges: Annotated[
        bool,
        typer.Option(help="Check the ranges that the bundle holds on this machine; drop them if they fail."),
    ] = False,
) -> None:
    """Add int8 ranges to a bundle if int8 is as good on its test films; the model card gets the result."""
    from engines.bundle import open_bundle
    from screener.canvas import CANVAS_SIDE, CANVAS_VERSION
    from training.int8_graphs import Int8Limits, add_int8

    def told(step: str) -> None:
        print(step, file=sys.stderr, flush=True)  # noqa: T201

    opened = open_bundle(bundle, canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    folders = [data / name for name in cohorts.split(",")]
    found = add_int8(
        opened,
        folders,
        bundle,
        num_films=films,
        check_only=check_only,
        own_ranges=own_ranges,
        on_step=told,
    )
    print(found.markdown(Int8Limits()))  # noqa: T201
    if found.failures(Int8Limits()):
        raise typer.Exit(1)


@app.command()
def pretrain(
    nih: Annotated[Path, typer.Option("--nih", help="Folder of ChestX-ray14 in its own layout.")],
    runs: RunsOption = Path("runs"),
    recipe: RecipeOption = None,
    name: str = "pretrain",
    weights: Annotated[
        Path | None, typer.Option(help="DenseNet-121 weights to start from (torchvision or CheXNet layout).")
    ] = None,
) -> None:
    """Pre-train DenseNet-121 on ChestX-ray14: 14 labels, official test list, AUROC beside published ones."""
    from training.checkpoints import segmentation_of
    from training.pretrain_task import PretrainRecipe
    from training.pretrain_task import pretrain as run

    loaded = _recipe(recipe, "pretrain", PretrainRecipe)
    network = segmentation_of(loaded.segmentation, runs)
    with _steps() as on_step:
        run(loaded, nih, network, runs / name, weights=weights, on_epoch=_report, on_step=on_step)
    table = runs / name / "auroc.csv"
    if table.exists():
        print(table.read_text(encoding="utf-8"), end="")  # noqa: T201


@app.command()
def compare(
    data: DataOption, runs: RunsOption = Path("runs"), recipe: RecipeOption = None, name: str = "compare"
) -> None:
    """Compare single- with multi-task training over patient-grouped folds, with tests side by side."""
    from training.study import StudyRecipe
    from training.study import compare as run

    def told(fold: int, way: str) -> None:
        print(f"fold {fold + 1}: {way}", file=sys.stderr, flush=True)  # noqa: T201

    sentence = run(_recipe(recipe, "compare", StudyRecipe), data, runs, runs / name, on_fold=told)
    print(sentence)  # noqa: T201


@app.command()
def curve(
    data: DataOption, runs: RunsOption = Path("runs"), recipe: RecipeOption = None, name: str = "curve"
) -> None:
    """Measure accuracy against cost over network width and input side, one short run a point."""
    from training.cost_curve import CurveRecipe, cost_curve, curve_markdown

    def told(growth: int, side: int) -> None:
        print(f"growth {growth}, side {side}", file=sys.stderr, flush=True)  # noqa: T201

    table = cost_curve(_recipe(recipe, "curve", CurveRecipe), data, runs, runs / name, on_point=told)
    print(curve_markdown(table), end="")  # noqa: T201


@app.command()
def films(
    index: Annotated[Path, typer.Argument(help="CSV of labelled films: file, patient, and label columns.")],
    out: Annotated[Path, typer.Option("--out", help="Cohort folder to write.")],
    source: Annotated[str, typer.Option(help="Name of the source in figures.")] = "own",
) -> None:
    """Make a cohort of your own labelled films (DICOM, PNG or JPEG), drawn on the screening canvas."""
    from training.own_films import ImportSettings, import_films

    count = import_films(index, out, ImportSettings(source=source))
    print(f"{count} films")  # noqa: T201


@app.command()
def hosts(
    index: Annotated[Path, typer.Argument(help="CSV of real films: file, view, orientation, licence, ...")],
    out: Annotated[Path, typer.Option("--out", help="Folder for films.csv and masks.")],
    runs: RunsOption = Path("runs"),
    name: Annotated[
        str | None, typer.Option(help="Segmentation run or bundle below --runs; else the bundle that ships.")
    ] = None,
    prefixes: Annotated[
        str, typer.Option(help="Beginnings of the file names that are taken, by comma; all if left out.")
    ] = "",
) -> None:
    """List real films with lung masks, as hosts for the findings that `screener cohort build` draws."""
    from training.checkpoints import segmentation_of
    from training.host_films import HostSelection, list_hosts

    chosen = HostSelection(prefixes=tuple(prefix for prefix in prefixes.split(",") if prefix))
    print(f"{list_hosts(index, segmentation_of(name, runs), out, chosen)} films")  # noqa: T201


if __name__ == "__main__":
    app()
