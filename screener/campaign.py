"""The campaign folder: what a run may add to it, what it already holds, who works on it.

A campaign is bound to everything that decides its results, to its key and to one archive: rows of two
networks, or two archives whose relative paths could be equal, must never mix. So another fingerprint is
refused, with the ways out named, rather than quietly screened again.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np

from screener import INTENDED_USE
from screener.durable import remove_leftovers, replace_file
from screener.errors import REASON_STATUS, ConfigError, Reason, ReportError, Status
from screener.fingerprint import Fingerprint, record_sha256, refuse_other
from screener.known_files import KnownFiles, reason_codes, split_digests
from screener.parts import PRIVATE_FILE_MODE, Parts, PartWriter, merge_links
from screener.pseudonyms import Pseudonyms
from screener.records import ArchiveEntry
from screener.settings import RunSettings

LOOKUP_CHUNK = 1024
"""Files looked up at once: large enough for NumPy, small enough that screening starts at once."""

_PATTERN_CHARACTERS = frozenset("*?[")
"""Polars, like many readers, takes a path with one of these for a pattern of paths."""

FAILED_REASONS = frozenset(reason for reason, status in REASON_STATUS.items() if status is Status.FAILED)
"""What `screener retry` takes up unless told otherwise."""


class Campaign:
    """An open campaign folder, locked against other runs. Use `Campaign.open` in a `with` block.

    Attributes:
        folder: the campaign folder.
        archive_root: the archive it screens.
        pseudonyms: of its key.
        parts: its parts of the images table.
        metadata: key-value metadata that each of its Parquet files carries.
    """

    def __init__(
        self, folder: Path, archive_root: Path, pseudonyms: Pseudonyms, settings: RunSettings, *, lock: int
    ) -> None:
        self.folder = folder
        self.archive_root = archive_root
        self.pseudonyms = pseudonyms
        self.metadata: dict[str, str] = {}
        self.fingerprint: dict[str, object] = {}
        self._settings = settings
        self._lock = lock
        self.parts: Parts

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        archive_root: Path,
        fingerprint: Fingerprint,
        pseudonyms: Pseudonyms,
        settings: RunSettings,
    ) -> Campaign:
        """Open a campaign, or begin one; repairs what a killed run left.

        Args:
            folder: the campaign folder; made if missing.
            archive_root: the archive, which may neither hold the campaign nor lie in it.
            fingerprint: what decides the results of this run.
            pseudonyms: of the operator's key, see `pseudonyms.load_key`.
            settings: for the size and age of parts.

        Raises:
            ConfigError: another run works on it, another fingerprint, key or archive made it, or the folder
                is not a campaign.
            ReportError: a file of it cannot be read or written.
        """
        _check_folder(folder, archive_root)
        campaign = cls(folder, archive_root, pseudonyms, settings, lock=_lock(folder))
        try:
            campaign._bind(fingerprint)
            campaign.parts = Parts(folder, campaign.metadata)
            campaign._record_archive()
        except BaseException:
            os.close(campaign._lock)
            raise
        return campaign

    def __enter__(self) -> Campaign:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except ReportError:
            if error is None:  # the first failure is the one to report
                raise

    def close(self) -> None:
        """Merge the links and let other runs in; the folder stays resumable whatever happens here.

        Raises:
            ReportError: the links cannot be written; their parts are kept.
        """
        try:
            merge_links(self.folder, self.metadata)
        finally:
            os.close(self._lock)

    @property
    def known(self) -> KnownFiles:
        """The files that have rows."""
        return self.parts.known

    def pending(
        self, entries: Iterable[ArchiveEntry], *, retry_reasons: frozenset[Reason] | None = None
    ) -> PendingEntries:
        """Those entries that a run must take up, in order.

        Args:
            entries: the walk of the archive.
            retry_reasons: None for a run: files that are new or whose size or modification time changed. A
                set for a retry: only files whose row has one of these reasons, changed or not.
        """
        return PendingEntries(self, entries, retry_reasons)

    def forget_opened_folders(self, pending: PendingEntries) -> None:
        """Take out the rows of folders that could not be listed once and now can, or are gone.

        Args:
            pending: the entries of a run that walked the archive to its end.

        Raises:
            ReportError: a part cannot be read or written.
        """
        closed = self.known.with_reason(Reason.UNREADABLE_FOLDER)
        still = {self.pseudonyms.file_id(path) for path in pending.closed_folders}
        self.parts.discard(closed.without(still))

    def writer(self) -> PartWriter:
        """A writer of rows, to be used in a `with` block."""
        return PartWriter(
            self.parts,
            self.pseudonyms,
            part_rows=self._settings.part_rows,
            part_seconds=self._settings.part_seconds,
        )

    def _record_archive(self) -> None:
        """Keep the archive's path, which may name people, where it goes when `private` is deleted."""
        place = self.folder / "private" / "archive.json"
        content: dict[str, object] = {"archive_root_hex": os.fsencode(self.archive_root.absolute()).hex()}
        if not place.exists() or _read_json(place) != content:
            write_json(place, content, mode=PRIVATE_FILE_MODE)

    def _bind(self, fingerprint: Fingerprint) -> None:
        """Write the fingerprint of a new campaign, or compare it with the one that is there."""
        asked = fingerprint.record(
            key_id=self.pseudonyms.key_id, archive_pid=self.pseudonyms.archive_pid(self.archive_root)
        )
        place = self.folder / "campaign.json"
        remove_leftovers(self.folder)
        if place.exists():
            refuse_other(_read_json(place).get("fingerprint"), asked)
        else:
            began = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(place, {"began_utc": began, "fingerprint": asked})
        self.fingerprint = asked
        self.metadata = {
            "schema_version": fingerprint.schema_version,
            "model_sha256": fingerprint.model_sha256,
            "fingerprint_sha256": record_sha256(asked),
            "intended_use": INTENDED_USE,
        }


