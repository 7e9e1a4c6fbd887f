"""Section of `bench.gpu_check`: masks and logits of the device's networks against the CPU's, film by film.

The reference runs on the host's canvases and the candidate on the device's, so that a decision that flips is
counted whichever step moved it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import beta

from bench.gpu_films import judged_canvases
from bench.gpu_findings import Bench, Findings, Row, attempted, demo_bundle
from engines.engine import Engines, Precision, open_engines
from engines.manifest import GRAPHS
from engines.plan_commands import reference_engines

FLIPS_GOAL = 0.005
CONFIDENCE = 0.95
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")
HEADS = ("diagnosis_logits", "stage_logits", "zone_logits")


@dataclass(frozen=True, slots=True)
class Answers:
    """What a pair of engines said of N canvases."""

    masks: npt.NDArray[np.bool_]
    """(N, 2, M, M)"""
    logits: dict[str, npt.NDArray[Any]]
    """(N, classes) by head."""


def parity(bench: Bench) -> Findings:
    """The torch engine on the device against the CPU path, by precision; keeps the reference for TensorRT."""
    host, device, num_originals = judged_canvases(bench)
    with _cpu_engines() as reference:
        yield Row("reference", reference.description)
        wanted = answers(reference, host, bench.batch_size)
    kept: dict[str, Any] = {"masks": wanted.masks, **wanted.logits}
    np.savez(bench.folder / "reference.npz", **kept)
    for precision in PRECISIONS:
        name = f"torch {precision}"
        yield from attempted(name, partial(_torch_parity, bench, precision, device, wanted, num_originals))


def _torch_parity(
    bench: Bench, precision: Precision, canvas: npt.NDArray[np.float32], wanted: Answers, num_originals: int
) -> Findings:
    with torch_engines(bench, precision) as candidate:
        found = answers(candidate, canvas, bench.batch_size)
    yield from differences(bench, f"torch {precision}", found, wanted, num_originals)


def kept_reference(bench: Bench) -> Answers:
    """The reference's answers that `parity` kept.

    Raises:
        OSError: that section did not come so far.
    """
    with np.load(bench.folder / "reference.npz") as kept:
        return Answers(kept["masks"], {name: kept[name] for name in HEADS})


def _cpu_engines() -> Engines:
    """The CPU path in float32; plain torch where OpenVINO is not installed."""
    try:
        return open_engines(demo_bundle(), device="cpu", precision="fp32")
    except ImportError:
        return reference_engines(demo_bundle())


def torch_engines(bench: Bench, precision: Precision) -> Engines:
    """Both of the bundle's networks in the torch engine on the device."""
    from engines.torch_reference import TorchEngine

    bundle = demo_bundle()
    pair = [
        TorchEngine.from_onnx(
            bundle.read_graph(name),
            device=bench.torch_device,
            precision="fp16" if precision == "auto" else precision,
            micro_batch=bench.batch_size,
        )
        for name in GRAPHS
    ]
    return Engines(pair[0], pair[1], pair[0].description, pair[0].precision)


def answers(engines: Engines, canvas: npt.NDArray[np.float32], batch_size: int) -> Answers:
    """Run both networks on (N, 1, S, S) canvases, each pair on its own masks and boxes."""
    masks, logits = [], []
    for first in range(0, len(canvas), batch_size):
        chunk = canvas[first : first + batch_size]
        lungs = engines.segmentation.run({"canvas": chunk})
        masks.append(lungs["lungs"] >= 0.5)
        feeds = {"canvas": chunk, "lungs": lungs["lungs"], "box": lungs["box"]}
        logits.append(engines.classification.run(feeds))
    joined = {name: np.concatenate([part[name] for part in logits]) for name in HEADS}
    return Answers(np.concatenate(masks), joined)


def differences(bench: Bench, name: str, found: Answers, wanted: Answers, num_originals: int) -> Findings:
    """Flips with their upper bound, mask overlap and logit errors of a candidate."""
    for head, flipped in zip(("stage", "diagnosis"), flips(found, wanted), strict=True):
        count, num = int(flipped.sum()), len(flipped)
        label = f"{name} {head} flips"
        goal = f"< {FLIPS_GOAL}" if head == "stage" else ""
        is_met = count / num < FLIPS_GOAL if head == "stage" and bench.gpu else None
        yield Row(label, count / num, f"{count} of {num}", goal, is_met)
        yield Row(f"{label}, upper {CONFIDENCE:.0%} bound", upper_bound(count, num))
        real = int(flipped[:num_originals].sum())
        yield Row(f"{label}, films that are no variants", real, f"of {num_originals}")
    dice = _dice(found.masks, wanted.masks)
    yield Row(f"{name} mask Dice, mean", float(dice.mean()))
    yield Row(f"{name} mask Dice, least", float(dice.min()))
    errors = [np.abs(found.logits[head] - wanted.logits[head]) for head in HEADS]
    yield Row(f"{name} logits", max(float(each.max()) for each in errors), "largest difference")
    yield Row(f"{name} logits", max(float(each.mean()) for each in errors), "mean difference, worst head")


def flips(found: Answers, wanted: Answers) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """(N,) films whose stage, and (N,) whose diagnosis, is another."""
    stage = found.logits["stage_logits"].argmax(1) != wanted.logits["stage_logits"].argmax(1)
    signs = (found.logits["diagnosis_logits"] > 0) != (wanted.logits["diagnosis_logits"] > 0)
    return stage, signs.any(axis=1)


def upper_bound(count: int, num: int) -> float:
    """One-sided Clopper-Pearson bound of a share of which `count` of `num` were seen."""
    return 1.0 if count >= num else float(beta.ppf(CONFIDENCE, count + 1, num - count))


def _dice(found: npt.NDArray[np.bool_], wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Of each film, both lungs together; two empty masks overlap fully."""
    both = np.logical_and(found, wanted).sum((1, 2, 3))
    total = found.sum((1, 2, 3)) + wanted.sum((1, 2, 3))
    overlap: npt.NDArray[np.float64] = np.where(total > 0, 2 * both / np.maximum(total, 1), 1.0)
    return overlap
