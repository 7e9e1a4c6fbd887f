"""What a worker process does with one file when a device decodes and draws: read, parse, choose the route.

The worker leaves a codestream, stored values or a finished canvas in the task's slot of shared memory and
answers with a record that says which. A reader may question that the process that parses files is not the
one that holds the device: a parser or codec that crashes must not take the device's context with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from screener.canvas import CANVAS_SIDE, display_transform
from screener.codecs import decode
from screener.decode_worker import EncodedFilm, Progress, answer_tasks, quieten, read_film
from screener.display import DisplayTransform
from screener.records import ArchiveEntry, HeaderFlag, Identity, Instance, Rejection, Source
from screener.routes import HOST, Abilities, Place, Route, choose_route
from screener.settings import RunSettings
from screener.worker_pool import HeaderRead, Task


@dataclass(frozen=True, slots=True)
class DeviceTask(Task):
    """A task that may forbid the device: its second attempt."""

    host_only: bool = False


@dataclass(frozen=True, slots=True)
class DeviceWorkerSettings:
    """What a worker process needs to know."""

    root: str
    slots: tuple[str, ...]
    """Paths of the slots, each a file in memory."""
    abilities: Abilities
    run: RunSettings


@dataclass(frozen=True, slots=True)
class PreparedFilm:
    """A film whose codestream or stored values lie in a slot, ready for the device."""

    entry: ArchiveEntry
    identity: Identity
    instance: Instance
    source_sha256: str
    transform: DisplayTransform
    place: Place
    route: str
    """As the images table will have it, for example `nvimagecodec:jpeg2000` or `host:raw`."""
    dtype: str
    """Of the stored values: uint8, uint16 or int16."""
    size_bytes: int
    """Of what lies in the slot."""
    ceiling: int | None = None
    """Highest stored value, where a lossy codestream may overshoot it."""
    flags: tuple[HeaderFlag, ...] = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns at full size."""
        return self.instance.rows, self.instance.columns


def prepare_files(pipe: Connection, settings: DeviceWorkerSettings) -> None:
    """Main function of a worker process: answer tasks until the pipe closes."""
    quieten()
    answer_tasks(pipe, settings.root, partial(_answer, settings, pipe.send))


def _answer(
    settings: DeviceWorkerSettings, on_header: Callable[[HeaderRead], None], task: Task, path: Path
) -> PreparedFilm | Source | Rejection:
    slot = Path(settings.slots[task.slot])
    host_only = isinstance(task, DeviceTask) and task.host_only

    def finish(film: EncodedFilm, progress: Progress) -> PreparedFilm | Source:
        transform = display_transform(film.parsed.dataset, film.instance)
        route = HOST if host_only else choose_route(film.frame, transform, settings.abilities)
        if route.place is Place.HOST:
            return _draw(film, progress, slot)
        return _hand_over(film, transform, route, slot)

    return read_film(path, task.entry, settings.run, finish, on_header)


def _draw(film: EncodedFilm, progress: Progress, slot: Path) -> Source:
    """Decode and draw on the host, into the slot."""
    canvas = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    source = film.decode(progress, canvas)
    _leave(slot, canvas.data)
    return replace(source, canvas=replace(source.canvas, route=f"host:{source.canvas.route}"))


def _hand_over(film: EncodedFilm, transform: DisplayTransform, route: Route, slot: Path) -> PreparedFilm:
    """Leave the codestream, or the stored values at full size, in the slot."""
    if route.stream is not None:
        content: bytes | memoryview = memoryview(route.stream.payload)
        name, dtype = f"nvimagecodec:{route.stream.coding}", _word_type(route)
        flags: tuple[HeaderFlag, ...] = (HeaderFlag.BITS_STORED_CORRECTED,) if route.bits_corrected else ()
    else:
        picture = decode(film.frame, cover_px=None)
        content = np.ascontiguousarray(picture.pixels).data
        name, dtype, flags = f"host:{picture.route}", str(picture.pixels.dtype), picture.flags
    size_bytes = _leave(slot, content)
    return PreparedFilm(
        film.entry,
        film.parsed.identity,
        film.instance,
        film.frame.source_sha256,
        transform,
        route.place,
        name,
        dtype,
        size_bytes,
        route.ceiling,
        flags,
    )


def _leave(slot: Path, content: bytes | memoryview) -> int:
    """Write a slot whole; its size in bytes."""
    size_bytes = memoryview(content).nbytes
    with slot.open("r+b", buffering=0) as memory:
        os.ftruncate(memory.fileno(), size_bytes)
        memory.write(content)
    return size_bytes


def _word_type(route: Route) -> str:
    assert route.stream is not None
    if route.stream.is_signed:
        return "int16"
    return "uint16" if route.stream.precision > 8 else "uint8"
