"""ChestX-ray14 crops to a fourteen-label loss and mean AUROC, for pre-training the DenseNet-121 backbone.

The decision a reader would question: the pictures are lung crops, not whole films, so that the backbone is
trained on exactly what it will see afterwards; figures are therefore not strictly comparable with published
whole-film runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from screener.errors import ConfigError
from training.augmentation import random_affine
from training.chestxray14 import FINDINGS, auroc_table, read_chestxray14
from training.classification_task import CROP_MOVES, augmented_crops
from training.crop_store import CropStore
from training.crops import CropFilms, make_crops
from training.curves import draw_curves
from training.densenet import DenseNet121, import_backbone, read_weights
from training.fit import FitResult, LossTerms, OnEpoch, OnStep, Trainer, settle_first
from training.networks import ClassificationConfig, LungCrop, SegmentationNetwork, model_input
from training.own_films import canvas_of_file
from training.recipe import FitRecipe
from training.run_record import describe_run, run_identity

MISSING = -1


@dataclass(frozen=True, slots=True)
class PretrainRecipe:
    """A pre-training run on ChestX-ray14."""

    segmentation: str | None = None
    """Run folder or bundle, below the runs folder, whose segmentation network makes the crops; left out, the
    bundle that ships."""
    initial_weights: str | None = None
    """DenseNet-121 weights to start from, torchvision layout, below the folder of ChestX-ray14."""
    network: ClassificationConfig = field(
        default_factory=lambda: ClassificationConfig(growth=32, crop_side=224)
    )
    fit: FitRecipe = field(default_factory=FitRecipe)


class FindingsNetwork(nn.Module):
    """DenseNet-121 with one logit a finding from the mean over the lungs' cells."""

    def __init__(self, config: ClassificationConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = DenseNet121(num_channels=2, growth=config.growth)
        self.findings = nn.Linear(self.backbone.num_features, len(FINDINGS))

    def forward(self, crop: Tensor, lungs: Tensor) -> Tensor:
        """(N, 1, C, C) crops and (N, 2, C, C) lungs to (N, 14) log-odds."""
        features = self.backbone(model_input(self.config, crop, lungs)).float()
        logits: Tensor = self.findings(features.mean(dim=(2, 3)))
        return logits


class PretrainTask:
    """Training and validation films and the masked fourteen-label loss."""

    def __init__(
        self, films: CropFilms, train: npt.NDArray[np.int64], validation: npt.NDArray[np.int64]
    ) -> None:
        self.films, self.train, self.validation = films, train, validation
        self.store = CropStore(films)
        labels = films.films.select(pl.col(FINDINGS).cast(pl.Int64).fill_null(MISSING)).to_numpy()
        self.labels = torch.from_numpy(labels.copy())

    @property
    def num_train(self) -> int:
        """Films in the training part."""
        return len(self.train)

    def loss(self, network: nn.Module, indices: Tensor, generator: torch.Generator) -> LossTerms:
        """Mean binary cross-entropy over the labels that were graded."""
        device = next(network.parameters()).device
        places = self.train[indices.numpy()]
        matrices = random_affine(len(places), CROP_MOVES, generator)
        crop, lungs = augmented_crops(*self.store.pictures(places, device), matrices, generator)
        labels = self.labels[torch.from_numpy(places)].to(device)
        total = masked_cross_entropy(network(crop, lungs), labels)
        return LossTerms(total, {"loss": float(total.detach())})

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> Mapping[str, float]:
        """Loss and mean AUROC on the validation part; `score` is minus the loss."""
        logits = self.predict(network, self.validation)
        loss = float(
            masked_cross_entropy(torch.from_numpy(logits), self.labels[torch.from_numpy(self.validation)])
        )
        mean = auroc_table(with_logits(self.films, self.validation, logits))["auroc"][-1]
        merit = {} if mean is None else {"mean_auroc": float(mean)}
        return {"val_loss": loss, **merit, "score": -loss}

    @torch.no_grad()
    def predict(self, network: nn.Module, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """(N, 14) log-odds of untouched films."""
        device = next(network.parameters()).device
        parts = []
        for start in range(0, len(places), 32):
            crop, lungs = self.store.pictures(places[start : start + 32], device)
            parts.append(network(crop, lungs).float().cpu().numpy())
        return np.concatenate(parts)


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy over graded labels only.

    Args:
        logits: (N, 14).
        labels: (N, 14) 1, 0, or `MISSING`.
    """
    known = labels != MISSING
    each = functional.binary_cross_entropy_with_logits(logits, labels.clamp_min(0).float(), reduction="none")
    return (each * known).sum() / known.sum().clamp_min(1)


def with_logits(
    films: CropFilms, places: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]
) -> pl.DataFrame:
    """The films' rows with one `logit_<finding>` column each."""
    columns = {f"logit_{finding}": pl.Series(logits[:, k]) for k, finding in enumerate(FINDINGS)}
    return films.films[places].with_columns(**columns)


def pretrain(
    recipe: PretrainRecipe,
    nih: Path,
    segmentation: SegmentationNetwork,
    folder: Path,
    *,
    weights: Path | None = None,
    on_epoch: OnEpoch | None = None,
    on_step: OnStep | None = None,
) -> FitResult:
    """Pre-train on ChestX-ray14 and write `auroc.csv` of the official test part.

    Args:
        recipe: the run.
        nih: folder in ChestX-ray14's own layout.
        segmentation: network that makes the crops.
        folder: run folder; a run found there is continued. `backbone.pt` in it starts a classification run.
        weights: DenseNet-121 weights to start from, in place of the recipe's.
        on_epoch: called with each epoch's metrics.
        on_step: called after each step.

    Raises:
        ConfigError: an index or picture that cannot be used (names file and row), a split without training or
            validation patients, or the folder holds another run.
    """
    listed = read_chestxray14(nih).films
    for part in ("train", "calibration"):
        if part not in listed["split"]:
            raise ConfigError(f"the {part} part of the official training patients is empty: too few pictures")
    paths = listed["path"].to_list()

    def draw(start: int, stop: int) -> Tensor:
        drawn = [
            canvas_of_file(Path(paths[i]), f"picture {listed['film_id'][i]}") for i in range(start, stop)
        ]
        return torch.from_numpy(np.stack(drawn)[:, None])

    films = make_crops(listed.drop("path"), draw, segmentation, LungCrop(recipe.network), folder / "crops")
    torch.manual_seed(recipe.fit.seed)
    network = FindingsNetwork(recipe.network)
    if weights is None and recipe.initial_weights is not None:
        weights = nih / recipe.initial_weights
    if weights is not None:
        import_backbone(network.backbone, read_weights(weights))
    describe_run(folder, recipe)
    train = films.part("train")
    task = PretrainTask(films, train, films.part("calibration"))
    settle_first(network, task, recipe.fit, folder)
    identity = run_identity(recipe, films.films["film_id"][train].to_list())
    trainer = Trainer(network, task, recipe.fit, folder, compiled=network.backbone, identity=identity)
    result = trainer.run(on_epoch, on_step)
    draw_curves(folder / "metrics.parquet", folder / "curves.png")
    test = films.part("test")
    if len(test):
        auroc_table(with_logits(films, test, task.predict(trainer.average, test))).write_csv(
            folder / "auroc.csv"
        )
    torch.save(trainer.average.get_submodule("backbone").state_dict(), folder / "backbone.pt")
    return result
