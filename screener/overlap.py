"""Runs one function on a stream of items, a few at a time, results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def overlapped(
    function: Callable[[Item], Result], items: Iterable[Item], *, depth: int
) -> Iterator[tuple[Item, Result]]:
    """Yield `(item, function(item))` in order while up to `depth` calls run in threads.

    The first exception of `function` or of `items` is raised here, after the calls under way have ended.
    """
    running: deque[tuple[Item, Future[Result]]] = deque()
    with ThreadPoolExecutor(depth, thread_name_prefix="batch") as pool:
        for item in items:
            running.append((item, pool.submit(function, item)))
            while len(running) >= depth or (running and running[0][1].done()):
                first, future = running.popleft()
                yield first, future.result()
        while running:
            first, future = running.popleft()
            yield first, future.result()
