"""MONAI's own way: `LoadImage` and transforms in a `DataLoader` with a worker per core, batches to torch.

The same networks in float32; the reader is MONAI's pydicom reader, the transforms are its own.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path

import torch
from monai.data.dataloader import DataLoader
from monai.data.dataset import Dataset
from monai.data.image_reader import PydicomReader
from monai.transforms.compose import Compose
from monai.transforms.croppad.array import SpatialPad
from monai.transforms.intensity.array import ScaleIntensity
from monai.transforms.io.array import LoadImage
from monai.transforms.spatial.array import Resize
from monai.transforms.utility.array import EnsureChannelFirst, EnsureType

SIDE, BATCH = 768, 8
DISTRIBUTIONS = ("monai", "pydicom", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg", "torch")


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

    def screen(files: list[Path]) -> None:
        with torch.inference_mode():
            for canvas in _loader(files):
                lungs, box, _ = segmentation(canvas)
                classification(canvas, lungs, box)

    screen(given.files[:1])  # warm-up
    began = time.perf_counter()
    screen(given.files)
    seconds = time.perf_counter() - began
    versions = {name: version(name) for name in DISTRIBUTIONS}
    print(json.dumps({"seconds": seconds, "files": len(given.files), "versions": versions}))


def _loader(files: list[Path]) -> DataLoader:
    steps = Compose(
        [
            LoadImage(reader=PydicomReader(swap_ij=False), image_only=True),
            EnsureChannelFirst(channel_dim="no_channel"),
            ScaleIntensity(),
            Resize(SIDE, size_mode="longest", mode="area"),
            SpatialPad((SIDE, SIDE)),
            EnsureType(track_meta=False),
        ]
    )
    workers = len(os.sched_getaffinity(0))
    return DataLoader(Dataset([str(file) for file in files], steps), batch_size=BATCH, num_workers=workers)


if __name__ == "__main__":
    main()
