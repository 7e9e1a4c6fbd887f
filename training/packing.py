"""A segmentation run and a classification run to a bundle: export, verify, calibrate, judge, pack.

Every figure of the model card is taken from the exported graphs as a site would run them (canvas in, both
graphs through the embedded engine), not from the training loop. The decision a reader would question:
calibration and thresholds are fitted on the cohort's calibration part, whose mix of classes is the cohort's
and not a campaign's; the card says so, and `screener calibrate` replaces them by a site's own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from calibration.fitting import fit_calibration
from calibration.model_calibration import Calibration, FittedOn
from engines.bundle import Bundle, BundleContents, write_bundle
from engines.bundle import model_sha256 as identity_of
from engines.manifest import Labels
from engines.openvino import OpenVinoEngine
from engines.quantised_graph import num_quantised_convolutions
from screener.canvas import CANVAS_SIDE, CANVAS_VERSION
from screener.errors import ConfigError
from screener.records import ZONES
from training.bundle_start import SHIPPED, start_facts
from training.checkpoints import load_classification, load_segmentation, network_bundle
from training.classification_task import ClassificationRecipe
from training.crops import canvases, read_cohort
from training.efforts import efforts
from training.export import (
    CLASSIFICATION_OUTPUTS,
    SEGMENTATION_OUTPUTS,
    example_feeds,
    export_classification,
    export_segmentation,
    largest_difference,
    round_weights,
)
from training.figures import labels_of
from training.label_checks import LABELS_OF, check_labels
from training.metrics import dice
from training.model_card import CardFacts, model_card
from training.networks import ClassificationConfig
from training.origin import num_simulated
from training.recipe import load_recipe
from training.restore import restore_networks
from training.run_record import FACTS, RECIPE, circumstances
from training.segmentation_data import read_grey

INT8_HEADING = "\n## INT8\n"
PARITY = 1e-4
"""Largest difference between torch and ONNX in float32 that passes, on every output but `box` (pixels)."""
INTENDED_USE = (
    "Research and epidemiological triage; not a medical device; no diagnosis or compensation decision; "
    "qualified reader required."
)

_TAKEN_RANGES = (
    "The ranges of the classification were taken over with it. They are not checked with this segmentation: "
    "run `screener train int8 --own-ranges`."
)

OnFilms = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class PackRecipe:
    """What goes into a bundle."""

    segmentation: str | None = None
    """Run folder or bundle, below the runs folder; left out, what the classification's recipe names, or the
    bundle's own."""
    classification: str = "classification"
    """Run folder of the classification network, below the runs folder. Or a bundle there, or `shipped` for
    the bundle that ships: its graph is taken over byte by byte, with its int8 ranges."""
    cohorts: tuple[str, ...] = ("cohort",)
    """Cohort folders, below the data folder, whose calibration and test parts judge the bundle."""
    name: str = "demo"
    version: str = "1"
    licences: tuple[str, ...] = ()
    """Data sets whose films the weights were trained on, each with its terms; those of bundles that a network
    was taken from or started from are added."""
    not_used: str = ""
    """Data sets that were left out of the weights, as a sentence for the card."""
    failure_modes: tuple[str, ...] = ()
    """What these networks are known to do badly, a line each for the card."""


@dataclass(frozen=True, slots=True)
class Graphs:
    """The exported networks."""

    segmentation: bytes
    classification: bytes

    @property
    def model_sha256(self) -> str:
        """Identity that a calibration is bound to."""
        from hashlib import sha256

        return identity_of(sha256(self.segmentation).hexdigest(), sha256(self.classification).hexdigest())


def export_graphs(segmentation: Bundle | Path, classification: Bundle | Path) -> Graphs:
    """Export both networks and hold them against torch.

    Args:
        segmentation: run folder, or a bundle whose graph is taken over byte by byte.
        classification: likewise.

    Raises:
        ConfigError: a run without checkpoint, or an output that differs by more than `PARITY`.
    """
    return Graphs(
        segmentation.read_graph("segmentation")
        if isinstance(segmentation, Bundle)
        else _exported_segmentation(segmentation),
        classification.read_graph("classification")
        if isinstance(classification, Bundle)
        else _exported_classification(classification),
    )


def _exported_segmentation(run: Path) -> bytes:
    network, feeds = load_segmentation(run), example_feeds(2)
    round_weights(network)
    graph = export_segmentation(network)
    _check_parity(largest_difference(graph, network, {"canvas": feeds["canvas"]}, SEGMENTATION_OUTPUTS))
    return graph


