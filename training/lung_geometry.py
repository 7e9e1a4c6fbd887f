"""Lung masks to geometry inside the exported graphs: crop box, square crop, lung normalisation, zone maps.

Everything here is written with operations that ONNX, OpenVINO and TensorRT all have (sums, cumulative sums,
comparisons, grid sampling), so that no backend needs cropping code of its own. The decision a reader would
question: edges of masks are found as quantiles of their row and column sums, not as extreme pixels, so that a
speck far from the lungs cannot move a box or a zone line.

Shape letters: N images, S side of the canvas, M side of the masks, C side of the crop, Z six zones.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

EDGE_QUANTILE = 0.01
"""Share of a mask's area that may lie outside its edges on each side."""
MIN_LUNG_SHARE = 0.01
"""Masks that cover less of the canvas than this give no box: the whole canvas is taken."""
CLIP_SD = 4.0
"""Normalised grey levels are limited to this many standard deviations."""


def edges(profile: Tensor, quantile: float = EDGE_QUANTILE) -> tuple[Tensor, Tensor]:
    """First and last position of a profile's mass, as edge coordinates.

    Args:
        profile: (..., M) row or column sums, at least 0.
        quantile: mass left out on either side, 0 to 0.5.

    Returns:
        Two (...) tensors in [0, M]: the edge before the first kept position and after the last.
    """
    share = torch.cumsum(profile, dim=-1) / profile.sum(dim=-1, keepdim=True).clamp_min(1e-6)
    first = (share < quantile).to(profile.dtype).sum(dim=-1)
    last = (share < 1 - quantile).to(profile.dtype).sum(dim=-1) + 1
    return first, last


def box_from_lungs(lungs: Tensor, side: int, margin: float) -> Tensor:
    """Crop box around both lungs.

    Args:
        lungs: (N, 2, M, M) probability.
        side: S, pixels of the canvas side that the mask covers.
        margin: added on each side, as a share of the box's own height or width.

    Returns:
        (N, 4) top, left, bottom, right in canvas pixels within [0, S]; the whole canvas for an empty mask.
    """
    mask = (lungs >= 0.5).to(lungs.dtype).amax(dim=1)
    size = mask.shape[-1]
    top, bottom = edges(mask.sum(dim=2))
    left, right = edges(mask.sum(dim=1))
    low = torch.stack((top, left), dim=1)
    high = torch.stack((bottom, right), dim=1)
    grown = (high - low) * margin
    box = torch.cat((low - grown, high + grown), dim=1).clamp(0, size) * (side / size)
    whole = torch.tensor([0.0, 0.0, float(side), float(side)], device=lungs.device, dtype=lungs.dtype)
    found = mask.mean(dim=(1, 2)) >= MIN_LUNG_SHARE
    return torch.where(found[:, None], box, whole)


def crop_grid(box: Tensor, canvas_side: int, crop_side: int) -> Tensor:
    """Where on the canvas each pixel of the square around a box lies, aspect ratio kept.

    Args:
        box: (N, 4) in canvas pixels.
        canvas_side: S.
        crop_side: C.

    Returns:
        (N, C, C, 2) column and row in [-1, 1] on the canvas, beyond it outside.
    """
    low, high = box[:, :2], box[:, 2:]
    centre = (low + high) / canvas_side - 1
    half = (high - low).amax(dim=1).clamp_min(1.0) / canvas_side
    steps = (torch.arange(crop_side, device=box.device, dtype=box.dtype) + 0.5) * (2 / crop_side) - 1
    # Constant but for a factor and an offset: stacking rows and columns of each film would copy them all.
    places = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), dim=-1)
    middle = torch.stack((centre[:, 1], centre[:, 0]), dim=1)
    return places * half[:, None, None, None] + middle[:, None, None]


