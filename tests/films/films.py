"""Real films of this folder as canvases with the lung probability that a perfect segmentation would give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from screener.canvas import CANVAS_SIDE, canvas_from_grey
from screener.records import (
    ArchiveEntry,
    CanvasFacts,
    Float32,
    Identity,
    Instance,
    Letterbox,
    Source,
)

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(file.name.removesuffix(".mask.png") for file in FOLDER.glob("*.mask.png")))
MASK_SIDE = 256


@dataclass(frozen=True, slots=True)
class Film:
    """One film, ready to be graded."""

    canvas: Float32
    """(1, 768, 768)"""
    probability: Float32
    """(2, 256, 256)"""
    source: Source

    @property
    def box(self) -> Float32:
        """Top, left, bottom, right of both lungs in canvas pixels."""
        rows, columns = np.nonzero(self.probability.max(axis=0) >= 0.5)
        if not rows.size:
            return np.array([0, 0, CANVAS_SIDE, CANVAS_SIDE], dtype=np.float32)
        edges = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        return np.asarray(edges, dtype=np.float32) * (CANVAS_SIDE / MASK_SIDE)


def read_pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The film (128, 128) uint8 and its lungs (2, 128, 128) float32, patient right then left."""
    image = cv2.imread(str(FOLDER / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
    mask = cv2.imread(str(FOLDER / f"{name}.mask.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert mask is not None
    _, labels, stats, centroids = cv2.connectedComponentsWithStats((mask > 127).astype(np.uint8))
    largest = np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:2] + 1
    right, left = sorted(largest, key=lambda label: centroids[label][0])
    return image, np.stack([labels == right, labels == left]).astype(np.float32)


def film_of(image: np.ndarray, lungs: np.ndarray, spacing_mm: tuple[float, float] | None = None) -> Film:
    """Draw a picture and its lung masks as the loader and the segmentation graph would."""
    canvas = np.empty((CANVAS_SIDE, CANVAS_SIDE), dtype=np.float32)
    facts = canvas_from_grey(image, canvas)
    return Film(canvas[None], on_mask_grid(lungs, facts.letterbox), source_of(facts, image.shape, spacing_mm))


def on_mask_grid(lungs: np.ndarray, letterbox: Letterbox) -> Float32:
    """Masks (2, H, W) of a picture as (2, 256, 256) probability over the canvas."""
    scale = letterbox.scale
    move = np.array(
        [
            [scale, 0, letterbox.left + scale / 2 - 0.5],
            [0, scale, letterbox.top + scale / 2 - 0.5],
        ]
    )
    drawn = [cv2.warpAffine(lung, move, (CANVAS_SIDE, CANVAS_SIDE)) for lung in lungs]
    small = [cv2.resize(lung, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA) for lung in drawn]
    return np.stack(small).astype(np.float32)


def source_of(
    facts: CanvasFacts, shape: tuple[int, ...], spacing_mm: tuple[float, float] | None = None
) -> Source:
    """A source with the least header that grading looks at."""
    instance = Instance(
        sop_class_uid=None,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="DX",
        rows=shape[0],
        columns=shape[1],
        bits_allocated=8,
        bits_stored=8,
        is_signed=False,
        photometric_interpretation="MONOCHROME2",
        view_position=None,
        body_part="chest",
        pixel_spacing_mm=spacing_mm,
        spacing_source="imager" if spacing_mm else None,
        for_presentation=True,
        manufacturer=None,
        patient_age_years=None,
        patient_sex=None,
        study_year=None,
    )
    return Source(ArchiveEntry("", 0, 0), Identity(), instance, facts, "")
