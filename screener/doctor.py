"""What this installation can do: versions, processor, codecs, engines; what is missing and how to get it.

Codecs are tried, not looked up: each decodes a small picture that it must return exactly.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import psutil

from screener import __version__
from screener.settings import available_cores


class State(StrEnum):
    """How a check ended. Only `broken` makes `screener doctor` fail: the rest is optional."""

    FINE = "fine"
    ABSENT = "absent"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's table."""

    topic: str
    name: str
    state: State
    found: str
    remedy: str = ""


def examine() -> Iterator[Check]:
    """Run every check; none raises."""
    yield Check("system", "screener", State.FINE, __version__)
    yield Check("system", "python", State.FINE, platform.python_version())
    memory_gb = psutil.virtual_memory().total / 1e9
    yield Check("system", "machine", State.FINE, f"{available_cores()} cores, {memory_gb:.0f} GB memory")
    yield from _packages()
    yield from _codecs()
    yield from _openvino()
    yield from _bundle()
    yield from _accelerators()


def _packages() -> Iterator[Check]:
    for name in ("pydicom", "imagecodecs", "numpy", "opencv-python-headless", "openvino", "polars"):
        try:
            yield Check("package", name, State.FINE, importlib.metadata.version(name))
        except importlib.metadata.PackageNotFoundError:
            yield Check("package", name, State.BROKEN, "missing", f"pip install {name}")


def _round_trip(encode: str, decode: str, **options: object) -> Callable[[], bool]:
    def run() -> bool:
        import imagecodecs

        ramp = (np.arange(48 * 40, dtype=np.uint16).reshape(48, 40) * 2) & 0xFFF
        encoded = getattr(imagecodecs, encode)(ramp, **options)
        return bool(np.array_equal(getattr(imagecodecs, decode)(encoded), ramp))

    return run


CODECS: dict[str, Callable[[], bool]] = {
    "JPEG lossless": _round_trip("ljpeg_encode", "ljpeg_decode", bitspersample=12),
    "JPEG-LS": _round_trip("jpegls_encode", "jpegls_decode"),
    "JPEG 2000": _round_trip("jpeg2k_encode", "jpeg2k_decode", level=0, reversible=True),
    "HTJ2K": _round_trip("htj2k_encode", "htj2k_decode", reversible=True),
}


def _codecs() -> Iterator[Check]:
    for name, try_it in CODECS.items():
        try:
            exact = try_it()
        except Exception as error:  # any failure of a codec is the finding
            yield Check(
                "codec", name, State.BROKEN, f"{type(error).__name__}: {error}", "pip install -U imagecodecs"
            )
            continue
        state = State.FINE if exact else State.BROKEN
        yield Check("codec", name, state, "decodes exactly" if exact else "decodes wrongly")


def _openvino() -> Iterator[Check]:
    try:
        import openvino

        core = openvino.Core()
        can = ", ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        yield Check(
            "engine", "OpenVINO", State.FINE, f"{core.get_property('CPU', 'FULL_DEVICE_NAME')}: {can}"
        )
    except Exception as error:  # the finding itself
        yield Check(
            "engine", "OpenVINO", State.BROKEN, f"{type(error).__name__}: {error}", "pip install openvino"
        )


def _bundle() -> Iterator[Check]:
    from engines.bundle import default_bundle, open_bundle
    from engines.errors import BundleError
    from screener.canvas import CANVAS_SIDE, CANVAS_VERSION

    try:
        bundle = open_bundle(default_bundle(), canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    except BundleError as error:
        yield Check("bundle", "default", State.BROKEN, str(error), "reinstall screener")
        return
    found = (
        f"{bundle.manifest.name} {bundle.manifest.version}, model {bundle.model_sha256[:12]}, hashes verified"
    )
    yield Check("bundle", "default", State.FINE, found)


OPTIONAL = {
    "torch": ("torch", 'pip install "screener[train]"'),
    "DALI": ("nvidia.dali", 'pip install "screener[gpu]"'),
    "nvImageCodec": ("nvidia.nvimgcodec", 'pip install "screener[gpu]"'),
    "TensorRT": (
        "tensorrt",
        'pip install "screener[tensorrt]"  (fetches the libraries from NVIDIA while it installs)',
    ),
    "TensorRT-RTX": ("tensorrt_rtx", 'pip install "screener[tensorrt-rtx]"'),
}


def _accelerators() -> Iterator[Check]:
    yield _gpu()
    for name, (module, remedy) in OPTIONAL.items():
        try:
            version = getattr(importlib.import_module(module), "__version__", "installed")
        except ImportError as error:  # TensorRT's bindings without its libraries raise ImportError too
            yield Check("optional", name, State.ABSENT, str(error).splitlines()[0][:80], remedy)
        else:
            yield Check("optional", name, State.FINE, str(version))


def _gpu() -> Check:
    remedy = "NVIDIA driver 580 or newer for CUDA 13; screening works without a GPU"
    try:
        from cuda.bindings import runtime
    except ImportError:
        return Check(
            "optional", "NVIDIA GPU", State.ABSENT, "not probed", 'pip install "screener[gpu]" to probe'
        )
    error, count = runtime.cudaGetDeviceCount()
    if int(error) != 0 or not count:
        return Check("optional", "NVIDIA GPU", State.ABSENT, error.name, remedy)
    _, properties = runtime.cudaGetDeviceProperties(0)
    return Check("optional", "NVIDIA GPU", State.FINE, f"{count} x {properties.name.decode()}")
