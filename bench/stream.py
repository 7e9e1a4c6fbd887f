"""The whole stream on one archive, and who waits for whom in it.

The parts are those of `screener run`; only the campaign is a temporary one and no overlay pictures are
drawn. The clock starts when engines and decoder processes are ready. A thread looks fifty times a second
where the canvases are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from bench.results import Extent, Timing, Waits
from bench.workbench import Workbench, temporary_campaign
from screener.counters import Counters
from screener.host_loader import NUM_FRAMES, HostLoader, Occupancy
from screener.pipeline import Reader, screen
from screener.settings import RunSettings

WATCH_INTERVAL_S = 0.02


class LoaderWatch:
    """Samples a loader's occupancy in a thread of its own while its `with` block runs."""

    def __init__(self, loader: HostLoader, settings: RunSettings) -> None:
        self._loader = loader
        self._settings = settings
        self._seen: list[Occupancy] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="occupancy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def waits(self) -> Waits:
        """Means over what was seen between the first batch that reached the engines and the last."""
        busy = [index for index, seen in enumerate(self._seen) if seen.with_engines]
        seen = self._seen[busy[0] : busy[-1] + 1] if busy else self._seen

        def mean(of: Callable[[Occupancy], float]) -> float:
            return sum(map(of, seen)) / max(1, len(seen))

        return Waits(
            slots=NUM_FRAMES * self._settings.batch_size,
            free=mean(lambda each: each.free),
            decoding=mean(lambda each: each.decoding),
            drawn=mean(lambda each: each.drawn),
            with_engines=mean(lambda each: each.with_engines),
            engines_idle=mean(lambda each: each.with_engines == 0),
            decoders_idle=mean(lambda each: each.decoding < self._settings.num_workers),
        )

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_INTERVAL_S):
            self._seen.append(self._loader.occupancy)


def run_stream(bench: Workbench) -> tuple[Timing, Waits]:
    """Everything together, once: files to canvases to rows of a campaign of its own."""
    with (
        temporary_campaign(bench.archive, bench.settings) as campaign,
        campaign.writer() as report,
    ):
        watches: list[LoaderWatch] = []

        def stream(bench: Workbench) -> Extent:
            with (
                HostLoader(bench.archive, bench.settings, threading.Event()) as loader,
                LoaderWatch(loader, bench.settings) as watch,
            ):
                watches.append(watch)
                loader.wait_ready()
                bench.clock.ready()
                reader = Reader(bench.engines, bench.calibration)
                screen(iter(bench.entries), loader, reader, report, Counters())
                report.seal()
            return bench.whole

        _, timing = bench.timed(stream)
        return timing, watches[0].waits()
