"""What a report says, between computing and writing it: the files and the page are made from this alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from screener.epidemiology.campaign_tables import CampaignTables
from screener.epidemiology.flow import Flow
from screener.epidemiology.misclassification import TestAccuracy
from screener.epidemiology.outcomes import Outcome
from screener.epidemiology.roster import RosterMatch
from screener.epidemiology.serial import Progression
from screener.epidemiology.strata import Dimension
from screener.report_settings import ReportSettings


@dataclass(frozen=True, slots=True)
class ReportContent:
    """Everything that a report says."""

    settings: ReportSettings
    campaign: CampaignTables
    flow: Flow
    tables: dict[str, pl.DataFrame]
    """By the names of `tables.REPORT_TABLES`."""
    progression: Progression
    dimensions: tuple[Dimension, ...]
    thresholds: dict[str, float]
    roster_match: RosterMatch | None
    accuracy: dict[Outcome, TestAccuracy] = field(default_factory=dict)
    warnings: dict[str, int] = field(default_factory=dict)
    """Counted: what could not be used, by code."""
