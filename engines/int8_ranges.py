"""What a bundle holds to run a graph in int8: how large the input of each quantised convolution gets.

The decision a reader would question: a bundle holds these few kilobytes and not the quantised graph. Its
weights follow from the float ones, so `engines.quantised_graph` makes it when it is opened. The ranges are
bound to the float graph by its hash: another graph refuses them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from engines.errors import BundleError, EngineError

FORMAT = "screener-int8-ranges/1"
SMALLEST, LARGEST = 1e-30, 1e30
"""Of a range: scales beyond are no normal float32, or overflow in sums."""


@dataclass(frozen=True, slots=True)
class Int8Ranges:
    """Which convolutions of a graph are quantised, and how large their inputs get."""

    graph_sha256: str
    """Of the float graph's ONNX bytes, hex."""
    largest: Mapping[str, float]
    """Largest magnitude of the input, `SMALLEST` to `LARGEST`, by name of the convolution."""

    def without(self, layers: Collection[str]) -> Int8Ranges:
        """The same ranges with some convolutions given back to floating point.

        Raises:
            EngineError: a name that is no quantised convolution.
        """
        if unknown := set(layers) - set(self.largest):
            raise EngineError(f"no quantised convolution is named {', '.join(sorted(unknown))}")
        return replace(self, largest={name: top for name, top in self.largest.items() if name not in layers})

    def to_json(self) -> bytes:
        """The text of the bundle's file."""
        described = {"format": FORMAT, "graph_sha256": self.graph_sha256, "largest": dict(self.largest)}
        return (json.dumps(described, indent=1) + "\n").encode()


def parse_ranges(text: bytes, file: str, graph_sha256: str) -> Int8Ranges:
    """Read a bundle's file of ranges.

    Args:
        text: the file's bytes.
        file: its name, for the error.
        graph_sha256: of the float graph beside it.

    Raises:
        BundleError: not JSON, another format, a range out of bounds, or ranges of another graph.
    """
    try:
        root: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        found = type(error).__name__
        raise BundleError(f"bundle file {file} is not JSON ({found}); build the bundle again") from error
    largest = root.get("largest") if isinstance(root, dict) and root.get("format") == FORMAT else None
    if not isinstance(largest, dict) or not largest or not all(map(_is_range, largest.values())):
        raise BundleError(f"bundle file {file} holds no {FORMAT} ranges; build the bundle again")
    if root.get("graph_sha256") != graph_sha256:
        raise BundleError(f"bundle file {file} was measured on another graph; build the bundle again")
    return Int8Ranges(graph_sha256, largest)


def _is_range(value: object) -> bool:
    return type(value) in (int, float) and SMALLEST <= value <= LARGEST  # type: ignore[operator]
