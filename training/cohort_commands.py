"""`screener cohort ...`: build a simulated training cohort, look at it, test that nothing gives it away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Simulated training cohorts: phantoms, and findings drawn into real films.", no_args_is_help=True
)

CohortFolder = Annotated[Path, typer.Argument(help="Cohort folder.", show_default=False)]


@app.command()
def build(
    out: CohortFolder,
    num_films: Annotated[int, typer.Option(help="Films to make.")] = 1000,
    seed: Annotated[int, typer.Option(help="Decides every film, whatever the number of workers.")] = 0,
    films: Annotated[
        Path | None,
        typer.Option(
            help="CSV of real films to draw into: image, mask, subject_id, source, findings, licence."
        ),
    ] = None,
    real_share: Annotated[float, typer.Option(help="Share of films based on real ones.")] = 0.5,
    other_share: Annotated[float, typer.Option(help="Share of phantoms that are not frontal chests.")] = 0.08,
    parts: Annotated[
        str, typer.Option(help="Parts of the split to make, for example on different machines.")
    ] = "train,calibration,test",
    workers: Annotated[int, typer.Option(help="Processes; 0 means one per core.")] = 0,
) -> None:
    """Build a cohort; run again with the same arguments to finish one that was interrupted."""
    from rich.console import Console
    from rich.progress import Progress

    from training.cohort import build as build_cohort
    from training.cohort_deal import CohortSettings

    settings = CohortSettings(num_films, seed, films, real_share, other_share, tuple(parts.split(",")))
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("films", total=num_films)
        table = build_cohort(out, settings, workers=workers, on_progress=lambda n: progress.advance(task, n))
    typer.echo(str(table))


@app.command()
def sheet(
    cohort: CohortFolder,
    out: Annotated[Path, typer.Argument(help="PNG to write.", show_default=False)],
    columns: Annotated[int, typer.Option(help="Films of a row.")] = 8,
    side: Annotated[int, typer.Option(help="Side of a film, pixels.")] = 300,
    by: Annotated[str, typer.Option(help="Column that makes the rows.")] = "film_class",
    outlines: Annotated[bool, typer.Option("--outlines", help="Draw the six zones.")] = False,
) -> None:
    """Draw a contact sheet of a cohort, one class a row."""
    from training.contact_sheet import contact_sheet

    shown = contact_sheet(cohort, out, columns=columns, side=side, outlines=outlines, by=by)
    typer.echo(f"{shown} films")


@app.command()
def probe(
    cohort: CohortFolder,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Test that nuisances, and the picture outside the lungs, do not tell the class."""
    import json
    from dataclasses import asdict

    from training.probes import run_probes

    for result in run_probes(cohort):
        if as_json:
            typer.echo(json.dumps({**asdict(result), "at_chance": result.at_chance}))
            continue
        verdict = "at chance" if result.at_chance else "NOT at chance"
        typer.echo(
            f"{result.probe:14} {result.target:15} {result.source:10} n={result.num_films:5} "
            f"AUC {result.auc:.3f} ({result.low:.3f}-{result.high:.3f}) {verdict}"
        )
