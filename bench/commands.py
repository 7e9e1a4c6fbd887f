"""`screener bench ...`: measure this machine, make archives, compare results. Heavy imports inside."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screener.settings import RunSettings

if TYPE_CHECKING:
    from bench.archive_factory import ArchiveRecipe
    from bench.measure import BenchRequest

app = typer.Typer(help="Measure every step and the whole stream on this machine, alone or against peers.")

DEFAULT_MIX = "raw=40,jpeg_lossless=30,j2k=20,jpegls=10"
LARGE = "3056x2544"
VARIED = "3056x2544,2500x2048,2022x2022,2140x1760,2836x2336"
QUICK_COUNT, QUICK_REPEATS = 32, 1
NUM_DISTINCT = 48
"""Files of an archive made for measuring that lie on the disk; the rest are hard links to them."""

ArchiveOption = Annotated[
    Path | None, typer.Option(help="Measure on this folder of DICOM files instead of made archives.")
]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")]
Plot = Annotated[Path | None, typer.Option(help="Write a plot (PNG) to this file; needs the train extra.")]
BundlePath = Annotated[Path | None, typer.Option(help="Model bundle; default: the one that ships.")]
Mix = Annotated[str, typer.Option(help="Encodings and their weights.")]
Sizes = Annotated[str, typer.Option(help="ROWSxCOLUMNS of the films, taken in turn.")]
Bits = Annotated[str, typer.Option(help="Bits stored: 12, a list 10,12 or a range 10-16, taken in turn.")]
Pictures = Annotated[
    Path | None, typer.Option(help="Folder of PNG, JPEG or TIFF chest pictures to make the films from.")
]
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
    count: Annotated[int, typer.Option(help="Files of each archive that is made.")] = 160,
    repeats: Annotated[int, typer.Option(help="Timed repeats, after one warm-up.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="32 files, one repeat: a look, no result.")] = False,
    mix: Mix = DEFAULT_MIX,
    sizes: Sizes = LARGE,
    bits: Bits = "12",
    pictures: Pictures = None,
    seed: Seed = 0,
    bundle: BundlePath = None,
    batch_size: Annotated[int, typer.Option(help="Images per engine call.")] = RunSettings().batch_size,
    workers: Annotated[int, typer.Option(help="Decoder processes; 0 is one per core.")] = 0,
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


def _measure(
    request: BenchRequest, peers: Sequence[str] | None, json_file: Path | None, plot: Path | None
) -> None:
    from dataclasses import replace

    from bench.measure import measure
    from bench.results import save_result
    from bench.tables import circumstances_lines, peers_table, steps_table, streams_table

    result = measure(request, _announce)
    _print(steps_table(result), streams_table(result))
    if peers is not None:
        from bench.race import race

        result = replace(result, peers=tuple(race(request, peers, _announce)))
        _print(peers_table(result.peers))
    for line in circumstances_lines(result):
        typer.echo(line)
    if json_file is not None:
        save_result(result, json_file)
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
