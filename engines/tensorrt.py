"""Runs a TensorRT plan on a GPU: static buffers, one context a stream, a CUDA graph per batch size.

The decision a reader would question: a short last batch is filled up and run at the engine's batch size. The
graph and the kernels are then the same for every image, so a result does not depend on its neighbours.
Nothing here touches TensorRT before a GPU was found: without a driver its runtime crashes the process.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.cuda_runtime import CudaRuntime
from engines.devices import Gpu
from engines.errors import EngineError
from engines.lanes import LanePool
from engines.tensor_spec import TensorSpec, check_feeds, filled_up
from engines.tensorrt_build import error_text, make_logger, make_recorder

Arrays = dict[str, npt.NDArray[Any]]

ALIGNMENT_BYTES = 256
"""Of every address given to TensorRT."""
STREAMS = 2
"""One copies and waits while the other computes."""


@dataclass(slots=True)
class _Lane:
    """One stream with its execution context and buffers for a full batch."""

    context: Any
    stream: int
    host: Arrays
    """Page-locked copies of every input and output."""
    device: dict[str, int]
    """Device address of every input and output."""
    graphs: dict[int, Any] = field(default_factory=dict)
    """Recorded enqueues by batch size."""
    results: Arrays = field(default_factory=dict)
    """Slices of the caller's arrays, filled when the lane is finished."""


