"""Memory of a whole process tree while it works: the sum of its processes' proportional set sizes.

PSS counts a page shared by k processes as 1/k in each, so frames of shared memory and the libraries of the
decoder processes are counted once; adding resident set sizes would count them once a process.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import psutil

INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class MemorySample:
    """The tree's memory at one moment."""

    seconds: float
    """Since sampling began."""
    pss_bytes: int


class MemorySampler:
    """Samples in a thread of its own while its `with` block runs.

    Args:
        pid: root of the process tree; it may end while it is being watched.
        interval_s: time between two samples.
    """

    def __init__(self, pid: int, interval_s: float = INTERVAL_S) -> None:
        self._pid = pid
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)
        self.samples: list[MemorySample] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def peak_bytes(self) -> int:
        """The largest sample; 0 if the tree was gone before the first one."""
        return max((sample.pss_bytes for sample in self.samples), default=0)

    def _watch(self) -> None:
        began = time.monotonic()
        while True:
            pss_bytes = tree_pss_bytes(self._pid)
            if pss_bytes:
                self.samples.append(MemorySample(time.monotonic() - began, pss_bytes))
            if self._stop.wait(self._interval_s):
                return


def tree_pss_bytes(pid: int) -> int:
    """Proportional set sizes of a process and all below it; a process that has just ended counts 0."""
    try:
        root = psutil.Process(pid)
        tree = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_pss_bytes(process) for process in tree)


def _pss_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
