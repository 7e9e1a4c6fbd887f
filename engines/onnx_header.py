"""Reads what an ONNX file declares (inputs, outputs) straight from its protobuf bytes, executing nothing.

A bundle is checked before any library is asked to open it.
The few protobuf fields needed are read here by number from onnx.proto (the numbers are frozen by protobuf's
own rules). Tensors stored in other files are found and refused: such a path could point anywhere on the
reader's machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from engines.errors import BundleError
from engines.tensor_spec import TensorSpec

# Field numbers of onnx.proto.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 1, 5, 11, 12
_NODE_ATTRIBUTE = 5
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = 5, 6, 10, 11
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 8, 13, 14
_VALUE_NAME, _VALUE_TYPE = 1, 2
_TYPE_TENSOR = 1
_TENSOR_TYPE_ELEMENT, _TENSOR_TYPE_SHAPE = 1, 2
_SHAPE_DIMENSION = 1
_DIMENSION_VALUE = 1

_ELEMENT_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
}
"""TensorProto.DataType to numpy."""


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """Declared inputs and outputs of a graph, in file order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def read_onnx_header(model: bytes) -> OnnxHeader:
    """Read a model's declared inputs and outputs.

    Args:
        model: the whole file.

    Raises:
        BundleError: not an ONNX model, an element type that no engine takes, or tensors stored in other
            files.
    """
    view = memoryview(model)
    try:
        graph = _message(view, _MODEL_GRAPH)
        _refuse_external_data(graph)
        initialisers = {_text(part, _TENSOR_NAME) for part in _messages(graph, _GRAPH_INITIALIZER)}
        inputs = tuple(_spec(part) for part in _messages(graph, _GRAPH_INPUT))
        outputs = tuple(_spec(part) for part in _messages(graph, _GRAPH_OUTPUT))
    except (ValueError, IndexError) as error:
        raise BundleError(f"not an ONNX model ({error}); export the graph again") from error
    return OnnxHeader(tuple(spec for spec in inputs if spec.name not in initialisers), outputs)


def _spec(value: memoryview) -> TensorSpec:
    """A ValueInfoProto as a spec."""
    name = _text(value, _VALUE_NAME)
    kind = _message(_message(value, _VALUE_TYPE), _TYPE_TENSOR)
    element = next((number for field, number in _fields(kind) if field == _TENSOR_TYPE_ELEMENT), 0)
    if element not in _ELEMENT_TYPES:
        raise ValueError(f"{name} has element type {element}")
    shape = tuple(
        _dimension(part)
        for shape in _messages(kind, _TENSOR_TYPE_SHAPE)
        for part in _messages(shape, _SHAPE_DIMENSION)
    )
    return TensorSpec(name, _ELEMENT_TYPES[int(element)], shape)


def _dimension(part: memoryview) -> int | None:
    return next((int(value) for field, value in _fields(part) if field == _DIMENSION_VALUE), None)


def _refuse_external_data(graph: memoryview) -> None:
    for tensor in _tensors(graph):
        for field, value in _fields(tensor):
            if field == _TENSOR_EXTERNAL_DATA or (field == _TENSOR_DATA_LOCATION and value):
                raise BundleError(
                    "the ONNX file keeps tensors in other files; export it with its weights inside"
                )


def _tensors(graph: memoryview) -> Iterator[memoryview]:
    """Every TensorProto of a graph, those of node attributes and subgraphs included."""
    yield from _messages(graph, _GRAPH_INITIALIZER)
    for node in _messages(graph, _GRAPH_NODE):
        for attribute in _messages(node, _NODE_ATTRIBUTE):
            for field, value in _fields(attribute):
                if not isinstance(value, memoryview):
                    continue
                if field in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS):
                    yield value
                elif field in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                    yield from _tensors(value)


def _text(message: memoryview, field: int) -> str:
    return bytes(_message(message, field)).decode("utf-8")


def _message(message: memoryview, field: int) -> memoryview:
    """The first part with this field number."""
    for part in _messages(message, field):
        return part
    raise ValueError(f"field {field} is missing")


def _messages(message: memoryview, field: int) -> Iterator[memoryview]:
    for number, value in _fields(message):
        if number == field:
            if not isinstance(value, memoryview):
                raise ValueError(f"field {field} is not a message")
            yield value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one protobuf message: varints as int, everything else as bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, position = _varint(message, position)
            yield number, value
            continue
        if wire_type == 2:
            size, position = _varint(message, position)
        elif wire_type in (1, 5):
            size = 8 if wire_type == 1 else 4
        else:
            raise ValueError(f"unknown wire type {wire_type}")
        if position + size > len(message):
            raise ValueError("the file is cut short")
        yield number, message[position : position + size]
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")
