"""Report tables to Vega-Lite charts, one specification per chart and language.

Altair builds the specifications; the page draws them with scripts that it carries itself. Colours are CSS
variables of the page, so dark, light and print need no second drawing. Questionable: where a dimension has
more than `MAX_STRATA` groups only the largest are drawn (the table beside the chart has all): a chart of 500
sites is not read by anyone.
"""

from __future__ import annotations

from typing import Any

import altair as alt
import polars as pl

from screener.epidemiology.outcomes import STAGES, Outcome
from screener.epidemiology.prevalence import OVERALL
from screener.page.translations import PAGE, Language, label

MAX_STRATA = 30
WIDTH, ROW_HEIGHT = 560, 26

FIRST, SECOND = "var(--series-1)", "var(--series-2)"
_GRADES = ["var(--grade-1)", "var(--grade-2)", "var(--grade-3)", "var(--grade-4)"]
_DRAWN = (Outcome.STAGE_GE_1, Outcome.TB)

Chart = Any
"""A chart of Altair, whose operators are not typed."""
Spec = dict[str, Any]
"""A Vega-Lite specification."""

FONT = 'system-ui, "Segoe UI", Roboto, "PingFang SC", "Microsoft YaHei", "WenQuanYi Zen Hei", sans-serif'
"""Named, not inherited from the page: Vega measures labels on a canvas that inherits nothing."""

CONFIG: Spec = {
    "background": "transparent",
    "view": {"stroke": "transparent"},
    "font": FONT,
    "axis": {
        "labelColor": "var(--ink)",
        "titleColor": "var(--ink)",
        "gridColor": "var(--line)",
        "domainColor": "var(--line)",
        "tickColor": "var(--line)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelLimit": 260,
        "labelOverlap": True,
        "labelFlush": False,
    },
    "legend": {"labelColor": "var(--ink)", "titleColor": "var(--ink)", "labelFontSize": 12, "orient": "top"},
    "header": {"labelColor": "var(--ink)", "titleColor": "var(--ink)", "labelFontSize": 12},
    "text": {"color": "var(--ink)", "fontSize": 12},
    "rule": {"color": "var(--ink)"},
}


def chart_specs(
    tables: dict[str, pl.DataFrame], thresholds: dict[str, float], language: Language
) -> dict[str, Spec]:
    """Every chart of the page that has something to show, by name.

    Args:
        tables: by the names of `tables.REPORT_TABLES`.
        thresholds: probability at which each finding is suspected.
        language: of all words in the charts.
    """
    prevalence = tables["prevalence"]
    drawn: dict[str, Chart | None] = {
        "flow": flow_chart(tables["flow"], language),
        "stages": stage_chart(prevalence, language),
        "scores": score_chart(tables["scores"], thresholds, language),
        "drift": drift_chart(tables["drift"], language),
        "throughput": throughput_chart(tables["throughput"], language),
        "reliability": reliability_chart(tables["reliability"], language),
    }
    for dimension in prevalence["dimension"].unique(maintain_order=True):
        if dimension != OVERALL:
            drawn[f"prevalence-{dimension}"] = prevalence_chart(prevalence, dimension, language)
    for dimension in tables["quality"]["dimension"].unique(maintain_order=True):
        drawn[f"quality-{dimension}"] = quality_chart(tables["quality"], dimension, language)
    return {name: _spec(chart) for name, chart in drawn.items() if chart is not None}


def _spec(chart: Chart) -> Spec:
    spec: Spec = chart.to_dict(validate=False)  # half the time of a report; the browser test draws each one
    spec["config"] = CONFIG
    return spec


def _words(column: str, language: Language, prefix: str = "") -> pl.Expr:
    """A column's codes as words."""
    return pl.col(column).map_elements(
        lambda code: label(f"{prefix}{code}").say(language), return_dtype=pl.String
    )


