"""INT8 quantisation: accepted by every engine, close to the float network, layer by layer reversible."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import BundleError, EngineError
from engines.int8_ranges import Int8Ranges, parse_ranges
from engines.openvino import OpenVinoEngine
from engines.precision import fold_constant_casts, load
from engines.quantised_graph import (
    check_quantisation,
    convolutions,
    num_quantised_convolutions,
    quantised_graph,
)
from engines.quantize import measure_ranges, sensitivities
from engines.tensorrt_build import BatchProfile, build_plan
from engines.torch_reference import TorchEngine
from tests.engine_networks import classification_feeds, tiny_pair


@functools.cache
def ranges() -> Int8Ranges:
    return measure_ranges(tiny_pair().classification, classification_feeds(6, seed=1))


@functools.cache
def quantised() -> bytes:
    return quantised_graph(tiny_pair().classification, ranges())


def errors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(found[name] - expected[name]).max()) for name in expected)


@pytest.mark.parametrize("has_units", [True, False])
def test_int8_says_where_its_sums_may_saturate(has_units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.openvino.has_int8_units", lambda: has_units)
    engine = OpenVinoEngine(quantised(), precision="int8")
    assert ("saturate" in engine.description) != has_units
    assert "saturate" not in OpenVinoEngine(tiny_pair().classification).description


def test_openvino_and_torch_compute_the_quantised_graph_close_to_the_float_one() -> None:
    feeds = classification_feeds(5, seed=2)
    expected = TorchEngine.from_onnx(tiny_pair().classification).run(feeds)
    torch_int8 = TorchEngine.from_onnx(quantised(), precision="int8").run(feeds)
    openvino_int8 = OpenVinoEngine(quantised(), precision="int8").run(feeds)
    assert 1e-5 < errors(torch_int8, expected) < 2e-2
    assert errors(openvino_int8, expected) < 2e-2


def test_every_convolution_but_the_one_that_reads_the_picture_is_quantised() -> None:
    check_quantisation(quantised())
    count, total = num_quantised_convolutions(quantised())
    assert count == total - 1 > 5
    first = convolutions(load(tiny_pair().classification).graph)[0].name
    assert first not in ranges().largest
    assert len(quantised()) < len(tiny_pair().classification)


def test_int8_result_does_not_depend_on_batch_composition() -> None:
    feeds = classification_feeds(4, seed=2)
    engine = OpenVinoEngine(quantised(), precision="int8")
    together = engine.run(feeds)
    for place in range(4):
        alone = engine.run({name: array[place : place + 1] for name, array in feeds.items()})
        for name, array in alone.items():
            np.testing.assert_array_equal(array[0], together[name][place])


def test_sensitive_layers_can_be_given_back() -> None:
    feeds = classification_feeds(3, seed=4)
    model = tiny_pair().classification
    ranked = sensitivities(model, ranges(), feeds)
    assert [layer.error for layer in ranked] == sorted((layer.error for layer in ranked), reverse=True)
    assert ranked[0].error > 2 * ranked[-1].error
    expected = TorchEngine.from_onnx(model).run(feeds)
    mixed = quantised_graph(model, ranges().without([layer.layer for layer in ranked[:3]]))
    assert num_quantised_convolutions(mixed)[0] == num_quantised_convolutions(quantised())[0] - 3
    run = {name: TorchEngine.from_onnx(graph, precision="int8").run(feeds) for name, graph in
           (("all", quantised()), ("mixed", mixed))}  # fmt: skip
    assert errors(run["mixed"], expected) < errors(run["all"], expected)
    nothing = quantised_graph(model, ranges().without([layer.layer for layer in ranked]))
    assert errors(TorchEngine.from_onnx(nothing).run(feeds), expected) < 1e-6
    assert num_quantised_convolutions(nothing)[0] == 0


def test_layers_kept_float_from_the_start() -> None:
    layer = next(iter(ranges().largest))
    feeds = classification_feeds(6, seed=1)
    assert measure_ranges(tiny_pair().classification, feeds, keep_float=[layer]) == ranges().without([layer])


def test_weights_and_inputs_are_within_half_a_step_of_the_float_ones() -> None:
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(quantised()).graph.initializer}
    plain = fold_constant_casts(load(tiny_pair().classification)).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in plain.initializer}
    for node in convolutions(plain)[1:]:
        weight = weights[node.input[1]]
        axis = 1 if node.op_type == "ConvTranspose" else 0
        scale = stored[f"{node.input[1]}_scale"].reshape([-1 if a == axis else 1 for a in range(weight.ndim)])
        levels = stored[f"{node.input[1]}_int8"]
        assert np.abs(levels).max() == 127
        assert (np.abs(levels * scale - weight) <= scale * 0.5001).all()
        step = stored[f"{node.input[0]}_scale"]
        assert step == pytest.approx(ranges().largest[node.name] / 127)


def test_ranges_hold_for_the_images_they_were_measured_on_and_grow_with_them() -> None:
    feeds = {name: array[:2] for name, array in classification_feeds(6, seed=1).items()}
    few = measure_ranges(tiny_pair().classification, feeds)
    assert all(few.largest[name] <= top for name, top in ranges().largest.items())
    assert few != ranges()


def bound(largest: str, graph: str = "a" * 64) -> bytes:
    return f'{{"format": "screener-int8-ranges/1", "graph_sha256": "{graph}", "largest": {largest}}}'.encode()


def test_ranges_survive_their_file() -> None:
    assert parse_ranges(ranges().to_json(), "x.int8.json", ranges().graph_sha256) == ranges()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"{", "x.int8.json is not JSON"),
        (b"[" * 100_000, "x.int8.json is not JSON"),
        (b"[]", "holds no screener-int8-ranges/1 ranges"),
        (bound("{}"), "holds no"),
        (bound('{"a": -1}'), "holds no"),
        (bound('{"a": 0}'), "holds no"),
        (bound('{"a": 1e-42}'), "holds no"),
        (bound('{"a": 1e39}'), "holds no"),
        (bound('{"a": 1' + 400 * "0" + "}"), "holds no"),
        (bound('{"a": NaN}'), "holds no"),
        (bound('{"a": true}'), "holds no"),
        (bound('{"a": "1"}'), "holds no"),
        (bound('{"a": 1}', "b" * 64), "was measured on another graph"),
        (b'{"format": "other", "largest": {"a": 1}}', "holds no"),
    ],
)
def test_damaged_ranges_are_refused(text: bytes, said: str) -> None:
    with pytest.raises(BundleError, match=said):
        parse_ranges(text, "x.int8.json", "a" * 64)


def graph_of(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> bytes:
    shape: list[str | int | None] = ["batch", 4, 6, 6]
    given, answer = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y"))
    stored = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    graph = helper.make_graph(nodes, "small", [given], [answer], stored)
    opset = helper.make_opsetid("", 20)
    return bytes(helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString())


def convolution(name: str, inputs: list[str], output: str, operator: str = "Conv") -> onnx.NodeProto:
    return helper.make_node(operator, inputs, [output], name=name, pads=[1, 1, 1, 1])


FEEDS = {"x": np.random.default_rng(3).normal(size=(3, 4, 6, 6)).astype(np.float32)}
WEIGHT = np.random.default_rng(4).normal(size=(4, 4, 3, 3))


def relative_error(model: bytes, quantised: bytes) -> float:
    expected, found = (
        TorchEngine.from_onnx(graph, precision="int8").run(FEEDS)["y"] for graph in (model, quantised)
    )
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def test_shared_weights_and_names_that_are_taken_do_not_mix() -> None:
    nodes = [
        convolution("down", ["x", "w"], "hidden"),
        convolution("up", ["x", "w"], "other", "ConvTranspose"),
        helper.make_node("Mul", ["other", "w_scale"], ["scaled"], name="scale"),
        helper.make_node("Add", ["hidden", "scaled"], ["y"], name="sum"),
    ]
    model = graph_of(nodes, {"w": WEIGHT * np.arange(1, 5)[:, None, None, None], "w_scale": np.array(0.5)})
    found = measure_ranges(model, FEEDS)
    graph = quantised_graph(model, found)
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    assert set(found.largest) == {"down", "up"}
    assert relative_error(model, graph) < 0.03
    axes = [
        attribute.i
        for node in onnx.load_from_string(graph).graph.node
        for attribute in node.attribute
        if node.op_type == "DequantizeLinear"
    ]
    assert sorted(axes) == [0, 1]
    apart = replace(found, largest={**found.largest, "up": 2 * found.largest["up"]})
    activations = [n for n in onnx.load_from_string(quantised_graph(model, apart)).graph.node
                   if n.op_type == "QuantizeLinear"]  # fmt: skip
    assert len(activations) == 2, "layers with ranges of their own do not share a quantiser"


@pytest.mark.parametrize(
    ("nodes", "weights", "said"),
    [
        ([convolution("", ["x", "w"], "h"), convolution("", ["h", "w"], "y")], {"w": WEIGHT}, "no names"),
        ([convolution("a", ["x", "w"], "h"), convolution("a", ["h", "w"], "y")], {"w": WEIGHT}, "no names"),
        ([convolution("a", ["x", "w"], "y")], {"w": WEIGHT * np.nan}, "not finite"),
        ([helper.make_node("Relu", ["x"], ["y"])], {}, "no convolution that is worth"),
    ],
)
def test_graphs_that_cannot_be_quantised_say_why(
    nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], said: str
) -> None:
    with pytest.raises(EngineError, match=said):
        measure_ranges(graph_of(nodes, weights), FEEDS)


def test_malformed_weights_are_a_typed_error() -> None:
    proto = onnx.load_from_string(graph_of([convolution("a", ["x", "w"], "y")], {"w": WEIGHT}))
    proto.graph.initializer[0].raw_data = b"short"
    model = proto.SerializeToString()
    broken = Int8Ranges(hashlib.sha256(model).hexdigest(), {"a": 1.0})
    with pytest.raises(EngineError, match="cannot be quantised"):
        quantised_graph(model, broken)


def test_a_layer_that_saw_only_zeros_stays_in_floating_point() -> None:
    nodes = [convolution("dark", ["x", "none"], "h"), convolution("next", ["h", "w"], "y")]
    found = measure_ranges(graph_of(nodes, {"none": WEIGHT * 0, "w": WEIGHT}), FEEDS)
    assert set(found.largest) == {"dark"}, "its own input is the picture, the next one's is zero"


def test_tensorrt_accepts_mixed_graphs() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    mixed = quantised_graph(tiny_pair().classification, ranges().without([next(iter(ranges().largest))]))
    assert build_plan(trt, mixed, BatchProfile(1, 2, 4)).plan


def test_wrong_images_layers_and_values_are_named() -> None:
    model = tiny_pair().classification
    feeds = classification_feeds(1)
    with pytest.raises(EngineError, match="run was fed canvas"):
        measure_ranges(model, {"canvas": feeds["canvas"]})
    with pytest.raises(EngineError, match="no quantised convolution is named nothing"):
        ranges().without(["nothing"])
    with pytest.raises(EngineError, match="convolutions that the graph lacks"):
        quantised_graph(model, replace(ranges(), largest={"nothing": 1.0}))
    with pytest.raises(EngineError, match="measured on another graph"):
        quantised_graph(tiny_pair().segmentation, ranges())
    with pytest.raises(EngineError, match="values that are not finite"):
        measure_ranges(model, {**feeds, "canvas": feeds["canvas"] * np.float32(np.nan)})
