"""Decoded pictures on a device → canvases, by two DALI pipelines; the only file that imports DALI.

The first takes every so many rows and columns, from which the host finds borders; the second crops, halves
by 2 × 2 means, takes area means, applies window and polarity and lays the result on the canvas. A reader may
question why `resize` is only used to pick pixels: none of DALI's filters is an area mean; the closest is five
times over the tolerance on a film. Picking the two or three source pixels under each output pixel and adding
them with OpenCV's weights, in its order and with its rounding, gives the host's own canvas. DALI never
decodes here: one bad sample fails its whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from nvidia import dali
from nvidia.dali import fn, math, types

from engines.cuda_runtime import CudaRuntime
from screener.canvas import CANVAS_SIDE
from screener.codecs import MOST_HALVINGS
from screener.display import DisplayTransform
from screener.letterbox import Placement
from screener.nvimagecodec import DevicePicture
from screener.paint_arguments import (
    NUM_TAPS,
    Arrays,
    geometry_arguments,
    grey_arguments,
    sampling_arguments,
)
from screener.records import Float32

Node = Any
"""A node of DALI's graph."""

_ROUNDER = np.float32(1.5 * 2**23)
"""Added and taken away, it leaves a float32 rounded to the nearest integer, halves to even: OpenCV's way."""
_TURNED = [1, 0, 2]


@dataclass(frozen=True, slots=True)
class Device:
    """Where pipelines run."""

    runtime: CudaRuntime | None = None
    """None for the processor."""
    stream: int = 0

    @property
    def index(self) -> int | None:
        """DALI's device id."""
        return None if self.runtime is None else self.runtime.device

    def to_host(self, tensor: Any) -> npt.NDArray[Any]:  # noqa: ANN401 - DALI has no types
        """A dense tensor of a pipeline's output in host memory; waits for this stream only."""
        if self.runtime is None:
            return np.array(tensor)
        array = np.empty(tuple(tensor.shape()), np.dtype(types.to_numpy_type(tensor.dtype)))
        self.runtime.copy_to_host(array, tensor.data_ptr(), self.stream)
        self.runtime.synchronize(self.stream)
        return array


