"""Makes the int8 Q/DQ graph of a float one, and checks that a Q/DQ graph is one every engine accepts.

Symmetric, per channel for weights, per tensor for activations, biases and everything else in floating point.
TensorRT refuses other graphs with messages about its own layers; OpenVINO accepts more than TensorRT. The
decision a reader would question: only the inputs of convolutions are quantised, never their outputs. Sums,
concatenations and normalisation between them then keep full precision, and one layer can be given back to
floating point without touching its neighbours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from engines.errors import EngineError
from engines.int8_ranges import Int8Ranges
from engines.precision import fold_constant_casts, load

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")
_LARGEST = 127
"""Both signs: -128 is left unused, so that levels are symmetric about zero."""
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
        EngineError: not a valid graph, or ranges of convolutions that it does not have.
    """
    proto = fold_constant_casts(load(model))
    graph = proto.graph
    found = {node.name for node in convolutions(graph)}
    if missing := set(ranges.largest) - found:
        raise EngineError(f"the ranges name {min(missing)}, the graph has no such convolution")
    _Quantisation(graph, ranges).apply()
    return bytes(proto.SerializeToString())


def convolutions(graph: GraphProto) -> list[NodeProto]:
    """The graph's convolutions, transposed ones included, in the order they run."""
    return [node for node in graph.node if node.op_type in _OUTPUT_CHANNEL]


class _Quantisation:
    """One graph being quantised in place."""

    def __init__(self, graph: GraphProto, ranges: Int8Ranges) -> None:
        self._graph = graph
        self._largest = ranges.largest
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: list[NodeProto] = []
        self._done: dict[str, str] = {}
        """Dequantised tensors by the name of what they stand for: two readers share one."""

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
        read = {name for node in nodes for name in node.input}
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name not in read]:
            self._graph.initializer.remove(tensor)

    def _activation(self, name: str, largest: float) -> str:
        if name not in self._done:
            scale = np.float32(largest / _LARGEST or 1.0)
            settings = self._settings(name, np.asarray(scale), np.zeros((), np.int8))
            self._add("QuantizeLinear", [name, *settings], f"{name}_int8")
            self._done[name] = self._add(
                "DequantizeLinear", [f"{name}_int8", *settings], f"{name}_dequantised"
            )
        return self._done[name]

    def _weight(self, name: str, axis: int) -> str:
        if name not in self._done:
            if name not in self._weights:
                raise EngineError(f"the weight {name} is computed by the graph; export it as a constant")
            weight = numpy_helper.to_array(self._weights[name])
            rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
            scale = (np.abs(rows).max(axis=1) / _LARGEST).astype(np.float32)
            scale[scale == 0] = 1
            shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
            levels = np.rint(weight / scale.reshape(shape)).astype(np.int8)
            self._store(f"{name}_int8", levels)
            settings = self._settings(name, scale, np.zeros(scale.shape, np.int8))
            self._done[name] = self._add(
                "DequantizeLinear", [f"{name}_int8", *settings], f"{name}_dequantised", axis=axis
            )
        return self._done[name]

    def _settings(self, name: str, scale: npt.NDArray[np.float32], zero: npt.NDArray[np.int8]) -> list[str]:
        return [self._store(f"{name}_scale", scale), self._store(f"{name}_zero", zero)]

    def _store(self, name: str, values: npt.NDArray[Any]) -> str:
        tensor: TensorProto = numpy_helper.from_array(values, name)
        self._graph.initializer.append(tensor)
        return name

    def _add(self, operator: str, inputs: list[str], output: str, axis: int | None = None) -> str:
        self._nodes.append(
            helper.make_node(operator, inputs, [output], name=f"{output}_{operator}", axis=axis)
        )
        return output


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