class TensorRtEngine:
    """A deserialised plan.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        plan: from the user's own cache or just built; plans are code.
        runtime: CUDA on the GPU that the plan was built for.
        gpu: that GPU.
        inputs: what the graph takes.
        outputs: what it returns.
        precision: arithmetic the plan was built with, for the description.
        batch_size: images per enqueue; the plan's profile must hold it.
        streams: enqueues in flight.
        is_verified: the plan was held against the torch reference and passed.

    Raises:
        EngineError: the plan does not fit this GPU, library, batch size or graph; carries TensorRT's text.
    """

    def __init__(
        self,
        trt: Any,  # noqa: ANN401 - the vendor's module
        plan: bytes,
        runtime: CudaRuntime,
        *,
        gpu: Gpu,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        precision: str,
        batch_size: int = 8,
        streams: int = STREAMS,
        is_verified: bool = False,
    ) -> None:
        self.inputs, self.outputs, self.precision = inputs, outputs, precision
        self.is_verified = is_verified
        self._runtime, self._batch_size = runtime, batch_size
        self._logger, self._recorder = make_logger(trt), make_recorder(trt)
        self._trt_runtime = trt.Runtime(self._logger)
        self._trt_runtime.error_recorder = self._recorder
        self._plan = self._trt_runtime.deserialize_cuda_engine(plan)
        if self._plan is None:
            raise EngineError(f"TensorRT refuses the plan on {gpu}: {self._errors()}; build it again")
        _check_tensors(trt, self._plan, inputs, outputs)
        self.num_layers = int(self._plan.num_layers)
        """Layers after fusion."""
        lanes: list[_Lane] = []
        try:
            lanes.extend(self._open_lane() for _ in range(streams))
        except BaseException:
            self._close_lanes(lanes)
            raise
        self._lanes = LanePool(lanes)
        self._is_open = True
        self.description = (
            f"TensorRT {trt.__version__} ({trt.__name__}), {precision} on {gpu}, "
            f"{streams} streams of {batch_size}, {self.num_layers} layers"
        )

    def run(self, feeds: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Run N images; see `engines.engine.Engine.run`."""
        if not self._is_open:
            raise EngineError("the engine is closed")
        count = check_feeds(self.inputs, feeds)
        results = {spec.name: np.empty(spec.of_batch(count), spec.dtype) for spec in self.outputs}
        self._runtime.activate()

        def start(lane: _Lane, first: int, last: int) -> None:
            lane.results = {name: array[first:last] for name, array in results.items()}
            self._start(lane, {name: array[first:last] for name, array in feeds.items()})

        self._lanes.run(count, self._batch_size, start, self._finish)
        return results

    def close(self) -> None:
        """Give back the GPU's memory."""
        if self._is_open:
            self._is_open = False
            self._close_lanes(self._lanes.drain())
            self._plan = self._trt_runtime = None

    def _start(self, lane: _Lane, feeds: Arrays) -> None:
        """Stage a chunk and enqueue copy in, network and copy out."""
        for spec in self.inputs:
            staged = lane.host[spec.name]
            staged[:] = filled_up(feeds[spec.name], self._batch_size)
            self._runtime.copy_to_device(lane.device[spec.name], staged, lane.stream)
        graph = lane.graphs.get(self._batch_size)
        if graph is None:
            lane.graphs[self._batch_size] = self._record(lane)
        else:
            self._runtime.launch(graph, lane.stream)
        for spec in self.outputs:
            self._runtime.copy_to_host(lane.host[spec.name], lane.device[spec.name], lane.stream)

    def _finish(self, lane: _Lane) -> None:
        self._runtime.synchronize(lane.stream)
        for name, array in lane.results.items():
            array[:] = lane.host[name][: len(array)]
        lane.results = {}

    def _record(self, lane: _Lane) -> Any:  # noqa: ANN401
        """Enqueue as it is (TensorRT then sets itself up), then under capture, which runs nothing."""
        for spec in self.inputs:
            fits = lane.context.set_input_shape(spec.name, spec.of_batch(self._batch_size))
            self._require(fits, f"the plan does not take {self._batch_size} images at a time")
        missing = lane.context.infer_shapes()
        if missing:
            raise EngineError(f"TensorRT lacks the shape of {', '.join(missing)}")
        self._enqueue(lane)
        self._runtime.begin_capture(lane.stream)
        try:
            self._enqueue(lane)
        except BaseException:
            self._runtime.abandon_capture(lane.stream)
            raise
        try:
            return self._runtime.end_capture(lane.stream)
        except EngineError as error:
            raise EngineError(f"{error}: {self._errors()}") from error

    def _enqueue(self, lane: _Lane) -> None:
        self._require(lane.context.execute_async_v3(lane.stream), "TensorRT failed")

    def _open_lane(self) -> _Lane:
        context = self._plan.create_execution_context()
        self._require(context is not None, "TensorRT has no memory for another stream")
        lane = _Lane(context, self._runtime.create_stream(), {}, {})
        try:
            has_profile = context.set_optimization_profile_async(0, lane.stream)
            self._require(has_profile, "TensorRT refuses the plan's profile")
            for spec in (*self.inputs, *self.outputs):
                shape = spec.of_batch(self._batch_size)
                lane.host[spec.name] = self._runtime.allocate_host(shape, spec.dtype)
                lane.device[spec.name] = self._allocate(spec.name, lane.host[spec.name].nbytes)
                is_taken = context.set_tensor_address(spec.name, lane.device[spec.name])
                self._require(is_taken, f"TensorRT refuses the buffer of {spec.name}")
        except BaseException:
            self._close_lanes([lane])
            raise
        return lane

    def _allocate(self, name: str, size_bytes: int) -> int:
        address = self._runtime.allocate(size_bytes)
        if address % ALIGNMENT_BYTES:
            self._runtime.free(address)
            raise EngineError(f"the buffer of {name} is not aligned to {ALIGNMENT_BYTES} bytes")
        return address

    def _close_lanes(self, lanes: Sequence[_Lane]) -> None:
        for lane in lanes:
            with suppress(EngineError):  # a failed GPU cannot give anything back
                self._runtime.synchronize(lane.stream)
                for graph in lane.graphs.values():
                    self._runtime.destroy_graph(graph)
                lane.context = None
                for address in lane.device.values():
                    self._runtime.free(address)
                for array in lane.host.values():
                    self._runtime.free_host(array)
                self._runtime.destroy_stream(lane.stream)

    def _require(self, succeeded: bool, failure: str) -> None:
        """TensorRT reports failures by return value; its own text is in the recorder."""
        if not succeeded:
            raise EngineError(f"{failure}: {self._errors()}")

    def _errors(self) -> str:
        return error_text(self._recorder, self._logger)


def load_tensorrt(name: str) -> Any:  # noqa: ANN401
    """Import `tensorrt` or `tensorrt_rtx`.

    Raises:
        EngineError: not installed, or its shared libraries are missing.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise EngineError(f"{name} cannot be used ({error})") from error


def _check_tensors(
    trt: Any,  # noqa: ANN401
    plan: Any,  # noqa: ANN401
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> None:
    """Hold the plan's tensors against the graph's."""
    found = {}
    for place in range(plan.num_io_tensors):
        name = plan.get_tensor_name(place)
        dtype = np.dtype(trt.nptype(plan.get_tensor_dtype(name))).name
        is_input = plan.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        shape = tuple(None if size < 0 else int(size) for size in plan.get_tensor_shape(name))
        found[name] = (is_input, TensorSpec(name, dtype, shape))
    for is_input, specs in ((True, inputs), (False, outputs)):
        for spec in specs:
            if found.get(spec.name) != (is_input, spec):
                listed = "; ".join(str(other) for _, other in found.values())
                raise EngineError(f"the plan has {listed}; expected {spec}: build it again")
    if len(found) != len(inputs) + len(outputs):
        raise EngineError(f"the plan has {len(found)} tensors; expected {len(inputs) + len(outputs)}")
