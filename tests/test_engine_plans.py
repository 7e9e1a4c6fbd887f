"""Plan cache, plan commands and the comparison of engines; plans are built with real TensorRT-RTX."""

from __future__ import annotations

import dataclasses
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.bundle import Bundle, write_bundle
from engines.compare import Comparison, Limits, LogitError, compare
from engines.devices import Gpu, choose
from engines.engine import Engines
from engines.errors import BundleError, EngineError
from engines.plan_cache import MAX_PLANS, PlanCache, PlanKey, Verdict
from engines.plan_commands import (
    PlanTarget,
    build_plans,
    list_plans,
    reference_engines,
    verify_cpu,
    verify_plans,
)
from engines.tensorrt_build import BatchProfile, BuildProgress
from engines.tensorrt_plans import open_plan, typed_graph
from tests.engine_networks import classification_feeds
from tests.test_bundle import contents

GPU = Gpu(0, "Fake", (8, 9), 24 << 30, 13000)
FAILED = Verdict(("stage flips 2.00% > 0.50%",), 50, 1.5, 0.2, 0.02, 0.0, 0.999)
KEY = PlanKey("segmentation", "0" * 64, "fp16", "1-8-32", "TensorRT 11.4", "Fake (sm_89)", "13000")


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "bundle", contents())


@pytest.fixture
def cache(tmp_path: Path) -> PlanCache:
    return PlanCache(tmp_path / "plans")


def test_plan_comes_back_for_its_own_key_only(cache: PlanCache) -> None:
    cache.store(KEY, b"plan", num_layers=3, build_seconds=1.5)
    assert cache.load(KEY) == b"plan"
    for field in dataclasses.fields(PlanKey):
        assert cache.load(dataclasses.replace(KEY, **{field.name: "other"})) is None
    (record,) = cache.records()
    assert (record.key, record.size_bytes, record.num_layers) == (KEY, 4, 3)
    cache.remove(KEY)
    assert (cache.load(KEY), cache.records()) == (None, ())


def test_changed_plan_or_record_is_a_miss(cache: PlanCache) -> None:
    cache.store(KEY, b"plan", num_layers=3, build_seconds=1.5)
    plan, record = cache.folder / f"{KEY.digest}.plan", cache.folder / f"{KEY.digest}.json"
    plan.write_bytes(b"evil")
    assert cache.load(KEY) is None
    plan.write_bytes(b"plan")
    record.write_text("{}")
    assert cache.load(KEY) is None
    record.unlink()
    assert cache.load(KEY) is None


def test_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(EngineError, match="closed to other writers"):
        PlanCache(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="must be yours"):
        PlanCache(tmp_path / "file" / "below")
    assert PlanCache(tmp_path / "new").folder.stat().st_mode & 0o777 == 0o700


