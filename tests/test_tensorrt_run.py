"""Enqueue logic of the TensorRT engine against FakeTensorRt and FakeCudaRuntime; no GPU, no network."""

from __future__ import annotations

import ast
import inspect
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import cuda_runtime, devices, tensorrt, tensorrt_build, tensorrt_plans
from engines.devices import Gpu
from engines.engine import _standing
from engines.errors import EngineError
from engines.tensor_spec import TensorSpec
from engines.tensorrt import TensorRtEngine
from tests.fake_tensorrt import ROW, FakeCudaRuntime, fake_tensorrt

GPU = Gpu(0, "Fake", (9, 0), 80 << 30, 13000)
X, Y = TensorSpec("x", "float32", (None, ROW)), TensorSpec("y", "float32", (None, ROW))


def engine(cuda: FakeCudaRuntime, trt: Any = None, **options: Any) -> TensorRtEngine:
    return TensorRtEngine(
        trt or fake_tensorrt(cuda),
        b"plan",
        cuda,  # type: ignore[arg-type]
        gpu=GPU,
        inputs=options.pop("inputs", (X,)),
        outputs=options.pop("outputs", (Y,)),
        precision="fp16",
        **{"batch_size": 4, **options},
    )


def images(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).random((count, ROW), dtype=np.float32)}


@pytest.mark.parametrize("count", [1, 3, 4, 5, 8, 11, 40])
def test_every_image_of_any_count_comes_back_in_place(count: int) -> None:
    feeds = images(count)
    np.testing.assert_array_equal(engine(FakeCudaRuntime()).run(feeds)["y"], feeds["x"] * 2)


def test_graph_is_recorded_once_a_stream_and_replayed() -> None:
    cuda = FakeCudaRuntime()
    trt = fake_tensorrt(cuda)
    running = engine(cuda, trt, streams=2)
    for seed in range(3):
        feeds = images(22, seed)  # six enqueues, the last with two images
        np.testing.assert_array_equal(running.run(feeds)["y"], feeds["x"] * 2)
    # Each stream enqueued once as it is and once under capture; everything else was a replay.
    assert [context.num_enqueues for context in trt.contexts] == [2, 2]
    assert cuda.num_launches == 3 * 6 - 2
    assert {context.count for context in trt.contexts} == {4}


def test_callers_on_several_threads_get_their_own_images() -> None:
    running = engine(FakeCudaRuntime(), streams=2)
    batches = [images(count, seed=count) for count in (1, 9, 4, 30, 2, 17)] * 5
    with ThreadPoolExecutor(4) as pool:
        for feeds, found in zip(batches, pool.map(running.run, batches), strict=True):
            np.testing.assert_array_equal(found["y"], feeds["x"] * 2)


def test_everything_is_given_back() -> None:
    cuda = FakeCudaRuntime()
    running = engine(cuda)
    running.run(images(9))
    running.close()
    running.close()
    assert (cuda.memory, cuda.num_live_graphs, cuda.num_live_host) == ({}, 0, 0)
    with pytest.raises(EngineError, match="closed"):
        running.run(images(1))


def test_unaligned_buffer_is_refused() -> None:
    with pytest.raises(EngineError, match="not aligned to 256"):
        engine(FakeCudaRuntime(misalign=64))


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("deserialize", r"refuses the plan on Fake \(sm_90\): built for sm_80; build it again"),
        ("context", "no memory for another stream: out of memory"),
    ],
)
def test_failures_while_opening_carry_tensorrts_text(fails: str, message: str) -> None:
    cuda = FakeCudaRuntime()
    with pytest.raises(EngineError, match=message):
        engine(cuda, fake_tensorrt(cuda, fails=fails))
    assert cuda.memory == {}


def test_failure_while_running_carries_tensorrts_text_and_the_engine_can_be_closed() -> None:
    cuda = FakeCudaRuntime()
    running = engine(cuda, fake_tensorrt(cuda, fails="enqueue"))
    with pytest.raises(EngineError, match="TensorRT failed: enqueue: out of everything"):
        running.run(images(3))
    running.close()
    assert cuda.memory == {}


def test_failed_capture_carries_tensorrts_text_and_leaves_nothing_behind() -> None:
    cuda = FakeCudaRuntime()
    running = engine(cuda, fake_tensorrt(cuda, fails="capture"))
    with pytest.raises(EngineError, match="TensorRT failed: capture: a layer synchronises"):
        running.run(images(3))
    running.close()
    assert (cuda.memory, cuda.capturing, cuda.num_live_graphs, cuda.num_live_host) == ({}, {}, 0, 0)


def test_capture_that_cuda_calls_invalid_carries_what_tensorrt_said() -> None:
    cuda = FakeCudaRuntime()
    cuda.invalidates_captures = True
    trt = fake_tensorrt(cuda)
    running = engine(cuda, trt)
    trt.contexts[0].recorder.report_error(1, "enqueue: legacy stream")
    with pytest.raises(EngineError, match="cudaErrorStreamCaptureInvalidated: enqueue: legacy stream"):
        running.run(images(3))
    running.close()
    assert (cuda.memory, cuda.num_live_graphs) == ({}, 0)


