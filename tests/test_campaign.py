from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screener import schema
from screener.campaign import FAILED_REASONS, Campaign, recorded_archive_root
from screener.errors import ConfigError, Reason, ReportError
from screener.fingerprint import Fingerprint
from screener.known_files import COLUMNS, KnownFiles, split_digests
from screener.pseudonyms import Pseudonyms
from screener.records import ArchiveEntry, Rejection, RunSummary
from screener.run_manifest import RunEnvironment, git_commit, write_run_manifest
from screener.settings import RunSettings
from screener.studies import build_studies
from tests.campaigns import (
    FINGERPRINT,
    PSEUDONYMS,
    entry,
    open_campaign,
    rejected,
    run_and_retry,
    screened,
)

NUM_FILES = 24
WALK = [entry(number) for number in range(NUM_FILES)]


def test_second_run_takes_up_nothing(tmp_path: Path) -> None:
    list(run_and_retry(tmp_path, NUM_FILES))
    with open_campaign(tmp_path) as campaign:
        pending = campaign.pending(WALK)
        assert list(pending) == []
        assert pending.num_skipped == NUM_FILES


def test_new_and_changed_files_are_taken_up_in_order(tmp_path: Path) -> None:
    list(run_and_retry(tmp_path, NUM_FILES))
    other_size = dataclasses.replace(entry(3), size_bytes=5)
    other_time = dataclasses.replace(entry(9), mtime_ns=5)
    walk = [entry(1), other_size, entry(4), other_time, entry(99)]
    with open_campaign(tmp_path) as campaign:
        pending = campaign.pending(walk)
        assert list(pending) == [other_size, other_time, entry(99)]
        assert pending.num_skipped == 2


def test_time_beyond_64_bits_is_looked_up_like_any_other(tmp_path: Path) -> None:
    far = dataclasses.replace(entry(1), mtime_ns=13_569_465_600 * 10**9)
    with open_campaign(tmp_path) as campaign, campaign.writer() as report:
        report.add(rejected(0))
    with open_campaign(tmp_path) as campaign:
        assert list(campaign.pending([entry(0), far])) == [far]


@pytest.mark.parametrize("name", ["films [2024]", "what?", "a*b", "not \udcff utf-8"])
def test_folder_that_parquet_readers_cannot_open_is_refused_first(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="another --out"):
        open_campaign(tmp_path, name=name)
    assert [path.name for path in tmp_path.iterdir()] == ["archive"]


def test_folder_may_have_any_other_name(tmp_path: Path) -> None:
    with open_campaign(tmp_path, name="体检\u3000影像 {2024}'s") as campaign:
        with campaign.writer() as report:
            report.add(screened(0))
        assert build_studies(campaign).height == 1


def test_folder_that_was_opened_since_keeps_no_row(tmp_path: Path) -> None:
    closed = [ArchiveEntry(name, 0, 0, Reason.UNREADABLE_FOLDER) for name in ("one", "two")]
    for walk, left in ((closed, 2), ([closed[1], entry(0)], 1), ([entry(0)], 0), ([entry(0)], 0)):
        with open_campaign(tmp_path) as campaign:
            pending = campaign.pending(walk)
            with campaign.writer() as report:
                for found in pending:
                    report.add(Rejection(found, found.reason) if found.reason else screened(0))
            campaign.forget_opened_folders(pending)
            assert campaign.known.count_reasons()["unreadable_folder"] == left
            assert len(campaign.known) == len(walk)
        images = pl.read_parquet(tmp_path / "campaign/images/*.parquet")
        assert images.height == len(walk)


def test_changed_file_replaces_its_row(tmp_path: Path) -> None:
    list(run_and_retry(tmp_path, NUM_FILES))
    with open_campaign(tmp_path) as campaign:
        with campaign.writer() as report:
            report.add(screened(1, version=1))
        assert len(campaign.known) == NUM_FILES
    images = pl.read_parquet(tmp_path / "campaign/images/*.parquet")
    changed = images.filter(pl.col("file_id") == PSEUDONYMS.file_id(entry(1).relative_path))
    assert changed["source_sha256"].to_list() == [f"{1:064x}"]


def test_retry_takes_up_only_what_failed(tmp_path: Path) -> None:
    with open_campaign(tmp_path) as campaign, campaign.writer() as report:
        report.add(screened(0))
        report.add(rejected(1, Reason.LATERAL_VIEW))
        report.add(rejected(2, Reason.DECODER_TIMEOUT))
        report.add(rejected(3, Reason.DECODE_FAILED))
    with open_campaign(tmp_path) as campaign:
        assert list(campaign.pending(WALK[:4])) == []
        assert list(campaign.pending(WALK, retry_reasons=FAILED_REASONS)) == [entry(2), entry(3)]
        some = campaign.pending(WALK, retry_reasons=frozenset({Reason.DECODE_FAILED}))
        assert list(some) == [entry(3)]
        assert some.num_skipped == NUM_FILES - 1


