"""The training loop and the tasks: exact resume, losses, augmentation, crops, the study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
import torch

from screener.errors import ConfigError
from screener.records import ZONES
from training.augmentation import ToneRange, random_tone
from training.checkpoints import average_of, blend, refuse_seen_patients
from training.classification_task import (
    ClassificationRecipe,
    ClassificationTask,
    LossRecipe,
    WeightedClassifier,
)
from training.crops import CropFilms, concatenate, crop_cohort, make_crops
from training.fit import Trainer, normalisations, seeded, settle_statistics
from training.label_checks import check_labels
from training.networks import (
    ClassificationConfig,
    LungClassifier,
    LungCrop,
    SegmentationConfig,
    SegmentationNetwork,
)
from training.pretrain_task import masked_cross_entropy
from training.recipe import FitRecipe, load_recipe
from training.run_record import describe_run, run_identity
from training.runs import single_task
from training.segmentation_data import MASK_SIDE, SegmentationFilms
from training.segmentation_task import (
    PooledSegmentation,
    SegmentationAugmentation,
    SegmentationRecipe,
    SegmentationTask,
    held_out_dice,
    synthetic,
)
from training.study import diagnosis_labels, patient_folds

CPU = FitRecipe(epochs=3, batch_size=4, precision="32-true", accelerator="cpu", learning_rate=1e-3)
TINY = ClassificationConfig(growth=2, crop_side=64)


def lung_films(count: int) -> SegmentationFilms:
    generator = np.random.default_rng(0)
    masks = np.zeros((count, MASK_SIDE, MASK_SIDE), np.uint8)
    for place in range(count):
        top = int(generator.integers(40, 70))
        masks[place, top:200, 40:110] = 1
        masks[place, top:190, 140:210] = 2
    noise = generator.integers(0, 20, masks.shape)
    pictures = (np.where(masks > 0, 60, 170) + noise).astype(np.uint8)
    return SegmentationFilms(
        pictures,
        masks,
        np.ones(count, bool),
        np.ones(count, bool),
        tuple(f"p{i}" for i in range(count)),
        ("made",) * count,
    )


def crop_films(count: int = 16, side: int = 64) -> CropFilms:
    generator = np.random.default_rng(1)
    stage = np.arange(count) % 4
    crops = generator.integers(0, 120, (count, side, side), dtype=np.uint8)
    crops += (stage * 40).astype(np.uint8)[:, None, None]
    lungs = np.zeros((count, 2, 32, 32), np.uint8)
    lungs[:, 0, 4:28, 2:14] = lungs[:, 1, 4:28, 18:30] = 255
    films = pl.DataFrame(
        {
            "film_id": [f"f{i}" for i in range(count)],
            "subject_id": [f"s{i // 2}" for i in range(count)],
            "split": ["train"] * count,
            "pneumoconiosis": (stage >= 1).astype(np.int8),
            "tb": [None if i % 3 else 1 for i in range(count)],
            "stage": stage,
            **dict.fromkeys(ZONES, pl.Series(stage)),
        }
    )
    return CropFilms(films, crops, lungs)


def classification_task(loss: LossRecipe | None = None) -> ClassificationTask:
    films = crop_films()
    places = np.arange(len(films))
    return ClassificationTask(films, train=places[:12], validation=places[12:], loss=loss or LossRecipe())


def tiny_classifier() -> WeightedClassifier:
    torch.manual_seed(0)
    return WeightedClassifier(TINY)


def weights_after(folder: Path, epochs: tuple[int, ...]) -> dict[str, torch.Tensor]:
    """Averaged weights of a run that is stopped after each of `epochs` and continued by a new trainer."""
    for stop in epochs:
        trainer = Trainer(tiny_classifier(), classification_task(), CPU, folder)
        if stop < CPU.epochs:
            with pytest.raises(KeyboardInterrupt):
                trainer.run(partial(interrupt, stop))
        else:
            trainer.run()
    return average_of(folder, "classifier.")


def interrupt(stop: int, row: Mapping[str, float]) -> None:
    if row["epoch"] == stop:
        raise KeyboardInterrupt


def test_a_resumed_run_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = weights_after(tmp_path / "whole", (3,))
    resumed = weights_after(tmp_path / "resumed", (1, 2, 3))
    assert whole.keys() == resumed.keys()
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    rows = pl.read_parquet(tmp_path / "resumed" / "metrics.parquet")
    assert rows["epoch"].to_list() == [1, 2, 3]


def test_seeded_generators_differ_by_place() -> None:
    draws = {float(torch.rand(1, generator=seeded(1, a, b))) for a in range(5) for b in range(5)}
    assert len(draws) == 25


def test_a_run_folder_says_how_it_came_about(tmp_path: Path) -> None:
    recipe = ClassificationRecipe(network=TINY, fit=CPU)
    describe_run(tmp_path, recipe)
    assert load_recipe(tmp_path / "recipe.toml", ClassificationRecipe) == recipe
    assert set(json.loads((tmp_path / "run.json").read_text())) >= {"git_commit", "git_dirty", "versions"}


RECIPE = ClassificationRecipe(network=TINY, fit=replace(CPU, epochs=1))
FILMS = [f"f{place}" for place in range(12)]


def run_once(folder: Path, recipe: ClassificationRecipe = RECIPE, films: list[str] | None = None) -> int:
    """Train, or continue, a run that says what it is made of; its epoch at the end."""
    identity = run_identity(recipe, films or FILMS)
    trainer = Trainer(tiny_classifier(), classification_task(), recipe.fit, folder, identity=identity)
    trainer.run()
    return trainer.epoch


def test_a_run_of_other_settings_or_films_is_not_continued(tmp_path: Path) -> None:
    assert run_once(tmp_path) == 1
    with pytest.raises(ConfigError, match=r"fit\.learning_rate was 0\.001, is 0\.5"):
        run_once(tmp_path, replace(RECIPE, fit=replace(RECIPE.fit, learning_rate=0.5)))
    with pytest.raises(ConfigError, match="training films"):
        run_once(tmp_path, films=["other", *FILMS[1:]])
    longer = replace(RECIPE, fit=replace(RECIPE.fit, epochs=2, threads=1))
    assert run_once(tmp_path, longer) == 2, "a run may be continued for longer"


def test_a_checkpoint_without_a_record_needs_its_recipe_beside_it(tmp_path: Path) -> None:
    Trainer(tiny_classifier(), classification_task(), RECIPE.fit, tmp_path).run()
    with pytest.raises(ConfigError, match="does not say what it was trained on"):
        run_once(tmp_path)
    (tmp_path / "last.pt").rename(tmp_path / "kept.pt")
    describe_run(tmp_path, RECIPE)
    (tmp_path / "kept.pt").rename(tmp_path / "last.pt")
    other = replace(RECIPE, loss=LossRecipe(stage_weight=3.0))
    with pytest.raises(ConfigError, match=r"loss\.stage_weight was 1\.0, is 3\.0"):
        describe_run(tmp_path, other)
    assert load_recipe(tmp_path / "recipe.toml", ClassificationRecipe) == RECIPE, (
        "the refused run left no trace"
    )
    describe_run(tmp_path, RECIPE)
    assert run_once(tmp_path) == 1
    assert len(json.loads((tmp_path / "run.json").read_text())["again"]) == 1


def test_a_blend_lies_between_both_ends_of_a_run(tmp_path: Path) -> None:
    end = {"network.weight": torch.tensor([1.0, 5.0]), "network.count": torch.tensor(7)}
    start = {"network.weight": torch.tensor([3.0, 1.0]), "network.count": torch.tensor(2)}
    torch.save({"average": end}, tmp_path / "last.pt")
    blend(tmp_path, start, 0.25)
    found = average_of(tmp_path, "network.")
    torch.testing.assert_close(found["weight"], torch.tensor([1.5, 4.0]))
    assert found["count"] == 7
    blend(tmp_path, start, 1.0)
    torch.testing.assert_close(average_of(tmp_path, "network.")["weight"], start["network.weight"])
    blend(tmp_path, start, 0.0)
    torch.testing.assert_close(average_of(tmp_path, "network.")["weight"], end["network.weight"])


def test_a_start_share_needs_a_start() -> None:
    assert SegmentationRecipe(initial_run="a", start_share=0.5).start_share == 0.5
    with pytest.raises(ConfigError, match="expected 0 to 1"):
        SegmentationRecipe(initial_run="a", start_share=1.5)
    with pytest.raises(ConfigError, match="needs initial_run"):
        SegmentationRecipe(start_share=0.5)


def test_steps_are_told(tmp_path: Path) -> None:
    told: list[tuple[int, int, int]] = []
    trainer = Trainer(tiny_classifier(), classification_task(), replace(CPU, epochs=2), tmp_path)
    trainer.run(on_step=lambda *step: told.append(step))
    assert told == [(0, 1, 3), (0, 2, 3), (0, 3, 3), (1, 1, 3), (1, 2, 3), (1, 3, 3)]


def test_a_patient_in_two_parts_is_refused() -> None:
    films = crop_films(4)
    other = CropFilms(films.films.with_columns(split=pl.lit("test")), films.crops, films.lungs)
    with pytest.raises(ConfigError, match="2 patients are in more than one part"):
        concatenate([films, other])


def write_run(folder: Path, patients: dict[str, str], start: str | None = None) -> None:
    folder.mkdir()
    (folder / "recipe.toml").write_text("" if start is None else f'initial_run = "{start}"\n')
    pl.DataFrame({"patient": list(patients), "part": list(patients.values())}).write_csv(folder / "split.csv")


def test_a_start_that_knows_held_out_patients_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "first", {"007": "train", "8": "test"})
    write_run(tmp_path / "second", {"9": "train"}, start="first")
    refuse_seen_patients(tmp_path / "second", tmp_path, ["8", "10"])
    with pytest.raises(ConfigError, match="run first was trained on 1 patients"):
        refuse_seen_patients(tmp_path / "second", tmp_path, ["007", "10"])
    with pytest.raises(ConfigError, match=r"split\.csv"):
        refuse_seen_patients(tmp_path / "none", tmp_path, ["8"])


def split_films(**columns: list[int | None]) -> pl.DataFrame:
    count = len(next(iter(columns.values())))
    parts = ["train"] * (count - 3) + ["calibration"] * 2 + ["test"]
    return pl.DataFrame({"split": parts, **columns})


def test_what_cannot_be_calibrated_is_refused_before_training() -> None:
    check_labels(split_films(pneumoconiosis=[0, 1, 0, 1, 0], stage=[0, 2, 0, 1, 0]), ("diagnosis", "stage"))
    with pytest.raises(ConfigError, match=r"calibration part .* 0 films with tb and 2 without"):
        check_labels(split_films(tb=[0, 1, 0, 0, 1]), ("diagnosis",))
    with pytest.raises(ConfigError, match=r"calibration part .* 0 films with stage I or more"):
        check_labels(split_films(stage=[0, 1, 0, 0, 1]), ("stage",))
    with pytest.raises(ConfigError, match="the test part of the split has no films"):
        check_labels(split_films(stage=[0, 1, 0, 1, 1])[:4], ("stage",))
    with pytest.raises(ConfigError, match="no labels for zones"):
        check_labels(split_films(stage=[0, 1, 0, 1, 1]), ("zones",))
    unread = split_films(tb=[None] * 5, stage=[0, 1, 0, 1, 1])
    check_labels(unread, ("diagnosis", "stage"))


def test_segmentation_learns_lungs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    films = lung_films(8)
    network = PooledSegmentation(SegmentationNetwork(SegmentationConfig(base=4, depth=2)))
    augmentation = SegmentationAugmentation(turned=0, upside_down=0, close_up=0, synthetic=0, opacified=0)
    task = SegmentationTask(films, films, augmentation)
    recipe = replace(CPU, epochs=4, learning_rate=1e-2, ema_decay=0.5, evaluate_every=4)
    Trainer(network, task, recipe, tmp_path).run()
    losses = pl.read_parquet(tmp_path / "metrics.parquet")["loss_pixel"]
    assert losses[-1] < losses[0] - 0.02
    table = held_out_dice(network.network.eval(), films.take(np.arange(8) < 2))
    assert table["dice_opacified"].is_between(0, 1).all()
    assert (table["dice_opacified"] != table["dice"]).any()
    assert table.columns[:3] == ["patient", "source", "frontal"]
    assert table["dice"].null_count() == 0


def test_turned_films_are_not_frontal_and_their_masks_do_not_count() -> None:
    films = lung_films(4)
    turned = SegmentationAugmentation(turned=1, upside_down=0, close_up=0, synthetic=0, opacified=0)
    task = SegmentationTask(films, films, turned)
    network = PooledSegmentation(SegmentationNetwork(SegmentationConfig(base=4, depth=1)))
    terms = task.loss(network, torch.arange(4), seeded(1)).terms
    assert terms["loss_dice"] == 0
    assert terms["loss_pixel"] == 0
    assert terms["loss_frontal"] > 0


def test_tone_keeps_the_letterbox_black() -> None:
    picture = torch.rand(2, 1, 32, 32) * 0.5 + 0.3
    picture[:, :, :, :6] = 0
    changed = random_tone(picture, ToneRange(), seeded(5))
    assert not changed[:, :, :, :6].any()
    assert 0 <= float(changed.min()) <= float(changed.max()) <= 1


def test_synthetic_pictures_repeat_with_their_seed() -> None:
    assert torch.equal(synthetic(64, seeded(2)), synthetic(64, seeded(2)))
    assert not torch.equal(synthetic(64, seeded(2)), synthetic(64, seeded(3)))


def test_heads_left_out_get_no_gradient() -> None:
    task = classification_task(LossRecipe(tasks=("stage",)))
    network = tiny_classifier()
    task.loss(network, torch.arange(4), seeded(1)).total.backward()  # type: ignore[no-untyped-call]
    assert network.classifier.activation.weight.grad is None
    assert network.classifier.stage.weight.grad is not None


def test_missing_labels_do_not_count() -> None:
    films = crop_films()
    unread = films.films.with_columns(tb=pl.lit(None, dtype=pl.Int8))
    first = ClassificationTask(
        CropFilms(unread, films.crops, films.lungs),
        train=np.arange(12),
        validation=np.arange(12, 16),
        loss=LossRecipe(tasks=("diagnosis",)),
    )
    network = tiny_classifier()
    first.loss(network, torch.arange(4), seeded(1)).total.backward()  # type: ignore[no-untyped-call]
    gradient = network.classifier.activation.weight.grad
    assert gradient is not None
    assert gradient[0].abs().sum() > 0
    assert gradient[1].abs().sum() == 0


def task_without(*columns: str) -> ClassificationTask:
    films = crop_films()
    unread = films.films.with_columns(pl.lit(None, dtype=pl.Int64).alias(name) for name in columns)
    places = np.arange(len(films))
    return ClassificationTask(
        CropFilms(unread, films.crops, films.lungs),
        train=places[:12],
        validation=places[12:],
        loss=LossRecipe(),
    )


def test_a_batch_that_nobody_read_for_a_task_has_a_loss_and_no_gradient_for_it() -> None:
    task, network = task_without("stage", *ZONES), tiny_classifier()
    result = task.loss(network, torch.arange(4), seeded(1))
    assert result.terms["loss_stage"] == result.terms["loss_zones"] == 0
    assert np.isfinite(result.terms["loss"])
    result.total.backward()  # type: ignore[no-untyped-call]
    gradient = network.classifier.stage.weight.grad
    assert gradient is None or not gradient.any()


def test_accuracies_are_over_what_was_read() -> None:
    network = tiny_classifier().eval()
    figures = task_without(*ZONES).evaluate(network)
    assert "zone_accuracy" not in figures
    assert np.isfinite(figures["score"])
    assert "diagnosis_accuracy" not in task_without("tb").evaluate(network), "both findings must be known"


def test_uncertainty_weighting_learns_its_weights() -> None:
    network = tiny_classifier()
    task = classification_task(LossRecipe(uncertainty_weighting=True))
    task.loss(network, torch.arange(4), seeded(1)).total.backward()  # type: ignore[no-untyped-call]
    assert network.log_variance.grad is not None
    assert network.log_variance.grad.abs().min() > 0


def test_rare_stages_weigh_more() -> None:
    films = crop_films()
    stage = pl.Series("stage", [0] * 9 + [1, 1, 1] + [2, 3, 2, 3])
    task = ClassificationTask(
        CropFilms(films.films.with_columns(stage), films.crops, films.lungs),
        train=np.arange(12),
        validation=np.arange(12, 16),
        loss=LossRecipe(),
    )
    weight = task.stage_weight
    assert weight[1] > weight[0] > 0
    assert weight[2] == 0


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ConfigError, match="staging"):
        single_task(ClassificationRecipe(), ("staging",))
    assert single_task(ClassificationRecipe(), ("stage",)).loss.tasks == ("stage",)


def test_masked_labels_do_not_count() -> None:
    logits = torch.tensor([[3.0, -50.0]])
    half = masked_cross_entropy(logits, torch.tensor([[1, -1]]))
    assert float(half) == pytest.approx(float(torch.nn.functional.softplus(torch.tensor(-3.0))))


def test_crops_are_made_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    segmentation = SegmentationNetwork(SegmentationConfig(base=4, depth=1)).eval()
    films = pl.DataFrame({"film_id": ["a", "b", "c"], "split": ["train", "train", "test"]})
    drawn: list[int] = []

    def draw(start: int, stop: int) -> torch.Tensor:
        drawn.extend(range(start, stop))
        return torch.rand(stop - start, 1, 768, 768)

    first = make_crops(films, draw, segmentation, LungCrop(TINY), tmp_path, batch_size=2)
    second = make_crops(films, draw, segmentation, LungCrop(TINY), tmp_path, batch_size=2)
    assert drawn == [0, 1, 2]
    assert first.crops.shape == (3, 64, 64)
    assert np.array_equal(first.crops, second.crops)
    assert second.part("test").tolist() == [2]


@pytest.fixture
def cohort(tmp_path: Path) -> Path:
    """A cohort folder of three noise canvases."""
    generator = np.random.default_rng(0)
    (tmp_path / "canvas").mkdir()
    for name in "abc":
        picture = generator.integers(0, 255, (768, 768), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"canvas/{name}.png"), picture)
    columns = {
        "film_id": list("abc"),
        "subject_id": list("xyz"),
        "source": ["own"] * 3,
        "split": ["train", "train", "test"],
        "canvas": [f"canvas/{name}.png" for name in "abc"],
        "view": ["frontal"] * 3,
        "pneumoconiosis": [0, 1, 1],
        "tb": [0, 0, 1],
        "stage": [0, 1, 2],
    }
    pl.DataFrame(columns).write_parquet(tmp_path / "cohort.parquet")
    return tmp_path


def cropped(cohort: Path) -> tuple[CropFilms, int]:
    """Crops of a cohort, and how often the segmentation network was run for them."""
    torch.manual_seed(0)
    network = SegmentationNetwork(SegmentationConfig(base=4, depth=1)).eval()
    calls: list[int] = []
    films = crop_cohort(
        cohort, network, LungCrop(TINY), cohort / "crops", on_progress=lambda done, _: calls.append(done)
    )
    return films, len(calls)


def test_a_corrected_label_is_taken_without_cropping_again(cohort: Path) -> None:
    cropped(cohort)
    table = pl.read_parquet(cohort / "cohort.parquet")
    table.with_columns(stage=pl.Series([3, 1, 2])).write_parquet(cohort / "cohort.parquet")
    films, calls = cropped(cohort)
    assert calls == 0
    assert films.labels("stage").tolist() == [3, 1, 2]


def test_a_swapped_picture_is_cropped_again(cohort: Path) -> None:
    before = np.array(cropped(cohort)[0].crops)
    cv2.imwrite(str(cohort / "canvas/b.png"), np.full((768, 768), 90, np.uint8))
    films, calls = cropped(cohort)
    assert calls > 0
    assert np.array_equal(films.crops[0], before[0])
    assert not np.array_equal(films.crops[1], before[1])


def test_films_in_another_order_are_cropped_again(cohort: Path) -> None:
    before = np.array(cropped(cohort)[0].crops)
    pl.read_parquet(cohort / "cohort.parquet").reverse().write_parquet(cohort / "cohort.parquet")
    films, calls = cropped(cohort)
    assert calls > 0
    assert np.array_equal(films.crops[::-1], before)


def test_folds_keep_patients_together_and_cover_every_film() -> None:
    films = crop_films(40)
    folds = patient_folds(films, np.arange(40), 5, seed=1)
    subjects = films.films["subject_id"].to_numpy()
    assert sorted(np.concatenate([fold.test for fold in folds]).tolist()) == list(range(40))
    for fold in folds:
        assert not set(subjects[fold.train]) & set(subjects[fold.test])


def test_a_diagnosis_is_missing_where_either_finding_is() -> None:
    films = crop_films(4)
    labels = films.films.with_columns(
        pneumoconiosis=pl.Series([1, 0, None, 1]), tb=pl.Series([1, None, 1, 0])
    )
    assert diagnosis_labels(CropFilms(labels, films.crops, films.lungs)).tolist() == [3, -1, -1, 1]


def test_the_ordinal_head_trains() -> None:
    network = LungClassifier(replace(TINY, stage_head="ordinal"))
    stage = network(torch.rand(4, 1, 64, 64), torch.ones(4, 2, 64, 64))[1]
    torch.nn.functional.cross_entropy(stage, torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    assert network.cut_points.grad is not None
    assert network.cut_points.grad.abs().sum() > 0


def means_of(network: torch.nn.Module) -> list[torch.Tensor]:
    return [m.running_mean.clone() for m in normalisations(network) if m.running_mean is not None]


def test_frozen_statistics_are_measured_once_and_kept(tmp_path: Path) -> None:
    network, task = tiny_classifier(), classification_task()
    fresh = means_of(network)
    settle_statistics(network, task, CPU, num_batches=3)
    settled = means_of(network)
    assert not all(torch.equal(a, b) for a, b in zip(fresh, settled, strict=True))
    assert all(module.momentum == 0.1 for module in normalisations(network))
    before = {name: value.clone() for name, value in network.named_parameters()}
    trainer = Trainer(network, task, replace(CPU, epochs=1, freeze_statistics=True), tmp_path)
    trainer.run()
    assert all(torch.equal(a, b) for a, b in zip(means_of(trainer.plain), settled, strict=True))
    moved = [name for name, value in trainer.plain.named_parameters() if not torch.equal(value, before[name])]
    assert any("norm" in name for name in moved), "scale and shift still learn"
