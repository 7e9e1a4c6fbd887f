"""Stand-ins for TensorRT's runtime and CUDA, for the enqueue logic only: FakeTensorRt and FakeCudaRuntime.

They compute nothing a network computes: an "execution" doubles `x` into `y` image by image. What they check
is what the real ones would punish: unaligned or unset addresses, use after free, replays of graphs recorded
at other addresses, reading results before the stream was waited for.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines.errors import EngineError

ROW = 3
"""Floats per image."""


class FakeCudaRuntime:
    """Device memory as host arrays by address; streams run their work only when waited for."""

    def __init__(self, misalign: int = 0) -> None:
        self.memory: dict[int, np.ndarray] = {}
        self.streams: dict[int, list[Callable[[], None]]] = {}
        self.capturing: dict[int, list[Callable[[], None]]] = {}
        self.num_launches = 0
        self.num_live_graphs = 0
        self.invalidates_captures = False
        self.num_live_host = 0
        self._next = 4096 + misalign

    def activate(self) -> None:
        pass

    def allocate(self, size_bytes: int) -> int:
        address, self._next = self._next, self._next + -(-size_bytes // 256) * 256
        self.memory[address] = np.full(size_bytes, 255, np.uint8)
        return address

    def free(self, address: int) -> None:
        del self.memory[address]

    def allocate_host(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        self.num_live_host += 1
        return np.full(shape, np.nan, dtype)

    def free_host(self, array: np.ndarray) -> None:
        self.num_live_host -= 1

    def create_stream(self) -> int:
        self.streams[len(self.streams) + 1] = []
        return len(self.streams)

    def destroy_stream(self, stream: int) -> None:
        assert not self.streams[stream], "a stream was destroyed with work on it"
        assert stream not in self.capturing, "a stream was destroyed while it recorded"

    def synchronize(self, stream: int) -> None:
        work, self.streams[stream] = self.streams[stream], []
        for step in work:
            step()

    def copy_to_device(self, address: int, array: np.ndarray, stream: int) -> None:
        def copy() -> None:
            self.memory[address][:] = np.frombuffer(array.tobytes(), np.uint8)

        self.enqueue(stream, copy)

    def copy_to_host(self, array: np.ndarray, address: int, stream: int) -> None:
        def copy() -> None:
            array[...] = self.memory[address].view(array.dtype).reshape(array.shape)

        self.enqueue(stream, copy)

    def begin_capture(self, stream: int) -> None:
        self.capturing[stream] = []

    def end_capture(self, stream: int) -> Any:
        recorded = self.capturing.pop(stream)
        if self.invalidates_captures:
            raise EngineError("CUDA: cudaStreamEndCapture failed with cudaErrorStreamCaptureInvalidated")
        self.num_live_graphs += 1
        return recorded

    def abandon_capture(self, stream: int) -> None:
        del self.capturing[stream]

    def launch(self, graph: Any, stream: int) -> None:
        self.num_launches += 1
        for step in graph:
            self.enqueue(stream, step)

    def destroy_graph(self, graph: Any) -> None:
        self.num_live_graphs -= 1

    def enqueue(self, stream: int, step: Callable[[], None]) -> None:
        (self.capturing[stream] if stream in self.capturing else self.streams[stream]).append(step)


@dataclass
class FakeContext:
    """Doubles `x` into `y` on the stream, from the addresses it was given."""

    cuda: FakeCudaRuntime
    most: int
    recorder: Any
    fails: str
    addresses: dict[str, int] = field(default_factory=dict)
    count: int = 0
    num_enqueues: int = 0

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        return profile == 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.count = shape[0]
        if shape[0] > self.most:
            self.recorder.report_error(3, f"{name}: {shape[0]} above profile maximum {self.most}")
        return shape[0] <= self.most

    def infer_shapes(self) -> list[str]:
        return []

    def execute_async_v3(self, stream: int) -> bool:
        if self.fails == "enqueue":
            self.recorder.report_error(1, "enqueue: out of everything")
            return False
        if self.fails == "capture" and stream in self.cuda.capturing:
            self.recorder.report_error(1, "capture: a layer synchronises")
            return False
        self.num_enqueues += 1
        source, target, count = self.addresses["x"], self.addresses["y"], self.count

        def double() -> None:
            values = self.cuda.memory[source].view(np.float32)[: count * ROW]
            self.cuda.memory[target].view(np.float32)[: count * ROW] = values * 2

        self.cuda.enqueue(stream, double)
        return True


def fake_tensorrt(cuda: FakeCudaRuntime, *, most: int = 8, fails: str = "") -> Any:
    """A module with the part of TensorRT that running a plan uses.

    Args:
        cuda: where its contexts enqueue.
        most: largest batch of the plan's profile.
        fails: `deserialize`, `context`, `enqueue` or `capture`.
    """
    trt: Any = types.ModuleType("fake_tensorrt")
    trt.__version__ = "0.0"
    severity = types.SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)
    trt.ILogger = type("ILogger", (), {"Severity": severity})
    trt.IErrorRecorder = type("IErrorRecorder", (), {})
    trt.TensorIOMode = types.SimpleNamespace(INPUT=1, OUTPUT=2)
    trt.nptype = np.dtype
    trt.contexts = []

    class Plan:
        num_io_tensors, num_layers = 2, 5

        def __init__(self, recorder: Any) -> None:
            self.recorder = recorder

        def get_tensor_name(self, place: int) -> str:
            return "xy"[place]

        def get_tensor_dtype(self, name: str) -> str:
            return "float32"

        def get_tensor_mode(self, name: str) -> int:
            return 1 if name == "x" else 2

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return (-1, ROW)

        def create_execution_context(self) -> FakeContext | None:
            if fails == "context":
                self.recorder.report_error(2, "out of memory")
                return None
            trt.contexts.append(FakeContext(cuda, most, self.recorder, fails))
            return trt.contexts[-1]  # type: ignore[no-any-return]

    class Runtime:
        def __init__(self, logger: Any) -> None:
            self.error_recorder: Any = None

        def deserialize_cuda_engine(self, plan: bytes) -> Plan | None:
            if fails == "deserialize":
                self.error_recorder.report_error(4, "built for sm_80")
                return None
            return Plan(self.error_recorder)

    trt.Runtime = Runtime
    return trt
