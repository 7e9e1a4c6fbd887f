"""A bundle's two networks as torch programs, for peers whose environments have torch but not screener.

`torch.export` files hold the graph and the float32 weights: what a peer loads computes the same as the
bundle, at the speed of the same torch kernels. Run as `python -m bench.peers.networks BUNDLE OUT`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.export import Dim

from engines.bundle import open_bundle
from screener.canvas import CANVAS_SIDE, CANVAS_VERSION
from training.restore import restore_networks


def export_networks(bundle_folder: Path, out: Path) -> None:
    """Write `segmentation.pt2` and `classification.pt2`, both for any batch.

    Raises:
        BundleError: the bundle is not sound, or was not made by this package's training.
    """
    bundle = open_bundle(bundle_folder, canvas_version=CANVAS_VERSION, canvas_side=CANVAS_SIDE)
    segmentation, classification = restore_networks(bundle)
    canvas = torch.rand(2, 1, CANVAS_SIDE, CANVAS_SIDE)
    with torch.inference_mode():
        lungs, box, _ = segmentation(canvas)
    batch = {0: Dim("batch", min=1, max=64)}
    out.mkdir(parents=True, exist_ok=True)
    for name, network, feeds in (
        ("segmentation", segmentation, (canvas,)),
        ("classification", classification, (canvas, lungs.clone(), box.clone())),
    ):
        program = torch.export.export(network, feeds, dynamic_shapes=tuple(batch for _ in feeds))
        torch.export.save(program, out / f"{name}.pt2")


if __name__ == "__main__":
    export_networks(Path(sys.argv[1]), Path(sys.argv[2]))
