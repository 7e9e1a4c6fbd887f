"""torchxrayvision's batch script, step for step: `load_image`, centre crop, 224 pixels, one DenseNet-121.

It does less than screener: no segmentation, no stage, a fifth of the pixels. Two things differ from the
script as published, neither in what is computed: the weights are random, because loading the published ones
means a download that has nothing to do with speed; and where torchvision's compiled detection operators do
not load (its wheel is built for CUDA, torch here may not be), their names are declared so that it imports.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version
from pathlib import Path

import torch

DISTRIBUTIONS = ("torchxrayvision", "torchvision", "pydicom", "torch")


def _declare_detection_operators() -> torch.library.Library:
    """Make `import torchvision` work without its compiled operators, which nothing here calls."""
    names = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        names.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]
    return names


def main() -> None:
    """Time the loop over the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=Path, help="not used: torchxrayvision has networks of its own")
    parser.add_argument("files", nargs="+", type=Path)
    files = parser.parse_args().files
    if torch.version.cuda is None:
        _names = _declare_detection_operators()
    import torchxrayvision as xrv

    model = xrv.models.DenseNet(num_classes=len(xrv.datasets.default_pathologies)).eval()
    crop, resize = xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(224)

    def predict(file: Path) -> None:
        with torch.no_grad():
            picture = torch.from_numpy(resize(crop(xrv.utils.load_image(str(file))))).unsqueeze(0)
            model(picture).cpu().numpy()

    predict(files[0])  # warm-up
    began = time.perf_counter()
    for file in files:
        predict(file)
    seconds = time.perf_counter() - began
    versions = {name: version(name) for name in DISTRIBUTIONS}
    print(json.dumps({"seconds": seconds, "files": len(files), "versions": versions}))


if __name__ == "__main__":
    main()
