"""Bundles: verified before use, with errors that name the file and what to do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines.bundle import (
    Bundle,
    BundleContents,
    default_bundle,
    model_sha256,
    open_bundle,
    pack_bundle,
    write_bundle,
)
from engines.engine import open_engine, open_engines
from engines.errors import BundleError, EngineError
from engines.manifest import Labels
from engines.onnx_header import read_onnx_header
from engines.tensor_spec import TensorSpec
from tests.engine_networks import SIDE, classification_feeds, tiny_pair


def contents(**changes: Any) -> BundleContents:
    """The tiny pair as a bundle."""
    parts: dict[str, Any] = {
        "name": "tiny",
        "version": "1",
        "canvas_version": "1",
        "canvas_side": SIDE,
        "segmentation": tiny_pair().segmentation,
        "classification": tiny_pair().classification,
        "labels": Labels(
            ("pneumoconiosis", "tb"), ("0", "1", "2", "3"), ("ru", "rm", "rl", "lu", "lm", "ll")
        ),
        "mask_convention": "patient_right_then_left",
        "calibration": b"{}",
        "model_card": "# Tiny\n",
        "licences": ("Apache-2.0",),
        "intended_use": "tests",
    }
    return BundleContents(**{**parts, **changes})


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled networks of these tests stay out of the user's cache."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle", contents())
    return tmp_path / "bundle"


def opened(path: Path) -> Bundle:
    return open_bundle(path, canvas_version="1", canvas_side=SIDE)


def edit(folder: Path, **changes: Any) -> None:
    """Change top-level keys of the manifest."""
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_is_written_is_what_is_opened(folder: Path) -> None:
    bundle = opened(folder)
    assert bundle.manifest.graphs["segmentation"].inputs == (
        TensorSpec("canvas", "float32", (None, 1, SIDE, SIDE)),
    )
    assert bundle.read_graph("classification") == tiny_pair().classification
    assert bundle.labels.stage == ("0", "1", "2", "3")
    assert bundle.model_card == "# Tiny\n"
    hashes = [
        hashlib.sha256(graph).hexdigest() for graph in (tiny_pair().segmentation, tiny_pair().classification)
    ]
    assert (
        bundle.model_sha256 == model_sha256(*hashes) == hashlib.sha256("".join(hashes).encode()).hexdigest()
    )


def test_one_file_opens_like_the_folder(folder: Path, tmp_path: Path) -> None:
    bundle = opened(folder)
    pack_bundle(bundle, tmp_path / "tiny.screener")
    packed = opened(tmp_path / "tiny.screener")
    assert packed.manifest == bundle.manifest
    assert packed.manifest_sha256 == bundle.manifest_sha256
    assert packed.read_graph("segmentation") == bundle.read_graph("segmentation")


@pytest.mark.parametrize(
    "name", ["segmentation.onnx", "classification.onnx", "calibration.json", "MODEL_CARD.md"]
)
def test_changed_or_missing_file_is_named(folder: Path, name: str) -> None:
    file = folder / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(BundleError, match=f"{name} has SHA-256 .* copy the bundle again"):
        opened(folder)
    file.unlink()
    with pytest.raises(BundleError, match=f"{name} is missing"):
        opened(folder)


def test_missing_bundle_and_file_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="the bundle is missing"):
        opened(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(BundleError, match="expected a bundle folder or one packed file"):
        opened(tmp_path / "text")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"manifest\.json is missing"):
        opened(tmp_path / "empty")


def test_other_canvas_is_refused(folder: Path) -> None:
    with pytest.raises(
        BundleError, match="made for canvas 1 of 96 px; this screener draws canvas 2 of 96 px"
    ):
        open_bundle(folder, canvas_version="2", canvas_side=SIDE)
    with pytest.raises(BundleError, match="draws canvas 1 of 768 px"):
        open_bundle(folder, canvas_version="1", canvas_side=768)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "screener-bundle/9"}, "format 'screener-bundle/9'; expected"),
        ({"name": None}, "'name': found nothing, expected str"),
        ({"canvas": {"version": "1", "side": True}}, "'side': found bool, expected int"),
        ({"labels": {"diagnosis": [], "stage": ["0"], "zones": ["ru"]}}, "'diagnosis': expected a list"),
        ({"graphs": {}}, "graphs are"),
        ({"model_card": {"file": "MODEL_CARD.md", "sha256": "12"}}, "not 64"),
    ],
)
def test_malformed_manifest(folder: Path, changes: dict[str, Any], message: str) -> None:
    edit(folder, **changes)
    with pytest.raises(BundleError, match=message):
        opened(folder)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "a/b", "..", "", "manifest.json", "a\x00b", ".hidden"]
)
def test_manifest_cannot_reach_outside(folder: Path, name: str) -> None:
    (folder.parent / "secret").write_text("x")
    edit(folder, model_card={"file": name, "sha256": hashlib.sha256(b"x").hexdigest()})
    with pytest.raises(BundleError, match="expected a plain file name"):
        opened(folder)


def test_link_in_a_bundle_is_refused(folder: Path) -> None:
    card = (folder / "MODEL_CARD.md").rename(folder.parent / "card")
    (folder / "MODEL_CARD.md").symlink_to(card)
    with pytest.raises(BundleError, match="symbolic link"):
        opened(folder)


def test_manifest_that_is_not_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not JSON"):
        opened(folder)


def test_tensors_that_differ_from_the_manifest_are_listed(folder: Path) -> None:
    graphs = json.loads((folder / "manifest.json").read_text())["graphs"]
    graphs["segmentation"]["outputs"][0]["shape"] = [None, 2, 64, 64]
    edit(folder, graphs=graphs)
    with pytest.raises(
        BundleError, match=r"lungs float32 \(N, 2, 32, 32\).*manifest says lungs float32 \(N, 2, 64"
    ):
        opened(folder)


def test_calibration_of_other_networks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="fit the calibration again"):
        write_bundle(tmp_path, contents(calibration=b'{"model_sha256": "%s"}' % (b"0" * 64)))


def test_file_changed_after_opening_is_not_run(folder: Path) -> None:
    bundle = opened(folder)
    (folder / "segmentation.onnx").write_bytes(tiny_pair().classification)
    with pytest.raises(BundleError, match=r"segmentation\.onnx has SHA-256"):
        open_engine(bundle, "segmentation", device="cpu")


def test_graph_with_tensors_in_other_files_is_refused() -> None:
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../etc/hostname")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("x", "y")]
    node = helper.make_node("Mul", ["x", "w"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:], [weight]))
    with pytest.raises(BundleError, match="tensors in other files"):
        read_onnx_header(model.SerializeToString())


def test_onnx_header_agrees_with_onnx() -> None:
    for model in (tiny_pair().segmentation, tiny_pair().classification):
        header, graph = read_onnx_header(model), onnx.load_from_string(model).graph
        for specs, values in ((header.inputs, graph.input), (header.outputs, graph.output)):
            assert [spec.name for spec in specs] == [value.name for value in values]
            for spec, value in zip(specs, values, strict=True):
                sizes = [dim.dim_value or None for dim in value.type.tensor_type.shape.dim]
                assert list(spec.shape) == sizes


@pytest.mark.parametrize("cut", [0, 1, 10, 1000, 100_000])
def test_cut_or_foreign_bytes_are_no_onnx(cut: int) -> None:
    with pytest.raises(BundleError, match="not an ONNX model"):
        read_onnx_header(tiny_pair().segmentation[:cut])
    noise = np.random.default_rng(cut).bytes(500)
    with pytest.raises(BundleError, match="not an ONNX model"):
        read_onnx_header(noise)


def test_shipped_bundle_path_is_inside_the_package() -> None:
    assert default_bundle().parent.name == "bundles"


def test_engines_of_a_bundle_run_one_after_the_other(folder: Path) -> None:
    feeds = classification_feeds(3)
    with open_engines(opened(folder), device="cpu", precision="fp32", threads=1) as engines:
        lungs = engines.segmentation.run({"canvas": feeds["canvas"]})
        logits = engines.classification.run(
            {"canvas": feeds["canvas"], "lungs": lungs["lungs"], "box": lungs["box"]}
        )
    assert logits["zone_logits"].shape == (3, 6, 4)
    assert engines.precision == "fp32"
    assert "CPU was asked for" in engines.description
    with pytest.raises(EngineError, match="closed"):
        engines.segmentation.run({"canvas": feeds["canvas"]})


def test_int8_needs_a_quantised_graph(folder: Path) -> None:
    with pytest.raises(BundleError, match="no int8 ranges; use --precision"):
        open_engine(opened(folder), "segmentation", device="cpu", precision="int8")


def test_cuda_without_a_gpu_is_an_error_and_auto_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_gpu(index: int) -> None:
        raise EngineError("no GPU: cudaErrorInsufficientDriver")

    monkeypatch.setattr("engines.devices.probe_gpu", no_gpu)
    with pytest.raises(EngineError, match="no GPU: cudaErrorInsufficientDriver"):
        open_engines(opened(folder), device="cuda")
    with open_engines(opened(folder), device="auto", precision="fp32") as engines:
        assert "CPU chosen: no GPU: cudaErrorInsufficientDriver" in engines.description


def test_unknown_graph_is_named(folder: Path) -> None:
    with pytest.raises(BundleError, match="no graph 'other'; it has segmentation, classification"):
        open_engine(opened(folder), "other", device="cpu")
