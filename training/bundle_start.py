"""The classification network of a bundle as the start of a run: folded normalisations taken apart again.

A bundle's graph holds convolutions into which the normalisation after them was folded. Each is given its
normalisation back, set to change nothing but by the folded bias. The decision a reader would question: mean
and variance that were folded away cannot be recovered, so they are measured on the new run's own training
films, and scale and shift are set to cancel them. The network computes what the bundle computes until the
first step, and then trains as one that was never folded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from calibration.model_calibration import Calibration
from engines.bundle import Bundle
from screener.errors import ConfigError
from training.checkpoints import network_bundle, refuse_patients_of_bundle
from training.export import foldable_pairs
from training.fit import Task, seeded
from training.networks import ClassificationConfig, LungClassifier
from training.recipe import FitRecipe
from training.restore import restore_networks
from training.run_record import FACTS

SHIPPED = "shipped"
"""Name in a recipe of the bundle that ships."""


def open_start(name: str, runs: Path, network: ClassificationConfig, held_out: Iterable[str]) -> Bundle:
    """The bundle that a recipe's `initial_bundle` names, held against the run that is to start from it.

    Args:
        name: bundle (folder or file) below `runs`, or `shipped`.
        runs: folder that it is below.
        network: settings of the run's network.
        held_out: patients of the run's calibration and test parts.

    Raises:
        ConfigError: no bundle, a network of other settings, or held-out patients that the bundle may know.
        BundleError: a bundle that cannot be used.
    """
    bundle = network_bundle(None if name == SHIPPED else name, runs, "initial_bundle")
    if bundle is None:
        raise ConfigError(f"initial_bundle {Path(name).name}: a run, no bundle; name it in initial_run")
    refuse_patients_of_bundle(bundle.model_sha256, held_out)
    wanted, held = asdict(network), asdict(restore_networks(bundle)[1].config)
    if differing := [f"{key} is {held[key]}" for key in wanted if wanted[key] != held[key]]:
        raise ConfigError(f"the bundle to start from has another network: {', '.join(differing)}")
    return bundle


def start_facts(bundle: Bundle) -> dict[str, Any]:
    """What `run.json` says of the bundle that a run starts from; the model card is written from it."""
    fitted_on = Calibration.parse(bundle.calibration, "calibration.json").fitted_on
    return {
        "initial_bundle": {
            "bundle": bundle.title,
            "model_sha256": bundle.model_sha256,
            "simulated": fitted_on is None or fitted_on.simulated,
            "licences": list(bundle.manifest.licences),
        }
    }


def inherited_start(run: str | None, runs: Path) -> dict[str, Any]:
    """`start_facts` of the run that a run starts from; nothing if that started from no bundle or is none."""
    path = runs / str(run) / FACTS
    if run is None or not path.exists():
        return {}
    facts = json.loads(path.read_text(encoding="utf-8"))
    return {key: facts[key] for key in ("initial_bundle",) if key in facts}


def start_at_bundle(network: LungClassifier, bundle: Bundle) -> list[str]:
    """Load a bundle's weights into a fresh classifier of the same settings, in place.

    Returns:
        Names, within `network`, of the normalisations that `measure_folded` has to measure.
    """
    return load_folded(network, restore_networks(bundle)[1].classifier)


@torch.no_grad()
def load_folded(network: nn.Module, folded: nn.Module) -> list[str]:
    """Give a fresh network the weights of one whose normalisations are folded.

    Args:
        network: as built, with every normalisation; changed in place.
        folded: the same network after `export.fold_normalisation`.

    Returns:
        Names of the normalisations that had been folded away: mean 0, variance 1, until they are measured.
    """
    weights: dict[str, Tensor] = dict(folded.state_dict())
    names = {module: name for name, module in network.named_modules()}
    restored = []
    for module, first, second in foldable_pairs(network):
        inside = f"{names[module]}." if names[module] else ""
        bias = weights.pop(f"{inside}{first}.bias")
        weights |= {
            f"{inside}{second}.{key}": value
            for key, value in _unchanging(getattr(module, second), bias).items()
        }
        restored.append(f"{inside}{second}")
    network.load_state_dict(weights)
    return restored


def _unchanging(normalisation: nn.BatchNorm2d, bias: Tensor) -> dict[str, Tensor]:
    """State of a normalisation that only adds a bias."""
    return {
        "weight": torch.ones_like(bias),
        "bias": bias,
        "running_mean": torch.zeros_like(bias),
        "running_var": torch.full_like(bias, 1 - normalisation.eps),
        "num_batches_tracked": torch.tensor(0),
    }


@torch.no_grad()
def measure_folded(
    network: nn.Module, names: list[str], task: Task, recipe: FitRecipe, num_batches: int = 8
) -> None:
    """Give normalisations that change nothing the mean and variance of the training films, cancelled.

    Args:
        network: in place; computes the same before and after.
        names: of the normalisations, as `load_folded` left them: to be measured once.
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
        _cancel(module, mean, (square - mean.square()).clamp_min(0))


def _cancel(normalisation: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> None:
    """Statistics in, scale and shift set so that nothing changes but by the shift that was there."""
    assert normalisation.running_mean is not None
    assert normalisation.running_var is not None
    normalisation.running_mean.copy_(mean)
    normalisation.running_var.copy_(variance)
    normalisation.weight.copy_((variance + normalisation.eps).sqrt())
    normalisation.bias.add_(mean)
