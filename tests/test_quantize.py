"""INT8 quantisation: accepted by every engine, close to the float network, layer by layer reversible."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from engines.errors import EngineError
from engines.openvino import OpenVinoEngine
from engines.quantised_graph import check_quantisation, num_quantised_convolutions
from engines.quantize import quantize, sensitivities, with_float_layers
from engines.tensorrt_build import BatchProfile, build_plan
from engines.torch_reference import TorchEngine
from tests.engine_networks import classification_feeds, tiny_pair


@functools.cache
def quantised() -> bytes:
    return quantize(tiny_pair().classification, classification_feeds(6, seed=1))


def errors(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(found[name] - expected[name]).max()) for name in expected)


def test_openvino_and_torch_compute_the_quantised_graph_close_to_the_float_one() -> None:
    feeds = classification_feeds(5, seed=2)
    expected = TorchEngine.from_onnx(tiny_pair().classification).run(feeds)
    torch_int8 = TorchEngine.from_onnx(quantised(), precision="int8").run(feeds)
    openvino_int8 = OpenVinoEngine(quantised(), precision="int8").run(feeds)
    assert 1e-5 < errors(torch_int8, expected) < 2e-2
    assert errors(openvino_int8, expected) < 2e-2


def test_every_convolution_is_quantised_and_the_file_shrinks() -> None:
    check_quantisation(quantised())
    count, total = num_quantised_convolutions(quantised())
    assert count == total > 5
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
    ranked = sensitivities(model, quantised(), feeds)
    assert [layer.error for layer in ranked] == sorted((layer.error for layer in ranked), reverse=True)
    assert ranked[0].error > 2 * ranked[-1].error
    expected = TorchEngine.from_onnx(model).run(feeds)
    worst = [layer.layer for layer in ranked[:3]]
    mixed = with_float_layers(model, quantised(), worst)
    assert num_quantised_convolutions(mixed)[0] == num_quantised_convolutions(quantised())[0] - 3
    run = {name: TorchEngine.from_onnx(graph, precision="int8").run(feeds) for name, graph in
           (("all", quantised()), ("mixed", mixed))}  # fmt: skip
    assert errors(run["mixed"], expected) < errors(run["all"], expected)
    everything = with_float_layers(model, quantised(), [layer.layer for layer in ranked])
    assert errors(TorchEngine.from_onnx(everything).run(feeds), expected) < 1e-6
    assert num_quantised_convolutions(everything)[0] == 0


def test_layers_kept_float_from_the_start() -> None:
    layer = sensitivities(tiny_pair().classification, quantised(), classification_feeds(1))[0].layer
    mixed = quantize(tiny_pair().classification, classification_feeds(2), keep_float=[layer])
    assert num_quantised_convolutions(mixed)[0] == num_quantised_convolutions(quantised())[0] - 1


def test_tensorrt_accepts_mixed_graphs() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    layer = sensitivities(tiny_pair().classification, quantised(), classification_feeds(1))[0].layer
    mixed = with_float_layers(tiny_pair().classification, quantised(), [layer])
    assert build_plan(trt, mixed, BatchProfile(1, 2, 4)).plan


def test_wrong_images_and_layers_are_named() -> None:
    with pytest.raises(EngineError, match="run was fed canvas"):
        quantize(tiny_pair().classification, {"canvas": classification_feeds(1)["canvas"]})
    with pytest.raises(EngineError, match="no convolution is named nothing"):
        with_float_layers(tiny_pair().classification, quantised(), ["nothing"])
