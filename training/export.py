"""Trained networks to the two ONNX graphs of a bundle, weights stored in 16 bits.

The decision a reader would question: weights are rounded to 16 bits in the torch network first and the graph
keeps them as float16 constants behind a cast. Torch and every backend then run the same network, engines fold
the casts when they compile, and the files are half as large; all arithmetic stays float32.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from training.densenet import DenseLayer
from training.networks import CANVAS_SIDE, MASK_SIDE, ClassificationNetwork, SegmentationNetwork

SEGMENTATION_INPUTS = ("canvas",)
SEGMENTATION_OUTPUTS = ("lungs", "box", "frontal_logit")
CLASSIFICATION_INPUTS = ("canvas", "lungs", "box")
CLASSIFICATION_OUTPUTS = ("diagnosis_logits", "stage_logits", "zone_logits", "activation")

_SMALL = 256
"""Tensors with fewer elements (biases, shapes, cut points) stay float32: they cost nothing."""


CONFIG_KEY = "screener.network"
"""Metadata key of the network's configuration, as JSON."""


def fold_normalisation(network: nn.Module) -> None:
    """Fold each batch normalisation that follows a convolution into it, in place.

    The exporter would fold them too, after which the weights would no longer be the rounded ones.
    """
    for module, first, second in foldable_pairs(network):
        setattr(module, first, fuse_conv_bn_eval(getattr(module, first), getattr(module, second)))
        setattr(module, second, nn.Identity())


def foldable_pairs(network: nn.Module) -> list[tuple[nn.Module, str, str]]:
    """The module, and in it the names of the convolution and of the batch normalisation right after it."""
    pairs: list[tuple[nn.Module, str, str]] = []
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            pairs += [(module, first, second) for first, second in itertools.pairwise(module._modules)]
        elif isinstance(module, DenseLayer):
            pairs.append((module, "conv1", "norm2"))
    return [
        (module, first, second)
        for module, first, second in pairs
        if isinstance(getattr(module, first), nn.Conv2d)
        and isinstance(getattr(module, second), nn.BatchNorm2d)
    ]


def round_weights(network: nn.Module) -> None:
    """Fold normalisation and round every weight to 16 bits, in place: the network that the file will hold."""
    fold_normalisation(network.eval())
    with torch.no_grad():
        for weight in network.parameters():
            if weight.numel() >= _SMALL:
                weight.copy_(weight.half().float())


def export_segmentation(network: SegmentationNetwork) -> bytes:
    """ONNX of canvas to lungs, box and frontal log-odds; batch dimension dynamic."""
    example = (torch.rand(2, 1, CANVAS_SIDE, CANVAS_SIDE),)
    return _export(network, example, SEGMENTATION_INPUTS, SEGMENTATION_OUTPUTS)


def example_feeds(count: int) -> dict[str, npt.NDArray[np.float32]]:
    """Inputs of the classification graph for `count` films: noise, two block lungs, boxes around them."""
    lungs = np.zeros((count, 2, MASK_SIDE, MASK_SIDE), np.float32)
    lungs[:, 0, 60:200, 40:110] = lungs[:, 1, 60:200, 140:210] = 1
    boxes = np.array([[180, 120, 600, 630], [150, 100, 640, 660]], np.float32)
    return {
        "canvas": np.random.default_rng(0).random((count, 1, CANVAS_SIDE, CANVAS_SIDE), dtype=np.float32),
        "lungs": lungs,
        "box": np.resize(boxes, (count, 4)),
    }


def export_classification(network: ClassificationNetwork) -> bytes:
    """ONNX of canvas, lungs and box to the task heads; batch dimension dynamic."""
    feeds = example_feeds(2)
    example = tuple(torch.from_numpy(feeds[name]) for name in CLASSIFICATION_INPUTS)
    return _export(network, example, CLASSIFICATION_INPUTS, CLASSIFICATION_OUTPUTS)


def _export(
    network: SegmentationNetwork | ClassificationNetwork,
    example: tuple[Tensor, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
) -> bytes:
    import onnx

    batch = torch.export.Dim("batch", min=1, max=1024)
    network = network.eval()
    # The exporter logs and warns about its own opset conversions; neither says anything about the network.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            network,
            example,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple({0: batch} for _ in example),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    buffer = io.BytesIO()
    onnx.save(program.model_proto, buffer)
    return with_config(store_half(buffer.getvalue()), network)


def with_config(model: bytes, network: SegmentationNetwork | ClassificationNetwork) -> bytes:
    """Note the network's configuration in the graph's metadata, so that `training.restore` can rebuild it."""
    import onnx

    proto = onnx.load_from_string(model)
    proto.metadata_props.add(key=CONFIG_KEY, value=json.dumps(asdict(network.config)))
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def store_half(model: bytes) -> bytes:
    """Store large float32 constants that are exact in 16 bits as float16 behind a cast to float32.

    Constants that would lose anything are left as they are.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    proto = onnx.load_from_string(model)
    casts: list[Any] = []
    for constant in proto.graph.initializer:
        if constant.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(constant)
        halved = values.astype(np.float16)
        if values.size < _SMALL or not np.array_equal(halved.astype(np.float32), values):
            continue
        name = constant.name
        constant.CopyFrom(numpy_helper.from_array(halved, f"{name}_half"))
        casts.append(
            helper.make_node("Cast", [f"{name}_half"], [name], name=f"{name}_cast", to=TensorProto.FLOAT)
        )
    for place, node in enumerate(casts):
        proto.graph.node.insert(place, node)
    names = {cast.output[0] for cast in casts}
    kept = [value for value in proto.graph.value_info if value.name not in names]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    for value in (*proto.metadata_props,):
        proto.metadata_props.remove(value)
    for node in proto.graph.node:
        # Source locations of the exporting machine have no place in a file that ships.
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.checker.check_model(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def largest_difference(
    model: bytes, network: nn.Module, feeds: dict[str, np.ndarray], outputs: tuple[str, ...]
) -> dict[str, float]:
    """Largest absolute difference of each output between a graph in ONNX Runtime (float32) and torch.

    Args:
        model: ONNX.
        network: the torch network that it was exported from.
        feeds: inputs by name, in the order of the network's arguments.
        outputs: output names in order.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    found = session.run(list(outputs), feeds)
    with torch.no_grad():
        expected = network.eval()(*(torch.from_numpy(value) for value in feeds.values()))
    return {
        name: float(np.abs(have - want.numpy()).max())
        for name, have, want in zip(outputs, found, expected, strict=True)
    }


def write_graph(path: Path, model: bytes) -> None:
    """Write an exported graph."""
    path.write_bytes(model)
