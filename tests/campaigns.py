"""Campaigns for tests: a made-up archive walk, rows of chosen outcomes, and a run that can be killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from screener.campaign import FAILED_REASONS, Campaign
from screener.errors import Reason
from screener.fingerprint import Fingerprint
from screener.pseudonyms import KEY_BYTES, Pseudonyms
from screener.records import (
    ArchiveEntry,
    CanvasFacts,
    Decision,
    Diagnosis,
    Identity,
    Instance,
    Letterbox,
    LungGeometry,
    Quality,
    QualityFlag,
    QualityGrade,
    Referral,
    Rejection,
    ScreenedImage,
    Source,
)
from screener.settings import RunSettings
from screener.studies import build_studies

PSEUDONYMS = Pseudonyms(bytes(range(KEY_BYTES)))
FINGERPRINT = Fingerprint("a" * 64, "b" * 64, "demo-1", "1", RunSettings().result_settings())


def entry(number: int, *, version: int = 0) -> ArchiveEntry:
    """A file of the walk; another version has another size and time."""
    return ArchiveEntry(f"site/{number:04d}.dcm", 1000 + version, 10**18 + version)


def identity(number: int, *, study: str | None = None) -> Identity:
    return Identity(
        patient_id=f"P{number // 4}",
        patient_name="王^小东",
        study_date="20200229",
        study_instance_uid=study or f"1.2.{number // 2}",
        sop_instance_uid=f"1.2.3.{number}",
    )


def instance(*, view: str | None = "PA", rows: int = 2500, presentation: bool | None = True) -> Instance:
    return Instance(
        sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
        transfer_syntax_uid="1.2.840.10008.1.2.4.70",
        modality="DX",
        rows=rows,
        columns=2048,
        bits_allocated=16,
        bits_stored=12,
        is_signed=False,
        photometric_interpretation="MONOCHROME2",
        view_position=view,
        body_part="chest",
        pixel_spacing_mm=(0.14, 0.16),
        spacing_source="imager",
        for_presentation=presentation,
        manufacturer="ACME",
        patient_age_years=51,
        patient_sex="M",
        study_year=2020,
    )


def screened(
    number: int,
    *,
    version: int = 0,
    of: Identity | None = None,
    header: Instance | None = None,
    grade: int = 1,
    referral: Referral = Referral.NONE,
    p_pneumoconiosis: float = 0.25,
) -> ScreenedImage:
    """A film with results."""
    source = Source(
        entry=entry(number, version=version),
        identity=of or identity(number),
        instance=header or instance(),
        canvas=CanvasFacts(
            Letterbox(0.3, 0.0, 0.0), (0.0, 0.0, 768.0, 768.0), 1, "jpeg_lossless", 0.01, f"{number:064x}"
        ),
        source_sha256=f"{version:064x}",
    )
    decision = Decision(
        p_pneumoconiosis=p_pneumoconiosis,
        p_tb=0.5,
        p_stage=(0.5, 0.25, 0.125, 0.125),
        p_pneumoconiosis_raw=0.375,
        p_tb_raw=0.625,
        p_stage_raw=(0.25, 0.25, 0.25, 0.25),
        dx_pred=Diagnosis.NORMAL,
        stage_pred=0,
        stage_expected=0.875,
        stage_consistent=True,
        tb_coexist_flag=False,
        zone_scores=(0.0, 0.25, 0.5, 1.0, 2.0, 3.0),
        referral=referral,
        referral_reasons=() if referral is Referral.NONE else ("p_tb",),
        threshold_set_id="demo-1",
        calibrated=True,
    )
    quality = Quality(QualityGrade(grade), (QualityFlag.ROTATED,) if grade > 1 else ())
    return ScreenedImage(source, LungGeometry((210.0, None), True), quality, 0.75, decision)


def rejected(
    number: int,
    reason: Reason = Reason.LATERAL_VIEW,
    *,
    version: int = 0,
    of: Identity | None = None,
    header: Instance | None = None,
) -> Rejection:
    """A DICOM file that was rejected or failed."""
    return Rejection(
        entry(number, version=version), reason, "", "header", of or identity(number), header or instance()
    )


def open_campaign(
    root: Path, *, name: str = "campaign", fingerprint: Fingerprint = FINGERPRINT, part_rows: int = 4
) -> Campaign:
    """Open `root/campaign`, or another name, over `root/archive`."""
    (root / "archive").mkdir(parents=True, exist_ok=True)
    return Campaign.open(
        root / name,
        archive_root=root / "archive",
        fingerprint=fingerprint,
        pseudonyms=PSEUDONYMS,
        settings=RunSettings(part_rows=part_rows, part_seconds=3600.0),
    )


def outcome(found: ArchiveEntry, *, again: bool = False) -> ScreenedImage | Rejection:
    """What becomes of a file, decided by its number: every third fails at first, every seventh is lateral."""
    number = int(found.relative_path[5:9])
    if number % 7 == 0:
        return rejected(number)
    if number % 3 == 0 and not again:
        return rejected(number, Reason.DECODER_TIMEOUT)
    return screened(number, grade=1 + number % 4)


def run_and_retry(root: Path, num_files: int, name: str = "campaign") -> Iterator[str]:
    """A whole run and a whole retry, naming each file as its row is handed over."""
    walk = [entry(number) for number in range(num_files)]
    with open_campaign(root, name=name) as campaign:
        for retry_reasons in (None, FAILED_REASONS):
            with campaign.writer() as report:
                for found in campaign.pending(walk, retry_reasons=retry_reasons):
                    report.add(outcome(found, again=retry_reasons is not None))
                    yield found.relative_path
        build_studies(campaign)


def _die_at_sync(number: int) -> None:
    """Make the n-th `os.fsync` of this process its end: just before or just after a rename."""
    remaining = iter(range(number - 1))
    sync = os.fsync

    def fatal(fd: Any) -> None:
        sync(fd)
        if next(remaining, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = fatal


if __name__ == "__main__":  # python -m tests.campaigns ROOT NAME NUM_FILES SYNCS: a run that kills itself
    _die_at_sync(int(sys.argv[4]))
    for path in run_and_retry(Path(sys.argv[1]), int(sys.argv[3]), sys.argv[2]):
        print(path, flush=True)  # noqa: T201 - tells the test what it has handed over
