"""The CPU engine against plain torch: parity, batch composition, threads, caching, processors without AMX."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.errors import BundleError, EngineError
from engines.openvino import OpenVinoEngine, has_bf16
from engines.plan_cache import PlanCache
from tests.engine_networks import CLASSIFICATION_OUTPUTS, SEGMENTATION_OUTPUTS, tiny_pair
from tests.engine_networks import classification_feeds as feeds_of

needs_bf16 = pytest.mark.skipif(not has_bf16(), reason="the processor has no bf16 instructions")


def _torch_classification(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        outputs = tiny_pair().densenet(
            *(torch.from_numpy(feeds[name]) for name in ("canvas", "lungs", "box"))
        )
    return dict(zip(CLASSIFICATION_OUTPUTS, (output.numpy() for output in outputs), strict=True))


def test_fp32_segmentation_equals_torch() -> None:
    canvas = feeds_of(5)["canvas"]
    engine = OpenVinoEngine(tiny_pair().segmentation, precision="fp32")
    with torch.no_grad():
        reference = tiny_pair().unet(torch.from_numpy(canvas))
    found = engine.run({"canvas": canvas})
    for name, expected in zip(SEGMENTATION_OUTPUTS, reference, strict=True):
        np.testing.assert_allclose(found[name], expected.numpy(), atol=1e-4)


def test_fp32_classification_equals_torch() -> None:
    feeds = feeds_of(5)
    found = OpenVinoEngine(tiny_pair().classification, precision="fp32").run(feeds)
    assert set(found) == set(CLASSIFICATION_OUTPUTS)
    for name, expected in _torch_classification(feeds).items():
        np.testing.assert_allclose(found[name], expected, atol=1e-4)


@needs_bf16
def test_bf16_stays_close_and_is_not_fp32() -> None:
    feeds = feeds_of(6)
    reference = _torch_classification(feeds)
    engine = OpenVinoEngine(tiny_pair().classification, precision="bf16")
    found = engine.run(feeds)
    assert "bf16" in engine.description
    error = max(float(np.abs(found[name] - reference[name]).max()) for name in CLASSIFICATION_OUTPUTS)
    assert 1e-6 < error < 2e-2


@needs_bf16
def test_crop_stays_in_float32_under_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise shows a crop that is a fraction of a pixel off: without the guard the error is several times
    larger."""
    feeds = feeds_of(8)
    reference = _torch_classification(feeds)["stage_logits"]
    errors = []
    for _ in range(2):
        found = OpenVinoEngine(tiny_pair().classification, precision="bf16").run(feeds)["stage_logits"]
        errors.append(float(np.abs(found - reference).mean()))
        monkeypatch.setattr("engines.openvino._keep_geometry_in_float32", lambda network: None)
    assert errors[1] > 2 * errors[0]


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=needs_bf16)])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_result_does_not_depend_on_batch_composition(precision: str, micro_batch: int) -> None:
    feeds = feeds_of(7)
    engine = OpenVinoEngine(tiny_pair().classification, precision=precision, micro_batch=micro_batch)
    together = engine.run(feeds)
    for index in range(7):
        alone = engine.run({name: array[index : index + 1] for name, array in feeds.items()})
        for name, array in alone.items():
            np.testing.assert_array_equal(array[0], together[name][index])
    order = np.array([6, 2, 4, 0, 5, 1, 3])
    shuffled = engine.run({name: array[order] for name, array in feeds.items()})
    for name, array in shuffled.items():
        np.testing.assert_array_equal(array, together[name][order])


def test_run_from_several_threads() -> None:
    engine = OpenVinoEngine(tiny_pair().classification, precision="fp32", threads=2)
    batches = [feeds_of(count, seed=count) for count in (1, 9, 3, 12, 2, 5, 8, 4)]
    expected = [engine.run(feeds) for feeds in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine.run, batches * 3))
    for ours, theirs in zip(found, expected * 3, strict=True):
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array)


