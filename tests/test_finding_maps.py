"""Maps of drawn findings: right place, right density, and a loss that learns from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import polars as pl
import pytest
import torch

from screener.canvas import CANVAS_SIDE
from training.classification_task import findings_loss
from training.cohort import _to_canvas, build
from training.cohort_deal import CohortSettings
from training.crops import LUNG_SIDE, MAP_CROP_SIDE, make_crops
from training.finding_maps import FULL_DEPTH_MM, MAP_SIDE, MOST_PROFUSION, finding_maps
from training.findings import FindingPlan, LargePlan, TbPattern
from training.networks import ClassificationConfig, LungClassifier, LungCrop, SegmentationNetwork
from training.nuisances import sample_nuisance
from training.phantom_film import Film, phantom_film


def drawn(plan: FindingPlan, seed: int = 3) -> Film:
    generators = [np.random.default_rng([seed, stream]) for stream in range(3)]
    nuisance = replace(sample_nuisance(np.random.default_rng(seed)), rotation_deg=0.0)
    return phantom_film(plan, nuisance, *generators)


def maps_of(plan: FindingPlan, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Maps (G, G, 3) in [0, 1] and where the lungs are on the same grid."""
    film = drawn(plan, seed)
    _, labels, facts = _to_canvas(film)
    assert labels is not None
    lungs = cv2.resize((labels > 0).astype(np.float32), (MAP_SIDE, MAP_SIDE), interpolation=cv2.INTER_AREA)
    return finding_maps(film, facts) / 255.0, lungs > 0.9


@pytest.mark.parametrize("kind", ["p", "q", "r", "t"])
def test_profusion_of_level_three_is_one(kind: str) -> None:
    maps, lungs = maps_of(FindingPlan(levels=(3,) * 6, primary=kind, secondary=kind))
    assert maps[lungs, 0].mean() * MOST_PROFUSION == pytest.approx(1.0, abs=0.3)
    assert maps[..., 1:].max() == 0


def test_profusion_rises_with_the_level() -> None:
    means = []
    for level in range(4):
        maps, lungs = maps_of(FindingPlan(levels=(level,) * 6, primary="q", secondary="q"))
        means.append(float(maps[lungs, 0].mean()))
    assert means == sorted(means)
    assert means[0] < 0.3 * means[1]


def test_a_large_opacity_and_tuberculosis_lie_where_they_were_drawn() -> None:
    large = FindingPlan(levels=(1,) * 6, primary="q", secondary="q", large=(LargePlan(45, 28, 0),))
    maps, _ = maps_of(large)
    film = drawn(large)
    body = next(body for body in film.drawing.opacities if body.kind == "large")
    row, column = _to_canvas(film)[2].letterbox.to_canvas(body.row, body.column)
    step = CANVAS_SIDE // MAP_SIDE
    assert maps[int(row / step), int(column / step), 1] > 0.8
    assert maps[..., 2].max() == 0
    tb, _ = maps_of(FindingPlan(tb=(TbPattern.INFILTRATE,)))
    assert tb[..., 2].max() > 0.5
    assert tb[..., 1].max() == 0
    assert FULL_DEPTH_MM > 0


def test_a_cohorts_maps_are_cut_like_its_pictures(tmp_path: Path) -> None:
    build(tmp_path, CohortSettings(8, seed=5, other_share=0.0), workers=1)
    films = pl.read_parquet(tmp_path / "cohort.parquet")
    torch.manual_seed(0)

    def draw(start: int, stop: int) -> torch.Tensor:
        return torch.full((stop - start, 1, CANVAS_SIDE, CANVAS_SIDE), 0.5)

    network = SegmentationNetwork.__new__(SegmentationNetwork)
    torch.nn.Module.__init__(network)
    box = torch.tensor([[96.0, 96.0, 672.0, 672.0]])
    network.forward = lambda canvas: (  # type: ignore[method-assign]
        torch.zeros(len(canvas), 2, LUNG_SIDE, LUNG_SIDE),
        box.repeat(len(canvas), 1),
        torch.zeros(len(canvas), 1),
    )
    crop = LungCrop(ClassificationConfig(growth=2, crop_side=64))
    made = make_crops(films, draw, network, crop, tmp_path / "crops", folder=tmp_path)
    assert made.maps is not None
    assert made.maps.shape == (8, 3, MAP_CROP_SIDE, MAP_CROP_SIDE)
    whole = cv2.imread(str(tmp_path / films["findings"][0]), cv2.IMREAD_COLOR)
    assert whole is not None
    part = cv2.resize(whole[12:84, 12:84], (MAP_CROP_SIDE, MAP_CROP_SIDE), interpolation=cv2.INTER_AREA)
    assert np.abs(made.maps[0].transpose(1, 2, 0).astype(int) - part).mean() < 3


def test_the_loss_is_least_at_the_drawn_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand((2, 3, 12, 12), generator=generator)
    lungs = torch.ones((2, 2, 96, 96))
    right = torch.cat((maps[:, :1].sqrt(), maps[:, 1:]), dim=1).logit(eps=1e-4)
    best = findings_loss(right, maps, lungs)
    for shift in (-1.0, 1.0):
        assert findings_loss(right + shift, maps, lungs) > best
    outside = torch.zeros_like(lungs)
    outside[:, :, :48] = 1
    changed = right.clone()
    changed[:, :, 6:] = 9
    assert findings_loss(changed, maps, outside) == pytest.approx(
        float(findings_loss(right, maps, outside)), abs=1e-5
    )


def test_the_stage_is_read_from_the_maps_too() -> None:
    torch.manual_seed(0)
    network = LungClassifier(ClassificationConfig(growth=2, crop_side=64, finding_maps=True)).eval()
    crop, lungs = torch.rand(2, 1, 64, 64), torch.ones(2, 2, 64, 64)
    stage, maps = network(crop, lungs)[1], network(crop, lungs)[4]
    assert maps.shape == (2, 3, 2, 2)
    assert network.findings is not None
    assert network.findings.bias is not None
    with torch.no_grad():
        network.findings.bias[1] += 5
    assert not torch.allclose(network(crop, lungs)[1], stage)
    plain = LungClassifier(ClassificationConfig(growth=2, crop_side=64)).eval()
    assert plain(crop, lungs)[4].shape[1] == 0
