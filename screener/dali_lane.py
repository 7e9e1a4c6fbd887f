"""Prepared films → canvases on one CUDA stream: decode, look at a sample, place, paint, check.

A lane owns a decoder, its pipelines and a stream; two lanes keep two batches under way, so that the device
decodes one while the host parses and checks another. A reader may question why the canvases come back to the
host: the batch's contract is a host array, its hash and polarity are worked out there, and 2.4 MB of canvas
are a sixth of the film that the device made it from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engines.cuda_runtime import CudaRuntime
from screener.borders import inside_borders, inside_sampled_borders, sampling_steps
from screener.canvas import CANVAS_SIDE, Decoded, check_canvas, draw_canvas, paint_canvas
from screener.codecs import Picture
from screener.dali_painting import Device, Painted, PicturePainter
from screener.dali_worker import PreparedFilm
from screener.display import DisplayTransform, Window
from screener.errors import DecodeError, DeviceError
from screener.letterbox import Drawing, Placement, place_picture
from screener.nvimagecodec import DevicePicture, StreamDecoder, StreamFacts
from screener.paint_arguments import can_paint, has_plain_window
from screener.records import CanvasFacts, Float32, Source
from screener.routes import DEVICE_BYTES_PER_PIXEL, Place, StreamKind
from screener.slots import Slots

CANVAS_TOLERANCE = 2e-3
"""Most that a canvas painted on a device may differ from the host's."""
_MOST_FAILURES = 3
"""Device errors in a row after which the run ends rather than crawl on without the device."""


@dataclass(frozen=True, slots=True)
class SlottedFilm:
    """What a worker answered, and the slot in which it left the rest."""

    film: PreparedFilm | Source
    slot: int


@dataclass(slots=True)
class Drawn:
    """How a group of films ended."""

    sources: list[Source] = field(default_factory=list)
    """Films on the first canvases of the frame, in this order."""
    failed: list[SlottedFilm] = field(default_factory=list)
    """Films that the device could not do; they go to the host."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A decoded film that can be painted."""

    slotted: SlottedFilm
    film: PreparedFilm
    picture: DevicePicture
    place: Placement


