"""The product end to end: real files, the shipped bundle, real Parquet read back."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from screener.errors import ConfigError, Reason
from screener.records import RunSummary
from screener.run import RunRequest, retryable, run
from screener.settings import RunSettings
from tests.dicom_archive import Outcome, copied_outcomes

TESTS = Path(__file__).parent
EXAMPLES = TESTS.parent / "examples" / "archive"


def screen(archive: Path, campaign: Path, **settings: object) -> RunSummary:
    key_file = campaign.with_name("test.key")
    request = RunRequest(archive, campaign, RunSettings(**settings), key_file=key_file)  # type: ignore[arg-type]
    return run(request, threading.Event())


def images(campaign: Path) -> pl.DataFrame:
    return pl.read_parquet(sorted((campaign / "images").glob("part-*.parquet")))


def by_path(campaign: Path) -> dict[str, dict[str, object]]:
    links = pl.read_parquet(campaign / "private" / "links.parquet").select("file_id", "relative_path")
    joined = images(campaign).join(links, on="file_id", how="left")
    return {str(row["relative_path"]): row for row in joined.iter_rows(named=True)}


@pytest.fixture(scope="module")
def real_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, RunSummary]]:
    """Every real DICOM file of the repository, screened once with masks."""
    place = tmp_path_factory.mktemp("real")
    archive = place / "archive"
    shutil.copytree(EXAMPLES, archive / "examples")
    shutil.copytree(TESTS / "dicom", archive / "dicom")
    yield place / "campaign", screen(archive, place / "campaign", save_masks=True, pictures="all")


@pytest.mark.parametrize("path, expected", copied_outcomes(), ids=lambda value: getattr(value, "file", ""))
def test_every_real_file_ends_where_it_should(
    real_files: tuple[Path, RunSummary], path: Path, expected: Outcome
) -> None:
    below = path.relative_to(EXAMPLES) if path.is_relative_to(EXAMPLES) else path.relative_to(TESTS / "dicom")
    folder = "examples" if path.is_relative_to(EXAMPLES) else "dicom"
    row = by_path(real_files[0])[f"{folder}/{below}"]
    assert (row["status"], row["reason"] or "") == (expected.status, expected.reason)


def test_counters_and_rows_reconcile(real_files: tuple[Path, RunSummary]) -> None:
    campaign, summary = real_files
    table = images(campaign)
    assert table.height == summary.found == table["file_id"].n_unique()
    counts = dict(table["status"].value_counts().iter_rows())
    assert (counts["screened"], counts["rejected"], counts["failed"]) == (
        summary.screened,
        summary.rejected,
        summary.failed,
    )
    reasons = dict(table["reason"].drop_nulls().value_counts().iter_rows())
    assert reasons == summary.reasons


def test_the_manifest_says_what_ran_and_what_decided(real_files: tuple[Path, RunSummary]) -> None:
    manifest = json.loads((real_files[0] / "run.json").read_text("utf-8"))
    assert manifest["device"] == "cpu"
    assert manifest["fallbacks"]  # no GPU was asked for by name, and none is here: said, not silent
    assert 0 < manifest["thresholds"]["pneumoconiosis"] < 1
    assert manifest["campaign"]["files"] == real_files[1].found


def test_one_study_row_each_and_never_a_negative_for_a_failure(real_files: tuple[Path, RunSummary]) -> None:
    campaign, _ = real_files
    studies = pl.read_parquet(campaign / "studies.parquet")
    assert studies["study_pid"].n_unique() == studies.height
    screened = studies.filter(pl.col("status") == "screened")
    assert screened.height >= 8
    stages = screened.select("p_stage0", "p_stage1", "p_stage2", "p_stage3").sum_horizontal()
    np.testing.assert_allclose(stages, 1, atol=1e-5)
    not_screened = studies.filter(pl.col("status") != "screened")
    assert not_screened["stage_pred"].is_null().all()
    assert set(studies.filter(pl.col("status") == "failed")["referral"]) <= {"unreadable"}


def test_masks_have_the_picture_s_own_geometry(real_files: tuple[Path, RunSummary]) -> None:
    campaign, _ = real_files
    screened = images(campaign).filter(pl.col("status") == "screened")
    assert {path.stem for path in (campaign / "masks").iterdir()} == set(screened["image_pid"])
    for row in screened.iter_rows(named=True):
        with Image.open(campaign / "masks" / f"{row['image_pid']}.png") as mask:
            assert mask.size == (row["cols"], row["rows"])
    good = screened.filter(pl.col("mask_valid")).row(0, named=True)
    with Image.open(campaign / "masks" / f"{good['image_pid']}.png") as mask:
        drawn = np.asarray(mask)
    assert set(np.unique(drawn)) == {0, 128, 255}
    right, left = (np.flatnonzero((drawn == grey).any(axis=0)).mean() for grey in (128, 255))
    assert right < left  # the patient's right lung is on the image's left


def test_pictures_are_kept_for_every_screened_film(real_files: tuple[Path, RunSummary]) -> None:
    campaign, _ = real_files
    screened = images(campaign).filter(pl.col("status") == "screened")
    assert {path.stem for path in (campaign / "pictures").iterdir()} == set(screened["image_pid"])


def test_wrong_polarity_gives_the_same_picture(real_files: tuple[Path, RunSummary]) -> None:
    rows = by_path(real_files[0])
    right = rows["examples/mobile unit 2/1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm"]
    wrong = rows["examples/mobile unit 2/wrong polarity.dcm"]
    assert "polarity_corrected" in wrong["header_flags"]  # type: ignore[operator]
    assert wrong["p_pneumoconiosis"] == pytest.approx(right["p_pneumoconiosis"], abs=1e-3)


def test_a_second_run_screens_nothing_and_changes_nothing(real_files: tuple[Path, RunSummary]) -> None:
    campaign, first = real_files
    before = (campaign / "studies.parquet").read_bytes()
    again = screen(campaign.with_name("archive"), campaign, save_masks=True, pictures="all")
    assert (again.already_done, again.screened, again.rejected, again.failed) == (first.found, 0, 0, 0)
    assert (campaign / "studies.parquet").read_bytes() == before


@pytest.fixture
def small_archive(tmp_path: Path) -> Path:
    archive = tmp_path / "archive"
    shutil.copytree(EXAMPLES / "mobile unit 2", archive)
    return archive


def test_results_do_not_depend_on_batches_or_workers(small_archive: Path, tmp_path: Path) -> None:
    screen(small_archive, tmp_path / "one", batch_size=1, workers=1, part_rows=1)
    screen(small_archive, tmp_path / "many", batch_size=8, workers=3)
    one, many = (pl.read_parquet(tmp_path / name / "studies.parquet") for name in ("one", "many"))
    assert one.equals(many)


def test_new_and_changed_files_are_picked_up(small_archive: Path, tmp_path: Path) -> None:
    campaign = tmp_path / "campaign"
    first = screen(small_archive, campaign)
    shutil.copy(next((EXAMPLES / "clinic" / "ct").iterdir()), small_archive)
    changed = small_archive / "IM0003"
    changed.write_bytes(changed.read_bytes()[:2000])
    second = screen(small_archive, campaign)
    assert (second.already_done, second.screened + second.rejected + second.failed) == (first.found - 1, 2)
    table = images(campaign)
    assert table.height == table["file_id"].n_unique() == first.found + 1
    assert by_path(campaign)["IM0003"]["status"] == "failed"


def test_retry_takes_up_only_what_failed(small_archive: Path, tmp_path: Path) -> None:
    campaign = tmp_path / "campaign"
    whole = (small_archive / "IM0003").read_bytes()
    (small_archive / "IM0003").write_bytes(whole[: len(whole) // 2])
    first = screen(small_archive, campaign)
    assert first.failed == 1
    (small_archive / "IM0003").write_bytes(whole)
    request = RunRequest(
        small_archive, campaign, key_file=tmp_path / "test.key", retry_reasons=retryable(list(first.reasons))
    )
    second = run(request, threading.Event())
    assert (second.screened, second.failed) == (1, 0)
    assert by_path(campaign)["IM0003"]["status"] == "screened"
    with pytest.raises(ConfigError, match="no_such_reason"):
        retryable(["no_such_reason"])
    with pytest.raises(ConfigError, match="not_dicom"):
        retryable([Reason.NOT_DICOM])


def test_another_fingerprint_is_refused(small_archive: Path, tmp_path: Path) -> None:
    screen(small_archive, tmp_path / "campaign")
    with pytest.raises(ConfigError, match=r"min_side_px \(was 256, now 300"):
        screen(small_archive, tmp_path / "campaign", min_side_px=300)


def test_stopping_early_loses_nothing(small_archive: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    request = RunRequest(small_archive, tmp_path / "campaign", key_file=tmp_path / "test.key")
    interrupted = run(request, stop)
    assert interrupted.interrupted
    rest = screen(small_archive, tmp_path / "campaign")
    assert rest.already_done == interrupted.found
    assert rest.found == len(list(small_archive.iterdir()))
