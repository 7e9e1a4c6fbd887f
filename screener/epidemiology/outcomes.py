"""What is counted: the outcomes of a screening, each as one expression over a study's row.

Every prevalence, test and chart names its outcomes through this module. Questionable: *suspected
pneumoconiosis* follows the diagnosis head at its threshold and *stage I or more* the stage head; they may
disagree (`stage_consistent`), and are therefore counted and printed side by side, never merged.
"""

from __future__ import annotations

from enum import StrEnum

import polars as pl

from screener.records import Diagnosis


class Outcome(StrEnum):
    """A finding whose prevalence is reported; always *suspected*, never diagnosed."""

    PNEUMOCONIOSIS = "pneumoconiosis"
    STAGE_GE_1 = "stage_ge_1"
    STAGE_1 = "stage_1"
    STAGE_2 = "stage_2"
    STAGE_3 = "stage_3"
    TB = "tb"
    BOTH = "both"


STAGES = (Outcome.STAGE_1, Outcome.STAGE_2, Outcome.STAGE_3)
"""The outcomes that together make `STAGE_GE_1`."""

_PNEUMOCONIOSIS = (Diagnosis.PNEUMOCONIOSIS, Diagnosis.BOTH)
_TB = (Diagnosis.TB, Diagnosis.BOTH)


def is_outcome(outcome: Outcome) -> pl.Expr:
    """Boolean expression over `dx_pred` and `stage_pred` of the studies table."""
    diagnosis, stage = pl.col("dx_pred"), pl.col("stage_pred")
    expressions = {
        Outcome.PNEUMOCONIOSIS: diagnosis.is_in(list(_PNEUMOCONIOSIS)),
        Outcome.STAGE_GE_1: stage >= 1,
        Outcome.STAGE_1: stage == 1,
        Outcome.STAGE_2: stage == 2,
        Outcome.STAGE_3: stage == 3,
        Outcome.TB: diagnosis.is_in(list(_TB)),
        Outcome.BOTH: diagnosis == Diagnosis.BOTH,
    }
    return expressions[outcome]
