"""`screener run` as an operator starts it, over archive size and over cores: speed, and memory over time.

Each point is a process of its own on as many cores as asked for (its affinity: decoder processes and the
engines' threads follow it), with the memory of its whole tree sampled twice a second. Archives of 20,000
films would not fit on many disks, so a few hundred films lie there and the rest are hard links to them:
every file is opened, read, decoded and screened like any other, only the disk's own speed is not measured.
Points take minutes to half an hour: each is in the result file as soon as it is done, and a measurement that
was broken off goes on after it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.archive_factory import ArchiveRecipe, write_archive
from bench.process_memory import MemorySample, MemorySampler
from bench.results import Circumstances
from screener.errors import ScreenerError
from screener.settings import RunSettings, available_cores

MAX_BYTES = 15 * 10**8
"""What main process and workers together may take."""
MAX_GROWTH = 0.05
"""Growth of memory over a run, as share, above which it counts as growing."""
KEPT_SAMPLES = 400
"""Samples of a run that go into the result file, evenly spread."""


@dataclass(frozen=True, slots=True)
class ScalingPoint:
    """One run."""

    num_files: int
    cores: int
    num_workers: int
    seconds: float
    """Of screening, starting the decoder processes included, opening the engines not."""
    screened: int
    peak_bytes: int
    growth: float
    """Median memory of the run's last fifth over that of its second fifth, less 1."""
    memory: tuple[MemorySample, ...]

    @property
    def files_per_s(self) -> float:
        """Films screened a second."""
        return self.screened / self.seconds


@dataclass(frozen=True, slots=True)
class ScalingResult:
    """Points with what they were measured on."""

    circumstances: Circumstances
    recipe: ArchiveRecipe
    settings: Mapping[str, object]
    points: tuple[ScalingPoint, ...]

    def save(self, path: Path) -> None:
        """Write a result file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.part")
        unfinished.write_text(json.dumps(asdict(self), indent=1, default=str) + "\n", encoding="utf-8")
        unfinished.replace(path)

    @property
    def flat_memory(self) -> bool:
        """No run passed `MAX_BYTES`, the longest did not grow, and it took no more than the shortest.

        A leak shows in the longest run; a short one is still filling its caches.
        """
        ordered = sorted(self.points, key=lambda point: point.num_files)
        calm = all(point.peak_bytes < MAX_BYTES for point in ordered) and ordered[-1].growth < MAX_GROWTH
        return calm and ordered[-1].peak_bytes < (1 + MAX_GROWTH) * ordered[0].peak_bytes


def measure_scaling(
    recipe: ArchiveRecipe,
    points: Sequence[tuple[int, int]],
    settings: RunSettings,
    on_step: Callable[[str], None],
    file: Path | None = None,
) -> ScalingResult:
    """Run every point, one after the other, except those that the result file already has.

    Args:
        recipe: films of the archives; the count is each point's own.
        points: (files, cores) of each run.
        settings: batch size, workers and precision of the runs.
        on_step: told what is about to run.
        file: result file, written after each point. Points of the same recipe, settings, machine, versions
            and commit that it holds are taken over.

    Raises:
        ScreenerError: a run failed, or more cores were asked for than there are.
    """
    chosen = {"batch_size": settings.batch_size, "workers": settings.workers, "precision": settings.precision}
    result = ScalingResult(Circumstances.now(), recipe, chosen, ())
    measured = {} if file is None else _measured_before(file, result)
    for count, cores in points:
        if (count, cores) not in measured:
            on_step(f"{count:,} files on {cores} cores")
            measured[count, cores] = _measure_point(replace(recipe, count=count), cores, settings)
        kept = tuple(measured[point] for point in points if point in measured)
        result = replace(result, points=kept)
        if file is not None:
            result.save(file)
    return result


def _measured_before(file: Path, wanted: ScalingResult) -> dict[tuple[int, int], ScalingPoint]:
    """Points of an earlier measurement that are still good, by files and cores; none of any other file."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        same: dict[str, Any] = json.loads(json.dumps(asdict(wanted), default=str))
        same["circumstances"]["measured_utc"] = content["circumstances"]["measured_utc"]
        if any(content[part] != same[part] for part in ("circumstances", "recipe", "settings")):
            return {}
        points = [_point(each) for each in content["points"]]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {(point.num_files, point.cores): point for point in points}


def _point(content: dict[str, Any]) -> ScalingPoint:
    memory = tuple(MemorySample(**sample) for sample in content["memory"])
    return ScalingPoint(**{**content, "memory": memory})


def _measure_point(recipe: ArchiveRecipe, cores: int, settings: RunSettings) -> ScalingPoint:
    with tempfile.TemporaryDirectory(prefix="screener-scaling-") as folder:
        archive = Path(folder, "archive")
        write_archive(archive, recipe)
        return _run(archive, Path(folder, "campaign"), cores, settings)


def _run(archive: Path, campaign: Path, cores: int, settings: RunSettings) -> ScalingPoint:
    command = [sys.executable, "-m", "screener", "run", str(archive), "--out", str(campaign), "--json"]
    command += ["--key-file", str(campaign.with_suffix(".key")), "--batch-size", str(settings.batch_size)]
    command += ["--workers", str(settings.workers), "--precision", settings.precision]
    with _on_cores(cores):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603
    with MemorySampler(process.pid) as memory:
        output, errors = process.communicate()
    if process.returncode:
        raise ScreenerError(f"screener run failed: {errors.strip()}")
    summary: dict[str, Any] = json.loads(output)
    return ScalingPoint(
        num_files=summary["found"],
        cores=cores,
        num_workers=settings.workers or cores,
        seconds=summary["seconds"],
        screened=summary["screened"],
        peak_bytes=memory.peak_bytes,
        growth=growth(memory.samples),
        memory=tuple(memory.samples[:: max(1, len(memory.samples) // KEPT_SAMPLES)]),
    )


def growth(samples: Sequence[MemorySample]) -> float:
    """Median of the last fifth of a run over that of its second fifth, less 1; 0 with too few samples.

    The first fifth is left out: the engines are opened and the decoder processes start in it. The very end is
    left out, too: the processes end one by one.
    """
    fifth = len(samples) // 5
    if not fifth:
        return 0.0
    early = statistics.median(sample.pss_bytes for sample in samples[fifth : 2 * fifth])
    late = statistics.median(sample.pss_bytes for sample in samples[-fifth - 1 : -1])
    return late / early - 1


@contextmanager
def _on_cores(cores: int) -> Iterator[None]:
    """Processes started inside may use the first `cores` of the cores that this one may use."""
    if not 1 <= cores <= available_cores():
        raise ScreenerError(f"{cores} cores asked for, {available_cores()} can be used")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(allowed)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
