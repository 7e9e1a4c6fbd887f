"""Codestreams → stored words in device memory, by nvImageCodec in batches; the only file that imports it.

Without a GPU the same calls decode on the processor into host arrays: that is how continuous integration
runs this file. A reader may question `prove`: a decoder that reports success is not believed until it has
returned a known picture of that kind exactly. nvJPEG before 13.0.2 gave all-zero pixels for 12-bit lossless
JPEG, and what a CPU build decodes differs from a GPU build.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt

from screener.codestreams import read_codestream
from screener.decoders import run_decoder
from screener.routes import StreamKind

# Its own messages go to the terminal, over the progress display; failures are seen in what it returns.
os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")

from nvidia import nvimgcodec as nv

Pixels = npt.NDArray[Any]
DevicePicture = Any
"""(H, W, 1) words: a NumPy array, or an object with `__cuda_array_interface__`."""

CPU_BACKENDS = (nv.BackendKind.CPU_ONLY,)
GPU_BACKENDS = (
    nv.BackendKind.HW_GPU_ONLY,
    nv.BackendKind.GPU_ONLY,
    nv.BackendKind.HYBRID_CPU_GPU,
)
"""Left to itself the library decodes on the processor what the GPU cannot, and says nothing of it."""
_LOSSY_TOLERANCE = 2
"""Grey levels by which two correct inverse cosine transforms of 8 bits may differ."""


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """One codestream and what it must decode to."""

    payload: npt.NDArray[np.uint8]
    rows: int
    columns: int
    dtype: str


class StreamDecoder:
    """Decodes batches of codestreams of one component at native values.

    Args:
        device: index of the GPU, or None for the processor.
        stream: CUDA stream that the pictures are ready on; ignored without a GPU.
    """

    def __init__(self, device: int | None, stream: int = 0) -> None:
        self._is_gpu = device is not None
        self._stream = stream
        number = nv.NVIMGCODEC_DEVICE_CPU_ONLY if device is None else device
        self._decoder = nv.Decoder(
            device_id=number,
            max_num_cpu_threads=0 if self._is_gpu else 1,
            backends=[nv.Backend(kind) for kind in (GPU_BACKENDS if self._is_gpu else CPU_BACKENDS)],
        )
        # Anything but UNCHANGED and any depth would convert: 12 bits to 8, grey to RGB.
        self._parameters = nv.DecodeParams(
            color_spec=nv.ColorSpec.UNCHANGED, allow_any_depth=True, apply_exif_orientation=False
        )

    def decode(self, streams: Sequence[StreamFacts]) -> list[DevicePicture | None]:
        """Decode each codestream to (H, W, 1) words; None where it does not decode to what it must be.

        With a GPU the pictures are ready on the stream, not for the host.
        """
        pictures: list[DevicePicture | None] = [None] * len(streams)
        parsed = [(index, _parse(stream)) for index, stream in enumerate(streams)]
        sound = [(index, code) for index, code in parsed if code is not None]
        if not sound:
            return pictures
        codes = [code for _, code in sound]
        decoded = self._on_gpu(codes) if self._is_gpu else self._on_host(codes)
        for (index, _), picture in zip(sound, decoded, strict=True):
            facts = streams[index]
            if picture is not None and _is_as_declared(picture, facts):
                pictures[index] = picture
        return pictures

    def _on_gpu(self, codes: list[Any]) -> list[DevicePicture | None]:
        decoded: list[Any] = self._decoder.decode(codes, params=self._parameters, cuda_stream=self._stream)
        return decoded

    def _on_host(self, codes: list[Any]) -> list[DevicePicture | None]:
        # Letting it allocate fails without a driver; arrays that are handed in are filled.
        arrays = [np.zeros((code.height, code.width, code.num_channels), code.dtype) for code in codes]
        images = [nv.as_image(array) for array in arrays]
        ended = self._decoder.decode(codes, images=images, params=self._parameters)
        return [array if end is not None else None for array, end in zip(arrays, ended, strict=True)]

    def prove(self) -> frozenset[StreamKind]:
        """Kinds of codestreams that this decoder returns exactly; 8-bit JPEG to within 2 grey levels."""
        return frozenset(kind for kind, encoders in _PROOFS.items() if all(map(self._proves, encoders)))

    def _proves(self, encode: Callable[[], bytes]) -> bool:
        payload = encode()
        stream = read_codestream(payload)
        expected, route = run_decoder(stream, 1)
        rows, columns = expected.shape
        facts = StreamFacts(np.frombuffer(payload, np.uint8), rows, columns, str(expected.dtype))
        (picture,) = self.decode([facts])
        if picture is None:
            return False
        found = to_host(picture)[..., 0].astype(np.int32)
        tolerance = _LOSSY_TOLERANCE if route == "jpeg" else 0
        return int(np.abs(found - expected).max()) <= tolerance


def to_host(picture: DevicePicture) -> Pixels:
    """A copy in host memory, (H, W, 1)."""
    return np.array(picture.cpu() if hasattr(picture, "cpu") else picture)


def _parse(stream: StreamFacts) -> Any | None:  # noqa: ANN401 - the library has no types
    """The parsed codestream, or None if its header is not what the film's header says."""
    try:
        code = nv.CodeStream(stream.payload)
        found = (code.height, code.width, code.num_channels, np.dtype(code.dtype))
    except (RuntimeError, ValueError, TypeError):
        return None
    return code if found == (stream.rows, stream.columns, 1, np.dtype(stream.dtype)) else None


