"""The user's own folder for compiled networks: what is loaded from it, this user wrote on this machine."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def user_cache_folder(kind: str) -> Path | None:
    """The folder `~/.cache/screener/<kind>`, made with mode 0700.

    Args:
        kind: what is kept there, for example `openvino` or `plans`.

    Returns:
        None where it cannot be written, belongs to somebody else, or others may write to it.
    """
    folder = Path.home() / ".cache" / "screener" / kind
    return folder if is_private_folder(folder) else None


def is_private_folder(folder: Path) -> bool:
    """Make the folder if needed; True if it is this user's, closed to other writers, and writable."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.stat()
        if facts.st_uid != os.getuid() or facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return False
        with tempfile.TemporaryFile(dir=folder):
            return True
    except (OSError, RuntimeError):  # RuntimeError: this user has no home folder
        return False
