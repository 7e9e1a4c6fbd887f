"""Section of `bench.gpu_check`: training steps of the classification, launched one by one and as CUDA graphs.

Random crops, the shipped network's shape; the losses of both ways must be the same, or the graphs would train
something else. A reader may question the warm-up of eight steps: cuDNN tries its algorithms in the first.
"""

from __future__ import annotations

import copy
import time

import numpy as np
import torch
from torch import nn

from bench.gpu_findings import Bench, Findings, Row
from training.cuda_graphs import graph_on_first_use
from training.networks import ClassificationConfig, LungClassifier

SIDES = (224, 448)
"""Pixels of a crop in the two stages of `training/recipes/gpu`."""
BATCH = 64
STEPS, WARM_UP = 40, 8
SAME_LOSS = 1e-3
"""Largest relative difference of a step's loss."""


def training(bench: Bench) -> Findings:
    """Films/s of both ways, and by how much their losses differ."""
    small = bench.gpu is None
    config = ClassificationConfig(growth=2 if small else 16, finding_maps=True)
    for side in (64,) if small else SIDES:
        torch.manual_seed(0)
        plain = LungClassifier(config).to(bench.torch_device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        graphed = copy.deepcopy(plain)
        if bench.gpu:
            graph_on_first_use(graphed, torch.bfloat16)
        label = f"training at {side} pixels x {2 if small else BATCH}"
        losses = []
        for name, network in (("single launches", plain), ("CUDA graphs", graphed)):
            found, rate = _steps(bench, network, side)
            losses.append(found)
            yield Row(f"{label}, {name}", rate, "films/s")
        apart = float(np.max(np.abs(losses[0] / losses[1] - 1)))
        yield bench.judged(
            f"{label}, largest difference of a loss", apart, "", f"<= {SAME_LOSS}", met=apart <= SAME_LOSS
        )


def _steps(bench: Bench, network: nn.Module, side: int) -> tuple[np.ndarray, float]:
    """Loss of every step, and films/s after the warm-up."""
    device = torch.device(bench.torch_device)
    batch, steps, warm_up = (2, 2, 1) if bench.gpu is None else (BATCH, STEPS, WARM_UP)
    torch.backends.cudnn.benchmark = True
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    generator = torch.Generator(device).manual_seed(1)
    losses, began = [], 0.0
    for step in range(steps):
        if step == warm_up:
            began = time.perf_counter()
        crop = torch.rand(batch, 1, side, side, device=device, generator=generator)
        lungs = (torch.rand(batch, 2, side, side, device=device, generator=generator) > 0.3).float()
        with torch.autocast(device.type, torch.bfloat16):
            outputs = network(crop, lungs)
        loss = torch.stack([output.float().square().mean() for output in outputs]).sum()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))  # waits for the device
    return np.array(losses), batch * (steps - warm_up) / (time.perf_counter() - began)
