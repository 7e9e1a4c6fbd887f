"""`run.json`: what ran, with what, on what, and what came of it; enough to name a result and repeat it.

It holds no path: a folder can be named after a mine or a patient. The archive appears as a keyed pseudonym,
the key by its public id.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from screener import INTENDED_USE, __version__
from screener.campaign import Campaign, write_json
from screener.records import RunSummary
from screener.settings import RunSettings, available_cores

LIBRARIES = ("imagecodecs", "numpy", "opencv-python-headless", "openvino", "polars", "pydicom", "scipy")
"""Distributions whose version can change a result."""

_GIT_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class RunEnvironment:
    """What a run used."""

    started_utc: datetime
    finished_utc: datetime
    device: str
    """For example `cpu`, or the name of the GPU."""
    engine: str
    """The engines' own description."""
    precision: str
    """The arithmetic that `auto` came to."""
    bundle: str
    """Name and version of the model bundle."""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    """The thresholds that decided, by name."""
    fallbacks: tuple[str, ...] = ()
    """What was asked for and could not be had, and what was used in its place."""
    plans: Literal["verified", "unverified"] | None = None
    """Whether the TensorRT plans used had passed `engines verify`; None where none was used."""

    def __post_init__(self) -> None:
        if self.started_utc.tzinfo is None or self.finished_utc.tzinfo is None:
            raise ValueError("run times: expected times with a zone, found naive ones")


def write_run_manifest(
    campaign: Campaign, summary: RunSummary, environment: RunEnvironment, settings: RunSettings
) -> dict[str, object]:
    """Write `run.json` atomically, and return what it says.

    Args:
        campaign: an open campaign, its parts sealed and its studies built.
        summary: counters of this run.
        environment: what it used.
        settings: what it was told.

    Raises:
        ReportError: the file cannot be written.
    """
    manifest: dict[str, object] = {
        "intended_use": INTENDED_USE,
        "started_utc": _utc(environment.started_utc),
        "finished_utc": _utc(environment.finished_utc),
        "run": asdict(summary),
        "campaign": _campaign_counts(campaign),
        "device": environment.device,
        "engine": environment.engine,
        "precision": environment.precision,
        "plans": environment.plans,
        "bundle": environment.bundle,
        "thresholds": dict(environment.thresholds),
        "fallbacks": list(environment.fallbacks),
        "settings": asdict(settings),
        "fingerprint": dict(campaign.fingerprint),
        "hashes": {
            "fingerprint": campaign.metadata["fingerprint_sha256"],
            "model": campaign.metadata["model_sha256"],
            "studies.parquet": _sha256(campaign.folder / "studies.parquet"),
        },
        "key_id": campaign.pseudonyms.key_id,
        "schema_version": campaign.metadata["schema_version"],
        "versions": versions(),
        "git_commit": git_commit(),
        "machine": machine(),
    }
    write_json(campaign.folder / "run.json", manifest)
    return manifest


def versions() -> dict[str, str | None]:
    """Versions of the screener, of Python and of `LIBRARIES`; None when one is not installed."""
    found: dict[str, str | None] = {"screener": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def git_commit() -> str | None:
    """Commit of the source tree this runs from, `-dirty` if changed; None for an installed wheel."""
    source = Path(__file__).resolve().parents[1]
    git = shutil.which("git")
    if git is None or not (source / ".git").exists():
        return None
    describe = [git, "-C", str(source), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(describe, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)  # noqa: S603 - fixed arguments
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def machine() -> Mapping[str, object]:
    """Operating system, processor and the cores this process may use; no host name."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": available_cores(),
    }


def _campaign_counts(campaign: Campaign) -> dict[str, object]:
    known = campaign.known
    return {
        "files": len(known),
        **known.count_statuses(),
        "reasons": dict(sorted(known.count_reasons().items())),
        "parts": len(campaign.parts.paths()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _sha256(path: Path) -> str | None:
    if not path.exists():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _utc(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="seconds")
