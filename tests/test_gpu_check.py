"""The script that a GPU is lent for: it must not fail there for reasons that a CPU can find.

Sections in trouble are real ones in real processes; the functions that they name end this file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import gpu_check
from bench.gpu_check import Ended, circumstances, run_sections, short_table
from bench.gpu_findings import Bench, Findings, Row, attempted
from bench.gpu_sections import SECTIONS, Section
from engines.devices import Gpu
from engines.errors import EngineError
from tests.fake_tensorrt import ROW, FakeCudaRuntime, fake_tensorrt

REPOSITORY = Path(__file__).parents[1]
GPU = Gpu(0, "a GPU", (9, 0), 80 << 30, 13000)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sections' processes import this file."""
    monkeypatch.chdir(REPOSITORY)


def no_gpu() -> None:
    raise EngineError("no GPU: cudaErrorNoDevice")


def section(name: str, allowance_s: float = 10.0) -> Section:
    return Section(name, f"tests.test_gpu_check:{name}", allowance_s)


def rehearsed(tmp_path: Path, *sections: Section) -> tuple[int, dict[str, Any]]:
    out = tmp_path / "out.json"
    code = gpu_check.main([str(out), "--rehearse"], sections)
    return code, json.loads(out.read_text())


def test_only_the_chosen_sections_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    sections = (section("fine"), section("crashing"))
    assert gpu_check.main([str(out), "--rehearse", "--only", "fine"], sections) == 0
    assert [found["name"] for found in json.loads(out.read_text())["sections"]] == ["fine"]
    with pytest.raises(SystemExit):
        gpu_check.main([str(out), "--rehearse", "--only", "finds_three_rows"], sections)
    assert "no section finds_three_rows" in capsys.readouterr().err


def test_without_a_gpu_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "probe_gpu", no_gpu)
    assert gpu_check.main([str(tmp_path / "out.json")]) == 1
    assert "needs a GPU (no GPU: cudaErrorNoDevice)" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_sections_in_trouble_cost_only_themselves_and_the_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, result = rehearsed(
        tmp_path, section("raising"), section("crashing"), section("missing"), section("fine")
    )
    assert code == 1
    ended = {each["name"]: each for each in result["sections"]}
    assert [each["status"] for each in result["sections"]] == ["failed", "failed", "failed", "done"]
    assert ended["raising"]["rows"][0]["name"] == "first"
    assert ended["raising"]["error"] == "RuntimeError: CUDA error 700"
    assert "raise RuntimeError" in ended["raising"]["log"]
    assert ended["crashing"]["error"].startswith("ended by signal 9")
    assert "missing" in ended["missing"]["error"]
    assert ended["fine"]["rows"] == [asdict(Row("figure", 2.0, "MP/s"))]
    printed = capsys.readouterr().out
    assert "raising    FAILED RuntimeError: CUDA error 700" in printed
    assert "figure" not in printed.partition("In short")[2]


def test_a_section_that_hangs_is_killed_with_its_workers_and_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "REHEARSAL_SLOWER", 1.0)
    code, result = rehearsed(tmp_path, section("hanging", 8.0), section("fine"))
    hanging, fine = result["sections"]
    assert code == 1
    assert (hanging["status"], hanging["error"], fine["status"]) == (
        "out of time",
        "killed after 8 s",
        "done",
    )
    assert "time.sleep(60)" in hanging["log"] or "in hanging" in hanging["log"]
    worker = int(hanging["rows"][0]["value"])
    assert _has_ended(worker)


def test_the_file_is_there_after_each_section(tmp_path: Path) -> None:
    seen = []

    def look(ended: Ended) -> None:
        seen.append((ended.name, ended.status))

    run_sections([section("fine"), section("raising")], tmp_path, look, rehearse=True)
    assert seen == [("fine", "done"), ("raising", "failed")]


def test_once_the_time_is_over_only_the_last_section_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "START_UNTIL_S", -1.0)
    code, result = rehearsed(tmp_path, section("raising"), section("fine"))
    assert code == 1
    assert [(each["name"], each["status"]) for each in result["sections"]] == [
        ("raising", "not run"),
        ("fine", "done"),
    ]
    assert "raising    NOT RUN no time left" in short_table(
        [Ended("raising", "not run", 0, 1, error="no time left")]
    )


