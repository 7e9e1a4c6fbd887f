"""The sections of `bench.gpu_check` in the order in which they run, and how one runs in a process of its own.

`python -m bench.gpu_sections TARGET FOLDER SECONDS` is that process; `bench.gpu_check` starts it. A section's
rows are written as they are found, so that one that is killed keeps what it had.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from bench.gpu_findings import Bench, encoded
from engines.devices import probe_gpu

STACKS_BEFORE_END_S = 3.0
"""A section that hangs says where before it is killed."""


@dataclass(frozen=True, slots=True)
class Section:
    """One section."""

    name: str
    target: str
    """`module:function`; imported in the section's own process only."""
    allowance_s: float
    """It is killed after this long."""


SECTIONS = (
    Section("prepare", "bench.gpu_films:prepare", 90),
    Section("exact", "bench.gpu_decoding:exact", 45),
    Section("decode", "bench.gpu_decoding:decode_rates", 75),
    Section("canvases", "bench.gpu_decoding:canvases", 60),
    Section("parity", "bench.gpu_parity:parity", 90),
    Section("tensorrt", "bench.gpu_tensorrt:tensorrt", 150),
    Section("stream", "bench.gpu_stream:stream", 110),
    Section("goals", "bench.gpu_networks:goals", 40),
    Section("networks", "bench.gpu_networks:networks", 70),
    Section("compiled", "bench.gpu_networks:compiled", 150),
    Section("training", "bench.gpu_training:training", 60),
    Section("allowance", "bench.gpu_networks:allowance", 30),
)
"""What the issue's goals need comes first; what is left out is what the time is over for. `allowance` is run
in any case: it needs ten seconds, and judges the rates that there are."""


def main(arguments: list[str] | None = None) -> int:
    """Run one section; its rows go to FOLDER/NAME.rows, what it and the libraries say to its stderr."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_sections", description=__doc__.split("\n")[0])
    parser.add_argument("target", help="module:function")
    parser.add_argument("folder", type=Path)
    parser.add_argument("seconds", type=float, help="time it has")
    parser.add_argument("--rows", type=Path, required=True, help="file that the rows go to")
    parser.add_argument("--rehearse", action="store_true")
    request = parser.parse_args(arguments)
    deadline = time.monotonic() + request.seconds - 2 * STACKS_BEFORE_END_S
    faulthandler.dump_traceback_later(max(1.0, request.seconds - STACKS_BEFORE_END_S))
    bench = Bench(None if request.rehearse else probe_gpu(), request.folder, deadline)
    module, _, function = request.target.partition(":")
    with request.rows.open("w", encoding="utf-8") as rows:
        for row in getattr(importlib.import_module(module), function)(bench):
            rows.write(encoded(row))
            rows.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
