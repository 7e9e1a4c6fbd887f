"""What a careful user would write: pydicom and torch, one film at a time, float32, the same networks.

Run as `python -m bench.peers.plain_loop FILES... [--bundle DIR]`; prints one JSON line with the seconds that
the loop took (imports and loading the networks are not counted) and the files read.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pydicom
import torch
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from torch import Tensor
from torch.nn import functional

from engines.bundle import default_bundle, open_bundle
from training.networks import ClassificationNetwork, SegmentationNetwork
from training.restore import restore_networks

SIDE = 768


def main() -> None:
    """Time the loop over the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    given = parser.parse_args()
    bundle = open_bundle(given.bundle, canvas_version="1", canvas_side=SIDE)
    segmentation, classification = restore_networks(bundle)
    screen(given.files[0], segmentation, classification)  # warm-up
    began = time.perf_counter()
    for file in given.files:
        screen(file, segmentation, classification)
    print(json.dumps({"seconds": time.perf_counter() - began, "files": len(given.files)}))


@torch.inference_mode()
def screen(file: Path, segmentation: SegmentationNetwork, classification: ClassificationNetwork) -> Tensor:
    """Stage probabilities of one film."""
    dataset = pydicom.dcmread(file)
    pixels = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset).astype(np.float32)
    pixels = (pixels - pixels.min()) / max(float(np.ptp(pixels)), 1e-6)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        pixels = 1 - pixels
    canvas = _letterbox(torch.from_numpy(pixels)[None, None])
    lungs, box, _ = segmentation(canvas)
    _, stage, _, _ = classification(canvas, lungs, box)
    probabilities: Tensor = stage.softmax(dim=1)
    return probabilities


def _letterbox(picture: Tensor) -> Tensor:
    rows, columns = picture.shape[-2:]
    scale = SIDE / max(rows, columns)
    size = (round(rows * scale), round(columns * scale))
    small = functional.interpolate(picture, size=size, mode="area")
    down, across = SIDE - size[0], SIDE - size[1]
    return functional.pad(small, (across // 2, across - across // 2, down // 2, down - down // 2))


if __name__ == "__main__":
    main()
