from __future__ import annotations

import hashlib
import hmac
import os
import threading
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screener.dates import parse_date
from screener.errors import ConfigError
from screener.pseudonyms import (
    KEY_BYTES,
    MAX_DATE_SHIFT_DAYS,
    ImagePseudonyms,
    Pseudonyms,
    _Keyed,
    load_key,
)
from screener.records import Identity

KEY = bytes(range(KEY_BYTES))
PSEUDONYMS = Pseudonyms(KEY)
FILE_ID = "0" * 32

text = st.none() | st.text(max_size=6)


def of(**fields: str | None) -> ImagePseudonyms:
    return PSEUDONYMS.of_image(Identity(**fields), FILE_ID)


@given(key=st.binary(min_size=1, max_size=64), message=st.binary(max_size=200))
def test_keyed_digest_is_hmac_sha256(key: bytes, message: bytes) -> None:
    assert _Keyed(key).digest(message) == hmac.digest(key, message, "sha256")


def test_pseudonym_is_recomputable_from_its_published_definition() -> None:
    def field(value: bytes) -> bytes:
        return b"\1" + len(value).to_bytes(8, "big") + value

    subject_key = hmac.digest(KEY, b"screener/subject", "sha256")
    subject = hmac.digest(subject_key, field(b"hospital") + field("王1".encode()), hashlib.sha256)
    made = of(issuer_of_patient_id="hospital", patient_id="王1", study_instance_uid="1.2")
    assert made.subject_pid == subject[:16].hex()


@given(first=st.tuples(text, text, text), second=st.tuples(text, text, text))
def test_identities_share_a_study_only_when_equal(
    first: tuple[str | None, ...], second: tuple[str | None, ...]
) -> None:
    def meaning(fields: tuple[str | None, ...]) -> tuple[str | None, ...]:
        issuer, patient, study = ((each or "").strip("\0 ") or None for each in fields)
        return (issuer if patient else None, patient, study)

    pids = [
        of(issuer_of_patient_id=i, patient_id=p, study_instance_uid=s).study_pid
        for i, p, s in (first, second)
    ]
    assert (pids[0] == pids[1]) == (meaning(first) == meaning(second))


def test_kinds_do_not_share_pseudonyms() -> None:
    made = of(patient_id="1", study_instance_uid="1", sop_instance_uid="1")
    assert len({made.image_pid, made.study_pid, made.subject_pid, PSEUDONYMS.file_id("1")}) == 4


def test_same_uid_under_two_patients_is_two_studies_and_two_images() -> None:
    first = of(patient_id="1", study_instance_uid="1.2", sop_instance_uid="1.3")
    second = of(patient_id="2", study_instance_uid="1.2", sop_instance_uid="1.3")
    assert first.study_pid != second.study_pid
    assert first.image_pid != second.image_pid


def test_missing_uid_makes_the_file_a_study_of_its_own() -> None:
    nobody = Identity()
    first, second = (PSEUDONYMS.of_image(nobody, file_id) for file_id in ("a" * 32, "b" * 32))
    assert first.subject_pid is None
    assert first.study_pid != second.study_pid
    # ... which no UID can imitate
    assert first.study_pid != of(study_instance_uid="a" * 32).study_pid


def test_another_key_gives_other_pseudonyms_and_another_key_id() -> None:
    other = Pseudonyms(bytes(KEY_BYTES))
    assert other.key_id != PSEUDONYMS.key_id
    assert other.file_id("a") != PSEUDONYMS.file_id("a")
    assert KEY.hex()[:8] not in PSEUDONYMS.key_id


def test_paths_that_are_not_utf8_keep_their_bytes() -> None:
    path = b"k\xf6ln/\xff.dcm".decode("utf-8", "surrogateescape")
    assert PSEUDONYMS.file_id(path) != PSEUDONYMS.file_id("k\ufffdln/\ufffd.dcm")
    assert PSEUDONYMS.file_digests([path, "b"]).hex() == PSEUDONYMS.file_id(path) + PSEUDONYMS.file_id("b")


@given(
    day=st.dates(date(1900, 1, 1), date(2100, 1, 1)), gap=st.integers(0, 20_000), patient=st.text(min_size=1)
)
def test_dates_of_a_subject_move_alike_and_within_the_range(day: date, gap: int, patient: str) -> None:
    later = day + timedelta(days=gap)
    pids = of(patient_id=patient, study_instance_uid="1.2")
    moved, moved_later = (PSEUDONYMS.shifted_date(f"{each:%Y%m%d}", pids) for each in (day, later))
    assert moved is not None
    assert moved_later is not None
    assert moved_later - moved == later - day
    assert abs((moved - day).days) <= MAX_DATE_SHIFT_DAYS


def test_shifts_fill_their_range() -> None:
    day = date(2020, 7, 1)
    shifts = set()
    for number in range(4000):
        moved = PSEUDONYMS.shifted_date("20200701", of(patient_id=str(number)))
        assert moved is not None
        shifts.add((moved - day).days)
    assert min(shifts) == -MAX_DATE_SHIFT_DAYS
    assert max(shifts) == MAX_DATE_SHIFT_DAYS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20200229", date(2020, 2, 29)),
        ("2020.02.29", date(2020, 2, 29)),
        ("2020-02-29", date(2020, 2, 29)),
        ("20200229 ", date(2020, 2, 29)),
        ("20200229\0", date(2020, 2, 29)),
        ("2020.0229", None),
        ("20190229", None),
        ("202002", None),
        ("2020022x", None),
        ("²0200229", None),
        ("", None),
        (None, None),
    ],
)
def test_parse_date(text: str | None, expected: date | None) -> None:
    assert parse_date(text) == expected


@pytest.mark.parametrize("placeholder", ["00010101", "99991231"])
def test_placeholder_dates_never_overflow(placeholder: str) -> None:
    moved = [PSEUDONYMS.shifted_date(placeholder, of(patient_id=str(number))) for number in range(20)]
    assert None in moved


def test_key_is_made_once_private_and_outside_the_campaign(tmp_path: Path) -> None:
    path = tmp_path / "config" / "pseudonym.key"
    made = load_key(path, tmp_path / "campaign")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert len(path.read_bytes()) == KEY_BYTES
    assert load_key(path, tmp_path / "campaign").key_id == made.key_id
    assert [each.name for each in path.parent.iterdir()] == ["pseudonym.key"]


def test_key_inside_the_campaign_is_refused(tmp_path: Path) -> None:
    (tmp_path / "campaign").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "campaign")
    with pytest.raises(ConfigError, match="outside the campaign"):
        load_key(tmp_path / "link" / "key", tmp_path / "campaign")
    assert not (tmp_path / "campaign" / "key").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_key_open_to_others_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(KEY)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(path, tmp_path / "campaign")


@pytest.mark.parametrize("content", [b"", KEY[:-1], KEY + b"\n"])
def test_damaged_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=rf"expected 32 bytes, found {len(content)}"):
        load_key(path, tmp_path / "campaign")


def test_key_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="another --key-file"):
        load_key(tmp_path, tmp_path / "campaign")


def test_first_runs_at_once_end_with_one_key(tmp_path: Path) -> None:
    path, ids = tmp_path / "new" / "key", []
    barrier = threading.Barrier(8)

    def first_run() -> None:
        barrier.wait()
        ids.append(load_key(path, tmp_path / "campaign").key_id)

    threads = [threading.Thread(target=first_run) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert os.listdir(path.parent) == ["key"]  # noqa: PTH208 - names only
