"""Measures what a graph's convolutions see, and what quantising each of them costs.

Two decisions a reader would question. Ranges are the plain extremes over the calibration images: percentiles
or entropy would clip the rare bright pixel, and on a radiograph that is the calcified nodule. And a
convolution of fewer than four channels, such as the one that reads the picture, stays in floating point:
matrix units take channels in blocks, and it would be slower in int8 than in bf16.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, helper

from engines.errors import EngineError
from engines.int8_ranges import LARGEST, SMALLEST, Int8Ranges
from engines.onnx_header import read_onnx_header
from engines.precision import checked, fold_constant_casts, load
from engines.quantised_graph import check_quantisation, named_convolutions, quantised_graph
from engines.tensor_spec import check_feeds

Arrays = Mapping[str, npt.NDArray[np.float32]]

FEWEST_CHANNELS = 4
"""A convolution of fewer input channels is not quantised."""


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """What quantising one convolution alone does to the outputs."""

    layer: str
    """Node name."""
    error: float
    """Root mean square difference of the outputs, each divided by its own standard deviation."""


def measure_ranges(model: bytes, feeds: Arrays, *, keep_float: Collection[str] = ()) -> Int8Ranges:
    """Run calibration images and note the largest magnitude that each convolution's input takes.

    Args:
        model: float32 ONNX.
        feeds: calibration images by input name, (N, ...) each.
        keep_float: names of convolutions to leave alone, beside those of fewer than `FEWEST_CHANNELS`.

    Returns:
        Ranges of which `quantised_graph` makes a graph that every engine accepts.

    Raises:
        EngineError: not a valid graph, images that do not fit it, values that are not finite, or nothing to
            quantise.
    """
    check_feeds(read_onnx_header(model).inputs, feeds)
    proto = fold_constant_casts(load(model))
    chosen = [node for node in named_convolutions(proto.graph) if node.name not in keep_float]
    sources = {node.name: node.input[0] for node in _wide(chosen, proto)}
    if not sources:
        raise EngineError("the graph has no convolution that is worth quantising")
    largest = _extremes(proto, sorted(set(sources.values())), feeds)
    if not all(math.isfinite(top) for top in largest.values()):
        raise EngineError("the calibration images give values that are not finite")
    found = {name: min(largest[source], LARGEST) for name, source in sources.items()}
    # What saw nothing but zeros could not be trusted with anything else.
    kept = {name: top for name, top in found.items() if top >= SMALLEST}
    ranges = Int8Ranges(hashlib.sha256(model).hexdigest(), kept)
    quantised = quantised_graph(model, ranges)
    checked(load(quantised))
    check_quantisation(quantised)
    return ranges


def sensitivities(model: bytes, ranges: Int8Ranges, feeds: Arrays) -> tuple[LayerSensitivity, ...]:
    """Measure each quantised convolution alone, worst first.

    Args:
        model: the float32 graph.
        ranges: `measure_ranges` of it.
        feeds: a few images; a convolution costs one pass over them.
    """
    expected = _outputs(fold_constant_casts(load(model)), feeds)
    found = []
    for name in ranges.largest:
        alone = quantised_graph(model, ranges.without(ranges.largest.keys() - {name}))
        found.append(LayerSensitivity(name, _difference(_outputs(load(alone), feeds), expected)))
    return tuple(sorted(found, key=lambda layer: layer.error, reverse=True))


def _extremes(proto: ModelProto, watched: list[str], feeds: Arrays) -> dict[str, float]:
    """Largest magnitude over all images of each watched tensor; the graph's outputs become those."""
    del proto.graph.output[:]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in watched)
    session = _session(proto)
    largest = np.zeros(len(watched))
    for place in range(len(next(iter(feeds.values())))):
        values = session.run(None, {name: array[place : place + 1] for name, array in feeds.items()})
        largest = np.maximum(largest, [np.abs(value).max() for value in values])
    return dict(zip(watched, largest.tolist(), strict=True))


def _wide(nodes: Iterable[NodeProto], proto: ModelProto) -> list[NodeProto]:
    """The convolutions with enough input channels to be worth quantising."""
    shapes = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    axis = {"Conv": 1, "ConvTranspose": 0}
    stored = [node for node in nodes if node.input[1] in shapes]
    return [node for node in stored if shapes[node.input[1]][axis[node.op_type]] >= FEWEST_CHANNELS]


def _session(proto: ModelProto) -> Any:  # noqa: ANN401 - onnxruntime has no types
    import onnxruntime

    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def _outputs(proto: ModelProto, feeds: Arrays) -> list[npt.NDArray[np.float32]]:
    return list(_session(proto).run(None, dict(feeds)))


def _difference(found: list[npt.NDArray[Any]], expected: list[npt.NDArray[Any]]) -> float:
    errors = [
        float(np.square((have - want) / (want.std() + 1e-6)).mean())
        for have, want in zip(found, expected, strict=True)
    ]
    return float(np.sqrt(np.mean(errors)))
