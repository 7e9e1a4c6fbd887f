"""Times one step at a time, from the moment its decoder processes are ready.

A decoder process imports for half a second before its first file. A campaign pays that once and a benchmark
of a few hundred files would pay it in every step, so it is reported as start-up and counts in none of the
figures: not in a step alone, hence not in the bound, and not in the whole stream.
"""

from __future__ import annotations

import resource
import time

import psutil

from bench.results import Timing


class Clock:
    """Started before a step, told when the step's processes are ready, read after it."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """A step begins; it may start processes first."""
        self._startup_s = 0.0
        self._start()

    def ready(self) -> None:
        """The step's processes are ready: what came before is start-up."""
        self._startup_s = time.perf_counter() - self._began
        self._start()

    def timing(self) -> Timing:
        """What the step took since it was ready; the processes that it started have ended or still run."""
        seconds = time.perf_counter() - self._began
        return Timing(seconds, _core_seconds() - self._cores_began, self._startup_s)

    def _start(self) -> None:
        self._cores_began = _core_seconds()
        self._began = time.perf_counter()


def _core_seconds() -> float:
    """Processor time of this process, of its children that have ended and of those that still run."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = sum(_lived(child) for child in psutil.Process().children())
    return time.process_time() + ended.ru_utime + ended.ru_stime + running


def _lived(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
