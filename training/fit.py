"""The training loop: a task and a recipe to checkpoints, metrics and learning curves.

Runs on one CPU, one GPU or several through Lightning Fabric. The decision a reader would question: no state
of a data loader is saved. Order and augmentation of step s in epoch e are drawn from a generator seeded by
(seed, e, s, rank), so that a run continued from a checkpoint draws exactly what the uninterrupted run would
have.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from screener.durable import replace_file
from screener.errors import ConfigError
from training.cuda_graphs import graph_on_first_use
from training.recipe import FitRecipe
from training.run_record import RECIPE, RunIdentity, refuse_another_run

OnEpoch = Callable[[Mapping[str, float]], None]
"""Told the figures of an epoch."""
OnStep = Callable[[int, int, int], None]
"""Told epochs finished, and of the one that runs the steps done and in all."""


class Task(Protocol):
    """What is trained: knows its films, its augmentation and its loss."""

    @property
    def num_train(self) -> int:
        """Films in the training part."""

    def loss(self, network: nn.Module, indices: Tensor, generator: torch.Generator) -> LossTerms:
        """Loss of the training films at `indices` (positions in the training part), augmented."""

    def evaluate(self, network: nn.Module) -> Mapping[str, float]:
        """Metrics on the validation part; `score` (higher is better) chooses the best checkpoint."""


@dataclass(frozen=True, slots=True)
class LossTerms:
    """The loss that is minimised and the terms that are logged."""

    total: Tensor
    terms: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class FitResult:
    """Where a finished run left its files."""

    folder: Path
    metrics: Mapping[str, float]
    """Of the last evaluation."""


def seeded(seed: int, *numbers: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator for one place in a run; distinct places get unrelated streams, and so do kinds of device."""
    mixed = seed
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (2**61 - 1)
    return torch.Generator(device).manual_seed(mixed)


