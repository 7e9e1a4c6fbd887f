"""Compiles an ONNX graph to a TensorRT plan, with progress, cancellation and errors that reach the user.

Works alike with `tensorrt` (10.13 to 11) and `tensorrt_rtx`: the module is passed in. What differs between
them: TensorRT 10 types a graph strongly only if asked to, 11 and RTX always do. Building needs no GPU with
TensorRT-RTX, which is how the tests compile for real on any machine. TensorRT reports most failures by
returning None, False or a negative number; each is checked here.

The decision a reader would question: the build runs on a thread of its own. An exception raised in one of
TensorRT's callbacks is lost, so Ctrl-C must reach a thread that only waits, and end the build from there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from engines.cuda_runtime import CudaRuntime
from engines.errors import EngineError
from engines.quantised_graph import check_quantisation

WORKSPACE_BYTES = 4 << 30
"""Scratch memory that a tactic may use while it is timed and run."""

_LOOK_S = 0.2
_MAX_ERRORS = 3
"""TensorRT reports consequences after causes; the first few say what is wrong."""


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """Batch sizes a plan is built for: it runs any from `least` to `most`, fastest at `typical`."""

    least: int = 1
    typical: int = 8
    most: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.typical <= self.most:
            raise EngineError(f"batch sizes must rise from 1: {self}")

    def __str__(self) -> str:
        return f"{self.least}-{self.typical}-{self.most}"


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """How far a build is."""

    phase: str
    """TensorRT's name of what it is doing."""
    fraction: float
    """0 to 1, never falling."""
    seconds: float
    """Since the build began."""

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the speed so far; None at the beginning."""
        return self.seconds * (1 / self.fraction - 1) if self.fraction > 0.01 else None


@dataclass(frozen=True, slots=True)
class BuiltPlan:
    """A compiled plan."""

    plan: bytes
    num_layers: int | None
    """Layers after fusion; None without a GPU, which reading a plan needs."""
    seconds: float


OnProgress = Callable[[BuildProgress], bool]
"""Called while a build runs, from TensorRT's threads; returning False cancels it."""


def build_plan(
    trt: Any,  # noqa: ANN401 - the vendor's module
    model: bytes,
    profile: BatchProfile,
    *,
    on_progress: OnProgress | None = None,
    workspace_bytes: int = WORKSPACE_BYTES,
    device: int = 0,
) -> BuiltPlan:
    """Compile a typed ONNX graph. An exception in the waiting thread, such as Ctrl-C, cancels the build.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        model: ONNX whose tensor types say the precision (see `engines.precision`).
        profile: batch sizes.
        on_progress: told how far the build is; may cancel it.
        workspace_bytes: limit of TensorRT's scratch memory.
        device: index of the GPU to build for.

    Raises:
        EngineError: the graph cannot be parsed or built, or the build was cancelled; carries TensorRT's text.
    """
    check_quantisation(model)
    is_left = threading.Event()

    def go_on(progress: BuildProgress) -> bool:
        return not is_left.is_set() and (on_progress is None or on_progress(progress))

    def build() -> BuiltPlan:
        if device:  # a new thread starts on GPU 0
            CudaRuntime(device)
        logger, recorder = make_logger(trt), make_recorder(trt)
        builder = trt.Builder(logger)
        try:
            return _build(trt, builder, recorder, model, profile, make_monitor(trt, go_on), workspace_bytes)
        finally:
            # TensorRT holds bare pointers: a recorder freed first crashes the builder's destructor.
            builder.error_recorder = None

    with ThreadPoolExecutor(1, thread_name_prefix="build") as executor:
        building = executor.submit(build)
        try:
            while not building.done():  # a signal that another thread took is seen at the next turn
                wait([building], timeout=_LOOK_S)
            return building.result()
        finally:
            is_left.set()


def _build(
    trt: Any,  # noqa: ANN401
    builder: Any,  # noqa: ANN401
    recorder: Any,  # noqa: ANN401
    model: bytes,
    profile: BatchProfile,
    monitor: Any,  # noqa: ANN401
    workspace_bytes: int,
) -> BuiltPlan:
    started = time.perf_counter()
    network = builder.create_network(_network_flags(trt))
    _parse(trt, network, builder.logger, model)
    # Only now: a network that inherits the recorder before it is parsed crashes in its destructor (RTX 1.7).
    builder.error_recorder = recorder
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    _add_profile(builder, network, config, profile)
    config.progress_monitor = monitor
    try:
        plan = builder.build_serialized_network(network, config)
    finally:
        config.progress_monitor = None
    if plan is None:
        if monitor.cancelled:
            raise EngineError("the build was cancelled")
        reason = error_text(recorder, builder.logger)
        raise EngineError(f"TensorRT could not build the graph: {reason}")
    seconds = time.perf_counter() - started
    return BuiltPlan(bytes(plan), layers_after_fusion(trt, builder.logger, bytes(plan)), seconds)


