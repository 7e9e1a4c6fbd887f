"""Definitions of ONNX operators in torch, as far as the networks of a bundle use them.

Each is the ONNX specification's own formula, or an error that names what is not covered. Formulas:
https://onnx.ai/onnx/operators/. Integer tensors (shapes, axes, indices) stay on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from engines.errors import EngineError

DTYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.BOOL: torch.bool,
}
"""ONNX element types and torch's."""


@dataclass(frozen=True, slots=True)
class Call:
    """One node with its inputs at hand."""

    inputs: Sequence[Tensor | None]
    attributes: dict[str, Any]

    def __getitem__(self, place: int) -> Tensor:
        value = self.inputs[place]
        assert value is not None
        return value

    def optional(self, place: int) -> Tensor | None:
        """An input that may be left out."""
        return self.inputs[place] if place < len(self.inputs) else None

    def ints(self, place: int, attribute: str) -> list[int] | None:
        """A list given as an input (newer opsets) or as an attribute."""
        value = self.optional(place)
        if value is not None:
            return [int(number) for number in value.reshape(-1).tolist()]
        given = self.attributes.get(attribute)
        return None if given is None else list(given)

    def get(self, name: str, default: Any) -> Any:  # noqa: ANN401 - an ONNX attribute is of any type
        """An attribute, or ONNX's default for it."""
        return self.attributes.get(name, default)


def _pads(call: Call, spatial: int) -> list[int]:
    pads = list(call.get("pads", [0] * 2 * spatial))
    if pads[:spatial] != pads[spatial:] or call.get("auto_pad", "NOTSET") != "NOTSET":
        raise EngineError("the torch engine takes explicit, symmetric padding only")
    return pads[:spatial]


def _conv(call: Call) -> Tensor:
    ones = [1] * (call[0].ndim - 2)
    return torch.convolution(
        call[0],
        call[1],
        call.optional(2),
        call.get("strides", ones),
        _pads(call, len(ones)),
        call.get("dilations", ones),
        transposed=False,
        output_padding=[0] * len(ones),
        groups=call.get("group", 1),
    )


def _conv_transpose(call: Call) -> Tensor:
    ones = [1] * (call[0].ndim - 2)
    return torch.convolution(
        call[0],
        call[1],
        call.optional(2),
        call.get("strides", ones),
        _pads(call, len(ones)),
        call.get("dilations", ones),
        transposed=True,
        output_padding=call.get("output_padding", [0] * len(ones)),
        groups=call.get("group", 1),
    )


def _max_pool(call: Call) -> Tensor:
    kernel = call.get("kernel_shape", None)
    return functional.max_pool2d(
        call[0],
        kernel,
        call.get("strides", [1] * len(kernel)),
        _pads(call, len(kernel)),
        call.get("dilations", 1),
        bool(call.get("ceil_mode", 0)),
    )


def _average_pool(call: Call) -> Tensor:
    kernel = call.get("kernel_shape", None)
    return functional.avg_pool2d(
        call[0],
        kernel,
        call.get("strides", [1] * len(kernel)),
        _pads(call, len(kernel)),
        bool(call.get("ceil_mode", 0)),
        bool(call.get("count_include_pad", 0)),
    )


def _batch_normalization(call: Call) -> Tensor:
    scale, bias, mean, variance = (call[place] for place in range(1, 5))
    return functional.batch_norm(call[0], mean, variance, scale, bias, eps=call.get("epsilon", 1e-5))


def _gemm(call: Call) -> Tensor:
    left = call[0].T if call.get("transA", 0) else call[0]
    right = call[1].T if call.get("transB", 0) else call[1]
    product: Tensor = left @ right * call.get("alpha", 1.0)
    bias = call.optional(2)
    return product if bias is None else product + bias * call.get("beta", 1.0)


def _resize(call: Call) -> Tensor:
    mode, rule = call.get("mode", "nearest"), call.get("coordinate_transformation_mode", "half_pixel")
    sizes = call.ints(3, "sizes")
    scales = call.optional(2)
    if sizes is not None:
        target = sizes[2:]
    elif scales is not None:
        factors = scales.tolist()[2:]
        target = [int(size * factor) for size, factor in zip(call[0].shape[2:], factors, strict=True)]
    else:
        raise EngineError("Resize without sizes and scales")
    if mode == "nearest" and rule == "asymmetric" and call.get("nearest_mode", "") == "floor":
        return functional.interpolate(call[0], size=target, mode="nearest")
    if mode == "linear" and rule in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return functional.interpolate(
            call[0], size=target, mode="bilinear", align_corners=rule == "align_corners"
        )
    raise EngineError(f"the torch engine does not know Resize mode {mode} with {rule}")


