"""A campaign and a site's own readings to thresholds for `screener run --thresholds`.

Each head that has enough readings is scaled again on the site's films and gets the threshold that refers
fewest at the required sensitivity; a head without them keeps the bundle's, and the report says so.
Questionable: scores before and after are given on the very readings that were fitted, so "after" is
optimistic; two to eight numbers cannot learn films by heart, but a site should keep some readings back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from calibration.errors import CalibrationError
from calibration.fitting import (
    LabelFit,
    Requirements,
    StageMethod,
    fit_label,
    fit_stage,
    tb_priority_threshold,
)
from calibration.operating_points import OperatingPoint, operating_curve
from calibration.reliability import (
    ReliabilityBin,
    brier_score,
    draw_reliability,
    expected_calibration_error,
    reliability_bins,
)
from calibration.scaling import Float64, log_probabilities, logit
from calibration.threshold_set import FittedOn, HeadChoice, ThresholdSet
from screener import INTENDED_USE
from screener.errors import ConfigError, ReportError
from screener.readings import UNREAD, ReadFilms, join_readings, load_readings

MIN_READINGS = 10
"""Readings with and without the finding that a head needs: fewer leave its sensitivity open by 30 % (E)."""
SENSITIVITIES = (0.99, 0.95, 0.90, 0.85, 0.80)
"""Rows of the report's table of alternatives."""


@dataclass(frozen=True, slots=True)
class HeadReport:
    """What one head's readings gave."""

    name: str
    num_positive: int
    num_negative: int
    choice: HeadChoice | None
    """None when there are too few readings."""
    point: OperatingPoint | None = None
    alternatives: tuple[OperatingPoint, ...] = ()
    ece_before: float = 0.0
    ece_after: float = 0.0
    brier_before: float = 0.0
    brier_after: float = 0.0
    bins: tuple[ReliabilityBin, ...] = ()
    curve: pl.DataFrame | None = None
    """Every threshold: sensitivity, specificity, PPV, NPV, referrals and missed cases per 1,000."""


@dataclass(frozen=True, slots=True)
class CalibrationReport:
    """What `calibrate` found and wrote."""

    threshold_set: ThresholdSet
    heads: tuple[HeadReport, ...]
    num_matched: int
    num_unmatched: int
    num_unreadable: int
    files: tuple[Path, ...]
    note: str = ""
    """What could not be written and why; empty when everything was."""


def calibrate(
    campaign: Path, labels: Path, out: Path, requirements: Requirements | None = None
) -> CalibrationReport:
    """Choose thresholds from a site's readings.

    Writes `out` (the threshold set) and beside it, with the same stem, `.md` (report), `-curve.csv` (every
    threshold) and `-reliability.png`.

    Args:
        campaign: campaign folder of a finished run.
        labels: readings file, see `readings.load_readings`.
        out: threshold set file, `.json`.
        requirements: sensitivities, and the prevalences expected where the thresholds will be used.

    Returns:
        What was found, and the files written.

    Raises:
        ConfigError: readings or options that cannot be used.
        ReportError: the campaign cannot be read, or a file cannot be written.
        CalibrationError: a requirement is out of range.
    """
    needs = requirements or Requirements()
    if out.suffix != ".json":
        raise ConfigError("--out: expected a file name that ends in .json")
    model_sha256 = _model_of(campaign)
    films = join_readings(campaign, load_readings(labels))
    heads = (_pneumoconiosis(films, needs), _tb(films, needs), _stage(films, needs))
    if not any(head.choice for head in heads):
        counts = ", ".join(
            f"{head.name} {head.num_positive} with, {head.num_negative} without" for head in heads
        )
        raise ConfigError(f"too few readings, a head needs {MIN_READINGS} with and without: {counts}")
    thresholds = ThresholdSet(
        model_sha256,
        FittedOn(len(films), "the site's own readings", simulated=False),
        *(head.choice for head in heads),
    )
    report = CalibrationReport(
        thresholds, heads, len(films), films.num_unmatched, films.num_unreadable, files=()
    )
    return _write(report, out)


