"""Lung crops to the multi-task loss: differential diagnosis, stage and zone profusion.

The decision a reader would question: the zone term is there although no report prints zone levels as a
result. Six graded zones a film are the densest supervision there is, and stage follows from them by rule.

Shape letters: N films, C side of the crop.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from screener.errors import ConfigError
from training.augmentation import (
    AffineRange,
    ToneRange,
    mirror,
    random_affine,
    random_tone,
    scaled,
    uniform,
    warp,
)
from training.crop_store import CropStore
from training.crops import MISSING, CropFilms
from training.fit import LossTerms
from training.networks import ClassificationConfig, LungClassifier
from training.recipe import FitRecipe

TaskName = Literal["diagnosis", "stage", "zones"]
CROP_MOVES = AffineRange(rotation_deg=6, log_scale=0.08, log_aspect=0.05, shear=0.03, shift=0.03)
MAP_WEIGHTS = (1.0, 2.0, 2.0)
"""Of profusion, large opacities and tuberculosis in the loss of the finding maps; the last two are rare."""
TASKS: tuple[TaskName, ...] = ("diagnosis", "stage", "zones")


@dataclass(frozen=True, slots=True)
class LossRecipe:
    """Terms of the multi-task loss."""

    tasks: tuple[str, ...] = TASKS
    """Heads that are trained; a head left out keeps the weights that it starts with."""
    diagnosis_weight: float = 1.0
    stage_weight: float = 1.0
    zones_weight: float = 1.0
    findings_weight: float = 0.0
    """Of the finding maps, a help in training alone; needs `network.finding_maps` and a cohort with maps."""
    label_smoothing: float = 0.02
    """Of diagnosis and stage."""
    class_weighting: bool = True
    """Weigh stages by the inverse square root of their share in the training part."""
    uncertainty_weighting: bool = False
    """Learn the weights between tasks (Kendall et al. 2018) instead of taking them from the recipe."""


@dataclass(frozen=True, slots=True)
class CropAugmentation:
    """How training crops are changed beyond tone and grain."""

    mirrored: float = 0.0
    """Share of films that are shown mirrored, with the labels of right and left zones exchanged: other ribs
    and vessels for the same findings, where films are few."""
    moves: float = 1.0
    """Rotation, scale, aspect, shear and shift, as a multiple of `CROP_MOVES`."""


@dataclass(frozen=True, slots=True)
class ClassificationRecipe:
    """A classification run."""

    cohorts: tuple[str, ...] = ("cohort",)
    """Cohort folders, below the data folder."""
    segmentation: str | None = None
    """Run folder or bundle, below the runs folder, whose segmentation network makes the crops; left out, the
    bundle that ships."""
    initial_weights: str | None = None
    """DenseNet-121 weights of torchvision or CheXNet layout to start from."""
    initial_run: str | None = None
    """Run folder below the runs folder whose weights to start from, all heads included."""
    initial_bundle: str | None = None
    """Bundle (folder or file) below the runs folder to start from, or `shipped`; all heads included."""
    train_side: int | None = None
    """Crops are reduced to this side while training; None trains at the crop's own side."""
    augmentation: CropAugmentation = field(default_factory=CropAugmentation)
    network: ClassificationConfig = field(default_factory=ClassificationConfig)
    loss: LossRecipe = field(default_factory=LossRecipe)
    fit: FitRecipe = field(default_factory=FitRecipe)

    def __post_init__(self) -> None:
        others = (self.initial_run, self.initial_weights)
        if self.initial_bundle is not None and any(other is not None for other in others):
            raise ConfigError("initial_bundle beside initial_run or initial_weights: name one of them")


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a classifier says of films."""

    diagnosis: npt.NDArray[np.float32]
    """(N, 2) log-odds of pneumoconiosis and tuberculosis."""
    stage: npt.NDArray[np.float32]
    """(N, 4) class logits."""
    zones: npt.NDArray[np.float32]
    """(N, 6, 4) level logits."""


@dataclass(frozen=True, slots=True)
class _Targets:
    diagnosis: Tensor
    """(N, 2)."""
    stage: Tensor
    """(N,)."""
    zones: Tensor
    """(N, 6)."""


class WeightedClassifier(nn.Module):
    """A classifier and the learnt log-variances of its tasks: what the optimiser sees."""

    def __init__(self, config: ClassificationConfig) -> None:
        super().__init__()
        self.classifier = LungClassifier(config)
        self.log_variance = nn.Parameter(torch.zeros(len(TASKS)))

    def forward(self, crop: Tensor, lungs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """See `LungClassifier`."""
        outputs: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] = self.classifier(crop, lungs)
        return outputs


class ClassificationTask:
    """Training and validation films and the loss on them."""

    def __init__(
        self,
        films: CropFilms,
        *,
        train: npt.NDArray[np.int64],
        validation: npt.NDArray[np.int64],
        loss: LossRecipe,
        train_side: int | None = None,
        augmentation: CropAugmentation | None = None,
    ) -> None:
        self.films, self.train, self.validation, self.recipe = films, train, validation, loss
        self.train_side, self.augmentation = train_side, augmentation or CropAugmentation()
        self.store = CropStore(films)
        self.targets = _targets(films)
        self.stage_weight = _stage_weights(self.targets.stage[torch.from_numpy(train)])

    @property
    def num_train(self) -> int:
        """Films in the training part."""
        return len(self.train)

    def loss(self, network: nn.Module, indices: Tensor, generator: torch.Generator) -> LossTerms:
        """Weighted sum of the tasks' losses on augmented crops."""
        device = next(network.parameters()).device
        places = self.train[indices.numpy()]
        crop, lungs = self.store.pictures(places, device, self.train_side)
        # Nothing is drawn where nothing is mirrored: runs of recipes without it stay what they were.
        share = self.augmentation.mirrored
        turned = uniform(generator, (len(places),), 0, 1) < share if share else torch.zeros(len(places)) > 0
        crop, lungs = mirror(crop, turned), mirror(lungs, turned, sides=True)
        matrices = random_affine(crop.shape[0], scaled(CROP_MOVES, self.augmentation.moves), generator)
        crop, lungs = augmented_crops(crop, lungs, matrices, generator)
        diagnosis, stage, zones, _, findings = network(crop, lungs)
        terms = self._terms(diagnosis, stage, zones, torch.from_numpy(places), turned)
        maps = self.store.maps(places, device) if self.recipe.findings_weight else None
        if maps is not None and findings.shape[1]:
            terms["findings"] = findings_loss(findings, warp(mirror(maps, turned), matrices), lungs)
        log_variance = None
        if self.recipe.uncertainty_weighting:
            log_variance = network.get_parameter("log_variance")
        total = self._weighted(terms, log_variance)
        return LossTerms(
            total,
            {"loss": float(total.detach())} | {f"loss_{k}": float(v.detach()) for k, v in terms.items()},
        )

    def _terms(
        self, diagnosis: Tensor, stage: Tensor, zones: Tensor, places: Tensor, mirrored: Tensor | None = None
    ) -> dict[str, Tensor]:
        device = diagnosis.device
        smoothing = self.recipe.label_smoothing
        terms: dict[str, Tensor] = {}
        if "diagnosis" in self.recipe.tasks:
            wanted = self.targets.diagnosis[places].to(device)
            soft = wanted.clamp_min(0).float() * (1 - smoothing) + smoothing / 2
            each = functional.binary_cross_entropy_with_logits(diagnosis, soft, reduction="none")
            terms["diagnosis"] = _mean_of_known(each, wanted != MISSING)
        if "stage" in self.recipe.tasks:
            weight = self.stage_weight if self.recipe.class_weighting else None
            terms["stage"] = _class_loss(stage, self.targets.stage[places], weight, smoothing)
        if "zones" in self.recipe.tasks:
            levels = self.targets.zones[places]
            if mirrored is not None:  # the three zones of the right lung are now those of the left
                levels = torch.where(mirrored.cpu()[:, None], levels.roll(3, dims=1), levels)
            terms["zones"] = _class_loss(zones.flatten(0, 1), levels.flatten())
        return terms

    def _weighted(self, terms: Mapping[str, Tensor], log_variance: Tensor | None) -> Tensor:
        total = torch.zeros(())
        for place, name in enumerate(TASKS):
            if name not in terms:
                continue
            if log_variance is not None:
                share = torch.exp(-log_variance[place]) * terms[name] + log_variance[place] / 2
            else:
                share = getattr(self.recipe, f"{name}_weight") * terms[name]
            total = total.to(share.device) + share
        if "findings" in terms:
            total = total + self.recipe.findings_weight * terms["findings"]
        return total

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> Mapping[str, float]:
        """Losses and plain accuracies on the validation part; `score` is minus the summed loss.

        An accuracy that no film was read for is left out.
        """
        found = self.predict(network, self.validation)
        places = torch.from_numpy(self.validation)
        diagnosis_logits, stage_logits, zone_logits = map(
            torch.from_numpy, (found.diagnosis, found.stage, found.zones)
        )
        terms = self._terms(diagnosis_logits, stage_logits, zone_logits, places)
        diagnosis = self.targets.diagnosis[places].numpy()
        stage, zones = self.targets.stage[places].numpy(), self.targets.zones[places].numpy()
        read = (diagnosis != MISSING).all(axis=1)
        both = ((found.diagnosis > 0) == (diagnosis > 0)).all(axis=1)
        accuracies = {
            "diagnosis_accuracy": both[read],
            "stage_accuracy": (found.stage.argmax(axis=1) == stage)[stage != MISSING],
            "zone_accuracy": (found.zones.argmax(axis=2) == zones)[zones != MISSING],
        }
        return {
            **{f"val_{name}": float(value) for name, value in terms.items()},
            **{name: float(right.mean()) for name, right in accuracies.items() if right.size},
            "score": -float(sum(terms.values())),
        }

    @torch.no_grad()
    def predict(self, network: nn.Module, places: npt.NDArray[np.int64], batch_size: int = 16) -> Predictions:
        """Logits of untouched films."""
        device = next(network.parameters()).device
        parts: list[tuple[Tensor, ...]] = []
        for start in range(0, len(places), batch_size):
            crop, lungs = self.store.pictures(places[start : start + batch_size], device, self.train_side)
            with torch.autocast(device.type, torch.bfloat16):
                outputs = network(crop, lungs)
            parts.append(tuple(output.float().cpu() for output in outputs[:3]))
        return Predictions(*(torch.cat(output).numpy() for output in zip(*parts, strict=True)))


