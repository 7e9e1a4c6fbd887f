"""Every proof that needs a GPU, in one go of at most ten minutes: a short table and a JSON file.

    python -m bench.gpu_check OUT.json [--commit COMMIT]
    python -m bench.gpu_check OUT.json --only goals,networks,allowance
    python -m bench.gpu_check OUT.json --rehearse

Needs the extra `gpu` (and `tensorrt` where there is one), torch and onnx; the bundle and the real films are
those of this repository. Each section runs in a process of its own with a time allowance: one that fails,
hangs or crashes costs only itself, is recorded with its error, and makes the exit code 1. OUT.json is written
after each. `--rehearse` runs every section on the processor with small films and counts, so that the script
itself is tested where there is no GPU; its figures measure nothing, and the file says so.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from bench.gpu_findings import Row
from bench.gpu_sections import SECTIONS, Section
from engines.devices import Gpu, probe_gpu
from engines.errors import EngineError
from screener.run_manifest import git_commit, machine

START_UNTIL_S = 540.0
"""No section starts later."""
END_BY_S = 585.0
"""Whatever runs then is killed: there has to be time to write the file."""
LEAST_S = 15.0
"""Kept for the last section, which judges what the others found."""
REHEARSAL_SLOWER = 6.0
"""A rehearsal may run on a busy machine without a GPU: allowances and limits grow by this."""
LOG_CHARACTERS = 3000

DISTRIBUTIONS = (
    "torch",
    "tensorrt-cu13",
    "tensorrt",
    "tensorrt_rtx_cu13",
    "nvidia-dali-cuda130",
    "nvidia-nvimgcodec-cu13",
    "nvidia-nvjpeg",
    "nvidia-nvjpeg2k-cu13",
    "nvidia-cudnn-cu13",
    "cuda-bindings",
    "triton",
    "onnx",
    "openvino",
    "imagecodecs",
    "numpy",
)

Status = Literal["done", "failed", "out of time", "not run"]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a section ended."""

    name: str
    status: Status
    seconds: float
    allowance_s: float
    rows: tuple[Row, ...] = ()
    error: str = ""
    """In one line."""
    log: str = ""
    """The end of what it said, if it did not end well."""

    @property
    def is_fine(self) -> bool:
        """Whether it ran to its end and no goal was missed."""
        return self.status == "done" and all(row.met is not False for row in self.rows)


def run_sections(
    sections: Sequence[Section], folder: Path, on_end: Callable[[Ended], None], *, rehearse: bool
) -> None:
    """Run sections one after the other, each in its own process, within the time there is.

    Args:
        sections: the last one gets `LEAST_S` in any case.
        folder: for archives and rows; must be there.
        on_end: told how each ended.
        rehearse: on the processor.
    """
    scale = REHEARSAL_SLOWER if rehearse else 1.0
    began = time.monotonic()
    for section in sections:
        elapsed = time.monotonic() - began
        if elapsed > START_UNTIL_S * scale and section is not sections[-1]:
            on_end(Ended(section.name, "not run", 0.0, section.allowance_s, error="no time left"))
            continue
        reserve = 0.0 if section is sections[-1] else LEAST_S
        left = max(LEAST_S, END_BY_S * scale - elapsed - reserve)
        on_end(_run(section, folder, min(section.allowance_s * scale, left), rehearse=rehearse))


def _run(section: Section, folder: Path, limit_s: float, *, rehearse: bool) -> Ended:
    rows, log = folder / f"{section.name}.rows", folder / f"{section.name}.log"
    command = [sys.executable, "-m", "bench.gpu_sections", section.target, str(folder), f"{limit_s:.1f}"]
    command += ["--rows", str(rows), *(["--rehearse"] if rehearse else [])]
    quiet = {**os.environ, "OPENCV_LOG_LEVEL": "ERROR"}
    if rehearse:  # on a machine that others use, two spinning threads are slower than one
        quiet["OMP_NUM_THREADS"] = "1"
    began = time.monotonic()
    with log.open("w") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=quiet, start_new_session=True)  # noqa: S603
        try:
            status: Status = "failed" if process.wait(limit_s) else "done"
        except subprocess.TimeoutExpired:
            status = "out of time"
        finally:
            _end_group(process)
    lines = rows.read_text("utf-8").splitlines() if rows.exists() else []
    found = tuple(Row(**json.loads(line)) for line in lines)
    seconds = time.monotonic() - began
    if status == "done":
        return Ended(section.name, status, seconds, section.allowance_s, found)
    text = log.read_text("utf-8", errors="replace").strip()
    error = _error(text, process.returncode) if status == "failed" else f"killed after {limit_s:.0f} s"
    return Ended(section.name, status, seconds, section.allowance_s, found, error, text[-LOG_CHARACTERS:])


