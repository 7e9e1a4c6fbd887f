"""Whether a reader could see a drawn finding: its contrast against the film's own anatomy, after Rose.

A label says what a film shows. A lesion drawn where the film is white already, or as faint as the ribs and
vessels round it, is a label that nobody could have given: such a finding is drawn again, elsewhere and a
little denser. The decision a reader would question: this makes drawn disease as easy as disease that somebody
reported, and easier than disease found at autopsy; the table says how clear findings are. Each is judged by
itself, on the film without the others.

Rose A: Vision. Human and Electronic. Plenum 1973: an object is found reliably from a contrast of 3 to 5 times
the spread of what surrounds it. Here both are blurred by 4 mm; the spread is of what is below 20 mm.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Drawn = TypeVar("Drawn")
Judge = Callable[[Float32], float]
"""(rows, columns) of soft tissue, mm, to its contrast over the anatomy's spread."""

LEAST = 3.0
"""Contrast over the spread of anatomy from which a finding counts as visible."""
_ATTEMPTS = 6
_DENSER = 0.12
"""Added to a finding's thickness for each attempt that nobody would have seen."""
_LESION_MM = 4.0
_SURROUNDINGS_MM = 20.0
_STEP = 4
"""Contrast is measured at a quarter of the size: blurred by 4 mm there is nothing finer."""


def taken_as_visible(_: Float32) -> float:
    """The judge where a film's own picture is not known."""
    return math.inf


@dataclass(frozen=True, slots=True)
class Surroundings:
    """How restless a film's lungs are at the scale of a lesion, edges included: lesions lie there, too."""

    lungs: npt.NDArray[np.bool_]
    """(rows, columns)."""
    pixel_mm: float
    spread: float
    """Standard deviation inside the lungs of structures of 4 to 20 mm, in the film's own grey or density."""

    @classmethod
    def of(cls, grey: Float32, lungs: npt.NDArray[np.uint8], pixel_mm: float) -> Surroundings:
        """Measure a film without findings; (rows, columns) of grey or density, and its lung labels."""
        small = _reduced(grey)
        lesion = cv2.GaussianBlur(small, (0, 0), _LESION_MM / _STEP / pixel_mm)
        broad = cv2.GaussianBlur(small, (0, 0), _SURROUNDINGS_MM / _STEP / pixel_mm)
        inside = cv2.resize(lungs, (small.shape[1], small.shape[0]), interpolation=cv2.INTER_NEAREST) > 0
        values = (lesion - broad)[inside]
        return cls(inside, pixel_mm, max(float(values.std()), 1e-3) if values.size else 1e-3)

    def contrast(self, change: Float32) -> float:
        """Largest contrast in the lungs of a change of grey or density (rows, columns), over the spread."""
        blurred = cv2.GaussianBlur(_reduced(change), (0, 0), _LESION_MM / _STEP / self.pixel_mm)
        return float(np.abs(blurred[self.lungs]).max(initial=0.0)) / self.spread


def _reduced(picture: Float32) -> Float32:
    size = (max(picture.shape[1] // _STEP, 1), max(picture.shape[0] // _STEP, 1))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float32)


def until_visible(draw: Callable[[float], tuple[Drawn, Float32]], judge: Judge) -> Drawn:
    """Draw until a reader could see it, or take the clearest of six attempts.

    Args:
        draw: makes one attempt with a thickness factor, from 1 up; returns it and its soft tissue, mm.
        judge: contrast of soft tissue on this film.
    """
    clearest, soft = draw(1.0)
    best = judge(soft)
    for attempt in range(1, _ATTEMPTS):
        if best >= LEAST:
            break
        made, soft = draw(1 + _DENSER * attempt)
        contrast = judge(soft)
        if contrast > best:
            clearest, best = made, contrast
    return clearest
