"""The networks of a bundle as the start of a run: folded normalisations taken apart again.

A bundle's graphs hold convolutions into which the normalisation after them was folded. Each is given its
normalisation back, set to change nothing and to leave the folded bias. The decision a reader would question:
mean and variance that were folded away cannot be recovered, so they are measured on the new run's own
training films, and scale and shift are set to cancel them. The network computes what the bundle computes
until the first step, and then trains as one that was never folded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.bundle import Bundle
from screener.errors import ConfigError
from training.checkpoints import segmentation_bundle
from training.export import foldable_pairs
from training.fit import Task, seeded
from training.networks import LungClassifier, SegmentationNetwork
from training.recipe import FitRecipe
from training.restore import restore_networks, restore_segmentation

SHIPPED = "shipped"
"""Name in a recipe of the bundle that ships."""


SEEN_SOURCES = frozenset({"nih", "nihrot", "nlm128", "imlab", "chexmask", "ieee"})
"""Sources whose films the bundle that ships was trained on; which of their patients is not recorded in it."""


def start_at_bundle(
    network: SegmentationNetwork | LungClassifier, name: str, below: Path, held_out_sources: Iterable[str]
) -> list[str]:
    """Load the weights of a bundle into a fresh network.

    Args:
        network: segmentation network, or classifier; in place.
        name: bundle (folder or file) below `below`, or `shipped`.
        below: folder that bundles are named below.
        held_out_sources: source of every film of this run's calibration and test parts.

    Returns:
        What `measure_folded` has to measure.

    Raises:
        ConfigError: no bundle, a network of other settings, or held-out films of a source that the
            bundle that ships was trained on. Of other bundles nobody can say; the model card says so.
        BundleError: a bundle that cannot be used.
    """
    bundle = _opened(name, below)
    seen = SEEN_SOURCES & set(held_out_sources)
    if name == SHIPPED and seen:
        raise ConfigError(
            f"the bundle that ships was trained on films of {', '.join(sorted(seen))}, and this run holds "
            "out films of that source: start from other weights, or hold out films of other sources"
        )
    restored: SegmentationNetwork | LungClassifier
    if isinstance(network, SegmentationNetwork):
        restored = restore_segmentation(bundle)
    else:
        restored = restore_networks(bundle)[1].classifier
    wanted, held = asdict(network.config), asdict(restored.config)
    if differing := [f"{key} is {held[key]}" for key in wanted if wanted[key] != held[key]]:
        raise ConfigError(f"the bundle to start from has another network: {', '.join(differing)}")
    return load_folded(network, restored)


def start_facts(name: str | None, below: Path) -> dict[str, str]:
    """What `run.json` says of the bundle that a run starts from; nothing if it starts from none."""
    if name is None:
        return {}
    bundle = _opened(name, below)
    identity = f"{bundle.manifest.name} {bundle.manifest.version}, model {bundle.model_sha256[:12]}"
    return {"initial_bundle": identity}


def _opened(name: str, below: Path) -> Bundle:
    bundle = segmentation_bundle(None if name == SHIPPED else name, below)
    if bundle is None:
        raise ConfigError(f"initial_bundle {Path(name).name}: a run, no bundle; name it in initial_run")
    return bundle


@torch.no_grad()
def load_folded(network: nn.Module, folded: nn.Module) -> list[str]:
    """Give a fresh network the weights of one whose normalisations are folded.

    Args:
        network: as built, with every normalisation; changed in place.
        folded: the same network restored from a graph (`training.restore`).

    Returns:
        Names of the normalisations that had been folded away: mean 0, variance 1, until they are measured.

    Raises:
        ConfigError: networks of different shape.
    """
    weights: dict[str, Tensor] = dict(folded.state_dict())
    names = {module: name for name, module in network.named_modules()}
    restored = []
    for module, first, second in foldable_pairs(network):
        inside = f"{names[module]}." if names[module] else ""
        weights[f"{inside}{second}.bias"] = weights.pop(f"{inside}{first}.bias")
        normalisation = getattr(module, second)
        normalisation.running_mean.zero_()
        normalisation.running_var.fill_(1 - normalisation.eps)
        normalisation.weight.fill_(1)
        restored.append(f"{inside}{second}")
    known = tuple(f"{name}." for name in restored)
    try:
        left = network.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ConfigError("the bundle to start from has a network of another shape") from error
    if left.unexpected_keys or any(not name.startswith(known) for name in left.missing_keys):
        raise ConfigError("the bundle to start from has a network of another shape")
    return restored


def measure_first(network: nn.Module, names: list[str], task: Task, recipe: FitRecipe, folder: Path) -> None:
    """`measure_folded` where there is something to measure and the run has not begun; else nothing."""
    if names and not (folder / "last.pt").exists():
        measure_folded(network, names, task, recipe)


@torch.no_grad()
def measure_folded(
    network: nn.Module, names: list[str], task: Task, recipe: FitRecipe, num_batches: int = 8
) -> None:
    """Give normalisations that change nothing the mean and variance of the training films, cancelled.

    Args:
        network: in place; computes the same before and after.
        names: of the normalisations, as `load_folded` returns them.
        task: gives augmented training films.
        recipe: batch size and seed.
        num_batches: batches that are measured.
    """
    sums: dict[str, list[Tensor]] = {name: [] for name in names}

    def measuring(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            values = inputs[0].float()
            sums[name].append(torch.stack((values.mean((0, 2, 3)), values.square().mean((0, 2, 3)))))

        return hook

    normalisations = {name: network.get_submodule(name) for name in names}
    hooks = [module.register_forward_pre_hook(measuring(name)) for name, module in normalisations.items()]
    network.eval()
    order = torch.randperm(task.num_train, generator=seeded(recipe.seed, 0, 2))
    for step in range(min(num_batches, max(1, task.num_train // recipe.batch_size))):
        indices = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        task.loss(network, indices, seeded(recipe.seed, 0, step, 2))
    for hook in hooks:
        hook.remove()
    for name, module in normalisations.items():
        assert isinstance(module, nn.BatchNorm2d)
        mean, square = torch.stack(sums[name]).mean(dim=0)
        _cancelled(module, mean, (square - mean.square()).clamp_min(0))


def _cancelled(normalisation: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Statistics in, scale and shift set so that nothing changes but by the shift that was there."""
    assert normalisation.running_mean is not None
    assert normalisation.running_var is not None
    normalisation.running_mean.copy_(mean)
    normalisation.running_var.copy_(variance)
    normalisation.weight.copy_((variance + normalisation.eps).sqrt())
    normalisation.bias.add_(mean)
