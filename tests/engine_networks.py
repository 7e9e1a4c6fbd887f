"""Networks with random weights that honour the graph contract, exported for the engine tests.

They stand in for a trained bundle: same inputs, outputs and kinds of operators as the shipped graphs
(pooling, U-Net, crop box by cumulative sums, grid sample, normalisation over the lungs, dense blocks), at any
size.
"""

from __future__ import annotations

import functools
import warnings
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

SIDE = 96
"""Canvas side of the small test networks (the shipped ones use 768)."""


def _double_conv(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


class MiniUNet(nn.Module):
    """Canvas (N, 1, S, S) to lungs (N, 2, S/3, S/3), box (N, 4) and frontal_logit (N, 1)."""

    def __init__(self, base: int, depth: int) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _double_conv(before, after) for before, after in zip([1, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(wide, narrow, 2, stride=2)
            for wide, narrow in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.join = nn.ModuleList(_double_conv(2 * width, width) for width in widths[-2::-1])
        self.head = nn.Conv2d(base, 2, 1)
        self.frontal = nn.Linear(widths[-1], 1)

    def forward(self, canvas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability maps, crop box in canvas pixels, frontal log-odds."""
        features = nnf.avg_pool2d(canvas, 3)
        skips = []
        for level, block in enumerate(self.down):
            features = block(nnf.max_pool2d(features, 2) if level else features)
            skips.append(features)
        frontal = self.frontal(features.mean(dim=(2, 3)))
        for up, join, skip in zip(self.up, self.join, reversed(skips[:-1]), strict=True):
            features = join(torch.cat([up(features), skip], dim=1))
        lungs = torch.sigmoid(self.head(features))
        return lungs, _box(lungs, canvas.shape[-1]), frontal


def _box(lungs: Tensor, side: int) -> Tensor:
    """1 % and 99 % quantiles of the mask's row and column sums, in canvas pixels."""
    both = lungs.amax(dim=1)
    edges = []
    for axis in (2, 1):
        share = torch.cumsum(both.sum(dim=axis), dim=1)
        share = share / share[:, -1:]
        edges.append(((share < 0.01).float().sum(dim=1), (share < 0.99).float().sum(dim=1) + 1))
    (top, bottom), (left, right) = edges
    return torch.stack([top, left, bottom, right], dim=1) * (side / lungs.shape[-1])


class _DenseLayer(nn.Module):
    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(channels), nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2, self.conv2 = (
            nn.BatchNorm2d(4 * growth),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Features with this layer's growth appended."""
        new = self.conv2(torch.relu(self.norm2(self.conv1(torch.relu(self.norm1(features))))))
        return torch.cat([features, new], dim=1)


class MiniDenseNet(nn.Module):
    """Canvas, lungs and box to diagnosis, stage, zone logits and activation maps."""

    def __init__(self, growth: int, blocks: tuple[int, ...], crop: int) -> None:
        super().__init__()
        self.crop = crop
        channels = 2 * growth
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["stem"] = nn.Conv2d(1, channels, 7, stride=2, padding=3, bias=False)
        layers["stem_norm"], layers["stem_relu"] = nn.BatchNorm2d(channels), nn.ReLU()
        layers["stem_pool"] = nn.MaxPool2d(3, stride=2, padding=1)
        for index, depth in enumerate(blocks):
            for layer in range(depth):
                layers[f"dense{index}_{layer}"] = _DenseLayer(channels, growth)
                channels += growth
            layers[f"norm{index}"], layers[f"relu{index}"] = nn.BatchNorm2d(channels), nn.ReLU()
            if index + 1 < len(blocks):
                layers[f"halve{index}"] = nn.Conv2d(channels, channels // 2, 1, bias=False)
                layers[f"pool{index}"] = nn.AvgPool2d(2)
                channels //= 2
        self.features = nn.Sequential(layers)
        self.diagnosis, self.stage = nn.Linear(channels, 2), nn.Linear(channels, 4)
        self.zones = nn.Conv2d(channels, 4, 1)

    def forward(self, canvas: Tensor, lungs: Tensor, box: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logits of the three heads and class activation maps over the box."""
        side = canvas.shape[-1]
        scale = torch.stack([box[:, 3] - box[:, 1], box[:, 2] - box[:, 0]], dim=1) / side
        shift = torch.stack([box[:, 3] + box[:, 1], box[:, 2] + box[:, 0]], dim=1) / side - 1
        line = torch.linspace(-1 + 1 / self.crop, 1 - 1 / self.crop, self.crop)
        rows, columns = torch.meshgrid(line, line, indexing="ij")
        grid = torch.stack([columns, rows], dim=-1)[None] * scale[:, None, None, :] + shift[:, None, None, :]
        crop = nnf.grid_sample(canvas, grid, align_corners=False)
        weight = nnf.grid_sample(lungs.amax(dim=1, keepdim=True), grid, align_corners=False)
        total = weight.sum(dim=(2, 3), keepdim=True) + 1.0
        mean = (crop * weight).sum(dim=(2, 3), keepdim=True) / total
        variance = ((crop - mean) ** 2 * weight).sum(dim=(2, 3), keepdim=True) / total
        features = self.features((crop - mean) / torch.sqrt(variance + 1e-4))
        pooled = features.mean(dim=(2, 3))
        activation = nnf.conv2d(features, self.diagnosis.weight[:, :, None, None])
        height, width = features.shape[-2:]
        zones = nnf.avg_pool2d(self.zones(features), (height // 3, width // 2))[:, :, :3].permute(0, 3, 2, 1)
        return self.diagnosis(pooled), self.stage(pooled), zones.reshape(-1, 6, 4), activation


SEGMENTATION_OUTPUTS = ("lungs", "box", "frontal_logit")
CLASSIFICATION_OUTPUTS = ("diagnosis_logits", "stage_logits", "zone_logits", "activation")


@dataclass(frozen=True, slots=True)
class NetworkPair:
    """Two modules in evaluation mode and their ONNX bytes."""

    unet: MiniUNet
    densenet: MiniDenseNet
    segmentation: bytes
    classification: bytes
    side: int


def _settle(module: nn.Module) -> None:
    """Give batch normalisation running statistics that a trained network would have."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            nn.init.normal_(layer.running_mean, 0.0, 0.1)
            nn.init.uniform_(layer.running_var, 0.8, 1.2)


def export(
    module: nn.Module, examples: tuple[Tensor, ...], inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> bytes:
    """ONNX bytes with a dynamic batch, as training exports them."""
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        # torch's exporter warns about its own internals while tracing; nothing in them is ours to fix.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message=".*", category=UserWarning, module="torch")
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=tuple({0: batch} for _ in examples),
            verbose=False,
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def build_pair(
    *, base: int, depth: int, growth: int, blocks: tuple[int, ...], side: int, crop: int
) -> NetworkPair:
    """Networks of the given size with seeded random weights, and their ONNX graphs."""
    torch.manual_seed(7)
    unet, densenet = MiniUNet(base, depth).eval(), MiniDenseNet(growth, blocks, crop).eval()
    _settle(unet)
    _settle(densenet)
    canvas, lungs = torch.rand(2, 1, side, side), torch.rand(2, 2, side // 3, side // 3)
    box = torch.tensor([[0.0, 0.0, side, side]] * 2)
    with torch.no_grad():
        segmentation = export(unet, (canvas,), ("canvas",), SEGMENTATION_OUTPUTS)
        classification = export(
            densenet, (canvas, lungs, box), ("canvas", "lungs", "box"), CLASSIFICATION_OUTPUTS
        )
    return NetworkPair(unet, densenet, segmentation, classification, side)


@functools.cache
def tiny_pair() -> NetworkPair:
    """The pair the tests run on, exported once per process."""
    return build_pair(base=8, depth=2, growth=8, blocks=(2, 2), side=SIDE, crop=64)


def classification_feeds(count: int, seed: int = 3) -> dict[str, npt.NDArray[np.float32]]:
    """Canvases of noise, lungs and boxes at fractional positions, for the tiny pair."""
    generator = np.random.default_rng(seed)
    box = np.array([[9.3, 7.6, 80.2, 86.9]]) + generator.uniform(-4, 4, (count, 4))
    return {
        "canvas": generator.random((count, 1, SIDE, SIDE), dtype=np.float32),
        "lungs": generator.random((count, 2, SIDE // 3, SIDE // 3), dtype=np.float32),
        "box": box.astype(np.float32),
    }
