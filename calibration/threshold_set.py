"""Thresholds that a site chose from its own readings, as the file that `screener run --thresholds` takes.

A head's threshold and the scaling that it was chosen on are one record, so neither can be used without the
other. Questionable: the file names itself by its content and is refused when edited by hand. A decision that
names a threshold set must be repeatable, and a number changed in an editor has no readings behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from calibration.errors import CalibrationError
from calibration.json_files import content_of, read_json, write_json
from calibration.scaling import Scaling

THRESHOLDS_FORMAT = "screener-thresholds/1"


@dataclass(frozen=True, slots=True)
class FittedOn:
    """What a calibration was fitted on."""

    num_images: int
    description: str
    simulated: bool
    """True when any of the findings were simulated."""


@dataclass(frozen=True, slots=True)
class HeadChoice:
    """One head as a site's readings gave it."""

    scaling: Scaling
    threshold: float
    """Calibrated probability that passes; for the stage head that of stage I or more."""
    prevalence: float | None
    """Prevalence that the calibrated probabilities are meant for."""
    priority_threshold: float | None = None
    """Tuberculosis only: from here on the film is read first."""

    def __post_init__(self) -> None:
        numbers = (self.threshold, self.prevalence, self.priority_threshold)
        if any(number is not None and not 0 <= number <= 1 for number in numbers):
            raise CalibrationError(f"threshold, prevalence or priority of {numbers}: expected 0 to 1")


@dataclass(frozen=True, slots=True)
class ThresholdSet:
    """The heads that a site's readings covered; the others keep the bundle's scaling and threshold."""

    model_sha256: str
    fitted_on: FittedOn
    pneumoconiosis: HeadChoice | None = None
    tb: HeadChoice | None = None
    stage: HeadChoice | None = None

    @property
    def threshold_set_id(self) -> str:
        """`site-` and the beginning of the content's SHA-256: another choice has another name."""
        content = json.dumps(asdict(self), sort_keys=True).encode()
        return f"site-{sha256(content).hexdigest()[:12]}"

    def save(self, file: Path) -> None:
        """Write as JSON.

        Raises:
            CalibrationError: the file cannot be written.
        """
        content = {"format": THRESHOLDS_FORMAT, "threshold_set_id": self.threshold_set_id, **asdict(self)}
        write_json(file, content)

    @classmethod
    def load(cls, file: Path) -> ThresholdSet:
        """Read from JSON.

        Raises:
            CalibrationError: not readable, not a threshold set, edited by hand, or out of range.
        """
        fields = read_json(content_of(file), file.name, THRESHOLDS_FORMAT)
        named = fields.pop("threshold_set_id", None)
        try:
            found = cls(
                fields["model_sha256"],
                FittedOn(**fields["fitted_on"]),
                *(_head(fields[head]) for head in ("pneumoconiosis", "tb", "stage")),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CalibrationError(f"{file.name} is not a complete threshold set: {error}") from error
        if named != found.threshold_set_id:
            raise CalibrationError(
                f"{file.name} was changed after it was written (named {named}, content is "
                f"{found.threshold_set_id}): choose thresholds again with screener calibrate"
            )
        return found


def _head(fields: Mapping[str, Any] | None) -> HeadChoice | None:
    return None if fields is None else HeadChoice(**{**fields, "scaling": Scaling.of_json(fields["scaling"])})
