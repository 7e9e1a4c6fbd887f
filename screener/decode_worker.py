"""What a decoder process does with one file: header, eligibility, pixels, canvas.

This is the one place where a `DecodeError` becomes a `Rejection`. The same function serves `inspect` and
the training sets, in the caller's own process.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from screener.canvas import CANVAS_SIDE, decode_for_canvas, draw_canvas
from screener.codecs import Picture
from screener.display import DisplayTransform, coarsest_step, display_transform
from screener.eligibility import check_eligible
from screener.errors import DecodeError, Reason
from screener.frame import EncodedFrame, read_frame
from screener.header import ParsedHeader, read_header
from screener.processors import share_cores
from screener.records import (
    ArchiveEntry,
    CanvasFacts,
    Float32,
    HeaderFlag,
    Identity,
    Instance,
    Rejection,
    Source,
)
from screener.settings import RunSettings
from screener.worker_pool import HeaderRead, Task

HEADER_READ_BYTES = 65536
"""The small first read; nearly every radiograph's header fits, so a rejected file costs one read."""
FILM_READ_BYTES = 64 << 20
"""Of a file that is, or may be, a film, at most this much is asked for before it is read."""
KEPT_BYTES = 256 << 20
"""Freed memory that a decoder process keeps at the end of its heap."""
MAPPED_BYTES = 32 << 20
"""Larger blocks are given back when they are freed; glibc takes no higher limit."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
NICENESS = 5
"""Of a decoder process, above that of the main process: a full batch goes first, and is interrupted less."""
ADDRESS_SPACE_BYTES = 6 << 30
"""Backstop: a codec that asks for more gets MemoryError, and the file a typed reason."""

Finished = TypeVar("Finished")


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What a decoder process needs to know."""

    root: str
    canvases: str
    """Path of the shared float32 canvases (slots, S, S)."""
    run: RunSettings


@dataclass(slots=True)
class Progress:
    """How far a file came: what is known of it when it is rejected."""

    on_header: Callable[[HeaderRead], None]
    step: str = "header"
    identity: Identity = field(default_factory=Identity)
    instance: Instance | None = None


@dataclass(frozen=True, slots=True)
class EncodedFilm:
    """An eligible file, read and parsed, not decoded."""

    entry: ArchiveEntry
    parsed: ParsedHeader
    instance: Instance
    frame: EncodedFrame

    def decode(self, progress: Progress, out: Float32) -> Source:
        """Decode on the host and draw the canvas."""
        transform = display_transform(self.parsed.dataset, self.instance)
        picture = decode_for_canvas(self.frame, coarsest_step(transform))
        progress.step = "canvas"
        facts = self._draw(picture, transform, out)
        return Source(self.entry, self.parsed.identity, self.instance, facts, self.frame.source_sha256)

    def _draw(self, picture: Picture, transform: DisplayTransform, out: Float32) -> CanvasFacts:
        """Draw the canvas, from all bit-planes where the window turns out not to be what decides."""
        size = self.instance.rows, self.instance.columns
        try:
            facts = draw_canvas(picture, transform, *size, out)
        except DecodeError:
            if picture.step == 1:
                raise
        else:
            if picture.step == 1 or HeaderFlag.WINDOW_IGNORED not in facts.flags:
                return facts
        return draw_canvas(decode_for_canvas(self.frame), transform, *size, out)


def load_file(
    path: Path,
    entry: ArchiveEntry,
    settings: RunSettings,
    out: Float32,
    on_header: Callable[[HeaderRead], None] = lambda _: None,
) -> Source | Rejection:
    """Decode one file into a canvas, or say why not.

    Args:
        path: the file; read once.
        entry: as the walk saw it; a size or time that changed since is `file_changed`.
        settings: size limits.
        out: float32 (S, S), overwritten.
        on_header: called with an eligible file's header before its pixels are touched.
    """
    return read_film(path, entry, settings, lambda film, progress: film.decode(progress, out), on_header)


