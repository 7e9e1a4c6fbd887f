"""A bundle's ONNX graphs back to torch networks: the reference that every other engine is held against.

Only weights are read from the graph (initialisers, by the names the exporter kept) and the configuration
from its metadata; nothing is unpickled or executed. The networks compute what the file holds: normalisation
folded, weights rounded to 16 bits.
"""

from __future__ import annotations

import json
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from engines.bundle import Bundle
from engines.errors import BundleError
from training.export import CONFIG_KEY, fold_normalisation
from training.networks import (
    ClassificationConfig,
    ClassificationNetwork,
    SegmentationConfig,
    SegmentationNetwork,
)


def restore_networks(bundle: Bundle) -> tuple[SegmentationNetwork, ClassificationNetwork]:
    """The bundle's two networks in evaluation mode, float32, on the CPU.

    Raises:
        BundleError: a graph without configuration, or whose weights do not fit it.
    """
    segmentation_model = bundle.read_graph("segmentation")
    segmentation = SegmentationNetwork(SegmentationConfig(**_config(segmentation_model)))
    _load(segmentation, segmentation_model)
    classification_model = bundle.read_graph("classification")
    classification = ClassificationNetwork(ClassificationConfig(**_config(classification_model)))
    _load(classification, classification_model)
    return segmentation, classification


def _config(model: bytes) -> dict[str, Any]:
    notes = {note.key: note.value for note in onnx.load_from_string(model).metadata_props}
    if CONFIG_KEY not in notes:
        raise BundleError(
            f"the graph has no metadata {CONFIG_KEY}: it was not exported by this training package"
        )
    return dict(json.loads(notes[CONFIG_KEY]))


def _load(network: nn.Module, model: bytes) -> None:
    fold_normalisation(network.eval())
    weights: dict[str, Tensor] = {}
    for constant in onnx.load_from_string(model).graph.initializer:
        values = torch.from_numpy(numpy_helper.to_array(constant).copy()).float()
        weights[constant.name.removesuffix("_half")] = values
    expected = network.state_dict()
    wanted = {name for name in expected if not name.endswith("num_batches_tracked")}
    missing = sorted(
        name for name in wanted if name not in weights or weights[name].shape != expected[name].shape
    )
    if missing:
        raise BundleError(f"the graph lacks weights of the network: {', '.join(missing[:5])}")
    network.load_state_dict({name: weights[name] for name in wanted}, strict=False)
