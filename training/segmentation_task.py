"""Segmentation films to a loss: lung masks, and whether the picture is an upright frontal chest film.

The decision a reader would question: the frontal head's negatives are mostly made from the positives (quarter
turns, upside-down films, close-ups, synthetic pictures). Real non-chest films in the training part join them,
but alone they are too few to learn from.

Shape letters: N films, M side of the masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from screener.errors import ConfigError
from training.augmentation import (
    AffineRange,
    ToneRange,
    opacify,
    random_affine,
    random_tone,
    scaled,
    smooth_field,
    uniform,
    warp,
    whole_number,
)
from training.fit import LossTerms
from training.networks import SegmentationConfig, SegmentationNetwork
from training.recipe import FitRecipe
from training.segmentation_data import SegmentationFilms

_MOVES = AffineRange(rotation_deg=9, log_scale=0.22, log_aspect=0.2)


@dataclass(frozen=True, slots=True)
class SegmentationAugmentation:
    """Share of the films of a batch that each change applies to."""

    opacified: float = 0.4
    """Consolidation, effusion or nodular shadow drawn into the lungs."""
    turned: float = 0.12
    """Turned by a quarter, a half or three quarters: no longer frontal."""
    upside_down: float = 0.04
    """Mirrored top to bottom: no longer frontal."""
    close_up: float = 0.06
    """A part of the chest only: no longer frontal."""
    synthetic: float = 0.05
    """Smooth random fields and bars: nothing in it."""
    strength: float = 1.0
    """Of moves and tone changes, as a share of their full ranges: a run's last phase ends on gentler ones."""
    frontal_weight: float = 0.3
    """Weight of the frontal loss beside the mask loss."""


@dataclass(frozen=True, slots=True)
class SegmentationRecipe:
    """A segmentation run."""

    pairs: str = "lungmasks/pairs.csv"
    """Index of image and mask pairs, below the data folder."""
    films: str | None = "cxr/labels.csv"
    """Index of films without masks for the frontal head, below the data folder."""
    film_prefixes: tuple[str, ...] = ("nih", "ieee")
    """Films without masks that are taken, as their file names begin; empty takes all of them."""
    cohorts: tuple[str, ...] = ()
    """Cohort folders below the data folder: phantoms bring exact masks, and pictures that are not frontal
    chests."""
    repeat_real: int = 2
    """How often a film with a real mask is seen in an epoch."""
    every_film: int = 2
    """One in so many of the training films without a mask is used: the frontal head needs few."""
    every_phantom: int = 1
    """One in so many of the cohorts' pictures is used."""
    initial_run: str | None = None
    """Run folder below the data folder whose weights to start from."""
    start_share: float = 0.0
    """Share, 0 to 1, of the weights that the run started from in those that it ends with: see
    `training.checkpoints.blend`."""
    network: SegmentationConfig = field(default_factory=SegmentationConfig)
    augmentation: SegmentationAugmentation = field(default_factory=SegmentationAugmentation)
    fit: FitRecipe = field(default_factory=FitRecipe)

    def __post_init__(self) -> None:
        if not 0 <= self.start_share <= 1:
            raise ConfigError(f"start_share {self.start_share}: expected 0 to 1")
        if self.start_share and self.initial_run is None:
            raise ConfigError("start_share needs initial_run: a run from random weights has no start to keep")


@dataclass(frozen=True, slots=True)
class _Batch:
    picture: Tensor
    """(N, 1, M, M) in [0, 1]."""
    lungs: Tensor
    """(N, 2, M, M) 0 or 1."""
    mask_weight: Tensor
    """(N, 1, 1, 1) 1 where the mask is known."""
    frontal: Tensor
    """(N, 1) 0 or 1."""


