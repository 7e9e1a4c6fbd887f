"""The few CUDA runtime calls that the TensorRT engine makes, every return value checked.

The decision a reader would question: no array library on the device. Static buffers, one copy each way and a
graph replay need a dozen calls, and a test can stand in for them.
"""

from __future__ import annotations

import ctypes
import importlib
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError


class CudaRuntime:
    """`cuda.bindings.runtime` on one device.

    Args:
        device: index of the GPU.

    Raises:
        EngineError: the bindings are missing, or there is no such GPU. Every method raises it when CUDA
            reports an error.
    """

    def __init__(self, device: int = 0) -> None:
        try:
            self._cuda = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise EngineError("CUDA bindings are not installed; pip install '.[gpu]'") from error
        self.device = device
        self.activate()

    def activate(self) -> None:
        """Make the device current for this thread."""
        self._call("cudaSetDevice", self.device)

    def allocate(self, size_bytes: int) -> int:
        """Device memory; CUDA aligns it to 256 bytes or more."""
        return int(self._call("cudaMalloc", size_bytes))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._call("cudaFree", address)

    def allocate_host(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        """An array in page-locked host memory, which copies need to run asynchronously."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        address = int(self._call("cudaHostAlloc", size, self._cuda.cudaHostAllocDefault))
        memory = (ctypes.c_byte * size).from_address(address)
        return np.frombuffer(memoryview(memory), dtype).reshape(shape)

    def free_host(self, array: npt.NDArray[Any]) -> None:
        """Give page-locked memory back; the array must not be used afterwards."""
        self._call("cudaFreeHost", array.ctypes.data)

    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""
        return int(self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream whose work is done."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until a stream's work is done."""
        self._call("cudaStreamSynchronize", stream)

    def copy_to_device(self, address: int, array: npt.NDArray[Any], stream: int) -> None:
        """Copy a host array to the device, asynchronously."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def copy_to_host(self, array: npt.NDArray[Any], address: int, stream: int) -> None:
        """Copy device memory to a host array, asynchronously."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)

    def begin_capture(self, stream: int) -> None:
        """Record what this thread enqueues on the stream instead of running it."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> Any:  # noqa: ANN401 - a handle of the bindings
        """Stop recording; returns a graph that can be launched."""
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def abandon_capture(self, stream: int) -> None:
        """Stop recording and throw away what was recorded. Raises nothing: another error is on its way."""
        with suppress(EngineError):  # a recording that became invalid leaves no graph
            self._call("cudaGraphDestroy", self._call("cudaStreamEndCapture", stream))

    def launch(self, graph: Any, stream: int) -> None:  # noqa: ANN401
        """Run a recorded graph on a stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:  # noqa: ANN401
        """Destroy a graph."""
        self._call("cudaGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401 - the bindings have no types
        status, *values = getattr(self._cuda, name)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise EngineError(f"CUDA: {name} failed with {getattr(status, 'name', status)}")
        return values[0] if values else None
