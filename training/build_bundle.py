"""One data folder to the bundle that ships: every step in order, each continued or skipped when it is done.

    python -m training.build_bundle --data DIR [--work runs/bundle] [--out engines/bundles/demo]

Phantoms, segmentation in two stages, host films with masks, films with drawn findings, classification in two
stages, then export, calibration and packing. The decision a reader would question: nothing here has settings
of its own. Each step runs a shipped recipe, so that what built the bundle can be read in `training/recipes`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from screener.errors import ScreenerError
from training.classification_task import ClassificationRecipe
from training.cohort import build
from training.cohort_deal import CohortSettings
from training.host_films import HostSelection, list_hosts
from training.packing import PackRecipe, pack
from training.recipe import load_recipe
from training.runs import load_segmentation, train_classification, train_segmentation
from training.segmentation_task import SegmentationRecipe

RECIPES = Path(__file__).parent / "recipes"
NUM_PHANTOMS, PHANTOM_SEED = 600, 11
DRAWN = CohortSettings(5800, 41, real_share=0.83)
DEFAULT_OUT = Path("engines/bundles/demo")


def build_bundle(data: Path, work: Path, out: Path) -> None:
    """Build everything from a data folder.

    Args:
        data: holds `lungmasks/pairs.csv` and `cxr/labels.csv` with their pictures.
        work: cohorts and runs; a build that was interrupted goes on from there.
        out: bundle folder to write.

    Raises:
        ScreenerError: data that cannot be used; names file and row.
    """
    data, work = data.resolve(), work.resolve()
    phantoms, drawn, hosts = work / "phantoms", work / "drawn", work / "hosts"
    _say("phantoms")
    build(phantoms, CohortSettings(NUM_PHANTOMS, PHANTOM_SEED))
    _say("segmentation, first stage")
    first = load_recipe(RECIPES / "segmentation.toml", SegmentationRecipe)
    train_segmentation(first, data, work / "segmentation-first", on_epoch=_report)
    _say("segmentation, second stage")
    second = load_recipe(RECIPES / "segmentation-refine.toml", SegmentationRecipe)
    second = replace(second, cohorts=(str(phantoms),), initial_run=str(work / "segmentation-first"))
    train_segmentation(second, data, work / "segmentation", on_epoch=_report)
    if not (hosts / "films.csv").exists():
        _say("host films")
        list_hosts(data / "cxr/labels.csv", load_segmentation(work / "segmentation"), hosts, HostSelection())
    _say("films with drawn findings")
    build(drawn, replace(DRAWN, films=hosts / "films.csv"))
    cohorts = (str(drawn),)
    for stage, name in (
        ("classification", "classification-first"),
        ("classification-refine", "classification"),
    ):
        _say(name)
        recipe = replace(load_recipe(RECIPES / f"{stage}.toml", ClassificationRecipe), cohorts=cohorts)
        train_classification(recipe, data, work, work / name, on_epoch=_report)
    _say("bundle")
    packed = pack(replace(load_recipe(RECIPES / "bundle.toml", PackRecipe), cohorts=cohorts), data, work, out)
    _say(f"{out}: model {packed.model_sha256[:12]}")


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
    arguments = parser.parse_args()
    try:
        build_bundle(arguments.data, arguments.work, arguments.out)
    except ScreenerError as error:
        _say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