def read_film(
    path: Path,
    entry: ArchiveEntry,
    settings: RunSettings,
    finish: Callable[[EncodedFilm, Progress], Finished],
    on_header: Callable[[HeaderRead], None] = lambda _: None,
) -> Finished | Rejection:
    """Read and parse one file and hand it to `finish`; whatever goes wrong becomes a typed rejection.

    Args:
        path: the file; read once.
        entry: as the walk saw it.
        settings: size limits.
        finish: what is to be made of an eligible film.
        on_header: called with an eligible file's header before its pixels are touched.
    """
    progress = Progress(on_header)
    try:
        with path.open("rb", buffering=HEADER_READ_BYTES) as file:
            return finish(_read(file, entry, settings, progress), progress)
    except DecodeError as error:
        reason, detail = error.reason, error.detail
    except MemoryError:
        reason, detail = Reason.IMPLAUSIBLE_SIZE, "the decoder asked for more memory than a worker may have"
    except OSError as error:
        reason, detail = Reason.UNREADABLE_FILE, os.strerror(error.errno or 0)
    except Exception as error:  # a file that a library trips over costs that file; its text may hold identity
        broken = Reason.CORRUPT_HEADER if progress.step == "header" else Reason.DECODE_FAILED
        reason, detail = broken, f"unexpected {type(error).__name__}"
    return Rejection(entry, reason, detail, progress.step, progress.identity, progress.instance)


def _read(file: BinaryIO, entry: ArchiveEntry, settings: RunSettings, progress: Progress) -> EncodedFilm:
    parsed: ParsedHeader = read_header(file, settings)
    progress.identity, progress.instance = parsed.identity, parsed.instance
    instance = progress.instance = check_eligible(parsed, settings)
    progress.step = "pixels"
    _will_need(file.fileno(), FILM_READ_BYTES)
    progress.on_header(HeaderRead(parsed.identity, instance))
    frame = read_frame(file, parsed, settings)
    now = os.fstat(file.fileno())
    if (now.st_size, now.st_mtime_ns) != (entry.size_bytes, entry.mtime_ns):
        raise DecodeError(Reason.FILE_CHANGED, "size or time changed between finding and reading it")
    return EncodedFilm(entry, parsed, instance, frame)


def decode_files(pipe: Connection, settings: WorkerSettings) -> None:
    """Main function of a decoder process: canvases drawn into shared memory until the pipe closes."""
    quieten()
    with Path(settings.canvases).open("r+b") as shared:
        canvases = np.frombuffer(mmap.mmap(shared.fileno(), 0), np.float32)
    canvases = canvases.reshape(-1, CANVAS_SIDE, CANVAS_SIDE)

    def answer(task: Task, path: Path) -> Source | Rejection:
        return load_file(path, task.entry, settings.run, canvases[task.slot], pipe.send)

    answer_tasks(pipe, settings.root, answer)


def answer_tasks(pipe: Connection, root: str, answer: Callable[[Task, Path], object]) -> None:
    """Say that this process is ready, then answer tasks in the order they come until the pipe closes.

    Queued files are read ahead: whole after a film, their headers alone after a file that is none. Films and
    the slices of a CT lie in folders of their own, and a series must not be read for its headers' sake.
    """
    pipe.send(None)
    queued: deque[Task] = deque()
    read_ahead_bytes = HEADER_READ_BYTES
    while True:
        try:
            while not queued or pipe.poll():
                queued.append(pipe.recv())
                _read_ahead(Path(root, queued[-1].entry.relative_path), read_ahead_bytes)
            task = queued.popleft()
            outcome = answer(task, Path(root, task.entry.relative_path))
            is_film = not (isinstance(outcome, Rejection) and outcome.step == "header")
            read_ahead_bytes = FILM_READ_BYTES if is_film else HEADER_READ_BYTES
            pipe.send(outcome)
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return


def quieten() -> None:
    """One thread, the engines first, deaf to signals of the group, bounded memory that is kept, no voice.

    A terminal or a service manager signals every process at once: the file in hand would count as crashed.
    What a codec says of itself may hold identity, and would spoil what a machine reads from stdout.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    share_cores()
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _keep_freed_memory()
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
    os.close(silent)


def _keep_freed_memory() -> None:
    """Have glibc's malloc keep what a film needed for the next one.

    It gives large blocks back to the kernel, and fresh pages cost a fault and a zeroing each. Blocks above
    `MAPPED_BYTES` still go back: one giant film must not stay. Other C libraries do as they like.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)


def _read_ahead(path: Path, num_bytes: int) -> None:
    """Ask the kernel to have the start of a file ready when its turn comes."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return  # the real open will report it
    try:
        _will_need(descriptor, num_bytes)
    finally:
        os.close(descriptor)


def _will_need(descriptor: int, num_bytes: int) -> None:
    with suppress(OSError):  # pipes and some network file systems take no advice
        os.posix_fadvise(descriptor, 0, num_bytes, os.POSIX_FADV_WILLNEED)
