"""Measures how many images per request and how many streams keep a CPU busiest.

`python -m bench.engine_streams GRAPH.onnx` prints images/s and core-milliseconds per image for each
micro-batch, streams and precision, interleaved over several rounds. Core time is the figure to compare on a
shared machine: other programs stretch the clock, not the work.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.int8_ranges import parse_ranges
from engines.openvino import OpenVinoEngine, has_bf16
from engines.quantised_graph import quantised_graph

SECONDS = 1.0
"""Of one measurement."""


@dataclass(frozen=True, slots=True)
class StreamTiming:
    """One way to run the network, best of all rounds."""

    graph: str
    precision: str
    micro_batch: int
    streams: int
    images_per_s: float
    core_ms_per_image: float


def measure(
    models: dict[str, bytes], name: str, micro_batches: list[int], streams: list[int], rounds: int
) -> list[StreamTiming]:
    """Time every combination of a graph by precision; rounds go over all of them in turn."""
    settings = [(p, b, s) for p in models for b in micro_batches for s in streams]
    engines = [OpenVinoEngine(models[p], precision=p, micro_batch=b, threads=s) for p, b, s in settings]
    feeds = example_feeds(engines[0], count=16)
    rates: list[list[tuple[float, float]]] = [[] for _ in settings]
    for _ in range(rounds):
        for place, engine in enumerate(engines):
            rates[place].append(_rate(engine, feeds))
    return [
        StreamTiming(
            name, p, b, s, round(max(rate for rate, _ in found), 1), round(min(ms for _, ms in found), 2)
        )
        for (p, b, s), found in zip(settings, rates, strict=True)
    ]


def example_feeds(engine: OpenVinoEngine, count: int) -> dict[str, npt.NDArray[np.float32]]:
    """Seeded noise for every input; a box becomes the middle of the canvas."""
    generator = np.random.default_rng(0)
    feeds = {spec.name: generator.random(spec.of_batch(count), dtype=np.float32) for spec in engine.inputs}
    if "box" in feeds:
        side = feeds["canvas"].shape[-1]
        feeds["box"] = np.tile(np.array([[0.2, 0.15, 0.8, 0.85]], np.float32) * side, (count, 1))
    return feeds


def _rate(engine: OpenVinoEngine, feeds: dict[str, npt.NDArray[np.float32]]) -> tuple[float, float]:
    """Images per second and core-milliseconds per image."""
    engine.run(feeds)
    count, started, used = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - started < SECONDS:
        engine.run(feeds)
        count += len(next(iter(feeds.values())))
    seconds = time.perf_counter() - started
    return count / seconds, (time.process_time() - used) / count * 1000


def main() -> None:
    """Measure one graph and print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graph", type=Path, help="ONNX file")
    parser.add_argument("--ranges", type=Path, help="its int8 ranges, for --precision int8")
    parser.add_argument("--precision", nargs="+", default=["bf16", "fp32"] if has_bf16() else ["fp32"])
    parser.add_argument("--micro-batch", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--streams", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    model = given.graph.read_bytes()
    models = dict.fromkeys(given.precision, model)
    if given.ranges is not None:
        sha256 = hashlib.sha256(model).hexdigest()
        ranges = parse_ranges(given.ranges.read_bytes(), given.ranges.name, sha256)
        models["int8"] = quantised_graph(model, ranges)
    timings = measure(models, given.graph.name, given.micro_batch, given.streams, given.rounds)
    if given.json:
        sys.stdout.write(json.dumps([asdict(timing) for timing in timings], indent=1) + "\n")
        return
    for timing in timings:
        sys.stdout.write(
            f"{timing.graph:24} {timing.precision:5} {timing.micro_batch:2} x {timing.streams} streams "
            f"{timing.images_per_s:7.1f} images/s {timing.core_ms_per_image:7.2f} core-ms/image\n"
        )


if __name__ == "__main__":
    main()
