"""Pending files to batches of canvases, decoded by worker processes on the host.

Workers draw straight into frames of shared memory (one frame is one batch), so that no picture is copied
between processes. A slot whose file is rejected is given to the next file: batches are full except the
last. Free slots of the oldest frame go first. When every frame is in use the loader stops handing out
files: that is the back-pressure, and the bound on memory.
"""

from __future__ import annotations

import heapq
import mmap
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from screener.archive import base_folder
from screener.canvas import CANVAS_SIDE
from screener.decode_worker import WorkerSettings, decode_files
from screener.handover import Handover, consume, produce
from screener.records import ArchiveEntry, Batch, Float32, Rejection, Source
from screener.settings import RunSettings
from screener.worker_pool import DecoderPool, Task, WorkerMain

NUM_FRAMES = 4
"""One being filled, one complete, two with the engines."""
SLOT_BYTES = CANVAS_SIDE * CANVAS_SIDE * 4
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Occupancy:
    """Where the canvases are at one moment, which says who waits for whom."""

    free: int
    """To be drawn: many of them while the engines have none means that decoding is the slower side."""
    decoding: int
    """With the workers, waiting in a worker's queue included."""
    drawn: int
    """Finished, in a batch that is not full yet."""
    with_engines: int
    """In batches on their way to the engines or in them."""


