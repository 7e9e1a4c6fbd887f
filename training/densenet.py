"""DenseNet-121 (Huang et al. 2017) with a configurable growth rate, and import of published weights.

Layer names follow torchvision's, so that its weights, and CheXNet re-implementations derived from it, load
after a renaming of keys. The decision a reader would question: the network is written out here instead of
taken from a package, because growth rate 16 (a quarter of the work, the layout unchanged) and a grey or
multi-channel stem are needed, and torchvision is not otherwise a dependency.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from screener.errors import ConfigError

LAYERS_121 = (6, 12, 24, 16)
"""Dense layers of the four blocks."""


class DenseLayer(nn.Module):
    """BN-ReLU-1x1 to 4 growth, BN-ReLU-3x3 to growth; the result joins the input."""

    def __init__(self, num_in: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(num_in)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(num_in, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """(N, num_in, h, w) to (N, num_in + growth, h, w)."""
        squeezed = self.conv1(self.relu1(self.norm1(features)))
        new = self.conv2(self.relu2(self.norm2(squeezed)))
        return torch.cat((features, new), dim=1)


class DenseNet121(nn.Module):
    """Convolutional part of DenseNet-121: no pooling at the end, no classifier.

    Args:
        num_channels: channels of the input.
        growth: channels each dense layer adds; 32 is the published network.
    """

    def __init__(self, *, num_channels: int, growth: int = 32) -> None:
        super().__init__()
        width = 2 * growth
        steps: OrderedDict[str, nn.Module] = OrderedDict()
        steps["conv0"] = nn.Conv2d(num_channels, width, 7, stride=2, padding=3, bias=False)
        steps["norm0"] = nn.BatchNorm2d(width)
        steps["relu0"] = nn.ReLU(inplace=True)
        steps["pool0"] = nn.MaxPool2d(3, stride=2, padding=1)
        for block, num_layers in enumerate(LAYERS_121, start=1):
            layers: OrderedDict[str, nn.Module] = OrderedDict(
                (f"denselayer{i + 1}", DenseLayer(width + i * growth, growth)) for i in range(num_layers)
            )
            steps[f"denseblock{block}"] = nn.Sequential(layers)
            width += num_layers * growth
            if block < len(LAYERS_121):
                steps[f"transition{block}"] = _transition(width)
                width //= 2
        steps["norm5"] = nn.BatchNorm2d(width)
        steps["relu5"] = nn.ReLU(inplace=True)
        self.features = nn.Sequential(steps)
        self.num_features = width

    def forward(self, picture: Tensor) -> Tensor:
        """(N, num_channels, C, C) to (N, num_features, C / 32, C / 32), at least 0."""
        features: Tensor = self.features(picture)
        return features


def _transition(width: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            norm=nn.BatchNorm2d(width),
            relu=nn.ReLU(inplace=True),
            conv=nn.Conv2d(width, width // 2, 1, bias=False),
            pool=nn.AvgPool2d(2),
        )
    )


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a weight file, read without executing anything that is in it.

    Args:
        path: `.safetensors`, or a file written by `torch.save` that holds tensors only.

    Raises:
        ConfigError: the file is missing or neither, or holds something other than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"weight file is missing, holds more than tensors or is damaged: {type(error).__name__}"
        ) from error
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        raise ConfigError("weight file does not hold a mapping of names to tensors")
    return dict(loaded)


def backbone_keys(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename torchvision or CheXNet keys to this module's; classifier weights are left out.

    CheXNet re-implementations prefix `module.densenet121.` and, when saved by old torch versions, split the
    layer names (`norm.1` for `norm1`).
    """
    renamed = {}
    for name, tensor in weights.items():
        inner = re.sub(r"^(module\.)?(densenet121\.)?", "", name)
        inner = re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", inner)
        if inner.startswith("features."):
            renamed[inner] = tensor
    return renamed


def import_backbone(backbone: DenseNet121, weights: Mapping[str, Tensor]) -> None:
    """Load published DenseNet-121 weights into a backbone, whatever its number of input channels.

    A stem for three colours is averaged over them and scaled so that a grey picture copied to all of them
    gives the same response; further input channels start at zero.

    Raises:
        ConfigError: the weights are not those of a DenseNet-121 with this growth rate.
    """
    found = backbone_keys(weights)
    wanted = backbone.state_dict()
    stem = "features.conv0.weight"
    if stem in found and found[stem].shape[1] != wanted[stem].shape[1]:
        num_out, _, height, width = found[stem].shape
        grey = torch.zeros(num_out, wanted[stem].shape[1], height, width)
        grey[:, :1] = found[stem].sum(dim=1, keepdim=True)
        found[stem] = grey
    for name, tensor in wanted.items():
        if name.endswith("num_batches_tracked"):
            found.setdefault(name, tensor)
        elif name not in found or found[name].shape != tensor.shape:
            shape = tuple(found[name].shape) if name in found else "nothing"
            raise ConfigError(
                f"weights do not fit DenseNet-121: {name} is {shape}, expected {tuple(tensor.shape)}"
            )
    backbone.load_state_dict({name: found[name] for name in wanted})
