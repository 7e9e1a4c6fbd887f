"""Keeps a few asynchronous lanes (inference requests, CUDA streams) busy, for callers on several threads.

The decision a reader would question: a caller that finds no lane free finishes its own oldest chunk before it
waits for anybody else's. Callers can therefore never wait for each other in a circle.
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Generic, TypeVar

Lane = TypeVar("Lane")


class LanePool(Generic[Lane]):
    """Lanes shared by every caller of an engine.

    Args:
        lanes: at least one.
    """

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._free: queue.Queue[Lane] = queue.Queue()
        for lane in lanes:
            self._free.put(lane)

    def run(
        self, count: int, chunk: int, start: Callable[[Lane, int, int], None], finish: Callable[[Lane], None]
    ) -> None:
        """Work through `count` items, `chunk` at a time, over the free lanes.

        Args:
            count: items in all.
            chunk: items of one start; the last may be shorter.
            start: begins items [first, last) on a lane and returns at once.
            finish: waits for a lane and stores its results.
        """
        running: deque[Lane] = deque()
        try:
            for first in range(0, count, chunk):
                lane = self._take(running, finish)
                running.append(lane)
                start(lane, first, min(first + chunk, count))
            while running:
                finish(running[0])
                self._free.put(running.popleft())
        finally:
            for lane in running:  # only after a failure: its first error is the one reported
                with suppress(Exception):
                    finish(lane)
                self._free.put(lane)

    def drain(self) -> list[Lane]:
        """Take every free lane out for good."""
        lanes = []
        with suppress(queue.Empty):
            while True:
                lanes.append(self._free.get_nowait())
        return lanes

    def _take(self, running: deque[Lane], finish: Callable[[Lane], None]) -> Lane:
        try:
            return self._free.get_nowait()
        except queue.Empty:
            if not running:
                return self._free.get()
        finish(running[0])
        return running.popleft()
