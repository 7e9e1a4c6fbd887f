"""Canvases and lung fields to logits: one call of the classification graph."""

from __future__ import annotations

from engines.engine import Engine
from screener.records import Batch, Logits, Lungs


def classify(batch: Batch, lungs: Lungs, engine: Engine) -> Logits:
    """Classify the lung crops of a batch; the graph itself crops and normalises."""
    found = engine.run({"canvas": batch.canvas, "lungs": lungs.probability, "box": lungs.box})
    return Logits(
        diagnosis=found["diagnosis_logits"],
        stage=found["stage_logits"],
        zones=found["zone_logits"],
        activation=found["activation"],
    )
