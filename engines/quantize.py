"""Quantises a graph's convolutions after training: int8 Q/DQ ONNX for OpenVINO and TensorRT alike.

Symmetric, per channel for weights, per tensor for activations, biases and everything else in floating point.
The decision a reader would question: only the inputs of convolutions are quantised, never their outputs.
Sums, concatenations and normalisation between them then keep full precision, and one layer can be given back
to floating point without touching its neighbours.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from engines.errors import EngineError
from engines.precision import checked, fold_constant_casts, load
from engines.quantised_graph import check_quantisation
from engines.tensor_spec import check_feeds

Arrays = Mapping[str, npt.NDArray[np.float32]]

_OPERATORS = ["Conv", "ConvTranspose"]


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """What quantising one convolution alone does to the outputs."""

    layer: str
    """Node name."""
    error: float
    """Root mean square difference of the outputs, each divided by its own standard deviation."""


def quantize(model: bytes, feeds: Arrays, *, keep_float: Collection[str] = ()) -> bytes:
    """Quantise the convolutions of a graph.

    Args:
        model: float32 ONNX.
        feeds: calibration images by input name, (N, ...) each: the activation ranges are their extremes.
        keep_float: names of convolutions to leave alone.

    Returns:
        ONNX with the same inputs and outputs.

    Raises:
        EngineError: not a valid graph, or images that do not fit it.
    """
    import onnxruntime.quantization as ort_quantization

    plain = fold_constant_casts(load(model))
    _check_calibration(model, feeds)
    with tempfile.TemporaryDirectory() as folder, _quiet_logging():
        target = Path(folder) / "quantised.onnx"
        ort_quantization.quantize_static(
            plain,
            target,
            _reader(feeds),
            quant_format=ort_quantization.QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            activation_type=ort_quantization.QuantType.QInt8,
            weight_type=ort_quantization.QuantType.QInt8,
            nodes_to_exclude=list(keep_float),
            calibrate_method=ort_quantization.CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,  # an int32 bias is what TensorRT refuses
                "OpTypesToExcludeOutputQuantization": _OPERATORS,
            },
        )
        quantised = load(target.read_bytes())
    _leave_others_in_float(quantised)
    content = bytes(checked(quantised).SerializeToString())
    check_quantisation(content)
    return content


def sensitivities(model: bytes, quantised: bytes, feeds: Arrays) -> tuple[LayerSensitivity, ...]:
    """Measure each quantised convolution alone, worst first.

    Args:
        model: the float32 graph.
        quantised: `quantize` of it.
        feeds: a few images; a convolution costs one pass over them.
    """
    plain = fold_constant_casts(load(model))
    expected = _outputs(plain, feeds)
    names = _convolutions(plain)
    found = []
    for name in names:
        alone = with_float_layers(model, quantised, [other for other in names if other != name])
        found.append(LayerSensitivity(name, _difference(_outputs(load(alone), feeds), expected)))
    return tuple(sorted(found, key=lambda layer: layer.error, reverse=True))


def with_float_layers(model: bytes, quantised: bytes, layers: Collection[str]) -> bytes:
    """Give some convolutions of a quantised graph back to floating point.

    Args:
        model: the float32 graph that was quantised.
        quantised: `quantize` of it.
        layers: names of convolutions.

    Raises:
        EngineError: a name that is no convolution of the graph.
    """
    plain, proto = fold_constant_casts(load(model)), load(quantised)
    originals = {node.name: node for node in plain.graph.node if node.op_type in _OPERATORS}
    unknown = set(layers) - set(originals)
    if unknown:
        raise EngineError(f"no convolution is named {', '.join(sorted(unknown))}")
    stored = {tensor.name: tensor for tensor in plain.graph.initializer}
    present = {tensor.name for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.name in layers:
            node.input[:] = originals[node.name].input
            for name in node.input:
                if name in stored and name not in present:
                    proto.graph.initializer.append(stored[name])
                    present.add(name)
    _drop_unread(proto)
    return bytes(checked(proto).SerializeToString())


def _leave_others_in_float(proto: ModelProto) -> None:
    """Onnxruntime makes every reader of a tensor read it quantised; only convolutions shall."""
    producers = {name: node for node in proto.graph.node for name in node.output}
    for node in proto.graph.node:
        if node.op_type in (*_OPERATORS, "QuantizeLinear", "DequantizeLinear"):
            continue
        for place, name in enumerate(node.input):
            dequantise = producers.get(name)
            if dequantise is not None and dequantise.op_type == "DequantizeLinear":
                node.input[place] = producers[dequantise.input[0]].input[0]


def _drop_unread(proto: ModelProto) -> None:
    """Remove Q/DQ nodes and initialisers that nothing reads any more."""
    graph = proto.graph
    outputs = {value.name for value in graph.output}
    while True:
        read = {name for node in graph.node for name in node.input} | outputs
        unread = [node for node in graph.node if not read.intersection(node.output)]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in read]:
        graph.initializer.remove(tensor)


def _convolutions(proto: ModelProto) -> list[str]:
    return [node.name for node in proto.graph.node if node.op_type in _OPERATORS]


def _outputs(proto: ModelProto, feeds: Arrays) -> list[npt.NDArray[np.float32]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def _difference(found: list[npt.NDArray[Any]], expected: list[npt.NDArray[Any]]) -> float:
    errors = [
        float(np.square((have - want) / (want.std() + 1e-6)).mean())
        for have, want in zip(found, expected, strict=True)
    ]
    return float(np.sqrt(np.mean(errors)))


def _check_calibration(model: bytes, feeds: Arrays) -> None:
    from engines.onnx_header import read_onnx_header

    check_feeds(read_onnx_header(model).inputs, feeds)


def _reader(feeds: Arrays) -> Any:  # noqa: ANN401 - onnxruntime has no types
    from onnxruntime.quantization import CalibrationDataReader

    class OneByOne(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._images: Iterator[dict[str, Any]] = (
                {name: array[place : place + 1] for name, array in feeds.items()}
                for place in range(len(next(iter(feeds.values()))))
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self._images, None)

    return OneByOne()


class _quiet_logging:  # noqa: N801 - a context manager
    """onnxruntime recommends a preprocessing step on the root logger; these graphs need none."""

    def __enter__(self) -> None:
        self._level = logging.root.level
        logging.root.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        logging.root.setLevel(self._level)
