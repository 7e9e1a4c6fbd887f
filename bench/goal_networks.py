"""The two networks that the speed goals name, with random weights, on which neither rate nor work depends.

A reader may question the width of the U-Net: base 32 means 32 channels at full resolution, doubled at each of
four poolings, two 3 x 3 convolutions a level, as Ronneberger et al. (2015) have it: 24 GFLOP at 256 x 256.
"""

from __future__ import annotations

import io
import itertools
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from training.densenet import DenseNet121

NUM_LEVELS = 5


@dataclass(frozen=True, slots=True)
class GoalNetwork:
    """A network, the side of its square one-channel input in pixels, and the images/s it is to reach."""

    name: str
    module: nn.Module
    side: int
    goal: float


def goal_networks(*, small: bool = False) -> tuple[GoalNetwork, ...]:
    """DenseNet-121 (growth 32) at 224² and U-Net (base 32) at 256², in evaluation mode.

    Args:
        small: the same layers with an eighth of the channels at 64², to try the code that measures.
    """
    densenet = DenseNet121(num_channels=1, growth=4 if small else 32)
    classifier = nn.Sequential(
        densenet, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(densenet.num_features, 14)
    )
    unet = PlainUNet(4 if small else 32)
    sides = (64, 64) if small else (224, 256)
    return (
        GoalNetwork("DenseNet-121 224²", classifier.eval(), sides[0], 25_000.0),
        GoalNetwork("U-Net base 32 256²", unet.eval(), sides[1], 10_000.0),
    )


class PlainUNet(nn.Module):
    """U-Net of `NUM_LEVELS` levels, one channel in, two out."""

    def __init__(self, base: int) -> None:
        super().__init__()
        widths = [base * 2**level for level in range(NUM_LEVELS)]
        self.down = nn.ModuleList(_block(a, b) for a, b in itertools.pairwise([1, *widths]))
        pairs = list(itertools.pairwise(reversed(widths)))
        self.enlarge = nn.ModuleList(nn.ConvTranspose2d(below, here, 2, stride=2) for below, here in pairs)
        self.up = nn.ModuleList(_block(below, here) for below, here in pairs)
        self.head = nn.Conv2d(base, 2, 1)

    def forward(self, picture: Tensor) -> Tensor:
        """(N, 1, M, M), M a multiple of 16, to (N, 2, M, M) logits."""
        skips = []
        here = picture
        for level, block in enumerate(self.down):
            here = block(here if level == 0 else nn.functional.max_pool2d(here, 2))
            skips.append(here)
        for enlarge, block, skip in zip(self.enlarge, self.up, reversed(skips[:-1]), strict=True):
            here = block(torch.cat((skip, enlarge(here)), dim=1))
        logits: Tensor = self.head(here)
        return logits


def _block(num_in: int, num_out: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (num_in, num_out):
        layers += [nn.Conv2d(channels, num_out, 3, padding=1, bias=False), nn.BatchNorm2d(num_out), nn.ReLU()]
    return nn.Sequential(*layers)


def to_onnx(network: GoalNetwork) -> bytes:
    """A goal network as ONNX with a free batch, input `image`, output `answer`; needs torch only."""
    written = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs nothing else calls itself old
        torch.onnx.export(
            network.module,
            (torch.zeros(2, 1, network.side, network.side),),
            written,  # type: ignore[arg-type]  # this exporter takes a file
            dynamo=False,
            opset_version=18,
            input_names=["image"],
            output_names=["answer"],
            dynamic_axes={"image": {0: "n"}, "answer": {0: "n"}},
        )
    return written.getvalue()