def _is_as_declared(picture: DevicePicture, facts: StreamFacts) -> bool:
    shape = tuple(picture.shape)
    return shape == (facts.rows, facts.columns, 1) and np.dtype(picture.dtype) == np.dtype(facts.dtype)


def _film(bits: int, *, is_signed: bool = False) -> Pixels:
    """A small picture over the whole range: a ramp with grain, which every predictor has work with."""
    random = np.random.default_rng(bits)
    ramp = (
        np.linspace(0, 1, 96, dtype=np.float32)[None, :] * np.linspace(0.5, 1, 80, dtype=np.float32)[:, None]
    )
    levels = np.clip(ramp + 0.02 * random.standard_normal((80, 96)), 0, 1) * (2**bits - 1)
    words = levels.round().astype(np.int32) - (2 ** (bits - 1) if is_signed else 0)
    depth = 8 if bits <= 8 else 16
    film: Pixels = words.astype(f"{'' if is_signed else 'u'}int{depth}")
    return film


def _jpeg() -> bytes:
    return bytes(imagecodecs.jpeg8_encode(_film(8), level=90))


def _lossless(bits: int) -> bytes:
    return bytes(imagecodecs.jpeg8_encode(_film(bits), lossless=True, predictor=1, bitspersample=bits))


def _lossless_tables_first(bits: int) -> bytes:
    """Huffman tables before the start of frame, as some modalities write them."""
    return bytes(imagecodecs.ljpeg_encode(_film(bits), bitspersample=bits))


def _jpeg2000(bits: int, *, is_signed: bool = False) -> bytes:
    film = _film(bits, is_signed=is_signed)
    return bytes(imagecodecs.jpeg2k_encode(film, codecformat="J2K", reversible=True, bitspersample=bits))


def _htj2k(bits: int) -> bytes:
    return bytes(imagecodecs.htj2k_encode(_film(bits), reversible=True))


_PROOFS: dict[StreamKind, tuple[Callable[[], bytes], ...]] = {
    StreamKind.JPEG_8: (_jpeg,),
    StreamKind.LOSSLESS_8: (partial(_lossless, 8),),
    StreamKind.LOSSLESS_16: (
        *(partial(_lossless, bits) for bits in (10, 12, 14, 16)),
        partial(_lossless_tables_first, 12),
    ),
    StreamKind.J2K_8: (partial(_jpeg2000, 8),),
    StreamKind.J2K_16: tuple(partial(_jpeg2000, bits) for bits in (10, 12, 16)),
    StreamKind.J2K_SIGNED: tuple(partial(_jpeg2000, bits, is_signed=True) for bits in (12, 16)),
    StreamKind.HTJ2K_8: (partial(_htj2k, 8),),
    StreamKind.HTJ2K_16: (partial(_htj2k, 12), partial(_htj2k, 16)),
}
