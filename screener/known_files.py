"""The files a campaign already has rows for, held as sorted arrays: 37 bytes a file.

A file is the same when its pseudonym, size and (keyed) modification time are. A Python dict would take ten
times the memory and seconds to fill; here a chunk of the archive walk is looked up with one binary search.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import polars as pl

from screener.errors import REASON_STATUS, Reason, Status

COLUMNS = ("file_id", "size_bytes", "mtime_key", "reason")
"""Columns of the images table that make the index."""

_REASONS = tuple(Reason)
_SCREENED = len(_REASONS)
"""Code of a file without a reason."""

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]


def split_digests(digests: bytes) -> tuple[UInt64, UInt64]:
    """Pseudonyms of 16 raw bytes each to their high and low halves, (N,) uint64."""
    halves = np.frombuffer(digests, ">u8").reshape(-1, 2).astype(np.uint64)
    return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])


def reason_codes(reasons: frozenset[Reason]) -> npt.NDArray[np.uint8]:
    """Codes of these reasons, as `KnownFiles.reason` holds them."""
    return np.array([code for code, reason in enumerate(_REASONS) if reason in reasons], np.uint8)


@dataclass(frozen=True, slots=True)
class KnownFiles:
    """N files that have rows, sorted by pseudonym."""

    high: UInt64
    """(N,) first half of the file_id, ascending."""
    low: UInt64
    """(N,) second half of the file_id."""
    size_bytes: Int64
    """(N,)"""
    mtime_key: Int64
    """(N,)"""
    part: npt.NDArray[np.uint32]
    """(N,) number of the part that holds the row."""
    reason: npt.NDArray[np.uint8]
    """(N,) position in `Reason`, or its length when the file was screened."""

    def __len__(self) -> int:
        return len(self.high)

    @classmethod
    def none(cls) -> KnownFiles:
        """No file is known."""
        return cls.of_frame(pl.DataFrame(schema=dict.fromkeys(COLUMNS, pl.String)), 0)

    @classmethod
    def of_frame(cls, images: pl.DataFrame, part: int) -> KnownFiles:
        """The files of one part.

        Args:
            images: `COLUMNS` of the images table, sorted by file_id.
            part: the part's number.
        """
        high, low = split_digests(bytes.fromhex("".join(images["file_id"].to_list())))
        codes = images["reason"].cast(pl.Enum(Reason)).to_physical().cast(pl.UInt8).fill_null(_SCREENED)
        return cls(
            high=high,
            low=low,
            size_bytes=images["size_bytes"].cast(pl.Int64).to_numpy(),
            mtime_key=images["mtime_key"].cast(pl.Int64).to_numpy(),
            part=np.full(len(images), part, np.uint32),
            reason=codes.to_numpy(),
        )

    @classmethod
    def joined(cls, pieces: list[KnownFiles]) -> tuple[KnownFiles, KnownFiles]:
        """All files of several parts, and the rows that a newer part supersedes.

        A run that was killed between writing a part and cleaning the older ones leaves such rows.
        """
        whole = cls._concatenated(pieces or [cls.none()])
        whole = whole._take(np.lexsort((whole.part, whole.low, whole.high)))
        same_as_next = np.zeros(len(whole), np.bool_)
        same_as_next[:-1] = (whole.high[1:] == whole.high[:-1]) & (whole.low[1:] == whole.low[:-1])
        return whole._take(~same_as_next), whole._take(same_as_next)

    def find(self, high: UInt64, low: UInt64) -> Int64:
        """(M,) positions of these pseudonyms, -1 where unknown."""
        if not len(self):
            return np.full(len(high), -1, np.int64)
        position = np.minimum(np.searchsorted(self.high, high), len(self) - 1)
        hit = (self.high[position] == high) & (self.low[position] == low)
        return np.where(hit, position, -1).astype(np.int64)

    def superseded_by(self, newer: KnownFiles) -> KnownFiles:
        """Those rows of this index whose files have a newer row."""
        position = self.find(newer.high, newer.low)
        return self._take(position[position >= 0])

    def updated(self, newer: KnownFiles) -> KnownFiles:
        """This index with a newer part's files added, or put in place of their older rows."""
        position = self.find(newer.high, newer.low)
        keep = np.ones(len(self), np.bool_)
        keep[position[position >= 0]] = False
        whole = self._concatenated([self._take(keep), newer])
        return whole._take(np.argsort(whole.high, kind="stable"))

    def with_reason(self, reason: Reason) -> KnownFiles:
        """Those whose row has this reason."""
        return self._take(self.reason == _REASONS.index(reason))

    def without(self, file_ids: Collection[str]) -> KnownFiles:
        """Those with other pseudonyms; meant for few."""
        return self._take(np.array([file_id not in file_ids for file_id in self.file_ids()], np.bool_))

    def file_ids(self) -> list[str]:
        """The pseudonyms as the tables write them, 32 hex digits."""
        halves = zip(self.high.tolist(), self.low.tolist(), strict=True)
        return [f"{high:016x}{low:016x}" for high, low in halves]

    def count_reasons(self) -> Counter[str]:
        """Files per reason, those screened left out."""
        counts = np.bincount(self.reason, minlength=_SCREENED + 1)
        return Counter({str(reason): int(n) for reason, n in zip(_REASONS, counts, strict=False) if n})

    def count_statuses(self) -> dict[str, int]:
        """Files per status, all three named."""
        statuses = dict.fromkeys(map(str, Status), 0)
        for reason, count in self.count_reasons().items():
            statuses[REASON_STATUS[Reason(reason)]] += count
        statuses[Status.SCREENED] = len(self) - sum(statuses.values())
        return statuses

    @classmethod
    def _concatenated(cls, pieces: list[KnownFiles]) -> KnownFiles:
        return cls(*(np.concatenate([getattr(piece, each.name) for piece in pieces]) for each in fields(cls)))

    def _take(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> KnownFiles:
        return KnownFiles(*(getattr(self, each.name)[rows] for each in fields(KnownFiles)))