def flow_chart(flow: pl.DataFrame, language: Language) -> Chart | None:
    """Images remaining and excluded at each step."""
    images = (
        flow.filter(pl.col("unit") == "images")
        .with_columns(pl.col("step").replace("referred", "step_referred").alias("step"))
        .with_columns(_words("step", language).alias("label"))
    )
    if images.is_empty():
        return None
    base = alt.Chart(images.select("label", "remaining", "excluded")).encode(
        y=alt.Y("label:N", sort=images["label"].to_list(), title=None)
    )
    bars = base.mark_bar(color=FIRST, height=16).encode(
        x=alt.X("remaining:Q", title=PAGE["images"].say(language))
    )
    counts = base.mark_text(align="left", dx=4).encode(
        x="remaining:Q", text=alt.Text("remaining:Q", format=",")
    )
    return (bars + counts).properties(width=WIDTH, height=ROW_HEIGHT * images.height)


def stage_chart(prevalence: pl.DataFrame, language: Language) -> Chart | None:
    """Prevalence of suspected stage I, II and III with intervals."""
    stages = prevalence.filter(
        (pl.col("dimension") == OVERALL) & pl.col("outcome").is_in(list(STAGES)) & ~pl.col("suppressed")
    ).with_columns(_words("outcome", language).alias("label"))
    if stages.is_empty():
        return None
    return _dots(stages, FIRST, language).properties(width=WIDTH, height=34 * stages.height)


def _dots(rows: pl.DataFrame, colour: str, language: Language) -> Chart:
    base = alt.Chart(rows.select("label", "prevalence", "low", "high", "num_positive", "num_persons")).encode(
        y=alt.Y("label:N", sort=rows["label"].to_list(), title=None)
    )
    share = alt.X("low:Q", title=PAGE["share"].say(language), axis=alt.Axis(format="%", tickCount=8))
    limits = base.mark_rule(strokeWidth=2, color=colour).encode(x=share, x2="high:Q")
    points = base.mark_point(filled=True, size=70, color=colour, opacity=1).encode(
        x="prevalence:Q", tooltip=_interval_tooltip()
    )
    return alt.layer(limits, points)


def _interval_tooltip() -> list[alt.Tooltip]:
    return [
        alt.Tooltip("label:N", title=" "),
        alt.Tooltip("num_positive:Q", title="n", format=","),
        alt.Tooltip("num_persons:Q", title="N", format=","),
        alt.Tooltip("prevalence:Q", title="%", format=".2%"),
        alt.Tooltip("low:Q", title="[", format=".2%"),
        alt.Tooltip("high:Q", title="]", format=".2%"),
    ]


def largest_strata(prevalence: pl.DataFrame, dimension: str) -> list[str]:
    """The groups drawn of a dimension, in the table's order."""
    rows = prevalence.filter(
        (pl.col("dimension") == dimension) & (pl.col("outcome") == Outcome.STAGE_GE_1.value)
    )
    largest = rows.top_k(MAX_STRATA, by=pl.col("num_persons").fill_null(0))["stratum"].implode()
    return rows.filter(pl.col("stratum").is_in(largest))["stratum"].to_list()


