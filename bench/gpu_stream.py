"""Section of `bench.gpu_check`: the whole stream from the page cache, its two steps alone, and the share.

All go through `pipeline.screen`, the loop of `screener run`, with the same number of batches in flight and
the same clock: from the end of the batches that warm up to the end of the last one, so that starting workers,
loading kernels and recording graphs counts in none of them; it has rows of its own. Films come from the
device's loader and rows go to a campaign on the disk; overlay pictures are left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Self

from bench.gpu_findings import Bench, Findings, Row, attempted, demo_bundle, device_memory
from bench.workbench import temporary_campaign
from calibration.model_calibration import Calibration
from engines.devices import choose
from engines.engine import Engines, open_engines
from screener.archive import walk
from screener.classify import classify
from screener.counters import Counters
from screener.dali_loader import DaliLoader
from screener.loader import Loader
from screener.pipeline import Reader, screen
from screener.records import ArchiveEntry, Batch, Rejection, ScreenedImage
from screener.run import load_calibration
from screener.segment import segment
from screener.settings import RunSettings

SHARE_GOAL = 0.9
FILMS = "films/s"
WARM_UP_BATCHES = 8
"""More than are in flight: the frames that were full when the clock starts are refilled while it runs."""
KEPT_BATCHES = 4
MEMORY_INTERVAL_S = 0.05


@dataclass(slots=True)
class Clock:
    """When each batch ended, and how many films were in it."""

    began: float = field(default_factory=time.perf_counter)
    ended: list[tuple[float, int]] = field(default_factory=list)

    def note(self, batch: Batch) -> None:
        """A batch has gone through."""
        self.ended.append((time.perf_counter(), len(batch)))

    def films_per_s(self, warm_up: int) -> float:
        """Films that ended after the batches that warm up, by the time that took."""
        measured = self.ended[warm_up:]
        return sum(count for _, count in measured) / (measured[-1][0] - self.ended[warm_up - 1][0])

    @property
    def start_up_s(self) -> float:
        """From opening the loader to the end of the first batch."""
        return self.ended[0][0] - self.began


@dataclass(frozen=True, slots=True)
class ClockedReader(Reader):
    """Reads a batch as `step` says, and notes when it ended."""

    clock: Clock = field(default_factory=Clock)
    step: Callable[[Reader, Batch], list[ScreenedImage | Rejection]] = Reader.read

    def read(self, batch: Batch) -> list[ScreenedImage | Rejection]:
        """As `step` says; rows in the batch's order, or none."""
        ended = self.step(Reader(self.engines, self.calibration), batch)
        self.clock.note(batch)
        return ended


class KeptBatches:
    """A loader that hands out the same batches again and again."""

    def __init__(self, kept: list[Batch], count: int) -> None:
        self._kept, self._count = kept, count

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def batches(
        self, entries: Iterable[ArchiveEntry], on_reject: Callable[[Rejection], None]
    ) -> Iterator[Batch]:
        """`count` batches; the archive is not looked at."""
        for number in range(self._count):
            yield self._kept[number % len(self._kept)]

    def release(self, batch: Batch) -> None:
        """Nothing to give back."""


class MemoryWatch:
    """Most device memory in use while its `with` block runs, looked at twenty times a second."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(MEMORY_INTERVAL_S):
            memory = device_memory(self._bench)
            self.peak_bytes = max(self.peak_bytes, memory[0] if memory else 0)


@dataclass(frozen=True, slots=True)
class Stream:
    """One archive with everything that its measurements share."""

    bench: Bench
    archive: Path
    settings: RunSettings
    engines: Engines
    calibration: Calibration

    @property
    def warm_up(self) -> int:
        """Batches before the clock starts."""
        return WARM_UP_BATCHES if self.bench.gpu else 1

    def measured(
        self, loader: Loader, step: Callable[[Reader, Batch], list[ScreenedImage | Rejection]], clock: Clock
    ) -> Clock:
        """Screen the archive with one step in the place of the reader."""
        with (
            temporary_campaign(self.archive, self.settings) as campaign,
            campaign.writer() as report,
            loader,
        ):
            reader = ClockedReader(self.engines, self.calibration, None, clock, step)
            screen(walk(self.archive), loader, reader, report, Counters())
            report.seal()
        return clock

    def films(self) -> Loader:
        """The device's loader on this archive."""
        return DaliLoader(self.archive, self.settings, threading.Event(), gpu_index=self.bench.index)

    def kept(self) -> list[Batch]:
        """A few batches, copied."""
        kept: list[Batch] = []
        with self.films() as loader:
            for batch in loader.batches(walk(self.archive), on_reject=lambda _: None):
                kept.append(Batch(batch.sources, batch.canvas.copy()))
                loader.release(batch)
                if len(kept) == KEPT_BATCHES:
                    break
        return kept


