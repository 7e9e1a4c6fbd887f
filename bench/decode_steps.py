"""DICOM files → processor milliseconds of each decoding step, by decode route, and of pydicom's header.

    python -m bench.decode_steps FOLDER [REPEATS]

The median over a route's files of each file's best time. Processor time and not the clock's: every step
runs on one core, the files are in the page cache after the first round, and other programs do not count.
`bench.archive_factory` writes a folder to use.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import process_time
from typing import TypeVar

import cv2
import numpy as np
import pydicom

from screener.canvas import CANVAS_SIDE, decode_for_canvas, draw_canvas
from screener.display import coarsest_step, display_transform
from screener.eligibility import check_eligible
from screener.errors import DecodeError
from screener.frame import read_frame
from screener.header import read_header
from screener.quiet import quiet_pydicom
from screener.records import Float32
from screener.settings import RunSettings

STEPS = ("header", "read_hash", "decode", "canvas")
PYDICOM = "pydicom"
"""pydicom's own reading of the same header, to compare ours with; no step of ours."""
Result = TypeVar("Result")


class Stopwatch:
    """Milliseconds of named steps, in the order they ran."""

    def __init__(self) -> None:
        self.times_ms: dict[str, float] = {}

    def time(self, step: str, run: Callable[[], Result]) -> Result:
        """Run and time one step."""
        start = process_time()
        result = run()
        self.times_ms[step] = 1e3 * (process_time() - start)
        return result


def time_file(path: Path, out: Float32) -> tuple[str, dict[str, float]]:
    """One file's route and milliseconds by step.

    Raises:
        DecodeError: the file is not a frontal chest radiograph that can be decoded.
    """
    settings, watch = RunSettings(), Stopwatch()
    with path.open("rb") as file:
        parsed = watch.time("header", lambda: read_header(file, settings))
        instance = check_eligible(parsed, settings)
        frame = watch.time("read_hash", lambda: read_frame(file, parsed, settings))
    transform = display_transform(parsed.dataset, instance)
    step = coarsest_step(transform)
    picture = watch.time("decode", lambda: decode_for_canvas(frame, step))
    facts = watch.time("canvas", lambda: draw_canvas(picture, transform, frame.rows, frame.columns, out))
    with quiet_pydicom():
        watch.time(PYDICOM, lambda: pydicom.dcmread(path, force=True, stop_before_pixels=True))
    return facts.route, watch.times_ms


def time_folder(folder: Path, repeats: int) -> dict[str, dict[str, float]]:
    """Median over a route's files of each step's best milliseconds; files that are refused are left out."""
    out = np.zeros((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    by_route: dict[str, list[dict[str, float]]] = defaultdict(list)
    for path in sorted(entry for entry in folder.rglob("*") if entry.is_file()):
        try:
            rounds = [time_file(path, out) for _ in range(repeats)]
        except DecodeError:
            continue
        by_route[rounds[0][0]].append(
            {step: min(times[step] for _, times in rounds) for step in (*STEPS, PYDICOM)}
        )
    return {
        route: {step: median(film[step] for film in films) for step in (*STEPS, PYDICOM)}
        for route, films in by_route.items()
    }


def main() -> None:
    """Print the table."""
    cv2.setNumThreads(1)
    repeats = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    sys.stdout.write(
        f"{'route':20}" + "".join(f"{step:>12}" for step in (*STEPS, "total", PYDICOM)) + "  ms\n"
    )
    for route, times in time_folder(Path(sys.argv[1]), repeats).items():
        columns = [times[step] for step in STEPS]
        columns += [sum(columns), times[PYDICOM]]
        sys.stdout.write(f"{route:20}" + "".join(f"{value:12.1f}" for value in columns) + "\n")


if __name__ == "__main__":
    main()
