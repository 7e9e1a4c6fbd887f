"""What training reads: pairs, own films, ChestX-ray14, splits, recipes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screener.errors import ConfigError
from screener.records import Letterbox
from training.chestxray14 import FINDINGS, PUBLISHED_AUROC, auroc_table, read_chestxray14
from training.classification_task import ClassificationRecipe
from training.cost_curve import CurveRecipe
from training.host_films import mask_on_picture, plausible
from training.own_films import ImportSettings, import_films
from training.packing import PackRecipe
from training.pretrain_task import PretrainRecipe
from training.recipe import FitRecipe, load_recipe, to_toml
from training.segmentation_data import mask_on_canvas, read_pairs, split_lungs
from training.segmentation_task import SegmentationRecipe
from training.splits import split_by_patient
from training.study import StudyRecipe

RECIPES = Path(__file__).parent.parent / "training" / "recipes"


def chest(seed: int, side: int = 300) -> np.ndarray:
    """A picture with structure: dark lungs on a bright body, with noise."""
    generator = np.random.default_rng(seed)
    picture = np.full((side, side), 170.0)
    picture[60:220, 40:130] = 60
    picture[60:220, 170:260] = 60
    return np.clip(picture + generator.normal(0, 6, picture.shape), 0, 255).astype(np.uint8)


def write_pairs(folder: Path, convention: str = "anatomical (heart excluded)") -> Path:
    mask = np.zeros((300, 300), np.uint8)
    mask[60:220, 40:130] = mask[60:220, 170:260] = 255
    cv2.imwrite(str(folder / "src_a.png"), chest(0))
    cv2.imwrite(str(folder / "mask.png"), mask)
    index = folder / "pairs.csv"
    index.write_text(f"image,mask,convention,patient_group\nsrc_a.png,mask.png,{convention},p1\n")
    return index


def test_pairs_are_split_into_right_and_left(tmp_path: Path) -> None:
    (film,) = read_pairs(write_pairs(tmp_path))
    assert film.mask is not None
    right, left = np.argwhere(film.mask == 1), np.argwhere(film.mask == 2)
    assert right[:, 1].max() < left[:, 1].min()
    assert len(right) == pytest.approx(len(left), rel=0.05)


def test_pairs_of_the_other_convention_are_left_out(tmp_path: Path) -> None:
    assert read_pairs(write_pairs(tmp_path, "heart shadow included (most of it)")) == []


def test_an_unreadable_pair_names_file_and_row(tmp_path: Path) -> None:
    index = write_pairs(tmp_path)
    (tmp_path / "mask.png").unlink()
    with pytest.raises(ConfigError, match=r"pairs\.csv row 2"):
        read_pairs(index)


def test_lungs_that_touch_are_parted_where_they_are_thinnest() -> None:
    mask = np.zeros((60, 100), bool)
    mask[10:50, 10:45] = mask[10:50, 55:90] = True
    mask[30:32, 45:55] = True
    labelled = split_lungs(mask)
    assert set(np.unique(labelled[:, 10:45])) == {0, 1}
    assert set(np.unique(labelled[:, 55:90])) == {0, 2}


def test_masks_return_to_the_picture_they_came_from() -> None:
    labelled = np.zeros((400, 300), np.uint8)
    labelled[80:300, 40:130], labelled[80:300, 170:260] = 1, 2
    letterbox = Letterbox(scale=768 / 400, top=0.0, left=(768 - 300 * 768 / 400) / 2)
    on_canvas = mask_on_canvas(labelled, letterbox)
    soft = np.stack([(on_canvas == lung).astype(np.float32) for lung in (1, 2)])
    back = mask_on_picture(soft, letterbox, labelled.shape)
    assert (back == labelled).mean() > 0.98


def test_one_lung_is_not_a_plausible_host() -> None:
    labelled = np.zeros((100, 100), np.uint8)
    labelled[20:80, 10:40] = 1
    assert not plausible(labelled)
    labelled[20:80, 60:90] = 2
    assert plausible(labelled)


@given(st.lists(st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=80))
def test_a_patient_is_never_in_two_parts(films: list[tuple[int, str]]) -> None:
    patients = [f"p{number}" for number, _ in films]
    parts = split_by_patient(patients, [stratum for _, stratum in films], shares=(0.6, 0.2, 0.2), seed=3)
    for patient in set(patients):
        assert len({part for part, owner in zip(parts, patients, strict=True) if owner == patient}) == 1


def test_split_shares_are_kept_in_every_stratum() -> None:
    patients = [f"p{i}" for i in range(200)]
    strata = ["x" if i % 4 else "y" for i in range(200)]
    parts = np.array(split_by_patient(patients, strata, shares=(0.7, 0.1, 0.2), seed=1))
    for stratum, size in (("x", 150), ("y", 50)):
        inside = parts[np.array(strata) == stratum]
        assert [int((inside == part).sum()) for part in ("train", "calibration", "test")] == [
            round(size * 0.7),
            round(size * 0.8) - round(size * 0.7),
            size - round(size * 0.8),
        ]


def write_own(folder: Path, rows: str, header: str = "file,patient,stage,tb") -> Path:
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), chest(number))
    index = folder / "films.csv"
    index.write_text(f"{header}\n{rows}")
    return index


def test_own_films_become_a_cohort(tmp_path: Path) -> None:
    index = write_own(tmp_path, "0.png,a,2,0\n1.png,b,0,\n2.png,b,,1\n")
    assert import_films(index, tmp_path / "cohort", ImportSettings()) == 3
    films = pl.read_parquet(tmp_path / "cohort" / "cohort.parquet")
    assert films["stage"].to_list() == [2, 0, None]
    assert films["pneumoconiosis"].to_list() == [1, 0, None]
    assert films["tb"].to_list() == [0, None, 1]
    canvas = cv2.imread(str(tmp_path / "cohort" / films["canvas"][0]), cv2.IMREAD_GRAYSCALE)
    assert canvas is not None
    assert canvas.shape == (768, 768)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("0.png,a,4,0\n", r"films\.csv row 2: stage is '4'"),
        ("0.png,a,1,0\nmissing.png,b,1,0\n", r"films\.csv row 3"),
        ("0.png,,1,0\n", r"films\.csv row 2: file and patient"),
        ("0.png,  ,1,0\n", r"films\.csv row 2: file and patient"),
        ("", "lists no films"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, rows: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        import_films(write_own(tmp_path, rows), tmp_path / "cohort", ImportSettings())


def test_a_stage_without_pneumoconiosis_is_refused(tmp_path: Path) -> None:
    index = write_own(tmp_path, "0.png,a,0,0\n1.png,b,1,0\n", "file,patient,stage,pneumoconiosis")
    with pytest.raises(ConfigError, match=r"films\.csv row 3: stage is 1 but pneumoconiosis is 0"):
        import_films(index, tmp_path / "cohort", ImportSettings())


def test_spaces_around_a_patient_make_no_other_patient(tmp_path: Path) -> None:
    index = write_own(tmp_path, "0.png,a,0,0\n1.png, a ,1,0\n")
    import_films(index, tmp_path / "cohort", ImportSettings())
    assert pl.read_parquet(tmp_path / "cohort/cohort.parquet")["subject_id"].to_list() == ["a", "a"]


def test_a_given_split_must_not_divide_a_patient(tmp_path: Path) -> None:
    index = write_own(tmp_path, "0.png,a,train\n1.png,a,test\n", "file,patient,split")
    with pytest.raises(ConfigError, match="more than one part"):
        import_films(index, tmp_path / "cohort", ImportSettings())


def write_nih(folder: Path, labels: tuple[str, ...], test: str = "c.png\n") -> Path:
    lines = ["Image Index,Finding Labels,Follow-up #,Patient ID"]
    for number, (name, label) in enumerate(zip("abc", labels, strict=True)):
        (folder / "images_001").mkdir(exist_ok=True)
        cv2.imwrite(str(folder / "images_001" / f"{name}.png"), chest(number, 64))
        lines.append(f"{name}.png,{label},0,{number}")
    lines.append("absent.png,Hernia,0,9")
    (folder / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    (folder / "test_list.txt").write_text(test)
    return folder


def test_chestxray14_labels_and_official_test_list(tmp_path: Path) -> None:
    found = read_chestxray14(write_nih(tmp_path, ("Mass|Nodule", "No Finding", "")))
    assert found.num_listed == 4
    films = found.films.sort("film_id")
    assert films["film_id"].to_list() == ["a", "b", "c"]
    assert films["split"][2] == "test"
    assert films.select("Mass", "Nodule", "Hernia").row(0) == (1, 1, 0)
    assert films.select("Mass", "Nodule", "Hernia").row(1) == (0, 0, 0)
    assert films.select("Mass", "Nodule", "Hernia").row(2) == (None, None, None)


def test_an_unknown_finding_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Data_Entry_2017\.csv row 3: unknown finding Broken Rib"):
        read_chestxray14(write_nih(tmp_path, ("Mass", "Broken Rib", "Mass")))


def test_auroc_table_leaves_out_ungraded_films_and_ends_with_the_mean() -> None:
    labels = {finding: [1, 0, None, 0] for finding in FINDINGS}
    scores = {f"logit_{finding}": [2.0, 1.0, 9.0, -1.0] for finding in FINDINGS}
    table = auroc_table(pl.DataFrame({**labels, **scores}))
    assert table["auroc"].to_list() == [1.0] * 15
    assert table["finding"][-1] == "mean"
    assert table["wang_2017"][-1] == pytest.approx(0.745, abs=5e-4)
    assert table["chexnet_2017"][-1] == pytest.approx(0.841, abs=5e-4)
    assert set(PUBLISHED_AUROC) == set(FINDINGS)


@pytest.mark.parametrize(
    "path", sorted(RECIPES.rglob("*.toml")), ids=lambda path: str(path.relative_to(RECIPES))
)
def test_shipped_recipes_load_and_survive_writing(path: Path, tmp_path: Path) -> None:
    kinds: dict[str, type] = {
        "segmentation": SegmentationRecipe,
        "classification": ClassificationRecipe,
        "bundle": PackRecipe,
        "pretrain": PretrainRecipe,
        "compare": StudyRecipe,
        "curve": CurveRecipe,
    }
    kind = kinds[path.stem.split("-")[0]]
    recipe: object = load_recipe(path, kind)
    copy = tmp_path / "recipe.toml"
    copy.write_text(to_toml(recipe))
    assert load_recipe(copy, kind) == recipe


def test_a_misspelt_key_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text("[fit]\nepoch = 3\n")
    with pytest.raises(ConfigError, match="unknown key epoch"):
        load_recipe(path, SegmentationRecipe)


def test_a_value_of_the_wrong_type_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('[fit]\nepochs = "many"\n')
    with pytest.raises(ConfigError, match="epochs: 'many' is not int"):
        load_recipe(path, SegmentationRecipe)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ConfigError):
        FitRecipe(epochs=0)
