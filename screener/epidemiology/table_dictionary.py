"""Generates `docs/report-tables.md` from `tables`; run `python -m screener.epidemiology.table_dictionary`.

The page is committed so that it can be read without the code; a test asserts that it is current.
"""

from __future__ import annotations

from pathlib import Path

from screener import INTENDED_USE
from screener.epidemiology.tables import PRIVATE_TABLES, REPORT_TABLES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "report-tables.md"


def table_dictionary() -> str:
    """The whole page as Markdown."""
    lines = [
        "# Tables of a report",
        "",
        "Generated from `screener/epidemiology/tables.py` by "
        "`python -m screener.epidemiology.table_dictionary`; do not edit.",
        "How the figures are computed: [epidemiology.md](epidemiology.md).",
        "",
        INTENDED_USE,
        "",
        "Each is written as `tables/<name>.parquet` and `tables/<name>.csv`. Null means suppressed or not "
        "computed.",
    ]
    for name, columns in REPORT_TABLES.items():
        private = " (one row per person; not in a public report)" if name in PRIVATE_TABLES else ""
        lines += [
            "",
            f"## {name}{private}",
            "",
            "| column | type | unit | meaning |",
            "| --- | --- | --- | --- |",
        ]
        lines += [f"| `{c.name}` | {c.dtype} | {c.unit} | {c.meaning} |" for c in columns]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(table_dictionary(), encoding="utf-8")
