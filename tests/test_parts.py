from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections import Counter
from dataclasses import replace
from datetime import date
from itertools import count
from pathlib import Path

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screener import INTENDED_USE, schema
from screener.errors import Reason, ReportError
from screener.parts import Parts, read_links
from screener.records import ArchiveEntry, Identity, Rejection, ScreenedImage
from screener.rows import FileRows, images_frame, links_frame, rejection_rows, screened_rows
from screener.studies import build_studies, study_rows
from tests.campaigns import (
    PSEUDONYMS,
    entry,
    identity,
    instance,
    open_campaign,
    rejected,
    run_and_retry,
    screened,
)

NUM_FILES = 24
REPOSITORY = Path(__file__).parents[1]


def images_of(root: Path, name: str = "campaign") -> pl.DataFrame:
    """Every row on disk, as a reader of the folder sees them."""
    empty = pl.DataFrame(schema=schema.polars_schema(schema.IMAGES))
    return pl.concat([empty, *map(pl.read_parquet, sorted((root / name / "images").glob("part-*.parquet")))])


def rows_of(*outcomes: ScreenedImage | Rejection) -> list[FileRows]:
    return [
        screened_rows(each, PSEUDONYMS)
        if isinstance(each, ScreenedImage)
        else rejection_rows(each, PSEUDONYMS)
        for each in outcomes
    ]


def test_screened_row_carries_everything_and_no_identity() -> None:
    images = images_frame(rows_of(screened(5)))
    assert images.schema == schema.polars_schema(schema.IMAGES)
    row = images.row(0, named=True)
    assert {name for name, value in row.items() if value is None} == {
        "reason",
        "detail",
        "step",
        "lung_area_cm2_l",
    }
    assert row["p_normal"] == pytest.approx(0.75 * 0.5)
    assert row["spacing_mm"] == pytest.approx(0.15)
    assert row["n_zones_pos"] == 4
    assert (row["zone_ru"], row["zone_ll"]) == (0.0, 3.0)
    assert row["study_year"] == 2020
    assert row["study_date"] != date(2020, 2, 29)
    texts = {str(value) for value in row.values()}
    assert not texts & {"P1", "王^小东", "20200229", "1.2.2", "1.2.3.5", "site/0005.dcm"}


def test_link_row_carries_identity_intact() -> None:
    link = links_frame(rows_of(screened(5))).row(0, named=True)
    assert link["patient_name"] == "王^小东"
    assert link["relative_path"] == "site/0005.dcm"
    assert link["relative_path_hex"] is None
    assert link["study_date"] == "20200229"
    assert link["file_id"] == PSEUDONYMS.file_id("site/0005.dcm")


def test_rows_fill_only_columns_that_exist() -> None:
    for row in rows_of(screened(5), rejected(6), Rejection(entry(7), Reason.NOT_DICOM)):
        assert row.image.keys() <= {column.name for column in schema.IMAGES}
        assert row.link.keys() <= {column.name for column in schema.LINKS}


def test_path_and_name_that_are_not_unicode_survive() -> None:
    path = b"k\xf6ln.dcm".decode("utf-8", "surrogateescape")
    odd = Rejection(
        ArchiveEntry(path, 1, 2), Reason.CORRUPT_HEADER, identity=Identity(patient_name="a\udce9")
    )
    link = links_frame(rows_of(odd)).row(0, named=True)
    assert bytes.fromhex(link["relative_path_hex"]) == b"k\xf6ln.dcm"
    assert link["patient_name"] == "a\\udce9"


def test_file_that_is_not_dicom_has_a_row_and_no_pseudonyms() -> None:
    row = images_frame(rows_of(Rejection(entry(1), Reason.NOT_DICOM, "no DICM", "header"))).row(0, named=True)
    assert (row["status"], row["reason"], row["detail"]) == ("rejected", "not_dicom", "no DICM")
    assert row["image_pid"] is None
    assert row["study_pid"] is None


@pytest.mark.parametrize("quoted", ["site/0003.dcm", "0003.dcm", "王^小东", "1.2.3.3"])
def test_detail_that_quotes_the_patient_or_the_path_is_withheld(quoted: str) -> None:
    rejection = Rejection(entry(3), Reason.DECODE_FAILED, f"cannot decode {quoted}", "pixels", identity(3))
    assert quoted not in images_frame(rows_of(rejection))["detail"][0]


def test_parquet_carries_what_made_it(tmp_path: Path) -> None:
    list(run_and_retry(tmp_path, NUM_FILES))
    folder = tmp_path / "campaign"
    paths = [*folder.glob("images/*.parquet"), folder / "studies.parquet", folder / "private/links.parquet"]
    assert len(paths) > 3
    for path in paths:
        metadata = pl.read_parquet_metadata(path)
        assert metadata["schema_version"] == schema.SCHEMA_VERSION
        assert metadata["model_sha256"] == "a" * 64
        assert metadata["intended_use"] == INTENDED_USE
        assert len(metadata["fingerprint_sha256"]) == 64
        read_by_others = pq.read_metadata(path)
        assert read_by_others.metadata[b"intended_use"].decode() == INTENDED_USE
        assert read_by_others.row_group(0).column(0).is_stats_set