def prevalence_chart(prevalence: pl.DataFrame, dimension: str, language: Language) -> Chart | None:
    """Suspected stage I or more, and tuberculosis, with intervals by group."""
    strata = largest_strata(prevalence, dimension)
    rows = prevalence.filter(
        (pl.col("dimension") == dimension)
        & pl.col("outcome").is_in([outcome.value for outcome in _DRAWN])
        & pl.col("stratum").is_in(strata)
        & ~pl.col("suppressed")
    )
    if rows.is_empty():
        return None
    prefix = "grade_" if dimension == "quality" else ""
    named = rows.with_columns(
        _words("stratum", language, prefix).alias("label"), _words("outcome", language).alias("finding")
    )
    order = [label(f"{prefix}{stratum}").say(language) for stratum in strata]
    findings = [label(outcome.value).say(language) for outcome in _DRAWN]
    base = alt.Chart(
        named.select("label", "finding", "prevalence", "low", "high", "num_positive", "num_persons")
    ).encode(
        y=alt.Y("label:N", sort=order, title=None, scale=alt.Scale(domain=order)),
        yOffset=alt.YOffset("finding:N", sort=findings),
        color=alt.Color(
            "finding:N", sort=findings, title=None, scale=alt.Scale(domain=findings, range=[FIRST, SECOND])
        ),
    )
    share = alt.X("low:Q", title=PAGE["share"].say(language), axis=alt.Axis(format="%", tickCount=8))
    limits = base.mark_rule(strokeWidth=2).encode(x=share, x2="high:Q")
    shape = alt.Shape("finding:N", title=None, scale=alt.Scale(domain=findings, range=["circle", "square"]))
    points = base.mark_point(filled=True, size=55, opacity=1).encode(
        x="prevalence:Q", shape=shape, tooltip=_interval_tooltip()
    )
    return alt.layer(limits, points).properties(width=WIDTH, height=ROW_HEIGHT * 1.3 * len(order))


def score_chart(scores: pl.DataFrame, thresholds: dict[str, float], language: Language) -> Chart | None:
    """Histograms of both probabilities; a rule where a finding begins to be suspected."""
    charts = []
    for finding, colour in (("pneumoconiosis", FIRST), ("tb", SECOND)):
        bins = scores.filter((pl.col("finding") == finding) & (pl.col("num_studies") > 0))
        if bins.is_empty():
            continue
        scale = alt.Scale(domain=[0, 1])
        bars = (
            alt.Chart(bins.select("bin_low", "bin_high", "num_studies"))
            .mark_bar(color=colour, opacity=0.85)
            .encode(
                x=alt.X("bin_low:Q", bin="binned", scale=scale, title=PAGE["probability"].say(language)),
                x2="bin_high:Q",
                y=alt.Y("num_studies:Q", title=PAGE["studies"].say(language), scale=alt.Scale(type="symlog")),
            )
        )
        layers = [bars]
        if finding in thresholds:
            rule = pl.DataFrame({"threshold": [thresholds[finding]]})
            layers.append(alt.Chart(rule).mark_rule(strokeDash=[5, 3], strokeWidth=2).encode(x="threshold:Q"))
        title = alt.TitleParams(label(finding).say(language), color="var(--ink)", fontSize=13, anchor="start")
        charts.append(alt.layer(*layers).properties(width=250, height=150, title=title))
    return alt.hconcat(*charts) if charts else None


def quality_chart(quality: pl.DataFrame, dimension: str, language: Language) -> Chart | None:
    """Share of each quality grade by site or X-ray unit."""
    of_dimension = quality.filter((pl.col("dimension") == dimension) & pl.col("share").is_not_null())
    sizes = (
        of_dimension.group_by("stratum").agg(pl.col("num_studies").sum()).top_k(MAX_STRATA, by="num_studies")
    )
    rows = of_dimension.filter(pl.col("stratum").is_in(sizes["stratum"].implode())).with_columns(
        _words("stratum", language).alias("label"),
        pl.col("quality_grade")
        .cast(pl.String)
        .map_elements(lambda grade: label(f"grade_{grade}").say(language), return_dtype=pl.String)
        .alias("grade"),
    )
    if rows.is_empty():
        return None
    grades = [label(f"grade_{grade}").say(language) for grade in range(1, 5)]
    chart = (
        alt.Chart(rows.select("label", "grade", "quality_grade", "share", "num_studies"))
        .mark_bar(height=16)
        .encode(
            y=alt.Y("label:N", title=None),
            x=alt.X(
                "share:Q", title=None, axis=alt.Axis(format="%", tickCount=8), scale=alt.Scale(domain=[0, 1])
            ),
            color=alt.Color("grade:N", title=None, scale=alt.Scale(domain=grades, range=_GRADES)),
            order="quality_grade:Q",
            tooltip=[
                alt.Tooltip("label:N", title=" "),
                alt.Tooltip("grade:N", title=" "),
                alt.Tooltip("num_studies:Q", title="n"),
                alt.Tooltip("share:Q", title="%", format=".1%"),
            ],
        )
    )
    return chart.properties(width=WIDTH, height=ROW_HEIGHT * rows["label"].n_unique())


