"""Name, dtype and shape of a network's inputs and outputs, and the checks made with them.

Shapes hold None where a dimension is dynamic. Specs are compared once, at wiring, so that a graph that does
not honour its manifest stops before the first image rather than in the middle of a campaign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a network."""

    name: str
    dtype: str
    """numpy's name of the element type, for example `float32`."""
    shape: tuple[int | None, ...]
    """None marks a dynamic dimension; dimension 0 is the batch."""

    def __post_init__(self) -> None:
        np.dtype(self.dtype)
        if not self.shape or any(size is not None and size < 1 for size in self.shape):
            raise ValueError(
                f"{self.name}: expected at least one dimension, each 1 or more, found {self.shape}"
            )

    def __str__(self) -> str:
        sizes = ", ".join("N" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype} ({sizes})"

    def fits(self, shape: Sequence[int | None]) -> bool:
        """Whether every static dimension of this spec is met by `shape`."""
        return len(shape) == len(self.shape) and all(
            want is None or want == have for want, have in zip(self.shape, shape, strict=True)
        )

    def of_batch(self, count: int) -> tuple[int, ...]:
        """The shape for `count` images.

        Raises:
            EngineError: a dimension other than the batch is dynamic.
        """
        rest = self.shape[1:]
        if any(size is None for size in rest):
            raise EngineError(f"{self}: only the batch dimension may be dynamic")
        return (count, *(size for size in rest if size is not None))


def check_specs(what: str, *, found: Sequence[TensorSpec], expected: Sequence[TensorSpec]) -> None:
    """Compare tensors by name, dtype and shape; a dynamic batch satisfies any expected batch.

    Raises:
        EngineError: names both lists.
    """
    have = {spec.name: spec for spec in found}
    for spec in expected:
        other = have.get(spec.name)
        if other is None or other.dtype != spec.dtype or not spec.fits(other.shape):
            raise EngineError(f"{what}: found {_listed(found)}; expected {_listed(expected)}")
    if len(have) != len(expected):
        raise EngineError(f"{what}: found {_listed(found)}; expected {_listed(expected)}")


def check_feeds(inputs: Sequence[TensorSpec], feeds: Mapping[str, npt.NDArray[Any]]) -> int:
    """Check the arrays of one `run` call and return how many images they hold.

    Raises:
        EngineError: a name, dtype, shape or count that does not fit.
    """
    if set(feeds) != {spec.name for spec in inputs}:
        raise EngineError(f"run was fed {', '.join(sorted(feeds)) or 'nothing'}; expected {_listed(inputs)}")
    count = feeds[inputs[0].name].shape[0] if feeds[inputs[0].name].ndim else 0
    for spec in inputs:
        array = feeds[spec.name]
        if array.dtype != np.dtype(spec.dtype) or not spec.fits(array.shape) or array.shape[0] != count:
            raise EngineError(f"run was fed {spec.name} {array.dtype} {array.shape}; expected {spec}")
    if count < 1:
        raise EngineError("run was fed an empty batch; expected 1 image or more")
    return count


def filled_up(array: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """A short batch (n, ...) with its last image repeated to (count, ...); n is 1 to `count`."""
    missing = count - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def _listed(specs: Sequence[TensorSpec]) -> str:
    return "; ".join(str(spec) for spec in specs) or "none"
