"""Results as PNG: where a film's processor time goes, how speed and memory run over time, cores and size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.results import BenchResult
from screener.errors import ConfigError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BUDGET = ("header", "read", "pixels and canvas", "segmentation", "classification", "grade_decide", "report")
_COLOURS = ("#9aa5b1", "#5f7d95", "#2c5f8a", "#e0a458", "#c8553d", "#7a9e7e", "#b8c4bb")


def step_budget(result: BenchResult, path: Path) -> None:
    """Plot processor milliseconds of a film by step, beside what the whole stream took.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    names = [stream.archive for stream in result.streams]
    cost = {(step.archive, step.step): step.core_ms_per_file for step in result.steps}
    figure = _figure(width=9, height=1.4 + 0.6 * len(names))
    axes = figure.subplots()
    left = [0.0] * len(names)
    for step, colour in zip(_BUDGET, _COLOURS, strict=True):
        widths = [_share(cost, name, step) for name in names]
        axes.barh(names, widths, left=left, label=step.replace("_", " + "), color=colour, height=0.6)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    whole = [1e3 * stream.repeats[-1].core_seconds_per_file for stream in result.streams]
    axes.plot(whole, names, "k|", markersize=22, markeredgewidth=2, label="everything together")
    axes.set_xlabel("processor milliseconds a film")
    axes.invert_yaxis()
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    _save(figure, path)


def _share(cost: dict[tuple[str, str], float], archive: str, step: str) -> float:
    """Cost of one part; decoding holds header and read, which have bars of their own."""
    if step == "pixels and canvas":
        return max(0.0, cost[archive, "decode"] - cost[archive, "header"] - cost[archive, "read"])
    return cost[archive, step]


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    path: Path,
    *,
    across: str,
    up: str,
    logarithmic: bool = False,
) -> None:
    """Plot named series of (x, y) as lines that start at zero.

    Args:
        series: points by name.
        path: PNG to write.
        across: label of the horizontal axis.
        up: label of the vertical axis.
        logarithmic: horizontal axis in powers of ten.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    figure = _figure(width=7, height=4)
    axes = figure.subplots()
    for name, points in series.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=name)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.set_ylim(bottom=0)
    if logarithmic:
        axes.set_xscale("log")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    _save(figure, path)


def _figure(*, width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ConfigError("plots need matplotlib: pip install '.[train]'") from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
