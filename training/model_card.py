"""Judged films, a calibration and a run's own record to MODEL_CARD.md.

The decision a reader would question: what the card says of simulation is taken from the films' rows, never
from the bundle's name. Figures on phantoms and on drawn findings stand beside each other but are never pooled
with anything that could be read as clinical performance, and the first sentence says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from calibration.model_calibration import Calibration
from training.figures import (
    Figure,
    exported_dice,
    figures_of,
    frontal_figures,
    segmentation_figures,
    sliced_figures,
)
from training.networks import ClassificationConfig
from training.origin import num_simulated

_HEAD = """# Model card: bundle `{name}`

> **Intended use.** {intended}
>
{origin}
"""

_ALL_DRAWN = """\
> **No real pneumoconiosis film was used, in training or in judging.** Every pneumoconiosis and tuberculosis
> label is simulated: findings drawn into procedural phantoms and into real films. The figures below prove
> that the software works from picture to report. They say nothing about performance on patients.
"""
_SOME_DRAWN = """\
> **Part of the films is simulated:** {train}, {judged}. Labels of the others are the readings
> that this bundle's makers gave. Figures that pool both kinds say nothing about performance on patients.
"""
_NONE_DRAWN = """\
> Labels are the readings that this bundle's makers gave; nothing was drawn into their films. The figures
> below hold for films like theirs and for their readers. {train}.
"""
_CONTINUED = """\
>
> **The classification {verb} bundle {bundle}**{simulated}. Its model card holds
> for these weights, too.
"""

_BODY = """
## What is in it

Two ONNX graphs (16-bit weights, float32 arithmetic):

* `segmentation.onnx`: canvas (768 px) to right and left lung (256 px), crop box, and whether the picture
  is an upright frontal chest film. U-Net at half resolution. Anatomical convention: heart shadow excluded;
  consolidated and opacified lung included.{taken_over}
* `classification.onnx`: lung crop at {crop} px to pneumoconiosis and tuberculosis (independent), stage 0-III,
  six zone levels and activation maps. DenseNet-121 layout, growth rate {growth}.{classified}{untrained}

## Data and licences

{licences}
{not_used}{simulated}
## How long it was trained

{training}

## Held-out figures (subjects not seen in training)

Intervals are 95 %, percentile bootstrap over subjects, 500 draws. Those of calibration errors (ECE) are
moved by the draws' mean excess, because films drawn twice raise them; few films raise the value itself.
"""

_TORCH = """\
Dice by source and view are of the torch network, before its weights were rounded to 16 bits for the graph.
"""

_DRAWN = """
## What is simulated

* Stage is never assigned: opacities are drawn zone by zone and the stage follows from the drawn zone
  levels and large opacities through the GBZ 70 rule (`screener.staging`).
* Zone density follows one published count (about 10 rounded opacities within a 2-cm circle for level 1) and
  engineering choices around it. Readers' agreement on real films is far lower than agreement with a drawing
  rule.
* Tuberculosis: drawn infiltrates, cavities, fibrosis, effusion, calcification, miliary pattern.
* Every class is drawn from every source, so that source does not give the class away.
"""

_TAIL = """
## Known failure modes

* Where the stage figures above are low, they are: stage and zone levels of an undertrained network are not
  to be used for anything but trying out the software. `docs/bundle.md` says how to train longer.
{failure_modes}
* Films turned by 90 degrees, upside down or lateral are meant to be rejected as not frontal; mildly
  rotated films are screened.
* Thresholds were chosen on {num_calibration} films, {diseased} of which show disease. Choose your own with
  `screener calibrate` before any use in a campaign.
* No subgroup by dust type, worksite, or manufacturer could be tested.

Made from commit `{commit}`{dirty} with torch {torch}.
"""
_DRAWN_FAILS = """\
* Real dust opacities differ from drawn ones; expect lower sensitivity and specificity, above all between
  stage I and II."""


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What the card says beside its figures."""

    name: str
    intended_use: str
    licences: Sequence[str]
    """Data sets and their terms."""
    network: ClassificationConfig
    training: str
    """How long both networks were trained, as Markdown."""
    run: Mapping[str, Any]
    """`run.json` of the classification run."""
    not_used: str = ""
    failure_modes: Sequence[str] = ()
    segmentation_from: str | None = None
    """Bundle that the segmentation was taken from unchanged; None where it was trained."""
    classification_from: str | None = None
    """The same of the classification."""