def test_retry_of_an_empty_campaign_takes_up_nothing(tmp_path: Path) -> None:
    with open_campaign(tmp_path) as campaign:
        assert list(campaign.pending(WALK, retry_reasons=FAILED_REASONS)) == []


def test_walk_is_read_no_further_than_needed(tmp_path: Path) -> None:
    def endless() -> object:
        raise AssertionError("read too far")

    with open_campaign(tmp_path) as campaign:
        walk = (entry(number) if number < 1024 else endless() for number in range(2000))
        assert next(campaign.pending(walk)) == entry(0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model_sha256": "c" * 64}, "bundle's networks"),
        ({"calibration_sha256": "c" * 64}, "bundle's calibration"),
        ({"threshold_set_id": "site-2"}, r"threshold set \(was demo-1, now site-2\)"),
        ({"canvas_version": "2"}, "canvas version"),
        ({"schema_version": "0"}, "schema version"),
        (
            {"settings": {**FINGERPRINT.settings, "precision": "int8"}},
            r"settings.precision \(was auto, now int8\)",
        ),
        ({"settings": {}}, "settings.min_side_px"),
    ],
)
def test_other_fingerprint_is_refused_and_the_ways_out_named(
    tmp_path: Path, change: dict[str, object], named: str
) -> None:
    open_campaign(tmp_path).close()
    other: Fingerprint = dataclasses.replace(FINGERPRINT, **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=named) as refused:
        open_campaign(tmp_path, fingerprint=other)
    assert "another --out" in str(refused.value)
    open_campaign(tmp_path).close()  # and the refusal neither changed nor locked it


def test_other_key_and_other_archive_are_refused(tmp_path: Path) -> None:
    open_campaign(tmp_path).close()
    (tmp_path / "patient-Wang").mkdir()

    def reopen(archive: str, pseudonyms: Pseudonyms) -> None:
        Campaign.open(
            tmp_path / "campaign",
            archive_root=tmp_path / archive,
            fingerprint=FINGERPRINT,
            pseudonyms=pseudonyms,
            settings=RunSettings(),
        ).close()

    with pytest.raises(ConfigError, match="pseudonym key"):
        reopen("archive", Pseudonyms(bytes(32)))
    with pytest.raises(ConfigError, match="archive folder") as refused:
        reopen("patient-Wang", PSEUDONYMS)
    assert "Wang" not in str(refused.value)
    (tmp_path / "archive").rename(tmp_path / "moved")
    (tmp_path / "archive").symlink_to("moved")
    reopen("archive", PSEUDONYMS)


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    with open_campaign(tmp_path):
        code = "import sys, pathlib, tests.campaigns as t; t.open_campaign(pathlib.Path(sys.argv[1]))"
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode != 0
        assert "another run (process " in done.stderr
    open_campaign(tmp_path).close()


def test_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "campaign").mkdir()
    (tmp_path / "campaign" / "thesis.docx").write_text("precious")
    with pytest.raises(ConfigError, match="holds other files"):
        open_campaign(tmp_path)
    assert (tmp_path / "campaign" / "thesis.docx").read_text() == "precious"


@pytest.mark.parametrize("inside", ["archive/campaign", "."])
def test_campaign_and_archive_inside_one_another_are_refused(tmp_path: Path, inside: str) -> None:
    with pytest.raises(ConfigError, match="beside each other"):
        open_campaign(tmp_path, name=inside)


def test_missing_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a folder"):
        Campaign.open(
            tmp_path / "campaign",
            archive_root=tmp_path / "none",
            fingerprint=FINGERPRINT,
            pseudonyms=PSEUDONYMS,
            settings=RunSettings(),
        )


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_damaged_campaign_json_is_an_error(tmp_path: Path, content: str) -> None:
    open_campaign(tmp_path).close()
    (tmp_path / "campaign" / "campaign.json").write_text(content)
    with pytest.raises(ReportError, match="backup"):
        open_campaign(tmp_path)


def test_campaign_without_private_folder_is_anonymous_and_resumes(tmp_path: Path) -> None:
    list(run_and_retry(tmp_path, NUM_FILES))
    folder = tmp_path / "campaign"
    for path in sorted((folder / "private").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    (folder / "private").rmdir()
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in (b"site/", "王".encode(), str(tmp_path).encode()))
    with pytest.raises(ConfigError, match="no longer knows its archive"):
        recorded_archive_root(folder)
    with open_campaign(tmp_path) as campaign:
        assert list(campaign.pending([*WALK, entry(99)])) == [entry(99)]