def test_strided_input_is_taken() -> None:
    feeds = feeds_of(6)
    engine = OpenVinoEngine(tiny_pair().classification, precision="fp32")
    expected = engine.run({name: array[::2].copy() for name, array in feeds.items()})
    found = engine.run({name: array[::2] for name, array in feeds.items()})
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"canvas": np.zeros((2, 1, 95, 96), np.float32)}, "canvas float32 \\(2, 1, 95, 96\\)"),
        ({"canvas": np.zeros((2, 1, 96, 96), np.float64)}, "canvas float64"),
        ({"box": np.zeros((3, 4), np.float32)}, "box float32 \\(3, 4\\)"),
        ({"extra": np.zeros((2, 4), np.float32)}, "extra"),
    ],
)
def test_wrong_feeds_are_named(change: dict[str, np.ndarray], message: str) -> None:
    engine = OpenVinoEngine(tiny_pair().classification, precision="fp32")
    with pytest.raises(EngineError, match=message):
        engine.run({**feeds_of(2), **change})


def test_empty_batch_and_closed_engine_are_refused() -> None:
    engine = OpenVinoEngine(tiny_pair().segmentation, precision="fp32")
    with pytest.raises(EngineError, match="empty batch"):
        engine.run({"canvas": np.zeros((0, 1, 96, 96), np.float32)})
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.run({"canvas": feeds_of(1)["canvas"]})


def test_bytes_that_are_no_graph_and_unknown_precision() -> None:
    with pytest.raises(BundleError, match="not an ONNX model"):
        OpenVinoEngine(b"not a graph", precision="fp32")
    with pytest.raises(EngineError, match="no precision fp16"):
        OpenVinoEngine(tiny_pair().segmentation, precision="fp16")


def test_compiled_graph_is_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canvas = {"canvas": feeds_of(3)["canvas"]}
    cache = PlanCache(tmp_path / "plans")
    first = OpenVinoEngine(tiny_pair().segmentation, cache=cache)
    assert len(cache.records()) == 1
    expected = first.run(canvas)

    def never(network: object) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr("engines.openvino._keep_geometry_in_float32", never)
    second = OpenVinoEngine(tiny_pair().segmentation, cache=cache)
    assert second.description == first.description
    for name, array in second.run(canvas).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("damage", ["cut", "flip", "forged"])
def test_damaged_cache_is_compiled_again(tmp_path: Path, damage: str) -> None:
    canvas = {"canvas": feeds_of(1)["canvas"]}
    cache = PlanCache(tmp_path / "plans")
    expected = OpenVinoEngine(tiny_pair().segmentation, cache=cache).run(canvas)
    (record,) = cache.records()
    file = cache.folder / f"{record.key.digest}.plan"
    plan = file.read_bytes()
    if damage == "forged":  # digest fits, content is no compiled graph
        cache.store(record.key, b"not a plan", num_layers=0, build_seconds=0.0)
    else:
        file.write_bytes(plan[:1000] if damage == "cut" else plan[:-999] + b"\xff" + plan[-998:])
    found = OpenVinoEngine(tiny_pair().segmentation, cache=cache).run(canvas)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    assert cache.load(record.key) == plan or len(cache.load(record.key) or b"") == len(plan)


_CAPPED = """
import sys, numpy as np
from engines.openvino import OpenVinoEngine
engine = OpenVinoEngine(open(sys.argv[1], "rb").read())
np.save(sys.argv[2], engine.run(dict(np.load(sys.argv[3])))["stage_logits"])
print(engine.description)
"""


def test_works_without_amx_and_avx512_and_says_so(tmp_path: Path) -> None:
    """The processor's instruction set capped to AVX2, as on an older machine."""
    (tmp_path / "graph.onnx").write_bytes(tiny_pair().classification)
    np.savez(tmp_path / "feeds.npz", allow_pickle=False, **feeds_of(3))
    files = [str(tmp_path / name) for name in ("graph.onnx", "out.npy", "feeds.npz")]
    command = [sys.executable, "-c", _CAPPED, *files]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    assert "avx2" in done.stdout
    assert "fp32" in done.stdout
    expected = _torch_classification(feeds_of(3))["stage_logits"]
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-4)
