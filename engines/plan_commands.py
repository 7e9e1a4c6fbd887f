"""What `screener engines build|list|verify` do; the command line only parses and prints.

The decision a reader would question: a plan is first built and kept, then verified, and taken out of the
cache again if it fails. A run in between is no risk (a campaign's engines are opened once), and a build of
minutes is not lost to a verification that was interrupted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle import Bundle
from engines.compare import Comparison, Limits, compare
from engines.devices import Gpu, choose
from engines.engine import Engines, open_engines
from engines.errors import EngineError
from engines.manifest import GRAPHS
from engines.plan_cache import PlanCache, PlanRecord
from engines.tensorrt import load_tensorrt
from engines.tensorrt_build import BatchProfile, BuildProgress
from engines.tensorrt_plans import ensure_plan, open_plan, typed_graph

OnBuild = Callable[[str, str, BuildProgress], bool]
"""Told graph, precision and progress of a build; returning False cancels it."""


@dataclass(frozen=True, slots=True)
class PlanTarget:
    """What plans are built for."""

    gpu: Gpu
    trt: Any
    """The module `tensorrt` or `tensorrt_rtx`."""
    profile: BatchProfile = field(default_factory=BatchProfile)


@dataclass(frozen=True, slots=True)
class Verification:
    """One precision held against the reference."""

    precision: str
    comparison: Comparison
    failures: tuple[str, ...]
    """Empty: the plans stay registered."""


def plan_target(gpu_index: int = 0) -> PlanTarget:
    """The GPU and the TensorRT that plans are built with.

    Raises:
        EngineError: no GPU, or neither TensorRT nor TensorRT-RTX can be used on it.
    """
    choice = choose("cuda", gpu_index=gpu_index)
    if choice.gpu is None or choice.backend not in ("tensorrt", "tensorrt_rtx"):
        raise EngineError("plans need TensorRT; pip install '.[tensorrt]' or '.[tensorrt-rtx]'")
    return PlanTarget(choice.gpu, load_tensorrt(choice.backend))


def build_plans(
    bundle: Bundle,
    precisions: Sequence[str],
    target: PlanTarget,
    cache: PlanCache,
    on_build: OnBuild | None = None,
) -> Iterator[PlanRecord]:
    """Build both graphs in each precision; those already in the cache are not built again.

    Raises:
        EngineError: a build failed or was cancelled.
    """
    for precision in precisions:
        for name in GRAPHS:
            graph = typed_graph(bundle, name, precision)

            def report(progress: BuildProgress, name: str = name, precision: str = precision) -> bool:
                return on_build is None or on_build(name, precision, progress)

            yield ensure_plan(target.trt, graph, target.gpu, target.profile, cache, on_progress=report)


def list_plans(cache: PlanCache) -> tuple[PlanRecord, ...]:
    """Records of every plan kept for this user, newest first."""
    return cache.records()


def verify_plans(
    bundle: Bundle,
    precisions: Sequence[str],
    target: PlanTarget,
    cache: PlanCache,
    canvas: npt.NDArray[np.float32],
    limits: Limits | None = None,
) -> Iterator[Verification]:
    """Hold each precision's plans against torch in float32, and remove those that fail from the cache.

    Args:
        bundle: whose graphs.
        precisions: which plans; missing ones are built.
        target: GPU and TensorRT.
        cache: where the plans are.
        canvas: (N, 1, S, S) real canvases.
        limits: what must be kept.

    Raises:
        EngineError: a plan cannot be built or run.
    """
    with reference_engines(bundle) as reference:
        for precision in precisions:
            with _open_pair(bundle, precision, target, cache) as candidate:
                comparison = compare(reference, candidate, canvas)
            failures = (limits or Limits()).failures(comparison)
            if failures:
                for name in GRAPHS:
                    graph = typed_graph(bundle, name, precision)
                    cache.remove(graph.key(target.trt, target.gpu, target.profile))
            yield Verification(precision, comparison, failures)


def verify_cpu(
    bundle: Bundle, precisions: Sequence[str], canvas: npt.NDArray[np.float32], limits: Limits | None = None
) -> Iterator[Verification]:
    """Hold the CPU engines of each precision against torch in float32; arguments as for `verify_plans`."""
    with reference_engines(bundle) as reference:
        for precision in precisions:
            if precision not in ("fp32", "bf16", "int8"):
                raise EngineError(f"the CPU engine has no precision {precision}; use fp32, bf16 or int8")
            with open_engines(bundle, device="cpu", precision=precision) as candidate:  # type: ignore[arg-type]
                comparison = compare(reference, candidate, canvas)
            yield Verification(precision, comparison, (limits or Limits()).failures(comparison))


def reference_engines(bundle: Bundle) -> Engines:
    """Both float32 graphs of a bundle in plain torch on the CPU, rebuilt from the ONNX files.

    Raises:
        EngineError: torch or onnx is missing, or an operator is not covered.
    """
    try:
        from engines.torch_reference import TorchEngine

        segmentation, classification = (TorchEngine.from_onnx(bundle.read_graph(name)) for name in GRAPHS)
    except ImportError as error:
        raise EngineError(f"the torch reference needs {error.name}; pip install '.[train]'") from error
    return Engines(segmentation, classification, segmentation.description, "fp32")


def _open_pair(bundle: Bundle, precision: str, target: PlanTarget, cache: PlanCache) -> Engines:
    opened = []
    try:
        for name in GRAPHS:
            graph = typed_graph(bundle, name, precision)
            opened.append(
                open_plan(
                    target.trt,
                    bundle,
                    graph,
                    target.gpu,
                    target.profile,
                    cache,
                    batch_size=target.profile.typical,
                )
            )
    except BaseException:
        for engine in opened:
            engine.close()
        raise
    return Engines(opened[0], opened[1], opened[0].description, precision)
