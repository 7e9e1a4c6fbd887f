"""The command line: parse, call, exit. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.commands import app as bench_app
from calibration.errors import CalibrationError
from engines.errors import BundleError, EngineError
from screener import INTENDED_USE, __version__
from screener.engines_command import app as engines_app
from screener.errors import ConfigError, ExitCode, ScreenerError
from screener.report_command import report
from screener.settings import RunSettings
from training.cohort_commands import app as cohort_app
from training.commands import app as training_app

if TYPE_CHECKING:
    from screener.records import RunSummary
    from screener.run import RunRequest

DEFAULTS = RunSettings()
PIPED_COLUMNS = 120

app = typer.Typer(
    help="Screens archives of DICOM chest radiographs for suspected pneumoconiosis.\n\n" + INTENDED_USE,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(bench_app, name="bench")

Archive = Annotated[Path, typer.Argument(help="Folder of DICOM files.", show_default=False)]
Folder = Annotated[Path, typer.Argument(help="Campaign folder.", show_default=False)]
BundlePath = Annotated[Path | None, typer.Option(help="Model bundle; default: the one that ships.")]
Thresholds = Annotated[Path | None, typer.Option(help="Threshold set of the site, from screener calibrate.")]
KeyFile = Annotated[
    Path | None, typer.Option(help="Pseudonym key; default: ~/.config/screener/pseudonym.key")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
PrecisionOption = Annotated[str, typer.Option(help="auto, fp32, bf16, fp16 (GPU) or int8.")]
BatchSize = Annotated[int, typer.Option(help="Images per engine call.")]
Workers = Annotated[int, typer.Option(help="Decoder processes; 0 is one per core.")]
TimeoutS = Annotated[float, typer.Option(help="Seconds one file may take to decode.")]
RejectShare = Annotated[
    float, typer.Option(help="Exit with 3 above this share of rejected and failed files.")
]
SaveMasks = Annotated[
    bool, typer.Option("--save-masks", help="Write the lung masks of the films of this run as PNG.")
]
Pictures = Annotated[str, typer.Option(help="Films that get an overlay picture: none, referred or all.")]
MaxMegapixels = Annotated[float, typer.Option(help="Refuse pictures declared larger than this.")]
GpuMemoryMb = Annotated[float, typer.Option(help="GPU memory for decoding, MB; --device cuda only.")]


@app.command()
def run(
    archive: Archive,
    out: Annotated[Path | None, typer.Option(help="Campaign folder; default: ./ARCHIVE-campaign")] = None,
    bundle: BundlePath = None,
    thresholds: Thresholds = None,
    key_file: KeyFile = None,
    device: DeviceOption = DEFAULTS.device,
    precision: PrecisionOption = DEFAULTS.precision,
    batch_size: BatchSize = DEFAULTS.batch_size,
    workers: Workers = DEFAULTS.workers,
    timeout_s: TimeoutS = DEFAULTS.timeout_s,
    max_megapixels: MaxMegapixels = DEFAULTS.max_megapixels,
    gpu_memory_mb: GpuMemoryMb = DEFAULTS.gpu_memory_mb,
    part_rows: Annotated[int, typer.Option(help="Rows after which a part is written.")] = DEFAULTS.part_rows,
    reject_share: RejectShare = DEFAULTS.reject_share,
    save_masks: SaveMasks = DEFAULTS.save_masks,
    pictures: Pictures = DEFAULTS.pictures,
    as_json: AsJson = False,
) -> None:
    """Screen an archive. The same command again continues, and picks up new and changed files."""
    from screener.run import RunRequest

    settings = RunSettings(
        device=device,  # type: ignore[arg-type] # RunSettings checks the choice and names the flag
        precision=precision,  # type: ignore[arg-type]
        batch_size=batch_size,
        workers=workers,
        timeout_s=timeout_s,
        max_megapixels=max_megapixels,
        gpu_memory_mb=gpu_memory_mb,
        part_rows=part_rows,
        reject_share=reject_share,
        save_masks=save_masks,
        pictures=pictures,  # type: ignore[arg-type]
    )
    folder = out or Path(f"{archive.resolve().name or 'root'}-campaign")
    _screen(RunRequest(archive, folder, settings, bundle, thresholds, key_file), as_json=as_json)


@app.command()
def retry(
    campaign: Folder,
    reason: Annotated[list[str] | None, typer.Option(help="Only this reason; may be repeated.")] = None,
    archive: Annotated[
        Path | None, typer.Option(help="The archive, if the private folder was deleted.")
    ] = None,
    bundle: BundlePath = None,
    thresholds: Thresholds = None,
    key_file: KeyFile = None,
    device: DeviceOption = DEFAULTS.device,
    precision: PrecisionOption = DEFAULTS.precision,
    workers: Workers = DEFAULTS.workers,
    timeout_s: TimeoutS = DEFAULTS.timeout_s,
    max_megapixels: MaxMegapixels = DEFAULTS.max_megapixels,
    gpu_memory_mb: GpuMemoryMb = DEFAULTS.gpu_memory_mb,
    save_masks: SaveMasks = DEFAULTS.save_masks,
    pictures: Pictures = DEFAULTS.pictures,
    as_json: AsJson = False,
) -> None:
    """Screen again what failed, and nothing else."""
    from screener.campaign import recorded_archive_root
    from screener.run import RunRequest, retryable

    settings = RunSettings(
        device=device,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        workers=workers,
        timeout_s=timeout_s,
        max_megapixels=max_megapixels,
        gpu_memory_mb=gpu_memory_mb,
        save_masks=save_masks,
        pictures=pictures,  # type: ignore[arg-type]
    )
    root = archive or recorded_archive_root(campaign)
    reasons = retryable(reason or [])
    request = RunRequest(root, campaign, settings, bundle, thresholds, key_file, retry_reasons=reasons)
    _screen(request, as_json=as_json)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A DICOM file.", show_default=False)],
    bundle: BundlePath = None,
    thresholds: Thresholds = None,
    as_json: AsJson = False,
) -> None:
    """Say what would happen to this file and why. Prints no patient identity."""
    from screener.inspection import inspect_file
    from screener.terminal import inspection_table

    inspection = inspect_file(file, bundle, thresholds)
    if as_json:
        typer.echo(json.dumps(inspection.facts, indent=2, ensure_ascii=False))
    else:
        _print(inspection_table(inspection))


@app.command()
def resolve(
    campaign: Folder,
    images: Annotated[bool, typer.Option("--images", help="One row per image instead of per study.")] = False,
    out: Annotated[Path | None, typer.Option(help="CSV file outside the campaign; default: stdout")] = None,
) -> None:
    """Join results with the patients behind them. The output identifies people."""
    from screener.resolve import csv_text, write_resolved
    from screener.resolve import resolve as join_links

    resolved = join_links(campaign, "images" if images else "studies")
    if out is None:
        typer.echo(csv_text(resolved), nl=False)
    else:
        write_resolved(resolved, out, campaign)
        typer.echo(f"{resolved.height:,} rows that identify people: {out}", err=True)


@app.command()
def calibrate(
    campaign: Folder,
    labels: Annotated[Path, typer.Option(help="CSV of the site's own readings.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Threshold set to write (.json), for screener run --thresholds.")],
    sensitivity: Annotated[
        float, typer.Option(help="Required for pneumoconiosis and stage I or more.")
    ] = 0.95,
    tb_sensitivity: Annotated[float, typer.Option(help="Required for tuberculosis.")] = 0.90,
    prevalence: Annotated[float | None, typer.Option(help="Of pneumoconiosis where it will be used.")] = None,
    tb_prevalence: Annotated[
        float | None, typer.Option(help="Of tuberculosis where it will be used.")
    ] = None,
) -> None:
    """Choose thresholds from a site's own readings."""
    from calibration.fitting import Requirements
    from screener.calibrate import calibrate as choose

    needs = Requirements(
        sensitivity=sensitivity,
        tb_sensitivity=tb_sensitivity,
        prevalence=prevalence,
        tb_prevalence=tb_prevalence,
    )
    report = choose(campaign, labels, out, needs)
    typer.echo(f"{report.num_matched:,} readings matched, {report.num_unmatched:,} not", err=True)
    typer.echo(f"threshold set {report.threshold_set.threshold_set_id}")
    for file in report.files:
        typer.echo(str(file))
    if report.note:
        typer.echo(report.note, err=True)


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this installation can do, what is missing and how to get it."""
    from screener.doctor import State, examine
    from screener.terminal import checks_table

    checks = list(examine())
    if as_json:
        typer.echo(json.dumps([asdict(check) for check in checks], indent=2))
    else:
        _print(checks_table(checks))
    raise typer.Exit(ExitCode.FAILED if any(check.state is State.BROKEN for check in checks) else 0)


def _screen(request: RunRequest, *, as_json: bool) -> None:
    from screener.run import run as run_request

    with _stopping_on_interrupt() as stop:
        summary = run_request(request, stop)
    if as_json:
        typer.echo(json.dumps(summary_json(request, summary), indent=2))
    else:
        _show(request, summary)
    if summary.interrupted:
        typer.echo("Interrupted; nothing is lost. Run the same command again to continue.", err=True)
    elif not summary.found:
        typer.echo("No file was found in the archive: is it the right folder, is its disk mounted?", err=True)
    raise typer.Exit(exit_code(summary, request.settings.reject_share))


def summary_json(request: RunRequest, summary: RunSummary) -> dict[str, Any]:
    """The summary for machines: counters of this run and where the campaign is."""
    return {"campaign": str(request.campaign), **asdict(summary)}


def exit_code(summary: RunSummary, reject_share: float) -> ExitCode:
    """3 when more than `reject_share` of the files handled were not screened; 1 when interrupted.

    2 when the archive holds nothing at all: more likely the wrong folder, or a disk that is not mounted.
    """
    if summary.interrupted:
        return ExitCode.FAILED
    if not summary.found:
        return ExitCode.USAGE
    handled = summary.screened + summary.rejected + summary.failed
    not_screened = summary.rejected + summary.failed
    return ExitCode.TOO_MANY_REJECTED if not_screened > reject_share * handled else ExitCode.DONE


def _show(request: RunRequest, summary: RunSummary) -> None:
    from screener.terminal import first_studies_table, summary_table

    _print(summary_table(summary), first_studies_table(request.campaign))
    typer.echo(f"campaign   {request.campaign}")
    typer.echo(f"studies    {request.campaign / 'studies.parquet'}")
    typer.echo(f"images     {request.campaign / 'images'}/part-*.parquet")
    typer.echo(f"run        {request.campaign / 'run.json'}")
    typer.echo(f"identity   {request.campaign / 'private'}  (delete it to leave an anonymous campaign)")
    typer.echo(INTENDED_USE)


def _print(*renderables: Any) -> None:  # noqa: ANN401 - rich has no common base class
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width of its own; 80 columns would cut words off
        console = Console(width=PIPED_COLUMNS)
    console.print(*renderables, sep="\n")


@contextmanager
def _stopping_on_interrupt() -> Iterator[threading.Event]:
    """The first Ctrl-C (or SIGTERM) finishes the files in hand; the second ends at once."""
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])
        typer.echo("Finishing the files in hand; press Ctrl-C again to end at once.", err=True)

    for number in before:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command()(report)
app.add_typer(engines_app, name="engines")
app.add_typer(training_app, name="train")
app.add_typer(cohort_app, name="cohort")


def main() -> None:
    """Entry point: every expected error becomes one line on stderr and an exit code."""
    try:
        app()
    except (ScreenerError, BundleError, EngineError, CalibrationError) as error:
        typer.echo(f"screener: {error}", err=True)
        sys.exit(int(ExitCode.USAGE if isinstance(error, ConfigError) else ExitCode.FAILED))
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to continue")
