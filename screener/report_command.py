"""`screener report`: parse, call, print. The command line mounts `report`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screener import INTENDED_USE
from screener.errors import ConfigError
from screener.report_settings import ReportSettings

if TYPE_CHECKING:
    from screener.report import ReportSummary

DEFAULTS = ReportSettings(Path())


Campaign = Annotated[Path, typer.Argument(help="Campaign folder of an earlier run.", show_default=False)]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Report folder; default: CAMPAIGN/report")]
Roster = Annotated[
    Path | None, typer.Option(help="Workers: patient_id, site, job, dust, exposure_years, birth_year, sex.")
]
Readings = Annotated[
    Path | None, typer.Option(help="Readers' findings: study_pid, reader, gbz_stage or ilo_profusion, tb.")
]
Accuracy = Annotated[
    Path | None,
    typer.Option(help="Sensitivity and specificity (JSON, bundle or earlier report), to correct prevalence."),
]
KeyFile = Annotated[Path | None, typer.Option(help="Pseudonym key, for a roster with patient_id.")]
By = Annotated[
    str | None,
    typer.Option(help="Groups, by comma: site,job,dust,age_band,sex,year,... Default: all there are."),
]


def report(
    campaign: Campaign,
    out: Out = None,
    roster: Roster = None,
    readings: Readings = None,
    accuracy: Accuracy = None,
    key_file: KeyFile = None,
    by: By = None,
    interval: Annotated[str, typer.Option(help="wilson or clopper_pearson.")] = DEFAULTS.interval,
    confidence: Annotated[float, typer.Option(help="Coverage of the intervals.")] = DEFAULTS.confidence,
    min_cell: Annotated[int, typer.Option(help="Counts below this are suppressed.")] = DEFAULTS.min_cell,
    max_thumbnails: Annotated[
        int, typer.Option(help="Most pictures on the page, about 30 kB each.")
    ] = DEFAULTS.max_thumbnails,
    language: Annotated[str, typer.Option(help="en or zh; the page holds both.")] = DEFAULTS.language,
    public: Annotated[
        bool, typer.Option("--public", help="Leave out what speaks of single persons.")
    ] = False,
    hive: Annotated[
        bool, typer.Option("--hive", help="Also write persons as site=.../year=... folders.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")] = False,
) -> None:
    """Write tables, the clinic's worklist and one page about a campaign."""
    settings = ReportSettings(
        campaign=campaign,
        output=out,
        roster=roster,
        readings=readings,
        accuracy=accuracy,
        key_file=key_file,
        by=None if by is None else tuple(name.strip() for name in by.split(",") if name.strip()),
        interval=interval,  # type: ignore[arg-type] # ReportSettings checks the choice and names the flag
        confidence=confidence,
        min_cell=min_cell,
        max_thumbnails=max_thumbnails,
        language=language,  # type: ignore[arg-type]
        public=public,
        hive=hive,
    )
    summary = _build(settings)
    if as_json:
        typer.echo(json.dumps(summary_json(summary), indent=2))
    else:
        _show(summary, settings)


def _build(settings: ReportSettings) -> ReportSummary:
    try:
        from screener.report import build_report
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"reports need the package {error.name}: install the extra with pip install '.[report]'"
        ) from error
    return build_report(settings)


def summary_json(summary: ReportSummary) -> dict[str, object]:
    """The summary for machines."""
    return {
        "report": str(summary.folder),
        "page": str(summary.page),
        "page_bytes": summary.page_bytes,
        "studies": summary.num_studies,
        "referred": summary.num_referred,
        "thumbnails": summary.num_thumbnails,
        "warnings": summary.warnings,
    }


def _show(summary: ReportSummary, settings: ReportSettings) -> None:
    typer.echo(f"page       {summary.page}  ({summary.page_bytes / 1e6:.1f} MB)")
    typer.echo(f"tables     {summary.folder / 'tables'}")
    if not settings.public:
        typer.echo(
            f"worklist   {summary.folder / 'tables' / 'worklist.csv'}  ({summary.num_referred:,} studies)"
        )
    for warning, number in summary.warnings.items():
        typer.echo(f"counted    {warning} {number:,}", err=True)
    typer.echo(INTENDED_USE)
