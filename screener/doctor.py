"""What this installation can do: versions, processor, codecs, engines; what is missing and how to get it.

Codecs are tried, not looked up: each decodes a small picture as it would a film, and must return it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import psutil

from screener import __version__
from screener.settings import available_cores
from screener.transfer_syntax import RLE


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


@dataclass(frozen=True, slots=True)
class _Trial:
    """A small picture, encoded by `imagecodecs` and decoded as a film of an archive is."""

    transfer_syntax: str
    encode: str
    """Function of `imagecodecs`."""
    options: Mapping[str, object] = field(default_factory=dict)
    bits: int = 12
    tolerance: int = 0
    """Largest difference of a value; 0 for lossless codings."""
    halved: bool = False
    """Decode at half size, which takes other routines."""

    def run(self) -> bool:
        """Whether the picture comes back."""
        from screener.codecs import decode
        from screener.frame import EncodedFrame

        ramp = (np.add.outer(np.arange(64), np.arange(48)) << self.bits - 8).astype(np.uint16)
        sent = ramp.astype(np.uint8) if self.bits == 8 else ramp
        payload = self._encoded(sent)
        rows, columns = sent.shape
        frame = EncodedFrame(
            self.transfer_syntax,
            payload,
            rows,
            columns,
            8 * sent.itemsize,
            self.bits,
            self.bits - 1,
            False,
            "",
        )
        came = decode(frame, cover_px=rows / 2 if self.halved else None)
        if self.halved:
            return came.reduction == 2 and came.pixels.shape == (rows // 2, columns // 2)
        return int(np.abs(came.pixels.astype(int) - sent).max()) <= self.tolerance

    def _encoded(self, sent: npt.NDArray[np.generic]) -> bytes:
        import imagecodecs

        encoded = bytes(getattr(imagecodecs, self.encode)(sent, **self.options))
        if self.transfer_syntax != RLE:
            return encoded
        return struct.pack("<16L", 1, 64, *[0] * 14) + encoded  # one segment, right after the header


_JPEG_LOSSLESS = "1.2.840.10008.1.2.4.70"
_JPEG_2000 = "1.2.840.10008.1.2.4.90"
CODECS: dict[str, _Trial] = {
    "RLE": _Trial(RLE, "packbits_encode", bits=8),
    "JPEG baseline": _Trial("1.2.840.10008.1.2.4.50", "jpeg8_encode", {"level": 98}, bits=8, tolerance=3),
    "JPEG baseline, reduced": _Trial("1.2.840.10008.1.2.4.50", "jpeg8_encode", bits=8, halved=True),
    "JPEG extended, 12 bits": _Trial(
        "1.2.840.10008.1.2.4.51", "jpeg8_encode", {"level": 98, "bitspersample": 12}, tolerance=24
    ),
    "JPEG lossless": _Trial(
        _JPEG_LOSSLESS, "jpeg8_encode", {"lossless": True, "predictor": 1, "bitspersample": 12}
    ),
    "JPEG-LS": _Trial("1.2.840.10008.1.2.4.80", "jpegls_encode"),
    "JPEG 2000": _Trial(_JPEG_2000, "jpeg2k_encode", {"level": 0, "reversible": True}),
    "JPEG 2000, reduced": _Trial(_JPEG_2000, "jpeg2k_encode", {"level": 0, "reversible": True}, halved=True),
    "HTJ2K": _Trial("1.2.840.10008.1.2.4.201", "htj2k_encode", {"reversible": True}),
}
"""What differs in library or routine, from JPEG's two bit depths to decoding at reduced size."""


def _codecs() -> Iterator[Check]:
    for name, trial in CODECS.items():
        try:
            returned = trial.run()
        except Exception as error:  # any failure of a codec is the finding
            found, remedy = f"{type(error).__name__}: {error}", "pip install -U imagecodecs pillow"
            yield Check("codec", name, State.BROKEN, found, remedy)
            continue
        fine = "within its loss" if trial.tolerance else "at half size" if trial.halved else "exactly"
        state = State.FINE if returned else State.BROKEN
        yield Check("codec", name, state, f"decodes {fine}" if returned else "decodes wrongly")


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
    yield Check("bundle", "default", State.FINE, f"{bundle.title}, hashes verified")


OPTIONAL = {
    "torch": ("torch", 'pip install ".[train]"'),
    "DALI": ("nvidia.dali", 'pip install ".[gpu]"'),
    "nvImageCodec": ("nvidia.nvimgcodec", 'pip install ".[gpu]"'),
    "TensorRT": (
        "tensorrt",
        'pip install ".[tensorrt]"  (fetches the libraries from NVIDIA while it installs)',
    ),
    "TensorRT-RTX": ("tensorrt_rtx", 'pip install ".[tensorrt-rtx]"'),
}


def _accelerators() -> Iterator[Check]:
    yield _gpu()
    for name, (module, remedy) in OPTIONAL.items():
        try:
            version = getattr(importlib.import_module(module), "__version__", "installed")
        except Exception as error:  # bindings without their libraries raise what they like
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            yield Check("optional", name, State.ABSENT, cause[:80], remedy)
        else:
            yield Check("optional", name, State.FINE, str(version))


def _gpu() -> Check:
    remedy = "NVIDIA driver 580 or newer for CUDA 13; screening works without a GPU"
    try:
        from cuda.bindings import runtime
    except ImportError:
        return Check("optional", "NVIDIA GPU", State.ABSENT, "not probed", 'pip install ".[gpu]" to probe')
    try:
        error, count = runtime.cudaGetDeviceCount()
    except RuntimeError as failure:  # the bindings are there, the CUDA runtime is not
        return Check("optional", "NVIDIA GPU", State.ABSENT, str(failure).splitlines()[0][:80], remedy)
    if int(error) != 0 or not count:
        return Check("optional", "NVIDIA GPU", State.ABSENT, error.name, remedy)
    _, properties = runtime.cudaGetDeviceProperties(0)
    return Check("optional", "NVIDIA GPU", State.FINE, f"{count} x {properties.name.decode()}")
