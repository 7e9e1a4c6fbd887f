"""GPU engines on a real GPU against torch on the CPU; skipped elsewhere unless SCREENER_REQUIRE_GPU=1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engines.bundle import write_bundle
from engines.compare import Limits, compare
from engines.devices import Backend, Gpu, choose
from engines.engine import Engines
from engines.errors import EngineError
from engines.plan_cache import PlanCache
from engines.plan_commands import PlanTarget, build_plans, reference_engines
from engines.tensorrt import load_tensorrt
from engines.tensorrt_plans import open_plan, typed_graph
from engines.torch_reference import TorchEngine
from tests.engine_networks import classification_feeds
from tests.gpu import gpu_or_skip
from tests.test_bundle import contents

pytestmark = pytest.mark.gpu


@pytest.fixture
def gpu() -> Gpu:
    return gpu_or_skip()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_torch_cuda_graph_equals_the_cpu(gpu: Gpu, tmp_path: Path, precision: str) -> None:
    bundle = write_bundle(tmp_path / "bundle", contents())
    device = f"cuda:{gpu.index}"
    segmentation, classification = (
        TorchEngine.from_onnx(bundle.read_graph(name), device=device, precision=precision, micro_batch=4)
        for name in ("segmentation", "classification")
    )
    assert "CUDA graph" in classification.description
    with (
        Engines(segmentation, classification, segmentation.description, precision) as candidate,
        reference_engines(bundle) as reference,
    ):
        found = compare(reference, candidate, classification_feeds(11)["canvas"])
    assert Limits(stage_flips=0.1, diagnosis_flips=0.1).failures(found) == ()


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt_rtx"])
def test_tensorrt_builds_runs_and_does_not_depend_on_neighbours(
    gpu: Gpu, tmp_path: Path, backend: Backend
) -> None:
    try:
        choose("cuda", gpu_index=gpu.index, backend=backend)
    except EngineError as error:
        pytest.skip(str(error))
    bundle = write_bundle(tmp_path / "bundle", contents())
    target, cache = PlanTarget(gpu, load_tensorrt(backend)), PlanCache(tmp_path / "plans")
    records = list(build_plans(bundle, ["fp16"], target, cache))
    assert [record.key.library.partition(" ")[0] for record in records] == [backend, backend]
    assert all(record.num_layers for record in records)
    graph = typed_graph(bundle, "classification", "fp16")
    engine = open_plan(target.trt, bundle, graph, gpu, target.profile, cache, batch_size=4)
    assert engine.num_layers == records[1].num_layers
    feeds = classification_feeds(7)
    together = engine.run(feeds)
    for place in range(7):
        alone = engine.run({name: array[place : place + 1] for name, array in feeds.items()})
        for name, array in alone.items():
            np.testing.assert_array_equal(array[0], together[name][place])
    engine.close()