class _Frames:
    """Slots of shared memory: which are free, which hold a canvas, which frames are full."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.descriptor = os.memfd_create("screener-canvases")
        num_slots = NUM_FRAMES * batch_size
        os.ftruncate(self.descriptor, num_slots * SLOT_BYTES)
        memory = mmap.mmap(self.descriptor, num_slots * SLOT_BYTES)
        self._canvases: Float32 = np.frombuffer(memory, np.float32).reshape(
            NUM_FRAMES, batch_size, 1, CANVAS_SIDE, CANVAS_SIDE
        )
        self._sources: dict[int, Source] = {}
        self._ages = dict.fromkeys(range(NUM_FRAMES), 0)
        self._free: list[tuple[int, int]] = []
        self._next_age = 0
        for frame in range(NUM_FRAMES):
            self.release(frame)

    def close(self) -> None:
        """Give the memory back once no batch refers to it."""
        os.close(self.descriptor)

    def release(self, frame: int) -> None:
        """Every slot of a frame is free again."""
        self._ages[frame] = self._next_age
        self._next_age += 1
        for slot in self._slots(frame):
            heapq.heappush(self._free, (self._ages[frame], slot))

    def take(self) -> int | None:
        """A free slot of the oldest frame, or None."""
        return heapq.heappop(self._free)[1] if self._free else None

    @property
    def num_free(self) -> int:
        """Slots that no file has been given."""
        return len(self._free)

    @property
    def num_drawn(self) -> int:
        """Slots with a canvas whose frame is not full."""
        return len(self._sources)

    def give_back(self, slot: int) -> None:
        """The file for this slot was rejected."""
        heapq.heappush(self._free, (self._ages[slot // self._batch_size], slot))

    def fill(self, slot: int, source: Source) -> int | None:
        """Note a drawn canvas; the frame's number when that completes it."""
        self._sources[slot] = source
        frame = slot // self._batch_size
        return frame if all(each in self._sources for each in self._slots(frame)) else None

    def batch(self, frame: int) -> Batch:
        """The frame's canvases as a batch; those of a frame that is not full lie at its start."""
        sources = [self._sources.pop(slot) for slot in self._slots(frame) if slot in self._sources]
        return Batch(tuple(sources), self._canvases[frame, : len(sources)])

    def close_ranks(self) -> list[int]:
        """At the end of the archive: move canvases into the holes before them; frames that still hold some.

        Several frames may have holes by then: a file that is rejected late frees a slot for which there is
        no further file.
        """
        held = sorted({slot // self._batch_size for slot in self._sources}, key=self._ages.__getitem__)
        slots = [slot for frame in held for slot in self._slots(frame)]
        filled = [slot for slot in slots if slot in self._sources]
        canvases = self._canvases.reshape(-1, CANVAS_SIDE, CANVAS_SIDE)
        for hole, slot in zip(slots, filled, strict=False):
            if hole != slot:
                canvases[hole] = canvases[slot]
                self._sources[hole] = self._sources.pop(slot)
        return held[: -(-len(filled) // self._batch_size)]

    def _slots(self, frame: int) -> range:
        return range(frame * self._batch_size, (frame + 1) * self._batch_size)


class HostLoader:
    """Decodes entries in worker processes. Use as a context manager; iterate `batches` once.

    Args:
        root: archive root, as `archive.walk` takes it.
        settings: workers, time limit, batch size and size limits.
        stop: once set, no further file is taken; what is being decoded is still delivered.
        worker_main: replaces the worker's main function (tests of crashes and hangs).
    """

    def __init__(
        self,
        root: Path,
        settings: RunSettings,
        stop: threading.Event,
        worker_main: WorkerMain | None = None,
    ) -> None:
        self._frames = _Frames(settings.batch_size)
        self._num_slots = NUM_FRAMES * settings.batch_size
        self._lock = threading.Lock()
        self._frame_of: dict[int, int] = {}
        self._stop = stop
        self._leaving = threading.Event()
        self._released = threading.Event()
        self._out: Handover = queue.Queue(maxsize=4096)
        arguments = WorkerSettings(str(base_folder(root)), self._frames_path(), settings)
        self._pool = DecoderPool(
            settings.num_workers, settings.timeout_s, worker_main or decode_files, (arguments,)
        )
        self._thread: threading.Thread | None = None

    def _frames_path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self._frames.descriptor}"

    def __enter__(self) -> HostLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        while self._thread is not None and self._thread.is_alive():
            try:  # a loader blocked on a full queue must see the stop
                self._out.get(timeout=POLL_S)
            except queue.Empty:
                continue
        self._pool.close()
        self._frames.close()

    def wait_ready(self) -> None:
        """Return once every decoder process has started; before `batches`, by whoever times what follows.

        Raises:
            ScreenerError: decoder processes cannot be started.
        """
        self._pool.wait_ready()

    def batches(
        self, entries: Iterable[ArchiveEntry], on_reject: Callable[[Rejection], None]
    ) -> Iterator[Batch]:
        """Yield batches in the order they fill; `on_reject` is called in the caller's thread.

        Every entry ends in exactly one batch or one rejection. `release` each batch when done with it.

        Raises:
            ScreenerError: decoder processes cannot be started; or whatever `entries` raised.
        """
        dispatch = partial(self._dispatch, iter(entries))
        self._thread = threading.Thread(
            target=produce, args=(self._out, dispatch), name="loader", daemon=True
        )
        self._thread.start()
        yield from consume(self._out, on_reject)

    def release(self, batch: Batch) -> None:
        """The engines are done with this batch: its frame may be drawn over."""
        with self._lock:
            self._frames.release(self._frame_of.pop(id(batch)))
        self._released.set()

    @property
    def occupancy(self) -> Occupancy:
        """Where the canvases are now; for whoever watches from another thread."""
        with self._lock:
            free, drawn = self._frames.num_free, self._frames.num_drawn
        decoding = self._pool.num_waiting
        return Occupancy(free, decoding, drawn, max(0, self._num_slots - free - drawn - decoding))

    def _dispatch(self, entries: Iterator[ArchiveEntry]) -> None:
        is_more = True
        while is_more or self._pool.num_waiting:
            if self._leaving.is_set():
                return
            self._released.clear()
            while is_more and not self._is_stopping and self._pool.num_free:
                slot = self._take()
                if slot is None:
                    break
                is_more = self._send(next(entries, None), slot)
            is_more = is_more and not self._is_stopping
            if is_more and not self._pool.num_waiting:  # every frame is with the engines
                self._released.wait(POLL_S)
            for done in self._pool.collect(POLL_S if self._pool.num_waiting else 0):
                self._receive(done.task, done.outcome)
        with self._lock:
            frames = self._frames.close_ranks()
        for frame in frames:
            self._emit(frame)

    @property
    def _is_stopping(self) -> bool:
        return self._stop.is_set() or self._leaving.is_set()

    def _take(self) -> int | None:
        with self._lock:
            return self._frames.take()

    def _send(self, entry: ArchiveEntry | None, slot: int) -> bool:
        """Hand one entry on; False at the end of the archive."""
        if entry is not None and entry.reason is None:
            self._pool.submit(Task(entry, slot))
            return True
        with self._lock:
            self._frames.give_back(slot)
        if entry is not None and entry.reason is not None:
            self._out.put(Rejection(entry, entry.reason, step="archive"))
        return entry is not None

    def _receive(self, task: Task, outcome: Source | Rejection) -> None:
        if isinstance(outcome, Rejection):
            with self._lock:
                self._frames.give_back(task.slot)
            self._out.put(outcome)
            return
        with self._lock:
            frame = self._frames.fill(task.slot, outcome)
        if frame is not None:
            self._emit(frame)

    def _emit(self, frame: int) -> None:
        with self._lock:
            batch = self._frames.batch(frame)
            self._frame_of[id(batch)] = frame
        self._out.put(batch)
