"""One data folder to the bundle that ships: every step in order, each continued or skipped when it is done.

    python -m training.build_bundle --data DIR [--work runs/bundle] [--out engines/bundles/demo] [--gpu]

Phantoms, segmentation in four stages, host films with masks, films with drawn findings, classification in
two stages, then export, calibration and packing, and int8 ranges if int8 is as good. The decision a reader
would question: nothing here has settings of its own. Each step runs a recipe, so that what built the bundle
can be read in `training/recipes`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from screener.errors import ScreenerError
from training.classification_task import ClassificationRecipe
from training.cohort import build
from training.cohort_deal import CohortSettings
from training.host_films import HostSelection, list_hosts
from training.int8_graphs import add_int8
from training.packing import PackRecipe, pack
from training.recipe import load_recipe
from training.runs import load_segmentation, train_classification, train_segmentation
from training.segmentation_task import SegmentationRecipe

DEFAULT_OUT = Path("engines/bundles/demo")
RECIPES = Path(__file__).parent / "recipes"
_SEGMENTATION = (
    ("segmentation", "segmentation-first"),
    ("segmentation-refine", "segmentation-second"),
    ("segmentation-settle", "segmentation-third"),
    ("segmentation-opacified", "segmentation"),
)
_CLASSIFICATION = (
    ("classification", "classification-first"),
    ("classification-refine", "classification"),
)
_CLASSIFICATION_GPU = (
    ("classification", "classification-first"),
    ("classification-refine", "classification-second"),
    ("classification-settle", "classification"),
)
"""Recipe and run folder of each stage; a stage starts from the weights of the one before it."""


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """What is drawn, and the folder of recipes; the defaults are what ships."""

    recipes: Path = RECIPES
    phantoms: CohortSettings = field(default_factory=lambda: CohortSettings(600, 11))
    """Pictures with exact lung masks for segmentation."""
    drawn: CohortSettings = field(default_factory=lambda: CohortSettings(7500, 41, real_share=0.83))
    """Films with findings for classification; its list of host films is made on the way."""
    classification: tuple[tuple[str, str], ...] = _CLASSIFICATION
    """Recipe and run folder of each stage of the classification."""
    packing: Path = RECIPES / "bundle.toml"
    int8_films: int = 64
    """Training films that give the activation ranges."""


GPU_PLAN = BuildPlan(
    recipes=RECIPES / "gpu",
    drawn=CohortSettings(20000, 61, real_share=0.83),
    classification=_CLASSIFICATION_GPU,
)
"""More films, larger crops and more passes than two cores could train in a night."""


def build_bundle(data: Path, work: Path, out: Path, plan: BuildPlan | None = None) -> None:
    """Build everything from a data folder.

    Args:
        data: holds `lungmasks/pairs.csv` and `cxr/labels.csv` with their pictures.
        work: cohorts and runs; a build that was interrupted goes on from there.
        out: bundle folder to write.
        plan: what to draw and train; None builds what ships.

    Raises:
        ScreenerError: data that cannot be used; names file and row.
    """
    data, work, plan = data.resolve(), work.resolve(), plan or BuildPlan()
    phantoms, drawn, hosts = work / "phantoms", work / "drawn", work / "hosts"
    _say("phantoms")
    build(phantoms, plan.phantoms)
    _train_segmentation(plan.recipes, data, work, phantoms)
    if not (hosts / "films.csv").exists():
        _say("host films")
        list_hosts(data / "cxr/labels.csv", load_segmentation(work / "segmentation"), hosts, HostSelection())
    _say("films with drawn findings")
    build(drawn, replace(plan.drawn, films=hosts / "films.csv"))
    for stage, name in plan.classification:
        _say(name)
        recipe = load_recipe(plan.recipes / f"{stage}.toml", ClassificationRecipe)
        train_classification(
            replace(recipe, cohorts=(str(drawn),)), data, work, work / name, on_epoch=_report
        )
    _say("bundle")
    packing = replace(load_recipe(plan.packing, PackRecipe), cohorts=(str(drawn),))
    packed = pack(packing, data, work, out)
    add_int8(packed, [drawn], out, num_films=plan.int8_films, on_step=_say)
    _say(f"{out}: model {packed.model_sha256[:12]}")


def _train_segmentation(recipes: Path, data: Path, work: Path, phantoms: Path) -> None:
    """Every stage; phantoms join and weights are handed on from the second stage on."""
    before: Path | None = None
    for stage, name in _SEGMENTATION:
        _say(name)
        recipe = load_recipe(recipes / f"{stage}.toml", SegmentationRecipe)
        if before is not None:
            recipe = replace(recipe, cohorts=(str(phantoms),), initial_run=str(before))
        train_segmentation(recipe, data, work / name, on_epoch=_report)
        before = work / name


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _report(row: Mapping[str, float]) -> None:
    _say("  " + ", ".join(f"{name} {value:.4g}" for name, value in row.items()))


def main() -> int:
    """Read the command line and build."""
    parser = argparse.ArgumentParser(prog="python -m training.build_bundle", description="Build the bundle.")
    parser.add_argument("--data", type=Path, required=True, help="folder with lungmasks/ and cxr/")
    parser.add_argument("--work", type=Path, default=Path("runs/bundle"), help="cohorts and runs")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="bundle folder to write")
    parser.add_argument(
        "--gpu", action="store_true", help="the plan for a GPU; drawing and judging use the CPU"
    )
    arguments = parser.parse_args()
    try:
        build_bundle(arguments.data, arguments.work, arguments.out, GPU_PLAN if arguments.gpu else None)
    except ScreenerError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