def model_card(
    judged: pl.DataFrame, calibration: Calibration, facts: CardFacts, *, segmentation: pl.DataFrame | None
) -> str:
    """The card as Markdown.

    Args:
        judged: calibration and test films with labels and `logit_*` columns.
        calibration: of the bundle.
        facts: everything that is not measured here.
        segmentation: one row a held-out film, from `held_out_dice`; None for a segmentation taken over.
    """
    films = judged.filter(pl.col("split") == "test")
    lungs = [*exported_dice(films)]
    if segmentation is not None:
        lungs += [*segmentation_figures(segmentation), *frontal_figures(segmentation)]
    parts = [
        _HEAD.format(name=facts.name, intended=facts.intended_use, origin=_origin(judged, facts)),
        _body(judged, facts),
        _table("Lungs and view", lungs) if lungs else "",
        _TORCH if segmentation is not None else "",
        _table(f"Classification, all {films.height} test films", figures_of(films, calibration)),
        *(
            _table(f"Classification, {title}", figures)
            for title, figures in sliced_figures(films, calibration).items()
        ),
        _tail(judged, facts),
    ]
    return "\n".join(part for part in parts if part)


def _origin(judged: pl.DataFrame, facts: CardFacts) -> str:
    start = facts.run.get("initial_bundle")
    if start is None:
        return _labels(judged, facts.run)
    verb = "is that of" if facts.classification_from else "went on from the weights of"
    simulated = ", which were trained on simulated findings" if start["simulated"] else ""
    continued = _CONTINUED.format(verb=verb, bundle=start["bundle"], simulated=simulated)
    return _labels(judged, facts.run) + continued


def _labels(judged: pl.DataFrame, run: Mapping[str, Any]) -> str:
    drawn, trained = num_simulated(judged), run.get("trained_on")
    # Runs from before the record was kept: their judged films are all that is known.
    num_train, drawn_train = (trained["num_train"], trained["num_simulated"]) if trained else (0, 0)
    train = f"{drawn_train} of {num_train} in training" if trained else "training films not recorded"
    if drawn == judged.height and drawn_train == num_train:
        return _ALL_DRAWN
    if drawn or drawn_train:
        return _SOME_DRAWN.format(train=train, judged=f"{drawn} of {judged.height} in calibration and test")
    return _NONE_DRAWN.format(train=f"Trained on {num_train} films" if trained else "Training not recorded")


def _any_drawn(judged: pl.DataFrame, run: Mapping[str, Any]) -> bool:
    started = run.get("initial_bundle", {}).get("simulated", False)
    return bool(started or num_simulated(judged) or run.get("trained_on", {}).get("num_simulated"))


def _body(judged: pl.DataFrame, facts: CardFacts) -> str:
    labels = facts.run.get("trained_on", {}).get("labels", {})
    untrained = [name for name, count in labels.items() if not count]
    source = facts.segmentation_from
    start = facts.run.get("initial_bundle")
    instead = (
        "not read in these films, weights of the bundle started from" if start else "not trained, no labels"
    )
    return _BODY.format(
        crop=facts.network.crop_side,
        growth=facts.network.growth,
        taken_over=f" Taken unchanged from bundle {source}; its card has its figures." if source else "",
        classified=(
            f" Taken unchanged from bundle {facts.classification_from}." if facts.classification_from else ""
        ),
        untrained=f" **{instead.capitalize()}: {', '.join(untrained)}.**" if untrained else "",
        licences="\n".join(f"* {line}" for line in facts.licences) or "No terms were named.",
        not_used=f"\n{facts.not_used}\n" if facts.not_used else "",
        simulated=_DRAWN if _any_drawn(judged, facts.run) else "",
        training=facts.training,
    )


def _tail(judged: pl.DataFrame, facts: CardFacts) -> str:
    held = judged.filter(pl.col("split") == "calibration")
    diseased = held.filter((pl.col("pneumoconiosis") == 1) | (pl.col("tb") == 1)).height
    drawn = [_DRAWN_FAILS] if _any_drawn(judged, facts.run) else []
    return _TAIL.format(
        failure_modes="\n".join([*drawn, *(f"* {line}" for line in facts.failure_modes)]),
        num_calibration=held.height,
        diseased=diseased,
        commit=facts.run.get("git_commit"),
        dirty=" (with uncommitted changes)" if facts.run.get("git_dirty") else "",
        torch=facts.run["versions"]["torch"],
    ).replace("\n\n* Films turned", "\n* Films turned")


def _table(title: str, figures: Sequence[Figure]) -> str:
    rows = "\n".join(f"| {figure.name} | {figure} |" for figure in figures)
    return f"### {title}\n\n| figure | value (95 % interval) |\n| --- | --- |\n{rows}\n"
