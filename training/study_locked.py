"""Discrimination and recall of each way on the locked test part: AUC with DeLong's interval, recall by stage.

The decision a reader would question: these figures have no test beside them. The tests of the study are on
the folds and on accuracy, chosen beforehand; a table of areas invites picking one.
"""

from __future__ import annotations

import polars as pl

from training.crops import MISSING
from training.metrics import auc

CLUSTERING = (
    "McNemar's test and DeLong's intervals take films as independent; where patients have several "
    "films they are too narrow. The bootstrap draws patients."
)
"""Note under every table with such figures."""
FINDINGS = ("pneumoconiosis", "tb")
STAGES = ("0", "I", "II", "III")


def locked_table(predictions: pl.DataFrame) -> pl.DataFrame:
    """Figures of the first fold's networks on the locked part.

    Args:
        predictions: of the study, one row a film, fold and way.

    Returns:
        way, figure, value, low, high (the interval null for recalls), films.
    """
    locked = predictions.filter((pl.col("fold") == 0) & pl.col("locked"))
    rows: list[dict[str, object]] = []
    for way in ("diagnosis", "stage", "multi-task"):
        part = locked.filter(pl.col("way") == way)
        if way != "stage":
            rows += [_area(way, part, finding) for finding in FINDINGS]
        if way != "diagnosis":
            rows += [_recall(way, part, stage) for stage in range(len(STAGES))]
    return pl.DataFrame([row for row in rows if row["films"]], infer_schema_length=None)


def _area(way: str, part: pl.DataFrame, finding: str) -> dict[str, object]:
    part = part.filter(pl.col(f"label_{finding}") != MISSING)
    labels = part[f"label_{finding}"].to_numpy()
    row: dict[str, object] = {"way": way, "figure": f"AUC {finding}", "films": len(labels)}
    if not 0 < labels.sum() < len(labels):
        return row | {"value": None, "low": None, "high": None, "films": 0}
    area = auc(labels, part[f"logit_{finding}"].to_numpy())
    return row | {"value": area.value, "low": area.low, "high": area.high}


def _recall(way: str, part: pl.DataFrame, stage: int) -> dict[str, object]:
    films = part.filter(pl.col("label_stage") == stage)
    value = float((films["predicted_stage"] == stage).to_numpy().mean()) if films.height else None
    figure = f"recall of stage {STAGES[stage]}"
    return {"way": way, "figure": figure, "value": value, "low": None, "high": None, "films": films.height}


def locked_markdown(table: pl.DataFrame) -> str:
    """The table as Markdown, with the note on clustering."""
    lines = ["| way | figure | value (95 % interval) | films |", "| --- | --- | --- | --- |"]
    for row in table.iter_rows(named=True):
        interval = "" if row["low"] is None else f" ({row['low']:.3f}-{row['high']:.3f})"
        lines.append(f"| {row['way']} | {row['figure']} | {row['value']:.3f}{interval} | {row['films']} |")
    return "\n".join([*lines, "", CLUSTERING]) + "\n"
