"""One head's logits to calibrated probabilities: an affine map on the log-odds scale.

Temperature, Platt and vector scaling (Guo et al. 2017, "On Calibration of Modern Neural Networks") are the
same map with different freedom, so one record holds all three and `kind` only says how it was fitted.
Questionable: stage logits are normalised to log-probabilities before they are scaled. That changes nothing
for a temperature and makes vector scaling depend on probabilities alone, which is all that a campaign stores.

Shape letters: N images, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError

Float64 = npt.NDArray[np.float64]
Kind = Literal["identity", "temperature", "platt", "vector"]

_SMALLEST = 1e-7
"""Probabilities are kept this far from 0 and 1 before log-odds: half a float32 step below 1."""


def sigmoid(logits: npt.ArrayLike) -> Float64:
    """Probability of log-odds, without overflow."""
    return np.exp(-np.logaddexp(0.0, -np.asarray(logits, dtype=np.float64)))


def logit(probabilities: npt.ArrayLike) -> Float64:
    """Log-odds of probabilities, finite for 0 and 1."""
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), _SMALLEST, 1 - _SMALLEST)
    odds: Float64 = np.log(clipped) - np.log1p(-clipped)
    return odds


def log_softmax(logits_NK: npt.ArrayLike) -> Float64:
    """(N, K) log-probabilities of the classes."""
    logits = np.asarray(logits_NK, dtype=np.float64)
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def log_probabilities(probabilities: npt.ArrayLike) -> Float64:
    """Logarithm of class probabilities, finite for 0: what `Scaling.classes` takes as logits."""
    return np.log(np.clip(np.asarray(probabilities, dtype=np.float64), _SMALLEST, 1.0))


@dataclass(frozen=True, slots=True)
class Scaling:
    """calibrated logit = weight * logit + bias, for a head of one label or of K classes."""

    kind: Kind
    weight: tuple[float, ...]
    """One per class; a temperature T is 1 / T in all of them. Positive, so the map is monotone."""
    bias: tuple[float, ...]

    def __post_init__(self) -> None:
        finite = all(np.isfinite((*self.weight, *self.bias)))
        if len(self.weight) != len(self.bias) or not finite or min(self.weight, default=0) <= 0:
            raise CalibrationError(
                f"scaling with weights {self.weight} and biases {self.bias}: expected as many finite biases "
                "as positive weights"
            )

    @classmethod
    def identity(cls, num_classes: int) -> Scaling:
        """The network's own probabilities."""
        return cls("identity", (1.0,) * num_classes, (0.0,) * num_classes)

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Scaling:
        """From the fields of a JSON object.

        Raises:
            KeyError, TypeError, ValueError: fields are missing or not numbers.
            CalibrationError: numbers that are no scaling.
        """
        return cls(fields["kind"], tuple(map(float, fields["weight"])), tuple(map(float, fields["bias"])))

    def label(self, logits_N: npt.ArrayLike) -> Float64:
        """Probabilities (N,) of an independent label from its log-odds (N,)."""
        return sigmoid(np.asarray(logits_N, dtype=np.float64) * self.weight[0] + self.bias[0])

    def classes(self, logits_NK: npt.ArrayLike) -> Float64:
        """Probabilities (N, K) of exclusive classes from their logits (N, K)."""
        return np.exp(log_softmax(log_softmax(logits_NK) * np.asarray(self.weight) + np.asarray(self.bias)))

    def shifted(self, bias: npt.ArrayLike) -> Scaling:
        """The same map followed by an addition to its log-odds, as a change of prevalence is."""
        added = np.broadcast_to(np.asarray(bias, dtype=np.float64), (len(self.bias),))
        return Scaling(
            self.kind, self.weight, tuple(float(b + a) for b, a in zip(self.bias, added, strict=True))
        )
