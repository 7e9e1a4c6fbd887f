"""A folder tree to one `ArchiveEntry` per directory entry, in a stable order, without holding the tree.

Links are reported and never followed, so no loop and no file outside can be reached; whatever cannot be
listed or is no regular file is an entry with a reason, so that nothing is lost silently. A reader would ask
about folders: one that can be listed is no row, one that cannot be listed is exactly one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG

from screener.errors import ConfigError, Reason
from screener.records import ArchiveEntry


def base_folder(archive: Path) -> Path:
    """The folder that relative paths start from: the archive, or the folder of an archive of one file."""
    resolved = archive.resolve()
    return resolved if resolved.is_dir() else resolved.parent


def walk(root: Path, skip: frozenset[Path] = frozenset()) -> Iterator[ArchiveEntry]:
    """Every file of an archive: those of a folder by name, then its folders by name, depth first.

    Names sort by code point, whatever the locale. Memory holds one folder's listing and the folders still to
    be visited beside those above it.

    Args:
        root: a folder, or a single file, which makes an archive of one. The root itself may be a link.
        skip: folders that are not part of the archive, such as a campaign folder inside it.

    Raises:
        ConfigError: the root does not exist or cannot be listed.
    """
    base = base_folder(root)
    try:
        resolved = root.resolve(strict=True)
        if not resolved.is_dir():
            return iter([_file_entry(resolved.name, resolved)])
        os.scandir(base).close()
    except (OSError, RuntimeError):
        raise ConfigError("the archive is no folder or file that can be read") from None
    return _walk(str(base), frozenset(str(folder.resolve()) for folder in skip))


def _walk(base: str, skip: frozenset[str]) -> Iterator[ArchiveEntry]:
    pending = [""]
    while pending:
        folder = pending.pop()
        entries, is_whole = _list(os.path.join(base, folder))  # noqa: PTH118 (a Path a folder is slow)
        prefix = folder + "/" if folder else ""
        subfolders: list[str] = []
        for entry in entries:
            path = prefix + entry.name
            if not _is_folder(entry):
                yield _entry(path, entry, base)
            elif entry.path not in skip:
                subfolders.append(path)
        if not is_whole:
            yield ArchiveEntry(folder or ".", 0, 0, Reason.UNREADABLE_FOLDER)
        pending.extend(reversed(subfolders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:  # a file system that lists no types, and a folder that may be listed but not entered
        return False  # its stat fails alike, and says so


def _list(folder: str) -> tuple[list[os.DirEntry[str]], bool]:
    """A folder's entries by name, as far as they could be listed, and whether that was to the end."""
    entries: list[os.DirEntry[str]] = []
    is_whole = True
    try:
        with os.scandir(folder) as listing:
            entries.extend(listing)
    except OSError:
        is_whole = False
    entries.sort(key=lambda entry: entry.name)
    return entries, is_whole


def _entry(path: str, entry: os.DirEntry[str], base: str) -> ArchiveEntry:
    try:
        found = entry.stat(follow_symlinks=False)
    except OSError:
        return ArchiveEntry(path, 0, 0, Reason.UNREADABLE_FILE)
    reason: Reason | None = None
    if not S_ISREG(found.st_mode):
        reason = _link_reason(entry.path, base) if entry.is_symlink() else Reason.NOT_REGULAR_FILE
    elif not found.st_size:
        reason = Reason.EMPTY_FILE
    return ArchiveEntry(path, found.st_size, found.st_mtime_ns, reason)


def _link_reason(link: str, base: str) -> Reason:
    try:
        target = Path(link).resolve(strict=True)
    except (OSError, RuntimeError):  # dangling, looping, or behind a folder that may not be entered
        return Reason.BROKEN_LINK
    return Reason.SYMBOLIC_LINK if target.is_relative_to(base) else Reason.LINK_OUTSIDE_ARCHIVE


def _file_entry(name: str, file: Path) -> ArchiveEntry:
    """The entry of an archive of one file."""
    found = file.stat()
    if not S_ISREG(found.st_mode):
        return ArchiveEntry(name, found.st_size, found.st_mtime_ns, Reason.NOT_REGULAR_FILE)
    reason = None if found.st_size else Reason.EMPTY_FILE
    return ArchiveEntry(name, found.st_size, found.st_mtime_ns, reason)
