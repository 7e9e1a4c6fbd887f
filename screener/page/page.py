"""Report content to `report.html`: one file, no network, both languages.

The template is filled by Jinja with escaping on, since names of sites come from the operator; charts and the
table of studies are drawn by scripts that the file carries (Vega from vl-convert, and `page.js`).
Questionable: a content security policy forbids every request, so even a script that wanted to could send
nothing anywhere; it must allow `unsafe-eval`, because Vega compiles its expressions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from screener import __version__
from screener.durable import replace_file
from screener.epidemiology.intervals import MIN_CLUSTERS
from screener.epidemiology.prevalence import OVERALL
from screener.page import figures
from screener.page.charts import MAX_STRATA, chart_specs
from screener.page.referred import COLUMNS, ReferredStudies, referred_studies
from screener.page.translations import CODES, PAGE, asset, label
from screener.records import Referral
from screener.report_content import ReportContent


@dataclass(frozen=True, slots=True)
class WrittenPage:
    """What became of a page."""

    path: Path
    num_thumbnails: int


def write_page(path: Path, content: ReportContent) -> WrittenPage:
    """Write the page.

    Args:
        path: of the HTML file; an earlier one is replaced.
        content: everything it says.

    Raises:
        ReportError: the file cannot be written.
    """
    settings = content.settings
    referred = (
        ReferredStudies([], {}, 0)
        if settings.public
        else referred_studies(
            content.tables["worklist"], settings.campaign / "pictures", settings.max_thumbnails
        )
    )
    html = _environment().get_template("page.html.j2").render(_context(content, referred))
    replace_file(path, lambda place: place.write_text(html, "utf-8"))
    return WrittenPage(path, len(referred.pictures))


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        say=figures.say,
        code=figures.code,
        attribute=figures.attribute,
        count=figures.count,
        percent=figures.percent,
        span=figures.span,
        decimal=figures.decimal,
        PAGE=PAGE,
        label=label,
    )
    return environment


def _context(content: ReportContent, referred: ReferredStudies) -> dict[str, Any]:
    import vl_convert

    tables = content.tables
    prevalence = tables["prevalence"]
    overall = prevalence.filter(pl.col("dimension") == OVERALL)
    return {
        "content": content,
        "settings": content.settings,
        "overall": {row["outcome"]: row for row in overall.iter_rows(named=True)},
        "prevalence": _by(prevalence, "dimension"),
        "num_strata": {
            dimension: len({row["stratum"] for row in rows})
            for dimension, rows in _by(prevalence, "dimension").items()
        },
        "max_strata": MAX_STRATA,
        "flow": _flow_rows(content),
        "progression": tables["progression"].to_dicts(),
        "confusion": _confusion(tables["confusion"]),
        "accuracy": tables["accuracy"].filter(pl.col("reference") == "consensus").to_dicts(),
        "agreement": tables["agreement"].to_dicts(),
        "quality": _by(tables["quality"], "dimension"),
        "drift": tables["drift"].to_dicts(),
        "urgency": _urgency(content),
        "referred": referred,
        "provenance": _provenance(content),
        "is_calibrated": bool(content.campaign.studies["calibrated"].drop_nulls().all()),
        "min_clusters": MIN_CLUSTERS,
        "charts": _script_json(
            {language: chart_specs(tables, content.thresholds, language) for language in ("en", "zh")}
        ),
        "referred_json": _script_json(_referred_record(referred)),
        "css": _safe(asset("page.css")),
        "js": _safe(asset("page.js")),
        "vega": _safe(vl_convert.javascript_bundle()),  # type: ignore[call-arg] # its stub lacks the default
    }


def _safe(source: str) -> Markup:
    """Our own script or style; `</` may not occur in an inline script."""
    return Markup(source.replace("</script", "<\\/script"))  # noqa: S704 - read from this package


def _script_json(value: object) -> Markup:
    """JSON that cannot end its script element, whatever the names of sites hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in ("<", "\u2028", "\u2029"):
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - escaped above


def _by(table: pl.DataFrame, column: str) -> dict[str, list[dict[str, Any]]]:
    return {str(key[0]): rows.to_dicts() for key, rows in table.partition_by(column, as_dict=True).items()}


def _flow_rows(content: ReportContent) -> list[dict[str, Any]]:
    """One row per step: what remains of images, studies and persons, and the reasons of images that left."""
    rows = []
    for step, of_step in _by(content.tables["flow"], "step").items():
        units = {row["unit"]: row for row in of_step}
        why = content.tables["flow_reasons"].filter(pl.col("step") == step)
        reasons: dict[str, dict[str, int]] = {}
        for row in why.iter_rows(named=True):
            reasons.setdefault(row["reason"], {})[row["unit"]] = row["count"]
        rows.append({"step": step, "units": units, "reasons": reasons})
    return rows


def _confusion(table: pl.DataFrame) -> list[list[int]]:
    """4 x 4 counts, reference in rows, against the consensus; empty without readings."""
    counts = {
        (row["stage_reference"], row["stage_model"]): row["num_studies"]
        for row in table.filter(pl.col("reference") == "consensus").iter_rows(named=True)
    }
    return [[counts.get((truth, test), 0) for test in range(4)] for truth in range(4)] if counts else []


def _urgency(content: ReportContent) -> dict[str, int | None]:
    """Worklist size by urgency; in a public report small counts are suppressed (None)."""
    worklist = content.tables["worklist"]
    counts: dict[str, int | None] = {
        str(referral): int((worklist["referral"] == referral).sum())
        for referral in (Referral.PRIORITY, Referral.ROUTINE, Referral.UNREADABLE)
    }
    counts["all"] = worklist.height
    min_cell = content.settings.min_cell if content.settings.public else 0
    return {
        name: None if number is not None and number < min_cell else number for name, number in counts.items()
    }


def _provenance(content: ReportContent) -> list[tuple[str, str]]:
    run, studies = content.campaign.run, content.campaign.studies
    found = {
        "run_started": run.get("started_utc"),
        "run_finished": run.get("finished_utc"),
        "device": run.get("device"),
        "bundle": run.get("bundle"),
        "model_sha256": content.campaign.metadata.get("model_sha256"),
        "threshold_set": ", ".join(studies["threshold_set_id"].drop_nulls().unique().sort()),
        "version": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return [(name, str(value)) for name, value in found.items() if value]


def _referred_record(referred: ReferredStudies) -> dict[str, object]:
    """What `page.js` draws the table from."""
    words = {name: {"en": text.en, "zh": text.zh} for name, text in CODES.items()}
    texts = {name: {"en": text.en, "zh": text.zh} for name, text in PAGE.items()}
    return {
        "columns": COLUMNS,
        "rows": referred.rows,
        "pictures": referred.pictures,
        "codes": words,
        "texts": texts,
    }
