from pathlib import Path

import numpy as np
import polars as pl
import pytest

from screener.epidemiology.intervals import proportion_interval
from screener.epidemiology.misclassification import (
    TestAccuracy,
    accuracy_of_readings,
    lang_reiczigel,
    read_accuracy,
    rogan_gladen,
    write_accuracy,
)
from screener.epidemiology.outcomes import Outcome
from screener.errors import ConfigError
from tests.synthetic_campaign import shared_content


def test_rogan_gladen_undoes_a_known_test() -> None:
    # True prevalence 0.06, Se 0.95, Sp 0.90: apparent 0.057 + 0.094 = 0.151.
    corrected = rogan_gladen(np.array([151]), np.array([1000]), TestAccuracy(0.95, 200, 0.90, 400))
    assert corrected[0] == pytest.approx(0.06)


def test_rogan_gladen_stays_in_range() -> None:
    corrected = rogan_gladen(np.array([0, 1000]), np.array([1000, 1000]), TestAccuracy(0.8, 50, 0.9, 50))
    assert corrected.tolist() == [0.0, 1.0]


def test_a_perfect_test_gives_agresti_coull() -> None:
    # With Se = Sp = 1 known from very many films nothing is left but z^2/2 added to both sides.
    positives, total, z = 30, 200, 1.959964
    low, high = lang_reiczigel(
        np.array([positives]), np.array([total]), TestAccuracy(1, 10**9, 1, 10**9), confidence=0.95
    )
    middle = (positives + z * z / 2) / (total + z * z)
    half = z * np.sqrt(middle * (1 - middle) / (total + z * z))
    assert low[0] == pytest.approx(middle - half, abs=1e-6)
    assert high[0] == pytest.approx(middle + half, abs=1e-6)


def test_lang_reiczigel_covers_where_the_naive_interval_does_not() -> None:
    rng = np.random.default_rng(4)
    truth, sensitivity, specificity = 0.10, 0.85, 0.90
    total, diseased, healthy, repeats = 1000, 60, 80, 1500
    covered = naive = 0
    apparent = truth * sensitivity + (1 - truth) * (1 - specificity)
    for positive, found, cleared in zip(
        rng.binomial(total, apparent, repeats),
        rng.binomial(diseased, sensitivity, repeats),
        rng.binomial(healthy, specificity, repeats),
        strict=True,
    ):
        accuracy = TestAccuracy(found / diseased, diseased, cleared / healthy, healthy)
        low, high = lang_reiczigel(np.array([positive]), np.array([total]), accuracy, confidence=0.95)
        covered += bool(low[0] <= truth <= high[0])
        limits = proportion_interval(
            np.array([positive]), np.array([total]), method="wilson", confidence=0.95
        )
        youden = accuracy.sensitivity + accuracy.specificity - 1
        from_low, to_high = ((limit[0] + accuracy.specificity - 1) / youden for limit in limits)
        naive += bool(from_low <= truth <= to_high)
    assert 0.93 <= covered / repeats <= 0.99
    assert naive / repeats < 0.80


def test_limits_are_ordered_and_in_range_for_any_count() -> None:
    positives = np.arange(0, 101)
    low, high = lang_reiczigel(positives, np.full(101, 100), TestAccuracy(0.9, 30, 0.8, 30), confidence=0.95)
    assert ((low >= 0) & (low <= high) & (high <= 1)).all()
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) >= 0).all()


def test_a_tiny_accuracy_sample_can_leave_everything_open() -> None:
    low, high = lang_reiczigel(np.array([5]), np.array([50]), TestAccuracy(0.6, 1, 0.5, 1), confidence=0.95)
    assert (low[0], high[0]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("not json", "JSON"),
        ("[]", "object"),
        ('{"cancer": {}}', "unknown outcome"),
        ('{"tb": {"sensitivity": 0.9}}', "num_diseased"),
        ('{"tb": {"sensitivity": "x", "num_diseased": 1, "specificity": 1, "num_healthy": 1}}', "numbers"),
        ('{"tb": {"sensitivity": 1.9, "num_diseased": 9, "specificity": 1, "num_healthy": 9}}', "0 to 1"),
        ('{"tb": {"sensitivity": 0.4, "num_diseased": 9, "specificity": 0.5, "num_healthy": 9}}', "above 1"),
    ],
)
def test_bad_accuracy_is_refused_with_the_reason(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "accuracy.json").write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        read_accuracy(tmp_path / "accuracy.json")


def test_accuracy_is_read_by_outcome(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(
        '{"tb": {"sensitivity": 0.9, "num_diseased": 120, "specificity": 0.7, "num_healthy": 300}}'
    )
    assert read_accuracy(tmp_path / "a.json") == {Outcome.TB: TestAccuracy(0.9, 120, 0.7, 300)}


def test_figures_from_readings_are_written_and_read_again(tmp_path: Path) -> None:
    found = accuracy_of_readings(shared_content().tables["accuracy"], "consensus")
    assert set(found) == {Outcome.PNEUMOCONIOSIS, Outcome.STAGE_GE_1, Outcome.TB}
    assert 0.8 < found[Outcome.STAGE_GE_1].sensitivity < 1
    write_accuracy(tmp_path / "accuracy.json", found)
    assert read_accuracy(tmp_path) == found


def test_readings_without_any_diseased_film_give_no_figures() -> None:
    rows = shared_content().tables["accuracy"].filter(pl.col("metric") != "sensitivity")
    assert accuracy_of_readings(rows, "consensus") == {}
