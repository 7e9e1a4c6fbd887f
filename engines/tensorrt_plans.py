"""From a bundle's graph to a TensorRT engine: convert, look in the plan cache, build if needed, open.

The decision a reader would question: an int8 plan computes in fp16 what is not quantised. Strong typing
leaves it in float32 otherwise, which costs more than quantisation gains.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from engines.bundle import Bundle
from engines.cuda_runtime import CudaRuntime
from engines.devices import Gpu
from engines.errors import EngineError
from engines.plan_cache import PlanCache, PlanKey, PlanRecord
from engines.precision import fold_constant_casts, load, to_precision
from engines.tensorrt import TensorRtEngine
from engines.tensorrt_build import BatchProfile, OnProgress, build_plan

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
"""fp32 uses TF32 in matrix products, TensorRT's default."""


@dataclass(frozen=True, slots=True)
class TypedGraph:
    """One graph of a bundle in one precision, ready to compile."""

    name: str
    precision: str
    model: bytes

    def key(self, trt: Any, gpu: Gpu, profile: BatchProfile) -> PlanKey:  # noqa: ANN401
        """What a plan of this graph is kept under."""
        return PlanKey(
            graph=self.name,
            onnx_sha256=hashlib.sha256(self.model).hexdigest(),
            precision=self.precision,
            profile=str(profile),
            library=f"{trt.__name__} {trt.__version__}",
            device=f"{gpu} {gpu.memory_bytes}",
            driver=str(gpu.driver),
        )


def typed_graph(bundle: Bundle, graph_name: str, precision: str) -> TypedGraph:
    """Read a graph of a bundle and give it the types of a precision.

    Raises:
        EngineError: a precision that TensorRT engines do not have.
        BundleError: no such graph, or int8 and the bundle has no quantised graph at all.
    """
    if precision == "auto":
        precision = "fp16"
    if precision not in PRECISIONS:
        raise EngineError(f"TensorRT engines have no precision {precision}; use {', '.join(PRECISIONS)}")
    model = bundle.read_graph(graph_name, int8=precision == "int8")
    if precision == "fp32":
        model = bytes(fold_constant_casts(load(model)).SerializeToString())
    else:
        model = to_precision(model, "fp16" if precision == "int8" else precision)
    return TypedGraph(graph_name, precision, model)


def ensure_plan(
    trt: Any,  # noqa: ANN401
    graph: TypedGraph,
    gpu: Gpu,
    profile: BatchProfile,
    cache: PlanCache,
    *,
    on_progress: OnProgress | None = None,
) -> PlanRecord:
    """The record of a cached plan, built now if there is none.

    Raises:
        EngineError: the build failed or was cancelled, or the plan cannot be kept.
    """
    key = graph.key(trt, gpu, profile)
    if cache.load(key) is not None:
        return next(record for record in cache.records() if record.key == key)
    built = build_plan(trt, graph.model, profile, on_progress=on_progress)
    return cache.store(key, built.plan, num_layers=built.num_layers, build_seconds=built.seconds)


def open_plan(
    trt: Any,  # noqa: ANN401
    bundle: Bundle,
    graph: TypedGraph,
    gpu: Gpu,
    profile: BatchProfile,
    cache: PlanCache,
    *,
    batch_size: int,
) -> TensorRtEngine:
    """Open a graph's plan on a GPU, building it first if the cache has none.

    Raises:
        EngineError: the plan cannot be built, kept or run.
    """
    record = ensure_plan(trt, graph, gpu, profile, cache)
    plan = cache.load(record.key)
    if plan is None:
        raise EngineError("a plan vanished from the cache while it was opened; run again")
    entry = bundle.graph(graph.name)
    return TensorRtEngine(
        trt,
        plan,
        CudaRuntime(gpu.index),
        gpu=gpu,
        inputs=entry.inputs,
        outputs=entry.outputs,
        precision=graph.precision,
        batch_size=min(batch_size, profile.most),
    )