def layers_after_fusion(trt: Any, logger: Any, plan: bytes) -> int | None:  # noqa: ANN401
    """How many layers a plan runs; None where it cannot be read, as without a GPU."""
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    return None if engine is None else int(engine.num_layers)


def error_text(recorder: Any, logger: Any) -> str:  # noqa: ANN401
    """What TensorRT reported, the first few errors of recorder and log, each once."""
    recorded = [recorder.get_error_desc(place) for place in range(recorder.num_errors())]
    texts = list(dict.fromkeys([*recorded, *logger.errors]))
    return "; ".join(texts[:_MAX_ERRORS]) or "no reason was given"


def make_logger(trt: Any) -> Any:  # noqa: ANN401
    """A logger that keeps error texts and prints nothing."""

    class KeepingLogger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message.strip())

    return KeepingLogger()


def make_recorder(trt: Any) -> Any:  # noqa: ANN401
    """An error recorder: TensorRT calls it from any of its threads."""

    class KeepingRecorder(trt.IErrorRecorder):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IErrorRecorder.__init__(self)
            self._lock = threading.Lock()
            self._errors: list[tuple[Any, str]] = []

        def num_errors(self) -> int:
            return len(self._errors)

        def get_error_code(self, place: int) -> Any:  # noqa: ANN401
            return self._errors[place][0]

        def get_error_desc(self, place: int) -> str:
            return self._errors[place][1]

        def has_overflowed(self) -> bool:
            return False

        def clear(self) -> None:
            with self._lock:
                self._errors.clear()

        def report_error(self, code: Any, text: str) -> bool:  # noqa: ANN401
            with self._lock:
                self._errors.append((code, text.strip()))
            return False

    return KeepingRecorder()


def make_monitor(trt: Any, on_progress: OnProgress) -> Any:  # noqa: ANN401
    """A progress monitor that turns TensorRT's nested phases into one rising fraction."""

    class FractionMonitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.cancelled = False
            self._lock = threading.Lock()
            self._phases: dict[str, _Phase] = {}
            self._fraction = 0.0
            self._started = time.perf_counter()

        def phase_start(self, phase: str, parent: str | None, num_steps: int) -> None:
            with self._lock:
                self._phases[phase] = _Phase(parent, max(1, num_steps))

        def phase_finish(self, phase: str) -> None:
            with self._lock:
                self._phases.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            with self._lock:
                if phase in self._phases:
                    self._phases[phase].done = step + 1
                self._fraction = max(self._fraction, min(1.0, self._reached(phase)))
                progress = BuildProgress(phase, self._fraction, time.perf_counter() - self._started)
            if not self.cancelled and not on_progress(progress):
                self.cancelled = True
            return not self.cancelled

        def _reached(self, phase: str) -> float:
            """A phase's share within its parent's current step, up to the root."""
            share, name = 0.0, phase
            while name in self._phases:
                entry = self._phases[name]
                share = min(1.0, (entry.done + share) / entry.num_steps)
                if entry.parent is None:
                    break
                name = entry.parent
            return share

    return FractionMonitor()


@dataclass(slots=True)
class _Phase:
    parent: str | None
    num_steps: int
    done: int = 0


def _network_flags(trt: Any) -> int:  # noqa: ANN401
    """TensorRT 10 types a network by its graph only if asked to; 11 and RTX always do."""
    if int(str(trt.__version__).partition(".")[0]) == 10:
        return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return 0


def _parse(trt: Any, network: Any, logger: Any, model: bytes) -> None:  # noqa: ANN401
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(place) for place in range(parser.num_errors)]
        texts = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
        raise EngineError(f"TensorRT cannot read the graph: {'; '.join(texts[:_MAX_ERRORS])}")


def _add_profile(builder: Any, network: Any, config: Any, profile: BatchProfile) -> None:  # noqa: ANN401
    shapes = builder.create_optimization_profile()
    for place in range(network.num_inputs):
        tensor = network.get_input(place)
        rest = tuple(tensor.shape)[1:]
        if tensor.shape[0] != -1 or -1 in rest:
            raise EngineError(f"input {tensor.name} is {tuple(tensor.shape)}; only the batch may be dynamic")
        shapes.set_shape(
            tensor.name, *((size, *rest) for size in (profile.least, profile.typical, profile.most))
        )
    if not shapes or config.add_optimization_profile(shapes) < 0:
        raise EngineError(f"TensorRT refuses the batch sizes {profile}")