def _error(text: str, returncode: int) -> str:
    """What the section said last; a crash says nothing, or prints its stack."""
    last = text.splitlines()[-1][:300] if text else "without a word"
    return f"ended by signal {-returncode}: {last}" if returncode < 0 else last


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a section and the workers that it may have left: they are in a group of their own."""
    with suppress(ProcessLookupError):  # it and all its workers have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def circumstances(gpu: Gpu | None, commit: str | None) -> dict[str, object]:
    """On what a result was found."""
    found = commit or git_commit()
    return {
        "rehearsal": gpu is None,
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "gpu": None if gpu is None else asdict(gpu),
        "driver": _driver(),
        "machine": dict(machine()),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in DISTRIBUTIONS}},
        "commit": found and found.removesuffix("-dirty"),
        "dirty": None if found is None else found.endswith("-dirty"),
    }


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _driver() -> str | None:
    """The kernel driver's own line; None without one."""
    try:
        return Path("/proc/driver/nvidia/version").read_text("utf-8").splitlines()[0]
    except (OSError, IndexError):
        return None


def _line(section: str, row: Row) -> str:
    value = f"{row.value:.4g}" if isinstance(row.value, float) else str(row.value)
    verdict = "" if row.met is None else "  ok" if row.met else "  MISSED"
    return f"{section:10} {row.name:58} {value:>12} {row.unit:18} {row.goal}{verdict}".rstrip()


def _print_section(ended: Ended) -> None:
    lines = [_line(ended.name, row) for row in ended.rows]
    lines.append(f"{ended.name:10} {ended.status} in {ended.seconds:.0f} s {ended.error}".rstrip())
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def short_table(sections: Sequence[Ended]) -> str:
    """Every row with a goal or a failure, and every section that did not run to its end."""
    lines = ["", "In short", "--------"]
    for ended in sections:
        lines += [_line(ended.name, row) for row in ended.rows if row.goal or row.met is not None]
        if ended.status != "done":
            lines.append(f"{ended.name:10} {ended.status.upper()} {ended.error}".rstrip())
    return "\n".join(lines) + "\n"


def _write(out: Path, result: dict[str, object]) -> None:
    temporary = out.with_name(f"{out.name}.writing")
    temporary.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    temporary.replace(out)


def main(arguments: list[str] | None = None, sections: Sequence[Section] = SECTIONS) -> int:
    """Run all sections; exit code 0 if every one ran and no goal was missed, else 1."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--commit", help="of this tree, where it came without its .git")
    parser.add_argument("--rehearse", action="store_true", help="run on the processor; measures nothing")
    parser.add_argument("--only", help="sections to run, comma-separated, where the lease is short")
    request = parser.parse_args(arguments)
    chosen = request.only.split(",") if request.only else [section.name for section in sections]
    if unknown := set(chosen) - {section.name for section in sections}:
        parser.error(f"--only: no section {', '.join(sorted(unknown))}")
    sections = [section for section in sections if section.name in chosen]
    gpu = None
    if not request.rehearse:
        try:
            gpu = probe_gpu()
        except EngineError as error:
            sys.stderr.write(f"gpu_check needs a GPU ({error}); --rehearse tries the script without one\n")
            return 1
    began = time.monotonic()
    result, ended = circumstances(gpu, request.commit), list[Ended]()

    def on_end(section: Ended) -> None:
        ended.append(section)
        _print_section(section)
        _write(
            request.out, {**result, "seconds": time.monotonic() - began, "sections": list(map(asdict, ended))}
        )

    with tempfile.TemporaryDirectory(prefix="screener-gpu-") as folder:
        run_sections(sections, Path(folder), on_end, rehearse=request.rehearse)
    sys.stdout.write(short_table(ended))
    return 0 if all(section.is_fine for section in ended) else 1


if __name__ == "__main__":
    raise SystemExit(main())
