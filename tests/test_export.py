"""Torch to ONNX: names, dynamic batch, parity with torch, 16-bit storage, TensorRT-RTX."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from engines.onnx_header import read_onnx_header
from engines.openvino import OpenVinoEngine
from training.export import (
    CLASSIFICATION_INPUTS,
    CLASSIFICATION_OUTPUTS,
    SEGMENTATION_OUTPUTS,
    export_classification,
    export_segmentation,
    fold_normalisation,
    largest_difference,
    round_weights,
)
from training.lung_geometry import box_from_lungs
from training.networks import (
    ClassificationConfig,
    ClassificationNetwork,
    LungClassifier,
    SegmentationConfig,
    SegmentationNetwork,
)
from training.packing import PARITY


@dataclass(frozen=True)
class Exported:
    segmentation: SegmentationNetwork
    classification: ClassificationNetwork
    segmentation_onnx: bytes
    classification_onnx: bytes


def used(network: torch.nn.Module) -> torch.nn.Module:
    """The network as training leaves it: normalisation statistics are not those of a fresh one."""
    generator = torch.Generator().manual_seed(0)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(0.1 * torch.randn(buffer.shape, generator=generator))
        elif name.endswith("running_var"):
            buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return network.eval()


@pytest.fixture(scope="module")
def exported() -> Exported:
    torch.manual_seed(0)
    segmentation = SegmentationNetwork(SegmentationConfig(base=8, depth=2))
    classification = ClassificationNetwork(
        ClassificationConfig(growth=4, crop_side=128, stage_head="ordinal", finding_maps=True)
    )
    round_weights(used(segmentation))
    round_weights(used(classification))
    return Exported(
        segmentation, classification, export_segmentation(segmentation), export_classification(classification)
    )


def feeds(count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(1)
    lungs = np.zeros((count, 2, 256, 256), np.float32)
    lungs[:, 0, 60:200, 40:110] = lungs[:, 1, 60:180, 140:210] = 1
    box = box_from_lungs(torch.from_numpy(lungs), 768, 0.04).numpy()
    return {"canvas": generator.random((count, 1, 768, 768), np.float32), "lungs": lungs, "box": box}


def test_tensors_are_named_as_documented(exported: Exported) -> None:
    header = read_onnx_header(exported.segmentation_onnx)
    assert [spec.name for spec in header.inputs] == ["canvas"]
    assert [spec.name for spec in header.outputs] == list(SEGMENTATION_OUTPUTS)
    header = read_onnx_header(exported.classification_onnx)
    assert [spec.name for spec in header.inputs] == list(CLASSIFICATION_INPUTS)
    assert [spec.name for spec in header.outputs] == list(CLASSIFICATION_OUTPUTS)
    assert all(spec.shape[0] is None for spec in (*header.inputs, *header.outputs))


@pytest.mark.parametrize("count", [1, 3])
def test_onnx_runtime_agrees_with_torch(exported: Exported, count: int) -> None:
    fed = feeds(count)
    found = largest_difference(
        exported.segmentation_onnx, exported.segmentation, {"canvas": fed["canvas"]}, SEGMENTATION_OUTPUTS
    ) | largest_difference(exported.classification_onnx, exported.classification, fed, CLASSIFICATION_OUTPUTS)
    assert max(found.values()) <= PARITY, found


def test_openvino_float32_agrees_with_torch(exported: Exported) -> None:
    fed = feeds(2)
    engine = OpenVinoEngine(exported.classification_onnx, precision="fp32")
    found = engine.run(fed)
    engine.close()
    with torch.no_grad():
        expected = exported.classification(*(torch.from_numpy(value) for value in fed.values()))
    for name, want in zip(CLASSIFICATION_OUTPUTS, expected, strict=True):
        assert np.abs(found[name] - want.numpy()).max() <= PARITY, name


def test_weights_are_stored_in_sixteen_bits(exported: Exported) -> None:
    weights = sum(p.numel() for p in exported.segmentation.parameters())
    assert len(exported.segmentation_onnx) < 2 * weights * 1.2 + 40_000


def test_folding_normalisation_does_not_change_the_network() -> None:
    torch.manual_seed(1)
    network = used(LungClassifier(ClassificationConfig(growth=4, crop_side=64)))
    crop, lungs = torch.rand(1, 1, 64, 64), torch.ones(1, 2, 64, 64)
    with torch.no_grad():
        before = network(crop, lungs)
        fold_normalisation(network)
        after = network(crop, lungs)
    for first, second in zip(before, after, strict=True):
        assert torch.allclose(first, second, atol=1e-4)


def test_tensorrt_rtx_parses_and_builds_both_graphs(exported: Exported) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    log = trt.Logger(trt.Logger.ERROR)
    for onnx, shapes in (
        (exported.segmentation_onnx, {"canvas": (1, 768, 768)}),
        (exported.classification_onnx, {"canvas": (1, 768, 768), "lungs": (2, 256, 256), "box": (4,)}),
    ):
        builder = trt.Builder(log)
        network = builder.create_network()
        parser = trt.OnnxParser(network, log)
        assert parser.parse(onnx), [parser.get_error(i).desc() for i in range(parser.num_errors)]
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, (1, *shape), (4, *shape), (8, *shape))
        config = builder.create_builder_config()
        config.add_optimization_profile(profile)
        assert builder.build_serialized_network(network, config) is not None
