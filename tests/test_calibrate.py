from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from calibration import reliability
from calibration.errors import CalibrationError
from calibration.fitting import Requirements
from calibration.model_calibration import Calibration, Probabilities
from calibration.threshold_set import ThresholdSet
from screener.calibrate import calibrate
from screener.decide import decide
from screener.errors import ConfigError, ReportError
from screener.readings import UNREAD, join_readings, load_readings
from screener.records import Logits, QualityGrade
from screener.studies import build_studies
from tests.campaigns import FINGERPRINT, identity, open_campaign, rejected, screened

NUM_FILMS = 240
UNFITTED = Calibration.identity(FINGERPRINT.model_sha256)


class Site:
    """A campaign of `NUM_FILMS` films, one study each, with known findings and overconfident scores."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(0)
        self.stages = rng.choice(4, size=NUM_FILMS, p=[0.55, 0.2, 0.15, 0.1])
        self.tb = (rng.random(NUM_FILMS) < 0.25).astype(int)
        truth = np.stack([self.stages >= 1, self.tb], axis=1)
        self.logits = Logits(
            (8 * (truth - 0.4 + rng.normal(scale=0.5, size=truth.shape))).astype(np.float32),
            (5 * (np.eye(4)[self.stages] + rng.normal(scale=0.6, size=(NUM_FILMS, 4)))).astype(np.float32),
            np.zeros((NUM_FILMS, 6, 4), dtype=np.float32),
            np.zeros((NUM_FILMS, 2, 1, 1), dtype=np.float32),
        )
        self.folder = root / "campaign"
        with open_campaign(root, part_rows=100) as campaign:
            with campaign.writer() as writer:
                for number, decision in enumerate(decide(self.logits, UNFITTED)):
                    film = screened(number, of=identity(number, study=f"1.2.9.{number}"))
                    unreadable = replace(film.quality, grade=QualityGrade.UNREADABLE)
                    quality = unreadable if number == 0 else film.quality
                    writer.add(replace(film, decision=decision, quality=quality))
                writer.add(rejected(NUM_FILMS))
            build_studies(campaign)
        images = pl.read_parquet(self.folder / "images/part-*.parquet").filter(status="screened")
        self.order = {sha: number for number, sha in enumerate(f"{n:064x}" for n in range(NUM_FILMS))}
        self.images = images.with_columns(number=pl.col("pixel_sha256").replace_strict(self.order))

    def readings(self, file: Path, columns: str = "image_pid pneumoconiosis tb stage", **cells: str) -> Path:
        """Write readings of every film; `cells` overrides a column's cells by format text."""
        names = columns.split()
        with file.open("w", newline="") as lines:
            writer = csv.writer(lines)
            writer.writerow(names)
            for row in self.images.iter_rows(named=True):
                stage = int(self.stages[row["number"]])
                values = {
                    "image_pid": row["image_pid"],
                    "study_pid": row["study_pid"],
                    "pneumoconiosis": int(stage >= 1),
                    "tb": int(self.tb[row["number"]]),
                    "stage": stage,
                }
                writer.writerow([cells.get(name, values[name]) for name in names])
        return file

    def probabilities(self, calibration: Calibration) -> Probabilities:
        return calibration.apply(self.logits.diagnosis, self.logits.stage)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


@pytest.mark.parametrize("unit", ["image_pid", "study_pid"])
def test_thresholds_from_readings_reach_the_sensitivity_in_the_next_run(
    site: Site, unit: str, tmp_path: Path
) -> None:
    labels = site.readings(tmp_path / "readings.csv", f"{unit} pneumoconiosis tb stage")
    report = calibrate(site.folder, labels, tmp_path / "thresholds.json")
    assert (report.num_matched, report.num_unmatched, report.num_unreadable) == (NUM_FILMS - 1, 0, 1)
    used = UNFITTED.with_thresholds(ThresholdSet.load(tmp_path / "thresholds.json"))
    found, at = site.probabilities(used), used.thresholds
    readable = np.arange(NUM_FILMS) > 0
    sick, tuberculous = (site.stages >= 1) & readable, (site.tb == 1) & readable
    assert np.mean(found.pneumoconiosis[sick] >= at.pneumoconiosis) >= 0.95
    assert np.mean(found.tb[tuberculous] >= at.tb) >= 0.90
    assert np.mean(found.stage[sick, 1:].sum(axis=1) >= at.stage_positive) >= 0.95
    decisions = decide(site.logits, used)
    assert {decision.threshold_set_id for decision in decisions} == {report.threshold_set.threshold_set_id}
    assert all(decision.calibrated for decision in decisions)


