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
    segmentation = restore_segmentation(bundle)
    classification_model = bundle.read_graph("classification")
    classification = ClassificationNetwork(ClassificationConfig(**_config(classification_model)))
    _load(classification, classification_model)
    return segmentation, classification


def restore_segmentation(bundle: Bundle) -> SegmentationNetwork:
    """The bundle's segmentation network alone; otherwise as `restore_networks`."""
    model = bundle.read_graph("segmentation")
    network = SegmentationNetwork(SegmentationConfig(**_config(model)))
    _load(network, model)
    return network


def _config(model: bytes) -> dict[str, Any]:
    notes = {note.key: note.value for note in onnx.load_from_string(model).metadata_props}
    if CONFIG_KEY not in notes:
        raise BundleError(
            f"the graph has no metadata {CONFIG_KEY}: it was not exported by this training package"
        )
    return dict(json.loads(notes[CONFIG_KEY]))


def _load(network: nn.Module, model: bytes) -> None:
    unused = {name for name, weight in network.named_parameters() if not weight.requires_grad}
    fold_normalisation(network.eval())
    weights = _constants(model)
    expected = {name: weight.shape for name, weight in network.state_dict().items() if name not in unused}
    wanted = [name for name in expected if not name.endswith("num_batches_tracked")]
    missing = [name for name in wanted if name not in weights or weights[name].shape != expected[name]]
    if missing:
        raise BundleError(f"the graph lacks weights of the network: {', '.join(missing[:5])}")
    network.load_state_dict({name: weights[name] for name in wanted}, strict=False)


def _constants(model: bytes) -> dict[str, Tensor]:
    """Weights by the network's own names.

    The exporter stores a linear layer over a tensor of rank 3 transposed and without its name; it is
    recognised by the bias added to its product.
    """
    graph = onnx.load_from_string(model).graph
    weights = {
        constant.name.removesuffix("_half"): torch.from_numpy(numpy_helper.to_array(constant).copy()).float()
        for constant in graph.initializer
    }
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        names = set(node.input)
        product = next((name for name in names if name in products), None)
        bias = next((name for name in names if name.endswith(".bias")), None)
        if node.op_type == "Add" and product and bias:
            weights[bias.removesuffix("bias") + "weight"] = weights[products[product]].T
    return weights