def _model_of(campaign: Path) -> str:
    try:
        recorded = json.loads((campaign / "campaign.json").read_text("utf-8"))
        return str(recorded["fingerprint"]["model_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReportError("this folder is not a campaign: its campaign.json cannot be read") from error


def _pneumoconiosis(films: ReadFilms, needs: Requirements) -> HeadReport:
    read = films.pneumoconiosis != UNREAD
    labels, raw = films.pneumoconiosis[read], films.p_pneumoconiosis_raw[read]
    if _too_few(labels):
        return _kept("pneumoconiosis", labels)
    fit = fit_label(logit(raw), labels, needs.sensitivity, needs.prevalence)
    return _report("pneumoconiosis", fit, labels, raw)


def _tb(films: ReadFilms, needs: Requirements) -> HeadReport:
    read = films.tb != UNREAD
    labels, raw = films.tb[read], films.p_tb_raw[read]
    if _too_few(labels):
        return _kept("tb", labels)
    fit = fit_label(logit(raw), labels, needs.tb_sensitivity, needs.tb_prevalence)
    priority = tb_priority_threshold(fit, labels, needs.tb_priority_specificity)
    return _report("tb", fit, labels, raw, priority)


def _stage(films: ReadFilms, needs: Requirements) -> HeadReport:
    read = films.stage != UNREAD
    stages, raw = films.stage[read], films.p_stage_raw[read]
    positive = (stages >= 1).astype(np.int64)
    if _too_few(positive):
        return _kept("stage", positive)
    # Eight numbers need every stage; with one missing, one temperature is all that can be said.
    enough = all(np.count_nonzero(stages == stage) >= MIN_READINGS for stage in range(4))
    method: StageMethod = "vector" if enough else "temperature"
    fit = fit_stage(log_probabilities(raw), stages, needs.sensitivity, needs.prevalence, method=method)
    return _report("stage", fit, positive, raw[:, 1:].sum(axis=1))


def _too_few(labels: npt.NDArray[np.int64]) -> bool:
    return min(int(np.count_nonzero(labels == value)) for value in (0, 1)) < MIN_READINGS


def _kept(name: str, labels: npt.NDArray[np.int64]) -> HeadReport:
    return HeadReport(name, int(labels.sum()), int(np.count_nonzero(labels == 0)), None)


def _report(
    name: str,
    fit: LabelFit,
    labels: npt.NDArray[np.int64],
    raw: Float64,
    priority: float | None = None,
) -> HeadReport:
    curve = operating_curve(fit.probabilities, labels, prevalence=fit.point.prevalence)
    fitted = fit.at_readings
    return HeadReport(
        name=name,
        num_positive=int(labels.sum()),
        num_negative=int(np.count_nonzero(labels == 0)),
        choice=HeadChoice(fit.scaling, fit.point.threshold, fit.point.prevalence, priority),
        point=fit.point,
        alternatives=tuple(curve.at_sensitivity(required) for required in SENSITIVITIES),
        ece_before=expected_calibration_error(raw, labels),
        ece_after=expected_calibration_error(fitted, labels),
        brier_before=brier_score(raw, labels),
        brier_after=brier_score(fitted, labels),
        bins=reliability_bins(fitted, labels),
        curve=pl.DataFrame(
            {
                "head": [name] * len(curve.thresholds),
                "threshold": curve.thresholds,
                "sensitivity": curve.sensitivity,
                "specificity": curve.specificity,
                "ppv": pl.Series(curve.ppv).fill_nan(None),
                "npv": pl.Series(curve.npv).fill_nan(None),
                "referred_per_1000": curve.referred_per_1000,
                "missed_per_1000": curve.missed_per_1000,
            }
        ),
    )


def _write(report: CalibrationReport, out: Path) -> CalibrationReport:
    page, table = out.with_suffix(".md"), out.with_name(f"{out.stem}-curve.csv")
    drawing = out.with_name(f"{out.stem}-reliability.png")
    files, note = [out, page, table], ""
    try:
        report.threshold_set.save(out)
        page.write_text(report_text(report), encoding="utf-8")
        pl.concat([head.curve for head in report.heads if head.curve is not None]).write_csv(table)
    except OSError as error:
        raise ReportError(f"{out.name} cannot be written: {error.strerror}") from error
    try:
        draw_reliability({head.name: head.bins for head in report.heads if head.bins}, drawing)
        files.append(drawing)
    except CalibrationError as error:
        note = f"no reliability diagram: {error}"
    return replace(report, files=tuple(files), note=note)


def report_text(report: CalibrationReport) -> str:
    """The report as Markdown: what was chosen, the alternatives, and how good the probabilities are."""
    chosen = report.threshold_set
    lines = [
        f"# Threshold set {chosen.threshold_set_id}",
        "",
        f"{report.num_matched} readable films with a reading; {report.num_unmatched} readings belong to no "
        f"screened film, {report.num_unreadable} to unreadable films, which are referred in any case.",
        f"Model {chosen.model_sha256[:12]}. {INTENDED_USE}",
    ]
    for head in report.heads:
        lines += ["", f"## {head.name}", "", *_head_lines(head)]
    return "\n".join(lines) + "\n"


def _head_lines(head: HeadReport) -> list[str]:
    counts = f"{head.num_positive} films with the finding, {head.num_negative} without."
    if head.choice is None or head.point is None:
        return [f"{counts} At least {MIN_READINGS} of each are needed: the bundle's threshold is kept."]
    prevalence = f"{head.point.prevalence:.1%} prevalence"
    return [
        f"{counts} Predictive values, referrals and missed cases are for {prevalence}; intervals are 95 % "
        "Clopper-Pearson. The first row is the threshold chosen.",
        "",
        "| threshold | sensitivity | specificity | PPV | NPV | referred per 1,000 | missed per 1,000 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_point_line(point) for point in (head.point, *head.alternatives)),
        "",
        f"ECE (15 bins of equal mass) {head.ece_before:.3f} before, {head.ece_after:.3f} after; Brier "
        f"{head.brier_before:.3f} before, {head.brier_after:.3f} after, on the readings that were fitted.",
    ]


def _point_line(point: OperatingPoint) -> str:
    rates = (
        f"{rate.value:.3f} ({rate.low:.3f}-{rate.high:.3f})"
        for rate in (point.sensitivity, point.specificity)
    )
    values = ("-" if value is None else f"{value:.3f}" for value in (point.ppv, point.npv))
    counts = (f"{count:.1f}" for count in (point.referred_per_1000, point.missed_per_1000))
    return f"| {' | '.join((f'{point.threshold:.4f}', *rates, *values, *counts))} |"