def augmented_crops(
    crop: Tensor, lungs: Tensor, matrices: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Move crops and their masks together by affine matrices, and change the crops' tone."""
    both = warp(torch.cat((crop, lungs), dim=1), matrices)
    tone = ToneRange(log_gamma=0.25, log_contrast=0.2, brightness=0.05, noise_sd=0.015, blur_share=0.25)
    return random_tone(both[:, :1], tone, generator), both[:, 1:]


def findings_loss(findings: Tensor, maps: Tensor, lungs: Tensor) -> Tensor:
    """Cross-entropy of finding maps with the drawn ones, over the lungs.

    Args:
        findings: (N, 3, h, w) log-odds.
        maps: (N, 3, F, F) drawn maps in [0, 1]; profusion enters as its square root, which spaces the levels.
        lungs: (N, 2, C, C) probability.
    """
    size = (findings.shape[-2], findings.shape[-1])
    wanted = functional.adaptive_avg_pool2d(maps, size).clamp(0, 1)
    wanted = torch.cat((wanted[:, :1].sqrt(), wanted[:, 1:]), dim=1)
    inside = functional.adaptive_avg_pool2d(lungs.amax(dim=1, keepdim=True), size)
    each = functional.binary_cross_entropy_with_logits(findings.float(), wanted, reduction="none")
    each = each * each.new_tensor(MAP_WEIGHTS)[:, None, None]
    return (each * inside).sum() / inside.sum().clamp_min(1)


def _mean_of_known(each: Tensor, known: Tensor) -> Tensor:
    return (each * known).sum() / known.sum().clamp_min(1)


def _class_loss(
    logits: Tensor, labels: Tensor, weight: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy over the labels that were read and have a weight; 0 where there are none."""
    known = labels != MISSING
    if weight is not None:
        known = known & (weight[labels.clamp_min(0)] > 0)
        weight = weight.to(logits.device)
    if not bool(known.any()):
        return logits.sum() * 0
    return functional.cross_entropy(
        logits, labels.to(logits.device), weight=weight, ignore_index=MISSING, label_smoothing=smoothing
    )


def _targets(films: CropFilms) -> _Targets:
    diagnosis = np.stack([films.labels("pneumoconiosis"), films.labels("tb")], axis=1)
    return _Targets(
        torch.from_numpy(diagnosis),
        torch.from_numpy(films.labels("stage").copy()),
        torch.from_numpy(films.zone_levels()),
    )


def _stage_weights(stages: Tensor) -> Tensor:
    """(4,) inverse square root of each stage's share, mean 1 over the films; 0 for absent stages."""
    counts = torch.bincount(stages[stages != MISSING], minlength=4).float()
    weight = torch.where(counts > 0, counts.clamp_min(1).rsqrt(), 0.0)
    return weight * counts.sum() / (weight * counts).sum().clamp_min(1e-6)