class Trainer:
    """Holds what a checkpoint holds, and moves it forward step by step.

    Args:
        network: what is trained.
        task: films and loss.
        recipe: optimiser, schedule and hardware.
        folder: run folder.
        compiled: the part of the network that is worth compiling; None compiles all of it.
        graphed: the part that can be a CUDA graph; None takes all of it.
        identity: what a checkpoint must have been made of to be continued (`run_identity`).
    """

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        recipe: FitRecipe,
        folder: Path,
        *,
        compiled: nn.Module | None = None,
        graphed: nn.Module | None = None,
        identity: RunIdentity | None = None,
    ) -> None:
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        torch.backends.cudnn.benchmark = True  # pictures of a run are of one size
        self.task, self.recipe, self.folder, self.identity = task, recipe, folder, identity
        self.fabric = Fabric(
            accelerator=recipe.accelerator, devices=recipe.devices, precision=recipe.precision
        )
        self.fabric.launch()
        # Convolutions on matrix units want channels last; a fresh network and a loaded one alike.
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = copy.deepcopy(network).eval().requires_grad_(requires_grad=False)
        optimiser = torch.optim.AdamW(_groups(network, recipe.weight_decay), lr=recipe.learning_rate)
        if recipe.compile:
            (compiled or network).compile()
        if recipe.cuda_graphs and self.fabric.device.type == "cuda":
            dtype = torch.bfloat16 if recipe.precision == "bf16-mixed" else None
            graph_on_first_use(graphed or network, dtype)
        self.plain = network
        self.network, self.optimiser = self.fabric.setup(network, optimiser)
        self.average = self.fabric.to_device(self.average)
        self.epoch, self.step = 0, 0
        self.rows: list[dict[str, float]] = []
        self.started = time.monotonic()

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of one epoch; a last partial batch is left out."""
        return max(1, self.task.num_train // (self.recipe.batch_size * self.fabric.world_size))

    def run(self, on_epoch: OnEpoch | None = None, on_step: OnStep | None = None) -> FitResult:
        """Train until the recipe's last epoch, continuing from the folder's checkpoint if there is one.

        Raises:
            ConfigError: the checkpoint is of another run.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._resume()
        while self.epoch < self.recipe.epochs:
            terms = self._train_epoch(on_step)
            self.epoch += 1
            due = self.epoch % self.recipe.evaluate_every == 0 or self.epoch == self.recipe.epochs
            metrics = dict(self.task.evaluate(self.average)) if due and self.fabric.is_global_zero else {}
            row = {"epoch": float(self.epoch), "seconds": time.monotonic() - self.started, **terms, **metrics}
            self.rows.append(row)
            if self.fabric.is_global_zero:
                self._save(row)
                if on_epoch is not None:
                    on_epoch(row)
            self.fabric.barrier()
        last = next((row for row in reversed(self.rows) if "score" in row), {})
        return FitResult(self.folder, last)

    def _train_epoch(self, on_step: OnStep | None) -> dict[str, float]:
        order = torch.randperm(self.task.num_train, generator=seeded(self.recipe.seed, self.epoch))
        sums: dict[str, float] = {}
        self.network.train()
        if self.recipe.freeze_statistics:
            for module in normalisations(self.plain):
                module.eval()
        for step in range(self.steps_per_epoch):
            start = (step * self.fabric.world_size + self.fabric.global_rank) * self.recipe.batch_size
            indices = order[start : start + self.recipe.batch_size]
            generator = seeded(
                self.recipe.seed, self.epoch, step, self.fabric.global_rank, device=self.fabric.device
            )
            for name, value in self._one_step(indices, generator).items():
                sums[name] = sums.get(name, 0.0) + value / self.steps_per_epoch
            if on_step is not None and self.fabric.is_global_zero:
                on_step(self.epoch, step + 1, self.steps_per_epoch)
        return sums

    def _one_step(self, indices: Tensor, generator: torch.Generator) -> Mapping[str, float]:
        for group in self.optimiser.param_groups:
            group["lr"] = self._rate()
        result = self.task.loss(self.network, indices, generator)
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(result.total)
        self.fabric.clip_gradients(self.network, self.optimiser, max_norm=self.recipe.clip_norm)
        self.optimiser.step()
        self.step += 1
        self._follow()
        return result.terms

    def _rate(self) -> float:
        total = self.steps_per_epoch * self.recipe.epochs
        warm = max(1, int(total * self.recipe.warmup_share))
        if self.step < warm:
            return self.recipe.learning_rate * (self.step + 1) / warm
        phase = (self.step - warm) / max(1, total - warm)
        return self.recipe.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, phase))))

    @torch.no_grad()
    def _follow(self) -> None:
        # The average must not remember the random start, so it moves faster in the first steps.
        decay = min(self.recipe.ema_decay, self.step / (self.step + 10)) if self.recipe.ema_decay else 0.0
        pairs = list(zip(self.average.state_dict().values(), self.plain.state_dict().values(), strict=True))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        # One call for hundreds of tensors: on a GPU a launch each would take as long as the step.
        torch._foreach_lerp_([mean for mean, _ in floating], [value for _, value in floating], 1 - decay)
        for mean, value in pairs:
            if not mean.is_floating_point():
                mean.copy_(value)

    def _save(self, row: Mapping[str, float]) -> None:
        checkpoint = {
            "network": self.plain.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "rows": self.rows,
            "run": dict(self.identity or {}),
        }
        write_torch(self.folder / "last.pt", checkpoint)
        if "score" in row and row["score"] >= max(r.get("score", -math.inf) for r in self.rows):
            write_torch(self.folder / "best.pt", {"average": self.average.state_dict(), "epoch": self.epoch})
        pl.DataFrame(self.rows, infer_schema_length=None).write_parquet(self.folder / "metrics.parquet")

    def _resume(self) -> None:
        path = self.folder / "last.pt"
        if not path.exists():
            return
        held = torch.load(path, map_location=self.fabric.device, weights_only=True)
        self._check(held.get("run"))
        self.plain.load_state_dict(held["network"])
        self.average.load_state_dict(held["average"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.epoch, self.step, self.rows = held["epoch"], held["step"], list(held["rows"])
        self.started -= self.rows[-1]["seconds"]

    def _check(self, held: RunIdentity | None) -> None:
        if self.identity is None:
            return
        if held:
            refuse_another_run(held, self.identity, self.folder)
        elif not (self.folder / RECIPE).exists():  # else `describe_run` has held the recipe against it
            raise ConfigError(
                f"run {self.folder.name} has a checkpoint that does not say what it was trained on: "
                "choose another name, or remove the folder"
            )


def normalisations(network: nn.Module) -> list[nn.BatchNorm2d]:
    """Every batch normalisation of a network."""
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def settle_statistics(network: nn.Module, task: Task, recipe: FitRecipe, num_batches: int = 32) -> None:
    """Measure the statistics of every normalisation again, on augmented training films, weights unchanged.

    Args:
        network: in place.
        task: its films at the side that they will be trained at.
        recipe: batch size and seed.
        num_batches: batches whose means are averaged.
    """
    held = [(module, module.momentum) for module in normalisations(network)]
    for module, _ in held:
        module.reset_running_stats()
        module.momentum = None  # torch's word for a plain average over all batches
    network.train()
    order = torch.randperm(task.num_train, generator=seeded(recipe.seed, 0, 1))
    for step in range(min(num_batches, max(1, task.num_train // recipe.batch_size))):
        indices = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        task.loss(network, indices, seeded(recipe.seed, 0, step, 1))
    for module, momentum in held:
        module.momentum = momentum


def settle_first(network: nn.Module, task: Task, recipe: FitRecipe, folder: Path) -> None:
    """`settle_statistics` where a recipe freezes them and the run has not begun; else nothing."""
    if recipe.freeze_statistics and not (folder / "last.pt").exists():
        settle_statistics(network, task, recipe)


def write_torch(path: Path, tensors: Mapping[str, Any]) -> None:
    """Save tensors so that a half-written checkpoint can never replace a whole one."""
    replace_file(path, lambda temporary: torch.save(dict(tensors), temporary))


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    kept = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": kept, "weight_decay": 0.0}]
