"""A bundle to the same bundle with int8 ranges, if int8 is as good: ranges, check on unseen films, fallback.

Activation ranges come from films of the training part, the check from films of the test part, end to end on
each precision's own masks and crops. The decision a reader would question: layers are given back to floating
point a few at a time, worst first, until the check passes; the search stops after two rounds with both
graphs. Then the classification is tried alone, and then the segmentation, four rounds each: what the
segmentation does to crops flips decisions too, and no layer of the classification can help that. Else the
bundle gets no ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from calibration.model_calibration import Calibration
from engines.bundle import Bundle, BundleContents, write_bundle
from engines.int8_ranges import Int8Ranges
from engines.manifest import GRAPHS
from engines.openvino import OpenVinoEngine
from engines.quantised_graph import num_quantised_convolutions, quantised_graph
from engines.quantize import Arrays, measure_ranges, sensitivities
from screener.errors import ConfigError
from training.crops import canvases, read_cohort
from training.figures import probabilities_of
from training.packing import INT8_HEADING, Graphs, judge

_ROUNDS = {1: 4, 2: 2}
"""By the number of graphs that are quantised together: while it is open whose fault a flip is, few."""
_LAYERS_A_ROUND = {"segmentation": 4, "classification": 8}
_SENSITIVITY_FILMS = 4
_LEFT_OUT = "The check alone was asked for (`--check-only`): this bundle holds no int8 ranges."

OnStep = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True, slots=True)
class Int8Limits:
    """What quantised graphs may cost on unseen films."""

    dice_drop: float = 0.003
    accuracy_drop: float = 0.005
    """Of stage and of diagnosis."""
    flips: float = 0.01
    """Share of films whose stage or referral changes."""


@dataclass(frozen=True, slots=True)
class Int8Check:
    """Quantised graphs beside the bundle's own on the same unseen films."""

    num_films: int
    reference: str
    """Precision of the bundle's own graphs in this comparison."""
    dice: tuple[float, float]
    """Mean lung Dice with the cohort's masks, reference then int8."""
    stage_accuracy: tuple[float, float]
    diagnosis_accuracy: tuple[float, float]
    stage_flips: float
    referral_flips: float
    """Share of films of which a finding crosses its threshold."""
    quantised: dict[str, tuple[int, int]]
    """Convolutions in int8 and in all, by graph."""

    def failures(self, limits: Int8Limits) -> dict[str, list[str]]:
        """What exceeds the limits, by the graph that is to blame; empty when nothing does."""
        segmentation, classification = [], []
        if self.dice[0] - self.dice[1] > limits.dice_drop:
            segmentation.append(f"lung Dice falls by {self.dice[0] - self.dice[1]:.4f}")
        for name, (before, after) in (
            ("stage", self.stage_accuracy),
            ("diagnosis", self.diagnosis_accuracy),
        ):
            if before - after > limits.accuracy_drop:
                classification.append(f"{name} accuracy falls by {before - after:.4f}")
        for name, share in (("stages", self.stage_flips), ("referrals", self.referral_flips)):
            if share >= limits.flips:
                classification.append(f"{share:.2%} of {name} flip")
        named = {"segmentation": segmentation, "classification": classification}
        return {name: failed for name, failed in named.items() if failed}

    def markdown(self, limits: Int8Limits) -> str:
        """The check as a section of a model card."""
        rows = [
            ("lung Dice, cohort masks", *self.dice, f"drop at most {limits.dice_drop}"),
            ("stage accuracy", *self.stage_accuracy, f"drop at most {limits.accuracy_drop}"),
            ("diagnosis accuracy", *self.diagnosis_accuracy, f"drop at most {limits.accuracy_drop}"),
        ]
        table = "\n".join(f"| {name} | {a:.4f} | {b:.4f} | {limit} |" for name, a, b, limit in rows)
        failed = [text for texts in self.failures(limits).values() for text in texts]
        verdict = "not shipped: " + "; ".join(failed) if failed else "within the limits"
        layers = ", ".join(f"{name} {done} of {of}" for name, (done, of) in self.quantised.items())
        return (
            f"{INT8_HEADING}\n`screener train int8` on {self.num_films} test films, against {self.reference}:"
            f" {verdict}.\nConvolutions in int8: {layers}.\n\n"
            f"| figure | {self.reference} | int8 | limit |\n| --- | --- | --- | --- |\n{table}\n"
            f"| stages that flip | - | {self.stage_flips:.2%} | below {limits.flips:.0%} |\n"
            f"| referrals that flip | - | {self.referral_flips:.2%} | below {limits.flips:.0%} |\n"
        )


