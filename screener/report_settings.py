"""What a report can be told. One frozen record, validated once; light to import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from screener.errors import ConfigError

Interval = Literal["wilson", "clopper_pearson"]
Language = Literal["en", "zh"]


@dataclass(frozen=True, slots=True)
class ReportSettings:
    """What a report is asked to be."""

    campaign: Path
    """Campaign folder."""
    output: Path | None = None
    """Report folder; None is `report` in the campaign folder."""
    roster: Path | None = None
    """CSV or Parquet of the workers, see `screener.epidemiology.roster`."""
    readings: Path | None = None
    """CSV or Parquet of readers' findings, one row per study and reader."""
    accuracy: Path | None = None
    """JSON with sensitivity and specificity per outcome, or a bundle's or report's folder that holds one."""
    key_file: Path | None = None
    """Pseudonym key of the campaign, needed for a roster with patient_id; None takes the user's own."""
    by: tuple[str, ...] | None = None
    """Dimensions to stratify by; None takes all that the campaign has."""
    interval: Interval = "wilson"
    """Interval of prevalence and agreement."""
    confidence: float = 0.95
    """Coverage of every interval."""
    min_cell: int = 5
    """Counts below this are suppressed; 0 shows everything."""
    bootstrap_samples: int = 2000
    """Resamples of sites and of films."""
    seed: int = 0
    """Seed of the resamples."""
    max_thumbnails: int = 200
    """Most pictures of referred studies on the page; each takes about 30 kB."""
    language: Language = "en"
    """Language the page opens in; it holds both."""
    public: bool = False
    """Leave out everything that speaks of single persons."""
    hive: bool = False
    """Also write `persons` as site=.../year=... folders."""

    def __post_init__(self) -> None:
        checks = {
            "confidence": 0.5 <= self.confidence < 1,
            "min_cell": 0 <= self.min_cell <= 1000,
            "bootstrap_samples": 100 <= self.bootstrap_samples <= 100_000,
            "max_thumbnails": 0 <= self.max_thumbnails <= 5000,
            "interval": self.interval in ("wilson", "clopper_pearson"),
            "language": self.language in ("en", "zh"),
        }
        for name, fine in checks.items():
            if not fine:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)} is out of range")
        if self.public and self.hive:
            raise ConfigError("--hive writes one row per person and cannot be part of a --public report")
