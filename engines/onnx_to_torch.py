"""Turns an ONNX graph into a torch module that computes it node by node.

With it a bundle runs in plain torch with nothing but its ONNX files: as the reference that other engines are
held against, and on GPUs where TensorRT is not installed. The decision a reader would question is not using a
converter package: those found stop at older opsets, and what these graphs use is sixty short definitions.
Integer tensors (shapes, axes, indices) stay on the CPU, so that a CUDA graph can be captured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from engines.errors import EngineError
from engines.onnx_operators import DTYPES, OPERATORS, Call


class OnnxModule(nn.Module):
    """A graph as a module: positional float tensors in graph order in, a tuple of outputs out.

    Args:
        model: ONNX bytes, float32 or typed (see `engines.precision`), Q/DQ included.

    Raises:
        EngineError: an operator, attribute or element type that is not covered; names it.
    """

    def __init__(self, model: bytes) -> None:
        super().__init__()
        graph = onnx.load_from_string(model).graph
        self._constants: dict[str, Tensor] = {}
        self._buffer_names: dict[str, str] = {}
        for place, tensor in enumerate(graph.initializer):
            self._keep(f"initialiser_{place}", tensor)
        self._inputs = [value.name for value in graph.input if value.name not in self._all_constants()]
        self._outputs = [value.name for value in graph.output]
        self._nodes = [_Node(node) for node in graph.node]
        self._last_use = _last_uses(graph.node, keep=self._outputs)

    def forward(self, *feeds: Tensor) -> tuple[Tensor, ...]:
        """Run the graph."""
        values: dict[str, Tensor] = dict(self._constants)
        values.update({name: self.get_buffer(buffer) for name, buffer in self._buffer_names.items()})
        values.update(zip(self._inputs, feeds, strict=True))
        for place, node in enumerate(self._nodes):
            call = Call([values[name] if name else None for name in node.inputs], node.attributes)
            values[node.output] = node.function(call)
            for name in self._last_use.get(place, ()):
                del values[name]
        return tuple(values[name] for name in self._outputs)

    def _keep(self, buffer: str, tensor: TensorProto) -> None:
        value = _tensor(tensor)
        if value.is_floating_point() or value.dtype == torch.int8:
            if value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            self.register_buffer(buffer, value)
            self._buffer_names[tensor.name] = buffer
        else:
            self._constants[tensor.name] = value

    def _all_constants(self) -> set[str]:
        return {*self._constants, *self._buffer_names}


class _Node:
    """One node, its attributes read once."""

    def __init__(self, node: NodeProto) -> None:
        if node.op_type not in OPERATORS:
            raise EngineError(
                f"the torch engine does not know the ONNX operator {node.op_type} ({node.name})"
            )
        if any(node.output[1:]):
            raise EngineError(f"the torch engine reads one output of {node.op_type} ({node.name})")
        self.function = OPERATORS[node.op_type]
        self.inputs = list(node.input)
        self.output = node.output[0]
        self.attributes = {
            attribute.name: value.decode() if isinstance(value, bytes) else value
            for attribute in node.attribute
            for value in (helper.get_attribute_value(attribute),)
        }


def _last_uses(nodes: Sequence[NodeProto], *, keep: list[str]) -> dict[int, list[str]]:
    """Tensors that no later node reads, by the node after which they can go."""
    last: dict[str, int] = {}
    for place, node in enumerate(nodes):
        last.update({name: place for name in (*node.input, *node.output) if name})
    uses: dict[int, list[str]] = {}
    for name, place in last.items():
        if name not in keep:
            uses.setdefault(place, []).append(name)
    return uses


def _tensor(tensor: TensorProto) -> Tensor:
    if tensor.data_type not in DTYPES:
        raise EngineError(f"the torch engine does not know the ONNX element type {tensor.data_type}")
    values = numpy_helper.to_array(tensor)
    if tensor.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(values))
