"""Real TensorRT-RTX parses and builds the graphs in every precision; no GPU is needed for that."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from engines.bundle import default_bundle, open_bundle
from engines.errors import EngineError
from engines.precision import to_precision
from engines.quantised_graph import quantised_graph
from engines.quantize import measure_ranges
from engines.tensorrt_build import (
    BatchProfile,
    BuildProgress,
    build_plan,
    layers_after_fusion,
    make_logger,
)
from engines.tensorrt_plans import typed_graph
from screener.canvas import CANVAS_SIDE, CANVAS_VERSION
from tests.engine_networks import classification_feeds, tiny_pair
from tests.fake_tensorrt import FakeCudaRuntime, fake_tensorrt

trt: Any = pytest.importorskip("tensorrt_rtx")

GRAPHS = ("segmentation", "classification")


def in_precision(model: bytes, precision: str) -> bytes:
    return model if precision == "fp32" else to_precision(model, precision)


def quantised(name: str) -> bytes:
    feeds = classification_feeds(4)
    model = getattr(tiny_pair(), name)
    ranges = measure_ranges(model, {"canvas": feeds["canvas"]} if name == "segmentation" else feeds)
    return quantised_graph(model, ranges)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", GRAPHS)
def test_builds_in_every_float_precision(name: str, precision: str) -> None:
    built = build_plan(trt, in_precision(getattr(tiny_pair(), name), precision), BatchProfile(1, 4, 16))
    assert len(built.plan) > 10_000


@pytest.mark.parametrize("name", GRAPHS)
def test_builds_int8_with_fp16_between(name: str) -> None:
    assert build_plan(trt, to_precision(quantised(name), "fp16"), BatchProfile(1, 4, 16)).plan


# Between quantised convolutions TensorRT computes in fp16; a float graph is built in every precision.
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
@pytest.mark.parametrize("name", GRAPHS)
def test_builds_every_shipped_graph(name: str, precision: str) -> None:
    bundle = open_bundle(default_bundle(), canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    if precision == "int8" and not bundle.has_int8:
        pytest.skip("the bundle that ships has no int8 ranges")
    assert build_plan(trt, typed_graph(bundle, name, precision).model, BatchProfile()).plan


def test_progress_rises_to_the_end_and_estimates_time_left() -> None:
    seen: list[BuildProgress] = []

    def note(progress: BuildProgress) -> bool:
        seen.append(progress)
        return True

    build_plan(trt, tiny_pair().segmentation, BatchProfile(), on_progress=note)
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 10
    assert fractions[0] < 0.1
    assert fractions[-1] > 0.5
    assert seen[0].seconds_left is None
    assert seen[-1].seconds_left is not None


def test_build_can_be_cancelled() -> None:
    calls = 0

    def stop_at_third(progress: BuildProgress) -> bool:
        nonlocal calls
        calls += 1
        return calls < 3

    with pytest.raises(EngineError, match="the build was cancelled"):
        build_plan(trt, tiny_pair().segmentation, BatchProfile(), on_progress=stop_at_third)
    assert calls == 3


def test_ctrl_c_ends_a_build() -> None:
    """An exception in TensorRT's callback would be lost; the waiting thread gets it, and the build stops."""
    calls = 0

    def interrupt_at_third(progress: BuildProgress) -> bool:
        nonlocal calls
        calls += 1
        if calls == 3:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.5)  # until the main thread has seen it
        return True

    with pytest.raises(KeyboardInterrupt):
        build_plan(trt, tiny_pair().segmentation, BatchProfile(), on_progress=interrupt_at_third)
    assert calls == 3


def test_layers_are_counted_after_fusion_where_the_plan_can_be_read() -> None:
    assert layers_after_fusion(fake_tensorrt(FakeCudaRuntime()), None, b"plan") == 5
    assert layers_after_fusion(trt, make_logger(trt), b"no plan") is None


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
def test_build_for_another_gpu_than_the_first_needs_it() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    with pytest.raises(EngineError, match="cudaSetDevice failed"):
        build_plan(trt, tiny_pair().segmentation, BatchProfile(), device=1)


def test_operator_that_tensorrt_does_not_know_is_named() -> None:
    proto = onnx.load_from_string(tiny_pair().segmentation)
    next(node for node in proto.graph.node if node.op_type == "Conv").op_type = "NoSuchOperator"
    with pytest.raises(EngineError, match="cannot read the graph: NoSuchOperator"):
        build_plan(trt, proto.SerializeToString(), BatchProfile())


def test_failure_inside_the_build_carries_tensorrts_text() -> None:
    """A bf16 transposed convolution: RTX 1.7 parses it and has no kernel."""
    proto = onnx.load_from_string(to_precision(tiny_pair().segmentation, "fp16"))
    for tensor in proto.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            bits = numpy_helper.to_array(tensor).astype(np.float32).view(np.uint32) >> 16
            tensor.raw_data, tensor.data_type = bits.astype(np.uint16).tobytes(), TensorProto.BFLOAT16
    for node in proto.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT16:
            node.attribute[0].i = TensorProto.BFLOAT16
    proto.opset_import[0].version = 22
    with pytest.raises(EngineError, match=r"could not build the graph: .*deconv"):
        build_plan(trt, proto.SerializeToString(), BatchProfile())


def test_height_must_be_static() -> None:
    proto = onnx.load_from_string(tiny_pair().segmentation)
    proto.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(EngineError, match="only the batch may be dynamic"):
        build_plan(trt, proto.SerializeToString(), BatchProfile())


def test_batch_sizes_must_rise() -> None:
    with pytest.raises(EngineError, match="must rise"):
        BatchProfile(4, 2, 8)


def test_zero_points_and_int32_biases_are_refused_by_us() -> None:
    """What ONNX Runtime's own defaults produce, and TensorRT and OpenVINO would treat differently."""
    proto = onnx.load_from_string(quantised("segmentation"))
    node = next(node for node in proto.graph.node if node.op_type == "QuantizeLinear")
    for tensor in proto.graph.initializer:
        if tensor.name == node.input[2]:
            tensor.CopyFrom(numpy_helper.from_array(np.array(3, np.int8), tensor.name))
    with pytest.raises(EngineError, match="has a zero point other than 0; quantise symmetrically"):
        build_plan(trt, proto.SerializeToString(), BatchProfile())

    proto = onnx.load_from_string(tiny_pair().segmentation)
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(8, np.int32), "bias_int32"))
    proto.graph.initializer.append(numpy_helper.from_array(np.ones((), np.float32), "bias_scale"))
    inputs = ["bias_int32", "bias_scale"]
    proto.graph.node.insert(0, onnx.helper.make_node("DequantizeLinear", inputs, ["bias"], name="bias_dq"))
    with pytest.raises(EngineError, match="bias_dq dequantises an int32 bias"):
        build_plan(trt, proto.SerializeToString(), BatchProfile())
