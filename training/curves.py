"""Metrics of every epoch to learning curves as PNG: losses above, figures of merit below."""

from __future__ import annotations

from pathlib import Path

import polars as pl


def draw_curves(metrics: Path, picture: Path) -> None:
    """Draw the learning curves of a run.

    Args:
        metrics: `metrics.parquet` of the run, one row an epoch.
        picture: PNG to write.
    """
    from matplotlib.figure import Figure

    table = pl.read_parquet(metrics)
    losses = [name for name in table.columns if "loss" in name or name.startswith("val_")]
    merits = [name for name in table.columns if name not in (*losses, "epoch", "seconds", "score")]
    figure = Figure(figsize=(8, 7), layout="constrained")
    for place, (title, names) in enumerate((("loss", losses), ("validation", merits)), start=1):
        axes = figure.add_subplot(2, 1, place)
        for name in names:
            rows = table.select("epoch", name).drop_nulls()
            axes.plot(rows["epoch"].to_numpy(), rows[name].to_numpy(), label=name, linewidth=1.2)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(visible=True, alpha=0.3)
        if names:
            axes.legend(fontsize=7, ncols=2)
    figure.savefig(picture, dpi=110)
