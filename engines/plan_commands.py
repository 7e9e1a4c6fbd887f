"""What `screener engines build|list|verify` do; the command line only parses and prints.

The decision a reader would question: a plan is first built and kept, then verified. A build of minutes is not
lost to a verification that was interrupted, and what a run in between used is written in its `run.json` as
unverified. A plan that fails keeps its place with the verdict, so that no run builds it again unawares.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from engines.plan_cache import PlanCache, PlanRecord, Verdict
from engines.tensorrt import load_tensorrt
from engines.tensorrt_build import BatchProfile
from engines.tensorrt_plans import OnBuild, TypedGraph, ensure_plan, open_plan, progress_of, typed_graph


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
    """Empty: the plans are registered as verified."""

    @property
    def verdict(self) -> Verdict:
        """What is written beside each plan of the pair."""
        found = self.comparison
        return Verdict(
            failures=self.failures,
            num_images=found.num_images,
            largest_logit_error=max(error.largest for error in found.logits),
            mean_logit_error=max(error.mean for error in found.logits),
            stage_flips=found.stage_flips,
            diagnosis_flips=found.diagnosis_flips,
            mask_dice=found.mask_dice,
        )


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
    """Build both graphs in each precision; of those in the cache only the ones that failed verification.

    Raises:
        EngineError: a build failed or was cancelled.
    """
    for precision in precisions:
        for name in GRAPHS:
            graph = typed_graph(bundle, name, precision)
            known = cache.record(graph.key(target.trt, target.gpu, target.profile))
            if known is not None and known.standing == "failed":
                cache.remove(known.key)
            yield _ensure(graph, target, cache, on_build)


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
    on_build: OnBuild | None = None,
) -> Iterator[Verification]:
    """Hold each precision's plans against torch in float32, and write the verdict beside them.

    A pair that fails is not registered: no run opens it until it passes or is built again.

    Args:
        bundle: whose graphs.
        precisions: which plans; missing ones are built.
        target: GPU and TensorRT.
        cache: where the plans are.
        canvas: (N, 1, S, S) real canvases.
        limits: what must be kept.
        on_build: told how far the build of a missing plan is.

    Raises:
        EngineError: a plan cannot be built or run.
    """
    with reference_engines(bundle) as reference:
        for precision in precisions:
            graphs = [typed_graph(bundle, name, precision) for name in GRAPHS]
            records = [_ensure(graph, target, cache, on_build) for graph in graphs]
            with _open_pair(bundle, graphs, target, cache) as candidate:
                comparison = compare(reference, candidate, canvas)
            verification = Verification(precision, comparison, (limits or Limits()).failures(comparison))
            for record in records:
                cache.judge(record, verification.verdict)
            yield verification


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
        EngineError: torch is missing, or an operator is not covered.
    """
    try:
        from engines.torch_reference import TorchEngine

        segmentation, classification = (TorchEngine.from_onnx(bundle.read_graph(name)) for name in GRAPHS)
    except ImportError as error:
        raise EngineError(f"the torch reference needs {error.name}; pip install '.[train]'") from error
    return Engines(segmentation, classification, segmentation.description, "fp32")


def _ensure(graph: TypedGraph, target: PlanTarget, cache: PlanCache, on_build: OnBuild | None) -> PlanRecord:
    on_progress = progress_of(graph, on_build)
    return ensure_plan(target.trt, graph, target.gpu, target.profile, cache, on_progress=on_progress)


def _open_pair(bundle: Bundle, graphs: Sequence[TypedGraph], target: PlanTarget, cache: PlanCache) -> Engines:
    opened = []
    try:
        for graph in graphs:
            opened.append(
                open_plan(
                    target.trt,
                    bundle,
                    graph,
                    target.gpu,
                    target.profile,
                    cache,
                    batch_size=target.profile.typical,
                    even_failed=True,
                )
            )
    except BaseException:
        for engine in opened:
            engine.close()
        raise
    return Engines(opened[0], opened[1], opened[0].description, graphs[0].precision)
