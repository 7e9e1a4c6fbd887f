"""The torch engine and the typed precisions: one graph, several ways to compute it, stated tolerances."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from engines.errors import EngineError
from engines.onnx_header import read_onnx_header
from engines.onnx_to_torch import OnnxModule
from engines.precision import fold_constant_casts, load, to_precision
from engines.torch_reference import TorchEngine
from tests.engine_networks import classification_feeds, tiny_pair


def feeds_for(name: str, count: int = 5) -> dict[str, np.ndarray]:
    feeds = classification_feeds(count)
    return {"canvas": feeds["canvas"]} if name == "segmentation" else dict(feeds)


def module_outputs(name: str, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The networks themselves, as torch defines them."""
    module = tiny_pair().unet if name == "segmentation" else tiny_pair().densenet
    header = read_onnx_header(getattr(tiny_pair(), name))
    with torch.no_grad():
        outputs = module(*(torch.from_numpy(feeds[spec.name]) for spec in header.inputs))
    return {spec.name: output.numpy() for spec, output in zip(header.outputs, outputs, strict=True)}


TOLERANCE = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", ["segmentation", "classification"])
def test_graph_rebuilt_from_onnx_equals_the_network(name: str, precision: str) -> None:
    feeds = feeds_for(name)
    engine = TorchEngine.from_onnx(getattr(tiny_pair(), name), precision=precision, micro_batch=2)
    found = engine.run(feeds)
    for output, expected in module_outputs(name, feeds).items():
        assert found[output].dtype == np.float32
        np.testing.assert_allclose(found[output], expected, atol=TOLERANCE[precision], err_msg=output)


def test_precisions_are_not_the_same_arithmetic() -> None:
    """A conversion that changed nothing would also be close."""
    feeds = feeds_for("classification")
    expected = module_outputs("classification", feeds)["activation"]
    errors = {
        precision: np.abs(
            TorchEngine.from_onnx(tiny_pair().classification, precision=precision).run(feeds)["activation"]
            - expected
        ).mean()
        for precision in ("fp32", "fp16", "bf16")
    }
    assert errors["fp32"] * 10 < errors["fp16"]
    assert errors["fp16"] * 3 < errors["bf16"]


def test_module_given_by_the_caller_and_batch_composition() -> None:
    header = read_onnx_header(tiny_pair().classification)
    engine = TorchEngine(tiny_pair().densenet, header.inputs, header.outputs, micro_batch=3)
    feeds = feeds_for("classification", 7)
    together = engine.run(feeds)
    for place in range(7):
        alone = engine.run({name: array[place : place + 1] for name, array in feeds.items()})
        for name, array in alone.items():
            np.testing.assert_allclose(array[0], together[name][place], atol=1e-6)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_geometry_stays_float32_and_convolutions_do_not(precision: str) -> None:
    proto = load(to_precision(tiny_pair().classification, precision))
    graph = onnx.shape_inference.infer_shapes(proto).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    low = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    for node in proto.graph.node:
        if node.op_type == "GridSample":
            assert {types[name] for name in node.input} == {TensorProto.FLOAT}
        if node.op_type == "Conv":
            assert types[node.input[0]] == low
    assert all(
        value.type.tensor_type.elem_type == TensorProto.FLOAT for value in (*graph.input, *graph.output)
    )


def test_onnxruntime_runs_the_fp16_graph_alike() -> None:
    feeds = feeds_for("segmentation")
    converted = to_precision(tiny_pair().segmentation, "fp16")
    found = onnxruntime.InferenceSession(converted, providers=["CPUExecutionProvider"]).run(None, feeds)
    for expected, array in zip(module_outputs("segmentation", feeds).values(), found, strict=True):
        np.testing.assert_allclose(array, expected, atol=5e-3)


def test_weights_stored_in_16_bits_are_unfolded() -> None:
    """Shipped graphs keep weights as float16 behind a cast; the result is what a float32 file gives."""
    proto = load(tiny_pair().segmentation)
    for tensor in list(proto.graph.initializer):
        if len(tensor.dims) == 4:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, f"{name}_half"))
            proto.graph.node.insert(
                0, helper.make_node("Cast", [f"{name}_half"], [name], to=TensorProto.FLOAT)
            )
    stored = proto.SerializeToString()
    folded = fold_constant_casts(load(stored))
    assert not any(node.op_type == "Cast" and node.input[0].endswith("_half") for node in folded.graph.node)
    feeds = feeds_for("segmentation")
    expected = TorchEngine.from_onnx(stored).run(feeds)
    for precision in ("fp16", "bf16"):
        found = TorchEngine.from_onnx(stored, precision=precision).run(feeds)
        np.testing.assert_allclose(found["lungs"], expected["lungs"], atol=TOLERANCE[precision])


