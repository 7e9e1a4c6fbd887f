"""From a bundle's graph to a TensorRT engine: convert, look in the plan cache, build if needed, open.

The decision a reader would question: an int8 plan computes in fp16 what is not quantised. Strong typing
leaves it in float32 otherwise, which costs more than quantisation gains. A plan that failed `engines verify`
stays in the cache with its verdict and is not opened: removed, it would be built again and used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engines.bundle import Bundle
from engines.cuda_runtime import CudaRuntime
from engines.devices import Gpu
from engines.errors import EngineError
from engines.plan_cache import PlanCache, PlanKey, PlanRecord
from engines.precision import fold_constant_casts, load, to_precision
from engines.tensorrt import TensorRtEngine
from engines.tensorrt_build import BatchProfile, BuildProgress, OnProgress, build_plan

OnBuild = Callable[[str, str, BuildProgress], bool]
"""Told graph, precision and progress of a build; returning False cancels it."""

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


def progress_of(graph: TypedGraph, on_build: OnBuild | None) -> OnProgress | None:
    """What to tell about the build of one graph."""
    if on_build is None:
        return None
    return lambda progress: on_build(graph.name, graph.precision, progress)


def ensure_plan(
    trt: Any,  # noqa: ANN401
    graph: TypedGraph,
    gpu: Gpu,
    profile: BatchProfile,
    cache: PlanCache,
    *,
    on_progress: OnProgress | None = None,
) -> PlanRecord:
    """The record of a cached plan, whatever its verdict; built now if there is none.

    Raises:
        EngineError: the build failed or was cancelled, or the plan cannot be kept.
    """
    key = graph.key(trt, gpu, profile)
    record = cache.record(key)
    if record is not None and cache.load(key) is not None:
        return record
    built = build_plan(trt, graph.model, profile, on_progress=on_progress, device=gpu.index)
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
    on_progress: OnProgress | None = None,
    even_failed: bool = False,
) -> TensorRtEngine:
    """Open a graph's plan on a GPU, building it first if the cache has none.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        bundle: whose graph.
        graph: in the precision wanted.
        gpu: where it runs.
        profile: batch sizes of the plan.
        cache: where the plan is.
        batch_size: images per enqueue.
        on_progress: told how far a build is; may cancel it.
        even_failed: also open a plan that failed verification, to verify it again.

    Raises:
        EngineError: the plan failed verification, or cannot be built, kept or run.
    """
    known = cache.record(graph.key(trt, gpu, profile))
    if known is not None and not even_failed:
        _refuse_failed(known, gpu)
    record = ensure_plan(trt, graph, gpu, profile, cache, on_progress=on_progress)
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
        is_verified=record.standing == "verified",
    )


def _refuse_failed(record: PlanRecord, gpu: Gpu) -> None:
    if record.verdict is None or not record.verdict.failures:
        return
    options = f"--precision {record.key.precision} --device {gpu.index}"
    raise EngineError(
        f"the {record.key.precision} plan of {record.key.graph} failed verification on"
        f" {record.verdict.num_images} films ({'; '.join(record.verdict.failures)}); build it again with"
        f" screener engines build {options}, check it with screener engines verify FILMS {options},"
        " or take another --precision or --device cpu"
    )
