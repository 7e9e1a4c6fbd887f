"""Judged films and a calibration to MODEL_CARD.md.

The decision a reader would question: figures on phantoms and on drawn findings stand beside each other but
are never pooled with anything that could be read as clinical performance, and the first sentence says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from calibration.model_calibration import Calibration
from training.figures import Figure, figures_of, frontal_figures, segmentation_figures, sliced_figures
from training.networks import ClassificationConfig

_HEAD = """# Model card: bundle `demo`

> **Intended use.** {intended}
>
> **No real pneumoconiosis film was used, in training or in judging.** Every pneumoconiosis and tuberculosis
> label is simulated: findings drawn into procedural phantoms and into real films. The figures below prove
> that the software works from picture to report. They say nothing about performance on patients.
"""

_BODY = """
## What is in it

Two ONNX graphs (16-bit weights, float32 arithmetic):

* `segmentation.onnx`: canvas (768 px) to right and left lung (256 px), crop box, and whether the picture
  is an upright frontal chest film. U-Net at half resolution. Anatomical convention: heart shadow excluded;
  consolidated and opacified lung included.
* `classification.onnx`: lung crop at {crop} px to pneumoconiosis and tuberculosis (independent), stage 0-III,
  six zone levels and activation maps. DenseNet-121 layout, growth rate {growth}.

## Data and licences

{licences}

Not used in the weights: films under non-commercial licences, the TB Chest Radiography Database, TBX11K,
masks that include the heart shadow.

## What is simulated

* Stage is never assigned: opacities are drawn zone by zone and the stage follows from the drawn zone
  levels and large opacities through the GBZ 70 rule (`screener.staging`).
* Zone density follows one published count (about 10 rounded opacities within a 2-cm circle for level 1) and
  engineering choices around it. Readers' agreement on real films is far lower than agreement with a drawing
  rule.
* Tuberculosis: drawn infiltrates, cavities, fibrosis, effusion, calcification, miliary pattern.
* Every class is drawn from every source, so that source does not give the class away.

## How long it was trained

{training}

## Held-out figures (subjects not seen in training)

Intervals are 95 %, {intervals}.
"""

_TAIL = """
## Known failure modes

* Where the stage figures above are low, they are: stage and zone levels of an undertrained network are not
  to be used for anything but trying out the software. `docs/bundle.md` says how to train longer.
* Real dust opacities differ from drawn ones; expect lower sensitivity and specificity, above all between
  stage I and II.
* The segmentation was trained on 128-pixel masks of two hospitals and on phantoms; large effusions,
  collapsed or missing lungs and children's chests are not covered well.
* Films turned by 90 degrees, upside down or lateral are meant to be rejected as not frontal; mildly
  rotated films are screened.
* Thresholds were chosen on a cohort in which most films show disease. Choose your own with `screener
  calibrate` before any use in a campaign.
* No subgroup by dust type, worksite, or manufacturer could be tested.

Made from commit `{commit}` with torch {torch}.
"""


def model_card(
    judged: pl.DataFrame,
    calibration: Calibration,
    *,
    segmentation: pl.DataFrame,
    licences: Sequence[str],
    facts: Mapping[str, Any],
    network: ClassificationConfig,
    training: str,
    intended_use: str,
) -> str:
    """The card as Markdown.

    Args:
        judged: test films with labels and `logit_*` columns.
        calibration: of the bundle.
        segmentation: one row a held-out film, from `held_out_dice`.
        licences: data sets and their terms.
        facts: `run.json` of the classification run.
        network: shape of the classification network.
        training: how long both networks were trained, as Markdown.
        intended_use: the bundle's intended use.
    """
    films = judged.filter(pl.col("stage").is_not_null())
    listed = "\n".join(f"* {line}" for line in licences)
    parts = [
        _HEAD.format(intended=intended_use),
        _BODY.format(
            crop=network.crop_side,
            growth=network.growth,
            training=training,
            licences=listed,
            intervals="percentile bootstrap over subjects, 500 draws",
        ),
        _table("Lungs and view", [*segmentation_figures(segmentation), *frontal_figures(segmentation)]),
        _table(f"Classification, all {films.height} test films", figures_of(films, calibration)),
        *(
            _table(f"Classification, {title}", figures)
            for title, figures in sliced_figures(films, calibration).items()
        ),
        _TAIL.format(commit=facts.get("git_commit"), torch=facts["versions"]["torch"]),
    ]
    return "\n".join(parts)


def _table(title: str, figures: Sequence[Figure]) -> str:
    rows = "\n".join(f"| {figure.name} | {figure} |" for figure in figures)
    return f"### {title}\n\n| figure | value (95 % interval) |\n| --- | --- |\n{rows}\n"
