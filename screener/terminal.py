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
    table = _table("Run (interrupted)" if summary.interrupted else "Run", "files", "count")
    table.columns[1].justify = "right"
    for name in ("found", "already_done", "screened", "rejected", "failed"):
        table.add_row(name.replace("_", " "), f"{getattr(summary, name):,}")
    if summary.reasons:
        table.add_section()
    for reason, count in summary.reasons.items():
        table.add_row(reason, f"{count:,}")
    table.add_section()
    table.add_row("seconds", f"{summary.seconds:,.1f}")
    table.add_row("images/s", f"{summary.screened / max(summary.seconds, 1e-6):,.1f}")
    return table


def first_studies_table(campaign: Path, count: int = FIRST_STUDIES) -> Table:
    """The first screened studies of a campaign, by pseudonym."""
    import polars as pl

    studies = pl.read_parquet(campaign / "studies.parquet").filter(pl.col("status") == "screened")
    shown = min(count, studies.height)
    table = _table(
        f"First {shown} of {studies.height:,} screened studies (suspected, not diagnosed)",
        "study",
        "suspected",
        "stage",
        "P(pneumoconiosis)",
        "P(tuberculosis)",
        "quality",
        "referral",
    )
    for row in studies.head(count).iter_rows(named=True):
        table.add_row(
            row["study_pid"][:12],
            row["dx_pred"],
            _STAGES[row["stage_pred"]],
            f"{row['p_pneumoconiosis']:.2f}",
            f"{row['p_tb']:.2f}",
            str(row["quality_grade"]),
            row["referral"],
        )
    return table


def inspection_table(inspection: Inspection) -> Table:
    """What every step found about one file."""
    table = _table(f"This file would be {inspection.status}", "step", "fact", "found")
    for step, facts in inspection.facts.items():
        for number, (name, value) in enumerate(facts.items()):
            table.add_row("" if number else step, name.replace("_", " "), _text(value))
        table.add_section()
    return table


def checks_table(checks: Sequence[Check]) -> Table:
    """The doctor's findings."""
    table = _table("What this installation can do", "topic", "name", "state", "found", "to get it")
    colours = {"fine": "green", "absent": "yellow", "broken": "red"}
    for check in checks:
        state = f"[{colours[check.state]}]{check.state}[/]"
        table.add_row(check.topic, check.name, state, _plain(check.found), _plain(check.remedy))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


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