def test_a_missed_goal_is_in_the_short_table_and_no_success() -> None:
    ended = Ended(
        "decode", "done", 1.0, 2.0, (Row("j2k", 900.0, "MP/s", ">= 1000", met=False), Row("raw", 1.0))
    )
    assert not ended.is_fine
    assert "MISSED" in short_table([ended])
    assert "raw" not in short_table([ended])


def test_a_failed_measurement_is_a_row_and_the_next_one_runs() -> None:
    def broken() -> Findings:
        yield Row("before", 1.0)
        raise ValueError("no kernel\nfor this")

    rows = [*attempted("broken", broken), *attempted("fine", lambda: iter((Row("after", 2.0),)))]
    assert [(row.name, row.value, row.met) for row in rows] == [
        ("before", 1.0, None),
        ("broken", "failed: ValueError: no kernel", False),
        ("after", 2.0, None),
    ]


def test_the_result_names_its_circumstances() -> None:
    found = circumstances(GPU, "abc-dirty")
    assert (found["commit"], found["dirty"], found["rehearsal"]) == ("abc", True, False)
    assert circumstances(None, "abc")["dirty"] is False
    versions = found["versions"]
    assert isinstance(versions, dict)
    assert {"torch", "tensorrt-cu13", "nvidia-dali-cuda130", "nvidia-nvimgcodec-cu13"} <= set(versions)


def test_the_upper_bound_of_flips_is_the_exact_one() -> None:
    pytest.importorskip("torch")
    from bench.gpu_parity import upper_bound

    assert upper_bound(0, 1000) == pytest.approx(1 - 0.05 ** (1 / 1000))
    assert upper_bound(0, 20) > 0.13
    assert upper_bound(5, 1000) > 0.005 > upper_bound(0, 1000)
    assert upper_bound(3, 3) == 1.0


def test_flips_are_counted_against_the_reference() -> None:
    pytest.importorskip("torch")
    from bench.gpu_parity import Answers, differences

    wanted = Answers(
        np.ones((4, 2, 8, 8), bool),
        {
            "stage_logits": np.eye(4),
            "diagnosis_logits": np.full((4, 3), 0.5),
            "zone_logits": np.zeros((4, 6)),
        },
    )
    moved = {name: logits.copy() for name, logits in wanted.logits.items()}
    moved["stage_logits"][3] = [2.0, 0, 0, 0]
    moved["diagnosis_logits"][0, 1] = -0.1
    bench = Bench(GPU, Path(), 0.0)
    rows = {row.name: row for row in differences(bench, "x", Answers(wanted.masks, moved), wanted, 2)}
    assert (rows["x stage flips"].value, rows["x stage flips"].unit, rows["x stage flips"].met) == (
        0.25,
        "1 of 4",
        False,
    )
    assert rows["x diagnosis flips"].value == 0.25
    assert rows["x stage flips, films that are no variants"].value == 0
    assert rows["x mask Dice, least"].value == 1.0


def test_the_clock_counts_after_the_warm_up_only() -> None:
    pytest.importorskip("nvidia.dali")
    from bench.gpu_stream import Clock

    clock = Clock(0.0, [(100.0, 32), (101.0, 32), (102.0, 32), (103.0, 16)])
    assert clock.films_per_s(2) == pytest.approx((32 + 16) / 2)
    assert clock.start_up_s == 100.0


def test_a_plan_runs_on_buffers_of_its_own_and_gives_them_back() -> None:
    """Enqueue logic against the fake runtime; nothing of TensorRT is proven by it."""
    pytest.importorskip("torch")
    from bench.gpu_tensorrt import OpenPlan

    cuda = FakeCudaRuntime()
    trt = fake_tensorrt(cuda)
    with OpenPlan(trt, b"plan", cuda, {"x": (4, ROW)}) as plan:  # type: ignore[arg-type]
        plan.run()
        plan.run()
        assert trt.contexts[0].num_enqueues == 2
        assert sorted(map(len, cuda.memory.values())) == [4 * ROW * 4] * 2
    assert not cuda.memory
    with pytest.raises(EngineError, match="refuses the batch"):
        OpenPlan(trt, b"plan", cuda, {"x": (9, ROW)})  # type: ignore[arg-type]


