"""The two networks of a bundle: canvas to lungs, and canvas with lungs to diagnosis, stage and zones.

Both take the canvas itself and keep every step up to the logits inside, so that the exported graph is the
whole definition. The decision a reader would question: what lies outside the widened lungs is blanked
before the backbone sees it. Borders, markers and the shape of the shoulders tell a film's source, and the
source tells the label in every public collection.

Shape letters: N images, S side of the canvas, M side of the masks, C side of the crop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.densenet import DenseNet121
from training.lung_geometry import (
    CLIP_SD,
    MIN_LUNG_SHARE,
    box_from_lungs,
    crop_grid,
    enlarged,
    grown,
    local_mean,
    normalise_over_lungs,
    pooled,
    sampled,
    zone_maps,
)
from training.unet import UNet

CANVAS_SIDE = 768
MASK_SIDE = 256
DETAIL_GAIN = 3.0

StageHead = Literal["categorical", "ordinal"]


@dataclass(frozen=True, slots=True)
class SegmentationConfig:
    """Shape of the segmentation network."""

    base: int = 32
    """Channels of the first U-Net block."""
    depth: int = 4
    """2 x 2 poolings after the stem."""
    margin: float = 0.04
    """Crop margin on each side as a share of the lungs' extent."""


@dataclass(frozen=True, slots=True)
class ClassificationConfig:
    """Shape of the classification network."""

    growth: int = 16
    """DenseNet-121 growth rate; 32 is the published network, 16 has about a quarter of its work."""
    crop_side: int = 384
    """Pixels of the lung crop."""
    stage_head: StageHead = "categorical"
    """Four class logits, or one severity with three ordered cut points turned into four class logits."""
    detail_px: int = 17
    """Side of the square whose mean is subtracted for the detail channel, in pixels of the crop."""
    surround: Literal["blank", "keep"] = "blank"
    """What happens to the picture outside the widened lungs."""
    surround_px: int = 16
    """Pixels of the crop by which the lungs are widened before the surround is blanked."""
    finding_maps: bool = False
    """Three more maps (local profusion, large opacities, tuberculosis) that the stage is also read from."""