def test_what_is_written_beside_the_threshold_set(site: Site, tmp_path: Path) -> None:
    labels = site.readings(tmp_path / "readings.csv")
    report = calibrate(site.folder, labels, tmp_path / "thresholds.json", Requirements(prevalence=0.06))
    names = ["thresholds.json", "thresholds.md", "thresholds-curve.csv", "thresholds-reliability.png"]
    assert [file.name for file in report.files] == names
    assert all(file.stat().st_size for file in report.files)
    text = (tmp_path / "thresholds.md").read_text()
    assert report.threshold_set.threshold_set_id in text
    assert "6.0% prevalence" in text
    assert "not a medical device" in text
    curve = pl.read_csv(tmp_path / "thresholds-curve.csv")
    assert set(curve["head"]) == {"pneumoconiosis", "tb", "stage"}
    refer_all = curve.filter(pl.col("threshold") == 0)
    assert refer_all["referred_per_1000"].to_list() == pytest.approx([1000] * 3)
    for head in report.heads:
        assert head.ece_after < head.ece_before
        assert head.brier_after < head.brier_before
    pneumoconiosis = report.heads[0].point
    assert pneumoconiosis is not None
    assert pneumoconiosis.prevalence == 0.06


def test_a_head_without_readings_keeps_the_bundles(site: Site, tmp_path: Path) -> None:
    labels = site.readings(tmp_path / "readings.csv", "image_pid tb")
    chosen = calibrate(site.folder, labels, tmp_path / "thresholds.json").threshold_set
    assert (chosen.pneumoconiosis, chosen.stage) == (None, None)
    assert chosen.tb is not None
    assert "the bundle's threshold is kept" in (tmp_path / "thresholds.md").read_text()


def test_a_stage_alone_says_whether_there_is_pneumoconiosis(site: Site, tmp_path: Path) -> None:
    labels = site.readings(tmp_path / "readings.csv", "image_pid stage")
    films = join_readings(site.folder, load_readings(labels))
    assert np.array_equal(films.pneumoconiosis, films.stage >= 1)
    assert set(films.tb) == {UNREAD}


def test_unmatched_readings_are_counted(site: Site, tmp_path: Path) -> None:
    labels = site.readings(tmp_path / "readings.csv")
    with labels.open("a") as lines:
        lines.write("feedbeef,1,0,2\n")
    assert calibrate(site.folder, labels, tmp_path / "thresholds.json").num_unmatched == 1


def test_readings_of_another_campaign_are_refused(site: Site, tmp_path: Path) -> None:
    labels = tmp_path / "readings.csv"
    labels.write_text("image_pid,tb\nfeedbeef,1\n")
    with pytest.raises(ConfigError, match="none of 1 readings"):
        calibrate(site.folder, labels, tmp_path / "thresholds.json")


def test_too_few_readings_are_refused(site: Site, tmp_path: Path) -> None:
    labels = site.readings(tmp_path / "readings.csv")
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join(lines[:12]))
    with pytest.raises(ConfigError, match="a head needs 10 with and without"):
        calibrate(site.folder, labels, tmp_path / "thresholds.json")
    assert not (tmp_path / "thresholds.json").exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "expected one of the columns image_pid and study_pid, found 0"),
        ("image_pid,study_pid,tb\na,b,1\n", "found 2"),
        ("image_pid\na\n", "at least one of the columns"),
        ("image_pid,tb\n", "no readings"),
        ("image_pid,tb\n,1\n", "row 2: image_pid is empty"),
        ("image_pid,tb\na,1\na,1\n", "row 3: the same image_pid as row 2"),
        ("image_pid,tb\na,1\nb,yes\n", "row 3: tb is 'yes', expected 0 to 1"),
        ("image_pid,stage\na,4\n", "row 2: stage is '4', expected 0 to 3"),
        ("image_pid,pneumoconiosis,stage\na,0,2\n", "row 2: stage 2 with pneumoconiosis 0"),
        ('image_pid,tb\n"a,1\n', "not a CSV file"),
    ],
)
def test_bad_readings_name_file_and_row(text: str, match: str, tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_text(text)
    with pytest.raises(ConfigError, match=match) as caught:
        load_readings(file)
    assert str(caught.value).startswith("readings.csv")
    assert str(tmp_path) not in str(caught.value)


def test_excels_byte_order_mark_and_spaces_do_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "readings.csv"
    file.write_bytes("\ufeffimage_pid,tb,reader\n a , 1 ,x\n".encode())
    (reading,) = load_readings(file).rows
    assert (reading.pid, reading.tb, reading.pneumoconiosis) == ("a", 1, UNREAD)


def test_what_is_no_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="not a campaign"):
        calibrate(tmp_path, tmp_path / "readings.csv", tmp_path / "thresholds.json")


def test_out_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.json"):
        calibrate(tmp_path, tmp_path / "readings.csv", tmp_path / "thresholds.csv")


def test_without_matplotlib_thresholds_are_written_and_the_report_says_so(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> None:
        raise CalibrationError("drawing needs matplotlib")

    monkeypatch.setattr("screener.calibrate.draw_reliability", missing)
    assert reliability.draw_reliability is not missing
    report = calibrate(site.folder, site.readings(tmp_path / "r.csv"), tmp_path / "thresholds.json")
    assert "needs matplotlib" in report.note
    assert len(report.files) == 3