def test_goal_networks_are_the_published_ones() -> None:
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    from bench.goal_networks import goal_networks

    for network, gflop in zip(goal_networks(), (5.5, 24.1), strict=True):
        module = network.module.to("meta")
        with FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, 1, network.side, network.side, device="meta"))
        assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, rel=0.02), network.name


def test_films_decode_exactly_and_canvases_equal_the_hosts_on_a_processor(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    from bench.gpu_decoding import canvases, exact
    from bench.gpu_films import judged_canvases, prepare

    bench = Bench(None, tmp_path, time.monotonic() + 600)
    rows = [*prepare(bench), *exact(bench), *canvases(bench)]
    found = {row.name: row for row in rows}
    assert all(row.met is not False for row in rows)
    assert found["j2k 12 bit 860 x 772"].met
    assert float(found["real lossless files compared"].value) >= 1
    assert {name.partition(",")[0] for name in found} >= {"nvimagecodec:jpeg2000", "host:raw"}
    host, device, num_originals = judged_canvases(bench)
    assert host.shape == device.shape == (num_originals + 1, 1, 768, 768)
    assert float(np.abs(host - device).max()) <= 2e-3


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_section_rehearses_without_a_gpu(tmp_path: Path) -> None:
    """A mistyped name must not cost the hour with the GPU."""
    for package in ("nvidia.dali", "nvidia.nvimgcodec", "torch", "onnx"):
        pytest.importorskip(package)
    code, result = rehearsed(tmp_path, *SECTIONS)
    assert [each["name"] for each in result["sections"]] == [each.name for each in SECTIONS]
    trouble = {each["name"]: each["log"] for each in result["sections"] if each["status"] != "done"}
    missed = [row for each in result["sections"] for row in each["rows"] if row["met"] is False]
    assert (trouble, missed, code) == ({}, [], 0)
    assert result["rehearsal"] is True
    assert result["gpu"] is None
    assert {"versions", "commit", "dirty", "driver", "machine", "seconds"} <= set(result)
    names = {each["name"]: " | ".join(row["name"] for row in each["rows"]) for each in result["sections"]}
    for name, wanted in EXPECTED.items():
        for part in wanted:
            assert part in names[name], (name, part)


EXPECTED = {
    "prepare": ("archives",),
    "exact": ("jpeg_lossless 12 bit", "j2k 12 bit", "real jpeg2000"),
    "decode": ("j2k 10-16 bit x 2", "htj2k", "jpeg 8 bit x 2", "best batch size"),
    "canvases": ("nvimagecodec:jpeg2000", "host:raw"),
    "parity": ("torch fp32 stage flips, upper 95% bound", "torch fp16 mask Dice, least"),
    "tensorrt": ("TensorRT",),
    "stream": ("mixed: end to end", "j2k: share of the slower step", "most device memory"),
    "goals": ("DenseNet-121 224² fp16 torch eager", "U-Net base 32 256² fp16 torch eager"),
    "networks": ("segmentation fp16 torch, product", "classification fp32 torch eager"),
    "compiled": ("DenseNet-121 224² fp16 torch compiled", "segmentation fp16 torch compiled"),
    "training": ("single launches", "CUDA graphs", "largest difference of a loss"),
    "allowance": ("DenseNet-121 224² fp16, best", "classification, H200's fp16 tensor rate would allow"),
}


def _has_ended(pid: int) -> bool:
    for _ in range(50):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return True
        time.sleep(0.1)
    return False


def raising(bench: Bench) -> Findings:
    yield Row("first", 1.0, met=True)
    raise RuntimeError("CUDA error 700")


def crashing(bench: Bench) -> Findings:
    yield Row("first", 1.0)
    os.kill(os.getpid(), signal.SIGKILL)


def hanging(bench: Bench) -> Findings:
    import subprocess

    worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield Row("worker", float(worker.pid))
    time.sleep(60)


def fine(bench: Bench) -> Findings:
    yield Row("figure", 2.0, "MP/s")
