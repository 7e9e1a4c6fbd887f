"""A U-Net that works at half its input's resolution and answers at full resolution.

A stride-2 stem and a pixel-shuffle head bracket an ordinary U-Net (Ronneberger et al. 2015). The decision a
reader would question: at 256 pixels the first and last full-resolution blocks cost four fifths of the work
and add nothing to lung outlines, and 32-channel blocks are the narrowest that processors with matrix units
run well, so width is kept and resolution halved.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvBlock(nn.Sequential):
    """Two 3 x 3 convolutions, each with batch normalisation and ReLU."""

    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__(
            nn.Conv2d(num_in, num_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(num_out, num_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(num_out),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """Stride-2 stem, `depth` poolings, skip connections, pixel-shuffle head.

    Args:
        num_classes: K, output channels.
        base: channels of the first block; doubled at each of the first three poolings, then kept.
        depth: number of 2 x 2 poolings after the stem.
    """

    def __init__(self, *, num_classes: int, base: int, depth: int = 4) -> None:
        super().__init__()
        widths = [base * 2 ** min(level, 3) for level in range(depth + 1)]
        self.stem = nn.Sequential(
            nn.Conv2d(1, base, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(base),
            nn.ReLU(inplace=True),
        )
        self.first = ConvBlock(base, base)
        self.down = nn.ModuleList(ConvBlock(a, b) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(
            ConvBlock(below + here, here) for here, below in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.head = nn.Conv2d(base, 4 * num_classes, 1)
        self.num_features = widths[-1]

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits and the deepest features.

        Args:
            picture: (N, 1, M, M), M a multiple of 2 ** (depth + 1).

        Returns:
            (N, K, M, M) logits and (N, F, M / 2 ** (depth + 1), ...) features.
        """
        here = self.first(self.stem(picture))
        skips = []
        for block in self.down:
            skips.append(here)
            here = block(functional.max_pool2d(here, 2))
        deepest = here
        for block, skip in zip(self.up, reversed(skips), strict=True):
            wider = functional.interpolate(here, scale_factor=2.0, mode="nearest")
            here = block(torch.cat((wider, skip), dim=1))
        return functional.pixel_shuffle(self.head(here), 2), deepest
