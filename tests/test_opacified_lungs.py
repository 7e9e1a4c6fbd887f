"""What `opacify` draws: shadows that fill lungs and blend with what lies beside them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from training.augmentation import _effusion, _patchy, opacify

COUNT = 24
BRIGHT, DARK = 0.8, 0.2


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def lungs() -> Tensor:
    drawn = torch.zeros(COUNT, 2, 128, 128)
    drawn[:, 0, 20:100, 20:55] = 1
    drawn[:, 1, 20:90, 70:105] = 1
    return drawn


@pytest.fixture(scope="module")
def picture(lungs: Tensor) -> Tensor:
    """Lungs that are two pixels wider than their masks, as drawn masks are."""
    shown = functional.max_pool2d(lungs.amax(dim=1, keepdim=True), 5, stride=1, padding=2)
    return torch.where(shown > 0, DARK, BRIGHT)


def test_lungs_get_brighter_and_nothing_further_away_than_four_pixels(picture: Tensor, lungs: Tensor) -> None:
    changed = opacify(picture, lungs, 1.0, seeded(3)) - picture
    near = functional.max_pool2d(lungs.amax(dim=1, keepdim=True), 9, stride=1, padding=4)
    assert not changed[near == 0].any()
    assert float(changed.min()) >= -1e-6
    assert (changed.amax(dim=(1, 2, 3)) > 0.1).float().mean() > 0.7


def test_no_rim_is_left_at_the_edge_of_the_mask(picture: Tensor, lungs: Tensor) -> None:
    changed = opacify(picture, lungs, 1.0, seeded(3)) - picture
    inside = lungs.amax(dim=1, keepdim=True)
    rim = (picture == DARK) & (inside == 0)
    assert changed[rim].mean() > 0.4 * changed[inside > 0].mean()


def test_a_lung_that_the_picture_cuts_off_is_filled_to_its_border() -> None:
    lungs = torch.zeros(COUNT, 2, 64, 64)
    lungs[:, 0, 20:, 10:30] = 1
    picture = torch.where(lungs.amax(dim=1, keepdim=True) > 0, DARK, BRIGHT)
    changed = opacify(picture, lungs, 1.0, seeded(5)) - picture
    last, above = changed[:, 0, -1, 14:26].mean(), changed[:, 0, -4, 14:26].mean()
    assert last > 0.95 * above


def test_an_effusion_fills_lungs_from_below(lungs: Tensor) -> None:
    filled = _effusion(lungs, seeded(1))[:, 0]
    upper, lower = (
        filled[:, rows][lungs.amax(dim=1)[:, rows] > 0] for rows in (slice(20, 45), slice(75, 100))
    )
    assert lower.mean() > 2 * upper.mean()
    assert float(filled.max()) == 1


def test_a_white_lung_is_mostly_white_and_patches_are_not(picture: Tensor) -> None:
    kinds = [torch.full((COUNT, 1, 1, 1), kind) for kind in (0, 2, 3)]
    patches, nodules, white = (float((_patchy(picture, k, seeded(2)) > 0.5).float().mean()) for k in kinds)
    assert white > 0.7 > 0.5 > patches
    assert nodules < 0.5


def test_an_effusion_of_no_lung_is_empty() -> None:
    assert not _effusion(torch.zeros(2, 2, 32, 32), seeded(1)).any()


def test_pictures_stay_in_range_and_unchosen_ones_as_they_were(lungs: Tensor) -> None:
    white = torch.ones(COUNT, 1, 128, 128)
    assert float(opacify(white, lungs, 1.0, seeded(1)).max()) <= 1
    assert torch.equal(opacify(white, lungs, 0.0, seeded(1)), white)
