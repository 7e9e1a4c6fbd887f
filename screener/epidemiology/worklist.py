"""Studies to the clinic's worklist: everyone who must be looked at by a qualified reader, most urgent first.

Referred studies, and studies of which no film could be screened: unreadable is never a negative.
"""

from __future__ import annotations

import polars as pl

from screener.epidemiology.tables import WORKLIST
from screener.records import Referral
from screener.schema import polars_schema

URGENCY = {Referral.PRIORITY: 1, Referral.ROUTINE: 2, Referral.UNREADABLE: 3}


def worklist(studies: pl.DataFrame, duplicates: pl.Series, earlier: pl.DataFrame) -> pl.DataFrame:
    """List the studies to be read, most urgent and most probable first.

    Args:
        studies: all studies with strata.
        duplicates: study_pid of studies whose film is listed under another study already.
        earlier: study_pid and stage_before of persons with an earlier stage.

    Returns:
        Columns of `tables.WORKLIST`.
    """
    listed = studies.filter(
        pl.col("referral").fill_null(Referral.NONE).ne(Referral.NONE)
        & ~pl.col("study_pid").is_in(duplicates.implode())
    ).join(earlier.select("study_pid", "stage_before"), on="study_pid", how="left")
    urgency = {str(referral): rank for referral, rank in URGENCY.items()}
    complete = listed.with_columns(
        pl.col("referral").replace_strict(urgency, return_dtype=pl.Int8).alias("priority"),
        pl.col("referral_reasons").list.join(";").alias("referral_reasons"),
        pl.col("quality_flags").list.join(";").alias("quality_flags"),
    )
    highest = pl.max_horizontal("p_pneumoconiosis", "p_tb")
    ordered = complete.sort(pl.col("priority"), -highest.fill_null(0), pl.col("study_pid"), nulls_last=True)
    return ordered.select(pl.col(name).cast(dtype) for name, dtype in polars_schema(WORKLIST).items())
