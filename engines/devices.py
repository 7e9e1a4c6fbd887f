"""Chooses where networks run, and says why.

`auto` may end on the CPU, `cuda` never does: an operator who asked for a GPU wants to hear that it was not
used. The probe for a GPU comes before any GPU library is touched, because TensorRT without a driver crashes
the process.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Literal

from engines.errors import EngineError

Device = Literal["auto", "cpu", "cuda"]
Backend = Literal["openvino", "tensorrt", "tensorrt_rtx", "torch"]

GPU_BACKENDS: tuple[Backend, ...] = ("tensorrt", "tensorrt_rtx", "torch")
"""In order of preference."""

_INSTALL = {
    "cuda.bindings.runtime": "pip install '.[gpu]'",
    "tensorrt": "pip install '.[tensorrt]'",
    "tensorrt_rtx": "pip install '.[tensorrt-rtx]'",
    "torch": "pip install '.[train]'",
}

_RTX_CAPABILITIES = {(7, 5), (8, 6), (8, 9), (12, 0), (12, 1)}
"""TensorRT-RTX builds for workstation GPUs only; it has no data-centre target such as sm_90."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One CUDA device."""

    index: int
    name: str
    capability: tuple[int, int]
    """Compute capability (major, minor)."""
    memory_bytes: int
    driver: int
    """CUDA version of the driver, for example 13000."""

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.capability[0]}{self.capability[1]})"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which backend runs, on what, and why."""

    backend: Backend
    reason: str
    gpu: Gpu | None = None


def choose(device: Device, *, gpu_index: int = 0, backend: Backend | None = None) -> Choice:
    """Choose a backend for a device.

    Args:
        device: `auto` takes a usable GPU, else the CPU; `cuda` never falls back.
        gpu_index: which CUDA device.
        backend: insist on this GPU backend instead of the first that is installed.

    Raises:
        EngineError: `cuda` was asked for and there is no GPU or no library for it.
    """
    if device == "cpu":
        return Choice("openvino", "CPU was asked for")
    try:
        gpu = probe_gpu(gpu_index)
        chosen = _installed_backend(gpu, (backend,) if backend else GPU_BACKENDS)
    except EngineError as error:
        if device == "cuda":
            raise
        return Choice("openvino", f"CPU chosen: {error}")
    return Choice(chosen, f"{gpu} chosen", gpu)


def probe_gpu(index: int = 0) -> Gpu:
    """Find a CUDA device without initialising any inference library.

    Raises:
        EngineError: no bindings, no driver, or no such device; says which.
    """
    try:
        runtime = importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise EngineError(
            f"no GPU: CUDA bindings not installed ({_INSTALL['cuda.bindings.runtime']})"
        ) from error
    status, count = runtime.cudaGetDeviceCount()
    if status != runtime.cudaError_t.cudaSuccess or not count:
        raise EngineError(f"no GPU: {getattr(status, 'name', status)}")
    if not 0 <= index < count:
        raise EngineError(f"no GPU {index}: this machine has {count}")
    status, found = runtime.cudaGetDeviceProperties(index)
    if status != runtime.cudaError_t.cudaSuccess:
        raise EngineError(f"GPU {index} cannot be used: {getattr(status, 'name', status)}")
    _, driver = runtime.cudaDriverGetVersion()
    name = found.name.decode() if isinstance(found.name, bytes) else str(found.name)
    return Gpu(index, name, (found.major, found.minor), int(found.totalGlobalMem), int(driver))


def _installed_backend(gpu: Gpu, candidates: tuple[Backend, ...]) -> Backend:
    """The first backend whose library imports and that has kernels for this GPU."""
    reasons = []
    for backend in candidates:
        if backend == "tensorrt_rtx" and gpu.capability not in _RTX_CAPABILITIES:
            reasons.append(f"TensorRT-RTX has no kernels for {gpu}")
            continue
        try:
            module = importlib.import_module(backend)
        except ImportError as error:  # also raised by bindings whose shared libraries are missing
            reasons.append(f"{backend} not usable ({error}; {_INSTALL[backend]})")
            continue
        if backend == "torch" and not module.cuda.is_available():
            reasons.append("torch not usable (this build cannot use the GPU)")
            continue
        return backend
    raise EngineError(f"no engine for {gpu}: " + "; ".join(reasons))
