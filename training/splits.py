"""Patients to training, calibration and test parts, stratified, written to a file.

The decision a reader would question: patients are dealt out by a seeded hash order within each stratum, not
by a random draw over films, so that a patient's films always stay together and adding films later moves few
patients.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from screener.errors import ConfigError

Part = Literal["train", "calibration", "test"]
PARTS: tuple[Part, ...] = ("train", "calibration", "test")


def split_by_patient(
    patients: Sequence[str], strata: Sequence[str], *, shares: tuple[float, float, float], seed: int
) -> tuple[Part, ...]:
    """Part of every film.

    Args:
        patients: patient of every film.
        strata: stratum of every film; a patient counts in that of the first of its films in sorted order.
        shares: of training, calibration and test patients; sum 1.
        seed: changes who goes where.

    Returns:
        One part a film, in the order given.

    Raises:
        ConfigError: the shares do not sum to 1.
    """
    if abs(sum(shares) - 1) > 1e-6 or min(shares) < 0:
        raise ConfigError(f"split shares {shares} do not sum to 1")
    stratum_of: dict[str, str] = {}
    for patient, stratum in sorted(zip(patients, strata, strict=True)):
        stratum_of.setdefault(patient, stratum)
    members: dict[str, list[str]] = defaultdict(list)
    for patient, stratum in stratum_of.items():
        members[stratum].append(patient)
    part_of: dict[str, Part] = {}
    for group in members.values():
        group.sort(key=lambda patient: hashlib.sha256(f"{seed}/{patient}".encode()).digest())
        first, second = round(len(group) * shares[0]), round(len(group) * (shares[0] + shares[1]))
        for place, patient in enumerate(group):
            part_of[patient] = PARTS[(place >= first) + (place >= second)]
    return tuple(part_of[patient] for patient in patients)


def write_split(path: Path, films: Sequence[str], patients: Sequence[str], parts: Sequence[Part]) -> None:
    """Write who is where, one row a film, as CSV."""
    pl.DataFrame({"film": films, "patient": patients, "part": parts}).write_csv(path)


def refuse_divided_patients(films: pl.DataFrame) -> None:
    """Refuse a cohort, or cohorts put together, in which a patient stands in two parts of the split.

    Args:
        films: rows with `subject_id` and `split`.

    Raises:
        ConfigError: a patient does; says how many.
    """
    parts = films.group_by("subject_id").agg(pl.col("split").n_unique())
    crossing = parts.filter(pl.col("split") > 1).height
    if crossing:
        raise ConfigError(
            f"{crossing} patients are in more than one part of the split: cohorts that share patients need "
            "one split, and patient identifiers of different hospitals must differ"
        )
