"""Turns a float32 ONNX graph into a typed fp16 or bf16 one, with float32 inputs and outputs.

TensorRT 11 has no precision switches: the graph itself says what each tensor is. The decision a reader would
question is what is converted: only what lies between the first and the last convolutions. Geometry before
them (crop box, cumulative sums, grid sample, normalisation) needs float32 to hit the right pixel, and the
small heads behind them cost nothing; both stay float32, as they do in the OpenVINO engine.
"""

from __future__ import annotations

from collections.abc import Iterable

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, shape_inference

from engines.errors import EngineError

_ELEMENT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
_NUMPY = {"fp16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
_CONVOLUTIONS = ("Conv", "ConvTranspose")
_FLOAT32 = {
    "fp16": ("CumSum", "GridSample", "Einsum", "Cast"),
    # TensorRT-RTX 1.7 has no bf16 transposed convolution: the build fails.
    "bf16": ("CumSum", "GridSample", "Einsum", "Cast", "ConvTranspose"),
}
"""Operators that stay float32 wherever they are."""
_FIRST_INPUT_ONLY = ("Resize", "Pad", "Clip")
"""Operators whose further inputs are settings of a fixed type."""
_BF16_OPSET = 22
"""The first with bf16 convolutions. From 18 on, opsets changed these operators by adding types only."""


def to_precision(model: bytes, precision: str) -> bytes:
    """Convert the convolutional part of a graph.

    Args:
        model: float32 ONNX.
        precision: `fp16` or `bf16`, the type of the converted part.

    Returns:
        ONNX with the same inputs and outputs.

    Raises:
        EngineError: another type, not a valid graph, or a weight that the type cannot hold.
    """
    if precision not in _ELEMENT:
        raise EngineError(f"a graph cannot be converted to {precision}; use fp16 or bf16")
    proto = fold_constant_casts(load(model))
    graph = proto.graph
    chosen = _between_convolutions(graph, keep=_FLOAT32[precision])
    floats = _float32_names(proto)
    _Conversion(graph, precision, chosen, floats).apply()
    if precision == "bf16":
        _raise_opset(proto, _BF16_OPSET)
    checked(proto)
    return bytes(proto.SerializeToString())


def load(model: bytes) -> ModelProto:
    """Parse ONNX bytes.

    Raises:
        EngineError: not an ONNX model.
    """
    try:
        return onnx.load_from_string(model)
    except Exception as error:
        raise EngineError("not an ONNX model; export the graph again") from error


def checked(proto: ModelProto) -> ModelProto:
    """Check a graph against the ONNX rules, types and shapes included.

    Raises:
        EngineError: with the checker's text.
    """
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, shape_inference.InferenceError) as error:
        raise EngineError(f"the converted graph is not valid ONNX: {error}") from error
    return proto