def test_full_disk_leaves_no_half_plan(cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("engines.plan_cache.os.fsync", full)
    with pytest.raises(EngineError, match="No space left"):
        cache.store(KEY, b"plan", num_layers=1, build_seconds=0.1)
    assert list(cache.folder.iterdir()) == []


def test_oldest_plans_are_removed(cache: PlanCache) -> None:
    keys = [dataclasses.replace(KEY, onnx_sha256=f"{place:064}") for place in range(MAX_PLANS + 3)]
    for key in keys:
        cache.store(key, b"plan", num_layers=1, build_seconds=0.1)
    assert len(cache.records()) == MAX_PLANS
    assert cache.load(keys[0]) is None
    assert cache.load(keys[-1]) == b"plan"


def test_plans_are_built_once_and_listed(bundle: Bundle, cache: PlanCache) -> None:
    target = PlanTarget(GPU, pytest.importorskip("tensorrt_rtx"), BatchProfile(1, 2, 4))
    told: list[tuple[str, str, float]] = []

    def note(graph: str, precision: str, progress: BuildProgress) -> bool:
        told.append((graph, precision, progress.fraction))
        return True

    records = list(build_plans(bundle, ["fp16"], target, cache, note))
    assert [(record.key.graph, record.key.precision) for record in records] == [
        ("segmentation", "fp16"),
        ("classification", "fp16"),
    ]
    assert {graph for graph, _, _ in told} == {"segmentation", "classification"}
    assert all(record.size_bytes > 10_000 and record.build_seconds > 0 for record in records)
    told.clear()
    assert list(build_plans(bundle, ["fp16"], target, cache, note)) == records
    assert told == []
    assert set(list_plans(cache)) == set(records)


def test_cancelled_build_keeps_nothing(bundle: Bundle, cache: PlanCache) -> None:
    target = PlanTarget(GPU, pytest.importorskip("tensorrt_rtx"))
    with pytest.raises(EngineError, match="cancelled"):
        list(build_plans(bundle, ["fp32"], target, cache, lambda *_: False))
    assert list_plans(cache) == ()


def test_plan_that_fails_verification_is_not_registered(
    bundle: Bundle, cache: PlanCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pair under test is the reference with its stage logits shifted: what a wrong plan would look
    like."""
    target = PlanTarget(GPU, types.SimpleNamespace(__name__="tensorrt", __version__="11.4"))
    graphs = [typed_graph(bundle, name, "fp16") for name in ("segmentation", "classification")]
    for graph in graphs:
        cache.store(graph.key(target.trt, GPU, target.profile), b"plan", num_layers=1, build_seconds=0.1)

    def open_shifted(*_: object) -> Engines:
        pair = reference_engines(bundle)
        run = pair.classification.run

        def shifted(feeds: Any) -> dict[str, np.ndarray]:
            logits = run(feeds)
            return {**logits, "stage_logits": np.roll(logits["stage_logits"], 1, axis=1)}

        monkeypatch.setattr(pair.classification, "run", shifted)
        return pair

    monkeypatch.setattr("engines.plan_commands._open_pair", open_shifted)
    canvas = classification_feeds(3)["canvas"]
    (verification,) = verify_plans(bundle, ["fp16"], target, cache, canvas)
    assert any(failure.startswith("stage flips 100.00%") for failure in verification.failures)
    assert {record.standing for record in list_plans(cache)} == {"failed"}
    for record in list_plans(cache):
        assert record.verdict is not None and record.verdict.failures == verification.failures
        assert (record.verdict.num_images, record.verdict.stage_flips) == (3, 1.0)

    def build(*_: object, **__: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr("engines.tensorrt_plans.build_plan", build)
    refusal = (
        r"classification failed verification on 3 films \(mean logit .*stage flips 100.00%.*build it again"
        r" with screener engines build --precision fp16 --device 0, check it with screener engines verify"
    )
    for _ in range(2):  # a run refuses it, and so does the next
        with pytest.raises(EngineError, match=refusal):
            open_plan(target.trt, bundle, graphs[1], GPU, target.profile, cache, batch_size=4)
    for file in cache.folder.glob("*.plan"):
        file.unlink()
    with pytest.raises(EngineError, match=refusal):  # even where only the verdict is left
        open_plan(target.trt, bundle, graphs[1], GPU, target.profile, cache, batch_size=4)


def test_plan_that_failed_is_built_again_on_request_and_then_unverified(
    bundle: Bundle, cache: PlanCache
) -> None:
    target = PlanTarget(GPU, pytest.importorskip("tensorrt_rtx"), BatchProfile(1, 2, 4))
    for record in build_plans(bundle, ["fp16"], target, cache):
        cache.judge(record, FAILED)
    assert {record.standing for record in list_plans(cache)} == {"failed"}
    rebuilt = list(build_plans(bundle, ["fp16"], target, cache))
    assert [record.standing for record in rebuilt] == ["unverified", "unverified"]
    assert all(cache.load(record.key) for record in rebuilt)


def test_verdict_is_kept_with_its_plan_only(cache: PlanCache) -> None:
    record = cache.store(KEY, b"plan", num_layers=None, build_seconds=0.1)
    assert (record.standing, cache.judge(record, FAILED).standing) == ("unverified", "failed")
    assert cache.record(KEY) == dataclasses.replace(record, verdict=FAILED)
    passed = dataclasses.replace(FAILED, failures=())
    assert cache.judge(record, passed).standing == "verified"
    other = cache.store(KEY, b"another plan", num_layers=7, build_seconds=0.1)
    assert (other.standing, cache.record(KEY)) == ("unverified", other)
    cache.judge(record, passed)  # of a plan that was replaced while it was verified
    assert cache.load(KEY) is None


def test_plans_that_failed_are_not_pushed_out(cache: PlanCache) -> None:
    cache.judge(cache.store(KEY, b"plan", num_layers=1, build_seconds=0.1), FAILED)
    for place in range(MAX_PLANS + 2):
        key = dataclasses.replace(KEY, onnx_sha256=f"{place + 1:064}")
        cache.store(key, b"plan", num_layers=1, build_seconds=0.1)
    found = cache.record(KEY)
    assert found is not None and found.standing == "failed"
    assert len(list_plans(cache)) == MAX_PLANS + 1


def test_plan_that_passes_stays(bundle: Bundle, cache: PlanCache, monkeypatch: pytest.MonkeyPatch) -> None:
    target = PlanTarget(GPU, types.SimpleNamespace(__name__="tensorrt", __version__="11.4"))
    for name in ("classification", "segmentation"):
        key = typed_graph(bundle, name, "fp16").key(target.trt, GPU, target.profile)
        cache.store(key, b"plan", num_layers=1, build_seconds=0.1)
    monkeypatch.setattr("engines.plan_commands._open_pair", lambda *_: reference_engines(bundle))
    (verification,) = verify_plans(bundle, ["fp16"], target, cache, classification_feeds(2)["canvas"])
    assert verification.failures == ()
    assert verification.comparison.mask_dice == 1.0
    assert cache.load(key) == b"plan"
    assert {record.standing for record in list_plans(cache)} == {"verified"}

    opened: list[bool] = []

    def note(*_: object, is_verified: bool, **__: object) -> None:
        opened.append(is_verified)

    monkeypatch.setattr("engines.tensorrt_plans.TensorRtEngine", note)
    monkeypatch.setattr("engines.tensorrt_plans.CudaRuntime", lambda index: None)
    graph = typed_graph(bundle, "segmentation", "fp16")
    open_plan(target.trt, bundle, graph, GPU, target.profile, cache, batch_size=4)
    cache.store(key, b"plan", num_layers=1, build_seconds=0.1)  # built anew
    open_plan(target.trt, bundle, graph, GPU, target.profile, cache, batch_size=4)
    assert opened == [True, False]


def test_cpu_engine_is_held_against_torch(bundle: Bundle) -> None:
    (verification,) = verify_cpu(bundle, ["fp32"], classification_feeds(9)["canvas"])
    assert verification.failures == ()
    assert max(error.largest for error in verification.comparison.logits) < 1e-4
    assert verification.comparison.num_images == 9
    with pytest.raises(EngineError, match="no precision fp16"):
        next(verify_cpu(bundle, ["fp16"], classification_feeds(1)["canvas"]))


def test_limits_name_what_is_not_kept() -> None:
    errors = (LogitError("stage_logits", 1.0, 0.2),)
    found = Comparison("x", 100, errors, stage_flips=0.02, diagnosis_flips=0.0, mask_dice=0.99)
    assert Limits().failures(found) == (
        "mean logit error 0.2000 > 0.05",
        "stage flips 2.00% > 0.50%",
        "mask Dice 0.9900 < 0.997",
    )


def test_comparison_needs_a_canvas(bundle: Bundle) -> None:
    with reference_engines(bundle) as pair, pytest.raises(EngineError, match="no canvas"):
        compare(pair, pair, classification_feeds(1)["canvas"][:0])


def test_typed_graphs_of_a_bundle(bundle: Bundle) -> None:
    assert typed_graph(bundle, "segmentation", "auto").precision == "fp16"
    with pytest.raises(EngineError, match="no precision fp8; use fp32, fp16, bf16, int8"):
        typed_graph(bundle, "segmentation", "fp8")
    with pytest.raises(BundleError, match="no int8 ranges"):
        typed_graph(bundle, "segmentation", "int8")


def test_backend_is_chosen_by_what_is_installed_and_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"tensorrt_rtx", "torch"}
    is_cuda_build = True

    def import_module(name: str) -> object:
        if name in installed:
            return types.SimpleNamespace(cuda=types.SimpleNamespace(is_available=lambda: is_cuda_build))
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr("engines.devices.probe_gpu", lambda index: GPU)
    monkeypatch.setattr("engines.devices.importlib", types.SimpleNamespace(import_module=import_module))
    assert choose("auto").backend == "tensorrt_rtx"
    hopper = dataclasses.replace(GPU, capability=(9, 0))
    monkeypatch.setattr("engines.devices.probe_gpu", lambda index: hopper)
    assert choose("cuda").backend == "torch"
    is_cuda_build = False
    with pytest.raises(EngineError, match=r"torch not usable \(this build cannot use the GPU\)"):
        choose("cuda")
    assert choose("auto").backend == "openvino"
    installed.clear()
    with pytest.raises(EngineError, match=r"RTX has no kernels for Fake .*torch not usable"):
        choose("cuda")
    assert choose("auto").backend == "openvino"
    assert "CPU chosen: no engine for Fake" in choose("auto").reason
