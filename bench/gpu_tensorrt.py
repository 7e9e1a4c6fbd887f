"""Section of `bench.gpu_check`: TensorRT plans of all four networks, where its libraries are there.

Plans of the bundle's networks go to the user's own cache, so that the stream after this section finds them.
A reader may question a second way to run a plan: the goals of the two goal networks are without the copies
that the product's engine makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from bench.goal_networks import GoalNetwork, goal_networks, to_onnx
from bench.gpu_findings import Bench, Findings, Row, attempted, demo_bundle, rate_per_s
from bench.gpu_networks import GOAL_BATCH, goal_row, product_rate
from bench.gpu_parity import answers, differences, kept_reference
from engines.cuda_runtime import CudaRuntime
from engines.devices import Choice, choose
from engines.engine import Engines, open_engines
from engines.errors import EngineError
from engines.manifest import GRAPHS
from engines.plan_cache import PlanCache
from engines.precision import to_precision
from engines.tensorrt import load_tensorrt
from engines.tensorrt_build import (
    BatchProfile,
    BuildProgress,
    build_plan,
    error_text,
    make_logger,
    make_recorder,
)
from engines.tensorrt_plans import ensure_plan, typed_graph

LIBRARIES = ("tensorrt", "tensorrt_rtx")


def tensorrt(bench: Bench) -> Findings:
    """Build, rates and parity; without a GPU a small graph is built with TensorRT-RTX and not run."""
    chosen = _library(bench)
    if chosen is None:
        yield Row("TensorRT", "not installed, or without kernels for this GPU")
        return
    trt = load_tensorrt(chosen)
    yield Row("TensorRT", f"{chosen} {trt.__version__}")
    if bench.gpu:
        for name in GRAPHS:
            yield from attempted(f"{name} fp16 {chosen}", partial(_shipped_plan, bench, trt, name))
        yield from attempted(f"{chosen} fp16", partial(_parity, bench))
    for network in goal_networks(small=bench.gpu is None):
        yield from attempted(f"{network.name} {chosen}", partial(_goal_plan, bench, trt, network))


def _library(bench: Bench) -> str | None:
    if bench.gpu:
        backend = choose("cuda").backend
        return backend if backend in LIBRARIES else None
    for name in reversed(LIBRARIES):
        try:
            load_tensorrt(name)
        except EngineError:
            continue
        return name
    return None


def has_plans(choice: Choice) -> bool:
    """Whether a run in fp16 would find plans of the bundle's networks for this GPU."""
    assert choice.gpu is not None
    trt, cache = load_tensorrt(choice.backend), PlanCache()
    graphs = [typed_graph(demo_bundle(), name, "fp16") for name in GRAPHS]
    return all(cache.load(graph.key(trt, choice.gpu, BatchProfile())) is not None for graph in graphs)


def _in_time(bench: Bench, _: BuildProgress) -> bool:
    return bench.seconds_left > 0


def _shipped_plan(bench: Bench, trt: Any, name: str) -> Findings:  # noqa: ANN401 - the vendor's module
    assert bench.gpu is not None
    graph = typed_graph(demo_bundle(), name, "fp16")
    record = ensure_plan(
        trt, graph, bench.gpu, BatchProfile(), PlanCache(), on_progress=partial(_in_time, bench)
    )
    yield Row(f"{name} fp16 {trt.__name__} build", record.build_seconds, "s")


def _parity(bench: Bench) -> Findings:
    """The engines that a run takes: rates with copies, and against the CPU's answers."""
    from bench.gpu_films import judged_canvases

    with open_engines(demo_bundle(), device="cuda", precision="fp16", batch_size=32) as engines:
        for name, engine in zip(GRAPHS, (engines.segmentation, engines.classification), strict=True):
            yield product_rate(bench, f"{name} fp16 tensorrt, product x 64", engine, name, 64)
        yield from _against_reference(bench, engines, *judged_canvases(bench)[1:])


def _against_reference(bench: Bench, engines: Engines, canvas: Any, num_originals: int) -> Findings:  # noqa: ANN401
    found = answers(engines, canvas, bench.batch_size)
    yield from differences(bench, "tensorrt fp16", found, kept_reference(bench), num_originals)


def _goal_plan(bench: Bench, trt: Any, network: GoalNetwork) -> Findings:  # noqa: ANN401
    count = GOAL_BATCH if bench.gpu else 2
    model = to_precision(to_onnx(network), "fp16")
    profile = BatchProfile(1, count, count)
    built = build_plan(trt, model, profile, on_progress=partial(_in_time, bench))
    yield Row(f"{network.name} {trt.__name__} build", built.seconds, "s")
    if bench.gpu is None:  # a plan is not opened without a driver: some runtimes crash
        return
    runtime = CudaRuntime(bench.gpu.index)
    shapes = {"image": (count, 1, network.side, network.side)}
    with OpenPlan(trt, built.plan, runtime, shapes) as plan:
        yield goal_row(bench, network, trt.__name__, rate_per_s(bench, plan.run) * count)


class OpenPlan:
    """A plan on the device with buffers for one batch, nothing copied: it runs on whatever lies there.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        plan: just built.
        runtime: CUDA on the GPU that it was built for.
        shapes: of every input by name.

    Raises:
        EngineError: the plan is refused; carries TensorRT's text.
    """

    def __init__(
        self,
        trt: Any,  # noqa: ANN401
        plan: bytes,
        runtime: CudaRuntime,
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self._runtime = runtime
        self._logger, self._recorder = make_logger(trt), make_recorder(trt)
        self._trt_runtime = trt.Runtime(self._logger)
        self._trt_runtime.error_recorder = self._recorder
        self._plan = self._trt_runtime.deserialize_cuda_engine(plan)
        self._require(self._plan is not None, "TensorRT refuses the plan")
        self._context = self._plan.create_execution_context()
        self._require(self._context is not None, "TensorRT has no memory")
        self._stream = runtime.create_stream()
        self._addresses: list[int] = []
        for name, shape in shapes.items():
            self._require(self._context.set_input_shape(name, shape), "TensorRT refuses the batch")
        for place in range(self._plan.num_io_tensors):
            self._bind(trt, self._plan.get_tensor_name(place), next(iter(shapes.values()))[0])

    def __enter__(self) -> OpenPlan:
        return self

    def __exit__(self, *_: object) -> None:
        self._runtime.synchronize(self._stream)
        self._context = None
        for address in self._addresses:
            self._runtime.free(address)
        self._runtime.destroy_stream(self._stream)

    def run(self) -> None:
        """One batch, waited for."""
        self._require(self._context.execute_async_v3(self._stream), "TensorRT failed")
        self._runtime.synchronize(self._stream)

    def _bind(self, trt: Any, name: str, count: int) -> None:  # noqa: ANN401
        shape = tuple(count if size < 0 else int(size) for size in self._plan.get_tensor_shape(name))
        size_bytes = int(np.prod(shape)) * np.dtype(trt.nptype(self._plan.get_tensor_dtype(name))).itemsize
        self._addresses.append(self._runtime.allocate(size_bytes))
        is_taken = self._context.set_tensor_address(name, self._addresses[-1])
        self._require(is_taken, f"TensorRT refuses the buffer of {name}")

    def _require(self, succeeded: bool, failure: str) -> None:
        if not succeeded:
            raise EngineError(f"{failure}: {error_text(self._recorder, self._logger)}")
