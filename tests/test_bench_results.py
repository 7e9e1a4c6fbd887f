"""Result files, their comparison, and memory over time."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from bench.archive_factory import ArchiveRecipe, Syntax
from bench.commands import app
from bench.measure import STEPS
from bench.plots import step_budget
from bench.process_memory import MemorySample, MemorySampler
from bench.results import (
    BenchResult,
    Circumstances,
    Extent,
    PeerResult,
    PeerRound,
    StepResult,
    StreamRepeat,
    StreamResult,
    Timing,
    Waits,
    load_result,
    save_result,
)
from bench.scaling import ScalingPoint, ScalingResult, growth, measure_scaling
from bench.tables import comparison_table, peers_table, steps_table, streams_table, waits_table
from screener.errors import ConfigError
from screener.settings import RunSettings

WAITS = Waits(32, 4.0, 8.0, 4.0, 16.0, engines_idle=0.0, decoders_idle=0.25)
REPEAT = StreamRepeat(30.0, 60.0, 19.0, 0.1, WAITS)


def result(speed: float = 1.0) -> BenchResult:
    timings = (Timing(2.0 / speed, 4.0 / speed), Timing(4.0 / speed, 4.0 / speed), Timing(2.5 / speed, 5.0))
    steps = tuple(StepResult("raw", step, Extent(100, 10**9, 78 * 10**7), timings) for step in STEPS)
    streams = (StreamResult("raw", Extent(100, 10**9, 78 * 10**7), (REPEAT,), 10**9),)
    peers = (
        PeerResult("raw", "plain loop", (PeerRound(20.0, 2.0), PeerRound(30.0, 2.0)), {"torch": "2.13"}),
        PeerResult("raw", "monai", (), {}, "pip failed: no network"),
    )
    return BenchResult(Circumstances.now(), {"archive": "made"}, "an engine", steps, streams, peers)


def test_rates_are_medians_over_the_repeats() -> None:
    step = result().steps[0]
    assert step.files_per_s == 40.0
    assert step.mb_per_s == pytest.approx(400.0)
    assert step.mp_per_s == pytest.approx(312.0)
    assert step.core_ms_per_file == 40.0
    assert step.spread == 1.0


@given(st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.floats(0, 0.1))
def test_the_bound_is_what_the_cores_allow_all_parts(decode: float, networks: float, rest: float) -> None:
    repeat = replace(REPEAT, decode_files_per_s=decode, networks_files_per_s=networks, rest_s_per_file=rest)
    seconds_per_file = 1 / decode + 1 / networks + rest
    assert repeat.bound_files_per_s == pytest.approx(1 / seconds_per_file)
    assert repeat.bound_share == pytest.approx(19.0 * seconds_per_file)
    assert repeat.bound_files_per_s < min(decode, networks)


def test_who_waits_is_named() -> None:
    assert WAITS.verdict == "decoders wait for engines"
    assert replace(WAITS, engines_idle=0.5).verdict == "engines wait for decoders"
    assert replace(WAITS, decoders_idle=0.0).verdict == "nobody waits"


def test_a_result_file_comes_back_as_it_was(tmp_path: Path) -> None:
    saved = result()
    save_result(saved, tmp_path / "results" / "r.json")
    assert load_result(tmp_path / "results" / "r.json") == saved
    assert saved.circumstances.machine["cores"]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 99}', '{"format": 1, "steps": 3}'])
def test_what_is_no_result_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ConfigError):
        load_result(tmp_path / "r.json")
    with pytest.raises(ConfigError):
        load_result(tmp_path / "missing.json")


def test_comparing_shows_ratios_and_what_differs(tmp_path: Path) -> None:
    slow, fast = result(), result(speed=2.0)
    slow = replace(slow, circumstances=replace(slow.circumstances, commit="one", dirty=False))
    fast = replace(fast, circumstances=replace(fast.circumstances, commit="another", dirty=True))
    save_result(slow, tmp_path / "slow.json")
    save_result(fast, tmp_path / "fast.json")
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "slow.json"), str(tmp_path / "fast.json")])
    assert done.exit_code == 0
    assert "2.00" in done.stdout
    assert "different commit: one and another" in done.stderr
    assert "fast.json: measured on another, with uncommitted changes" in done.stderr
    assert "slow.json" not in done.stderr


def test_a_changed_source_tree_is_recorded_beside_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = (("ab12", "ab12", False), ("ab12-dirty", "ab12", True), (None, None, False))
    for described, commit, dirty in cases:
        monkeypatch.setattr("bench.results.git_commit", lambda described=described: described)
        found = Circumstances.now()
        assert (found.commit, found.dirty) == (commit, dirty)


def test_tables_and_plot_hold_every_step_and_say_what_was_not_measured(tmp_path: Path) -> None:
    found = result()
    console = Console(width=250, record=True, file=io.StringIO())
    console.print(steps_table(found), streams_table(found), waits_table(found), peers_table(found.peers))
    console.print(comparison_table(found, found))
    text = console.export_text()
    assert all(step in text for step in STEPS)
    assert "12.5" in text
    assert "decoders wait for engines" in text
    assert "10.0-15.0" in text
    assert "not measured: pip failed: no network" in text
    step_budget(found, tmp_path / "budget.png")
    assert (tmp_path / "budget.png").read_bytes().startswith(b"\x89PNG")


def test_memory_of_children_counts_and_a_gone_process_is_no_error() -> None:
    code = (
        "import subprocess, sys\n"
        "held = 'held = bytearray(b\"x\" * 80_000_000); print(1, flush=True); input()'\n"
        "subprocess.run([sys.executable, '-c', held])"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline()
        with MemorySampler(process.pid, interval_s=0.01) as memory:
            while len(memory.samples) < 2:
                time.sleep(0.01)
            process.stdin.write(b"\n")
            process.stdin.close()
            process.wait()
    assert memory.peak_bytes > 80_000_000


def test_growth_tells_a_flat_run_from_one_that_leaks() -> None:
    start = [MemorySample(float(second), 10**8 * second) for second in range(10)]
    flat = start + [MemorySample(float(second), 10**9 + second % 3) for second in range(10, 100)]
    leaking = start + [MemorySample(float(second), 10**9 + 10**7 * second) for second in range(10, 100)]
    assert abs(growth(flat)) < 0.001
    assert growth(leaking) > 0.2
    assert growth(flat[:3]) == 0.0


def test_memory_must_be_flat_over_archive_size_too() -> None:
    small = ScalingPoint(1000, 2, 2, 50.0, 1000, 10**9, 0.0, ())
    recipe = result()
    for large, is_flat in ((1.01e9, True), (1.2e9, False), (1.51e9, False)):
        points = (small, replace(small, num_files=20_000, peak_bytes=int(large)))
        assert ScalingResult(recipe.circumstances, None, {}, points).flat_memory is is_flat  # type: ignore[arg-type]
    high = replace(small, peak_bytes=int(1.51e9))
    assert not ScalingResult(recipe.circumstances, None, {}, (high,)).flat_memory  # type: ignore[arg-type]


def test_a_curve_that_was_broken_off_goes_on_after_its_last_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, wanted = tmp_path / "results" / "curve.json", [(10, 1), (10, 2), (50, 2)]
    ran: list[tuple[int, int]] = []

    def measured(recipe: ArchiveRecipe, cores: int, _: RunSettings) -> ScalingPoint:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append((recipe.count, cores))
        return ScalingPoint(recipe.count, cores, cores, 1.0, 10, 10**9, 0.0, (MemorySample(0.5, 10**9),))

    monkeypatch.setattr("bench.scaling._measure_point", measured)
    recipe, settings = ArchiveRecipe(1, {Syntax.RAW: 1.0}), RunSettings()
    with pytest.raises(KeyboardInterrupt):
        measure_scaling(recipe, wanted, settings, lambda _: None, file)
    assert ran == wanted[:2]
    ran.clear()
    said: list[str] = []
    result = measure_scaling(recipe, wanted, settings, said.append, file)
    assert ran == [(50, 2)]
    assert said == ["50 files on 2 cores"]
    assert [(point.num_files, point.cores) for point in result.points] == wanted
    assert len(json.loads(file.read_text())["points"]) == 3
    ran.clear()
    measure_scaling(replace(recipe, seed=1), wanted[:1], settings, said.append, file)
    assert ran == wanted[:1]
