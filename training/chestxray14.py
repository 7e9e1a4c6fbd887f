"""ChestX-ray14 as its authors lay it out, to films with fourteen labels and the official split.

Reads `Data_Entry_2017.csv`, the official `test_list.txt` and the pictures, wherever below the folder they
are. The decision a reader would question: the official training list is divided again by patient for
validation; the official test patients are never touched before the last table.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from screener.errors import ConfigError
from training.metrics import auc
from training.segmentation_data import read_index
from training.splits import split_by_patient

FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The fourteen labels, in the order of Wang et al. 2017."""
NO_FINDING = "No Finding"

PUBLISHED_AUROC: dict[str, tuple[float, float]] = {
    "Atelectasis": (0.700, 0.8094),
    "Cardiomegaly": (0.810, 0.9248),
    "Effusion": (0.759, 0.8638),
    "Infiltration": (0.661, 0.7345),
    "Mass": (0.693, 0.8676),
    "Nodule": (0.669, 0.7802),
    "Pneumonia": (0.658, 0.7680),
    "Pneumothorax": (0.799, 0.8887),
    "Consolidation": (0.703, 0.7901),
    "Edema": (0.805, 0.8878),
    "Emphysema": (0.833, 0.9371),
    "Fibrosis": (0.786, 0.8047),
    "Pleural_Thickening": (0.684, 0.8062),
    "Hernia": (0.872, 0.9164),
}
"""Wang et al. 2017 on the official split (mean 0.745), and CheXNet (Rajpurkar et al. 2017) on a split of its
own (mean 0.841)."""

INDEX = "Data_Entry_2017.csv"
TEST_LIST = "test_list.txt"
_VALIDATION_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class ChestXray14:
    """The films found below a folder."""

    films: pl.DataFrame
    """film_id, subject_id, path, split and one Int8 column a finding: 1, 0, or null where not graded."""
    num_listed: int
    """Rows of the index; pictures that are not there are left out, so that a part of the set can be used."""


def read_chestxray14(folder: Path, *, seed: int = 1) -> ChestXray14:
    """Read the index, the official test list and which pictures are there.

    Args:
        folder: holds `Data_Entry_2017.csv`, `test_list.txt` and the pictures in any sub-folders.
        seed: of the division of the official training patients into training and validation.

    Raises:
        ConfigError: a missing file or column, an unknown finding, or a patient on both official lists; names
            file and row.
    """
    table = read_index(folder / INDEX, {"Image Index", "Finding Labels", "Patient ID"})
    pictures = {path.name: path for path in sorted(folder.rglob("*.png"))}
    pictures |= {path.name: path for path in sorted(folder.rglob("*.jpg"))}
    test = _test_list(folder)
    rows: list[dict[str, object]] = []
    for number, cells in enumerate(table.iter_rows(named=True), start=2):
        name = cells["Image Index"]
        if name not in pictures:
            continue
        if not cells["Patient ID"]:
            raise ConfigError(f"{INDEX} row {number}: Patient ID must not be empty")
        labels = _labels(cells["Finding Labels"], cells.get("Graded Labels"), f"{INDEX} row {number}")
        rows.append(
            {
                "film_id": Path(name).stem,
                "subject_id": cells["Patient ID"],
                "path": str(pictures[name]),
                "split": "test" if name in test else "train",
                **labels,
            }
        )
    if not rows:
        raise ConfigError(f"none of the {table.height} pictures that {INDEX} lists is below its folder")
    schema = dict.fromkeys(FINDINGS, pl.Int8)
    films = pl.DataFrame(rows, schema_overrides=schema)
    return ChestXray14(_with_validation(films, seed), table.height)


def auroc_table(films: pl.DataFrame) -> pl.DataFrame:
    """Area under the ROC curve of each finding beside the published ones, the mean last.

    Args:
        films: test films with a column a finding and a `logit_<finding>` column each.

    Returns:
        finding, num_positive, auroc (null without both classes), wang_2017, chexnet_2017.
    """
    rows: list[dict[str, object]] = []
    for finding in FINDINGS:
        graded = films.filter(pl.col(finding).is_not_null())
        labels = graded[finding].to_numpy()
        both = graded.height > 0 and 0 < labels.sum() < len(labels)
        value = auc(labels, graded[f"logit_{finding}"].to_numpy()).value if both else None
        wang, chexnet = PUBLISHED_AUROC[finding]
        rows.append(
            {
                "finding": finding,
                "num_positive": int(labels.sum()),
                "auroc": value,
                "wang_2017": wang,
                "chexnet_2017": chexnet,
            }
        )
    table = pl.DataFrame(rows, schema_overrides={"auroc": pl.Float64})
    mean = table.select(
        pl.lit("mean").alias("finding"),
        pl.col("num_positive").sum(),
        pl.col("auroc", "wang_2017", "chexnet_2017").mean(),
    )
    return pl.concat([table, mean])


def _labels(cell: str | None, graded: str | None, where: str) -> dict[str, int | None]:
    """One label a finding; an empty cell was not graded, nor is a finding that `Graded Labels` leaves out."""
    if cell is None or not cell.strip():
        return dict.fromkeys(FINDINGS)
    found = set(cell.split("|")) - {NO_FINDING}
    unknown = sorted(found - set(FINDINGS))
    if unknown:
        raise ConfigError(f"{where}: unknown finding {', '.join(unknown)}")
    known = set(FINDINGS) if not graded else set(graded.split("|"))
    return {name: int(name in found) if name in known else None for name in FINDINGS}


def _test_list(folder: Path) -> frozenset[str]:
    try:
        return frozenset((folder / TEST_LIST).read_text(encoding="utf-8").split())
    except OSError as error:
        raise ConfigError(f"{TEST_LIST} cannot be read: it holds the official test pictures") from error


def _with_validation(films: pl.DataFrame, seed: int) -> pl.DataFrame:
    test_patients = set(films.filter(pl.col("split") == "test")["subject_id"].to_list())
    crossing = films.filter((pl.col("split") == "train") & pl.col("subject_id").is_in(list(test_patients)))
    if crossing.height:
        raise ConfigError(f"{crossing['subject_id'].n_unique()} patients are on both official lists")
    patients = films["subject_id"].to_list()
    shares = (1 - _VALIDATION_SHARE, _VALIDATION_SHARE, 0.0)
    parts = split_by_patient(patients, ["all"] * len(patients), shares=shares, seed=seed)
    divided = pl.Series("divided", parts)
    return films.with_columns(
        split=pl.when(pl.col("split") == "test").then(pl.lit("test")).otherwise(divided)
    )
