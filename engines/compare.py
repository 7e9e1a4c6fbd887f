"""Holds one pair of engines against another on real canvases: logit errors, decision flips, mask overlap.

Each pair runs end to end on its own masks and crop boxes, because a small error of a mask moves the crop and
is part of what the precision costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.engine import Engines
from engines.errors import EngineError

_LOGITS = ("diagnosis_logits", "stage_logits", "zone_logits")
_CHUNK = 8
"""Canvases in memory at once, per engine call."""


@dataclass(frozen=True, slots=True)
class LogitError:
    """Absolute difference of one head's logits."""

    name: str
    largest: float
    mean: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a candidate is from its reference."""

    candidate: str
    """Description of the candidate."""
    num_images: int
    logits: tuple[LogitError, ...]
    stage_flips: float
    """Share of images whose most probable stage differs."""
    diagnosis_flips: float
    """Share of images with a diagnosis logit on the other side of 0."""
    mask_dice: float
    """Mean Dice overlap of the two lung masks, 0 to 1; two empty masks overlap fully."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a candidate must keep."""

    mean_logit_error: float = 0.05
    stage_flips: float = 0.005
    diagnosis_flips: float = 0.005
    mask_dice: float = 0.997

    def failures(self, found: Comparison) -> tuple[str, ...]:
        """What is not kept, in words; empty when all is."""
        worst = max(error.mean for error in found.logits)
        checks = (
            (worst <= self.mean_logit_error, f"mean logit error {worst:.4f} > {self.mean_logit_error}"),
            (
                found.stage_flips <= self.stage_flips,
                f"stage flips {found.stage_flips:.2%} > {self.stage_flips:.2%}",
            ),
            (
                found.diagnosis_flips <= self.diagnosis_flips,
                f"diagnosis flips {found.diagnosis_flips:.2%} > {self.diagnosis_flips:.2%}",
            ),
            (found.mask_dice >= self.mask_dice, f"mask Dice {found.mask_dice:.4f} < {self.mask_dice}"),
        )
        return tuple(text for is_kept, text in checks if not is_kept)


@dataclass(frozen=True, slots=True)
class _Results:
    masks: npt.NDArray[np.bool_]
    logits: dict[str, npt.NDArray[Any]]


def compare(reference: Engines, candidate: Engines, canvas: npt.NDArray[np.float32]) -> Comparison:
    """Run both pairs on the same canvases.

    Args:
        reference: the pair to be held against, usually torch in float32.
        candidate: the pair in question.
        canvas: (N, 1, S, S) in [0, 1], N at least 1.

    Raises:
        EngineError: no canvas, or an engine fails.
    """
    if not len(canvas):
        raise EngineError("there is no canvas to compare engines on")
    want, have = _run(reference, canvas), _run(candidate, canvas)
    errors = {name: np.abs(have.logits[name] - want.logits[name]) for name in _LOGITS}
    return Comparison(
        candidate=candidate.description,
        num_images=len(canvas),
        logits=tuple(
            LogitError(name, float(error.max()), float(error.mean())) for name, error in errors.items()
        ),
        stage_flips=_share(have.logits["stage_logits"].argmax(1) != want.logits["stage_logits"].argmax(1)),
        diagnosis_flips=_share(
            ((have.logits["diagnosis_logits"] > 0) != (want.logits["diagnosis_logits"] > 0)).any(axis=1)
        ),
        mask_dice=_dice(have.masks, want.masks),
    )


def _run(engines: Engines, canvas: npt.NDArray[np.float32]) -> _Results:
    masks, logits = [], []
    for first in range(0, len(canvas), _CHUNK):
        chunk = canvas[first : first + _CHUNK]
        found = engines.segmentation.run({"canvas": chunk})
        masks.append(found["lungs"] >= 0.5)
        logits.append(
            engines.classification.run({"canvas": chunk, "lungs": found["lungs"], "box": found["box"]})
        )
    joined = {name: np.concatenate([part[name] for part in logits]) for name in _LOGITS}
    return _Results(np.concatenate(masks), joined)


def _share(differs: npt.NDArray[np.bool_]) -> float:
    return float(differs.mean())


def _dice(have: npt.NDArray[np.bool_], want: npt.NDArray[np.bool_]) -> float:
    axes = tuple(range(1, have.ndim))
    both = np.logical_and(have, want).sum(axes)
    total = have.sum(axes) + want.sum(axes)
    return float(np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0).mean())