def test_private_folder_is_private(tmp_path: Path) -> None:
    list(run_and_retry(tmp_path, NUM_FILES))
    private = tmp_path / "campaign" / "private"
    assert private.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in private.iterdir() if path.is_file()} == {0o600}
    assert not list((private / "parts").iterdir())


def test_rows_hold_whatever_a_file_system_or_a_header_says() -> None:
    """File systems hold times beyond 64 bits of nanoseconds; Bits Stored may say anything up to 65535."""
    far = ArchiveEntry("far", 1, 13_569_465_600 * 10**9)
    odd = replace(instance(), bits_allocated=65535, bits_stored=65535)
    images = images_frame(rows_of(Rejection(far, Reason.UNSUPPORTED_PIXEL_FORMAT, instance=odd)))
    assert images["bits_stored"].to_list() == [65535]
    assert images["mtime_key"].to_list() == PSEUDONYMS.mtime_keys([far.mtime_ns]).tolist()


def test_no_table_tells_when_a_file_was_made() -> None:
    """Often the day of the study, which the moved study date hides."""
    row = rows_of(screened(0))[0]
    assert entry(0).mtime_ns not in row.image.values()
    assert entry(0).mtime_ns not in row.link.values()


def test_identity_in_a_tag_of_the_device_reaches_no_table() -> None:
    """Sites write names wherever there is room; codes are upper case."""
    who = identity(1)
    spoilt = replace(
        instance(),
        modality="王^小东",
        manufacturer=f"for {who.patient_name}",
        photometric_interpretation="M" * 65,
    )
    row = rows_of(screened(1, of=who, header=spoilt))[0]
    assert (row.image["modality"], row.image["manufacturer"], row.image["photometric"]) == (None, None, None)
    no_uid = rows_of(screened(1, header=replace(instance(), sop_class_uid="ZHANG^SAN")))[0]
    assert no_uid.image["sop_class"] is None
    latin = replace(who, patient_name="Zhang^San")
    shouted = rows_of(screened(1, of=latin, header=replace(instance(), modality="ZHANG^SAN")))[0]
    assert shouted.image["modality"] is None
    assert rows_of(screened(1))[0].image["manufacturer"] == "ACME"


