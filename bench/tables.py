"""Results as tables for the terminal."""

from __future__ import annotations

from rich.table import Table

from bench.results import BenchResult, PeerResult
from bench.scaling import ScalingResult


def steps_table(result: BenchResult) -> Table:
    """Every step alone, on each archive."""
    table = _table(
        "Each step alone", "archive", "step", "files/s", "MP/s", "MB/s", "core ms a file", "spread"
    )
    archive = ""
    for step in result.steps:
        if archive and step.archive != archive:
            table.add_section()
        table.add_row(
            "" if step.archive == archive else step.archive,
            step.step,
            f"{step.files_per_s:,.1f}",
            f"{step.mp_per_s:,.0f}" if step.extent.num_pixels else "",
            f"{step.mb_per_s:,.0f}" if step.extent.num_bytes else "",
            f"{step.core_ms_per_file:,.2f}",
            f"{step.spread:.0%}",
        )
        archive = step.archive
    return table


def streams_table(result: BenchResult) -> Table:
    """Everything together, on each archive: what came of it, and the bound."""
    columns = ("archive", "files/s", "MP/s", "bound", "share", "shares", "core ms a file")
    table = _table("Everything together", *columns, "start-up s", "peak MB")
    for stream in result.streams:
        shares = [repeat.bound_share for repeat in stream.repeats]
        table.add_row(
            stream.archive,
            f"{stream.files_per_s:,.1f}",
            f"{stream.files_per_s * stream.extent.num_pixels / stream.extent.num_files / 1e6:,.0f}",
            f"{stream.bound_files_per_s:,.1f}",
            f"{stream.bound_share:.0%}",
            f"{min(shares):.0%}-{max(shares):.0%}",
            f"{1e3 * stream.repeats[-1].core_seconds_per_file:,.1f}",
            f"{stream.repeats[-1].startup_s:.1f}",
            f"{stream.peak_bytes / 1e6:,.0f}",
        )
    return table


def waits_table(result: BenchResult) -> Table:
    """Where the canvases are on average while everything runs, and who waits for whom."""
    columns = ("archive", "canvases", "free", "decoding", "drawn", "with engines", "idle decoders")
    table = _table("Who waits for whom", *columns, "idle engines", "verdict")
    for stream in result.streams:
        waits = stream.repeats[-1].waits
        table.add_row(
            stream.archive,
            str(waits.slots),
            *(f"{place:.0f}" for place in (waits.free, waits.decoding, waits.drawn, waits.with_engines)),
            f"{waits.decoders_idle:.0%}",
            f"{waits.engines_idle:.0%}",
            waits.verdict,
        )
    return table


def peers_table(peers: tuple[PeerResult, ...]) -> Table:
    """Ratios to what a user would otherwise run."""
    table = _table("Against peers, same files", "archive", "peer", "screener/s", "peer/s", "ratio", "range")
    for peer in peers:
        if not peer.rounds:
            table.add_row(peer.archive, peer.peer, "", "", "", f"not measured: {peer.not_measured}")
            continue
        ratios = [each.ratio for each in peer.rounds]
        middle = sorted(peer.rounds, key=lambda each: each.ratio)[len(peer.rounds) // 2]
        table.add_row(
            peer.archive,
            peer.peer,
            f"{middle.screener_files_per_s:,.2f}",
            f"{middle.peer_files_per_s:,.2f}",
            f"{peer.ratio:.1f}",
            f"{min(ratios):.1f}-{max(ratios):.1f}",
        )
    return table


def comparison_table(before: BenchResult, after: BenchResult) -> Table:
    """Two results side by side: rates of every step and stream that both have."""
    table = _table("Files a second", "archive", "step", "before", "after", "ratio")
    earlier = {(step.archive, step.step): step.files_per_s for step in before.steps}
    earlier |= {(stream.archive, "everything"): stream.files_per_s for stream in before.streams}
    later = {(step.archive, step.step): step.files_per_s for step in after.steps}
    later |= {(stream.archive, "everything"): stream.files_per_s for stream in after.streams}
    for key, rate in earlier.items():
        if key in later:
            table.add_row(*key, f"{rate:,.1f}", f"{later[key]:,.1f}", f"{later[key] / rate:.2f}")
    return table


def scaling_table(result: ScalingResult) -> Table:
    """Speed and memory of every run."""
    table = _table(
        "screener run", "files", "cores", "workers", "images/s", "seconds", "peak MB", "memory growth"
    )
    for point in result.points:
        table.add_row(
            f"{point.num_files:,}",
            str(point.cores),
            str(point.num_workers),
            f"{point.files_per_s:,.1f}",
            f"{point.seconds:,.0f}",
            f"{point.peak_bytes / 1e6:,.0f}",
            f"{point.growth:+.1%}",
        )
    return table


def circumstances_lines(result: BenchResult) -> list[str]:
    """Machine, versions and commit, one fact a line."""
    found = result.circumstances
    return [
        f"machine   {found.machine.get('processor')}, {found.machine.get('cores')} cores",
        f"engine    {result.engine}",
        f"commit    {found.source}",
        f"measured  {found.measured_utc}",
    ]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        is_text = column in ("archive", "step", "peer", "range", "shares", "verdict")
        table.add_column(column, justify="left" if is_text else "right")
    return table