def fold_constant_casts(proto: ModelProto) -> ModelProto:
    """Replace casts of initialisers (weights stored in 16 bits) by float32 initialisers, in place."""
    graph = proto.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    folded = [
        node
        for node in graph.node
        if node.op_type == "Cast"
        and node.input[0] in stored
        and any(each.name == "to" and each.i == TensorProto.FLOAT for each in node.attribute)
    ]
    for node in folded:
        values = numpy_helper.to_array(stored[node.input[0]]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
        graph.node.remove(node)
    drop_unread_weights(graph)
    return proto


def drop_unread_weights(graph: GraphProto) -> None:
    """Remove initialisers that no node of a graph without subgraphs reads, in place."""
    used = {name for node in graph.node for name in node.input}
    used.update(value.name for value in (*graph.input, *graph.output))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


class _Conversion:
    """One graph being converted in place."""

    def __init__(self, graph: GraphProto, precision: str, chosen: list[bool], floats: set[str]) -> None:
        self._graph = graph
        self._precision = precision
        self._chosen = chosen
        self._floats = floats
        self._initialisers = {tensor.name: tensor for tensor in graph.initializer}
        self._lowered = {
            name
            for node, is_low in zip(graph.node, chosen, strict=True)
            if is_low
            for name in node.output
            if name in floats
        }
        self._nodes: list[NodeProto] = []
        self._made: set[str] = set()

    def apply(self) -> None:
        """Rewrite every node, then give lowered graph outputs their float32 names back."""
        for node, is_low in zip(list(self._graph.node), self._chosen, strict=True):
            for place, name in enumerate(node.input):
                if is_low and name in self._floats and (place == 0 or node.op_type not in _FIRST_INPUT_ONLY):
                    node.input[place] = self._low(name)
                elif not is_low and name in self._lowered:
                    node.input[place] = self._float(name)
            self._nodes.append(node)
            if is_low:
                self._rename_outputs(node)
        for value in self._graph.output:
            if value.name in self._lowered:
                self._cast(self._low(value.name), value.name, TensorProto.FLOAT)
        del self._graph.node[:]
        del self._graph.value_info[:]
        self._graph.node.extend(self._nodes)
        self._drop_unused_initialisers()

    def _rename_outputs(self, node: NodeProto) -> None:
        """The float32 name of a lowered tensor stays free for its cast back."""
        for place, name in enumerate(node.output):
            if name in self._lowered:
                node.output[place] = self._low_name(name)

    def _low_name(self, name: str) -> str:
        return f"{name}_{self._precision}"

    def _low(self, name: str) -> str:
        """The converted twin of a float32 tensor, made on first use."""
        low = self._low_name(name)
        if name in self._lowered or low in self._made:
            return low
        self._made.add(low)
        if name in self._initialisers:
            values = numpy_helper.to_array(self._initialisers[name])
            self._graph.initializer.append(_stored(name, low, values, self._precision))
        else:
            self._cast(name, low, _ELEMENT[self._precision])
        return low

    def _float(self, name: str) -> str:
        """A lowered tensor as float32, for a node that stays float32."""
        is_output = any(value.name == name for value in self._graph.output)
        back = f"{name}_back" if is_output else name
        if back not in self._made:
            self._made.add(back)
            self._cast(self._low_name(name), back, TensorProto.FLOAT)
        return back

    def _cast(self, source: str, target: str, element: int) -> None:
        self._nodes.append(helper.make_node("Cast", [source], [target], name=f"{target}_cast", to=element))

    def _drop_unused_initialisers(self) -> None:
        used = {name for node in self._graph.node for name in node.input}
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name not in used]:
            self._graph.initializer.remove(tensor)


def _raise_opset(proto: ModelProto, version: int) -> None:
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx"):
            opset.version = max(opset.version, version)


def _stored(name: str, low_name: str, values: npt.NDArray[np.float32], precision: str) -> TensorProto:
    """An initialiser rounded to the type."""
    with np.errstate(over="ignore"):
        low = values.astype(_NUMPY[precision])
    if not np.isfinite(low.astype(np.float32)).all():
        raise EngineError(f"weight {name} does not fit {precision}; use bf16 or fp32")
    tensor = TensorProto(name=low_name, data_type=_ELEMENT[precision], dims=values.shape)
    tensor.raw_data = low.tobytes()
    return tensor


def _between_convolutions(graph: GraphProto, *, keep: tuple[str, ...]) -> list[bool]:
    """For each node: a convolution, or behind one and ahead of another, or dequantising for one."""
    behind, ahead = _reached(graph.node, forwards=True), _reached(reversed(graph.node), forwards=False)
    chosen = [
        (node.op_type in _CONVOLUTIONS or (is_behind and is_ahead)) and node.op_type not in keep
        for node, is_behind, is_ahead in zip(graph.node, behind, reversed(ahead), strict=True)
    ]
    read = {name for node, is_low in zip(graph.node, chosen, strict=True) if is_low for name in node.input}
    return [
        # A cast between a DequantizeLinear and its convolution would keep TensorRT from using int8 kernels.
        is_low or (node.op_type == "DequantizeLinear" and node.output[0] in read)
        for node, is_low in zip(graph.node, chosen, strict=True)
    ]


def _reached(nodes: Iterable[NodeProto], *, forwards: bool) -> list[bool]:
    """Which nodes have a convolution before them (after them, walking backwards)."""
    tensors: set[str] = set()
    reached = []
    for node in nodes:
        taken, given = (node.input, node.output) if forwards else (node.output, node.input)
        is_reached = any(name in tensors for name in taken)
        if is_reached or node.op_type in _CONVOLUTIONS:
            tensors.update(given)
        reached.append(is_reached)
    return reached


def _float32_names(proto: ModelProto) -> set[str]:
    """Every tensor of the graph that is float32."""
    try:
        graph = shape_inference.infer_shapes(proto, strict_mode=True).graph
    except shape_inference.InferenceError as error:
        raise EngineError(f"the graph is not valid ONNX: {error}") from error
    values = (*graph.input, *graph.value_info, *graph.output)
    names = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return names | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
