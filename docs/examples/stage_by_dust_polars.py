"""Persons suspected of stage I or more by dust type, with Wilson 95 % intervals: Polars.

Run: `python stage_by_dust_polars.py CAMPAIGN/report/tables`
"""

import sys
from pathlib import Path

import polars as pl
from statsmodels.stats.proportion import proportion_confint

counted = (
    pl.scan_parquet(Path(sys.argv[1]) / "persons.parquet")
    .group_by("dust")
    .agg(n=pl.len(), k=(pl.col("stage_pred") >= 1).sum())
    .sort("dust")
    .collect()
)
low, high = proportion_confint(counted["k"].to_numpy(), counted["n"].to_numpy(), method="wilson")
table = counted.with_columns(prevalence=pl.col("k") / pl.col("n"), low=pl.Series(low), high=pl.Series(high))
sys.stdout.write(table.write_csv())
