"""Generates `docs/data-dictionary.md` from `schema`; run `python -m screener.data_dictionary` after a change.

The page is committed so that it can be read without a checkout of the code; a test asserts it is current.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

import polars as pl

from screener import INTENDED_USE, code_meanings, schema
from screener.errors import REASON_STATUS

CodeT = TypeVar("CodeT", bound=StrEnum)

PAGE = Path(__file__).resolve().parents[1] / "docs" / "data-dictionary.md"

_TABLES = {
    "images": "`images/part-*.parquet`: one row per file found, whatever became of it; sorted by file_id "
    "within a part.",
    "studies": "`studies.parquet`: one row per study, its best image speaking for it "
    "([rule](decisions/best-image.md)); sorted by study_pid. Results are those of that image, except that "
    "`referral` is the most severe of the study's readable images.",
    "private/links": "`private/links.parquet`: identities. Delete the `private` folder and the campaign is "
    "anonymous.",
}
_METADATA = {
    "table": "Which of the tables below.",
    "schema_version": "Rises with any change of a name, a type or a meaning.",
    "model_sha256": "Hash over the networks that made the results.",
    "fingerprint_sha256": "Hash of the fingerprint in `campaign.json`: all that decides the results.",
    "intended_use": "The intended-use text.",
}


def data_dictionary() -> str:
    """The whole page as Markdown."""
    lines = [
        "# Data dictionary",
        "",
        "Generated from `screener/schema.py` by `python -m screener.data_dictionary`; do not edit.",
        "",
        f"Schema version {schema.SCHEMA_VERSION}. {INTENDED_USE}",
        "",
        "Probabilities are in [0, 1]. Identifiers are keyed pseudonyms, 32 hex digits. Null means not known "
        "or not computed, never zero.",
        "",
        "## Key-value metadata of every Parquet file",
        "",
        *_table(("key", "meaning"), ((f"`{key}`", meaning) for key, meaning in _METADATA.items())),
    ]
    for name, columns in schema.TABLES.items():
        rows = ((f"`{c.name}`", _type(c.dtype), c.unit, c.meaning) for c in columns)
        lines += ["", f"## {name}", "", _TABLES[name], ""]
        lines += _table(("column", "type", "unit", "meaning"), rows)
    return "\n".join([*lines, *_code_sections(), ""])


def _code_sections() -> list[str]:
    reasons = ((f"`{r}`", str(REASON_STATUS[r]), text) for r, text in code_meanings.REASONS.items())
    return [
        *_codes("status", code_meanings.STATUSES),
        "",
        "## Codes of `reason`",
        "",
        "Those of status failed are taken up again by `screener retry`.",
        "",
        *_table(("code", "status", "meaning"), reasons),
        *_codes("referral", code_meanings.REFERRALS),
        *_codes("dx_pred", code_meanings.DIAGNOSES),
        *_codes("quality_flags", code_meanings.QUALITY_FLAGS),
        *_codes("header_flags", code_meanings.HEADER_FLAGS),
    ]


def _codes(column: str, meanings: Mapping[CodeT, str]) -> list[str]:
    rows = ((f"`{code}`", meaning) for code, meaning in meanings.items())
    return ["", f"## Codes of `{column}`", "", *_table(("code", "meaning"), rows)]


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    return [_line(header), _line(("---",) * len(header)), *map(_line, rows)]


def _line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _type(dtype: pl.DataType) -> str:
    return "list of string" if dtype == pl.List(pl.String) else str(dtype).lower()


if __name__ == "__main__":
    PAGE.write_text(data_dictionary(), "utf-8")