class SegmentationTask:
    """Training and validation films and the loss on them."""

    def __init__(
        self, train: SegmentationFilms, validation: SegmentationFilms, augmentation: SegmentationAugmentation
    ) -> None:
        self.train, self.validation, self.augmentation = train, validation, augmentation

    @property
    def num_train(self) -> int:
        """Films in the training part."""
        return len(self.train)

    def loss(self, network: nn.Module, indices: Tensor, generator: torch.Generator) -> LossTerms:
        """Cross-entropy and soft Dice of both lungs, and cross-entropy of the frontal head."""
        device = next(network.parameters()).device
        batch = self._augmented(_batch(self.train, indices.numpy(), device), generator)
        lung_logits, frontal_logit = network(batch.picture)
        lung_logits, frontal_logit = lung_logits.float(), frontal_logit.float()
        pixels = functional.binary_cross_entropy_with_logits(lung_logits, batch.lungs, reduction="none")
        known = batch.mask_weight.mean().clamp_min(1e-6)
        pixel_loss = (pixels * batch.mask_weight).mean() / known
        dice_loss = (soft_dice_loss(lung_logits, batch.lungs) * batch.mask_weight[:, :, 0, 0]).mean() / known
        frontal_loss = functional.binary_cross_entropy_with_logits(frontal_logit, batch.frontal)
        total = pixel_loss + dice_loss + self.augmentation.frontal_weight * frontal_loss
        terms = {
            "loss": total,
            "loss_pixel": pixel_loss,
            "loss_dice": dice_loss,
            "loss_frontal": frontal_loss,
        }
        return LossTerms(total, {name: float(value.detach()) for name, value in terms.items()})

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> Mapping[str, float]:
        """Mean Dice over films with masks and frontal accuracy, untouched films of the validation part."""
        device = next(network.parameters()).device
        dice, right = [], []
        for start in range(0, len(self.validation), 32):
            places = np.arange(start, min(start + 32, len(self.validation)))
            batch = _batch(self.validation, places, device)
            lung_logits, frontal_logit = network(batch.picture)
            union = dice_coefficient((lung_logits > 0).amax(dim=1), batch.lungs.amax(dim=1) > 0.5)
            known = batch.mask_weight[:, 0, 0, 0] > 0
            dice.extend(union[known].tolist())
            right.extend(((frontal_logit > 0) == (batch.frontal > 0.5)).float()[:, 0].tolist())
        mean = float(np.mean(dice)) if dice else float("nan")
        return {
            "dice": mean,
            "dice_p05": float(np.quantile(dice, 0.05)) if dice else float("nan"),
            "frontal_accuracy": float(np.mean(right)),
            "score": mean + 0.1 * float(np.mean(right)),
        }

    def _augmented(self, batch: _Batch, generator: torch.Generator) -> _Batch:
        shares = self.augmentation
        count = batch.picture.shape[0]
        matrices = random_affine(count, scaled(_MOVES, shares.strength), generator)
        draw = uniform(generator, (count,), 0, 1)
        close = draw < shares.close_up
        matrices[close] = _close_up(int(close.sum()), generator)
        drawn = draw.tolist()
        both = warp(torch.cat((batch.picture, batch.lungs), dim=1), matrices)
        lungs = (both[:, 1:] >= 0.5).float()
        picture = opacify(both[:, :1], lungs, shares.opacified, generator)
        picture = random_tone(picture, scaled(ToneRange(), shares.strength), generator)
        frontal = batch.frontal.clone()
        frontal[close.to(frontal.device)] = 0
        weight = batch.mask_weight.clone()
        edge = shares.close_up
        for place in range(count):
            value = drawn[place]
            if edge <= value < edge + shares.turned:
                quarter = 1 + whole_number(generator, 3)
                picture[place] = torch.rot90(picture[place], quarter, (1, 2))
            elif edge + shares.turned <= value < edge + shares.turned + shares.upside_down:
                picture[place] = picture[place].flip(1)
            elif value >= 1 - shares.synthetic:
                picture[place] = synthetic(picture.shape[-1], generator).to(picture)
                lungs[place] = 0
                weight[place] = 1
                frontal[place] = 0
                continue
            else:
                continue
            # A turned film has lungs, but which is right is undefined: its mask neither counts nor harms.
            weight[place] = 0
            frontal[place] = 0
        return _Batch(picture, lungs, weight, frontal)


