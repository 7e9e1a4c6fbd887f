"""Makes the int8 Q/DQ graph of a float one, and checks that a Q/DQ graph is one every engine accepts.

Symmetric, per channel for weights, per tensor for activations, biases and everything else in floating point.
TensorRT refuses other graphs with messages about its own layers; OpenVINO accepts more than TensorRT. The
decision a reader would question: only the inputs of convolutions are quantised, never their outputs. Sums,
concatenations and normalisation between them then keep full precision, and one layer can be given back to
floating point without touching its neighbours.
"""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from engines.errors import EngineError
from engines.int8_ranges import SMALLEST, Int8Ranges
from engines.precision import drop_unread_weights, fold_constant_casts, load

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_LARGEST = 127
"""Of weights in both signs, so that their levels are symmetric about zero."""
_OUTPUT_CHANNEL = {"Conv": 0, "ConvTranspose": 1}
"""Axis of a weight that counts output channels, by operator."""


def quantised_graph(model: bytes, ranges: Int8Ranges) -> bytes:
    """Quantise the inputs and weights of the convolutions that have a range.

    Args:
        model: float32 ONNX.
        ranges: of this graph's convolutions.

    Returns:
        Q/DQ ONNX with the same inputs and outputs.

    Raises:
        EngineError: ranges of another graph, convolutions that cannot be told apart, weights that are not
            finite, or a malformed graph.
    """
    if hashlib.sha256(model).hexdigest() != ranges.graph_sha256:
        raise EngineError("the int8 ranges were measured on another graph; build the bundle again")
    try:
        proto = fold_constant_casts(load(model))
        if not set(ranges.largest) <= {node.name for node in named_convolutions(proto.graph)}:
            raise EngineError("the int8 ranges name convolutions that the graph lacks; build it again")
        _Quantisation(proto.graph, ranges).apply()
    except (ValueError, KeyError, IndexError, TypeError) as error:
        found = type(error).__name__
        raise EngineError(f"the graph cannot be quantised ({found}); use --precision bf16 or fp32") from error
    return bytes(proto.SerializeToString())


def convolutions(graph: GraphProto) -> list[NodeProto]:
    """The graph's convolutions, transposed ones included, in the order they run."""
    return [node for node in graph.node if node.op_type in _OUTPUT_CHANNEL]


def named_convolutions(graph: GraphProto) -> list[NodeProto]:
    """The same, if every one has a name of its own.

    Raises:
        EngineError: they cannot be told apart.
    """
    found = convolutions(graph)
    if len({node.name for node in found} - {""}) < len(found):
        raise EngineError("the graph's convolutions have no names of their own; export it again")
    return found


class _Quantisation:
    """One graph being quantised in place."""

    def __init__(self, graph: GraphProto, ranges: Int8Ranges) -> None:
        self._graph = graph
        self._largest = ranges.largest
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._taken = set(self._weights) | {name for node in graph.node for name in node.output}
        self._nodes: list[NodeProto] = []
        self._done: dict[tuple[str, float], str] = {}
        """Dequantised tensors by what they stand for and their range or axis: readers share one."""

    def apply(self) -> None:
        """Put quantisers before each chosen convolution and drop the weights nobody reads any more."""
        for node in self._graph.node:
            if node.name in self._largest and node.op_type in _OUTPUT_CHANNEL:
                node.input[0] = self._activation(node.input[0], self._largest[node.name])
                node.input[1] = self._weight(node.input[1], _OUTPUT_CHANNEL[node.op_type])
            self._nodes.append(node)
        nodes = [NodeProto.FromString(node.SerializeToString()) for node in self._nodes]
        del self._graph.node[:]
        self._graph.node.extend(nodes)
        if not any(attribute.HasField("g") for node in nodes for attribute in node.attribute):
            drop_unread_weights(self._graph)

    def _activation(self, name: str, largest: float) -> str:
        key = name, largest
        if key not in self._done:
            scale = np.asarray(largest / _LARGEST, np.float32)
            settings = self._settings(name, scale, np.zeros((), np.int8))
            levels = self._add("QuantizeLinear", [name, *settings])
            self._done[key] = self._add("DequantizeLinear", [levels, *settings])
        return self._done[key]

    def _weight(self, name: str, axis: int) -> str:
        key = name, axis
        if key not in self._done:
            weight = numpy_helper.to_array(self._weights[name])
            rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
            scale = (np.abs(rows).max(axis=1) / _LARGEST).astype(np.float32)
            if not np.isfinite(scale).all():
                raise EngineError(f"the weight {name} is not finite; train and export the network again")
            scale[scale < SMALLEST] = 1
            shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
            levels = np.clip(np.rint(weight / scale.reshape(shape)), -_LARGEST, _LARGEST)
            settings = self._settings(name, scale, np.zeros(scale.shape, np.int8))
            stored = self._store(f"{name}_int8", levels.astype(np.int8))
            self._done[key] = self._add("DequantizeLinear", [stored, *settings], axis=axis)
        return self._done[key]

    def _settings(self, name: str, scale: npt.NDArray[np.float32], zero: npt.NDArray[np.int8]) -> list[str]:
        return [self._store(f"{name}_scale", scale), self._store(f"{name}_zero", zero)]

    def _store(self, name: str, values: npt.NDArray[Any]) -> str:
        name = self._free(name)
        tensor: TensorProto = numpy_helper.from_array(values, name)
        self._graph.initializer.append(tensor)
        return name

    def _add(self, operator: str, inputs: list[str], axis: int | None = None) -> str:
        output = self._free(f"{inputs[0]}_{operator}")
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, axis=axis))
        return output

    def _free(self, name: str) -> str:
        """`name`, or with a number behind it where the graph has one of that name."""
        numbered = (f"{name}_{number}" for number in itertools.count(2))
        while name in self._taken:
            name = next(numbered)
        self._taken.add(name)
        return name


def check_quantisation(model: bytes) -> None:
    """Check every QuantizeLinear and DequantizeLinear of a graph.

    Args:
        model: ONNX bytes; a graph without quantisation passes.

    Raises:
        EngineError: names the node, what was found, and what to do.
    """
    graph = onnx.load_from_string(model).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in _QUANTISERS:
            _check_node(node, stored)


def num_quantised_convolutions(model: bytes) -> tuple[int, int]:
    """How many convolutions take a dequantised weight, and how many there are."""
    graph: GraphProto = onnx.load_from_string(model).graph
    dequantised = {name for node in graph.node if node.op_type == "DequantizeLinear" for name in node.output}
    found = convolutions(graph)
    return sum(node.input[1] in dequantised for node in found), len(found)


def _check_node(node: NodeProto, stored: dict[str, TensorProto]) -> None:
    advice = "quantise symmetrically and leave biases in floating point (engines.quantised_graph does)"
    if node.op_type == "DequantizeLinear":
        source = stored.get(node.input[0])
        if source is not None and source.data_type == TensorProto.INT32:
            raise EngineError(f"{node.name} dequantises an int32 bias; {advice}")
    if len(node.input) > 2 and node.input[2]:
        zero_point = stored.get(node.input[2])
        if zero_point is None:
            raise EngineError(f"{node.name} computes its zero point; {advice}")
        if np.any(numpy_helper.to_array(zero_point)):
            raise EngineError(f"{node.name} has a zero point other than 0; {advice}")
        if zero_point.data_type != TensorProto.INT8:
            raise EngineError(
                f"{node.name} quantises to element type {zero_point.data_type}, not int8; {advice}"
            )
