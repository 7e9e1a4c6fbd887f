"""A live view of a run's counters and of networks being compiled, on stderr; bars only on a terminal."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from screener.archive import walk
from screener.campaign import PendingEntries
from screener.counters import Counters

if TYPE_CHECKING:
    from engines.tensorrt_build import BuildProgress
    from engines.tensorrt_plans import OnBuild

REFRESH_PER_S = 4


class ProgressView:
    """Renders counters; knows the total once the archive has been counted in the background."""

    def __init__(self, counters: Counters, pending: PendingEntries) -> None:
        self._counters = counters
        self._pending = pending
        self.total: int | None = None

    def __rich__(self) -> Table:
        counters = self._counters
        seconds = max(counters.seconds, 1e-6)
        grid = Table.grid(padding=(0, 2))
        skipped = self._pending.num_skipped
        done = counters.handled + skipped
        of_total = f"{done:,}" + (f" of {self.total:,}" if self.total else "")
        grid.add_row("files", of_total, f"{skipped:,} passed over" if skipped else "")
        rate = counters.screened / seconds
        megabytes = counters.bytes_read / 1e6 / seconds
        grid.add_row("screened", f"{counters.screened:,}", f"{rate:.1f} images/s  {megabytes:.0f} MB/s")
        reasons = "  ".join(f"{reason} {count:,}" for reason, count in counters.reasons.most_common(4))
        grid.add_row("rejected", f"{counters.rejected:,}", "")
        grid.add_row("failed", f"{counters.failed:,}", reasons)
        grid.add_row("time left", self._time_left(done, seconds), "")
        return grid

    def _time_left(self, done: int, seconds: float) -> str:
        handled = self._counters.handled
        if not self.total or not handled:
            return "counting files"
        left = max(0.0, (self.total - done) * seconds / handled)
        return f"{left // 3600:.0f} h {left % 3600 // 60:02.0f} min {left % 60:02.0f} s"


@contextmanager
def live_progress(counters: Counters, pending: PendingEntries, root: Path) -> Iterator[None]:
    """Show progress on stderr if that is a terminal, else nothing."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    view = ProgressView(counters, pending)
    leaving = threading.Event()
    counting = threading.Thread(target=_count_files, args=(root, view, leaving), daemon=True)
    counting.start()
    try:
        with Live(view, console=console, refresh_per_second=REFRESH_PER_S, transient=True):
            yield
    finally:
        leaving.set()


@contextmanager
def build_progress(stop: threading.Event | None = None) -> Iterator[OnBuild]:
    """Yield what TensorRT builds report to: a line when one begins and, on a terminal, a bar with time left.

    Args:
        stop: once set, the build under way is cancelled.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    view = Progress(*columns, console=console, disable=not console.is_terminal)
    tasks: dict[str, TaskID] = {}
    lock = threading.Lock()

    def on_build(graph: str, precision: str, progress: BuildProgress) -> bool:
        name = f"{graph} {precision}"
        with lock:  # TensorRT reports from several threads
            if name not in tasks:
                console.print(f"building a TensorRT plan of {name} for this GPU: minutes, once")
                view.start()
                tasks[name] = view.add_task(name, total=1.0)
            view.update(tasks[name], completed=progress.fraction)
        return stop is None or not stop.is_set()

    try:
        yield on_build
    finally:
        if tasks:
            view.stop()


def _count_files(root: Path, view: ProgressView, leaving: threading.Event) -> None:
    """Walk once ahead for the total; a hundred thousand files take about a second."""
    total = 0
    for _ in walk(root):
        total += 1
        if leaving.is_set():
            return
    view.total = total