def test_weight_too_large_for_fp16_is_named() -> None:
    proto = load(tiny_pair().segmentation)
    tensor = next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4)
    values = np.array(numpy_helper.to_array(tensor))
    values.flat[0] = 1e6
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    with pytest.raises(EngineError, match=f"weight {tensor.name} does not fit fp16; use bf16 or fp32"):
        to_precision(proto.SerializeToString(), "fp16")


def test_what_is_not_covered_is_named() -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in "xy"]
    node = helper.make_node("Mish", ["x"], ["y"], name="odd")
    model = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:]))
    with pytest.raises(EngineError, match=r"does not know the ONNX operator Mish \(odd\)"):
        OnnxModule(model.SerializeToString())
    with pytest.raises(EngineError, match="cannot be converted to fp8"):
        to_precision(tiny_pair().segmentation, "fp8")
    with pytest.raises(EngineError, match="no precision fp8"):
        TorchEngine.from_onnx(tiny_pair().segmentation, precision="fp8")
    with pytest.raises(EngineError, match="not an ONNX model"):
        to_precision(b"no graph", "fp16")


def single(op_type: str, inputs: dict[str, np.ndarray], **attributes: Any) -> tuple[np.ndarray, np.ndarray]:
    """One operator in torch and in ONNX Runtime; every input but the first is a constant."""
    (first, values), *rest = inputs.items()
    constants = [numpy_helper.from_array(array, name) for name, array in rest]
    node = helper.make_node(op_type, list(inputs), ["y"], **attributes)
    element = helper.np_dtype_to_tensor_dtype(values.dtype)
    source = helper.make_tensor_value_info(first, element, values.shape)
    target = onnx.ValueInfoProto(name="y")
    graph = helper.make_graph([node], "g", [source], [target], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    content = model.SerializeToString()
    expected = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(
        None, {first: values}
    )
    return OnnxModule(content)(torch.from_numpy(values))[0].numpy(), expected[0]


PICTURE = np.random.default_rng(0).normal(size=(2, 4, 6, 8)).astype(np.float32)
INTS = np.array


@pytest.mark.parametrize(
    ("op_type", "constants", "attributes"),
    [
        ("Slice", {"s": INTS([1, -5]), "e": INTS([2**60, -1]), "a": INTS([1, 3]), "t": INTS([2, 3])}, {}),
        ("Gather", {"i": INTS([[2, 0], [3, 3]])}, {"axis": 1}),
        ("Gather", {"i": INTS(-1)}, {"axis": 2}),
        ("Reshape", {"s": INTS([0, -1, 3])}, {}),
        ("Expand", {"s": INTS([3, 1, 1, 1, 1])}, {}),
        ("Pad", {"p": INTS([0, 0, 1, 2, 0, 0, 3, 0])}, {}),
        ("CumSum", {"a": INTS(2)}, {}),
        ("Clip", {"l": np.float32(-0.3), "h": np.float32(0.5)}, {}),
        ("ReduceMean", {"a": INTS([1, 3])}, {"keepdims": 0}),
        ("ReduceMax", {"a": INTS([-1])}, {}),
        ("ReduceSum", {}, {"keepdims": 0}),
        ("DepthToSpace", {}, {"blocksize": 2, "mode": "DCR"}),
        ("DepthToSpace", {}, {"blocksize": 2, "mode": "CRD"}),
        ("AveragePool", {}, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 0}),
        ("MaxPool", {}, {"kernel_shape": [3, 1], "strides": [2, 1], "pads": [1, 0, 1, 0]}),
        ("Transpose", {}, {"perm": [0, 3, 1, 2]}),
        ("Softmax", {}, {"axis": 1}),
        ("Unsqueeze", {"a": INTS([0, -1])}, {}),
        ("Shape", {}, {"start": 1}),
        ("Cast", {}, {"to": TensorProto.INT64}),
        ("QuantizeLinear", {"s": np.float32(0.02), "z": np.int8(0)}, {}),
        ("GridSample", {"g": np.linspace(-1.2, 1.2, 60, dtype=np.float32).reshape(2, 5, 3, 2)}, {}),
        (
            "Resize",
            {"r": np.array([], np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
            {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
        ),
        (
            "Resize",
            {"r": np.array([], np.float32), "s": np.array([1, 1, 2, 2], np.float32)},
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        ),
    ],
)
def test_operator_equals_onnxruntime(
    op_type: str, constants: dict[str, np.ndarray], attributes: dict[str, Any]
) -> None:
    constants = {name: np.asarray(array) for name, array in constants.items()}
    found, expected = single(op_type, {"x": PICTURE, **constants}, **attributes)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=1e-5)