class Lane:
    """One stream of a device.

    Args:
        gpu_index: which GPU, or None for the processor.
        batch_size: most films of a call.
        memory_bytes: most device memory that the pictures of a call may take.
        slots: where the films lie.
    """

    def __init__(self, gpu_index: int | None, batch_size: int, memory_bytes: int, slots: Slots) -> None:
        self._runtime = None if gpu_index is None else CudaRuntime(gpu_index)
        self._painters: dict[tuple[str, bool], PicturePainter] = {}
        self._stream = self._runtime.create_stream() if self._runtime else 0
        self._device = Device(self._runtime, self._stream)
        try:
            self._decoder = StreamDecoder(gpu_index, self._stream)
        except BaseException:
            self.close()
            raise
        self._batch_size = batch_size
        self._memory_bytes = memory_bytes
        self._slots = slots
        self._num_failures = 0

    def close(self) -> None:
        """Give back the stream; pipelines and decoder go with the object."""
        self._painters.clear()
        if self._runtime is not None:
            self._runtime.destroy_stream(self._stream)

    def prove(self) -> frozenset[StreamKind]:
        """Kinds of codestreams to be decoded here, once a known film has been painted right.

        Raises:
            DeviceError: the device paints differently from the host.
        """
        rows, columns = 1000, 900
        random = np.random.default_rng(0)
        ramp = np.linspace(200, 3800, columns)[None, :] + random.normal(0, 60, (rows, columns))
        film = np.clip(ramp, 0, 4095).astype(np.uint16)
        place = place_picture(inside_borders(film), 1, rows, columns)
        transform = DisplayTransform(window=Window(2048, 4096))
        painted = self._painter("uint16", on_host=True).paint([film[..., None]], [place], [transform], [None])
        expected = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
        draw_canvas(Picture(film, 1, "raw"), transform, rows, columns, expected, check_polarity=False)
        worst = float(np.abs(painted.canvas_array()[0] - expected).max())
        if worst > CANVAS_TOLERANCE:
            raise DeviceError(
                f"canvases painted on the device differ from the host's by up to {worst:.3g}, at most"
                f" {CANVAS_TOLERANCE} is accepted; use --device cpu and report this"
            )
        return self._decoder.prove()

    def draw(self, films: Sequence[SlottedFilm], frame: Float32) -> Drawn:
        """Draw films on the canvases (N, 1, 768, 768) of a frame, from the first on.

        Raises:
            DeviceError: the device fails again and again.
        """
        if self._runtime is not None:
            self._runtime.activate()
        drawn = Drawn()
        groups: dict[tuple[str, bool], list[SlottedFilm]] = defaultdict(list)
        for slotted in films:
            film = slotted.film
            if isinstance(film, Source):
                canvas = self._slots.read(slotted.slot, CANVAS_SIDE * CANVAS_SIDE * 4).view(np.float32)
                frame[len(drawn.sources), 0] = canvas.reshape(CANVAS_SIDE, CANVAS_SIDE)
                drawn.sources.append(film)
            else:
                groups[film.dtype, film.place is Place.UPLOAD].append(slotted)
        for (dtype, on_host), group in groups.items():
            for chunk in self._within_memory(group):
                self._draw_alike(chunk, dtype, on_host=on_host, frame=frame, drawn=drawn)
        return drawn

    def _within_memory(self, films: list[SlottedFilm]) -> Iterator[list[SlottedFilm]]:
        chunk: list[SlottedFilm] = []
        used = 0
        for slotted in films:
            rows, columns = _prepared(slotted).shape
            needed = rows * columns * DEVICE_BYTES_PER_PIXEL
            if chunk and used + needed > self._memory_bytes:
                yield chunk
                chunk, used = [], 0
            chunk.append(slotted)
            used += needed
        yield chunk

    def _draw_alike(
        self, films: list[SlottedFilm], dtype: str, *, on_host: bool, frame: Float32, drawn: Drawn
    ) -> None:
        """Draw films whose words have one type and lie on one side."""
        num_before = len(drawn.sources)
        try:
            placed = self._placed(films, dtype, on_host=on_host, drawn=drawn)
            if placed:
                painted = self._painter(dtype, on_host=on_host).paint(
                    [each.picture for each in placed],
                    [each.place for each in placed],
                    [each.film.transform for each in placed],
                    [each.film.ceiling for each in placed],
                )
                self._finish(placed, painted, frame, drawn)
        except RuntimeError as error:  # of the libraries, which do not say which sample it was
            self._painters.pop((dtype, on_host), None)
            self._num_failures += 1
            if self._num_failures >= _MOST_FAILURES:
                detail = f"the device failed {_MOST_FAILURES} times in a row ({type(error).__name__})"
                raise DeviceError(f"{detail}; use --device cpu") from error
            del drawn.sources[num_before:]
            known = {id(each) for each in drawn.failed}
            drawn.failed += [each for each in films if id(each) not in known]
        else:
            self._num_failures = 0

    def _placed(self, films: list[SlottedFilm], dtype: str, *, on_host: bool, drawn: Drawn) -> list[_Placed]:
        """Decode, and find where each film comes to lie; what cannot be painted is noted as failed."""
        pictures = self._uploads(films) if on_host else self._decode(films)
        there = [
            (film, picture) for film, picture in zip(films, pictures, strict=True) if picture is not None
        ]
        samples = self._samples([picture for _, picture in there], dtype, on_host=on_host)
        placed = []
        for (slotted, picture), sample in zip(there, samples, strict=True):
            film = _prepared(slotted)
            place = place_picture(inside_sampled_borders(sample, *film.shape), 1, *film.shape)
            if _is_believable(sample, film.ceiling) and can_paint(place):
                placed.append(_Placed(slotted, film, picture, place))
        good = {id(each.slotted) for each in placed}
        drawn.failed += [each for each in films if id(each) not in good]
        return placed

    def _samples(
        self, pictures: list[DevicePicture], dtype: str, *, on_host: bool
    ) -> list[npt.NDArray[np.generic]]:
        if not pictures:
            return []
        if not on_host:
            return self._painter(dtype, on_host=False).sample(pictures)
        steps = [sampling_steps(*picture.shape[:2]) for picture in pictures]
        return [
            picture[::rows, ::columns, 0] for picture, (rows, columns) in zip(pictures, steps, strict=True)
        ]

    def _uploads(self, films: list[SlottedFilm]) -> list[DevicePicture]:
        return [
            self._slots.read(each.slot, _prepared(each).size_bytes)
            .view(_prepared(each).dtype)
            .reshape(*_prepared(each).shape, 1)
            for each in films
        ]

    def _decode(self, films: list[SlottedFilm]) -> list[DevicePicture | None]:
        streams = [
            StreamFacts(
                self._slots.read(each.slot, _prepared(each).size_bytes),
                *_prepared(each).shape,
                _prepared(each).dtype,
            )
            for each in films
        ]
        return self._decoder.decode(streams)

    def _finish(self, placed: list[_Placed], painted: Painted, frame: Float32, drawn: Drawn) -> None:
        """Canvases to the frame, with what is to be known of each."""
        canvases = painted.canvas_array()
        for index, each in enumerate(placed):
            out = frame[len(drawn.sources), 0]
            out[:] = canvases[index]
            try:
                facts = _facts(each, painted, index, out)
            except DecodeError:
                drawn.failed.append(each.slotted)  # the host decides, and names the reason
                continue
            film = each.film
            drawn.sources.append(Source(film.entry, film.identity, film.instance, facts, film.source_sha256))

    def _painter(self, dtype: str, *, on_host: bool) -> PicturePainter:
        key = (dtype, on_host)
        if key not in self._painters:
            self._painters[key] = PicturePainter(self._device, dtype, self._batch_size, on_host=on_host)
        return self._painters[key]


def _prepared(slotted: SlottedFilm) -> PreparedFilm:
    assert isinstance(slotted.film, PreparedFilm)
    return slotted.film


def _is_believable(sample: npt.NDArray[np.generic], ceiling: int | None) -> bool:
    """Not a single value, which is how some decoders fail; none above Bits Stored, which is for the host."""
    low, high = int(sample.min()), int(sample.max())
    return low < high and (ceiling is None or high <= ceiling)


def _facts(placed: _Placed, painted: Painted, index: int, out: Float32) -> CanvasFacts:
    """Facts of a canvas; one without a usable plain window is painted from its stored values."""
    film, place = placed.film, placed.place
    decoded = Decoded(1, film.route, film.flags)
    if has_plain_window(film.transform):
        facts = check_canvas(out, place, decoded)
        if facts is not None:
            return facts
    stored = painted.stored_values(index)
    drawing = Drawing(stored, None, place.letterbox, place.top, place.left, place.cropped)
    return paint_canvas(drawing, film.transform, decoded, out)
