"""The bundle that ships: verified, equal to its torch networks, and plausible on real films."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
import torch

from engines.bundle import Bundle, default_bundle
from engines.engine import Arrays, open_engines
from screener.archive import walk
from screener.host_loader import HostLoader
from screener.records import Float32
from screener.run import load_calibration, open_verified
from screener.settings import RunSettings
from training.restore import restore_networks

EXAMPLES = Path(__file__).parent.parent / "examples" / "archive"
HEADS = ("diagnosis_logits", "stage_logits", "zone_logits", "activation")
FP32_TOLERANCE = 1e-4
BF16_TOLERANCE = 0.25
"""Largest difference of a diagnosis or stage logit; bf16 keeps 8 bits of mantissa through 121 layers."""
INT8_TOLERANCE = 1.0
"""The same in int8; what it costs over many films is in the model card (`screener train int8`)."""


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return open_verified(None)


@pytest.fixture(scope="module")
def canvases() -> Float32:
    """Real chest films of the examples as canvases (N, 1, 768, 768)."""
    films: list[Float32] = []
    with HostLoader(EXAMPLES, RunSettings(batch_size=4), threading.Event()) as loader:
        for batch in loader.batches(walk(EXAMPLES), on_reject=lambda _: None):
            films.append(batch.canvas.copy())
            loader.release(batch)
    return np.concatenate(films)


def run(bundle: Bundle, canvases: Float32, precision: str) -> tuple[Arrays, Arrays]:
    with open_engines(bundle, device="cpu", precision=precision) as engines:  # type: ignore[arg-type]
        lungs = engines.segmentation.run({"canvas": canvases})
        heads = engines.classification.run({"canvas": canvases, "lungs": lungs["lungs"], "box": lungs["box"]})
    return lungs, heads


def test_openvino_fp32_equals_torch(bundle: Bundle, canvases: Float32) -> None:
    lungs, heads = run(bundle, canvases, "fp32")
    segmentation, classification = restore_networks(bundle)
    with torch.inference_mode():
        found = segmentation(torch.from_numpy(canvases))
        given = (torch.from_numpy(array) for array in (canvases, lungs["lungs"], lungs["box"]))
        logits = classification(*given)
    for name, reference in zip(("lungs", "box", "frontal_logit"), found, strict=True):
        np.testing.assert_allclose(lungs[name], reference.numpy(), atol=FP32_TOLERANCE, rtol=FP32_TOLERANCE)
    for name, reference in zip(HEADS, logits, strict=True):
        # A cell of a map has nothing to average over, and values of ten and more.
        limit = 5 * FP32_TOLERANCE if name == "activation" else FP32_TOLERANCE
        np.testing.assert_allclose(heads[name], reference.numpy(), atol=limit, rtol=limit)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", BF16_TOLERANCE), ("int8", INT8_TOLERANCE)])
def test_fast_arithmetic_stays_close_and_flips_no_clear_decision(
    bundle: Bundle, canvases: Float32, precision: str, tolerance: float
) -> None:
    if precision == "bf16" and not has_bf16():
        pytest.skip("this processor has no bf16 instructions")
    if precision == "int8" and not bundle.has_int8:
        said = any(text in bundle.model_card for text in ("not shipped", "holds no int8 ranges"))
        assert said, "a bundle without int8 ranges says why"
        return
    _, exact = run(bundle, canvases, "fp32")
    _, rounded = run(bundle, canvases, precision)
    for name in ("diagnosis_logits", "stage_logits"):
        assert np.abs(exact[name] - rounded[name]).max() <= tolerance
    ranked = np.sort(exact["stage_logits"])
    clear = ranked[:, -1] - ranked[:, -2] > 2 * tolerance
    same = exact["stage_logits"].argmax(axis=1) == rounded["stage_logits"].argmax(axis=1)
    assert same[clear].all()


def has_bf16() -> bool:
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_lungs_of_real_films_are_where_lungs_are(bundle: Bundle, canvases: Float32) -> None:
    lungs, _ = run(bundle, canvases, "fp32")
    right, left = (lungs["lungs"] >= 0.5).mean(axis=(2, 3)).T
    assert np.median(right) > 0.06
    assert np.median(left) > 0.06
    columns = np.arange(lungs["lungs"].shape[3])
    centre = (lungs["lungs"].sum(axis=2) * columns).sum(axis=2) / lungs["lungs"].sum(axis=(2, 3))
    assert (centre[:, 0] < centre[:, 1]).mean() > 0.9  # the patient's right is on the image's left


def test_calibration_is_bound_to_these_networks(bundle: Bundle) -> None:
    assert load_calibration(bundle, None).model_sha256 == bundle.model_sha256


def test_the_bundle_says_what_it_is_and_stays_small(bundle: Bundle) -> None:
    assert "simulated" in bundle.model_card.lower()
    assert "not a medical device" in bundle.model_card.lower()
    assert sum(file.stat().st_size for file in default_bundle().iterdir()) < 25e6