class SegmentationNetwork(nn.Module):
    """Canvas to lung probability, crop box and frontal log-odds."""

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__()
        self.config = config
        self.unet = UNet(num_classes=2, base=config.base, depth=config.depth)
        self.frontal = nn.Linear(2 * self.unet.num_features, 1)

    def logits(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, M, M) pooled canvas to (N, 2, M, M) lung logits and (N, 1) frontal log-odds."""
        lung_logits, deepest = self.unet(pooled - 0.5)
        summary = torch.cat((deepest.mean(dim=(2, 3)), deepest.amax(dim=(2, 3))), dim=1)
        return lung_logits, self.frontal(summary)

    def forward(self, canvas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Segment canvases.

        Args:
            canvas: float32 (N, 1, 768, 768) in [0, 1].

        Returns:
            `lungs` (N, 2, 256, 256) probability, patient right (image left) then left; `box` (N, 4) top,
            left, bottom, right in canvas pixels; `frontal_logit` (N, 1).
        """
        pooled = functional.avg_pool2d(canvas, CANVAS_SIDE // MASK_SIDE)
        lung_logits, frontal_logit = self.logits(pooled)
        lungs = lung_logits.float().sigmoid()
        return lungs, box_from_lungs(lungs, CANVAS_SIDE, self.config.margin), frontal_logit


class LungCrop(nn.Module):
    """Canvas, lungs and box to what the backbone sees: the normalised crop and its two lung masks."""

    def __init__(self, config: ClassificationConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, canvas: Tensor, lungs: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 1, C, C) raw grey crop and (N, 2, C, C) lung masks in the crop."""
        grid = crop_grid(box, CANVAS_SIDE, self.config.crop_side)
        return sampled(canvas, grid), sampled(lungs, grid)


class LungClassifier(nn.Module):
    """Grey crop and its lung masks to diagnosis, stage and zone logits, activation and finding maps.

    Diagnosis: a 1 x 1 convolution of the features (and of the finding maps, where there are any) gives one
    activation map per disease; its log-mean-exp over the lungs is the logit, so the map is exactly what the
    logit is made of. Zones: features averaged over each zone, one
    linear layer shared by all six. Stage: expected numbers of zones at each level, lung-mean and zone-max
    features, one hidden layer.
    """

    def __init__(self, config: ClassificationConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = DenseNet121(num_channels=2, growth=config.growth)
        features = self.backbone.num_features
        self.activation = nn.Conv2d(features, 2, 1)
        self.zones = nn.Linear(features, 4)
        self.findings = nn.Conv2d(features, 3, 1) if config.finding_maps else None
        self.blend = nn.Conv2d(3, 2, 1, bias=False) if config.finding_maps else None
        self.stage_hidden = nn.Linear(2 * features + 10 + (7 if config.finding_maps else 0), 64)
        self.stage = nn.Linear(64, 1 if config.stage_head == "ordinal" else 4)
        self.cut_points = nn.Parameter(
            torch.tensor([0.0, 1.0, 1.0]), requires_grad=config.stage_head == "ordinal"
        )

    def forward(self, crop: Tensor, lungs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Classify crops.

        Args:
            crop: float32 (N, 1, C, C) grey levels, any scale.
            lungs: float32 (N, 2, C, C) probability.

        Returns:
            `diagnosis_logits` (N, 2), `stage_logits` (N, 4), `zone_logits` (N, 6, 4),
            `activation` (N, 2, C / 32, C / 32), finding maps (N, 3 or 0, C / 32, C / 32) as log-odds.
        """
        features = self.backbone(model_input(self.config, crop, lungs)).float()
        pool = crop.shape[-1] // features.shape[-1]
        # Zone lines to an eighth of a cell are fine enough; full-size maps would cost more than they give.
        maps = functional.avg_pool2d(zone_maps(pooled(lungs, 4)), pool // 4)
        weights = maps / maps.sum(dim=(2, 3), keepdim=True).clamp_min(1e-3)
        zone_features = torch.einsum("nzhw,nchw->nzc", weights, features)
        zone_logits = self.zones(zone_features)
        activation = self.activation(features)
        findings = activation[:, :0]
        if self.findings is not None and self.blend is not None:
            findings = self.findings(features)
            activation = activation + self.blend(findings)
        diagnosis_logits = _log_mean_exp(activation, maps.sum(dim=1, keepdim=True))
        extra = [zone_features.mean(dim=1), zone_features.amax(dim=1)]
        if self.findings is not None:
            extra.append(_finding_summary(findings, maps, weights))
        stage_logits = self._stage_logits(zone_logits, torch.cat(extra, dim=1))
        return diagnosis_logits, stage_logits, zone_logits, activation, findings

    def _stage_logits(self, zone_logits: Tensor, extra: Tensor) -> Tensor:
        levels = zone_logits.softmax(dim=2)
        counts = levels.sum(dim=1)
        highest = levels.amax(dim=1)
        at_least = torch.stack((levels[..., 2:].sum(dim=2).amax(dim=1), levels[..., 3].amin(dim=1)), dim=1)
        summary = torch.cat((counts, highest, at_least, extra), dim=1)
        score: Tensor = self.stage(functional.relu(self.stage_hidden(summary)))
        if self.config.stage_head == "categorical":
            return score
        return class_logits_from_cut_points(score, self.cut_points)


class ClassificationNetwork(nn.Module):
    """Canvas, lungs and box to the four outputs of `LungClassifier`: what is exported."""

    def __init__(self, config: ClassificationConfig) -> None:
        super().__init__()
        self.config = config
        self.crop = LungCrop(config)
        self.classifier = LungClassifier(config)

    def forward(self, canvas: Tensor, lungs: Tensor, box: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Classify canvases (N, 1, 768, 768) with the segmentation network's `lungs` and `box`."""
        crop, crop_lungs = self.crop(canvas, lungs, box)
        diagnosis, stage, zones, activation, _ = self.classifier(crop, crop_lungs)
        return diagnosis, stage, zones, activation


def _finding_summary(findings: Tensor, maps: Tensor, weights: Tensor) -> Tensor:
    """(N, 7) what finding maps say of a stage.

    Args:
        findings: (N, 3, h, w) log-odds of profusion, large opacities and tuberculosis.
        maps: (N, 6, h, w) zones.
        weights: the same, each zone's sum 1.
    """
    share = findings.sigmoid() * maps.sum(dim=1, keepdim=True).clamp(0, 1)
    profusion = torch.einsum("nzhw,nhw->nz", weights, share[:, 0])
    spread = torch.stack((profusion.amin(dim=1), profusion.mean(dim=1), profusion.amax(dim=1)), dim=1)
    return torch.cat((spread, share[:, 1:].amax(dim=(2, 3)), share[:, 1:].mean(dim=(2, 3))), dim=1)


def model_input(config: ClassificationConfig, crop: Tensor, lungs: Tensor) -> Tensor:
    """What the backbone sees of a crop.

    Args:
        config: says what happens outside the lungs.
        crop: (N, 1, C, C) grey levels.
        lungs: (N, 2, C, C) probability.

    Returns:
        (N, 2, C, C): the crop normalised over the lungs, and its detail (what differs from the mean of the
        surroundings, three times amplified); both blanked outside the widened lungs.
    """
    picture = normalise_over_lungs(crop, lungs)
    # Small opacities differ from their surroundings by a tenth of what ribs and vessels do: without a channel
    # of their own they are learnt last.
    around = local_mean(picture, config.detail_px)
    detail = (DETAIL_GAIN * (picture - around)).clamp(-CLIP_SD, CLIP_SD)
    picture = torch.cat((picture, detail), dim=1)
    if config.surround == "blank":
        wide = grown(lungs, config.surround_px)
        found = wide.mean(dim=(2, 3), keepdim=True) > MIN_LUNG_SHARE
        picture = picture * enlarged(torch.where(found, wide, torch.ones_like(wide)), 4)
    return picture


def class_logits_from_cut_points(severity: Tensor, cut_points: Tensor) -> Tensor:
    """Cumulative-link model (McCullagh 1980) to class logits.

    P(stage >= k) = sigmoid(severity - c_k) with increasing cut points; the class logits are the logarithms of
    the differences, so that their softmax is the model's own class distribution.

    Args:
        severity: (N, 1).
        cut_points: (3,), the first cut point, then two steps made positive here.

    Returns:
        (N, 4) log-probabilities.
    """
    steps = torch.cat((cut_points[:1], functional.softplus(cut_points[1:])))
    at_least = torch.sigmoid(severity - torch.cumsum(steps, dim=0))
    ones, zeros = torch.ones_like(severity), torch.zeros_like(severity)
    share = torch.cat((ones, at_least), dim=1) - torch.cat((at_least, zeros), dim=1)
    return share.clamp_min(1e-6).log()


def _log_mean_exp(activation: Tensor, weight: Tensor) -> Tensor:
    """(N, K) soft maximum of (N, K, h, w) maps over a (N, 1, h, w) weight; between mean and maximum."""
    weight = weight + 1e-4
    weight = weight / weight.sum(dim=(2, 3), keepdim=True)
    peak = activation.amax(dim=(2, 3), keepdim=True)
    mean = (weight * (activation - peak).exp()).sum(dim=(2, 3))
    return mean.clamp_min(1e-12).log() + peak[:, :, 0, 0]
