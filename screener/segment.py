"""Canvases to lung fields: one call of the segmentation graph."""

from __future__ import annotations

from engines.engine import Engine
from screener.records import Batch, Lungs


def segment(batch: Batch, engine: Engine) -> Lungs:
    """Find the lung fields of a batch.

    Returns:
        Probabilities (N, 2, M, M), patient right lung first; the crop box (N, 4) in canvas pixels; and the
        log-odds (N, 1) that each picture is a frontal chest radiograph.
    """
    found = engine.run({"canvas": batch.canvas})
    return Lungs(probability=found["lungs"], box=found["box"], frontal_logit=found["frontal_logit"])
