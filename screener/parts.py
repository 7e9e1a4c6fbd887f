"""Rows to parts: immutable Parquet files that appear whole, and hold each file of the archive once.

A part is complete when it has been renamed into `images/`; no other marker exists to disagree with it. Links
go first, so that a row never lacks its link. When a file is screened again its older row is cut out of the
older part only after the new part is in place; a run killed in between is repaired when the campaign opens.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

import numpy as np
import polars as pl

from screener import schema
from screener.durable import remove_file, remove_leftovers, replace_file
from screener.errors import ReportError
from screener.known_files import COLUMNS, KnownFiles
from screener.pseudonyms import Pseudonyms
from screener.records import Rejection, ScreenedImage
from screener.rows import FileRows, images_frame, links_frame, rejection_rows, screened_rows

PRIVATE_FOLDER_MODE = 0o700
PRIVATE_FILE_MODE = 0o600
ROW_GROUP_ROWS = 1 << 17
_PATTERN = "part-" + "[0-9]" * 6 + ".parquet"


class Parts:
    """All parts of one campaign. Opening repairs what a killed run left; only one process may hold it.

    Args:
        campaign: the campaign folder.
        metadata: key-value metadata that every Parquet file carries.

    Raises:
        ReportError: a part cannot be read.
    """

    def __init__(self, campaign: Path, metadata: Mapping[str, str]) -> None:
        self.images = campaign / "images"
        self.links = campaign / "private" / "parts"
        self._metadata = dict(metadata)
        try:
            self._prepare_folders()
        except OSError as error:
            raise ReportError(f"the campaign's folders cannot be used: {error.strerror}") from error
        self.known = self._recovered()

    def paths(self) -> list[Path]:
        """The parts of the images table, oldest first."""
        return sorted(self.images.glob(_PATTERN))

    def seal(self, rows: list[FileRows]) -> None:
        """Write rows as the next part, then take superseded rows out of older parts.

        Raises:
            ReportError: the disk is full or the folder cannot be written; earlier parts are untouched.
        """
        images = images_frame(rows)
        self._write(self.links / _name(self._next), links_frame(rows), "private/links", PRIVATE_FILE_MODE)
        self._write(self.images / _name(self._next), images, "images")
        newer = KnownFiles.of_frame(images.select(COLUMNS), self._next)
        superseded = self.known.superseded_by(newer)
        self.known = self.known.updated(newer)
        self._next += 1
        self._cut_out(superseded)

    def discard(self, files: KnownFiles) -> None:
        """Take the rows of these files out for good; killed in between, some are left for the next time.

        Raises:
            ReportError: a part cannot be read or written.
        """
        if len(files):
            self.known = self.known.without(frozenset(files.file_ids()))
            self._cut_out(files)

    def _prepare_folders(self) -> None:
        self.images.mkdir(exist_ok=True)
        self.links.parent.mkdir(mode=PRIVATE_FOLDER_MODE, exist_ok=True)
        self.links.parent.chmod(PRIVATE_FOLDER_MODE)
        self.links.mkdir(mode=PRIVATE_FOLDER_MODE, exist_ok=True)
        for folder in (self.images, self.links, self.links.parent):
            remove_leftovers(folder)

    def _recovered(self) -> KnownFiles:
        """Read the index; undo a part without images, finish a cut that was interrupted."""
        paths = self.paths()
        for orphan in {link.name for link in self.links.glob(_PATTERN)} - {path.name for path in paths}:
            remove_file(self.links / orphan)
        known, superseded = KnownFiles.joined([_index(path) for path in paths])
        self._next = max((_number(path) for path in paths), default=0) + 1
        self._cut_out(superseded)
        return known

    def _cut_out(self, superseded: KnownFiles) -> None:
        file_ids = np.array(superseded.file_ids())
        for number in np.unique(superseded.part):
            path = self.images / _name(int(number))
            stale = file_ids[superseded.part == number].tolist()
            with reading(f"images/{path.name}"):
                kept = pl.read_parquet(path).filter(~pl.col("file_id").is_in(stale))
            if kept.is_empty():
                remove_file(path)
            else:
                self._write(path, kept, "images")

    def _write(self, path: Path, frame: pl.DataFrame, table: str, mode: int = 0o644) -> None:
        write_table(path, frame, table, self._metadata, mode=mode)


class PartWriter:
    """Collects rows and seals a part when it has enough of them or is old enough.

    Used in a `with` block: leaving it seals the part in hand, also on Ctrl-C or an error elsewhere.

    Args:
        parts: the campaign's parts.
        pseudonyms: of the campaign's key.
        part_rows: rows after which a part is sealed.
        part_seconds: seconds since its first row after which a part is sealed.
    """

    def __init__(self, parts: Parts, pseudonyms: Pseudonyms, *, part_rows: int, part_seconds: float) -> None:
        self._parts = parts
        self._pseudonyms = pseudonyms
        self._part_rows = part_rows
        self._part_seconds = part_seconds
        self._rows: dict[str, FileRows] = {}
        self._first_row = 0.0

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An error that is already under way is the one to report, not that sealing failed after it.
        with contextlib.suppress(ReportError) if error else contextlib.nullcontext():
            self.seal()

    def add(self, ended: ScreenedImage | Rejection) -> None:
        """One file has ended; a later row of the same file replaces the earlier one.

        Raises:
            ReportError: a part was due and could not be written.
        """
        if isinstance(ended, ScreenedImage):
            rows = screened_rows(ended, self._pseudonyms)
        else:
            rows = rejection_rows(ended, self._pseudonyms)
        if not self._rows:
            self._first_row = time.monotonic()
        self._rows[rows.file_id] = rows
        if len(self._rows) >= self._part_rows or time.monotonic() - self._first_row >= self._part_seconds:
            self.seal()

    def seal(self) -> None:
        """Write the rows in hand as a part; does nothing without rows.

        Raises:
            ReportError: the part could not be written; its files stay pending.
        """
        rows, self._rows = list(self._rows.values()), {}
        if rows:
            self._parts.seal(rows)


def write_table(
    path: Path, frame: pl.DataFrame, table: str, metadata: Mapping[str, str], *, mode: int = 0o644
) -> None:
    """Write a Parquet file atomically, with statistics and the campaign's metadata; same rows, same bytes.

    Encoded in memory first: Polars forgets what the system said when a file stops growing, Python does not.
    """
    encoded = io.BytesIO()
    frame.rechunk().write_parquet(
        encoded,
        compression="zstd",
        statistics=True,
        row_group_size=ROW_GROUP_ROWS,
        metadata={"table": table, **metadata},
    )
    replace_file(path, lambda place: place.write_bytes(encoded.getbuffer()), mode=mode)


def merge_links(campaign: Path, metadata: Mapping[str, str]) -> None:
    """Merge `private/parts` into `private/links.parquet`, the newest link of a file winning.

    Killed at any moment it can be repeated: the parts go only after the merged file is in place.
    """
    private = campaign / "private"
    parts = sorted((private / "parts").glob(_PATTERN))
    if not parts:
        return
    links = _newest_links(private)
    stamped = {"table": "private/links", **metadata}
    replace_file(
        private / "links.parquet",
        lambda place: links.sink_parquet(place, compression="zstd", metadata=stamped),
        mode=PRIVATE_FILE_MODE,
    )
    for path in parts:
        remove_file(path)


def read_links(campaign: Path) -> pl.DataFrame:
    """The links table, parts that are not merged yet included, sorted by file_id.

    Raises:
        ReportError: a file of it cannot be read.
    """
    with reading("private/links"):
        return _newest_links(campaign / "private").collect().sort("file_id")


def _newest_links(private: Path) -> pl.LazyFrame:
    """Every file's newest link. Only the pseudonyms are held in memory, so that millions of links merge."""
    sources = [*private.glob("links.parquet"), *sorted((private / "parts").glob(_PATTERN))]
    empty = pl.LazyFrame(schema=schema.polars_schema(schema.LINKS)).with_columns(age=pl.lit(-1))
    scans = [pl.scan_parquet(source).with_columns(age=pl.lit(age)) for age, source in enumerate(sources)]
    links = pl.concat([empty, *scans])
    newest = links.group_by("file_id").agg(pl.col("age").max())
    return links.join(newest, on=["file_id", "age"], how="semi").drop("age")


@contextlib.contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn the failure to read a campaign's file into a `ReportError` that says what to do."""
    try:
        yield
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ReportError(
            f"{name} of the campaign cannot be read ({type(error).__name__}): restore it from a backup, or "
            "delete it and run again to screen its files again"
        ) from error


def _index(path: Path) -> KnownFiles:
    with reading(f"images/{path.name}"):
        return KnownFiles.of_frame(pl.read_parquet(path, columns=list(COLUMNS)), _number(path))


def _name(number: int) -> str:
    return f"part-{number:06d}.parquet"


def _number(path: Path) -> int:
    return int(path.stem.removeprefix("part-"))