@pytest.mark.parametrize("is_valid", [True, False])
def test_abandoned_capture_destroys_what_was_recorded(
    monkeypatch: pytest.MonkeyPatch, is_valid: bool
) -> None:
    live = ["graph"]

    def end_capture(stream: int) -> tuple[int, str | None]:
        return (0, "graph") if is_valid else (901, None)

    def destroy(graph: str) -> tuple[int]:
        live.remove(graph)
        return (0,)

    bindings = types.SimpleNamespace(
        cudaError_t=types.SimpleNamespace(cudaSuccess=0),
        cudaSetDevice=lambda device: (0,),
        cudaStreamEndCapture=end_capture,
        cudaGraphDestroy=destroy,
    )
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", bindings)
    cuda_runtime.CudaRuntime().abandon_capture(7)
    assert live == ([] if is_valid else ["graph"])


def test_a_pair_of_plans_is_verified_only_if_both_are() -> None:
    verified = engine(FakeCudaRuntime(), is_verified=True)
    built = engine(FakeCudaRuntime())
    assert _standing(verified, verified) == "verified"
    assert _standing(verified, built) == "unverified"
    no_plan = types.SimpleNamespace(precision="bf16")
    assert _standing(no_plan, no_plan) is None


def test_batch_size_above_the_profile_is_refused() -> None:
    cuda = FakeCudaRuntime()
    with pytest.raises(EngineError, match="does not take 16 images at a time: x: 16 above profile maximum 8"):
        engine(cuda, fake_tensorrt(cuda, most=8), batch_size=16).run(images(1))


def test_plan_of_another_graph_is_refused() -> None:
    with pytest.raises(EngineError, match=r"the plan has x float32 \(N, 3\).*expected z float32"):
        engine(FakeCudaRuntime(), outputs=(TensorSpec("z", "float32", (None, ROW)),))


API = Path(__file__).parent / "reference" / "tensorrt_11_api.txt"
MODULES = (tensorrt, tensorrt_build, tensorrt_plans)


def attributes_used(source: str) -> set[str]:
    """Names after a dot, wherever they are."""
    return {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}


def vendor_names(source: str) -> set[str]:
    """`trt.X` and `trt.X.Y...` as dotted names without `trt`."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        parts, inner = [], node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if parts and isinstance(inner, ast.Name) and inner.id == "trt":
            names.add(".".join(reversed(parts)))
    return names


def test_every_name_of_the_vendor_module_exists_in_tensorrt_11() -> None:
    listed = set(API.read_text().split())
    used = set().union(*(vendor_names(inspect.getsource(module)) for module in MODULES))
    assert {"Builder", "OnnxParser", "Runtime", "MemoryPoolType.WORKSPACE"} <= used
    python_only = {"__version__", "__name__", "nptype"}
    constructors = {name for name in used if name.endswith(".__init__")}
    asked_of_10_only = {"NetworkDefinitionCreationFlag.STRONGLY_TYPED"}
    assert used - listed - python_only - constructors <= asked_of_10_only


VENDOR_OBJECTS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "config": "IBuilderConfig",
    "shapes": "IOptimizationProfile",
    "parser": "OnnxParser",
    "tensor": "ITensor",
    "error": "ParserError",
    "plan": "ICudaEngine",
    "_plan": "ICudaEngine",
    "_trt_runtime": "Runtime",
    "context": "IExecutionContext",
}
"""Names under which the engine's modules hold objects of TensorRT."""


def test_every_attribute_of_vendor_objects_exists_in_tensorrt_11() -> None:
    listed = set(API.read_text().split())
    used = set()
    for module in (tensorrt, tensorrt_build):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute):
                owner = node.value
                name = owner.attr if isinstance(owner, ast.Attribute) else getattr(owner, "id", "")
                if name in VENDOR_OBJECTS:
                    used.add(f"{VENDOR_OBJECTS[name]}.{node.attr}")
    assert {
        "IExecutionContext.execute_async_v3",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.get_tensor_mode",
        "Builder.build_serialized_network",
        "OnnxParser.get_error",
        "ParserError.desc",
    } <= used
    # `built.plan` of our own BuiltPlan is bytes, not an ICudaEngine: it has no attributes that are read.
    assert used - listed == set()


def test_cuda_names_exist_in_the_bindings() -> None:
    runtime = pytest.importorskip("cuda.bindings.runtime")
    source = inspect.getsource(cuda_runtime)
    constants = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    names = {
        name
        for name in constants
        if isinstance(name, str) and name.startswith("cuda") and name.isidentifier()
    }
    names |= {name for name in attributes_used(source) if name.startswith("cuda")}
    assert {"cudaMalloc", "cudaGraphLaunch", "cudaMemcpyAsync", "cudaStreamNonBlocking"} <= names
    enumerations = (runtime, runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode, runtime.cudaError_t)
    assert {name for name in names if not any(hasattr(place, name) for place in enumerations)} == set()


def test_without_a_driver_cuda_is_an_error_not_a_crash() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EngineError, match="no GPU: cudaError"):
        devices.probe_gpu()
    with pytest.raises(EngineError, match="cudaSetDevice failed with cudaError"):
        cuda_runtime.CudaRuntime()
