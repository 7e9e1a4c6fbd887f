"""Real DICOM files of the repository and what must become of each, from `tests/dicom/outcomes.csv`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
OUTCOMES_CSV = REPOSITORY / "tests" / "dicom" / "outcomes.csv"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table."""

    file: str
    sha256: str
    path: Path | None
    """The copy in the repository, if there is one."""
    header: str
    """`eligible`, or the reason that the header rejects for."""
    status: str
    """screened, rejected or failed at the end of the stream."""
    reason: str
    """Reason at the end of the stream; empty when screened."""


def read_outcomes() -> list[Outcome]:
    """Every row, copied or not."""
    with OUTCOMES_CSV.open(newline="", encoding="utf-8") as table:
        return [
            Outcome(
                file=row["file"],
                sha256=row["sha256"],
                path=REPOSITORY / row["path"] if row["in_repository"] == "yes" else None,
                header=row["header"],
                status=row["status"],
                reason=row["reason"],
            )
            for row in csv.DictReader(table)
        ]


def copied_outcomes() -> list[tuple[Path, Outcome]]:
    """The rows whose file is in the repository."""
    return [(outcome.path, outcome) for outcome in read_outcomes() if outcome.path is not None]


def real_file(name: str) -> Path:
    """A copied file by its name in the table."""
    return next(path for path, outcome in copied_outcomes() if outcome.file == name)