def _exported_classification(run: Path) -> bytes:
    network = load_classification(run)
    round_weights(network)
    graph = export_classification(network)
    _check_parity(largest_difference(graph, network, example_feeds(2), CLASSIFICATION_OUTPUTS))
    return graph


def _check_parity(differences: dict[str, float]) -> None:
    for name, difference in differences.items():
        if name != "box" and difference > PARITY:
            raise ConfigError(
                f"exported graph differs from torch: {name} by {difference:.1e}, allowed {PARITY}"
            )


def judge(
    graphs: Graphs,
    cohort: Path,
    parts: Sequence[str],
    *,
    batch_size: int = 8,
    on_films: OnFilms | None = None,
) -> pl.DataFrame:
    """Run the exported graphs over a cohort's held-out films as a site would.

    Args:
        graphs: exported networks.
        cohort: cohort folder.
        parts: parts of its split to judge.
        batch_size: films at a time.
        on_films: called with the cohort's name, films done and films in all.

    Returns:
        The cohort's rows with `logit_*` columns, `lung_dice` with the cohort's masks (null where it has none)
        and `precision`.
    """
    films = read_cohort(cohort).filter(pl.col("split").is_in(list(parts)))
    segmentation = _opened(graphs.segmentation)
    classification = _opened(graphs.classification)
    found: list[dict[str, npt.NDArray[np.float32]]] = []
    overlaps: list[float | None] = []
    paths = films["canvas"].to_list()
    masks = films["lungs"].to_list() if "lungs" in films.columns else [None] * films.height
    for start in range(0, len(paths), batch_size):
        canvas = canvases(cohort, paths[start : start + batch_size]).numpy()
        lungs = segmentation.run({"canvas": canvas})
        overlaps += [
            dice(mask.max(axis=0) >= 0.5, read_grey(cohort / path, path) > 0) if path else None
            for mask, path in zip(lungs["lungs"], masks[start : start + batch_size], strict=True)
        ]
        found.append(
            classification.run({"canvas": canvas, "lungs": lungs["lungs"], "box": lungs["box"]})
            | {"frontal_logit": lungs["frontal_logit"]}
        )
        if on_films is not None:
            on_films(cohort.name, min(start + batch_size, len(paths)), len(paths))
    segmentation.close()
    classification.close()
    stacked = {name: np.concatenate([batch[name] for batch in found]) for name in found[0]}
    return films.with_columns(
        **logit_columns(stacked),
        lung_dice=pl.Series(overlaps, dtype=pl.Float64),
        precision=pl.lit(classification.precision),
    )


def _opened(graph: bytes) -> OpenVinoEngine:
    """A quantised graph in int8, any other in the fastest arithmetic that this machine has."""
    return OpenVinoEngine(graph, precision="int8" if num_quantised_convolutions(graph)[0] else "auto")


def logit_columns(found: dict[str, npt.NDArray[np.float32]]) -> dict[str, pl.Series]:
    """Outputs of the graphs as one column a logit."""
    diagnosis, stage, zones = found["diagnosis_logits"], found["stage_logits"], found["zone_logits"]
    columns = {"logit_pneumoconiosis": diagnosis[:, 0], "logit_tb": diagnosis[:, 1]}
    columns |= {f"logit_stage{k}": stage[:, k] for k in range(4)}
    columns |= {f"logit_{zone}_{k}": zones[:, z, k] for z, zone in enumerate(ZONES) for k in range(4)}
    columns["logit_frontal"] = found["frontal_logit"][:, 0]
    return {name: pl.Series(name, values) for name, values in columns.items()}


def calibrate(judged: pl.DataFrame, model_sha256: str) -> Calibration:
    """Fit scaling and thresholds on the calibration part of judged films, each head on those read for it.

    Args:
        judged: rows of the calibration part, and others, which are passed over.
        model_sha256: of the graphs that judged them.

    Raises:
        ConfigError: a finding was read, but in one kind only; says how often.
    """
    check_labels(judged, tuple(LABELS_OF), ("calibration",), trained=False)
    films = judged.filter(pl.col("split") == "calibration")
    drawn = num_simulated(films)
    return fit_calibration(
        films.select("logit_pneumoconiosis", "logit_tb").to_numpy(),
        labels_of(films, ("pneumoconiosis", "tb")),
        films.select([f"logit_stage{k}" for k in range(4)]).to_numpy(),
        labels_of(films, ("stage",))[:, 0],
        model_sha256=model_sha256,
        fitted_on=FittedOn(films.height, _described(drawn, films.height), simulated=drawn > 0),
    )