def add_int8(
    bundle: Bundle,
    cohorts: Sequence[Path],
    out: Path,
    *,
    num_films: int = 48,
    limits: Int8Limits | None = None,
    check_only: bool = False,
    own_ranges: bool = False,
    on_step: OnStep | None = None,
) -> Int8Check:
    """Quantise a bundle's graphs, check them, and write the bundle with their ranges if they pass.

    Args:
        bundle: opened bundle.
        cohorts: cohort folders; ranges from their training part, the check on their test part.
        out: bundle folder to write; the model card gets the result either way.
        num_films: training films that give the activation ranges.
        limits: what may be lost.
        check_only: only the model card is rewritten; ranges that pass are left out too.
        own_ranges: check the ranges that the bundle holds, on this machine, and keep them if they pass; no
            training film is needed.
        on_step: told what is being done.

    Returns:
        The last check.

    Raises:
        ConfigError: a cohort that cannot be used, or no ranges to check.
        EngineError: a graph that cannot be quantised.
    """
    say = on_step or (lambda _: None)
    held = {name: own for name in GRAPHS if own_ranges and (own := bundle.read_ranges(name))}
    if own_ranges and check_only:
        raise ConfigError("own ranges are kept or dropped by their check: leave --check-only out")
    if own_ranges and not held:
        raise ConfigError("the bundle holds no int8 ranges that could be checked")
    plain = {name: bundle.read_graph(name) for name in GRAPHS}
    say("ranges of the bundle" if held else "activation ranges")
    feeds = {} if held else _feeds(plain, cohorts, num_films)
    calibration = Calibration.parse(bundle.calibration, "calibration.json", bundle.model_sha256)
    say("reference")
    search = _Search(plain, feeds, cohorts, calibration, _judged(plain, cohorts), limits or Int8Limits(), say)
    found, ranges = (search.check(held), held) if held else search.best()
    section, kept = found.markdown(search.limits), ranges
    if found.failures(search.limits) or check_only:
        kept = {}
    if check_only:
        section += f"\n{_LEFT_OUT}\n"
    _rewrite(bundle, out, kept, section)
    return found


@dataclass(frozen=True, slots=True)
class _Search:
    """What is quantised and held against the bundle's own graphs, and what may be lost."""

    plain: dict[str, bytes]
    feeds: dict[str, Arrays]
    cohorts: Sequence[Path]
    calibration: Calibration
    reference: pl.DataFrame
    limits: Int8Limits
    say: OnStep

    def best(self) -> tuple[Int8Check, dict[str, Int8Ranges]]:
        """Both graphs, else the one, else the other: the first that passes, or the last try."""
        found, ranges = self.run(GRAPHS)
        for alone in ("classification", "segmentation"):
            if not found.failures(self.limits):
                break
            self.say(f"{alone} alone")
            found, ranges = self.run((alone,))
        return found, ranges

    def check(self, ranges: dict[str, Int8Ranges]) -> Int8Check:
        """Hold the graphs with these ranges against the bundle's own."""
        quantised = {name: quantised_graph(self.plain[name], ranges[name]) for name in ranges}
        graphs = self.plain | quantised
        return check(self.reference, _judged(graphs, self.cohorts), self.calibration, graphs)

    def run(self, names: Sequence[str]) -> tuple[Int8Check, dict[str, Int8Ranges]]:
        """Quantise the named graphs and give layers back until the check passes or the rounds are over.

        Flips count as the classification's; where it is not quantised, the segmentation gives way.
        """
        ranges = {name: measure_ranges(self.plain[name], self.feeds[name]) for name in names}
        for turn in range(_ROUNDS[len(names)]):
            self.say(f"check {turn + 1}")
            found = self.check(ranges)
            failed = found.failures(self.limits)
            if not failed or turn == _ROUNDS[len(names)] - 1:
                break
            for name in [name for name in names if name in failed] or names:
                self.say(f"layers of {name} that suffer most")
                worst = _worst(name, self.plain[name], ranges[name], self.feeds[name])
                ranges[name] = ranges[name].without(worst)
        return found, ranges