def drift_chart(drift: pl.DataFrame, language: Language) -> Chart | None:
    """Four measures over time of acquisition, each with its band."""
    shown = drift.drop_nulls("mean").with_columns(_words("measure", language).alias("label"))
    if shown["period"].n_unique() < 2:
        return None
    charts = []
    for name in shown["measure"].unique(maintain_order=True):
        rows = shown.filter(pl.col("measure") == name)
        base = alt.Chart(rows.select("period", "mean", "low", "high", "num_studies")).encode(
            x=alt.X("period:O", title=None, axis=alt.Axis(labelAngle=-60, labelOverlap="greedy"))
        )
        percent = alt.Axis(format="%", title=None, tickCount=4)
        band = base.mark_area(color=FIRST, opacity=0.25).encode(
            y=alt.Y("low:Q", axis=percent, scale=alt.Scale(zero=False)), y2="high:Q"
        )
        line = base.mark_line(color=FIRST, point={"color": FIRST, "size": 25}).encode(
            y=alt.Y("mean:Q", axis=percent)
        )
        title = alt.TitleParams(rows["label"][0], color="var(--ink)", fontSize=13, anchor="start")
        charts.append(alt.layer(band, line).properties(width=270, height=120, title=title))
    return alt.concat(*charts, columns=2)


def throughput_chart(throughput: pl.DataFrame, language: Language) -> Chart | None:
    """Files per minute as the run went on."""
    rows = throughput.drop_nulls("files_per_minute").with_columns(
        pl.col("ended_utc").dt.to_string("iso:strict")
    )
    if rows.height < 2:
        return None
    line = (
        alt.Chart(rows.select("ended_utc", "files_per_minute"))
        .mark_line(color=FIRST, interpolate="step-before")
        .encode(
            x=alt.X("ended_utc:T", title=PAGE["time"].say(language), scale=alt.Scale(type="utc")),
            y=alt.Y(
                "files_per_minute:Q",
                title=PAGE["files_per_minute"].say(language),
                scale=alt.Scale(domainMin=0),
            ),
        )
    )
    return line.properties(width=WIDTH, height=140)


def reliability_chart(reliability: pl.DataFrame, language: Language) -> Chart | None:
    """Share positive by consensus against mean probability, with intervals."""
    if reliability.is_empty():
        return None
    rows = reliability.with_columns(_words("finding", language).alias("label"))
    findings = [label(name).say(language) for name in ("pneumoconiosis", "tb")]
    unit = alt.Scale(domain=[0, 1])
    diagonal = (
        alt.Chart(pl.DataFrame({"mean_probability": [0.0, 1.0], "observed": [0.0, 1.0]}))
        .mark_line(color="var(--line)", strokeDash=[4, 3])
        .encode(x="mean_probability:Q", y="observed:Q")
    )
    base = alt.Chart(
        rows.select("label", "mean_probability", "observed", "low", "high", "num_studies")
    ).encode(
        x=alt.X("mean_probability:Q", scale=unit, title=PAGE["mean_probability"].say(language)),
        color=alt.Color(
            "label:N", sort=findings, title=None, scale=alt.Scale(domain=findings, range=[FIRST, SECOND])
        ),
    )
    limits = base.mark_rule(strokeWidth=2).encode(
        y=alt.Y("low:Q", scale=unit, title=PAGE["observed_share"].say(language)), y2="high:Q"
    )
    shape = alt.Shape("label:N", title=None, scale=alt.Scale(domain=findings, range=["circle", "square"]))
    points = base.mark_point(filled=True, size=60, opacity=1).encode(y="observed:Q", shape=shape)
    return alt.layer(diagonal, limits, points).properties(width=320, height=280)