def synthetic(side: int, generator: torch.Generator) -> Tensor:
    """(1, M, M) picture with nothing in it: smooth fields of two grains, a disc or bars, noise."""
    cells = 2 + whole_number(generator, 14)
    picture = smooth_field(1, cells, side, generator)[0]
    first, second, width = uniform(generator, (3,), 0, 1).tolist()
    place = torch.linspace(0, 1, side, device=generator.device)
    if first < 0.4:
        disc = (place[:, None] - first * 2) ** 2 + (place[None, :] - second) ** 2 < (0.1 + 0.3 * width) ** 2
        picture = picture * 0.5 + disc.float()[None] * second
    elif first < 0.7:
        picture = picture * ((place * (2 + 30 * width)) % 1 < second).float()[None, :, None]
    noise = torch.randn((1, side, side), generator=generator, device=generator.device)
    drawn: Tensor = (picture + 0.1 * second * noise).clamp(0, 1)
    return drawn


def _close_up(count: int, generator: torch.Generator) -> Tensor:
    zoom = uniform(generator, (count, 1), 0.12, 0.35)
    centre = uniform(generator, (count, 2), -0.6, 0.6)
    zero = torch.zeros_like(zoom)
    first = torch.cat((zoom, zero, centre[:, :1]), dim=1)
    return torch.stack((first, torch.cat((zero, zoom, centre[:, 1:]), dim=1)), dim=1)


def soft_dice_loss(logits: Tensor, lungs: Tensor) -> Tensor:
    """(N, 2) 1 - Dice of probabilities; (N, 2, M, M) logits and masks."""
    probability = logits.sigmoid()
    overlap = (probability * lungs).sum(dim=(2, 3))
    both: Tensor = probability.sum(dim=(2, 3)) + lungs.sum(dim=(2, 3))
    return 1 - (2 * overlap + 1) / (both + 1)


def dice_coefficient(found: Tensor, truth: Tensor) -> Tensor:
    """(N,) Dice of boolean masks (N, M, M)."""
    overlap = (found & truth).sum(dim=(1, 2)).float()
    return 2 * overlap / (found.sum(dim=(1, 2)) + truth.sum(dim=(1, 2))).clamp_min(1)


def _batch(films: SegmentationFilms, places: np.ndarray, device: torch.device) -> _Batch:
    labelled = torch.from_numpy(films.masks[places]).to(device)
    return _Batch(
        torch.from_numpy(films.pictures[places]).to(device)[:, None].float() / 255,
        torch.stack((labelled == 1, labelled == 2), dim=1).float(),
        torch.from_numpy(films.has_mask[places]).to(device).float()[:, None, None, None],
        torch.from_numpy(films.frontal[places]).to(device).float()[:, None],
    )


class PooledSegmentation(nn.Module):
    """`SegmentationNetwork.logits` as a module of its own: training starts from the pooled canvas."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """See `SegmentationNetwork.logits`."""
        return self.network.logits(pooled)


@torch.inference_mode()
def held_out_dice(network: SegmentationNetwork, films: SegmentationFilms) -> pl.DataFrame:
    """One row a film: Dice of both lungs together and of each, and the frontal log-odds.

    `dice_opacified` is that of both lungs with a shadow drawn in (`opacify`).

    Args:
        network: in evaluation mode.
        films: the held-out part.
    """
    device = next(network.parameters()).device
    rows = []
    for place in range(len(films)):
        batch = _batch(films, np.array([place]), device)
        lung_logits, frontal_logit = network.logits(batch.picture)
        found, truth = lung_logits > 0, batch.lungs > 0.5
        known = bool(films.has_mask[place])
        opacified = opacify(batch.picture, batch.lungs, 1.0, torch.Generator().manual_seed(place))
        below = (network.logits(opacified)[0] > 0).amax(dim=1)
        both = dice_coefficient(found.amax(dim=1), truth.amax(dim=1))
        right, left = (dice_coefficient(found[:, lung], truth[:, lung]) for lung in (0, 1))
        rows.append(
            {
                "patient": films.patients[place],
                "source": films.sources[place],
                "frontal": bool(films.frontal[place]),
                "frontal_logit": float(frontal_logit),
                "dice": float(both) if known else None,
                "dice_opacified": float(dice_coefficient(below, truth.amax(dim=1))) if known else None,
                "dice_right": float(right) if known else None,
                "dice_left": float(left) if known else None,
            }
        )
    return pl.DataFrame(rows)
