"""Batches of pictures and masks to randomly changed ones, on whatever device they are on.

Every draw comes from the generator that is passed in, on the generator's own device, so that a resumed run
repeats exactly. The decision a reader would question: pictures of the segmentation are never mirrored,
because right and left lung are different outputs, the heart is on one side, and a mirrored film is a real
fault that must not look normal. The classifier, which never judges that, may see mirrored crops (`mirror`).

Shape letters: N images, K channels, M side.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class AffineRange:
    """How far a picture may be moved; each value is the half-width of a uniform range."""

    rotation_deg: float = 10.0
    log_scale: float = 0.2
    """Of both axes together."""
    log_aspect: float = 0.1
    """Between the axes."""
    shear: float = 0.05
    shift: float = 0.08
    """As a share of the side."""


@dataclass(frozen=True, slots=True)
class ToneRange:
    """How far grey levels may be changed."""

    log_gamma: float = 0.4
    log_contrast: float = 0.3
    brightness: float = 0.1
    noise_sd: float = 0.04
    """Largest standard deviation of grain, of the grey range."""
    blur_share: float = 0.3
    """Share of pictures that are blurred or sharpened."""


Ranges = TypeVar("Ranges", AffineRange, ToneRange)


def scaled(ranges: Ranges, strength: float) -> Ranges:
    """The same kinds of change, each `strength` (0 to 1) times as far."""
    return replace(ranges, **{name: strength * far for name, far in asdict(ranges).items()})


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """Uniform numbers in [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def whole_number(generator: torch.Generator, below: int) -> int:
    """One of 0 to `below` - 1, each as likely."""
    return int(torch.randint(0, below, (1,), generator=generator, device=generator.device))


def random_affine(count: int, ranges: AffineRange, generator: torch.Generator) -> Tensor:
    """(N, 2, 3) matrices from output to input coordinates in [-1, 1], as `affine_grid` takes them."""
    angle = uniform(generator, (count,), -1, 1) * math.radians(ranges.rotation_deg)
    scale = (uniform(generator, (count,), -1, 1) * ranges.log_scale).exp()
    aspect = (uniform(generator, (count,), -1, 1) * ranges.log_aspect).exp().sqrt()
    shear = uniform(generator, (count,), -1, 1) * ranges.shear
    shift = uniform(generator, (count, 2), -2, 2) * ranges.shift
    cos, sin = angle.cos(), angle.sin()
    first = torch.stack((cos * scale * aspect, (shear - sin) * scale * aspect, shift[:, 0]), dim=1)
    second = torch.stack((sin * scale / aspect, cos * scale / aspect, shift[:, 1]), dim=1)
    return torch.stack((first, second), dim=1)


def warp(picture: Tensor, matrices: Tensor) -> Tensor:
    """Apply affine matrices to (N, K, M, M), bilinear, zero outside."""
    grid = functional.affine_grid(matrices.to(picture), list(picture.shape), align_corners=False)
    return functional.grid_sample(picture, grid, padding_mode="zeros", align_corners=False)


def mirror(picture: Tensor, chosen: Tensor, *, sides: bool = False) -> Tensor:
    """Mirror some pictures left to right.

    Args:
        picture: (N, K, M, M).
        chosen: bool (N,).
        sides: exchange the two channels as well: they belong to a right and a left lung.
    """
    mirrored = picture.flip((1, 3)) if sides else picture.flip(3)
    return torch.where(chosen.to(picture.device)[:, None, None, None], mirrored, picture)


def random_tone(picture: Tensor, ranges: ToneRange, generator: torch.Generator) -> Tensor:
    """Gamma, contrast, brightness, blur or sharpening, grain; (N, 1, M, M) in [0, 1] to the same."""
    count = picture.shape[0]
    each = (count, 1, 1, 1)
    gamma = (uniform(generator, each, -1, 1) * ranges.log_gamma).exp().to(picture)
    contrast = (uniform(generator, each, -1, 1) * ranges.log_contrast).exp().to(picture)
    brightness = (uniform(generator, each, -1, 1) * ranges.brightness).to(picture)
    changed = (picture.clamp(0, 1) + 1e-4) ** gamma
    changed = (changed - 0.5) * contrast + 0.5 + brightness
    # Negative strength blurs, positive sharpens: both are a step along the difference to a local mean.
    strength = uniform(generator, each, -1, 1.5)
    strength = torch.where(uniform(generator, each, 0, 1) < ranges.blur_share, strength, 0.0).to(picture)
    changed = changed + strength * (changed - functional.avg_pool2d(changed, 3, stride=1, padding=1))
    amount = (uniform(generator, each, 0, 1) ** 2 * ranges.noise_sd).to(picture)
    grain = torch.randn(picture.shape, generator=generator, device=generator.device).to(picture)
    outside = picture == 0
    return torch.where(outside, picture, (changed + amount * grain).clamp(0, 1))


def smooth_field(count: int, cells: int, side: int, generator: torch.Generator) -> Tensor:
    """(N, 1, side, side) random field in about [0, 1], varying over `side / cells` pixels."""
    coarse = torch.rand((count, 1, cells, cells), generator=generator, device=generator.device)
    return functional.interpolate(coarse, size=(side, side), mode="bicubic", align_corners=False).clamp(0, 1)


def opacify(picture: Tensor, lungs: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Draw consolidation, effusion, a white lung or diffuse nodular shadow; the masks stay as they are.

    A network trained on healthy lungs alone leaves out what is white; the mask must include it. Up to 4
    pixels beside a lung change with it.

    Args:
        picture: (N, 1, M, M) in [0, 1].
        lungs: (N, 2, M, M) in [0, 1].
        share: of pictures that are changed.
        generator: source of every draw.

    Returns:
        (N, 1, M, M) in [0, 1].
    """
    each = (picture.shape[0], 1, 1, 1)
    union = lungs.amax(dim=1, keepdim=True)
    kind = torch.randint(0, 4, each, generator=generator, device=generator.device).to(picture.device)
    shadow = torch.where(kind == 1, _effusion(lungs, generator), _patchy(picture, kind, generator))
    one_side = torch.randint(0, 3, each, generator=generator, device=generator.device).to(picture.device)
    where = torch.where(one_side == 0, union, torch.where(one_side == 1, lungs[:, :1], lungs[:, 1:]))
    chosen = (uniform(generator, each, 0, 1) < share).to(picture.device)
    # Drawn masks end a little inside: an unchanged rim would give the lung's edge away.
    where = functional.max_pool2d(where, 5, stride=1, padding=2)
    where = functional.avg_pool2d(where, 5, stride=1, padding=2, count_include_pad=False)
    depth = 1 - 0.7 * uniform(generator, each, 0, 1).square().to(picture)
    # Soft tissue next to the lungs is the brightness that a consolidated lung reaches.
    soft, hard = (torch.quantile(picture.flatten(1), q, dim=1)[:, None, None, None] for q in (0.75, 0.85))
    tissue = soft + (hard - soft) * uniform(generator, each, 0, 1).to(picture)
    tissue = tissue + 0.1 * (smooth_field(each[0], 4, picture.shape[-1], generator).to(picture) - 0.5)
    weight = torch.where(chosen, shadow * where * depth, torch.zeros_like(where))
    return picture + weight * (torch.maximum(tissue.clamp(max=1), picture) - picture)


def _patchy(picture: Tensor, kind: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 1, M, M) shadow in [0, 1]: fine nodules, a white lung with aerated islands (3), or patches."""
    count, _, side, _ = picture.shape
    coarse = smooth_field(count, 3 + whole_number(generator, 3), side, generator)
    nodules = ((smooth_field(count, side // 4, side, generator) - 0.6) * 3).clamp(0, 1)
    patches, white = (((coarse - level) * 6).clamp(0, 1) for level in (0.55, 0.2))
    return torch.where(kind == 2, nodules.to(picture), torch.where(kind == 3, white, patches).to(picture))


def _effusion(lungs: Tensor, generator: torch.Generator) -> Tensor:
    """(N, 1, M, M) shadow in [0, 1] that fills each lung (N, 2, M, M) from below, higher at one edge."""
    count, _, side, _ = lungs.shape
    rows = torch.linspace(0, 1, side).to(lungs)
    present = lungs.amax(dim=3) > 0
    top = torch.where(present, rows, 1.0).amin(dim=2)[:, :, None, None]
    bottom = torch.where(present, rows, 0.0).amax(dim=2)[:, :, None, None]
    level = top + (bottom - top) * uniform(generator, (count, 2, 1, 1), 0.2, 1.0).to(lungs)
    tilt = uniform(generator, (count, 2, 1, 1), -0.5, 0.5).to(lungs) * (rows - 0.5)
    steepness = uniform(generator, (count, 1, 1, 1), 6, 40).to(lungs)
    filled = ((rows[:, None] - level - tilt) * steepness).clamp(0, 1)
    return functional.max_pool2d((filled * lungs).amax(dim=1, keepdim=True), 9, stride=1, padding=4)
