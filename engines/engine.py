"""Turns a bundle and a device into engines: arrays by name in, arrays by name out.

Every backend (OpenVINO on the CPU, TensorRT or torch on a GPU) keeps the same contract, so the pipeline never
knows which one runs. The contract a reader would question: `run` takes any number of images. How many go
through the network at a time, and on which stream, is the engine's business, and must not change a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

import numpy.typing as npt

from engines.bundle import Bundle
from engines.devices import Choice, Device, choose
from engines.errors import EngineError
from engines.plan_cache import PlanCache
from engines.tensor_spec import TensorSpec, check_specs

if TYPE_CHECKING:
    from engines.tensorrt_plans import OnBuild

Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
"""Arithmetic of the network; `auto` takes the fastest: int8 on a CPU that multiplies it exactly where the
bundle has int8 ranges, else bf16 where the processor has it; fp16 on a GPU."""

Arrays = dict[str, npt.NDArray[Any]]


class Engine(Protocol):
    """A compiled network. `run` may be called from several threads at once."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` must be fed; dimension 0 is the batch."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` returns."""

    @property
    def description(self) -> str:
        """Library, device, arithmetic and streams in one line, for the run's summary."""

    @property
    def precision(self) -> str:
        """The arithmetic that was chosen: fp32, bf16, fp16 or int8."""

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Run the network on N images.

        Args:
            feeds: one array per input, (N, ...), N at least 1.

        Returns:
            One array per output, (N, ...), owned by the caller. The result of an image does not depend on the
            other images of the call.

        Raises:
            EngineError: a missing or misshapen array, or a failure of the library.
        """

    def close(self) -> None:
        """Give back the device's memory; the engine cannot run afterwards."""


@runtime_checkable
class PlanEngine(Protocol):
    """An engine that runs a plan which `engines verify` may have judged."""

    is_verified: bool


@dataclass(frozen=True, slots=True)
class Engines:
    """The two engines of a bundle; closes both when its `with` block ends."""

    segmentation: Engine
    classification: Engine
    description: str
    """What runs, and why it was chosen."""
    precision: str
    """Arithmetic of both engines: fp32, bf16, fp16 or int8; where they differ both, as `int8+bf16`."""
    plans: Literal["verified", "unverified"] | None = None
    """Whether both TensorRT plans passed `engines verify`; None where no plan is used."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close both engines."""
        self.segmentation.close()
        self.classification.close()


def open_engines(
    bundle: Bundle,
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: int = 8,
    threads: int | None = None,
    on_build: OnBuild | None = None,
) -> Engines:
    """Open a bundle's segmentation and classification engines on one device.

    Args:
        bundle: a verified bundle.
        device: `auto` takes a usable GPU, else the CPU, and says why; `cuda` never falls back.
        precision: arithmetic of both networks.
        batch_size: most images a caller will hand to `run` at once (a hint: `run` takes any number).
        threads: CPU threads inference may use; None means every core this process may use.
        on_build: told graph, precision and progress while a missing TensorRT plan is built; returning False
            cancels the build.

    Raises:
        EngineError: no such device or library, a plan that failed verification, or a graph that does not
            honour the manifest.
    """
    choice = choose(device)
    segmentation = _open(bundle, "segmentation", choice, precision, batch_size, threads, on_build)
    try:
        classification = _open(bundle, "classification", choice, precision, batch_size, threads, on_build)
    except BaseException:
        segmentation.close()
        raise
    return Engines(
        segmentation=segmentation,
        classification=classification,
        description=f"{segmentation.description}; {choice.reason}",
        precision="+".join(dict.fromkeys((segmentation.precision, classification.precision))),
        plans=_standing(segmentation, classification),
    )


def _standing(*engines: Engine) -> Literal["verified", "unverified"] | None:
    """What is known of the plans behind engines; only TensorRT's have any."""
    found = [engine.is_verified for engine in engines if isinstance(engine, PlanEngine)]
    if not found:
        return None
    return "verified" if all(found) else "unverified"


def open_engine(
    bundle: Bundle,
    graph_name: str,
    *,
    device: Device = "auto",
    precision: Precision = "auto",
    batch_size: int = 8,
    threads: int | None = None,
) -> Engine:
    """Open one graph of a bundle; arguments and errors as for `open_engines`."""
    return _open(bundle, graph_name, choose(device), precision, batch_size, threads)


def _open(
    bundle: Bundle,
    graph_name: str,
    choice: Choice,
    precision: Precision,
    batch_size: int,
    threads: int | None,
    on_build: OnBuild | None = None,
) -> Engine:
    """Open the chosen backend and hold its tensors against the manifest."""
    graph = bundle.graph(graph_name)
    engine: Engine
    if choice.backend == "openvino":
        from engines.openvino import OpenVinoEngine, has_int8_units

        int8 = precision == "int8" or (precision == "auto" and bundle.has_int8 and has_int8_units())
        model = bundle.read_graph(graph_name, int8=int8)
        if int8:
            precision = "int8" if graph.int8 else "auto"
        engine = OpenVinoEngine(model, precision=precision, threads=threads, cache=_plan_cache())
    elif choice.backend == "torch":
        from engines.torch_reference import TorchEngine

        engine = TorchEngine.from_onnx(
            bundle.read_graph(graph_name, int8=precision == "int8"),
            device=f"cuda:{choice.gpu.index}" if choice.gpu else "cpu",
            precision=_gpu_precision(precision),
            micro_batch=batch_size,
        )
    else:
        engine = _open_tensorrt(bundle, graph_name, choice, precision, batch_size, on_build)
    try:
        check_specs(f"{graph_name} inputs", found=engine.inputs, expected=graph.inputs)
        check_specs(f"{graph_name} outputs", found=engine.outputs, expected=graph.outputs)
    except EngineError:
        engine.close()
        raise
    return engine


def _plan_cache() -> PlanCache | None:
    """The user's plan cache, or None where there can be none: networks are then compiled at every start."""
    try:
        return PlanCache()
    except EngineError:
        return None


def _open_tensorrt(
    bundle: Bundle,
    graph_name: str,
    choice: Choice,
    precision: Precision,
    batch_size: int,
    on_build: OnBuild | None,
) -> Engine:
    from engines.tensorrt import load_tensorrt
    from engines.tensorrt_build import BatchProfile
    from engines.tensorrt_plans import open_plan, progress_of, typed_graph

    assert choice.gpu is not None
    graph = typed_graph(bundle, graph_name, _gpu_precision(precision))
    return open_plan(
        load_tensorrt(choice.backend),
        bundle,
        graph,
        choice.gpu,
        BatchProfile(),
        PlanCache(),
        batch_size=batch_size,
        on_progress=progress_of(graph, on_build),
    )


def _gpu_precision(precision: Precision) -> str:
    """Graphics processors compute fp16 at full rate since sm_70; `auto` takes it."""
    return "fp16" if precision == "auto" else precision
