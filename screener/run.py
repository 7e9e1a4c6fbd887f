"""One run from start to finish: open everything, screen, write the studies and the manifest.

The engines are opened before the campaign because the campaign is bound to the precision that `auto` came to,
and the loader before both because its decoder processes start while the engines are opened.
"""

from __future__ import annotations

import hashlib
import threading
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from calibration.model_calibration import Calibration, ThresholdSet
from engines.bundle import Bundle, default_bundle, open_bundle
from engines.devices import choose
from engines.engine import Engines, open_engines
from screener.archive import walk
from screener.campaign import Campaign
from screener.canvas import CANVAS_SIDE, CANVAS_VERSION, DECODE_VERSION
from screener.counters import Counters
from screener.errors import REASON_STATUS, ConfigError, Reason, Status
from screener.fingerprint import Fingerprint
from screener.keepsakes import Keepsakes
from screener.loader import Loader, open_loader
from screener.pipeline import Reader, screen
from screener.processors import share_cores
from screener.progress import build_progress, live_progress
from screener.pseudonyms import load_key
from screener.records import RunSummary
from screener.run_manifest import RunEnvironment, write_run_manifest
from screener.settings import RunSettings, default_key_file
from screener.studies import build_studies


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What one run is asked to do."""

    archive: Path
    campaign: Path
    settings: RunSettings = field(default_factory=RunSettings)
    bundle: Path | None = None
    """None takes the bundle that ships."""
    thresholds: Path | None = None
    """A site's threshold set; None takes the bundle's own."""
    key_file: Path | None = None
    """None takes the user's own key."""
    retry_reasons: frozenset[Reason] | None = None
    """Take up only files whose row has one of these reasons."""


def run(request: RunRequest, stop: threading.Event) -> RunSummary:
    """Screen what is pending of an archive. Set `stop` to finish the files in hand and end.

    This process keeps one OpenCV thread and long time slices afterwards (`processors.share_cores`).

    Raises:
        ScreenerError, BundleError, EngineError, CalibrationError: nothing is lost; the text says what to do.
    """
    began = datetime.now(UTC)
    share_cores()
    settings = request.settings
    bundle = open_verified(request.bundle)
    calibration = load_calibration(bundle, request.thresholds)
    pseudonyms = load_key(request.key_file or default_key_file(), request.campaign)
    fallbacks: list[str] = []
    with (
        open_loader(request.archive, settings, stop, fallbacks.append) as loader,
        _open_engines(bundle, settings, stop) as engines,
        Campaign.open(
            request.campaign,
            archive_root=request.archive,
            fingerprint=_fingerprint(bundle, calibration, settings, engines),
            pseudonyms=pseudonyms,
            settings=settings,
        ) as campaign,
    ):
        keepsakes = Keepsakes(
            campaign.folder, pseudonyms, save_masks=settings.save_masks, pictures=settings.pictures
        )
        reader = Reader(engines, calibration, keepsakes)
        summary = _screen_pending(campaign, reader, request, stop, loader)
        build_studies(campaign)
        environment = RunEnvironment(
            started_utc=began,
            finished_utc=datetime.now(UTC),
            device=str(choose(settings.device).gpu or "cpu"),
            engine=engines.description,
            precision=engines.precision,
            bundle=f"{bundle.manifest.name} {bundle.manifest.version}",
            thresholds=asdict(calibration.thresholds),
            fallbacks=tuple(fallbacks),
            plans=engines.plans,
        )
        write_run_manifest(campaign, summary, environment, settings)
    return summary


def open_verified(path: Path | None) -> Bundle:
    """Open a bundle (None: the one that ships) made for this canvas."""
    return open_bundle(path or default_bundle(), canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)


def load_calibration(bundle: Bundle, thresholds: Path | None) -> Calibration:
    """The bundle's calibration, under a site's threshold set if there is one."""
    calibration = Calibration.parse(bundle.calibration, "calibration.json", bundle.model_sha256)
    return calibration if thresholds is None else calibration.with_thresholds(ThresholdSet.load(thresholds))


def retryable(names: list[str]) -> frozenset[Reason]:
    """Reasons to retry by name; every reason that fails when none is named.

    Raises:
        ConfigError: not the name of a reason that fails.
    """
    failing = {str(reason): reason for reason in Reason if REASON_STATUS[reason] is Status.FAILED}
    unknown = [name for name in names if name not in failing]
    if unknown:
        raise ConfigError(f"--reason {unknown[0]}: expected one of {', '.join(failing)}")
    return frozenset(failing[name] for name in names or failing)


def _open_engines(bundle: Bundle, settings: RunSettings, stop: threading.Event) -> Engines:
    with build_progress(stop) as on_build:
        return open_engines(
            bundle,
            device=settings.device,
            precision=settings.precision,
            batch_size=settings.batch_size,
            on_build=on_build,
        )


def _fingerprint(
    bundle: Bundle, calibration: Calibration, settings: RunSettings, engines: Engines
) -> Fingerprint:
    return Fingerprint(
        model_sha256=bundle.model_sha256,
        calibration_sha256=hashlib.sha256(bundle.calibration).hexdigest(),
        threshold_set_id=calibration.threshold_set_id,
        canvas_version=f"{CANVAS_VERSION}.{DECODE_VERSION}",
        settings={**settings.result_settings(), "precision": engines.precision, **_int8(bundle, engines)},
    )


def _int8(bundle: Bundle, engines: Engines) -> dict[str, str]:
    """Identity of the ranges where they decide the results."""
    return {"int8_ranges": bundle.int8_sha256} if "int8" in engines.precision else {}


def _screen_pending(
    campaign: Campaign,
    reader: Reader,
    request: RunRequest,
    stop: threading.Event,
    loader: Loader,
) -> RunSummary:
    counters = Counters()
    found = counters.count_found(walk(campaign.archive_root))
    pending = campaign.pending(found, retry_reasons=request.retry_reasons)
    with (
        live_progress(counters, pending, campaign.archive_root),
        campaign.writer() as report,
    ):
        screen(pending, loader, reader, report, counters)
    if request.retry_reasons is None and not stop.is_set():
        campaign.forget_opened_folders(pending)
    return counters.summary(already_done=pending.num_skipped, interrupted=stop.is_set())
