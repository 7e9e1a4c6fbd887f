"""Archives to results: every step alone and all together, repeat by repeat.

A repeat runs each step once and then the stream, so that the steps, the bound and the share of one repeat
come from the same minutes of the machine. A warm-up before them is thrown away: it brings the files into
memory and the processors up to speed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bench.archive_factory import ArchiveRecipe, Picture, Syntax, write_archive
from bench.process_memory import MemorySampler
from bench.results import BenchResult, Circumstances, Extent, StepResult, StreamRepeat, StreamResult, Timing
from bench.stream import run_stream
from bench.workbench import Workbench
from engines.engine import open_engines
from screener.processors import share_cores
from screener.run import load_calibration, open_verified
from screener.settings import RunSettings, available_cores
from screener.transfer_syntax import name_of

FEWEST_FILES = 16
"""Files that a transfer syntax of a given archive must have to be measured on its own."""

STEPS: dict[str, Callable[[Workbench], Extent]] = {
    "walk": Workbench.walk,
    "header": Workbench.header,
    "read": Workbench.read,
    "decode": Workbench.decode,
    "segmentation": Workbench.segmentation,
    "classification": Workbench.classification,
    "networks": Workbench.networks,
    "grade_decide": Workbench.grade_decide,
    "report": Workbench.report,
}
"""Steps by name. `decode` includes header and read, `networks` is segmentation and classification."""


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """What to measure."""

    settings: RunSettings
    recipe: ArchiveRecipe
    """Of the archives that are made; each encoding of its mix alone, then all of them."""
    archive: Path | None = None
    """Measure this folder of DICOM files instead."""
    pictures: tuple[Picture, ...] = ()
    """Of the films that are made; none takes drawn lung shadows."""
    bundle: Path | None = None
    repeats: int = 2


def measure(request: BenchRequest, on_step: Callable[[str], None]) -> BenchResult:
    """Measure every archive of a request.

    Args:
        request: what to measure.
        on_step: told what is about to run, for a progress display.

    Raises:
        ScreenerError, BundleError, EngineError: as `screener run`.
    """
    settings, circumstances = request.settings, Circumstances.now()
    share_cores()
    bundle = open_verified(request.bundle)
    calibration = load_calibration(bundle, None)
    steps: list[StepResult] = []
    streams: list[StreamResult] = []
    with open_engines(
        bundle, device=settings.device, precision=settings.precision, batch_size=settings.batch_size
    ) as engines:

        def opened(archive: Path, transfer_syntax_uid: str | None) -> Workbench:
            return Workbench(archive, settings, engines, calibration, transfer_syntax_uid)

        for name, bench in _workbenches(request, opened):
            found, stream = _measure_archive(name, bench, request.repeats, on_step)
            steps += found
            streams.append(stream)
    return BenchResult(
        circumstances, recipe_record(request), engines.description, tuple(steps), tuple(streams)
    )


def recipe_record(request: BenchRequest) -> dict[str, object]:
    """What was measured on, for the result file; a given archive is not named."""
    settings = {"batch_size": request.settings.batch_size, "workers": request.settings.num_workers}
    if request.archive is not None:
        return {"archive": "given", **settings}
    return {"archive": "made", **asdict(request.recipe), "num_pictures": len(request.pictures), **settings}


def archives(request: BenchRequest) -> Iterator[tuple[str, Path]]:
    """The archives to measure by name; one that is made lives until the next is asked for."""
    if request.archive is not None:
        yield "all", request.archive
        return
    mixes: dict[str, dict[Syntax, float]] = {str(syntax): {syntax: 1.0} for syntax in request.recipe.mix}
    if len(mixes) > 1:
        mixes["mix"] = dict(request.recipe.mix)
    for name, mix in mixes.items():
        with tempfile.TemporaryDirectory(prefix="screener-bench-") as folder:
            write_archive(Path(folder), replace(request.recipe, mix=mix), request.pictures)
            yield name, Path(folder)


def _workbenches(
    request: BenchRequest, opened: Callable[[Path, str | None], Workbench]
) -> Iterator[tuple[str, Workbench]]:
    """Each archive; of a given one each transfer syntax with enough files, too."""
    for name, archive in archives(request):
        bench = opened(archive, None)
        yield name, bench
        if request.archive is None or len(bench.num_by_syntax) == 1:
            continue
        for uid, count in sorted(bench.num_by_syntax.items()):
            if count >= FEWEST_FILES:
                yield name_of(uid), opened(archive, uid)


def _measure_archive(
    name: str, bench: Workbench, repeats: int, on_step: Callable[[str], None]
) -> tuple[list[StepResult], StreamResult]:
    extents: dict[str, Extent] = {}
    timings: dict[str, list[Timing]] = {step: [] for step in STEPS}
    streams: list[StreamRepeat] = []
    with MemorySampler(os.getpid()) as memory:
        on_step(f"{name}: warm-up")
        bench.warm_up()
        for repeat in range(1, repeats + 1):
            for step, run in STEPS.items():
                on_step(f"{name}: {step}, repeat {repeat} of {repeats}")
                extents[step], timing = bench.timed(run)
                timings[step].append(timing)
            on_step(f"{name}: everything together, repeat {repeat} of {repeats}")
            streams.append(_stream_repeat(bench, extents, timings))
    steps = [StepResult(name, step, extents[step], tuple(timings[step])) for step in STEPS]
    return steps, StreamResult(name, bench.whole, tuple(streams), memory.peak_bytes)


def _stream_repeat(
    bench: Workbench, extents: dict[str, Extent], timings: dict[str, list[Timing]]
) -> StreamRepeat:
    """Run everything together, beside the latest timings of its parts."""
    timing, waits = run_stream(bench)
    num_files = bench.whole.num_files
    rest = sum(
        timings[step][-1].core_seconds / extents[step].num_files for step in ("grade_decide", "report")
    )
    return StreamRepeat(
        decode_files_per_s=extents["decode"].num_files / timings["decode"][-1].seconds,
        networks_files_per_s=extents["networks"].num_files / timings["networks"][-1].seconds,
        files_per_s=num_files / timing.seconds,
        core_seconds_per_file=timing.core_seconds / num_files,
        startup_s=timing.startup_s,
        waits=waits,
        rest_s_per_file=rest / available_cores(),
    )
