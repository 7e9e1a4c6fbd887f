"""A campaign folder to the columns that a report needs, checked before anything is counted.

Questionable: the month of acquisition comes from `private/links.parquet`, because the images table holds only
dates moved by up to half a year. Just that one column is read, only months with enough films are
printed, and without the private folder the year stands in.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from screener import schema
from screener.errors import ConfigError, ReportError
from screener.parts import reading

IMAGE_COLUMNS = (
    "file_id",
    "image_pid",
    "study_pid",
    "subject_pid",
    "pixel_sha256",
    "status",
    "reason",
    "quality_grade",
    "p_pneumoconiosis",
    "stage_pred",
    "referral",
)
"""Columns of the images table that a report reads."""


@dataclass(frozen=True, slots=True)
class PartWritten:
    """One part of the images table."""

    ended: datetime
    """When the file was last written (UTC)."""
    num_files: int


@dataclass(frozen=True, slots=True)
class CampaignTables:
    """What a report knows of a campaign."""

    images: pl.DataFrame
    """`IMAGE_COLUMNS`, one row per file."""
    studies: pl.DataFrame
    """`schema.STUDIES`."""
    run: dict[str, object]
    """`run.json`, empty without one."""
    key_id: str | None
    """Public name of the key that made the pseudonyms."""
    metadata: dict[str, str]
    """Key-value metadata of the studies table, for the report's own tables."""
    parts: tuple[PartWritten, ...]


def read_campaign(folder: Path) -> CampaignTables:
    """Read a campaign.

    Raises:
        ConfigError: the folder is not a campaign, or nothing was screened yet.
        ReportError: a table cannot be read, or was written with another schema version.
    """
    if not (folder / "campaign.json").exists():
        raise ConfigError("this folder is not a campaign: it has no campaign.json")
    paths = sorted((folder / "images").glob("part-*.parquet"))
    if not paths or not (folder / "studies.parquet").exists():
        raise ConfigError("this campaign holds no results yet: run `screener run` first")
    with reading("studies.parquet"):
        metadata = pl.read_parquet_metadata(folder / "studies.parquet")
        studies = pl.read_parquet(folder / "studies.parquet")
    _check_schema(metadata.get("schema_version"), studies)
    with reading("a part of images"):
        # A newer part replaces the older row of a file that was screened again.
        images = pl.concat([pl.read_parquet(path, columns=list(IMAGE_COLUMNS)) for path in paths]).unique(
            "file_id", keep="last", maintain_order=True
        )
    return CampaignTables(
        images=images,
        studies=studies.select(column.name for column in schema.STUDIES),
        run=_read_json(folder / "run.json"),
        key_id=_key_id(_read_json(folder / "campaign.json")),
        metadata={name: value for name, value in metadata.items() if name in _KEPT_METADATA},
        parts=tuple(_part_written(path) for path in paths),
    )


_KEPT_METADATA = ("schema_version", "model_sha256", "fingerprint_sha256", "intended_use")


def _check_schema(version: str | None, studies: pl.DataFrame) -> None:
    missing = [column.name for column in schema.STUDIES if column.name not in studies.columns]
    if version not in (None, schema.SCHEMA_VERSION) or missing:
        raise ReportError(
            f"studies.parquet has schema version {version}, this installation reads {schema.SCHEMA_VERSION}"
            f"{' and misses ' + ', '.join(missing[:5]) if missing else ''}: report with the version that "
            "screened the campaign, or screen it again"
        )


def _read_json(path: Path) -> dict[str, object]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path.name} of the campaign cannot be read: restore it from a backup") from error
    return content if isinstance(content, dict) else {}


def _key_id(campaign: dict[str, object]) -> str | None:
    fingerprint = campaign.get("fingerprint")
    key_id = fingerprint.get("key_id") if isinstance(fingerprint, dict) else None
    return key_id if isinstance(key_id, str) else None


def _part_written(path: Path) -> PartWritten:
    rows = int(pl.scan_parquet(path).select(pl.len()).collect().item())
    return PartWritten(datetime.fromtimestamp(path.stat().st_mtime, UTC), rows)


def acquisition_months(folder: Path, studies: pl.DataFrame) -> pl.Series | None:
    """Month of acquisition (`YYYY-MM`) of each study from the private links; None without them.

    Args:
        folder: the campaign folder.
        studies: with `file_id`.

    Raises:
        ReportError: the links exist and cannot be read.
    """
    path = folder / "private" / "links.parquet"
    if not path.exists():
        return None
    with reading("private/links"):
        dates = pl.read_parquet(path, columns=["file_id", "study_date"])
    digits = pl.col("study_date").str.replace_all(r"[^0-9]", "")
    month = pl.when(digits.str.len_chars() == 8).then(
        pl.concat_str(digits.str.slice(0, 4), pl.lit("-"), digits.str.slice(4, 2))
    )
    months = dates.select("file_id", month.alias("month")).unique("file_id")
    return studies.select("file_id").join(months, on="file_id", how="left", maintain_order="left")["month"]
