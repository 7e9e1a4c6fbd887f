"""Pseudonyms back to patients, for the operator: reports joined with the private links.

The only place where identity meets results. Its output is identity, so it is written with mode 0600 and
never into the campaign folder, where it would outlive the deletion of `private/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from screener import schema
from screener.durable import replace_file
from screener.errors import ConfigError
from screener.parts import PRIVATE_FILE_MODE, read_links, reading

Table = Literal["studies", "images"]


def resolve(campaign: Path, table: Table = "studies") -> pl.DataFrame:
    """Join a report with the links.

    Args:
        campaign: the campaign folder; it need not be open, and nothing in it changes.
        table: which report.

    Returns:
        The private columns of `schema.LINKS` (null where a link is gone), then the report's columns, in the
        report's order.

    Raises:
        ConfigError: not a campaign, or its private folder was deleted.
        ReportError: a file of the campaign cannot be read.
    """
    if not (campaign / "campaign.json").exists():
        raise ConfigError("this folder is not a campaign: it has no campaign.json")
    if table == "studies" and not (campaign / "studies.parquet").exists():
        raise ConfigError("this campaign has no studies yet: let screener run end first, or ask for images")
    if not (campaign / "private").exists():
        raise ConfigError(
            "this campaign is anonymous: its private folder was deleted, nothing can be resolved"
        )
    links = read_links(campaign)
    with reading(table):
        report = _report(campaign, table)
    private = [column.name for column in schema.LINKS if column.name not in _SHARED]
    names = [column.name for column in schema.TABLES[table]]
    renamed = {"study_date": "true_study_date"}
    joined = report.join(
        links.select("file_id", *private, "study_date").rename(renamed),
        on="file_id",
        how="left",
        maintain_order="left",
    )
    return joined.select(*private, "true_study_date", *names)


def write_resolved(resolved: pl.DataFrame, out: Path, campaign: Path) -> None:
    """Write a resolved report as CSV (UTF-8 with byte order mark, which spreadsheets need), mode 0600.

    Raises:
        ConfigError: `out` lies in the campaign folder but not in its private folder.
        ReportError: the file cannot be written.
    """
    place = out.resolve()
    if place.is_relative_to(campaign.resolve()) and not place.is_relative_to(
        (campaign / "private").resolve()
    ):
        raise ConfigError("this table names patients: write it outside the campaign folder")
    flat = _flat(resolved)
    replace_file(place, lambda path: flat.write_csv(path, include_bom=True), mode=PRIVATE_FILE_MODE)


def csv_text(resolved: pl.DataFrame) -> str:
    """A resolved report as CSV text, without byte order mark; lists are joined by spaces."""
    return _flat(resolved).write_csv()


def _flat(resolved: pl.DataFrame) -> pl.DataFrame:
    """Without lists, and without text that a spreadsheet would take for a formula.

    A header can say anything: `=HYPERLINK(...)` as a patient's name must stay text. As spreadsheets do it, an
    apostrophe goes before it; whole numbers with a sign are left alone.
    """
    lists = [name for name, dtype in resolved.schema.items() if dtype == pl.List(pl.String)]
    flat = resolved.with_columns(pl.col(name).list.join(" ") for name in lists)
    text = pl.col(pl.String)
    is_formula = text.str.contains(_FORMULA) & ~text.str.contains(_SIGNED_NUMBER)
    return flat.with_columns(pl.when(is_formula).then("'" + text).otherwise(text).name.keep())


_FORMULA = r"^\s*[=+\-@\t\r]"
_SIGNED_NUMBER = r"^[+-]\d+$"
_SHARED = frozenset({"file_id", "image_pid", "study_pid", "subject_pid", "study_date"})


def _report(campaign: Path, table: Table) -> pl.DataFrame:
    if table == "studies":
        return pl.read_parquet(campaign / "studies.parquet")
    return pl.read_parquet(sorted((campaign / "images").glob("part-*.parquet"))).sort("file_id")
