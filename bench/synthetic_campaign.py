"""A simulated campaign folder with a known truth, as `screener run` would have left it.

Persons, sites, dust and exposure are drawn first, then the true stage and tuberculosis, then what a test
with a stated sensitivity and specificity says. Everything is seeded. Questionable: scores are drawn to fit
the decision, not by a network; such a campaign tests reports and intervals and says nothing about screening.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from screener import INTENDED_USE, schema
from screener.canvas import CANVAS_SIDE
from screener.errors import REASON_STATUS, Reason
from screener.parts import write_table
from screener.pictures import draw_overlay
from screener.pseudonyms import Pseudonyms
from screener.records import Float32, Identity
from screener.studies import study_rows

KEY = bytes(range(32))
"""Pseudonym key of every simulated campaign; public, because nobody is behind the pseudonyms."""

SENSITIVITY, SPECIFICITY = 0.90, 0.95
"""Of the simulated test for stage I or more, and for the diagnosis head."""
TB_SENSITIVITY, TB_SPECIFICITY = 0.90, 0.97

NUM_SITES = 14
DUSTS = ("silica", "coal", "mixed", "welding fume", "asbestos")
JOBS = ("driller", "haulage", "crusher", "welder", "maintenance", "office")
MAKERS = ("Fuji", "Canon", "Siemens", "Philips", "Wandong")
YEARS = (2023, 2024, 2025)

_DUST_SHARE = (0.35, 0.35, 0.15, 0.1, 0.05)
_DUST_ODDS = {"silica": 1.6, "coal": 1.0, "mixed": 1.1, "welding fume": 0.4, "asbestos": 0.7}
_STAGE_SHARE = (0.71, 0.21, 0.08)
"""Of stage I, II, III among the diseased (71 % stage I: domain.md, 3.1)."""
_REJECTED = {
    Reason.LATERAL_VIEW: 0.03,
    Reason.NOT_DICOM: 0.015,
    Reason.NOT_CHEST: 0.01,
    Reason.DECODE_FAILED: 0.004,
    Reason.TRUNCATED_PIXEL_DATA: 0.003,
    Reason.NOT_AN_IMAGE: 0.003,
    Reason.UNSUPPORTED_TRANSFER_SYNTAX: 0.001,
}
"""Extra files per study that are not screened."""
_REPEATED, _COPIED = 0.03, 0.01
"""Second exposures and copied files per study."""

_STARTED, _FILES_PER_MINUTE = datetime(2025, 12, 1, 8, tzinfo=UTC), 240

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SyntheticCampaign:
    """A campaign folder and the truth behind it."""

    folder: Path
    roster: Path
    readings: Path
    key_file: Path
    persons: pl.DataFrame
    """subject_pid, patient_id, site, dust, ..., true_stage, true_tb; one row per person."""


def write_campaign(
    folder: Path,
    *,
    num_studies: int,
    seed: int = 0,
    prevalence: float = 0.06,
    num_parts: int = 4,
    num_pictures: int = 0,
) -> SyntheticCampaign:
    """Write a campaign, its roster, readings and key beside it.

    Args:
        folder: made; `roster.csv`, `readings.csv` and `pseudonym.key` go into its parent.
        num_studies: studies; persons are about a fifth fewer.
        seed: of everything.
        prevalence: true share of persons with stage I or more.
        num_parts: parts of the images table.
        num_pictures: overlay pictures of referred studies.
    """
    rng = np.random.default_rng(seed)
    pseudonyms = Pseudonyms(KEY)
    persons = _persons(rng, max(1, round(num_studies * 0.8)), prevalence, pseudonyms)
    films = _films(rng, persons, num_studies)
    images = _images(rng, films)
    folder.mkdir(parents=True)
    _write_campaign_folder(folder, images, films, pseudonyms, num_parts)
    _write_pictures(rng, folder, num_pictures)
    beside = folder.parent
    _roster(persons).write_csv(beside / "roster.csv")
    _readings(rng, films).write_csv(beside / "readings.csv")
    key_file = beside / "pseudonym.key"
    key_file.write_bytes(KEY)
    key_file.chmod(0o600)
    return SyntheticCampaign(folder, beside / "roster.csv", beside / "readings.csv", key_file, persons)


def _persons(rng: np.random.Generator, count: int, prevalence: float, pseudonyms: Pseudonyms) -> pl.DataFrame:
    site = rng.integers(NUM_SITES, size=count)
    dust = rng.choice(len(DUSTS), size=count, p=_DUST_SHARE)
    exposure = np.round(rng.gamma(2.2, 7, size=count).clip(0.5, 45), 1)
    odds = np.array([_DUST_ODDS[name] for name in DUSTS])[dust] * (exposure / 15) ** 0.8
    odds *= np.exp(rng.normal(0, 0.35, size=NUM_SITES))[site]
    diseased = rng.random(count) < np.clip(odds / odds.mean() * prevalence, 0, 0.95)
    stage = np.where(diseased, rng.choice((1, 2, 3), size=count, p=_STAGE_SHARE), 0)
    tb = rng.random(count) < np.where(diseased, 0.108, 0.01)
    patient_ids = [f"W{number:07d}" for number in range(count)]
    subject = [pseudonyms.of_image(Identity(patient_id=patient), "").subject_pid for patient in patient_ids]
    return pl.DataFrame(
        {
            "patient_id": patient_ids,
            "subject_pid": subject,
            "site": [f"Mine {number + 1:02d}" for number in site],
            "job": np.array(JOBS)[rng.integers(len(JOBS), size=count)],
            "dust": np.array(DUSTS)[dust],
            "exposure_years": exposure,
            "birth_year": 2024 - (22 + exposure + rng.integers(0, 20, size=count)).astype(int),
            "sex": rng.choice(("M", "F"), size=count, p=(0.88, 0.12)),
            "maker": np.array(MAKERS)[(site * 7) % len(MAKERS)],
            "true_stage": stage,
            "true_tb": tb,
        }
    )


def _films(rng: np.random.Generator, persons: pl.DataFrame, num_studies: int) -> pl.DataFrame:
    """One row per study: its person, date, and what the simulated test says."""
    count = persons.height
    extra = rng.choice(count, size=num_studies - count, replace=True)
    person = np.concatenate([np.arange(count), extra])
    films = persons[person]
    stage = films["true_stage"].to_numpy()
    found = np.where(stage >= 1, rng.random(num_studies) < SENSITIVITY, rng.random(num_studies) > SPECIFICITY)
    wobble = np.clip(stage + rng.choice((-1, 0, 1), size=num_studies, p=(0.1, 0.8, 0.1)), 1, 3)
    stage_pred = np.where(found, np.where(stage >= 1, wobble, 1), 0)
    tb = np.where(
        films["true_tb"].to_numpy(),
        rng.random(num_studies) < TB_SENSITIVITY,
        rng.random(num_studies) > TB_SPECIFICITY,
    )
    day = rng.integers(0, 365 * len(YEARS), size=num_studies)
    dates = np.datetime64(f"{YEARS[0]}-01-01") + day.astype("timedelta64[D]")
    return films.with_columns(
        pl.Series("study_pid", _hex(rng, num_studies)),
        pl.Series("stage_pred", stage_pred, dtype=pl.Int8),
        pl.Series("p_pneumoconiosis", _score(rng, found), dtype=pl.Float32),
        pl.Series("p_tb", _score(rng, tb), dtype=pl.Float32),
        pl.Series("study_date", dates).cast(pl.Date),
        pl.Series(
            "quality_grade",
            rng.choice((1, 2, 3, 4), size=num_studies, p=(0.7, 0.2, 0.08, 0.02)),
            dtype=pl.Int8,
        ),
        pl.Series("positive", found),
        pl.Series("tb", tb),
    ).with_columns(pl.col("study_date").dt.year().cast(pl.Int16).alias("study_year"))


def _score(rng: np.random.Generator, positive: npt.NDArray[np.bool_]) -> Floats:
    """Scores above one half where positive, below where not."""
    high, low = 0.5 + rng.beta(2, 1.3, size=len(positive)) / 2, rng.beta(1.1, 6, size=len(positive)) / 2
    return np.where(positive, high, low)


def _hex(rng: np.random.Generator, count: int) -> list[str]:
    raw = rng.bytes(16 * count).hex()
    return [raw[start : start + 32] for start in range(0, len(raw), 32)]


def _images(rng: np.random.Generator, films: pl.DataFrame) -> pl.DataFrame:
    """The images table: the films, repeated exposures, copies, and files that are not screened."""
    first = _screened(rng, films)
    repeats = _screened(rng, films.sample(fraction=_REPEATED, seed=1))
    copies = first.sample(fraction=_COPIED, seed=2)
    copies = copies.with_columns(pl.Series("file_id", _hex(rng, copies.height)))
    rejected = [_rejected(rng, films, reason, share) for reason, share in _REJECTED.items()]
    return pl.concat([first, repeats, copies, *rejected]).sort("file_id")


def _screened(rng: np.random.Generator, films: pl.DataFrame) -> pl.DataFrame:
    count = films.height
    referred = pl.col("positive") | pl.col("tb") | (pl.col("quality_grade") == 4)
    priority = (pl.col("stage_pred") == 3) | (pl.col("positive") & pl.col("tb"))
    sure = pl.col("p_pneumoconiosis")
    columns: dict[str, pl.Series | pl.Expr] = {
        "file_id": pl.Series(_hex(rng, count)),
        "image_pid": pl.Series(_hex(rng, count)),
        "pixel_sha256": pl.Series(_hex(rng, count)),
        "status": pl.lit("screened"),
        "modality": pl.lit("DX"),
        "view_tag": pl.lit("PA"),
        "manufacturer": pl.col("maker"),
        "rows": pl.lit(2500),
        "cols": pl.lit(2048),
        "age_years": (pl.col("study_year") - pl.col("birth_year")).clip(0, 90),
        "quality_flags": pl.when(pl.col("quality_grade") > 1)
        .then(pl.lit(["rotated"]))
        .otherwise(pl.lit([], dtype=pl.List(pl.String))),
        "p_stage0": 1 - sure,
        "p_stage1": sure * 0.7,
        "p_stage2": sure * 0.2,
        "p_stage3": sure * 0.1,
        "stage_expected": sure * 1.4,
        "stage_consistent": pl.lit(value=True),
        "tb_coexist_flag": pl.col("positive") & pl.col("tb"),
        "dx_pred": pl.when(pl.col("positive") & pl.col("tb"))
        .then(pl.lit("both"))
        .when("positive")
        .then(pl.lit("pneumoconiosis"))
        .when("tb")
        .then(pl.lit("tb"))
        .otherwise(pl.lit("normal")),
        "referral": pl.when(pl.col("quality_grade") == 4)
        .then(pl.lit("unreadable"))
        .when(priority)
        .then(pl.lit("priority"))
        .when(referred)
        .then(pl.lit("routine"))
        .otherwise(pl.lit("none")),
        "referral_reasons": pl.when("positive")
        .then(pl.lit(["pneumoconiosis_suspected"]))
        .when("tb")
        .then(pl.lit(["tb_suspected"]))
        .otherwise(pl.lit([], dtype=pl.List(pl.String))),
        "threshold_set_id": pl.lit("simulated"),
        "calibrated": pl.lit(value=True),
    }
    return _in_schema(films.with_columns(**columns))


def _rejected(rng: np.random.Generator, films: pl.DataFrame, reason: Reason, share: float) -> pl.DataFrame:
    some = films.sample(n=max(1, round(share * films.height)), seed=len(reason))
    count = some.height
    is_dicom = reason is not Reason.NOT_DICOM
    own_study = pl.Series(_hex(rng, count))
    columns: dict[str, pl.Series | pl.Expr] = {
        "file_id": pl.Series(_hex(rng, count)),
        "image_pid": pl.Series(_hex(rng, count)) if is_dicom else pl.lit(None),
        # Laterals belong to the study of a frontal film, everything else is a study of its own.
        "study_pid": (pl.col("study_pid") if reason is Reason.LATERAL_VIEW else own_study)
        if is_dicom
        else pl.lit(None),
        "subject_pid": pl.col("subject_pid") if is_dicom else pl.lit(None),
        "status": pl.lit(str(REASON_STATUS[reason])),
        "reason": pl.lit(str(reason)),
        **{name: pl.lit(None) for name in _RESULT_NAMES},
    }
    return _in_schema(some.with_columns(**columns))


_RESULT_NAMES = ("quality_grade", "p_pneumoconiosis", "p_tb", "stage_pred")


def _in_schema(rows: pl.DataFrame) -> pl.DataFrame:
    wanted = schema.polars_schema(schema.IMAGES)
    return rows.select(
        (pl.col(name) if name in rows.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in wanted.items()
    )


def _write_campaign_folder(
    folder: Path, images: pl.DataFrame, films: pl.DataFrame, pseudonyms: Pseudonyms, num_parts: int
) -> None:
    metadata = {
        "schema_version": schema.SCHEMA_VERSION,
        "model_sha256": "0" * 64,
        "intended_use": INTENDED_USE,
    }
    (folder / "images").mkdir()
    size = -(-images.height // num_parts)
    for number in range(num_parts):
        part = images[number * size : (number + 1) * size]
        path = folder / "images" / f"part-{number + 1:06d}.parquet"
        write_table(path, part, "images", metadata)
        ended = _STARTED + timedelta(minutes=(number + 1) * size / _FILES_PER_MINUTE)
        os.utime(path, (ended.timestamp(), ended.timestamp()))
    write_table(folder / "studies.parquet", study_rows(images.lazy()), "studies", metadata)
    (folder / "private").mkdir(mode=0o700)
    links = images.select(
        "file_id", "image_pid", "study_pid", "subject_pid", pl.col("study_date").dt.strftime("%Y%m%d")
    )
    links_schema = schema.polars_schema(schema.LINKS)
    complete = links.with_columns(
        pl.lit(None, dtype=dtype).alias(name)
        for name, dtype in links_schema.items()
        if name not in links.columns
    )
    write_table(
        folder / "private" / "links.parquet", complete.select(list(links_schema)), "private/links", metadata
    )
    statuses = dict(images.group_by("status").len().iter_rows())
    _write_json(folder / "campaign.json", {"fingerprint": {"key_id": pseudonyms.key_id}})
    _write_json(
        folder / "run.json",
        {
            "started_utc": _STARTED.isoformat(),
            "finished_utc": (_STARTED + timedelta(minutes=images.height / _FILES_PER_MINUTE)).isoformat(),
            "campaign": {"files": images.height, **statuses},
            "bundle": "simulated",
            "device": "none: simulated campaign",
        },
    )


def _write_pictures(rng: np.random.Generator, folder: Path, count: int) -> None:
    """Overlays of referred studies, drawn from one simple chest with other activations each time."""
    studies = pl.read_parquet(folder / "studies.parquet", columns=["image_pid", "status", "referral"])
    referred = studies.filter((pl.col("status") == "screened") & (pl.col("referral") != "none"))
    referred = referred.sort(pl.col("referral") != "priority", maintain_order=True).head(count)
    (folder / "pictures").mkdir()
    canvas, lungs, box = simple_chest()
    for image_pid in referred["image_pid"]:
        activation = rng.normal(-1, 1, size=(2, 16, 16)).astype(np.float32)
        drawn = draw_overlay(canvas, lungs, box, activation)
        (folder / "pictures" / f"{image_pid}.webp").write_bytes(drawn)


def simple_chest() -> tuple[Float32, Float32, Float32]:
    """A canvas with two dark ellipses, their masks and their box."""
    row, column = np.mgrid[:CANVAS_SIDE, :CANVAS_SIDE] / CANVAS_SIDE
    rings = [((column - x) / 0.13) ** 2 + ((row - 0.5) / 0.3) ** 2 for x in (0.32, 0.68)]
    ribs = 0.05 * np.sin(row * 60 + np.abs(column - 0.5) * 25)
    canvas = 0.75 - 0.5 * np.clip(1.6 - np.minimum(*rings), 0, 1) + ribs
    masks = [ring[1::3, 1::3] < 1 for ring in rings]
    box = np.array([0.2, 0.19, 0.8, 0.81]) * CANVAS_SIDE
    return canvas.astype(np.float32), np.stack(masks).astype(np.float32), box.astype(np.float32)


def _write_json(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _roster(persons: pl.DataFrame) -> pl.DataFrame:
    """The operator's list: nine tenths of the persons, and a few who were never filmed."""
    columns = ["patient_id", "site", "job", "dust", "exposure_years", "birth_year", "sex"]
    listed = persons.select(columns).gather_every(10, 1)
    rest = [persons.select(columns).gather_every(10, offset) for offset in range(2, 10)]
    absent = persons.select(columns).head(7).with_columns(("X" + pl.col("patient_id")).alias("patient_id"))
    return pl.concat([listed, *rest, absent])


def _readings(rng: np.random.Generator, films: pl.DataFrame) -> pl.DataFrame:
    """Three readers on an enriched sample; each errs by one stage now and then."""
    diseased = films.filter(pl.col("true_stage") > 0).head(150)
    healthy = films.filter(pl.col("true_stage") == 0).head(250)
    sample = pl.concat([diseased, healthy]).filter(pl.col("quality_grade") < 4)
    stage = sample["true_stage"].to_numpy()
    frames = []
    for reader in ("reader-1", "reader-2", "reader-3"):
        error = rng.choice((-1, 0, 1), size=len(stage), p=(0.06, 0.9, 0.04))
        read = np.clip(stage + error, 0, 3)
        frames.append(
            sample.select(
                "study_pid",
                pl.lit(reader).alias("reader"),
                pl.Series("gbz_stage", np.array(["0", "I", "II", "III"])[read]),
                pl.when("true_tb").then(pl.lit("yes")).otherwise(pl.lit("no")).alias("tb"),
            )
        )
    return pl.concat(frames)
