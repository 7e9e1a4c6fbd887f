"""Persons suspected of stage I or more by dust type, with Wilson 95 % intervals: pandas.

Run: `python stage_by_dust_pandas.py CAMPAIGN/report/tables`
"""

import sys
from pathlib import Path

import pandas as pd
from statsmodels.stats.proportion import proportion_confint

persons = pd.read_parquet(Path(sys.argv[1]) / "persons.parquet", columns=["dust", "stage_pred"])
table = persons.assign(positive=persons["stage_pred"] >= 1).groupby("dust")["positive"].agg(n="size", k="sum")
table["prevalence"] = table["k"] / table["n"]
table["low"], table["high"] = proportion_confint(table["k"], table["n"], method="wilson")
sys.stdout.write(table.to_csv())