def check(
    reference: pl.DataFrame,
    candidate: pl.DataFrame,
    calibration: Calibration,
    graphs: dict[str, bytes],
) -> Int8Check:
    """Compare two judgements of the same films, row by row.

    Args:
        reference: `judge` of the bundle's own graphs, with `lung_dice`.
        candidate: `judge` of the quantised ones.
        calibration: the bundle's; the same for both, as in a campaign.
        graphs: the quantised graphs.
    """
    before, after = _decided(reference, calibration), _decided(candidate, calibration)
    stages = reference["stage"].to_numpy()
    findings = reference.select("pneumoconiosis", "tb").to_numpy() == 1
    return Int8Check(
        num_films=reference.height,
        reference=reference["precision"][0],
        dice=(_mean(reference["lung_dice"]), _mean(candidate["lung_dice"])),
        stage_accuracy=(float((before[0] == stages).mean()), float((after[0] == stages).mean())),
        diagnosis_accuracy=(
            float((before[1] == findings).all(axis=1).mean()),
            float((after[1] == findings).all(axis=1).mean()),
        ),
        stage_flips=float((before[0] != after[0]).mean()),
        referral_flips=float((before[2] != after[2]).any(axis=1).mean()),
        quantised={name: num_quantised_convolutions(graph) for name, graph in graphs.items()},
    )


def _decided(films: pl.DataFrame, calibration: Calibration) -> tuple[npt.NDArray[Any], ...]:
    """Stage (N,), findings at one half (N, 2) and findings at their thresholds (N, 2)."""
    found = probabilities_of(films, calibration)
    both = np.stack([found.pneumoconiosis, found.tb], axis=1)
    cuts = np.array([calibration.thresholds.pneumoconiosis, calibration.thresholds.tb])
    return found.stage.argmax(axis=1), both >= 0.5, both >= cuts


def _mean(values: pl.Series) -> float:
    return float(values.drop_nulls().to_numpy().mean())


def _judged(graphs: dict[str, bytes], cohorts: Sequence[Path]) -> pl.DataFrame:
    pair = Graphs(graphs["segmentation"], graphs["classification"])
    tables = [judge(pair, cohort, ("test",)) for cohort in cohorts]
    films = pl.concat(tables, how="diagonal_relaxed").filter(pl.col("stage").is_not_null())
    if films["lung_dice"].null_count() == films.height:
        raise ConfigError("these cohorts have no lung masks: what int8 costs the segmentation cannot be told")
    return films


def _feeds(graphs: dict[str, bytes], cohorts: Sequence[Path], num_films: int) -> dict[str, Arrays]:
    """Inputs of both graphs for films spread over the cohorts' training parts."""
    found = []
    for cohort in cohorts:
        films = read_cohort(cohort).filter(pl.col("split") == "train")
        step = max(1, films.height * len(cohorts) // num_films)
        found.append(canvases(cohort, films["canvas"].to_list()[::step]).numpy())
    canvas = np.concatenate(found)
    engine = OpenVinoEngine(graphs["segmentation"], precision="fp32")
    lungs = engine.run({"canvas": canvas})
    engine.close()
    rest = {"lungs": lungs["lungs"], "box": lungs["box"]}
    return {"segmentation": {"canvas": canvas}, "classification": {"canvas": canvas, **rest}}


def _worst(name: str, model: bytes, ranges: Int8Ranges, feeds: Arrays) -> list[str]:
    few = {tensor: array[:_SENSITIVITY_FILMS] for tensor, array in feeds.items()}
    return [layer.layer for layer in sensitivities(model, ranges, few)[: _LAYERS_A_ROUND[name]]]


def _rewrite(bundle: Bundle, out: Path, int8: dict[str, Int8Ranges], section: str) -> None:
    manifest = bundle.manifest
    card = bundle.model_card.partition(INT8_HEADING)[0]
    kept = {name: ranges for name, ranges in int8.items() if ranges.largest}
    contents = BundleContents(
        name=manifest.name,
        version=manifest.version,
        canvas_version=manifest.canvas_version,
        canvas_side=manifest.canvas_side,
        segmentation=bundle.read_graph("segmentation"),
        classification=bundle.read_graph("classification"),
        labels=manifest.labels,
        mask_convention=manifest.mask_convention,
        calibration=bundle.calibration,
        model_card=card + section,
        licences=manifest.licences,
        intended_use=manifest.intended_use,
        segmentation_int8=kept.get("segmentation"),
        classification_int8=kept.get("classification"),
    )
    write_bundle(out, contents)