class PendingEntries(Iterator[ArchiveEntry]):
    """The entries to take up, and a count of those passed over."""

    def __init__(
        self, campaign: Campaign, entries: Iterable[ArchiveEntry], retry_reasons: frozenset[Reason] | None
    ) -> None:
        self._campaign = campaign
        self._retry = None if retry_reasons is None else reason_codes(retry_reasons)
        self._pending = self._select(iter(entries))
        self.num_skipped = 0
        """Entries not taken up so far: already done, or (in a retry) not asked for."""
        self.closed_folders: list[str] = []
        """Folders met so far that cannot be listed."""

    def __next__(self) -> ArchiveEntry:
        return next(self._pending)

    def _select(self, entries: Iterator[ArchiveEntry]) -> Iterator[ArchiveEntry]:
        while chunk := list(islice(entries, LOOKUP_CHUNK)):
            wanted = self._wanted(chunk)
            self.closed_folders += [
                entry.relative_path for entry in chunk if entry.reason is Reason.UNREADABLE_FOLDER
            ]
            self.num_skipped += len(chunk) - sum(wanted)
            yield from (entry for entry, take in zip(chunk, wanted, strict=True) if take)

    def _wanted(self, chunk: list[ArchiveEntry]) -> list[bool]:
        known = self._campaign.known
        digests = self._campaign.pseudonyms.file_digests(entry.relative_path for entry in chunk)
        position = known.find(*split_digests(digests))
        is_known = position >= 0
        if not len(known):
            return [self._retry is None] * len(chunk)
        if self._retry is not None:
            wanted = is_known & np.isin(known.reason[position], self._retry)
        else:
            sizes = np.array([entry.size_bytes for entry in chunk], np.int64)
            times = self._campaign.pseudonyms.mtime_keys(entry.mtime_ns for entry in chunk)
            same = (known.size_bytes[position] == sizes) & (known.mtime_key[position] == times)
            wanted = ~(is_known & same)
        answer: list[bool] = wanted.tolist()
        return answer


def recorded_archive_root(folder: Path) -> Path:
    """The archive that a campaign screened, for `retry`.

    Raises:
        ConfigError: not a campaign, or its private folder was deleted.
    """
    if not (folder / "campaign.json").exists():
        raise ConfigError("this folder is not a campaign: it has no campaign.json")
    place = folder / "private" / "archive.json"
    if not place.exists():
        raise ConfigError(
            "this campaign's private folder was deleted, so it no longer knows its archive: "
            "run screener run ARCHIVE --out CAMPAIGN instead"
        )
    return Path(os.fsdecode(bytes.fromhex(str(_read_json(place)["archive_root_hex"]))))


def _check_folder(folder: Path, archive_root: Path) -> None:
    if not archive_root.is_dir():
        raise ConfigError("the archive is not a folder that exists")
    name = str(folder)
    if set(name) & _PATTERN_CHARACTERS or any("\ud800" <= letter <= "\udfff" for letter in name):
        raise ConfigError(
            "the campaign folder's path has characters that Parquet readers stumble over (* ? [ or what is "
            "not UTF-8): choose another --out"
        )
    inner, outer = folder.resolve(), archive_root.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise ConfigError(
            "the campaign folder and the archive must lie beside each other, not one inside the other: "
            "choose another --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ConfigError(
            f"the campaign folder cannot be used: {error.strerror}; choose another --out"
        ) from error
    if "campaign.json" not in names and any(not name.startswith(".") for name in names):
        raise ConfigError("the campaign folder holds other files and no campaign.json: choose another --out")


def _lock(folder: Path) -> int:
    """Lock the folder for this process; the kernel lets go when it ends, however it ends."""
    try:
        descriptor = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"the campaign folder cannot be written: {error.strerror}; choose another --out"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise ConfigError(f"the campaign folder cannot be locked: {error.strerror}") from error
        raise ConfigError(
            f"another run (process {holder}) is working on this campaign: wait for it, or stop it first"
        ) from error
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path.name} of the campaign cannot be read: restore it from a backup") from error
    if not isinstance(content, dict):
        raise ReportError(f"{path.name} of the campaign is not a JSON object: restore it from a backup")
    return content


def write_json(path: Path, content: dict[str, object], *, mode: int = 0o644) -> None:
    """Write a JSON file of the campaign atomically.

    Raises:
        ReportError: it cannot be written.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    replace_file(path, lambda place: place.write_text(text, "utf-8"), mode=mode)