def _described(drawn: int, films: int) -> str:
    if drawn == films:
        return "simulated findings in phantoms and real films, calibration part"
    if drawn:
        return f"readings of films, and simulated findings in {drawn} of {films}, calibration part"
    return "readings of films, calibration part"


def pack(recipe: PackRecipe, data: Path, runs: Path, out: Path, *, on_films: OnFilms | None = None) -> Bundle:
    """Export, verify, calibrate, judge and write a bundle.

    Args:
        recipe: which runs and cohorts.
        data: folder that the cohorts are below.
        runs: folder that the runs are below.
        out: bundle folder to write. `judged.parquet` goes beside the classification checkpoint, or into a
            folder of its own below `runs` where a bundle's classification was taken.
        on_films: see `judge`.

    Raises:
        ConfigError: a run or cohort that cannot be used, a calibration or test part without films or with one
            kind of them, or a failed verification.
    """
    chosen = _classification_of(recipe.classification, runs, out)
    source = recipe.segmentation or chosen.segmentation
    bundle = chosen.taken if recipe.segmentation is None and chosen.taken else network_bundle(source, runs)
    tables = pl.concat([read_cohort(data / name) for name in recipe.cohorts], how="diagonal_relaxed")
    check_labels(tables, tuple(LABELS_OF), ("calibration", "test"), trained=False)
    graphs = export_graphs(bundle or runs / str(source), chosen.origin)
    judged = pl.concat(
        [judge(graphs, data / name, ("calibration", "test"), on_films=on_films) for name in recipe.cohorts],
        how="diagonal_relaxed",
    )
    chosen.beside.mkdir(parents=True, exist_ok=True)
    judged.write_parquet(chosen.beside / "judged.parquet")
    calibration = calibrate(judged, graphs.model_sha256)
    calibration.save(chosen.beside / "calibration.json")
    taken_over = () if bundle is None else bundle.manifest.licences
    started_from = chosen.facts.get("initial_bundle", {}).get("licences", ())
    licences = tuple(dict.fromkeys((*recipe.licences, *taken_over, *started_from)))
    trained_runs = (None if bundle else source, None if chosen.taken else recipe.classification)
    card = model_card(
        judged,
        calibration,
        CardFacts(
            name=recipe.name,
            intended_use=INTENDED_USE,
            licences=licences,
            not_used=recipe.not_used,
            failure_modes=recipe.failure_modes,
            network=chosen.network,
            training="\n".join(efforts(*trained_runs, data, runs)),
            run=chosen.facts,
            segmentation_from=None if bundle is None else bundle.title,
            classification_from=None if chosen.taken is None else chosen.taken.title,
        ),
        segmentation=None if bundle else pl.read_parquet(runs / str(source) / "test.parquet"),
    )
    ranges = chosen.taken.read_ranges("classification") if chosen.taken else None
    if ranges is not None:
        card += f"{INT8_HEADING}\n{_TAKEN_RANGES}\n"
    return write_bundle(
        out,
        BundleContents(
            name=recipe.name,
            version=recipe.version,
            canvas_version=CANVAS_VERSION,
            canvas_side=CANVAS_SIDE,
            segmentation=graphs.segmentation,
            classification=graphs.classification,
            labels=Labels(("pneumoconiosis", "tb"), ("0", "I", "II", "III"), ZONES),
            mask_convention="patient_right_then_left",
            calibration=(chosen.beside / "calibration.json").read_bytes(),
            model_card=card,
            licences=licences,
            intended_use=INTENDED_USE,
            classification_int8=ranges,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Classification:
    """Where the classification comes from, and what is known of it."""

    origin: Bundle | Path
    """Bundle, or run folder."""
    beside: Path
    """Folder for what the packing finds out."""
    network: ClassificationConfig
    facts: Mapping[str, Any]
    """`run.json` of the run; of a bundle, what it says of itself."""
    segmentation: str | None
    """That its crops were made with, as its recipe names it; None is the shipped one, of a bundle its own."""

    @property
    def taken(self) -> Bundle | None:
        """The bundle, if it is one."""
        return self.origin if isinstance(self.origin, Bundle) else None


def _classification_of(name: str, runs: Path, out: Path) -> _Classification:
    bundle = network_bundle(None if name == SHIPPED else name, runs, "classification")
    if bundle is not None:
        config = restore_networks(bundle)[1].config
        facts = circumstances() | start_facts(bundle)
        return _Classification(bundle, runs / f"{out.name}-judged", config, facts, None)
    run = runs / name
    recipe = load_recipe(run / RECIPE, ClassificationRecipe)
    facts = json.loads((run / FACTS).read_text(encoding="utf-8"))
    return _Classification(run, run, recipe.network, facts, recipe.segmentation)