def sampled(picture: Tensor, grid: Tensor) -> Tensor:
    """(N, K, C, C) of a picture (N, K, H, H) that covers the whole canvas, bilinear, zero outside it."""
    return functional.grid_sample(picture, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def crop_square(picture: Tensor, box: Tensor, canvas_side: int, crop_side: int) -> Tensor:
    """(N, K, C, C) square around a box of a picture (N, K, H, H); see `crop_grid`."""
    return sampled(picture, crop_grid(box, canvas_side, crop_side))


def pooled(picture: Tensor, factor: int) -> Tensor:
    """(N, K, C, C) to (N, K, C / factor, C / factor), area means.

    Channel by channel: engines would pad two channels to the sixteen of their blocked memory layout.
    """
    count, channels, side, _ = picture.shape
    small = functional.avg_pool2d(picture.reshape(count * channels, 1, side, side), factor)
    return small.reshape(count, channels, side // factor, side // factor)


def normalise_over_lungs(picture: Tensor, lungs: Tensor) -> Tensor:
    """Subtract the lungs' mean, divide by their standard deviation, limit to `CLIP_SD`.

    Args:
        picture: (N, 1, C, C) grey levels.
        lungs: (N, 2, C, C) probability; where they are empty the whole picture counts.
    """
    weight = lungs.amax(dim=1, keepdim=True)
    share = weight.mean(dim=(2, 3), keepdim=True)
    weight = torch.where(share >= MIN_LUNG_SHARE, weight, torch.ones_like(weight))
    total = weight.sum(dim=(2, 3), keepdim=True)
    mean = (picture * weight).sum(dim=(2, 3), keepdim=True) / total
    centred = picture - mean
    variance = (centred * centred * weight).sum(dim=(2, 3), keepdim=True) / total
    return (centred / (variance + 1e-6).sqrt()).clamp(-CLIP_SD, CLIP_SD)


def local_mean(picture: Tensor, side: int) -> Tensor:
    """Mean over a square around each pixel of (N, K, C, C), fewer pixels at the border.

    Two products with a band matrix: on matrix units far cheaper than two pooling passes. The constant stands
    on the right both times, where engines take it for a weight.
    """
    place = torch.arange(picture.shape[-1], device=picture.device)
    near = ((place[:, None] - place).abs() <= side // 2).to(picture.dtype)
    band = near / near.sum(dim=1, keepdim=True)
    return ((picture @ band.T).mT @ band.T).mT


def enlarged(picture: Tensor, factor: int) -> Tensor:
    """(N, K, C, C) to (N, K, factor C, factor C), bilinear between pixel centres; two matrix products."""
    size = picture.shape[-1]
    place = torch.arange(size, device=picture.device, dtype=picture.dtype)
    wanted = torch.arange(size * factor, device=picture.device, dtype=picture.dtype)
    wanted = ((wanted + 0.5) / factor - 0.5).clamp(0, size - 1)
    weight = (1 - (wanted[:, None] - place).abs()).clamp_min(0)
    return weight @ picture @ weight.T


def grown(lungs: Tensor, pixels: int) -> Tensor:
    """(N, 1, C / 4, C / 4) union of the lungs (N, 2, C, C), widened by about `pixels` of C on every side.

    Worked out at a quarter of the resolution and in two separable passes: a maximum filter of this size over
    the whole crop would cost as much as a tenth of the backbone. C must be a multiple of 4.
    """
    reach = max(1, round(pixels / 4))
    union = pooled(lungs.amax(dim=1, keepdim=True), 4)
    union = functional.max_pool2d(union, (2 * reach + 1, 1), stride=1, padding=(reach, 0))
    return functional.max_pool2d(union, (1, 2 * reach + 1), stride=1, padding=(0, reach))


def zone_maps(lungs: Tensor) -> Tensor:
    """Membership of each pixel in the six zones: thirds from apex to diaphragm dome, per lung.

    The apex is the first row of a lung; the dome is the last row of the lung's central third of columns,
    because the lateral sulcus dips lower; what lies below the dome belongs to the lower zone.

    Args:
        lungs: (N, 2, M, M) probability, patient right then left.

    Returns:
        (N, 6, M, M) in [0, 1]: RU RM RL LU LM LL; a lung's three maps sum to its own mask.
    """
    size = lungs.shape[-1]
    mask = (lungs >= 0.5).to(lungs.dtype)
    place = torch.arange(size, device=lungs.device, dtype=lungs.dtype)
    left, right = edges(mask.sum(dim=2))
    third = (right - left) / 3
    inner = (place >= (left + third)[..., None]) & (place < (right - third)[..., None])
    apex, lowest = edges(mask.sum(dim=3))
    _, dome = edges((mask * inner.to(mask.dtype)[:, :, None, :]).sum(dim=3))
    dome = torch.where(dome > apex + 1, dome, lowest)
    upper_line = apex + (dome - apex) / 3
    lower_line = apex + (dome - apex) * (2 / 3)
    upper = (place < upper_line[..., None]).to(mask.dtype)
    lower = (place >= lower_line[..., None]).to(mask.dtype)
    rows = torch.stack((upper, 1 - upper - lower, lower), dim=2)
    maps = lungs[:, :, None] * rows[..., None]
    return maps.flatten(1, 2)
