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
    """Running totals of one run; `found` is written by the loader's thread, the rest by the report's."""

    found: int = 0
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

    def summary(self, *, already_done: int, interrupted: bool) -> RunSummary:
        """The totals, reconciled.

        Args:
            already_done: files that the campaign passed over.
            interrupted: the run was stopped; files that it did not reach are not counted as found.

        Raises:
            ReportError: an uninterrupted run whose walk found more or fewer files than ended as rows.
        """
        ended = self.handled + already_done
        if not interrupted and ended != self.found:
            raise ReportError(
                f"{self.found} files were found and {ended} are accounted for: please report this"
            )
        return RunSummary(
            found=ended,
            screened=self.screened,
            rejected=self.rejected,
            failed=self.failed,
            already_done=already_done,
            reasons=dict(sorted(self.reasons.items())),
            seconds=self.seconds,
            bytes_read=self.bytes_read,
            interrupted=interrupted,
        )
