"""Real films of this folder as canvases with the lung probability that a perfect segmentation would give."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from screener.canvas import CANVAS_SIDE, canvas_from_grey
from screener.records import Float32, Source
from training.quality_limits import lung_box, on_mask_grid, plain_source, two_lungs

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(file.name.removesuffix(".mask.png") for file in FOLDER.glob("*.mask.png")))


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
        return lung_box(self.probability)


def read_pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The film (128, 128) uint8 and its lungs (2, 128, 128) float32, patient right then left."""
    image = cv2.imread(str(FOLDER / f"{name}.png"), cv2.IMREAD_GRAYSCALE)
    mask = cv2.imread(str(FOLDER / f"{name}.mask.png"), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert mask is not None
    lungs = two_lungs(np.asarray(mask, dtype=np.uint8))
    assert lungs is not None
    return image, lungs


def film_of(image: np.ndarray, lungs: np.ndarray, spacing_mm: tuple[float, float] | None = None) -> Film:
    """Draw a picture and its lung masks as the loader and the segmentation graph would."""
    canvas = np.empty((CANVAS_SIDE, CANVAS_SIDE), dtype=np.float32)
    facts = canvas_from_grey(image, canvas)
    probability = on_mask_grid(lungs, facts.letterbox)
    return Film(canvas[None], probability, plain_source(facts, image.shape, spacing_mm))
