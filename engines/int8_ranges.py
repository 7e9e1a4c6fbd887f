"""What a bundle holds to run a graph in int8: how large the input of each quantised convolution gets.

The decision a reader would question: a bundle holds these few kilobytes and not the quantised graph. Its
weights follow from the float ones, so `engines.quantised_graph` makes it when it is opened, and it cannot
disagree with the float graph beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from engines.errors import BundleError, EngineError

FORMAT = "screener-int8-ranges/1"


@dataclass(frozen=True, slots=True)
class Int8Ranges:
    """Which convolutions of a graph are quantised, and how large their inputs get."""

    largest: Mapping[str, float]
    """Largest magnitude of the input, finite and not negative, by name of the convolution."""

    def without(self, layers: Collection[str]) -> Int8Ranges:
        """The same ranges with some convolutions given back to floating point.

        Raises:
            EngineError: a name that is no quantised convolution.
        """
        if unknown := set(layers) - set(self.largest):
            raise EngineError(f"no convolution is named {', '.join(sorted(unknown))}")
        return Int8Ranges({name: top for name, top in self.largest.items() if name not in layers})

    def to_json(self) -> bytes:
        """The text of the bundle's file."""
        return (json.dumps({"format": FORMAT, "largest": dict(self.largest)}, indent=1) + "\n").encode()


def parse_ranges(text: bytes, file: str) -> Int8Ranges:
    """Read a bundle's file of ranges.

    Args:
        text: the file's bytes.
        file: its name, for the error.

    Raises:
        BundleError: not JSON, another format, or a range that is no finite number from 0 up.
    """
    try:
        root: Any = json.loads(text)
    except ValueError as error:
        raise BundleError(f"bundle file {file} is not JSON ({error}); build the bundle again") from error
    largest = root.get("largest") if isinstance(root, dict) and root.get("format") == FORMAT else None
    if not isinstance(largest, dict) or not largest or not all(map(_is_range, largest.values())):
        raise BundleError(f"bundle file {file} holds no {FORMAT} ranges; build the bundle again")
    return Int8Ranges(largest)


def _is_range(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )
