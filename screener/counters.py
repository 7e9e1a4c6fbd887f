"""What a run has counted so far. The archive walk and the report count independently, and must agree."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from screener.errors import ReportError, Status
from screener.records import ArchiveEntry, Rejection, RunSummary, ScreenedImage


@dataclass(slots=True)
class Counters:
    """Running totals of one run. Written by one thread each: `found` by the loader's, the rest by the report's."""

    found: int = 0
    already_done: int = 0
    screened: int = 0
    rejected: int = 0
    failed: int = 0
    bytes_read: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.monotonic)

    def count_found(self, entries: Iterable[ArchiveEntry]) -> Iterator[ArchiveEntry]:
        """Pass entries through, counting them."""
        for entry in entries:
            self.found += 1
            yield entry

    def count(self, ended: ScreenedImage | Rejection) -> None:
        """One file has ended."""
        if isinstance(ended, ScreenedImage):
            self.screened += 1
            self.bytes_read += ended.source.entry.size_bytes
            return
        self.reasons[ended.reason] += 1
        if ended.status is Status.FAILED:
            self.failed += 1
        else:
            self.rejected += 1

    @property
    def handled(self) -> int:
        """Files that ended in this run."""
        return self.screened + self.rejected + self.failed

    @property
    def seconds(self) -> float:
        """Time since the run began."""
        return time.monotonic() - self.started

    def summary(self, *, interrupted: bool) -> RunSummary:
        """The totals, reconciled.

        Raises:
            ReportError: an uninterrupted run whose walk found more or fewer files than ended as rows.
        """
        ended = self.handled + self.already_done
        if not interrupted and ended != self.found:
            raise ReportError(f"{self.found} files were found, {ended} are accounted for; the report is incomplete")
        return RunSummary(
            found=ended,
            screened=self.screened,
            rejected=self.rejected,
            failed=self.failed,
            already_done=self.already_done,
            reasons=dict(sorted(self.reasons.items())),
            seconds=self.seconds,
            bytes_read=self.bytes_read,
            interrupted=interrupted,
        )