def _slice(call: Call) -> Tensor:
    starts, ends = call.ints(1, "starts"), call.ints(2, "ends")
    assert starts is not None and ends is not None
    axes = call.ints(3, "axes") or list(range(len(starts)))
    steps = call.ints(4, "steps") or [1] * len(starts)
    index = [slice(None)] * call[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 1:
            raise EngineError("the torch engine does not slice backwards")
        index[axis] = slice(start, end, step)
    return call[0][tuple(index)]


def _gather(call: Call) -> Tensor:
    axis, index = call.get("axis", 0), call[1]
    if index.ndim == 0 and index.device.type == "cpu":
        return call[0].select(axis, int(index))
    taken = call[0].index_select(axis, index.reshape(-1).to(call[0].device))
    shape = list(call[0].shape)
    axis %= call[0].ndim
    return taken.reshape(shape[:axis] + list(index.shape) + shape[axis + 1 :])


def _reshape(call: Call) -> Tensor:
    shape = call.ints(1, "shape")
    assert shape is not None
    if not call.get("allowzero", 0):
        shape = [call[0].shape[place] if size == 0 else size for place, size in enumerate(shape)]
    return call[0].reshape(shape)


def _unsqueeze(call: Call) -> Tensor:
    axes = call.ints(1, "axes")
    assert axes is not None
    ndim = call[0].ndim + len(axes)
    result = call[0]
    for axis in sorted(axis % ndim for axis in axes):
        result = result.unsqueeze(axis)
    return result


def _squeeze(call: Call) -> Tensor:
    axes = call.ints(1, "axes")
    return call[0].squeeze() if axes is None else call[0].squeeze(tuple(axes))


def _expand(call: Call) -> Tensor:
    shape = call.ints(1, "shape")
    assert shape is not None
    return call[0].expand(np.broadcast_shapes(tuple(call[0].shape), tuple(shape)))


def _pad(call: Call) -> Tensor:
    if call.get("mode", "constant") != "constant":
        raise EngineError("the torch engine pads with constants only")
    pads = call.ints(1, "pads")
    assert pads is not None
    half = len(pads) // 2
    pairs = [amount for axis in reversed(range(half)) for amount in (pads[axis], pads[axis + half])]
    fill = call.optional(2)
    return functional.pad(call[0], pairs, value=0.0 if fill is None else float(fill))


def _grid_sample(call: Call) -> Tensor:
    mode = call.get("mode", "linear")
    return functional.grid_sample(
        call[0],
        call[1],
        mode="bilinear" if mode in ("linear", "bilinear") else mode,
        padding_mode=call.get("padding_mode", "zeros"),
        align_corners=bool(call.get("align_corners", 0)),
    )


def _cumsum(call: Call) -> Tensor:
    if call.get("exclusive", 0) or call.get("reverse", 0):
        raise EngineError("the torch engine does not know exclusive or reverse CumSum")
    return torch.cumsum(call[0], int(call[1]))


def _clip(call: Call) -> Tensor:
    low, high = call.optional(1), call.optional(2)
    value = call[0] if low is None else torch.maximum(call[0], low.to(call[0].dtype))
    return value if high is None else torch.minimum(value, high.to(value.dtype))


def _depth_to_space(call: Call) -> Tensor:
    block = call.get("blocksize", 1)
    if call.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(call[0], block)
    count, channels, height, width = call[0].shape
    grouped = call[0].reshape(count, block, block, channels // block**2, height, width)
    return grouped.permute(0, 3, 4, 1, 5, 2).reshape(count, -1, height * block, width * block)


def _along(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """Per-channel values shaped to broadcast over an axis."""
    if values.ndim == 0 or values.numel() == 1:
        return values.reshape(())
    return values.reshape([-1 if place == axis % like.ndim else 1 for place in range(like.ndim)])


def _quantize(call: Call) -> Tensor:
    scale = _along(call[1], call[0], call.get("axis", 1))
    return torch.round(call[0] / scale).clamp(-128, 127).to(torch.int8)


def _dequantize(call: Call) -> Tensor:
    return call[0].to(call[1].dtype) * _along(call[1], call[0], call.get("axis", 1))


def _reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[Call], Tensor]:
    def reduce(call: Call) -> Tensor:
        axes = call.ints(1, "axes")
        if not axes:
            if call.get("noop_with_empty_axes", 0):
                return call[0]
            axes = list(range(call[0].ndim))
        return function(call[0], axes, bool(call.get("keepdims", 1)))

    return reduce


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(call[0], call[1])


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call], Tensor]:
    return lambda call: function(call[0])


def _concat(call: Call) -> Tensor:
    return torch.cat([call[place] for place in range(len(call.inputs))], dim=call.get("axis", 0))


def _einsum(call: Call) -> Tensor:
    return torch.einsum(call.get("equation", ""), *(call[place] for place in range(len(call.inputs))))


def _transpose(call: Call) -> Tensor:
    return call[0].permute(call.get("perm", list(reversed(range(call[0].ndim)))))


def _cast(call: Call) -> Tensor:
    if call.get("to", None) not in DTYPES:
        raise EngineError(f"the torch engine does not know the ONNX element type {call.get('to', None)}")
    return call[0].to(DTYPES[call.get("to", None)])


OPERATORS: dict[str, Callable[[Call], Tensor]] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "CumSum": _cumsum,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": _binary(torch.div),
    "Einsum": _einsum,
    "Equal": _binary(torch.eq),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": lambda call: call[0].flatten(call.get("axis", 1)),
    "Floor": _unary(torch.floor),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda call: call[0].mean(dim=tuple(range(2, call[0].ndim)), keepdim=True),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "GridSample": _grid_sample,
    "Identity": lambda call: call[0],
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "MatMul": _binary(torch.matmul),
    "Max": _binary(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _binary(torch.minimum),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "QuantizeLinear": _quantize,
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceSum": _reduction(torch.sum),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda call: torch.tensor(call[0].shape[call.get("start", 0) : call.get("end", None)]),
    "Sigmoid": _unary(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda call: torch.softmax(call[0], call.get("axis", -1)),
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda call: torch.where(call[0], call[1], call[2]),
}
"""Operator name to its definition; every one has a single output."""
