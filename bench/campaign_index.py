"""How fast a large campaign is opened, its files recognised, its studies rebuilt: made-up rows, real files.

Nothing is decoded or screened: this is what a second run over a finished archive costs beyond the walk, and
what the end of every run costs. Run `python -m bench.campaign_index --files 100000`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from screener.campaign import Campaign
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

IMAGES_PER_STUDY = 2
STUDIES_PER_SUBJECT = 2
REJECTED_EVERY = 5

_INSTANCE = Instance(
    sop_class_uid="1.2.840.10008.5.1.4.1.1.1.1",
    transfer_syntax_uid="1.2.840.10008.1.2.4.70",
    modality="DX",
    rows=2500,
    columns=2048,
    bits_allocated=16,
    bits_stored=12,
    is_signed=False,
    photometric_interpretation="MONOCHROME2",
    view_position="PA",
    body_part="chest",
    pixel_spacing_mm=(0.14, 0.14),
    spacing_source="imager",
    for_presentation=True,
    manufacturer="made up",
    patient_age_years=50,
    patient_sex="M",
    study_year=2020,
)


def measure(num_files: int, folder: Path) -> dict[str, float]:
    """Seconds of each step, and the peak of resident memory in MB after it."""
    (folder / "archive").mkdir()
    measured: dict[str, float] = {"files": num_files}
    steps = ("write_rows", "open", "recognise", "build_studies")
    clock = dict.fromkeys(steps, 0.0)
    began = time.perf_counter()
    with _open(folder) as campaign, campaign.writer() as report:
        for number, entry in enumerate(_walk(num_files)):
            report.add(_outcome(number, entry))
    clock["write_rows"] = time.perf_counter() - began
    measured["write_rows_peak_mb"] = _peak_mb()
    began = time.perf_counter()
    with _open(folder) as campaign:
        clock["open"] = time.perf_counter() - began
        began = time.perf_counter()
        pending = sum(1 for _ in campaign.pending(_walk(num_files)))
        clock["recognise"] = time.perf_counter() - began
        if pending:
            raise RuntimeError(f"{pending} files were not recognised")
        measured["recognise_peak_mb"] = _peak_mb()
        began = time.perf_counter()
        build_studies(campaign)
        clock["build_studies"] = time.perf_counter() - began
    measured["build_studies_peak_mb"] = _peak_mb()
    return measured | {f"{step}_s": round(seconds, 3) for step, seconds in clock.items()}


def _open(folder: Path) -> Campaign:
    settings = RunSettings()
    return Campaign.open(
        folder / "campaign",
        archive_root=folder / "archive",
        fingerprint=Fingerprint("0" * 64, "0" * 64, "none", "1", settings.result_settings()),
        pseudonyms=Pseudonyms(bytes(KEY_BYTES)),
        settings=settings,
    )


def _walk(num_files: int) -> Iterator[ArchiveEntry]:
    for number in range(num_files):
        yield ArchiveEntry(f"site/{number // 1000:06d}/{number:09d}.dcm", 8_000_000 + number, 10**18 + number)


def _outcome(number: int, entry: ArchiveEntry) -> ScreenedImage | Rejection:
    study = number // IMAGES_PER_STUDY
    identity = Identity(
        patient_id=f"{study // STUDIES_PER_SUBJECT:08d}",
        patient_name="Made^Up",
        study_date="20200131",
        study_instance_uid=f"1.2.{study}",
        sop_instance_uid=f"1.3.{number}",
    )
    if number % REJECTED_EVERY == 0:
        return Rejection(entry, Reason.LATERAL_VIEW, "", "header", identity, _INSTANCE)
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    share = int(digest[:4], 16) / 0xFFFF
    stages = (share, (1 - share) / 2, (1 - share) / 4, (1 - share) / 4)
    decision = Decision(
        p_pneumoconiosis=1 - share,
        p_tb=share / 2,
        p_stage=stages,
        p_pneumoconiosis_raw=1 - share,
        p_tb_raw=share / 2,
        p_stage_raw=stages,
        dx_pred=Diagnosis.NORMAL,
        stage_pred=0,
        stage_expected=1 - share,
        stage_consistent=True,
        tb_coexist_flag=False,
        zone_scores=(share,) * 6,
        referral=Referral.NONE if share > 0.1 else Referral.ROUTINE,
        referral_reasons=() if share > 0.1 else ("p_pneumoconiosis",),
        threshold_set_id="none",
        calibrated=False,
    )
    canvas = CanvasFacts(Letterbox(0.3, 0, 0), (0, 0, 768, 768), 1, "raw", 0.01, digest)
    quality = Quality(QualityGrade(1 + number % 3), (QualityFlag.ROTATED,))
    source = Source(entry, identity, _INSTANCE, canvas, digest)
    return ScreenedImage(source, LungGeometry((200.0, 210.0), True), quality, 0.99, decision)


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=100_000, help="files of the campaign")
    with tempfile.TemporaryDirectory(prefix="screener-") as folder:
        print(json.dumps(measure(parser.parse_args().files, Path(folder)), indent=2))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
