"""A network to the same network whose forward and backward pass are each one CUDA graph in training.

DenseNet-121 launches some two thousand kernels a step, most of them over before the next one is launched:
on a fast GPU a small batch waits for Python. A graph is launched at once. The decision a reader would
question: graphs instead of `torch.compile`, which fuses too, but compiles for as long as a GPU trains.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def graph_on_first_use(module: nn.Module, dtype: torch.dtype | None) -> None:
    """Make a module capture itself, in place, the first time that it is called.

    From then on every training call must have inputs of the same shapes; calls in evaluation mode run as
    before. State and names stay as they were, so checkpoints do not know of it.

    Args:
        module: in training mode when first called, on a CUDA device; nothing in it may ask the host.
        dtype: autocast inside the graph; None computes in the module's own type.
    """
    plain = module.forward

    def rounded(*inputs: Tensor) -> Any:  # noqa: ANN401 - whatever the module returns
        if dtype is None:
            return plain(*inputs)
        # A cast kept from outside the capture would be replayed with the weights of that moment.
        with torch.autocast("cuda", dtype, cache_enabled=False):
            return plain(*inputs)

    def captured(*inputs: Tensor) -> Any:  # noqa: ANN401 - whatever the module returns
        if not module.training or not torch.is_grad_enabled():
            return plain(*inputs)
        module.forward = rounded
        with torch.autocast("cuda", dtype or torch.float32, enabled=dtype is not None, cache_enabled=False):
            torch.cuda.make_graphed_callables(module, tuple(each.detach().clone() for each in inputs))
        return module.forward(*inputs)

    module.forward = captured
