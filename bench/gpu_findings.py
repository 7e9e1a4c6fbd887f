"""What the sections of `bench.gpu_check` share: the bench that they run on, and the rows that they find.

A section is a generator of rows in a process of its own. A reader may question that: a CUDA error poisons
every later call of its process, and some faults of the vendor's libraries end it; neither may cost the other
sections.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from engines.bundle import Bundle, default_bundle, open_bundle
from engines.devices import Gpu

TIMED_S = 2.0
"""How long a rate is measured on a GPU; a rehearsal makes one call."""
RATE = "images/s"


@dataclass(frozen=True, slots=True)
class Row:
    """One finding."""

    name: str
    value: float | str
    unit: str = ""
    goal: str = ""
    met: bool | None = None
    """None where there is no goal, and in a rehearsal."""


Findings = Iterator[Row]


@dataclass(frozen=True, slots=True)
class Bench:
    """What a section runs on."""

    gpu: Gpu | None
    """None rehearses on the processor."""
    folder: Path
    """Archives, arrays and rows of the sections before it."""
    deadline: float
    """On the monotonic clock, which all processes share; the section is killed soon after."""

    @property
    def index(self) -> int | None:
        """CUDA device index, or None."""
        return None if self.gpu is None else self.gpu.index

    @property
    def torch_device(self) -> str:
        """Where torch computes."""
        return "cpu" if self.gpu is None else f"cuda:{self.gpu.index}"

    @property
    def batch_size(self) -> int:
        """Films of an engine call."""
        return 2 if self.gpu is None else 32

    @property
    def seconds_left(self) -> float:
        """Until the section should end."""
        return self.deadline - time.monotonic()

    def judged(self, name: str, value: float, unit: str, goal: str, *, met: bool) -> Row:
        """A row with a goal; a rehearsal's rate proves nothing and is not judged."""
        return Row(name, value, unit, goal, met if self.gpu else None)

    def earlier_rows(self) -> list[Row]:
        """What the sections before this one found."""
        files = sorted(self.folder.glob("*.rows"))
        return [Row(**json.loads(line)) for file in files for line in file.read_text("utf-8").splitlines()]


def rate_per_s(bench: Bench, once: Callable[[], object]) -> float:
    """Calls a second, after two to warm up."""
    once()
    if bench.gpu:
        once()
    began, calls = time.perf_counter(), 0
    while True:
        once()
        calls += 1
        seconds = time.perf_counter() - began
        if seconds >= (TIMED_S if bench.gpu else 0):
            return calls / seconds


def attempted(name: str, measure: Callable[[], Findings]) -> Findings:
    """The rows of one measurement; a failure is a row too, and the section goes on."""
    try:
        yield from measure()
    except Exception as error:  # whatever a vendor's library raises
        yield Row(name, f"failed: {error_line(error)}", met=False)


def error_line(error: BaseException) -> str:
    """Type and first line of an error."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]


def encoded(row: Row) -> str:
    """One line of a section's file."""
    return json.dumps(asdict(row)) + "\n"


def demo_bundle() -> Bundle:
    """The bundle that ships, verified."""
    from screener.canvas import CANVAS_SIDE, CANVAS_VERSION

    return open_bundle(default_bundle(), canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)


def device_memory(bench: Bench) -> tuple[int, int] | None:
    """Bytes in use and in all on the device, every process counted; None where CUDA does not answer."""
    from cuda.bindings import runtime

    if bench.gpu is not None:
        runtime.cudaSetDevice(bench.gpu.index)
    status, free, total = runtime.cudaMemGetInfo()
    return None if status != runtime.cudaError_t.cudaSuccess else (int(total - free), int(total))
