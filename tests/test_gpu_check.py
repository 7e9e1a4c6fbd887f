"""The script that a GPU is lent for: it must not fail there for reasons that a CPU can find."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import gpu_check
from bench.gpu_sections import Bench, Row, canvases, exact_decodes
from engines.errors import EngineError


def no_gpu() -> None:
    raise EngineError("no GPU: cudaErrorNoDevice")


def test_without_a_gpu_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "probe_gpu", no_gpu)
    assert gpu_check.main([str(tmp_path / "out.json")]) == 1
    assert "needs a GPU (no GPU: cudaErrorNoDevice)" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()


def test_decoding_and_painting_sections_hold_on_a_processor(tmp_path: Path) -> None:
    bench = Bench(None, tmp_path, [], time.monotonic() + 600)
    rows = [*exact_decodes(bench), *canvases(bench)]
    assert {row.name for row in rows if row.section == "canvas"} >= {"nvimagecodec:jpeg2000", "host:raw"}
    assert all(row.met for row in rows if row.section == "canvas")
    assert {row.name: row.met for row in rows}["j2k full size"]


def failing(bench: Bench) -> Iterator[Row]:
    yield Row("failing", "first", 1.0, met=True)
    raise RuntimeError("CUDA error 700")


def fine(bench: Bench) -> Iterator[Row]:
    yield Row("fine", "figure", 2.0, "MP/s", ">= 1", met=True)


def test_a_section_that_fails_costs_only_itself_and_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "SECTIONS", (failing, fine))
    assert gpu_check.main([str(tmp_path / "out.json"), "--rehearse"]) == 1
    result = json.loads((tmp_path / "out.json").read_text())
    assert [row["name"] for row in result["rows"]] == ["first", "failed", "figure"]
    assert result["rehearsal"] is True and result["gpu"] is None
    assert "MISSED" in capsys.readouterr().out


def test_no_section_starts_after_the_time_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "SECTIONS", (fine,))
    assert gpu_check.main([str(tmp_path / "out.json"), "--rehearse", "--minutes", "-1"]) == 1
    assert json.loads((tmp_path / "out.json").read_text())["rows"][0]["value"] == "no time left"
