from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.model_calibration import Calibration, Thresholds
from calibration.scaling import Scaling, logit
from engines.errors import EngineError
from screener.decide import ReferralReason, Suspicion, decide, refer
from screener.records import (
    Decision,
    Diagnosis,
    Logits,
    Quality,
    QualityFlag,
    QualityGrade,
    Referral,
)

UNFITTED = Calibration.identity("0" * 64)
FITTED = replace(
    UNFITTED,
    pneumoconiosis=Scaling("platt", (0.7,), (-1.0,)),
    tb=Scaling("platt", (1.3,), (0.5,)),
    stage=Scaling("vector", (0.8, 0.9, 1.1, 1.2), (0.1, 0.0, -0.2, 0.3)),
    thresholds=Thresholds(pneumoconiosis=0.2, tb=0.3, stage_positive=0.25, tb_priority=0.8),
    threshold_set_id="bundle-1",
    calibrated=True,
)
ORDER = (Referral.NONE, Referral.ROUTINE, Referral.PRIORITY)
READABLE = Quality(QualityGrade.GOOD, ())

probabilities = st.floats(0.001, 0.999)
stages = st.lists(st.floats(0.01, 1), min_size=4, max_size=4).map(lambda p: [x / sum(p) for x in p])


def logits_of(p_pneumoconiosis: float, p_tb: float, p_stage: list[float]) -> Logits:
    return Logits(
        diagnosis=logit([[p_pneumoconiosis, p_tb]]).astype(np.float32),
        stage=np.log([p_stage]).astype(np.float32),
        zones=np.zeros((1, 6, 4), dtype=np.float32),
        activation=np.zeros((1, 2, 1, 1), dtype=np.float32),
    )


def decision_of(
    p_pneumoconiosis: float, p_tb: float, p_stage: list[float], calibration: Calibration = UNFITTED
) -> Decision:
    return decide(logits_of(p_pneumoconiosis, p_tb, p_stage), calibration)[0]


# One row for each line of docs/decisions/referral.md, at thresholds of one half and 0.9 for tb_priority.
@pytest.mark.parametrize(
    ("p_pneumoconiosis", "p_tb", "p_stage", "diagnosis", "consistent", "coexist", "referral"),
    [
        (0.1, 0.1, [0.9, 0.1, 0, 0], Diagnosis.NORMAL, True, False, Referral.NONE),
        (0.9, 0.1, [0.1, 0.9, 0, 0], Diagnosis.PNEUMOCONIOSIS, True, False, Referral.ROUTINE),
        (0.9, 0.1, [0.1, 0, 0.9, 0], Diagnosis.PNEUMOCONIOSIS, True, False, Referral.ROUTINE),
        (0.9, 0.1, [0.1, 0, 0, 0.9], Diagnosis.PNEUMOCONIOSIS, True, False, Referral.PRIORITY),
        (0.1, 0.6, [0.9, 0.1, 0, 0], Diagnosis.TB, True, False, Referral.ROUTINE),
        (0.1, 0.95, [0.9, 0.1, 0, 0], Diagnosis.TB, True, False, Referral.PRIORITY),
        (0.9, 0.6, [0.1, 0.9, 0, 0], Diagnosis.BOTH, True, True, Referral.PRIORITY),
        (0.1, 0.6, [0.1, 0.9, 0, 0], Diagnosis.TB, False, True, Referral.PRIORITY),
        (0.9, 0.1, [0.9, 0.1, 0, 0], Diagnosis.PNEUMOCONIOSIS, False, False, Referral.ROUTINE),
        (0.1, 0.1, [0.1, 0.9, 0, 0], Diagnosis.NORMAL, False, False, Referral.ROUTINE),
    ],
)
def test_decision_table(
    p_pneumoconiosis: float,
    p_tb: float,
    p_stage: list[float],
    diagnosis: Diagnosis,
    consistent: bool,
    coexist: bool,
    referral: Referral,
) -> None:
    decision = decision_of(p_pneumoconiosis, p_tb, [max(p, 1e-6) for p in p_stage])
    assert decision.dx_pred is diagnosis
    assert decision.stage_pred == int(np.argmax(p_stage))
    assert decision.stage_consistent is consistent
    assert decision.tb_coexist_flag is coexist
    assert decision.referral is referral


def test_every_combination_of_suspicions() -> None:
    for pneumoconiosis, tb, tb_high, positive in itertools.product((False, True), repeat=4):
        for stage in range(4):
            suspicion = Suspicion(pneumoconiosis, tb or tb_high, tb_high, positive, stage)
            anything = pneumoconiosis or tb or tb_high or positive or stage >= 1
            urgent = tb_high or stage == 3 or (tb and positive)
            expected = Referral.PRIORITY if urgent else Referral.ROUTINE if anything else Referral.NONE
            assert suspicion.referral is expected
            assert bool(suspicion.reasons) is (expected is not Referral.NONE)
            assert (ReferralReason.HEADS_DISAGREE in suspicion.reasons) is not suspicion.consistent


