"""Every proof that needs a GPU, in one go of at most ten minutes: a short table and a JSON file.

    python -m bench.gpu_check OUT.json [--pictures FOLDER] [--minutes 9]
    python -m bench.gpu_check OUT.json --rehearse

Each section ends as rows, or as one row that says why it did not: a GPU is lent for minutes, and one failure
must not cost the rest. `--rehearse` runs the same sections on the processor with small films, so that the
script itself is tested where there is no GPU; its figures measure nothing and the file says so.

Rates of networks include the copies between host and device, as `screener run` has them. Masks and logits
are compared on the same canvases, CPU engine against GPU engine; canvases device against host from the same
full-size pixels.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from bench.archive_factory import read_pictures
from bench.gpu_sections import SECTIONS, Bench, Row
from engines.devices import probe_gpu
from engines.errors import EngineError
from screener.run_manifest import git_commit, machine

DISTRIBUTIONS = (
    "nvidia-dali-cuda130",
    "nvidia-nvimgcodec-cu13",
    "nvidia-nvjpeg",
    "nvidia-nvjpeg2k-cu13",
    "cuda-bindings",
    "tensorrt-cu13",
    "torch",
    "numpy",
    "imagecodecs",
)


def run_sections(bench: Bench, on_row: Callable[[Row], None]) -> None:
    """Every section in turn; what fails, and what there is no time left for, ends as a row that says so."""
    for section in SECTIONS:
        if time.monotonic() > bench.deadline:
            rows: Iterator[Row] = iter((Row(section.__name__, "skipped", "no time left", met=False),))
        else:
            rows = section(bench)
        try:
            for row in rows:
                bench.rows.append(row)
                on_row(row)
        except Exception as error:  # the finding itself; the other sections go on
            failed = Row(section.__name__, "failed", f"{type(error).__name__}: {error}"[:300], met=False)
            bench.rows.append(failed)
            on_row(failed)


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def _print(row: Row) -> None:
    value = f"{row.value:.4g}" if isinstance(row.value, float) else str(row.value)
    verdict = "" if row.met is None else "  ok" if row.met else "  MISSED"
    sys.stdout.write(f"{row.section:10} {row.name:44} {value:>12} {row.unit:18} {row.goal}{verdict}\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run all sections; exit code 0 if every goal was met, 1 if not or without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_check", description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="JSON file to write")
    parser.add_argument("--pictures", type=Path, help="folder of real films to draw the archive from")
    parser.add_argument("--minutes", type=float, default=9.0, help="no section starts after this many")
    parser.add_argument("--rehearse", action="store_true", help="run on the processor; measures nothing")
    request = parser.parse_args(arguments)
    gpu = None
    if not request.rehearse:
        try:
            gpu = probe_gpu()
        except EngineError as error:
            sys.stderr.write(f"gpu_check needs a GPU ({error}); --rehearse tries the script without one\n")
            return 1
    with tempfile.TemporaryDirectory(prefix="screener-gpu-") as folder:
        pictures = read_pictures(request.pictures) if request.pictures else []
        bench = Bench(gpu, Path(folder), pictures, time.monotonic() + 60 * request.minutes)
        run_sections(bench, _print)
    result = {
        "rehearsal": gpu is None,
        "gpu": None if gpu is None else asdict(gpu),
        "machine": dict(machine()),
        "versions": _versions(),
        "commit": git_commit(),
        "pictures": "real films" if pictures else "drawn lung shadows",
        "rows": [asdict(row) for row in bench.rows],
    }
    request.out.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return 1 if any(row.met is False for row in bench.rows) else 0


if __name__ == "__main__":
    raise SystemExit(main())