class PicturePainter:
    """The two pipelines for pictures of one type of words.

    Args:
        device: where they run.
        dtype: uint8, uint16 or int16.
        batch_size: most pictures of a call.
        on_host: the pictures lie in host memory and are uploaded.
    """

    def __init__(self, device: Device, dtype: str, batch_size: int, *, on_host: bool) -> None:
        self._device = device
        self._dtype = np.dtype(dtype)
        self._on_gpu = device.runtime is not None
        self._source = "gpu" if self._on_gpu and not on_host else "cpu"
        self._sampling = self._pipeline(batch_size, self._sampling_graph)
        self._painting = self._pipeline(batch_size, self._painting_graph)

    def sample(self, pictures: Sequence[DevicePicture]) -> list[npt.NDArray[Any]]:
        """Every so many rows and columns of each picture (`borders.sampling_steps`), in host memory."""
        arguments = [sampling_arguments(*picture.shape[:2]) for picture in pictures]
        (samples,) = self._run(self._sampling, pictures, arguments)
        return [self._device.to_host(samples[index])[:, 0, :, 0] for index in range(len(pictures))]

    def paint(
        self,
        pictures: Sequence[DevicePicture],
        placements: Sequence[Placement],
        transforms: Sequence[DisplayTransform],
        ceilings: Sequence[int | None],
    ) -> Painted:
        """Draw each picture with its header's window.

        Args:
            pictures: (H, W, 1) each.
            placements: where each lies on its canvas; `can_paint` holds.
            transforms: display transforms without padding; those that `has_plain_window` denies get a canvas
                that means nothing, and have to be painted from their stored values.
            ceilings: highest stored value of each, or None.
        """
        highest = int(np.iinfo(self._dtype).max)
        arguments = [
            {
                **geometry_arguments(place),
                **grey_arguments(transform),
                "ceiling": np.array(highest if ceiling is None else ceiling, self._dtype),
            }
            for place, transform, ceiling in zip(placements, transforms, ceilings, strict=True)
        ]
        canvases, stored = self._run(self._painting, pictures, arguments)
        return Painted(self._device, canvases, stored)

    def _pipeline(self, batch_size: int, graph: Any) -> dali.Pipeline:  # noqa: ANN401 - a bound method
        pipeline = dali.Pipeline(
            batch_size=batch_size, num_threads=1, device_id=self._device.index, prefetch_queue_depth=1
        )
        with pipeline:
            pipeline.set_outputs(*graph(self._pictures()))
        pipeline.build()
        return pipeline

    def _pictures(self) -> Node:
        pictures = fn.external_source(name="pictures", ndim=3, layout="HWC", device=self._source)
        return pictures.gpu() if self._on_gpu and self._source == "cpu" else pictures

    def _run(
        self, pipeline: dali.Pipeline, pictures: Sequence[DevicePicture], arguments: Sequence[Arrays]
    ) -> tuple[Any, ...]:
        stream = self._device.stream if self._on_gpu else None
        pipeline.feed_input("pictures", list(pictures), cuda_stream=stream if self._source == "gpu" else None)
        for name in arguments[0]:
            pipeline.feed_input(name, [each[name] for each in arguments])
        outputs: tuple[Any, ...] = pipeline.run(stream)
        return outputs

    def _sampling_graph(self, pictures: Node) -> tuple[Node, ...]:
        whole = _cut(pictures, start=[0, 0], shape=_input("whole"))
        blocks = fn.reshape(whole, shape=_input("blocks"), layout="")
        return (fn.slice(blocks, start=[0, 0], shape=[1, 1], axes=[1, 3]),)

    def _painting_graph(self, pictures: Node) -> tuple[Node, ...]:
        drawn = _cut(pictures, start=_input("crop_start"), shape=_input("crop_shape"))
        drawn = math.min(drawn, _input("ceiling", 0))
        for level in range(MOST_HALVINGS):
            blocks = fn.reshape(drawn, shape=_input(f"blocks_{level}"), layout="")
            total = fn.reductions.sum(blocks, axes=[1, 3], dtype=types.FLOAT)
            drawn = math.floor(total * _input(f"share_{level}", 0) + np.float32(0.5))
        drawn = fn.reshape(drawn, shape=_input("halved"), layout="HWC")
        # Only ever along a row: `resize` finds rows by adding up steps and is off by one after some 400.
        turned = fn.transpose(_area_means(drawn, "column"), perm=_TURNED, transpose_layout=False)
        drawn = fn.transpose(_area_means(turned, "row"), perm=_TURNED, transpose_layout=False)
        stored = (drawn + _ROUNDER) - _ROUNDER
        values = stored * _input("slope", 0) + _input("intercept", 0)
        position = (values - _input("origin", 0)) * _input("rate", 0)
        sigmoid = 1 / (1 + math.exp(math.clamp(position, -80, 80)))
        ramp = math.clamp(position, 0, 1)
        grey = ramp * _input("is_ramp", 0) + sigmoid * _input("is_sigmoid", 0)
        grey = grey * _input("sign", 0) + _input("offset", 0)
        canvas = _cut(grey, start=_input("corner"), shape=[CANVAS_SIDE, CANVAS_SIDE])
        return canvas, stored


@dataclass(frozen=True, slots=True)
class Painted:
    """Canvases and stored values of one call, where the pipeline left them."""

    device: Device
    canvases: Any
    """List of (768, 768, 1) float32."""
    stored: Any
    """List of (h, w, 1) float32."""

    def canvas_array(self) -> Float32:
        """All canvases (N, 768, 768) in host memory."""
        canvases: Float32 = self.device.to_host(self.canvases.as_tensor())[..., 0]
        return canvases

    def stored_values(self, index: int) -> Float32:
        """One film's stored values at canvas scale (h, w) in host memory."""
        stored: Float32 = self.device.to_host(self.stored[index])[..., 0]
        return stored


def _input(name: str, ndim: int = 1) -> Node:
    return fn.external_source(name=name, ndim=ndim)


def _cut(picture: Node, *, start: Node | list[int], shape: Node | list[int]) -> Node:
    """Rows and columns of a picture; what lies outside it is 0."""
    return fn.slice(
        picture, start=start, shape=shape, axes=[0, 1], out_of_bounds_policy="pad", fill_values=[0.0]
    )


def _area_means(picture: Node, axis: str) -> Node:
    """Weighted sum of the pixels under each output pixel, along the second axis."""
    total, size = None, _input(f"{axis}_size")
    # `resize` reads beyond the picture where a region does.
    padded = _cut(picture, start=[0, -1], shape=_input(f"{axis}_padded"))
    for tap in range(NUM_TAPS):
        picked = fn.resize(
            padded,
            size=size,
            roi_start=_input(f"{axis}_start_{tap}"),
            roi_end=_input(f"{axis}_end_{tap}"),
            interp_type=types.INTERP_NN,
        )
        weights = _input(f"{axis}_weight_{tap}", 3)
        term = picked * (weights.gpu() if picture.device == "gpu" else weights)
        total = term if total is None else total + term
    return total
