"""`screener bench ...`: measure this machine, make archives, compare results. Heavy imports inside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screener.errors import ConfigError
from screener.settings import RunSettings

if TYPE_CHECKING:
    from bench.archive_factory import ArchiveRecipe
    from bench.measure import BenchRequest
    from bench.scaling import ScalingResult

app = typer.Typer(help="Measure every step and the whole stream on this machine, alone or against peers.")

DEFAULT_MIX = "raw=40,jpeg_lossless=30,j2k=20,jpegls=10"
EVEN_MIX = "raw=1,jpeg_lossless=1,j2k=1,jpegls=1"
LARGE = "3056x2544"
VARIED = "3056x2544,2500x2048,2022x2022,2140x1760,2836x2336"
SCALING_DISTINCT = 200
"""The same for archives of thousands of files: 1.7 GB of 7.8-megapixel films in four encodings."""
BATCH_SIZE = RunSettings().batch_size
QUICK_COUNT, QUICK_REPEATS = 32, 1
NUM_DISTINCT = 48
"""Files of an archive made for measuring that lie on the disk; the rest are hard links to them."""

ArchiveOption = Annotated[
    Path | None, typer.Option(help="Measure on this folder of DICOM files instead of made archives.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
ResumedFile = Annotated[
    Path | None,
    typer.Option("--json", help="Write each run to this file as it ends; those it has are not repeated."),
]
Plot = Annotated[Path | None, typer.Option(help="Write a plot (PNG) to this file; needs the train extra.")]
BundlePath = Annotated[Path | None, typer.Option(help="Model bundle; default: the one that ships.")]
Mix = Annotated[str, typer.Option(help="Encodings and their weights.")]
Sizes = Annotated[str, typer.Option(help="ROWSxCOLUMNS of the films, taken in turn.")]
Bits = Annotated[str, typer.Option(help="Bits stored: 12, a list 10,12 or a range 10-16, taken in turn.")]
Pictures = Annotated[
    Path | None, typer.Option(help="Folder of PNG, JPEG or TIFF chest pictures to make the films from.")
]
BatchSize = Annotated[int, typer.Option(help="Images per engine call.")]
Workers = Annotated[int, typer.Option(help="Decoder processes; 0 is one per core.")]
Distinct = Annotated[int, typer.Option(help="Files that lie on the disk; the rest are hard links to them.")]
Seed = Annotated[int, typer.Option(help="Same seed, same bytes.")]


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    archive: ArchiveOption = None,
    json_file: JsonFile = None,
    plot: Plot = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Then race peers, each in an environment of its own.")
    ] = False,
    peer: Annotated[
        list[str] | None, typer.Option(help="Race only this peer; may be repeated. Implies --peers.")
    ] = None,
    count: Annotated[int, typer.Option(help="Files of each archive that is made.")] = 500,
    repeats: Annotated[int, typer.Option(help="Timed repeats, after one warm-up.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="32 files, one repeat: a look, no result.")] = False,
    mix: Mix = DEFAULT_MIX,
    sizes: Sizes = LARGE,
    bits: Bits = "12",
    pictures: Pictures = None,
    seed: Seed = 0,
    bundle: BundlePath = None,
    batch_size: BatchSize = BATCH_SIZE,
    workers: Workers = 0,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or int8.")] = "auto",
) -> None:
    """Run every step alone and all together, and print what came of it."""
    if context.invoked_subcommand is not None:
        return
    from bench.measure import BenchRequest

    request = BenchRequest(
        settings=RunSettings(
            batch_size=batch_size,
            workers=workers,
            precision=precision,  # type: ignore[arg-type] # RunSettings checks the choice
        ),
        recipe=_recipe(QUICK_COUNT if quick else count, mix, sizes, bits, seed, NUM_DISTINCT),
        archive=archive,
        pictures=_pictures(pictures),
        bundle=bundle,
        repeats=QUICK_REPEATS if quick else repeats,
    )
    _measure(request, peer or ([] if peers else None), json_file, plot)


@app.command("archive")
def make_archive(
    out: Annotated[Path, typer.Option(help="Folder to write; files of the same names are replaced.")],
    count: Annotated[int, typer.Option(help="Files.")] = 100,
    mix: Mix = DEFAULT_MIX,
    sizes: Sizes = VARIED,
    bits: Bits = "10-16",
    pictures: Pictures = None,
    seed: Seed = 0,
    distinct: Annotated[
        int | None, typer.Option(help="Files written; the rest are hard links to them.")
    ] = None,
) -> None:
    """Write a reproducible DICOM archive: the same arguments write the same bytes."""
    from bench.archive_factory import write_archive

    recipe = _recipe(count, mix, sizes, bits, seed, distinct)
    size_bytes = write_archive(out, recipe, _pictures(pictures))
    typer.echo(f"{count:,} files, {size_bytes / 1e6:,.0f} MB: {out}")


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="Result file.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="Result file.", show_default=False)],
) -> None:
    """Put two results side by side; warns when they come from different machines."""
    from bench.results import load_result
    from bench.tables import comparison_table

    first, second = load_result(before), load_result(after)
    _print(comparison_table(first, second))
    for name in ("machine", "versions", "commit"):
        was, now = (getattr(result.circumstances, name) for result in (first, second))
        if was != now:
            typer.echo(f"different {name}: {was} and {now}", err=True)
    for path, result in ((before, first), (after, second)):
        if result.circumstances.dirty:
            typer.echo(f"{path.name}: measured on {result.circumstances.source}", err=True)


@app.command()
def memory(
    counts: Annotated[str, typer.Option(help="Files of the archives, smallest first.")] = "1000,20000",
    mix: Mix = EVEN_MIX,
    sizes: Sizes = LARGE,
    distinct: Distinct = SCALING_DISTINCT,
    batch_size: BatchSize = BATCH_SIZE,
    workers: Workers = 0,
    json_file: ResumedFile = None,
    plot: Plot = None,
) -> None:
    """Watch the memory of `screener run` and all its processes; exits with 1 if it grows or passes 1.5 GB."""
    from bench.plots import lines
    from bench.scaling import MAX_BYTES
    from screener.settings import available_cores

    points = [(count, available_cores()) for count in _numbers("--counts", counts)]
    settings = RunSettings(batch_size=batch_size, workers=workers)
    result = _scale(_recipe(1, mix, sizes, "12", 0, distinct), points, settings, json_file)
    if plot is not None:
        series = {
            f"{point.num_files:,} files": [
                (sample.seconds / point.memory[-1].seconds, sample.pss_bytes / 1e6) for sample in point.memory
            ]
            for point in result.points
        }
        lines(series, plot, across="share of the run", up="memory of all processes, MB")
    if not result.flat_memory:
        typer.echo(f"memory grows, or passes {MAX_BYTES / 1e9:g} GB", err=True)
        raise typer.Exit(1)


@app.command()
def curve(
    counts: Annotated[str, typer.Option(help="Archive sizes, on all cores.")] = "1000,5000,20000",
    cores: Annotated[str, typer.Option(help="Numbers of cores, on the first archive size.")] = "1,2",
    mix: Mix = EVEN_MIX,
    sizes: Sizes = LARGE,
    distinct: Distinct = SCALING_DISTINCT,
    batch_size: BatchSize = BATCH_SIZE,
    workers: Workers = 0,
    json_file: ResumedFile = None,
    plot: Plot = None,
) -> None:
    """Images a second over cores and over archive size."""
    from bench.plots import lines
    from screener.settings import available_cores

    files, most = _numbers("--counts", counts), available_cores()
    points = [(files[0], number) for number in _numbers("--cores", cores) if number != most]
    points += [(count, most) for count in files]
    settings = RunSettings(batch_size=batch_size, workers=workers)
    result = _scale(_recipe(1, mix, sizes, "12", 0, distinct), points, settings, json_file)
    if plot is not None:
        by_cores: dict[str, list[tuple[float, float]]] = {}
        for point in result.points:
            line = by_cores.setdefault(f"{point.cores} cores", [])
            line.append((point.num_files, point.files_per_s))
        lines(by_cores, plot, across="files of the archive", up="images/s", logarithmic=True)


def _scale(
    recipe: ArchiveRecipe, points: list[tuple[int, int]], settings: RunSettings, json_file: Path | None
) -> ScalingResult:
    from bench.scaling import measure_scaling
    from bench.tables import scaling_table

    result = measure_scaling(recipe, points, settings, _announce, json_file)
    _print(scaling_table(result))
    return result


def _numbers(flag: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ConfigError(f"{flag} {text}: expected for example 1000,20000")
    return numbers


def _measure(
    request: BenchRequest, peers: Sequence[str] | None, json_file: Path | None, plot: Path | None
) -> None:
    from dataclasses import replace

    from bench.measure import measure
    from bench.results import save_result
    from bench.tables import circumstances_lines, peers_table, steps_table, streams_table, waits_table

    result = measure(request, _announce)
    _print(steps_table(result), streams_table(result), waits_table(result))
    if json_file is not None:  # peers take as long again, and one that fails must not cost what is measured
        save_result(result, json_file)
    if peers is not None:
        from bench.race import race

        result = replace(result, peers=tuple(race(request, peers, _announce)))
        _print(peers_table(result.peers))
        if json_file is not None:
            save_result(result, json_file)
    for line in circumstances_lines(result):
        typer.echo(line)
    if plot is not None:
        from bench.plots import step_budget

        step_budget(result, plot)


def _recipe(
    count: int, mix: str, sizes: str, bits: str, seed: int, distinct: int | None = None
) -> ArchiveRecipe:
    from bench.archive_factory import ArchiveRecipe, parse_bits, parse_mix, parse_sizes

    return ArchiveRecipe(count, parse_mix(mix), parse_sizes(sizes), parse_bits(bits), seed, distinct)


def _pictures(folder: Path | None) -> tuple[Any, ...]:
    from bench.archive_factory import read_pictures

    return () if folder is None else tuple(read_pictures(folder))


def _announce(line: str) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r\033[K{line}", err=True, nl=False)


def _print(*renderables: Any) -> None:  # noqa: ANN401 - rich has no common base class
    from rich.console import Console

    if sys.stderr.isatty():
        typer.echo("\r\033[K", err=True, nl=False)
    Console().print(*renderables, sep="\n")
