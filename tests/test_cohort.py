"""The cohort: determinism, resuming, splits, stages by the rule, masks on the canvas, real hosts, probes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from screener.errors import ConfigError
from screener.records import ZONES
from screener.staging import LARGE_OPACITY_MM, LargeOpacity, stage_from_zones
from training.cohort import _to_canvas, build
from training.cohort_commands import app
from training.cohort_deal import CohortSettings, deal
from training.contact_sheet import contact_sheet
from training.films import SLOPE_PER_CONTRAST, anatomy_contrast, picture_slope, read_films
from training.findings import FindingPlan
from training.nuisances import NUISANCE_FIELDS, sample_nuisance
from training.phantom_film import phantom_film
from training.probes import area_under_curve, cross_validated, run_probes

FILMS = Path(__file__).parent / "films"
"""Real films of the NLM sets, 128 px, with lung masks."""


def host_list(folder: Path) -> Path:
    """A list of the real films beside this test."""
    path = folder / "films.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask", "subject_id", "source", "findings", "licence"])
        for image in sorted(FILMS.glob("*[01].png")):
            mask = cv2.imread(str(image.with_suffix(".mask.png")), cv2.IMREAD_GRAYSCALE)
            assert mask is not None
            half = np.arange(mask.shape[1])[None] < mask.shape[1] // 2
            cv2.imwrite(
                str(folder / image.name), np.where(mask > 0, np.where(half, 1, 2), 0).astype(np.uint8)
            )
            writer.writerow([str(image), image.name, image.stem, "nlm", "", "public, citation required"])
    return path


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    settings = CohortSettings(num_films=20, seed=7, films=host_list(folder), real_share=0.5, other_share=0.2)
    build(folder / "cohort", settings, workers=1)
    return folder / "cohort"


@pytest.fixture(scope="module")
def table(cohort: Path) -> pl.DataFrame:
    return pl.read_parquet(cohort / "cohort.parquet")


def test_every_film_has_its_row_and_pictures(cohort: Path, table: pl.DataFrame) -> None:
    assert table.height == 20
    assert table["film_id"].n_unique() == 20
    for film in table.iter_rows(named=True):
        canvas = cv2.imread(str(cohort / film["canvas"]), cv2.IMREAD_GRAYSCALE)
        assert canvas is not None
        assert canvas.shape == (768, 768)
        if film["view"] != "frontal":
            assert film["lungs"] is None
            assert film["stage"] is None
            continue
        lungs = cv2.imread(str(cohort / film["lungs"]), cv2.IMREAD_GRAYSCALE)
        zones = cv2.imread(str(cohort / film["zones"]), cv2.IMREAD_GRAYSCALE)
        assert lungs is not None
        assert zones is not None
        assert lungs.shape == zones.shape == (256, 256)
        assert set(np.unique(lungs)) == {0, 1, 2}
        assert set(np.unique(zones)) == set(range(7))


def test_stage_is_the_rules(table: pl.DataFrame) -> None:
    frontal = table.filter(pl.col("view") == "frontal")
    for film in frontal.iter_rows(named=True):
        long_mm, short_mm = film["large_long_mm"], film["large_short_mm"]
        large = [LargeOpacity(long_mm, short_mm)] if long_mm > LARGE_OPACITY_MM else []
        levels = [film[zone] for zone in ZONES]
        staged = stage_from_zones(levels, large_opacities=large, aggregation=film["aggregation"])
        assert film["stage"] == staged.stage
        assert film["pneumoconiosis"] == int(staged.stage >= 1)
        assert film["tb"] == int(film["tb_pattern"] != "none")


def test_every_source_has_findings_and_clean_films(table: pl.DataFrame) -> None:
    frontal = table.filter(pl.col("view") == "frontal")
    assert set(frontal["source"]) == {"phantom", "nlm"}
    for _, films in frontal.group_by("source"):
        assert set(films["pneumoconiosis"]) == {0, 1}


def test_a_subject_is_in_one_split(table: pl.DataFrame) -> None:
    assert table.group_by("subject_id").agg(pl.col("split").n_unique())["split"].max() == 1


def test_listed_opacities_lie_on_the_lungs(cohort: Path, table: pl.DataFrame) -> None:
    opacities = pl.read_parquet(cohort / "opacities.parquet").filter(pl.col("kind").is_in(list("pqrstu")))
    assert opacities.height > 500
    inside = []
    for (film_id,), bodies in opacities.group_by("film_id"):
        lungs = cv2.imread(str(cohort / f"lungs/{film_id}.png"), cv2.IMREAD_GRAYSCALE)
        assert lungs is not None
        row, column = (bodies[name].to_numpy().astype(int) // 3 for name in ("row", "column"))
        inside.append(lungs[np.clip(row, 0, 255), np.clip(column, 0, 255)] > 0)
    assert np.concatenate(inside).mean() > 0.97


def test_workers_and_interruption_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.cohort._PART_FILMS", 2)
    settings = CohortSettings(num_films=4, seed=3)
    one, two = tmp_path / "one", tmp_path / "two"
    build(one, settings, workers=1)
    build(two, settings, workers=2)
    (two / "parts/films-00000.parquet").unlink()
    (two / "cohort.parquet").unlink()
    build(two, settings, workers=1)
    assert pl.read_parquet(one / "cohort.parquet").equals(pl.read_parquet(two / "cohort.parquet"))
    for canvas in sorted((one / "canvas").iterdir()):
        assert canvas.read_bytes() == (two / "canvas" / canvas.name).read_bytes()


def test_another_cohort_in_the_folder_is_refused(cohort: Path) -> None:
    with pytest.raises(ConfigError, match="another cohort"):
        build(cohort, CohortSettings(num_films=20, seed=8))


@pytest.mark.parametrize(
    ("num_films", "real_share", "other_share"), [(0, 0.5, 0.0), (5, 1.5, 0.0), (5, 0.5, -1.0)]
)
def test_settings_out_of_range_are_refused(num_films: int, real_share: float, other_share: float) -> None:
    with pytest.raises(ConfigError, match="expected"):
        CohortSettings(num_films=num_films, real_share=real_share, other_share=other_share)


def test_a_broken_list_of_films_names_the_row(tmp_path: Path) -> None:
    path = host_list(tmp_path)
    text = path.read_text().splitlines()
    path.write_text("\n".join([*text[:2], "nowhere.png,nowhere.png,x,nlm,,"]))
    with pytest.raises(ConfigError, match="row 3"):
        read_films(path)
    path.write_text("image,mask\n")
    with pytest.raises(ConfigError, match="missing column"):
        read_films(path)


def test_a_mask_that_does_not_tell_the_lungs_apart_is_refused(tmp_path: Path) -> None:
    for host in read_films(host_list(tmp_path)):
        mask = cv2.imread(str(host.mask), cv2.IMREAD_GRAYSCALE)
        assert mask is not None
        cv2.imwrite(str(host.mask), np.where(mask > 0, 255, 0).astype(np.uint8))
    with pytest.raises(ConfigError, match=r"levels \[0, 255\]; expected 0 outside, 1 the patient's right"):
        build(tmp_path / "cohort", CohortSettings(4, films=tmp_path / "films.csv", real_share=1.0), workers=1)


@pytest.mark.parametrize("seed", range(3))
def test_anatomy_contrast_predicts_the_picture_slope(seed: int) -> None:
    """The ruler of real films, checked where the truth is known: grey added by nodules of known thickness."""
    nuisance = replace(sample_nuisance(np.random.default_rng(seed)), num_devices=0, num_markers=0)

    def film(level: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        plan = FindingPlan((level, level, level, level, level, level), "q", "q")
        made = phantom_film(plan, nuisance, *(np.random.default_rng([seed, n]) for n in range(3)))
        assert made.lungs is not None
        return made.grey.astype(np.float32) / 255, made.lungs, made.drawing.soft_mm, made.pixel_mm

    healthy, lungs, _, pixel_mm = film(0)
    ill, _, soft_mm, _ = film(1)
    inside = cv2.erode((lungs > 0).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=14) > 0
    grey, nodules = ill - healthy, 0.02 * 0.6 * cv2.GaussianBlur(soft_mm, (0, 0), 0.3 / pixel_mm)
    grey, nodules = (m - cv2.GaussianBlur(m, (0, 0), 20) for m in (grey, nodules))
    slope = float((grey * nodules)[inside].sum() / (nodules**2)[inside].sum())
    assert picture_slope(healthy, lungs) == pytest.approx(slope, rel=0.25)
    assert anatomy_contrast(healthy, lungs) * SLOPE_PER_CONTRAST == pytest.approx(slope, rel=0.25)


def test_probe_finds_a_planted_leak_and_nothing_in_noise() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(400) < 0.5
    subjects = [f"subject {n // 2}" for n in range(400)]
    noise = rng.standard_normal((400, 20))
    auc, low, high = cross_validated(noise, labels, subjects)
    assert low < 0.5 < high
    leak = noise.copy()
    leak[:, 3] += labels
    auc, low, _ = cross_validated(leak, labels, subjects)
    assert auc > 0.65
    assert low > 0.55


def test_area_under_curve_counts_pairs() -> None:
    auc, low, high = area_under_curve(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    assert auc == pytest.approx(0.75)
    assert 0 <= low < auc < high <= 1


def test_nuisances_do_not_depend_on_the_class() -> None:
    """Drawn by a generator of their own, they are the same whatever the plan; here, over many films."""
    from training.cohort import _generators

    slots = deal(CohortSettings(num_films=2000, seed=5), ())
    nuisances = []
    for slot in slots:
        _, nuisance_rng, *_ = _generators(5, slot.index)
        nuisance = sample_nuisance(nuisance_rng)
        nuisances.append([getattr(nuisance, name) for name in NUISANCE_FIELDS])
    labels = np.array([slot.film_class.stage > 0 for slot in slots])
    _, low, high = cross_validated(
        np.array(nuisances, np.float64), labels, [str(slot.index) for slot in slots]
    )
    assert low < 0.5 < high


def test_monochrome1_is_the_same_film_the_other_way_round(table: pl.DataFrame) -> None:
    assert set(table["monochrome1"].to_list()) == {False, True}
    nuisance = replace(sample_nuisance(np.random.default_rng(4)), num_devices=0)
    film = phantom_film(
        FindingPlan((2, 2, 2, 2, 2, 2), "q", "q"),
        nuisance,
        *(np.random.default_rng([4, n]) for n in range(3)),
    )
    plain, lungs, _ = _to_canvas(film, monochrome1=False)
    inverted, same_lungs, _ = _to_canvas(film, monochrome1=True)
    assert np.abs(plain.astype(int) - inverted).max() <= 1
    assert lungs is not None
    assert same_lungs is not None
    assert np.array_equal(lungs, same_lungs)


def test_probes_need_enough_films(cohort: Path) -> None:
    with pytest.raises(ConfigError, match="build a larger cohort"):
        run_probes(cohort)


def test_contact_sheet(cohort: Path, tmp_path: Path) -> None:
    shown = contact_sheet(cohort, tmp_path / "sheet.png", columns=3, side=96, outlines=True)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    assert sheet is not None
    assert 6 <= shown <= 21
    assert sheet.shape[1] == 3 * 96
    with pytest.raises(ConfigError, match="no such column"):
        contact_sheet(cohort, tmp_path / "sheet.png", by="weather")


def test_commands(tmp_path: Path) -> None:
    runner = CliRunner()
    built = runner.invoke(app, ["build", str(tmp_path / "c"), "--num-films", "2", "--workers", "1"])
    assert built.exit_code == 0, built.output
    assert json.loads((tmp_path / "c/cohort.json").read_text())["num_films"] == 2
    shown = runner.invoke(app, ["sheet", str(tmp_path / "c"), str(tmp_path / "s.png"), "--side", "64"])
    assert shown.exit_code == 0, shown.output
    assert "2 films" in shown.output
