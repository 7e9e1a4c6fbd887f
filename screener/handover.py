"""A loader's thread to its consumer: batches, rejections, the end or the first error, through one queue."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator

from screener.records import Batch, Rejection

Handover = queue.Queue[Batch | Rejection | BaseException | None]
"""None is the end; an exception is raised where the batches are consumed."""


def produce(out: Handover, dispatch: Callable[[], None]) -> None:
    """Run `dispatch`, which fills `out`, in the loader's thread; then the end, or what it raised."""
    try:
        dispatch()
        out.put(None)
    except BaseException as error:
        out.put(error)


def consume(out: Handover, on_reject: Callable[[Rejection], None]) -> Iterator[Batch]:
    """Yield batches in the consumer's thread, where `on_reject` is called and an error is raised."""
    while (item := out.get()) is not None:
        if isinstance(item, BaseException):
            raise item
        if isinstance(item, Rejection):
            on_reject(item)
        else:
            yield item
