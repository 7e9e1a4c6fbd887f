"""Recipes and folders to finished runs, end to end on a handful of made pictures."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from calibration.model_calibration import Calibration
from screener.errors import ConfigError
from screener.records import ZONES
from training.classification_task import ClassificationRecipe, LossRecipe
from training.commands import app
from training.cost_curve import CurveRecipe, cost_curve
from training.host_films import HostSelection, age_years, list_hosts
from training.networks import ClassificationConfig, SegmentationConfig
from training.own_films import ImportSettings, import_films
from training.packing import PackRecipe, pack
from training.pretrain_task import PretrainRecipe, pretrain
from training.recipe import FitRecipe
from training.runs import load_classification, load_segmentation, train_classification, train_segmentation
from training.segmentation_task import SegmentationRecipe
from training.splits import PARTS
from training.study import StudyRecipe, compare

FIT = FitRecipe(epochs=1, batch_size=4, precision="32-true", accelerator="cpu")
NETWORK = ClassificationConfig(growth=2, crop_side=64)
CLASSIFICATION = ClassificationRecipe(
    cohorts=("own",),
    segmentation="segmentation",
    network=NETWORK,
    loss=LossRecipe(tasks=("diagnosis", "stage")),
    fit=FIT,
)


def chest(seed: int) -> np.ndarray:
    generator = np.random.default_rng(seed)
    picture = np.full((160, 160), 170.0)
    picture[30:120, 20:70] = picture[30:115, 90:140] = 60
    return np.clip(picture + generator.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with pairs, own films as a cohort, and ChestX-ray14's layout."""
    root = tmp_path_factory.mktemp("data")
    mask = np.zeros((160, 160), np.uint8)
    mask[30:120, 20:70] = mask[30:115, 90:140] = 255
    cv2.imwrite(str(root / "mask.png"), mask)
    for number in range(24):
        cv2.imwrite(str(root / f"made_{number}.png"), chest(number))
    pairs = [f"made_{i}.png,mask.png,anatomical,p{i}" for i in range(10)]
    (root / "pairs.csv").write_text("\n".join(["image,mask,convention,patient_group", *pairs]) + "\n")
    parts = ["train"] * 12 + ["calibration"] * 6 + ["test"] * 6
    stages = ["" if i in (3, 21) else str(i % 4) for i in range(24)]
    tb = ["" if i in (5, 20) else str(i % 2) for i in range(24)]
    own = [
        f"made_{i}.png,q{i},{stages[i]},{tb[i]},{','.join([str(i % 4)] * 6)},{parts[i]}" for i in range(24)
    ]
    header = f"file,patient,stage,tb,{','.join(ZONES)},split"
    (root / "own.csv").write_text("\n".join([header, *own]) + "\n")
    import_films(root / "own.csv", root / "own", ImportSettings())
    nih = [f"made_{i}.png,{'Mass' if i % 2 else 'No Finding'},{i}" for i in range(16)]
    (root / "Data_Entry_2017.csv").write_text(
        "\n".join(["Image Index,Finding Labels,Patient ID", *nih]) + "\n"
    )
    (root / "test_list.txt").write_text("".join(f"made_{i}.png\n" for i in range(12, 16)))
    return root


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs folder with a segmentation and a classification run of one epoch."""
    folder = tmp_path_factory.mktemp("runs")
    network = SegmentationConfig(base=4, depth=1)
    recipe = SegmentationRecipe(pairs="pairs.csv", films=None, network=network, fit=FIT)
    train_segmentation(recipe, data, folder / "segmentation")
    train_classification(CLASSIFICATION, data, folder, folder / "classification")
    return folder


def test_a_run_leaves_what_a_reader_needs(runs: Path) -> None:
    for name in ("segmentation", "classification"):
        found = {path.name for path in (runs / name).iterdir()}
        assert found >= {"recipe.toml", "run.json", "split.csv", "metrics.parquet", "curves.png", "last.pt"}
    table = pl.read_parquet(runs / "classification" / "predictions_test.parquet")
    assert table.height == 6
    assert table["logit_stage0"].is_not_null().all()
    assert not load_segmentation(runs / "segmentation").training
    assert not load_classification(runs / "classification").training


@pytest.mark.parametrize("missing", ["test", "calibration"])
def test_only_the_test_part_may_be_made_elsewhere(
    data: Path, runs: Path, tmp_path: Path, missing: str
) -> None:
    shutil.copytree(data / "own", tmp_path / "own")
    table = tmp_path / "own" / "cohort.parquet"
    pl.read_parquet(table).filter(pl.col("split") != missing).write_parquet(table)
    parts = [part for part in PARTS if part != missing]
    (tmp_path / "own" / "cohort.json").write_text(json.dumps({"parts": parts}))
    shutil.copytree(runs / "segmentation", tmp_path / "segmentation")
    if missing == "calibration":
        with pytest.raises(ConfigError, match="calibration part"):
            train_classification(CLASSIFICATION, tmp_path, tmp_path, tmp_path / "run")
        assert not (tmp_path / "run" / "last.pt").exists()
        return
    train_classification(CLASSIFICATION, tmp_path, tmp_path, tmp_path / "run")
    assert (tmp_path / "run" / "predictions_calibration.parquet").exists()


def test_a_run_that_was_not_trained_is_named(tmp_path: Path, runs: Path) -> None:
    (tmp_path / "recipe.toml").write_text((runs / "classification" / "recipe.toml").read_text())
    with pytest.raises(ConfigError, match="no checkpoint"):
        load_classification(tmp_path)


def test_pretraining_ends_in_the_official_table(data: Path, runs: Path) -> None:
    recipe = PretrainRecipe(network=NETWORK, fit=FIT)
    pretrain(recipe, data, load_segmentation(runs / "segmentation"), runs / "pretrain")
    table = pl.read_csv(runs / "pretrain" / "auroc.csv")
    assert table.filter(pl.col("finding") == "Mass")["num_positive"].item() == 2
    assert table.filter(pl.col("finding") == "Hernia")["auroc"].item() is None
    assert (runs / "pretrain" / "backbone.pt").exists()


def test_pretraining_reads_the_sets_own_layout_and_real_films(runs: Path, tmp_path: Path) -> None:
    nih = Path(__file__).parent / "chestxray14"
    recipe = PretrainRecipe(network=NETWORK, fit=replace(FIT, epochs=2))
    pretrain(recipe, nih, load_segmentation(runs / "segmentation"), tmp_path / "run")
    table = pl.read_csv(tmp_path / "run" / "auroc.csv")
    listed = pl.read_csv(nih / "Data_Entry_2017.csv")
    test = listed.filter(pl.col("Image Index").is_in((nih / "test_list.txt").read_text().split()))
    mentions = test["Finding Labels"].str.split("|").explode().value_counts()
    for finding, count in mentions.filter(pl.col("Finding Labels") != "No Finding").iter_rows():
        row = table.filter(pl.col("finding") == finding)
        assert row["num_positive"].item() == count
        assert 0 <= row["auroc"].item() <= 1
    losses = pl.read_parquet(tmp_path / "run" / "metrics.parquet")["loss"].to_list()
    assert losses[1] < losses[0], "two passes over real films must lower the loss"


def test_a_study_ends_in_one_sentence(data: Path, runs: Path) -> None:
    recipe = StudyRecipe(
        repeats=2, classification=replace(CLASSIFICATION, fit=replace(FIT, evaluate_every=9))
    )
    sentence = compare(recipe, data, runs, runs / "study")
    assert sentence.startswith("These data")
    written = {path.name for path in (runs / "study").iterdir()}
    assert written >= {"comparison.parquet", "comparison.md", "comparison.png", "predictions.parquet"}
    text = (runs / "study" / "comparison.md").read_text()
    assert sentence in text
    locked = pl.read_parquet(runs / "study" / "locked.parquet")
    assert set(locked["way"]) == {"diagnosis", "stage", "multi-task"}
    recalls = locked.filter((pl.col("way") == "stage") & pl.col("figure").str.starts_with("recall"))
    assert recalls["films"].sum() == 5, "every film of the test part that was read has one stage"
    comparison = pl.read_parquet(runs / "study" / "comparison.parquet")
    assert "kappa" not in comparison.filter(task="diagnosis")["metric"].to_list(), "a diagnosis has no order"
    assert "kappa" in comparison.filter(task="stage")["metric"].to_list()
    assert "take films as independent" in text
    areas = locked.filter(pl.col("figure").str.starts_with("AUC"))
    assert ((areas["low"] <= areas["value"]) & (areas["value"] <= areas["high"])).all()
    assert "recall of stage" in text


def test_a_cost_curve_has_a_time_and_an_accuracy_for_every_point(data: Path, runs: Path) -> None:
    recipe = CurveRecipe(growths=(2, 4), sides=(64, 64), classification=CLASSIFICATION)
    table = cost_curve(recipe, data, runs, runs / "curve")
    assert sorted(table["growth"].to_list()) == [2, 4]
    assert (table["ms_per_film"] > 0).all()
    assert table["stage_accuracy"].is_between(0, 1).all()
    assert {path.name for path in (runs / "curve").iterdir()} >= {"curve.parquet", "curve.md", "curve.png"}
    before = (runs / "curve" / "growth2-side64" / "last.pt").stat().st_mtime_ns
    # The table's own order is that of measured time.
    again = cost_curve(recipe, data, runs, runs / "curve").sort("growth")
    assert again["stage_accuracy"].to_list() == table.sort("growth")["stage_accuracy"].to_list()
    assert (runs / "curve" / "growth2-side64" / "last.pt").stat().st_mtime_ns == before


def test_hosts_without_plausible_lungs_are_left_out(data: Path, runs: Path, tmp_path: Path) -> None:
    index = data / "labels.csv"
    header = "file,view,orientation,licence,patient_group,age,findings"
    index.write_text(
        f"{header}\nmade_0.png,PA,upright,free,p0,40,No Finding\nmade_1.png,lateral,upright,free,p1,40,\n"
    )
    network = load_segmentation(runs / "segmentation")
    with pytest.raises(ConfigError, match="no film is usable"):
        list_hosts(index, network, tmp_path, HostSelection(prefixes=("none",)))


def test_the_source_of_a_host_is_its_data_set_not_where_the_copy_came_from(
    data: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lungs = np.zeros((160, 160), np.uint8)
    lungs[30:120, 20:70], lungs[30:115, 90:140] = 1, 2
    monkeypatch.setattr("training.host_films.segment_grey", lambda *_: lungs)
    header = "file,view,orientation,licence,patient_group,age,findings,source"
    for more, cell, wanted in (("", "", "made"), (",data_set", ",dust", "dust")):
        index = data / "sources.csv"
        index.write_text(f"{header}{more}\nmade_0.png,PA,upright,free,p0,40,,someone/copies{cell}\n")
        list_hosts(index, load_segmentation(runs / "segmentation"), tmp_path, HostSelection(prefixes=()))
        assert pl.read_csv(tmp_path / "films.csv")["source"].to_list() == [wanted]


def test_a_hospital_trains_on_its_own_films_without_a_segmentation_of_its_own(
    data: Path, tmp_path: Path
) -> None:
    lines = (data / "own.csv").read_text().splitlines()
    chosen = [lines[0], *lines[9:17], *lines[19:21]]
    index = data / "few.csv"
    index.write_text("\n".join(chosen) + "\n")
    recipe = tmp_path / "my.toml"
    recipe.write_text(
        'cohorts = ["few"]\n[network]\ngrowth = 2\ncrop_side = 64\n[loss]\ntasks = ["diagnosis", "stage"]\n'
        '[fit]\nepochs = 1\nbatch_size = 4\nprecision = "32-true"\naccelerator = "cpu"\n'
    )
    runner = CliRunner()
    for command in (
        ["films", str(index), "--out", str(data / "few")],
        ["classify", "--data", str(data), "--runs", str(tmp_path), "--recipe", str(recipe), "--name", "mine"],
    ):
        result = runner.invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert pl.read_parquet(tmp_path / "mine" / "predictions_test.parquet").height == 2
    trained_on = json.loads((tmp_path / "mine" / "run.json").read_text())["trained_on"]
    assert trained_on["num_simulated"] == 0
    assert trained_on["num_train"] == 4


def test_a_segmentation_that_is_not_there_is_named(data: Path, runs: Path) -> None:
    with pytest.raises(ConfigError, match="segmentation absent: neither a trained run nor a bundle"):
        train_classification(replace(CLASSIFICATION, segmentation="absent"), data, runs, runs / "none")


@pytest.mark.parametrize("way", ["study", "curve"])
def test_studies_and_curves_start_from_what_the_recipe_names(data: Path, runs: Path, way: str) -> None:
    recipe = replace(CLASSIFICATION, initial_weights="absent.safetensors")
    with pytest.raises(ConfigError, match="weight file is missing"):
        if way == "study":
            compare(StudyRecipe(repeats=2, classification=recipe), data, runs, runs / "study-from")
        else:
            cost_curve(CurveRecipe((2,), (64,), recipe), data, runs, runs / "curve-from")


def test_a_study_refuses_a_start_that_knows_its_folds(data: Path, runs: Path) -> None:
    recipe = StudyRecipe(2, replace(CLASSIFICATION, initial_run="classification"))
    with pytest.raises(ConfigError, match="patients that this run holds out"):
        compare(recipe, data, runs, runs / "study-known")


@pytest.mark.parametrize("age", ["058Y", "58", "", "006M"])
def test_ages_of_hosts_may_be_odd(age: str) -> None:
    assert (age_years(age, "labels.csv row 2") < 15) == (age == "006M")


def test_an_age_that_is_none_names_its_row(data: Path, runs: Path, tmp_path: Path) -> None:
    index = data / "ages.csv"
    header = "file,view,orientation,licence,patient_group,age,findings"
    index.write_text(f"{header}\nmade_0.png,lateral,upright,,p0,old,\nmade_1.png,PA,upright,,p1,old,\n")
    network = load_segmentation(runs / "segmentation")
    with pytest.raises(ConfigError, match=r"ages\.csv row 3: age"):
        list_hosts(index, network, tmp_path, HostSelection(prefixes=()))
    index.write_text(f"{header}\nmade_1.png,PA,upright,,,40,\n")
    with pytest.raises(ConfigError, match=r"ages\.csv row 2: file and patient_group"):
        list_hosts(index, network, tmp_path, HostSelection(prefixes=()))


@pytest.mark.slow
def test_runs_become_a_bundle(data: Path, runs: Path, tmp_path: Path) -> None:
    recipe = PackRecipe(cohorts=("own",), licences=("made pictures",))
    bundle = pack(recipe, data, runs, tmp_path / "bundle")
    assert bundle.manifest.canvas_side == 768
    assert "made pictures" in bundle.model_card
    assert "imulated" not in bundle.model_card, "nothing was drawn into these films"
    fitted_on = Calibration.parse(bundle.calibration, "calibration.json").fitted_on
    assert fitted_on is not None
    assert not fitted_on.simulated
    assert (runs / "classification" / "judged.parquet").exists()
