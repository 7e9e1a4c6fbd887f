"""The two networks: shapes, geometry inside the graphs, weight import."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from screener.errors import ConfigError
from training.densenet import DenseNet121, backbone_keys, import_backbone, read_weights
from training.lung_geometry import (
    box_from_lungs,
    crop_square,
    edges,
    enlarged,
    local_mean,
    normalise_over_lungs,
    pooled,
    zone_maps,
)
from training.networks import (
    CANVAS_SIDE,
    ClassificationConfig,
    ClassificationNetwork,
    SegmentationConfig,
    SegmentationNetwork,
    StageHead,
    class_logits_from_cut_points,
)

SMALL = ClassificationConfig(growth=4, crop_side=128)


def two_lungs(count: int = 1, side: int = 256) -> torch.Tensor:
    lungs = torch.zeros(count, 2, side, side)
    lungs[:, 0, 60:200, 40:110] = 1
    lungs[:, 1, 60:180, 140:210] = 1
    return lungs


def test_segmentation_outputs_have_the_documented_shapes() -> None:
    network = SegmentationNetwork(SegmentationConfig(base=8)).eval()
    with torch.no_grad():
        lungs, box, frontal = network(torch.rand(2, 1, CANVAS_SIDE, CANVAS_SIDE))
    assert lungs.shape == (2, 2, 256, 256)
    assert box.shape == (2, 4)
    assert frontal.shape == (2, 1)
    assert 0 <= float(lungs.min()) <= float(lungs.max()) <= 1


def test_box_surrounds_the_lungs_with_its_margin() -> None:
    box = box_from_lungs(two_lungs(), 768, margin=0.0)[0]
    assert box.tolist() == pytest.approx([180, 120, 600, 630], abs=9)
    wider = box_from_lungs(two_lungs(), 768, margin=0.1)[0]
    assert wider[0] < box[0]
    assert wider[3] > box[3]


def test_a_speck_does_not_move_the_box() -> None:
    with_speck = two_lungs()
    with_speck[0, 0, 2:6, 2:6] = 1
    assert torch.equal(box_from_lungs(with_speck, 768, 0.04), box_from_lungs(two_lungs(), 768, 0.04))


def test_an_empty_mask_takes_the_whole_canvas() -> None:
    assert box_from_lungs(torch.zeros(1, 2, 256, 256), 768, 0.04)[0].tolist() == [0, 0, 768, 768]


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 60))
def test_edges_of_a_block_are_its_ends(before: int, length: int, after: int) -> None:
    profile = torch.cat((torch.zeros(before), torch.ones(length), torch.zeros(after)))
    first, last = edges(profile, quantile=0.001)
    assert (int(first), int(last)) == (before, before + length)


def test_crop_keeps_the_aspect_ratio_and_centres_the_box() -> None:
    canvas = torch.zeros(1, 1, 768, 768)
    canvas[0, 0, 300:400, 200:400] = 1
    crop = crop_square(canvas, torch.tensor([[300.0, 200.0, 400.0, 400.0]]), 768, 128)
    filled = crop[0, 0] > 0.5
    assert int(filled.any(dim=1).sum()) == pytest.approx(64, abs=1)
    assert int(filled.any(dim=0).sum()) == 128


def test_normalisation_gives_lungs_zero_mean_and_unit_deviation() -> None:
    lungs = two_lungs(side=256)
    picture = torch.rand(1, 1, 256, 256) * 0.2 + 0.4
    inside = normalise_over_lungs(picture, lungs)[lungs.amax(dim=1, keepdim=True) > 0]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-3)
    assert float(inside.std()) == pytest.approx(1, abs=1e-2)


@settings(max_examples=25, deadline=None)
@given(top=st.integers(2, 40), height=st.integers(30, 80), left=st.integers(2, 20), width=st.integers(12, 40))
def test_zone_maps_part_each_lung_into_thirds(top: int, height: int, left: int, width: int) -> None:
    lungs = torch.zeros(1, 2, 128, 128)
    lungs[0, 0, top : top + height, left : left + width] = 1
    maps = zone_maps(lungs)
    assert torch.equal(maps[:, :3].sum(dim=1), lungs[:, 0])
    assert not maps[:, 3:].any()
    rows = maps[0, :3].sum(dim=(1, 2)) / width
    assert rows.tolist() == pytest.approx([height / 3] * 3, abs=2)


def test_what_lies_below_the_dome_is_lower_zone() -> None:
    lungs = torch.zeros(1, 2, 128, 128)
    lungs[0, 0, 10:70, 10:40] = 1
    lungs[0, 0, 70:90, 10:14] = 1
    maps = zone_maps(lungs)
    assert float(maps[0, 2, 70:90].sum()) == 20 * 4
    assert float(maps[0, 0].sum()) == pytest.approx(20 * 30, rel=0.1)


@pytest.mark.parametrize("stage_head", ["categorical", "ordinal"])
def test_classification_outputs_have_the_documented_shapes(stage_head: StageHead) -> None:
    config = replace(SMALL, stage_head=stage_head)
    network = ClassificationNetwork(config).eval()
    canvas, lungs = torch.rand(2, 1, 768, 768), two_lungs(2)
    with torch.no_grad():
        diagnosis, stage, zones, activation = network(canvas, lungs, box_from_lungs(lungs, 768, 0.04))
    assert diagnosis.shape == (2, 2)
    assert stage.shape == (2, 4)
    assert zones.shape == (2, 6, 4)
    assert activation.shape == (2, 2, 4, 4)


def test_result_of_a_film_does_not_depend_on_its_batch() -> None:
    network = ClassificationNetwork(SMALL).eval()
    canvas, lungs = torch.rand(3, 1, 768, 768), two_lungs(3)
    box = box_from_lungs(lungs, 768, 0.04)
    with torch.no_grad():
        together = network(canvas, lungs, box)
        alone = network(canvas[1:2], lungs[1:2], box[1:2])
    for whole, single in zip(together, alone, strict=True):
        assert torch.allclose(whole[1:2], single, atol=1e-5)


def test_what_is_outside_the_widened_lungs_cannot_change_a_result() -> None:
    network = ClassificationNetwork(SMALL).eval()
    canvas, lungs = torch.rand(1, 1, 768, 768), two_lungs()
    box = box_from_lungs(lungs, 768, 0.04)
    changed = canvas.clone()
    changed[:, :, :90] = 1
    changed[:, :, :, 700:] = 1
    with torch.no_grad():
        for before, after in zip(network(canvas, lungs, box), network(changed, lungs, box), strict=True):
            assert torch.equal(before, after)


@given(st.floats(-8, 8), st.floats(-3, 3), st.floats(-2, 3), st.floats(-2, 3))
def test_ordinal_logits_are_a_distribution(
    severity: float, first: float, second: float, third: float
) -> None:
    logits = class_logits_from_cut_points(torch.tensor([[severity]]), torch.tensor([first, second, third]))
    assert float(logits.exp().sum()) == pytest.approx(1, abs=1e-4)


def test_a_higher_severity_never_lowers_the_expected_stage() -> None:
    severity = torch.linspace(-6, 6, 40)[:, None]
    stages = class_logits_from_cut_points(severity, torch.tensor([-1.0, 0.5, 0.5])).exp() @ torch.arange(4.0)
    assert bool((stages.diff() > 0).all())


def as_torchvision(backbone: DenseNet121, colours: int) -> dict[str, torch.Tensor]:
    """The backbone's weights under torchvision's names, with a stem for colour and a classifier."""
    weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    stem = weights["features.conv0.weight"]
    weights["features.conv0.weight"] = stem[:, :1].repeat(1, colours, 1, 1) / colours
    weights["classifier.weight"] = torch.rand(1000, backbone.num_features)
    return weights


def test_torchvision_weights_load_into_a_grey_stem() -> None:
    source = DenseNet121(num_channels=1, growth=8).eval()
    target = DenseNet121(num_channels=2, growth=8).eval()
    import_backbone(target, as_torchvision(source, 3))
    grey = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        ours = target(torch.cat((grey, torch.rand(1, 1, 64, 64)), dim=1))
        assert torch.allclose(ours, source(grey), atol=1e-4)


def test_chexnet_names_are_torchvision_names_in_disguise() -> None:
    source = DenseNet121(num_channels=1, growth=8)
    old = {}
    for name, tensor in as_torchvision(source, 3).items():
        split = name
        if "denselayer" in name:
            for part in ("norm1", "norm2", "conv1", "conv2"):
                split = split.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
        old[f"module.densenet121.{split}"] = tensor
    assert set(backbone_keys(old)) == set(source.state_dict())


def test_weights_of_another_width_are_refused() -> None:
    weights = as_torchvision(DenseNet121(num_channels=1, growth=4), 3)
    with pytest.raises(ConfigError, match="do not fit DenseNet-121"):
        import_backbone(DenseNet121(num_channels=1, growth=8), weights)


def test_a_weight_file_that_holds_code_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"network": SegmentationNetwork(SegmentationConfig(base=4))}, path)
    with pytest.raises(ConfigError, match="more than tensors"):
        read_weights(path)


def test_weight_files_of_both_safe_formats_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    weights = {"features.conv0.weight": torch.rand(4, 1, 7, 7)}
    save_file(weights, tmp_path / "a.safetensors")
    torch.save({"state_dict": weights}, tmp_path / "b.pth")
    for name in ("a.safetensors", "b.pth"):
        assert torch.equal(
            read_weights(tmp_path / name)["features.conv0.weight"], weights["features.conv0.weight"]
        )


def test_matrix_products_equal_the_layers_they_stand_for() -> None:
    picture = torch.randn(2, 2, 96, 96, generator=torch.Generator().manual_seed(0))
    tall = functional.avg_pool2d(picture, (17, 1), stride=1, padding=(8, 0), count_include_pad=False)
    mean = functional.avg_pool2d(tall, (1, 17), stride=1, padding=(0, 8), count_include_pad=False)
    assert torch.allclose(local_mean(picture, 17), mean, atol=1e-5)
    larger = functional.interpolate(picture, scale_factor=4.0, mode="bilinear", align_corners=False)
    assert torch.allclose(enlarged(picture, 4), larger, atol=1e-5)
    assert torch.equal(pooled(picture, 4), functional.avg_pool2d(picture, 4))