def test_campaign_knows_its_archive(tmp_path: Path) -> None:
    open_campaign(tmp_path).close()
    assert recorded_archive_root(tmp_path / "campaign") == tmp_path / "archive"
    with pytest.raises(ConfigError, match="not a campaign"):
        recorded_archive_root(tmp_path / "archive")


def test_manifest_names_everything_and_no_path(tmp_path: Path) -> None:
    list(run_and_retry(tmp_path, NUM_FILES))
    summary = RunSummary(NUM_FILES, 18, 4, 2, 0, {"lateral_view": 4, "decode_failed": 2}, 1.5, 1000)
    began = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    environment = RunEnvironment(began, began, "cpu", "OpenVINO", "bf16", "demo 1")
    with open_campaign(tmp_path) as campaign:
        build_studies(campaign)
        said = write_run_manifest(campaign, summary, environment, RunSettings())
    text = (tmp_path / "campaign" / "run.json").read_text("utf-8")
    written = json.loads(text)
    assert written == json.loads(json.dumps(said))
    assert str(tmp_path) not in text
    assert written["key_id"] == PSEUDONYMS.key_id
    assert written["run"]["screened"] == 18
    assert written["campaign"]["files"] == NUM_FILES
    assert sum(written["campaign"][status] for status in ("screened", "rejected", "failed")) == NUM_FILES
    assert written["campaign"]["reasons"] == {"lateral_view": 4}
    assert written["hashes"]["model"] == "a" * 64
    assert written["settings"]["min_side_px"] == 256
    assert written["started_utc"] == "2026-01-02T03:04:05+00:00"
    assert written["versions"]["polars"] == pl.__version__


def test_commit_is_a_commit_or_unknown() -> None:
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


digests = st.lists(st.binary(min_size=16, max_size=16), unique=True, max_size=30)


@given(known=digests, asked=digests)
def test_find_agrees_with_a_dict(known: list[bytes], asked: list[bytes]) -> None:
    index = known_files(known)
    position = index.find(*split_digests(b"".join([*asked, *known])))
    ids = index.file_ids()
    for digest, where in zip([*asked, *known], position, strict=True):
        assert (ids[where] if where >= 0 else None) == (digest.hex() if digest in known else None)


@given(older=digests, newer=digests)
def test_newer_part_supersedes(older: list[bytes], newer: list[bytes]) -> None:
    first, second = known_files(older, part=1), known_files(newer, part=2)
    both = first.updated(second)
    joined, superseded = KnownFiles.joined([second, first])
    assert both.file_ids() == joined.file_ids() == sorted({digest.hex() for digest in (*older, *newer)})
    assert both.part.tolist() == joined.part.tolist()
    twice = sorted(digest.hex() for digest in set(older) & set(newer))
    assert superseded.file_ids() == sorted(first.superseded_by(second).file_ids()) == twice
    assert set(superseded.part.tolist()) <= {1}


def known_files(ids: list[bytes], part: int = 1) -> KnownFiles:
    rows = {
        "file_id": sorted(digest.hex() for digest in ids),
        "size_bytes": [1] * len(ids),
        "mtime_key": [2] * len(ids),
        "reason": [None] * len(ids),
    }
    types = schema.polars_schema(schema.IMAGES)
    return KnownFiles.of_frame(pl.DataFrame(rows, schema={name: types[name] for name in COLUMNS}), part)


def test_hundred_thousand_known_files_are_recognised_at_once(tmp_path: Path) -> None:
    """The goal is 10 s with everything; recognition alone must leave nearly all of it to the walk."""
    open_campaign(tmp_path).close()
    walk = [ArchiveEntry(f"site/{n // 100}/{n}.dcm", 1000 + n, 10**18 + n) for n in range(100_000)]
    types = schema.polars_schema(schema.IMAGES)
    for part in range(50):
        entries = walk[part * 2000 : (part + 1) * 2000]
        rows = {
            "file_id": [PSEUDONYMS.file_id(each.relative_path) for each in entries],
            "size_bytes": [each.size_bytes for each in entries],
            "mtime_key": PSEUDONYMS.mtime_keys(each.mtime_ns for each in entries),
        }
        images = pl.DataFrame(rows, schema_overrides={name: types[name] for name in rows}).sort("file_id")
        absent = {name: pl.lit(None, dtype) for name, dtype in types.items() if name not in rows}
        images.with_columns(**absent).write_parquet(tmp_path / f"campaign/images/part-{part + 1:06d}.parquet")
    began = time.perf_counter()
    with open_campaign(tmp_path) as campaign:
        assert list(campaign.pending(walk)) == []
        known = campaign.known
    assert time.perf_counter() - began < 5
    memory = sum(getattr(known, field.name).nbytes for field in dataclasses.fields(known))
    assert memory == 37 * len(known) == 3_700_000
    assert np.all(np.diff(known.high) > 0)
