"""Files that appear whole or not at all: written beside their place, synced, renamed, folder synced.

A reader (or a run that was killed) sees the old file or the new one, never half of one. The rename alone
would not do: after a power cut a renamed but unsynced file can be empty, so both file and folder are synced.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl

from screener.errors import ReportError

_TEMPORARY = ".{name}.{pid}.tmp"


def replace_file(path: Path, write: Callable[[Path], object], *, mode: int = 0o644) -> None:
    """Put a new file in place atomically and durably.

    Args:
        path: where the file shall be; its folder exists.
        write: called with the temporary path (an existing empty file in the same folder).
        mode: permission bits, before the umask.

    Raises:
        ReportError: the file cannot be written (full disk, quota, permissions); nothing has changed.
    """
    temporary = path.with_name(_TEMPORARY.format(name=path.name, pid=os.getpid()))
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC, mode))
        write(temporary)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, pl.exceptions.PolarsError) as error:
        temporary.unlink(missing_ok=True)
        raise ReportError(
            f"cannot write {path.name}: {_cause(error)}; what was written before is complete: "
            "make room or fix the folder, then run the same command again"
        ) from error


def remove_file(path: Path) -> None:
    """Delete a file durably; one that is not there is fine.

    Raises:
        ReportError: it cannot be deleted.
    """
    try:
        path.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise ReportError(
            f"cannot delete {path.name}: {_cause(error)}; fix the folder and run again"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files that a killed run left; only safe while no other run writes there."""
    for leftover in folder.glob(_TEMPORARY.format(name="*", pid="*")):
        leftover.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cause(error: Exception) -> str:
    """The system's words for what went wrong, without the path that an error's own text may carry."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    number = re.search(r"\(os error (\d+)\)", str(error))  # how Polars passes on what the system said
    return os.strerror(int(number[1])) if number else f"{type(error).__name__}, perhaps a full disk"
