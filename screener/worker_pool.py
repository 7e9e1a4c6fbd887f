"""Decoder processes that may crash, hang or be killed, each at the cost of one file.

Tasks go to a worker through a pipe of its own, a few ahead so that it never waits; results come back in
the order sent, so the first task without an answer is the one in hand. A worker that dies or overruns the
time limit takes that task with it (`decoder_crashed`, `decoder_timeout`); the tasks queued behind it go to
other workers. A ready-made process pool is not used because none of the standard ones can say which task
killed a process, and all of them poison the tasks queued beside it.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from screener.errors import Reason, ScreenerError
from screener.records import ArchiveEntry, Identity, Instance, Rejection, Source

QUEUED_AHEAD = 4
"""Tasks a worker holds, the one in hand included."""
MOST_FAILED_STARTS = 3
"""Starts that may fail in a row (killed for memory, say) before the run is given up."""
START_TIMEOUT_S = 120.0
"""A worker imports its codecs in under a second; a loaded machine may need far longer."""

Outcome = Source | Rejection
WorkerMain = Callable[..., None]


@dataclass(frozen=True, slots=True)
class Task:
    """One file to decode into one slot of the shared canvases."""

    entry: ArchiveEntry
    slot: int


@dataclass(frozen=True, slots=True)
class Done:
    """A task and how it ended."""

    task: Task
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class HeaderRead:
    """Sent before decoding, so that a picture that kills its decoder still has a patient and a study."""

    identity: Identity
    instance: Instance


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    tasks: deque[Task] = field(default_factory=deque)
    header: HeaderRead | None = None
    """Of the task in hand."""
    in_hand_since: float = 0.0
    is_ready: bool = False

    def deadline(self, timeout_s: float) -> float:
        """Monotonic time at which the task in hand is given up; infinite when idle."""
        if not self.is_ready:
            return self.in_hand_since + START_TIMEOUT_S
        return self.in_hand_since + timeout_s if self.tasks else float("inf")


class DecoderPool:
    """A fixed number of replaceable worker processes.

    Args:
        num_workers: processes kept alive.
        timeout_s: seconds one file may take.
        target: module-level function run in each process as `target(pipe, *args)`; it must send None once
            when ready, then answer every `Task` with a `Source` or a `Rejection`, before which it may send
            a `HeaderRead`.
        args: further arguments of `target`, picklable.
    """

    def __init__(self, num_workers: int, timeout_s: float, target: WorkerMain, args: tuple[Any, ...]) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._timeout_s = timeout_s
        self._target = target
        self._args = args
        self._orphans: deque[Task] = deque()
        self._failed_starts = 0
        self._workers: list[_Worker] = []
        try:
            for _ in range(num_workers):
                self._workers.append(self._start())
        except BaseException:
            self.close()  # Python waits at its end for processes that nobody else will end
            raise

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=self._target, args=(theirs, *self._args), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours, in_hand_since=time.monotonic())

    def wait_ready(self) -> None:
        """Return once every process has started; to be called before the first task is submitted.

        Raises:
            ScreenerError: decoder processes cannot be started.
        """
        while not all(worker.is_ready for worker in self._workers):
            self.collect(START_TIMEOUT_S)

    @property
    def num_free(self) -> int:
        """Tasks that can be submitted now without waiting."""
        held = sum(len(worker.tasks) for worker in self._workers) + len(self._orphans)
        return len(self._workers) * QUEUED_AHEAD - held

    @property
    def num_waiting(self) -> int:
        """Tasks submitted and not answered yet."""
        return sum(len(worker.tasks) for worker in self._workers) + len(self._orphans)

    def submit(self, task: Task) -> None:
        """Give a task to the least loaded worker."""
        worker = min(self._workers, key=lambda each: len(each.tasks))
        if not worker.tasks and worker.is_ready:
            worker.in_hand_since = time.monotonic()
        worker.tasks.append(task)
        try:
            worker.pipe.send(task)
        except (BrokenPipeError, ConnectionResetError):
            return  # the death is seen, and attributed, by collect()

    def collect(self, wait_s: float) -> list[Done]:
        """Answers that have come, waiting at most `wait_s` for the first."""
        self._resubmit()
        now = time.monotonic()
        limit = min(worker.deadline(self._timeout_s) for worker in self._workers)
        ready = wait([worker.pipe for worker in self._workers], max(0.0, min(wait_s, limit - now)))
        done: list[Done] = []
        for index, worker in enumerate(self._workers):
            if worker.pipe in ready:
                done += self._read(index)
            elif time.monotonic() >= worker.deadline(self._timeout_s):
                detail = f"no answer within {self._timeout_s:g} s"
                done += self._replace(index, Reason.DECODER_TIMEOUT, detail)
        return done

    def _resubmit(self) -> None:
        for _ in range(len(self._orphans)):
            self.submit(self._orphans.popleft())

    def _read(self, index: int) -> list[Done]:
        worker = self._workers[index]
        done: list[Done] = []
        try:
            while worker.pipe.poll():
                answer = worker.pipe.recv()
                if not isinstance(answer, HeaderRead):
                    worker.in_hand_since = time.monotonic()
                if answer is None:
                    worker.is_ready = True
                    self._failed_starts = 0
                elif isinstance(answer, HeaderRead):
                    worker.header = answer
                else:
                    worker.header = None
                    done.append(Done(worker.tasks.popleft(), answer))
        except (EOFError, OSError):  # OSError: it died in the middle of an answer
            done += self._replace(index, Reason.DECODER_CRASHED, "")
        return done

    def _replace(self, index: int, reason: Reason, detail: str) -> list[Done]:
        """Bury a worker; its task in hand ends with `reason`, the others are handed on."""
        worker = self._workers[index]
        if reason is Reason.DECODER_TIMEOUT:
            worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        if not worker.is_ready:
            return self._start_again(index)
        self._workers[index] = self._start()
        if not worker.tasks:
            return []
        victim = worker.tasks.popleft()
        self._orphans.extend(worker.tasks)
        detail = detail or f"the decoder process ended by {_ending(worker.process)}"
        if worker.header is None:
            return [Done(victim, Rejection(victim.entry, reason, detail, "header"))]
        known = worker.header
        return [
            Done(victim, Rejection(victim.entry, reason, detail, "pixels", known.identity, known.instance))
        ]

    def _start_again(self, index: int) -> list[Done]:
        """Replace a worker that never was ready; no task is to blame, and a full machine may be."""
        worker = self._workers[index]
        self._failed_starts += 1
        if self._failed_starts >= MOST_FAILED_STARTS:
            raise ScreenerError(f"a decoder process cannot start ({_ending(worker.process)})")
        self._workers[index] = self._start()
        self._orphans.extend(worker.tasks)
        return []

    def close(self) -> None:
        """End every process; answers not collected are lost."""
        for worker in self._workers:
            worker.pipe.close()
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()


def _ending(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
