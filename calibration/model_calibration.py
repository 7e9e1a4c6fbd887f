"""The calibration that belongs to one model: how its logits become probabilities, and where they refer.

A bundle carries one as `calibration.json`; a site may lay a threshold set of its own over it. Both name the
hash of the model that they were fitted on and are refused by any other. Questionable: a site's threshold set
may carry its own scaling for a head. A threshold only means something on the scale that it was chosen on, so
the two always travel together, and a head that the site had no readings for keeps the bundle's.

Shape letters: N images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from calibration.errors import CalibrationError
from calibration.json_files import check_model, content_of, read_json, write_json
from calibration.scaling import Float64, Scaling
from calibration.threshold_set import FittedOn, HeadChoice, ThresholdSet

__all__ = ["Calibration", "FittedOn", "Probabilities", "ThresholdSet", "Thresholds"]

CALIBRATION_FORMAT = "screener-calibration/1"
NUM_STAGES = 4


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Calibrated probabilities at or above which something is suspected; all in [0, 1]."""

    pneumoconiosis: float = 0.5
    """Pneumoconiosis is suspected."""
    tb: float = 0.5
    """Tuberculosis is suspected."""
    stage_positive: float = 0.5
    """P(stage I or more) counts as positive."""
    tb_priority: float = 0.9
    """Tuberculosis is so probable that the film is read first; not below `tb`."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, float | int) or not 0 <= value <= 1:
                raise CalibrationError(f"threshold {name} is {value}: expected a number from 0 to 1")
        if self.tb_priority < self.tb:
            raise CalibrationError(
                f"threshold tb_priority {self.tb_priority} is below tb {self.tb}: raise it to at least that"
            )


@dataclass(frozen=True, slots=True)
class Probabilities:
    """Probabilities of N images, each in [0, 1]."""

    pneumoconiosis: Float64
    """(N,)"""
    tb: Float64
    """(N,)"""
    stage: Float64
    """(N, 4); rows sum to one."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scaling of each head, thresholds, and what they were fitted on; bound to one model."""

    model_sha256: str
    pneumoconiosis: Scaling
    tb: Scaling
    stage: Scaling
    thresholds: Thresholds
    threshold_set_id: str
    calibrated: bool
    """False for a freshly trained bundle: the network's own probabilities and default thresholds."""
    fitted_on: FittedOn | None = None
    prevalence: float | None = None
    """Prevalence of pneumoconiosis that the probabilities are meant for; None when nothing was fitted."""
    tb_prevalence: float | None = None
    """The same for tuberculosis."""

    def __post_init__(self) -> None:
        widths = (len(self.pneumoconiosis.weight), len(self.tb.weight), len(self.stage.weight))
        if widths != (1, 1, NUM_STAGES):
            raise CalibrationError(
                f"heads of {widths} classes: expected 1 (pneumoconiosis), 1 (tb), 4 (stage)"
            )

    @classmethod
    def identity(cls, model_sha256: str) -> Calibration:
        """The network's own probabilities, with thresholds of one half: nothing was fitted."""
        label, stage = Scaling.identity(1), Scaling.identity(NUM_STAGES)
        return cls(model_sha256, label, label, stage, Thresholds(), "uncalibrated", calibrated=False)

    def apply(self, diagnosis_logits: npt.ArrayLike, stage_logits: npt.ArrayLike) -> Probabilities:
        """Calibrate logits.

        Args:
            diagnosis_logits: (N, 2) log-odds of pneumoconiosis and tuberculosis.
            stage_logits: (N, 4) logits of stage 0, I, II, III.
        """
        diagnosis = np.asarray(diagnosis_logits, dtype=np.float64)
        return Probabilities(
            self.pneumoconiosis.label(diagnosis[:, 0]),
            self.tb.label(diagnosis[:, 1]),
            self.stage.classes(stage_logits),
        )

    def check_model(self, model_sha256: str) -> None:
        """Refuse another model than the one that this was fitted on.

        Raises:
            CalibrationError: the hashes differ.
        """
        check_model("calibration", self.model_sha256, model_sha256)

    def with_thresholds(self, chosen: ThresholdSet) -> Calibration:
        """Lay a site's threshold set over this calibration.

        Raises:
            CalibrationError: the set was chosen for another model.
        """
        check_model(f"threshold set {chosen.threshold_set_id}", chosen.model_sha256, self.model_sha256)
        pneumoconiosis = chosen.pneumoconiosis or self._head("pneumoconiosis", self.prevalence)
        tb = chosen.tb or self._head("tb", self.tb_prevalence)
        stage = chosen.stage or self._head("stage", self.prevalence)
        priority = self.thresholds.tb_priority if tb.priority_threshold is None else tb.priority_threshold
        return replace(
            self,
            pneumoconiosis=pneumoconiosis.scaling,
            tb=tb.scaling,
            stage=stage.scaling,
            thresholds=Thresholds(
                pneumoconiosis.threshold, tb.threshold, stage.threshold, max(priority, tb.threshold)
            ),
            threshold_set_id=chosen.threshold_set_id,
            calibrated=self.calibrated or None not in (chosen.pneumoconiosis, chosen.tb, chosen.stage),
            fitted_on=chosen.fitted_on,
            prevalence=pneumoconiosis.prevalence,
            tb_prevalence=tb.prevalence,
        )

    def _head(self, name: str, prevalence: float | None) -> HeadChoice:
        threshold = getattr(self.thresholds, "stage_positive" if name == "stage" else name)
        return HeadChoice(getattr(self, name), threshold, prevalence)

    def save(self, file: Path) -> None:
        """Write as JSON."""
        write_json(file, {"format": CALIBRATION_FORMAT, **asdict(self)})

    @classmethod
    def load(cls, file: Path, model_sha256: str | None = None) -> Calibration:
        """Read from JSON, and refuse another model's.

        Args:
            file: a file that `save` wrote.
            model_sha256: hash of the model it will be used with; None skips the check.

        Raises:
            CalibrationError: not readable, not a calibration, out of range, or another model's.
        """
        return cls.parse(content_of(file), file.name, model_sha256)

    @classmethod
    def parse(cls, content: bytes, name: str, model_sha256: str | None = None) -> Calibration:
        """Read from the bytes of a JSON file called `name`; otherwise as `load`."""
        fields = read_json(content, name, CALIBRATION_FORMAT)
        try:
            found = cls(**{**fields, **_nested(fields)})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"{name} is not a complete calibration: {error}") from error
        if model_sha256 is not None:
            found.check_model(model_sha256)
        return found


def _nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    heads = {head: Scaling.of_json(fields[head]) for head in ("pneumoconiosis", "tb", "stage")}
    fitted_on = None if fields["fitted_on"] is None else FittedOn(**fields["fitted_on"])
    return {**heads, "thresholds": Thresholds(**fields["thresholds"]), "fitted_on": fitted_on}
