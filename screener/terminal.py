"""Tables for the terminal: a run's counters, first study rows, an inspection, the doctor's findings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from screener.records import RunSummary

if TYPE_CHECKING:
    from screener.doctor import Check
    from screener.inspection import Inspection

FIRST_STUDIES = 10
_STAGES = ("0", "I", "II", "III")


def summary_table(summary: RunSummary) -> Table:
    """The counters of a finished run, reasons included."""
    shown = table("Run (interrupted)" if summary.interrupted else "Run", "files", "count")
    shown.columns[1].justify = "right"
    for name in ("found", "already_done", "screened", "rejected", "failed"):
        shown.add_row(name.replace("_", " "), f"{getattr(summary, name):,}")
    if summary.reasons:
        shown.add_section()
    for reason, count in summary.reasons.items():
        shown.add_row(reason, f"{count:,}")
    shown.add_section()
    shown.add_row("seconds", f"{summary.seconds:,.1f}")
    shown.add_row("images/s", f"{summary.screened / max(summary.seconds, 1e-6):,.1f}")
    return shown


def first_studies_table(campaign: Path, count: int = FIRST_STUDIES) -> Table:
    """The first screened studies of a campaign, by pseudonym."""
    import polars as pl

    studies = pl.read_parquet(campaign / "studies.parquet").filter(pl.col("status") == "screened")
    num_shown = min(count, studies.height)
    shown = table(
        f"First {num_shown} of {studies.height:,} screened studies (suspected, not diagnosed)",
        "study",
        "suspected",
        "stage",
        "P(pneumoconiosis)",
        "P(tuberculosis)",
        "quality",
        "referral",
    )
    for row in studies.head(count).iter_rows(named=True):
        shown.add_row(
            row["study_pid"][:12],
            row["dx_pred"],
            _STAGES[row["stage_pred"]],
            f"{row['p_pneumoconiosis']:.2f}",
            f"{row['p_tb']:.2f}",
            str(row["quality_grade"]),
            row["referral"],
        )
    return shown


def inspection_table(inspection: Inspection) -> Table:
    """What every step found about one file."""
    shown = table(f"This file would be {inspection.status}", "step", "fact", "found")
    for step, facts in inspection.facts.items():
        for number, (name, value) in enumerate(facts.items()):
            shown.add_row("" if number else step, name.replace("_", " "), _text(value))
        shown.add_section()
    return shown


def checks_table(checks: Sequence[Check]) -> Table:
    """The doctor's findings."""
    shown = table("What this installation can do", "topic", "name", "state", "found", "to get it")
    colours = {"fine": "green", "absent": "yellow", "broken": "red"}
    for check in checks:
        state = f"[{colours[check.state]}]{check.state}[/]"
        shown.add_row(check.topic, check.name, state, _plain(check.found), _plain(check.remedy))
    return shown


def table(title: str, *columns: str) -> Table:
    """An empty table with a title and columns."""
    shown = Table(title=title, title_justify="left")
    for column in columns:
        shown.add_column(column)
    return shown


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    return _plain("" if value is None else str(value))


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
