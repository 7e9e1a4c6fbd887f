"""`python -m training.build_bundle` from a data folder to a bundle that screens, in miniature."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest

from engines.bundle import open_bundle
from screener.canvas import CANVAS_SIDE, CANVAS_VERSION
from training.build_bundle import GPU_PLAN, BuildPlan, build_bundle
from training.classification_task import ClassificationRecipe
from training.cohort_deal import CohortSettings
from training.packing import PackRecipe
from training.recipe import load_recipe

_FIT = '[fit]\nbatch_size = 8\nprecision = "32-true"\naccelerator = "cpu"\nlearning_rate = 4e-3\nepochs = '
_SEGMENTATION = f'pairs = "lungmasks/pairs.csv"\n[network]\nbase = 8\ndepth = 2\n{_FIT}'
_CLASSIFICATION = (
    "[network]\ngrowth = 2\ncrop_side = 64\nfinding_maps = true\n[loss]\nfindings_weight = 1.0\n"
)
RECIPES = {
    "segmentation": f"{_SEGMENTATION}10\n",
    # Another share of the films without masks than the stage before: both must hold out the same patients.
    "segmentation-refine": f"every_film = 3\n{_SEGMENTATION}2\n",
    "segmentation-settle": f"{_SEGMENTATION}1\n",
    "segmentation-opacified": f'initial_run = "any"\nstart_share = 0.5\n{_SEGMENTATION}1\n',
    "classification": f'segmentation = "segmentation"\ntrain_side = 32\n{_CLASSIFICATION}{_FIT}1\n',
    "classification-refine": (
        f'segmentation = "segmentation"\ninitial_run = "classification-first"\n{_CLASSIFICATION}{_FIT}1\n'
    ),
    "bundle": 'name = "small"\nlicences = ["made pictures"]\n',
}


def _films(root: Path, count: int) -> None:
    """Pictures with two unlike dark lungs, their masks, and both indexes."""
    mask, depth = np.zeros((192, 192), np.uint8), np.full((192, 192), 175.0)
    for column, wide, grey in ((58, 30, 45), (134, 22, 95)):
        cv2.ellipse(mask, (column, 100), (wide, 62), 0, 0, 360, 255, -1)
        cv2.ellipse(depth, (column, 100), (wide, 62), 0, 0, 360, grey, -1)
    (root / "lungmasks").mkdir(parents=True)
    (root / "cxr").mkdir()
    cv2.imwrite(str(root / "lungmasks/mask.png"), mask)
    pairs, films = (
        ["image,mask,convention,patient_group"],
        ["file,view,orientation,licence,patient_group,age"],
    )
    films[0] += ",findings"
    for number in range(count):
        generator = np.random.default_rng(number)
        picture = depth + generator.normal(0, 9, mask.shape)
        cv2.imwrite(str(root / f"cxr/nih_{number}.png"), np.clip(picture, 0, 255).astype(np.uint8))
        pairs.append(f"../cxr/nih_{number}.png,mask.png,anatomical,p{number}")
        films.append(f"nih_{number}.png,PA,upright,free,p{number},40,No Finding")
    (root / "lungmasks/pairs.csv").write_text("\n".join(pairs) + "\n")
    (root / "cxr/labels.csv").write_text("\n".join(films) + "\n")


@pytest.mark.slow
def test_a_data_folder_becomes_a_bundle(tmp_path: Path) -> None:
    data, work, out = tmp_path / "data", tmp_path / "work", tmp_path / "bundle"
    _films(data, 24)
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name, text in RECIPES.items():
        (recipes / f"{name}.toml").write_text(text)
    plan = BuildPlan(
        recipes,
        CohortSettings(10, 11),
        CohortSettings(60, 41, real_share=0.7),
        packing=recipes / "bundle.toml",
        int8_films=8,
    )
    build_bundle(data, work, out, plan)
    bundle = open_bundle(out, canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    assert bundle.manifest.name == "small"
    assert "made pictures" in bundle.model_card
    assert "## INT8" in bundle.model_card
    hosts = pl.read_csv(work / "hosts/films.csv")
    assert hosts.height >= 12, "segmentation learnt lungs well enough to draw into"
    drawn = pl.read_parquet(work / "drawn/cohort.parquet")
    assert set(drawn["source"]) == {"nih", "phantom"}
    finished = {path: path.stat().st_mtime_ns for path in work.rglob("last.pt")}
    assert len(finished) == 6
    assert (work / "segmentation/blended.pt").exists()
    build_bundle(data, work, tmp_path / "again", plan)
    assert {path: path.stat().st_mtime_ns for path in work.rglob("last.pt")} == finished, "nothing is redone"


@pytest.mark.parametrize("plan", [BuildPlan(), GPU_PLAN], ids=["cpu", "gpu"])
def test_every_stage_of_a_plan_starts_from_the_one_before_it(plan: BuildPlan) -> None:
    before = None
    first = load_recipe(plan.recipes / "classification.toml", ClassificationRecipe)
    for recipe, name in plan.classification:
        found = load_recipe(plan.recipes / f"{recipe}.toml", ClassificationRecipe)
        assert found.initial_run == before
        assert found.segmentation == "segmentation"
        assert found.network == first.network
        before = name
    assert before == load_recipe(plan.packing, PackRecipe).classification
