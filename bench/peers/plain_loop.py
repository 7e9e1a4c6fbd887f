"""What a careful user would write: pydicom and torch, one film at a time, float32, the same networks."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pydicom
import torch
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from torch import Tensor
from torch.nn import functional

SIDE = 768
DISTRIBUTIONS = ("pydicom", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "torch")

Network = Callable[..., tuple[Tensor, ...]]


def main() -> None:
    """Time the loop over the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("files", nargs="+", type=Path)
    given = parser.parse_args()
    segmentation, classification = (
        torch.export.load(given.networks / f"{name}.pt2").module()
        for name in ("segmentation", "classification")
    )
    screen(given.files[0], segmentation, classification)  # warm-up
    began = time.perf_counter()
    for file in given.files:
        screen(file, segmentation, classification)
    seconds = time.perf_counter() - began
    versions = {name: version(name) for name in DISTRIBUTIONS}
    print(json.dumps({"seconds": seconds, "files": len(given.files), "versions": versions}))


@torch.inference_mode()
def screen(file: Path, segmentation: Network, classification: Network) -> Tensor:
    """Stage probabilities of one film."""
    dataset = pydicom.dcmread(file)
    pixels = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float32)
    pixels = (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-6)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 1 - pixels
    canvas = _letterbox(torch.from_numpy(pixels)[None, None])
    lungs, box, _ = segmentation(canvas)
    _, stage, _, _ = classification(canvas, lungs, box)
    return stage.softmax(dim=1)


def _letterbox(picture: Tensor) -> Tensor:
    rows, columns = picture.shape[-2:]
    scale = SIDE / max(rows, columns)
    size = (round(rows * scale), round(columns * scale))
    small = functional.interpolate(picture, size=size, mode="area")
    down, across = SIDE - size[0], SIDE - size[1]
    return functional.pad(small, (across // 2, across - across // 2, down // 2, down - down // 2))


if __name__ == "__main__":
    main()
