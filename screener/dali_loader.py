"""Pending files to batches of canvases, decoded and painted on a GPU: the same contract as `HostLoader`.

Workers read, parse and choose the route; lanes decode and paint whole batches; this module moves films
between the two. What the device cannot do is sent back to the workers once, for the host's own route, which
ends in a canvas or in a typed rejection: one bad sample costs one sample. A reader may question that a batch
can be short by what failed in it: waiting to fill it up would hold a frame of the device idle.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from engines.errors import EngineError
from screener.archive import base_folder
from screener.canvas import CANVAS_SIDE
from screener.dali_lane import Drawn, Lane, SlottedFilm
from screener.dali_worker import DeviceTask, DeviceWorkerSettings, PreparedFilm, prepare_files
from screener.errors import DeviceError
from screener.handover import Handover, consume, produce
from screener.records import ArchiveEntry, Batch, Float32, Rejection, Source
from screener.routes import Abilities, StreamKind
from screener.settings import RunSettings
from screener.slots import Slots
from screener.worker_pool import DecoderPool, Task, WorkerMain

NUM_LANES = 2
"""Batches decoded and painted at the same time."""
NUM_FRAMES = 2 * NUM_LANES
"""Frames of canvases: those being painted, and as many with the engines."""
POLL_S = 0.02

Result = TypeVar("Result")


class DaliLoader:
    """Decodes entries on a GPU. Use as a context manager; iterate `batches` once.

    Args:
        root: archive root, as `archive.walk` takes it.
        settings: workers, time limit, batch size, size limits and the device memory that films may take.
        stop: once set, no further file is taken; what is under way is still delivered.
        gpu_index: which GPU; None decodes and paints on the processor with the same code.
        worker_main: replaces the worker's main function (tests of crashes and hangs).

    Raises:
        DeviceError: the GPU or its libraries fail at the start, or paint differently from the host.
        ScreenerError: workers cannot start.
    """

    def __init__(
        self,
        root: Path,
        settings: RunSettings,
        stop: threading.Event,
        *,
        gpu_index: int | None = 0,
        worker_main: WorkerMain | None = None,
    ) -> None:
        self._batch_size = settings.batch_size
        self._slots = Slots((NUM_LANES + 1) * settings.batch_size + NUM_LANES)
        memory_bytes = int(settings.gpu_memory_mb * 1e6 / NUM_LANES)
        self._lanes: queue.SimpleQueue[Lane] = queue.SimpleQueue()
        try:
            abilities = Abilities(self._open_lanes(gpu_index, memory_bytes), memory_bytes)
        except BaseException:
            self._close_lanes()
            self._slots.close()
            raise
        shape = (settings.batch_size, 1, CANVAS_SIDE, CANVAS_SIDE)
        self._frames: list[Float32] = [np.empty(shape, np.float32) for _ in range(NUM_FRAMES)]
        self._free_frames = list(range(NUM_FRAMES))
        self._frame_of: dict[int, int] = {}
        self._lock = threading.Lock()
        self._stop = stop
        self._leaving = threading.Event()
        self._ready: deque[SlottedFilm] = deque()
        self._retries: deque[SlottedFilm] = deque()
        self._drawing: deque[tuple[Future[Drawn], int, list[SlottedFilm]]] = deque()
        self._out: Handover = queue.Queue(maxsize=4096)
        worker_settings = DeviceWorkerSettings(str(base_folder(root)), self._slots.paths, abilities, settings)
        self._pool = DecoderPool(
            settings.num_workers, settings.timeout_s, worker_main or prepare_files, (worker_settings,)
        )
        self._executor = ThreadPoolExecutor(NUM_LANES, thread_name_prefix="lane")
        self._thread: threading.Thread | None = None

    def __enter__(self) -> DaliLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        while self._thread is not None and self._thread.is_alive():
            try:  # a loader blocked on a full queue must see the stop
                self._out.get(timeout=POLL_S)
            except queue.Empty:
                continue
        self._pool.close()
        self._executor.shutdown(cancel_futures=True)
        self._close_lanes()
        self._slots.close()

    def batches(
        self, entries: Iterable[ArchiveEntry], on_reject: Callable[[Rejection], None]
    ) -> Iterator[Batch]:
        """Yield batches as they are painted; `on_reject` is called in the caller's thread.

        Every entry ends in exactly one batch or one rejection. `release` each batch when done with it.

        Raises:
            ScreenerError: workers cannot start, or the device keeps failing; or whatever `entries` raised.
        """
        dispatch = partial(self._dispatch, iter(entries))
        self._thread = threading.Thread(
            target=produce, args=(self._out, dispatch), name="loader", daemon=True
        )
        self._thread.start()
        yield from consume(self._out, on_reject)

    def release(self, batch: Batch) -> None:
        """The engines are done with this batch: its frame may be painted over."""
        with self._lock:
            self._free_frames.append(self._frame_of.pop(id(batch)))

    def _dispatch(self, entries: Iterator[ArchiveEntry]) -> None:
        is_more = True
        while is_more or self._pool.num_waiting or self._retries or self._ready or self._drawing:
            if self._leaving.is_set():
                return
            while self._retries and self._pool.num_free:
                retry = self._retries.popleft()
                self._pool.submit(DeviceTask(retry.film.entry, retry.slot, host_only=True))
            while is_more and not self._stop.is_set() and self._pool.num_free and self._slots.num_free:
                is_more = self._send(next(entries, None))
            is_more = is_more and not self._stop.is_set()
            for done in self._pool.collect(POLL_S):
                self._receive(done.task, done.outcome)
            is_last = not (is_more or self._pool.num_waiting or self._retries)
            self._start_drawing(is_last=is_last)
            self._deliver()

    def _send(self, entry: ArchiveEntry | None) -> bool:
        """Hand one entry on; False at the end of the archive."""
        if entry is None:
            return False
        if entry.reason is not None:
            self._out.put(Rejection(entry, entry.reason, step="archive"))
        else:
            self._pool.submit(DeviceTask(entry, self._slots.take()))
        return True

    def _receive(self, task: Task, outcome: object) -> None:
        if isinstance(outcome, Rejection):
            self._slots.release(task.slot)
            self._out.put(outcome)
        else:
            assert isinstance(outcome, PreparedFilm | Source)
            self._ready.append(SlottedFilm(outcome, task.slot))

    def _start_drawing(self, *, is_last: bool) -> None:
        """Give full batches, at the end what there is, to lanes that are free."""
        while len(self._ready) >= self._batch_size or (is_last and self._ready):
            with self._lock:
                if len(self._drawing) >= NUM_LANES or not self._free_frames:
                    return
                frame = self._free_frames.pop()
            films = [self._ready.popleft() for _ in range(min(self._batch_size, len(self._ready)))]
            future = self._executor.submit(self._draw, films, self._frames[frame])
            self._drawing.append((future, frame, films))

    def _draw(self, films: list[SlottedFilm], frame: Float32) -> Drawn:
        return self._with_lane(lambda lane: lane.draw(films, frame))

    def _open_lanes(self, gpu_index: int | None, memory_bytes: int) -> frozenset[StreamKind]:
        """Fill the queue of lanes; returns what they have proven to decode."""
        try:
            for _ in range(NUM_LANES):
                self._lanes.put(Lane(gpu_index, self._batch_size, memory_bytes, self._slots))
            return self._with_lane(lambda lane: lane.prove())
        except (RuntimeError, MemoryError, EngineError) as error:  # of nvImageCodec, DALI and CUDA
            cause = (str(error).splitlines() or [type(error).__name__])[0]
            raise DeviceError(f"the GPU cannot decode films ({cause}); use --device cpu") from error

    def _close_lanes(self) -> None:
        while not self._lanes.empty():
            self._lanes.get().close()

    def _with_lane(self, use: Callable[[Lane], Result]) -> Result:
        lane = self._lanes.get()
        try:
            return use(lane)
        finally:
            self._lanes.put(lane)

    def _deliver(self) -> None:
        """Batches that are painted, in the order they were started; what failed goes back to the workers."""
        while self._drawing and self._drawing[0][0].done():
            future, frame, films = self._drawing.popleft()
            drawn = future.result()
            failed = {each.slot for each in drawn.failed}
            for each in films:
                if each.slot not in failed:
                    self._slots.release(each.slot)
            self._retries += drawn.failed
            if not drawn.sources:
                with self._lock:
                    self._free_frames.append(frame)
                continue
            batch = Batch(tuple(drawn.sources), self._frames[frame][: len(drawn.sources)])
            with self._lock:
                self._frame_of[id(batch)] = frame
            self._out.put(batch)
