"""Keeps compiled networks of this user on this machine: TensorRT plans and OpenVINO's compiled graphs.

A plan is code: it is loaded only from the user's own folder (0700), only if its digest matches the record
beside it, and never from a bundle. Everything that makes a plan valid is in its key, so a new driver, GPU,
library or graph is simply a miss. Files are written aside and renamed; a plan without its record does not
exist.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from engines.errors import EngineError
from engines.user_cache import is_private_folder, user_cache_folder

MAX_PLANS = 16
"""The least recently written plans beyond this number are removed, except those that failed verification: a
run would build them again and use them."""


@dataclass(frozen=True, slots=True)
class PlanKey:
    """What a plan was compiled from and for."""

    graph: str
    """`segmentation` or `classification`; for people, the hash decides."""
    onnx_sha256: str
    """Hash of the exact ONNX bytes compiled, precision conversion included."""
    precision: str
    profile: str
    """Batch sizes or other shape settings compiled in."""
    library: str
    """Name and full version of the compiler."""
    device: str
    """Processor or GPU by name, with what it can do."""
    driver: str = ""
    """GPU driver; empty on a CPU."""

    @property
    def digest(self) -> str:
        """File name of the plan."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a pair of plans compared with the torch reference on real canvases; kept with both."""

    failures: tuple[str, ...]
    """What was not kept, in words; empty when it passed."""
    num_images: int
    largest_logit_error: float
    mean_logit_error: float
    """Of the worst head."""
    stage_flips: float
    """Share of images, 0 to 1."""
    diagnosis_flips: float
    mask_dice: float


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """What is written beside a plan."""

    key: PlanKey
    plan_sha256: str
    size_bytes: int
    num_layers: int | None
    """Layers after fusion; None where the compiler does not say."""
    build_seconds: float
    verdict: Verdict | None = None
    """None until the plan is verified."""

    @property
    def standing(self) -> Literal["unverified", "verified", "failed"]:
        """What is known of the plan's results."""
        if self.verdict is None:
            return "unverified"
        return "failed" if self.verdict.failures else "verified"


class PlanCache:
    """Plans in one private folder.

    Args:
        folder: made if missing; None takes the user's cache folder.

    Raises:
        EngineError: the folder cannot be written, is somebody else's, or others may write to it.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            folder = user_cache_folder("plans")
        elif not is_private_folder(folder):
            folder = None
        if folder is None:
            raise EngineError(
                "the folder for compiled networks must be yours, writable, "
                "and closed to other writers (mode 0700)"
            )
        self.folder = folder

    def load(self, key: PlanKey) -> bytes | None:
        """The plan for a key, or None if there is none or its digest does not match."""
        record = self.record(key)
        if record is None:
            return None
        try:
            plan = (self.folder / f"{key.digest}.plan").read_bytes()
        except OSError:
            return None
        return plan if hashlib.sha256(plan).hexdigest() == record.plan_sha256 else None

    def record(self, key: PlanKey) -> PlanRecord | None:
        """The record for a key, or None if there is none."""
        record = self._record(self.folder / f"{key.digest}.json")
        return record if record is not None and record.key == key else None

    def judge(self, record: PlanRecord, verdict: Verdict) -> PlanRecord:
        """Write a verdict into a plan's record. It holds for that plan only: one built anew is unverified.

        Raises:
            EngineError: the record cannot be written.
        """
        judged = replace(record, verdict=verdict)
        try:
            self._write_record(judged)
        except OSError as error:
            raise EngineError(f"a plan's verdict could not be kept: {error.strerror}") from error
        return judged

    def store(self, key: PlanKey, plan: bytes, *, num_layers: int | None, build_seconds: float) -> PlanRecord:
        """Write a plan, then its record; a full disk leaves neither.

        Raises:
            EngineError: the plan cannot be written.
        """
        record = PlanRecord(key, hashlib.sha256(plan).hexdigest(), len(plan), num_layers, build_seconds)
        try:
            self._write(f"{key.digest}.plan", plan)
            self._write_record(record)
        except OSError as error:
            raise EngineError(f"a compiled network could not be kept: {error.strerror}") from error
        usable = [kept for kept in self.records() if kept.standing != "failed"]
        for old in usable[MAX_PLANS:]:
            self.remove(old.key)
        return record

    def remove(self, key: PlanKey) -> None:
        """Delete a plan and its record."""
        for suffix in ("json", "plan"):
            (self.folder / f"{key.digest}.{suffix}").unlink(missing_ok=True)

    def records(self) -> tuple[PlanRecord, ...]:
        """Records of every plan kept, newest first."""
        files = sorted(self.folder.glob("*.json"), key=_written_ns, reverse=True)
        return tuple(record for file in files if (record := self._record(file)) is not None)

    def _record(self, file: Path) -> PlanRecord | None:
        try:
            root = json.loads(file.read_bytes())
            verdict = root.get("verdict")
            if verdict is not None:
                verdict = Verdict(**{**verdict, "failures": tuple(verdict["failures"])})
            return PlanRecord(**{**root, "key": PlanKey(**root["key"]), "verdict": verdict})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None

    def _write_record(self, record: PlanRecord) -> None:
        text = json.dumps(asdict(record), indent=2) + "\n"
        self._write(f"{record.key.digest}.json", text.encode())

    def _write(self, name: str, content: bytes) -> None:
        handle, temporary = tempfile.mkstemp(dir=self.folder, prefix=".writing-")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(self.folder / name)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _written_ns(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_mtime_ns
    return time.time_ns()
