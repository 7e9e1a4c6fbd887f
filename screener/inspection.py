"""One file through the whole stream, and what every step found, without a campaign and without identity.

The file is decoded in a worker process, as in a run: a picture that crashes its codec is explained, too.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.engine import open_engines
from screener.archive import walk
from screener.errors import ConfigError, Status
from screener.host_loader import HostLoader
from screener.pipeline import Reader
from screener.records import Instance, Rejection, ScreenedImage
from screener.run import load_calibration, open_verified
from screener.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Inspection:
    """What would happen to a file. Keys are step and fact; values are JSON types."""

    status: Status
    facts: dict[str, dict[str, object]]


def inspect_file(file: Path, bundle_path: Path | None, thresholds: Path | None) -> Inspection:
    """Screen one file and tell everything but who it is.

    Raises:
        ConfigError: no such file, or a folder.
    """
    if not file.is_file():
        raise ConfigError("screener inspect takes one file that exists")
    settings = RunSettings(batch_size=1, workers=1, pictures="none")
    ended: list[ScreenedImage | Rejection] = []
    with HostLoader(file, settings, threading.Event()) as loader:
        for batch in loader.batches(walk(file), on_reject=ended.append):
            bundle = open_verified(bundle_path)
            with open_engines(bundle, device="cpu", batch_size=1) as engines:
                ended += Reader(engines, load_calibration(bundle, thresholds)).read(batch)
            loader.release(batch)
    (film,) = ended
    return _of_rejection(film) if isinstance(film, Rejection) else _of_screened(film)


def _of_rejection(rejection: Rejection) -> Inspection:
    outcome: dict[str, object] = {
        "status": rejection.status,
        "reason": rejection.reason,
        "detail": rejection.detail,
        "step": rejection.step,
    }
    facts: dict[str, dict[str, object]] = {"outcome": outcome}
    if rejection.instance is not None:
        facts["header"] = _header(rejection.instance)
    return Inspection(rejection.status, facts)


def _of_screened(film: ScreenedImage) -> Inspection:
    canvas = asdict(film.source.canvas)
    canvas["flags"] = list(film.source.canvas.flags)
    quality: dict[str, object] = {
        "grade": int(film.quality.grade),
        "flags": list(film.quality.flags),
        "lung_area_cm2": film.lungs.area_cm2,
        "mask_valid": film.lungs.mask_valid,
        "p_frontal": round(film.p_frontal, 4),
    }
    return Inspection(
        Status.SCREENED,
        {
            "outcome": {"status": Status.SCREENED, "referral": film.decision.referral},
            "header": _header(film.source.instance),
            "canvas": canvas,
            "quality": quality,
            "decision": asdict(film.decision),
        },
    )


def _header(instance: Instance) -> dict[str, object]:
    facts = asdict(instance)
    facts["flags"] = list(instance.flags)
    return facts
