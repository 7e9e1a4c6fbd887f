"""Logits to what is said about a film: calibrated probabilities, suspected findings, stage and referral.

One table (docs/decisions/referral.md) at the thresholds of the calibration; nothing is tuned here.
Questionable: either head may refer alone. The heads share one backbone and disagree most where a film is
hard, so a disagreement is shown (`stage_consistent`) and refers, instead of one head overruling the other.

Shape letters: N images.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from calibration.model_calibration import Calibration, Probabilities, Thresholds
from calibration.scaling import Float64, log_softmax
from engines.errors import EngineError
from screener.records import Decision, Diagnosis, Logits, Quality, QualityFlag, QualityGrade, Referral

STAGES = np.arange(4)
LEVELS = np.arange(4)


class ReferralReason(StrEnum):
    """What led to a referral. An unreadable film adds its quality flags as `quality_<flag>`."""

    PNEUMOCONIOSIS_SUSPECTED = "pneumoconiosis_suspected"
    TB_SUSPECTED = "tb_suspected"
    STAGE_SUSPECTED = "stage_suspected"
    HEADS_DISAGREE = "heads_disagree"
    TB_HIGH = "tb_high"
    STAGE_III = "stage_iii"
    TB_COEXIST = "tb_coexist"
    MISSING_LUNG = "missing_lung"
    UNREADABLE = "unreadable"


_PRIORITY = frozenset({ReferralReason.TB_HIGH, ReferralReason.STAGE_III, ReferralReason.TB_COEXIST})


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Which thresholds one film passes."""

    pneumoconiosis: bool
    tb: bool
    tb_high: bool
    stage_positive: bool
    """P(stage I or more) passes its threshold."""
    stage_pred: int
    """Most probable stage."""

    @classmethod
    def of(cls, p_pneumoconiosis: float, p_tb: float, p_stage: Float64, at: Thresholds) -> Suspicion:
        """Compare calibrated probabilities with the thresholds; equal passes."""
        return cls(
            pneumoconiosis=bool(p_pneumoconiosis >= at.pneumoconiosis),
            tb=bool(p_tb >= at.tb),
            tb_high=bool(p_tb >= at.tb_priority),
            stage_positive=bool(p_stage[1:].sum() >= at.stage_positive),
            stage_pred=int(np.argmax(p_stage)),
        )

    @property
    def stage_suspected(self) -> bool:
        """Stage I or more, by its threshold or as the most probable stage."""
        return self.stage_positive or self.stage_pred >= 1

    @property
    def consistent(self) -> bool:
        """Both heads agree on whether pneumoconiosis is suspected."""
        return self.pneumoconiosis == self.stage_suspected

    @property
    def tb_coexist(self) -> bool:
        """Tuberculosis and stage I or more both pass their thresholds."""
        return self.tb and self.stage_positive

    @property
    def diagnosis(self) -> Diagnosis:
        """The differential diagnosis suspected."""
        if self.pneumoconiosis:
            return Diagnosis.BOTH if self.tb else Diagnosis.PNEUMOCONIOSIS
        return Diagnosis.TB if self.tb else Diagnosis.NORMAL

    @property
    def reasons(self) -> tuple[ReferralReason, ...]:
        """Why the film is referred; empty when it is not."""
        checks = {
            ReferralReason.PNEUMOCONIOSIS_SUSPECTED: self.pneumoconiosis,
            ReferralReason.TB_SUSPECTED: self.tb,
            ReferralReason.STAGE_SUSPECTED: self.stage_suspected,
            ReferralReason.HEADS_DISAGREE: not self.consistent,
            ReferralReason.TB_HIGH: self.tb_high,
            ReferralReason.STAGE_III: self.stage_pred == 3,
            ReferralReason.TB_COEXIST: self.tb_coexist,
        }
        return tuple(reason for reason, holds in checks.items() if holds)

    @property
    def referral(self) -> Referral:
        """Priority for any priority reason, routine for any other, else none."""
        if _PRIORITY.intersection(self.reasons):
            return Referral.PRIORITY
        return Referral.ROUTINE if self.reasons else Referral.NONE


def decide(logits: Logits, calibration: Calibration) -> tuple[Decision, ...]:
    """Decide every film of a batch, before its quality is looked at (`refer`).

    Args:
        logits: task heads of N films.
        calibration: scaling and thresholds of the model that made the logits.

    Returns:
        N decisions in the batch's order. Both heads' raw and calibrated probabilities are kept.

    Raises:
        EngineError: a logit is not finite; such a film would pass no threshold and look normal.
    """
    heads = (logits.diagnosis, logits.stage, logits.zones.reshape(len(logits.zones), -1))
    finite = np.logical_and.reduce([np.isfinite(head).all(axis=1) for head in heads])
    if not finite.all():
        raise EngineError(
            f"logits of {np.count_nonzero(~finite)} of {finite.size} films are not finite: "
            "run with --precision fp32"
        )
    calibrated = calibration.apply(logits.diagnosis, logits.stage)
    raw = Calibration.identity(calibration.model_sha256).apply(logits.diagnosis, logits.stage)
    zone_scores = np.exp(log_softmax(logits.zones)) @ LEVELS
    return tuple(
        _decision(calibration, calibrated, raw, film, tuple(map(float, zone_scores[film])))
        for film in range(finite.size)
    )


def _decision(
    calibration: Calibration,
    calibrated: Probabilities,
    raw: Probabilities,
    film: int,
    zone_scores: tuple[float, ...],
) -> Decision:
    p_stage = calibrated.stage[film]
    p_pneumoconiosis, p_tb = float(calibrated.pneumoconiosis[film]), float(calibrated.tb[film])
    suspicion = Suspicion.of(p_pneumoconiosis, p_tb, p_stage, calibration.thresholds)
    return Decision(
        p_pneumoconiosis=p_pneumoconiosis,
        p_tb=p_tb,
        p_stage=_four(p_stage),
        p_pneumoconiosis_raw=float(raw.pneumoconiosis[film]),
        p_tb_raw=float(raw.tb[film]),
        p_stage_raw=_four(raw.stage[film]),
        dx_pred=suspicion.diagnosis,
        stage_pred=suspicion.stage_pred,
        stage_expected=float(p_stage @ STAGES),
        stage_consistent=suspicion.consistent,
        tb_coexist_flag=suspicion.tb_coexist,
        zone_scores=zone_scores,
        referral=suspicion.referral,
        referral_reasons=suspicion.reasons,
        threshold_set_id=calibration.threshold_set_id,
        calibrated=calibration.calibrated,
    )


def refer(decision: Decision, quality: Quality) -> Decision:
    """Let the film's technical quality have its say in the referral.

    An unreadable film is always referred as `unreadable`, whatever the networks made of it. A film with one
    lung not found is referred at least routinely: a white lung hides from segmentation.
    """
    if quality.grade is QualityGrade.UNREADABLE:
        flags = (f"quality_{flag}" for flag in quality.flags)
        return replace(
            decision,
            referral=Referral.UNREADABLE,
            referral_reasons=(ReferralReason.UNREADABLE, *flags),
        )
    if QualityFlag.MISSING_LUNG not in quality.flags:
        return decision
    referral = Referral.ROUTINE if decision.referral is Referral.NONE else decision.referral
    reasons = (*decision.referral_reasons, ReferralReason.MISSING_LUNG)
    return replace(decision, referral=referral, referral_reasons=reasons)


def _four(stage: Float64) -> tuple[float, float, float, float]:
    first, second, third, fourth = map(float, stage)
    return first, second, third, fourth