def test_part_is_sealed_by_age(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("screener.parts.time.monotonic", lambda: now)
    with open_campaign(tmp_path, part_rows=100) as campaign, campaign.writer() as report:
        report.add(screened(1))
        now = 3599.0
        report.add(screened(2))
        assert campaign.parts.paths() == []
        now = 3600.0
        report.add(screened(3))
        assert len(campaign.parts.paths()) == 1
    assert len(images_of(tmp_path)) == 3


def test_interrupt_seals_the_part_in_hand(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        open_campaign(tmp_path, part_rows=100) as campaign,
        campaign.writer() as report,
    ):
        report.add(screened(1))
        raise KeyboardInterrupt
    assert len(images_of(tmp_path)) == 1


outcomes = st.lists(
    st.tuples(
        st.integers(0, 9), st.sampled_from(["screened", *map(str, (Reason.COLOUR, Reason.DECODE_FAILED))])
    ),
    max_size=25,
)


@settings(max_examples=20, deadline=None)
@given(ended=outcomes, part_rows=st.integers(1, 7))
def test_parts_hold_each_file_once_and_counts_reconcile(
    tmp_path_factory: pytest.TempPathFactory, ended: list[tuple[int, str]], part_rows: int
) -> None:
    root = tmp_path_factory.mktemp("campaign")
    with open_campaign(root, part_rows=part_rows) as campaign:
        with campaign.writer() as report:
            for number, what in ended:
                report.add(screened(number) if what == "screened" else rejected(number, Reason(what)))
        studies = build_studies(campaign)
        counted = campaign.known
    last = dict(ended)
    on_disk = images_of(root)
    assert sorted(on_disk["file_id"]) == sorted(
        PSEUDONYMS.file_id(entry(number).relative_path) for number in last
    )
    assert len(counted) == len(last) == sum(counted.count_statuses().values())
    assert counted.count_reasons() == Counter(what for what in last.values() if what != "screened")
    assert counted.count_statuses()["screened"] == on_disk["status"].eq("screened").sum()
    assert read_links(root / "campaign")["file_id"].to_list() == sorted(on_disk["file_id"])
    in_one_part = images_frame(
        rows_of(
            *(screened(n) if what == "screened" else rejected(n, Reason(what)) for n, what in last.items())
        )
    )
    assert studies.equals(study_rows(in_one_part.lazy()))


def test_killed_at_any_sync_resumes_to_the_same_report(tmp_path: Path) -> None:
    """Runs that die at their 1st, 2nd, ... sync, each continuing what the last one left."""
    num_files = 60
    list(run_and_retry(tmp_path, num_files, "whole"))
    before: set[str] = set()
    num_repaired = 0
    for syncs in count(1):
        run = [sys.executable, "-m", "tests.campaigns", str(tmp_path), "killed", str(num_files), str(syncs)]
        done = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        sealed = images_of(tmp_path, "killed")["file_id"].to_list()
        handed_over = {PSEUDONYMS.file_id(path) for path in done.stdout.split()}
        assert len(handed_over - set(sealed)) <= 4  # at most one part's work is lost
        assert before <= set(sealed)
        num_repaired += len(sealed) - len(set(sealed))
        if sealed:
            Parts(tmp_path / "killed", {})  # opening repairs, and must not lose a row
        assert sorted(set(sealed)) == sorted(images_of(tmp_path, "killed")["file_id"])
        before = set(sealed)
    assert syncs > 10
    assert num_repaired > 0  # at least one run died between a retry's new part and the cut of an older one
    assert (tmp_path / "whole/studies.parquet").read_bytes() == (
        tmp_path / "killed/studies.parquet"
    ).read_bytes()
    whole, killed = (images_of(tmp_path, name).sort("file_id") for name in ("whole", "killed"))
    assert whole.equals(killed)
    assert len(whole) == num_files
    assert read_links(tmp_path / "whole").equals(read_links(tmp_path / "killed"))


def test_crash_between_new_part_and_cut_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_campaign(tmp_path) as campaign, campaign.writer() as report:
        for number in range(4):
            report.add(rejected(number, Reason.DECODER_TIMEOUT))
    with monkeypatch.context() as crash:
        crash.setattr(Parts, "_cut_out", lambda *_: None)
        with open_campaign(tmp_path) as campaign, campaign.writer() as report:
            report.add(screened(2))
    assert len(images_of(tmp_path)) == 5
    with open_campaign(tmp_path) as campaign:
        assert campaign.known.count_statuses() == {"screened": 1, "rejected": 0, "failed": 3}
    assert len(images_of(tmp_path)) == 4
    assert images_of(tmp_path)["status"].value_counts(sort=True).rows() == [("failed", 3), ("screened", 1)]


def test_part_whose_rows_are_all_superseded_is_removed(tmp_path: Path) -> None:
    for _ in range(2):
        with open_campaign(tmp_path) as campaign, campaign.writer() as report:
            for number in range(4):
                report.add(screened(number))
    assert [path.name for path in (tmp_path / "campaign/images").iterdir()] == ["part-000002.parquet"]


def test_links_part_without_images_is_undone(tmp_path: Path) -> None:
    list(run_and_retry(tmp_path, 4))
    orphan = tmp_path / "campaign/private/parts/part-000099.parquet"
    links_frame(rows_of(screened(9))).write_parquet(orphan)
    with open_campaign(tmp_path):
        assert not orphan.exists()


FULL_DISK = """
    import resource, sys
    from pathlib import Path
    from screener.errors import ReportError
    from tests.campaigns import open_campaign, screened

    root = Path(sys.argv[1])
    try:
        with open_campaign(root, part_rows=50) as campaign, campaign.writer() as report:
            for number in range(50):
                report.add(screened(number))
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            for number in range(50, 100):
                report.add(screened(number))
    except ReportError as error:
        print(error)
"""


def test_disk_that_takes_no_more_stops_the_run_and_keeps_what_was_written(tmp_path: Path) -> None:
    """The kernel itself refuses to let a file grow, as it does on a full disk."""
    command = [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "cannot write part-000002.parquet" in done.stdout
    assert os.strerror(27) in done.stdout
    assert "run the same command again" in done.stdout
    assert str(tmp_path) not in done.stdout
    assert len(images_of(tmp_path)) == 50
    with open_campaign(tmp_path) as campaign:
        assert len(list(campaign.pending(entry(number) for number in range(100)))) == 50
        with campaign.writer() as report:
            for number in range(50, 100):
                report.add(screened(number))
    assert images_of(tmp_path)["file_id"].n_unique() == len(images_of(tmp_path)) == 100


def test_damaged_part_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    list(run_and_retry(tmp_path, NUM_FILES))
    part = sorted((tmp_path / "campaign/images").iterdir())[0]
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(ReportError, match=rf"images/{part.name} .* delete it and run again"):
        open_campaign(tmp_path)
    part.unlink()
    with open_campaign(tmp_path) as campaign:
        assert 0 < len(list(campaign.pending(entry(number) for number in range(NUM_FILES)))) < NUM_FILES