def stream(bench: Bench) -> Findings:
    """Mixed films, then JPEG 2000 lossless alone."""
    settings = (
        RunSettings(batch_size=bench.batch_size, gpu_memory_mb=16_384)
        if bench.gpu
        else RunSettings(batch_size=bench.batch_size, workers=1)
    )
    calibration = load_calibration(demo_bundle(), None)
    with _engines(bench) as engines:
        memory = f"--batch-size {settings.batch_size} --gpu-memory-mb {settings.gpu_memory_mb:.0f}"
        yield Row("engines", engines.description)
        yield Row("settings", memory)
        for name in ("mixed", "j2k"):
            each = Stream(bench, bench.folder / name, settings, engines, calibration)
            yield from attempted(name, partial(_measure, each, name))


def _engines(bench: Bench) -> Engines:
    """What `screener run --device cuda` opens; torch where TensorRT's plans could not be built before."""
    from bench.gpu_parity import torch_engines
    from bench.gpu_tensorrt import has_plans

    if bench.gpu is None:
        return open_engines(demo_bundle(), device="cpu", precision="fp32", batch_size=bench.batch_size)
    choice = choose("cuda")
    if choice.backend == "torch" or has_plans(choice):
        return open_engines(demo_bundle(), device="cuda", batch_size=bench.batch_size)
    return torch_engines(bench, "auto")


def _measure(each: Stream, name: str) -> Findings:
    clock = Clock()
    decoding = each.measured(each.films(), _nothing, clock)
    yield Row(f"{name}: films", sum(count for _, count in decoding.ended))
    yield Row(f"{name}: start-up of decoding alone", decoding.start_up_s, "s")
    yield Row(f"{name}: decoding and painting alone", decoding.films_per_s(each.warm_up), FILMS)
    kept, num_batches = each.kept(), len(decoding.ended)
    networks = each.measured(KeptBatches(kept, num_batches), _networks, Clock())
    yield Row(f"{name}: both networks alone", networks.films_per_s(each.warm_up), FILMS)
    reading = each.measured(KeptBatches(kept, num_batches), Reader.read, Clock())
    yield Row(f"{name}: networks, grading and decisions", reading.films_per_s(each.warm_up), FILMS)
    with MemoryWatch(each.bench) as watch:
        clock = Clock()
        together = each.measured(each.films(), Reader.read, clock)
    whole = together.films_per_s(each.warm_up)
    yield Row(f"{name}: start-up of the stream", together.start_up_s, "s")
    yield Row(f"{name}: end to end", whole, FILMS)
    share = whole / min(decoding.films_per_s(each.warm_up), networks.films_per_s(each.warm_up))
    goal = f">= {SHARE_GOAL}"
    yield each.bench.judged(f"{name}: share of the slower step", share, "", goal, met=share >= SHARE_GOAL)
    yield Row(f"{name}: most device memory in use", watch.peak_bytes / 1e9, "GB")


def _nothing(reader: Reader, batch: Batch) -> list[ScreenedImage | Rejection]:
    return []


def _networks(reader: Reader, batch: Batch) -> list[ScreenedImage | Rejection]:
    lungs = segment(batch, reader.engines.segmentation)
    classify(batch, lungs, reader.engines.classification)
    return []
