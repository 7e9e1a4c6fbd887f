"""Makes an environment of its own for each peer, with venv and pip, once.

Environments stay in the user's cache folder, named by what they hold; one that could not be finished is made
anew. What pip says when it cannot install a peer goes into the result: a peer that is not measured has no
figures.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_DICOM = ("pydicom>=3.0.1,<4", "pylibjpeg[all]>=2.1")
_TORCH = "torch==2.13.0"
MOST_SAID = 200
"""Characters of what a failed process said that go into a result."""


class PeerUnavailable(Exception):
    """A peer cannot be installed or does not start on this machine; the text says why."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A script and what its environment needs."""

    name: str
    script: str
    """File beside this one."""
    requirements: tuple[str, ...]

    @property
    def path(self) -> Path:
        """The script."""
        return Path(__file__).parent / self.script


PEERS = (
    Peer("plain loop", "plain_loop.py", (_TORCH, *_DICOM, "numpy>=2")),
    Peer("monai", "monai_loader.py", (_TORCH, *_DICOM, "monai>=1.5", "numpy>=2")),
    Peer(
        "torchxrayvision",
        "torchxrayvision_batch.py",
        (_TORCH, *_DICOM, "torchvision==0.28.0", "torchxrayvision>=1.5"),
    ),
)


def python_of(peer: Peer, cache: Path | None = None) -> Path:
    """The interpreter of a peer's environment, made if missing.

    Args:
        peer: what to install.
        cache: folder of the environments; None takes the user's cache folder.

    Raises:
        PeerUnavailable: venv or pip failed; nothing half-made stays.
    """
    folder = (cache or _cache_folder()) / f"{Path(peer.script).stem}-{_digest(peer)}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    try:
        _call([sys.executable, "-m", "venv", str(folder)])
        _call([str(python), "-m", "pip", "install", "--quiet", *peer.requirements])
    except PeerUnavailable:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    complete.touch()
    return python


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "screener" / "peers"


def _digest(peer: Peer) -> str:
    content = "\n".join((*peer.requirements, sys.version)).encode()
    return hashlib.sha256(content).hexdigest()[:12]


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed commands
    if done.returncode:
        lines = (done.stderr or done.stdout).splitlines()
        said = "\n".join([line for line in lines if "ERROR" in line] or lines)
        raise PeerUnavailable(f"{Path(command[2]).name} failed: {without_paths(said)}")


def without_paths(said: str) -> str:
    """What a process said last, fit for a result file: an exception's class, or text up to a path.

    Results are published, and the names of folders and files are nobody's business.
    """
    line = next((line.strip() for line in reversed(said.splitlines()) if line.strip()), "no output")
    if raised := re.match(r"([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt))(?:\Z|:)", line):
        return raised[1]
    return re.split(r"\S*[/\\]", line)[0].strip()[:MOST_SAID] or "said only a path"
