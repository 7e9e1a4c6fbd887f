"""The README's terminal picture and rows, from a real run: `python docs/terminal_picture.py CAMPAIGN`.

Runs `screener run examples/archive` on a pseudo-terminal into a new campaign, draws what a person would see
as docs/demo.svg, and prints the first study rows as Markdown.
"""

from __future__ import annotations

import os
import pty
import sys
from pathlib import Path

import polars as pl
from rich.console import Console
from rich.text import Text

COLUMNS = 118
COMMAND = ("run", "examples/archive")
SHOWN = ("study_pid", "dx_pred", "stage_pred", "p_pneumoconiosis", "p_tb", "quality_grade", "referral")


def main(campaign: Path) -> None:
    """Write docs/demo.svg and print the rows."""
    seen = bytearray()

    def read(descriptor: int) -> bytes:
        content = os.read(descriptor, 65536)
        seen.extend(content)
        return content

    os.environ |= {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "screener", *COMMAND, "--out", str(campaign)]
    pty.spawn([*command, "--key-file", str(campaign.with_suffix(".key"))], read)
    shown = seen.decode().split("\x1b[2K")[-1].split("\x1b[?25h")[-1].strip()
    shown = shown.replace(str(campaign), "archive-campaign").replace("\r", "")
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text("$ screener " + " ".join(COMMAND), style="bold"))
        console.print(Text.from_ansi(shown))
        Path(__file__).with_name("demo.svg").write_text(console.export_svg(title="screener"), "utf-8")
    studies = pl.read_parquet(campaign / "studies.parquet").filter(pl.col("status") == "screened")
    plain = {"tbl_hide_column_data_types": True, "tbl_hide_dataframe_shape": True}
    with pl.Config(tbl_formatting="ASCII_MARKDOWN", **plain):
        rows = studies.select(SHOWN).head(3).with_columns(pl.col("study_pid").str.head(12))
        sys.stdout.write(f"{rows}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