@pytest.mark.parametrize("calibration", [UNFITTED, FITTED])
@given(p=probabilities, p_tb=probabilities, p_stage=stages, raised=st.sampled_from("dts"), by=st.floats(0, 1))
def test_raising_a_probability_never_lowers_the_referral(
    calibration: Calibration, p: float, p_tb: float, p_stage: list[float], raised: str, by: float
) -> None:
    def up(probability: float) -> float:
        return probability + by * (0.999 - probability)

    moved = (1 - by) * np.array(p_stage) + by * np.array([0, 0, 0, 1.0])
    after = {
        "d": (up(p), p_tb, p_stage),
        "t": (p, up(p_tb), p_stage),
        "s": (p, p_tb, np.maximum(moved, 1e-6).tolist()),
    }[raised]
    lower = decision_of(p, p_tb, p_stage, calibration).referral
    higher = decision_of(*after, calibration=calibration).referral
    assert ORDER.index(lower) <= ORDER.index(higher)


@given(p=probabilities, p_tb=probabilities, p_stage=stages)
def test_probabilities_are_kept_raw_and_calibrated(p: float, p_tb: float, p_stage: list[float]) -> None:
    decision = decision_of(p, p_tb, p_stage, FITTED)
    assert decision.p_pneumoconiosis_raw == pytest.approx(p, rel=1e-4)
    assert decision.p_tb_raw == pytest.approx(p_tb, rel=1e-4)
    assert decision.p_stage_raw == pytest.approx(p_stage, rel=1e-4)
    assert decision.p_pneumoconiosis == pytest.approx(FITTED.pneumoconiosis.label(logit([p]))[0], rel=1e-4)
    assert sum(decision.p_stage) == pytest.approx(1)
    assert 0 <= decision.stage_expected <= 3
    assert decision.stage_expected == pytest.approx(sum(k * p for k, p in enumerate(decision.p_stage)))
    assert decision.calibrated
    assert decision.threshold_set_id == "bundle-1"


def test_a_probability_at_its_threshold_passes() -> None:
    exact = decision_of(0.5, 0.5, [0.5, 0.5 / 3, 0.5 / 3, 0.5 / 3])
    assert exact.dx_pred is Diagnosis.BOTH
    assert exact.p_pneumoconiosis == 0.5


def test_zone_scores_are_expected_levels() -> None:
    logits = logits_of(0.1, 0.1, [0.7, 0.1, 0.1, 0.1])
    logits.zones[0, 2] = [-50, -50, -50, 50]
    logits.zones[0, 3] = [50, -50, -50, -50]
    assert decide(logits, UNFITTED)[0].zone_scores == pytest.approx((1.5, 1.5, 3, 0, 1.5, 1.5))


def test_films_of_a_batch_do_not_see_each_other() -> None:
    rng = np.random.default_rng(0)
    logits = Logits(
        rng.normal(size=(5, 2)).astype(np.float32),
        rng.normal(size=(5, 4)).astype(np.float32),
        rng.normal(size=(5, 6, 4)).astype(np.float32),
        np.zeros((5, 2, 1, 1), dtype=np.float32),
    )
    alone = [
        decide(
            Logits(
                logits.diagnosis[i : i + 1],
                logits.stage[i : i + 1],
                logits.zones[i : i + 1],
                logits.activation[i : i + 1],
            ),
            FITTED,
        )[0]
        for i in range(5)
    ]
    assert list(decide(logits, FITTED)) == alone


@pytest.mark.parametrize("head", ["diagnosis", "stage", "zones"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_not_finite_stop_the_run_instead_of_looking_normal(head: str, value: float) -> None:
    logits = logits_of(0.1, 0.1, [0.7, 0.1, 0.1, 0.1])
    getattr(logits, head)[0, 0] = value
    with pytest.raises(EngineError, match="1 of 1 films"):
        decide(logits, UNFITTED)


@given(p=probabilities, p_tb=probabilities, p_stage=stages, grade=st.sampled_from([1, 2, 3]))
def test_a_readable_film_keeps_its_decision(p: float, p_tb: float, p_stage: list[float], grade: int) -> None:
    decision = decision_of(p, p_tb, p_stage)
    assert refer(decision, Quality(QualityGrade(grade), (QualityFlag.NOISY,))) == decision


@given(p=probabilities, p_tb=probabilities, p_stage=stages)
def test_an_unreadable_film_is_always_referred_as_such(p: float, p_tb: float, p_stage: list[float]) -> None:
    flags = (QualityFlag.MISSING_LUNG, QualityFlag.VIEW_DOUBTFUL)
    decision = refer(decision_of(p, p_tb, p_stage), Quality(QualityGrade.UNREADABLE, flags))
    assert decision.referral is Referral.UNREADABLE
    assert decision.referral_reasons == ("unreadable", "quality_missing_lung", "quality_view_doubtful")


def test_a_missing_lung_is_referred_at_least_routinely() -> None:
    quality = Quality(QualityGrade.POOR, (QualityFlag.MISSING_LUNG,))
    normal = refer(decision_of(0.1, 0.1, [0.9, 0.05, 0.03, 0.02]), quality)
    assert (normal.referral, normal.referral_reasons) == (Referral.ROUTINE, ("missing_lung",))
    urgent = refer(decision_of(0.1, 0.95, [0.9, 0.05, 0.03, 0.02]), quality)
    assert urgent.referral is Referral.PRIORITY
    assert urgent.referral_reasons[-1] == "missing_lung"
