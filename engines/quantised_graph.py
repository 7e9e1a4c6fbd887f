"""Checks that a Q/DQ graph is one every engine accepts: symmetric, and biases left in floating point.

TensorRT refuses other graphs with messages about its own layers; OpenVINO accepts more than TensorRT. The
rule is checked here, once, so that a graph means the same everywhere.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from engines.errors import EngineError

_QUANTISERS = ("QuantizeLinear", "DequantizeLinear")


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
    convolutions = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose")]
    return sum(node.input[1] in dequantised for node in convolutions), len(convolutions)


def _check_node(node: NodeProto, stored: dict[str, TensorProto]) -> None:
    advice = "quantise symmetrically and leave biases in floating point (engines.quantize does)"
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
