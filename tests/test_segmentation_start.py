"""The shipped segmentation as the start of another run: the same network, and a split to hold on to."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import polars as pl
import torch

from training.checkpoints import load_segmentation, refuse_seen_patients, segmentation_of
from training.recipe import FitRecipe
from training.segmentation_data import MASK_SIDE
from training.segmentation_start import start_folder
from training.segmentation_task import SegmentationAugmentation, SegmentationRecipe

_FILMS = 24


def _pairs(folder: Path) -> None:
    mask = np.zeros((128, 128), np.uint8)
    for column in (40, 88):
        cv2.ellipse(mask, (column, 66), (18, 40), 0, 0, 360, 255, -1)
    rows = ["image,mask,convention,patient_group"]
    cv2.imwrite(str(folder / "mask.png"), mask)
    for number in range(_FILMS):
        noise = np.random.default_rng(number).normal(0, 9, mask.shape)
        picture = np.clip(170 - mask * 0.5 + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"made_{number}.png"), picture)
        rows.append(f"made_{number}.png,mask.png,anatomical,p{number}")
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n")


def test_the_start_is_the_shipped_network_and_can_be_held_to_its_split(tmp_path: Path) -> None:
    _pairs(tmp_path)
    recipe = SegmentationRecipe(
        pairs="pairs.csv",
        films=None,
        initial_run="start",
        start_share=0.5,
        augmentation=SegmentationAugmentation(opacified=0.3),
        fit=FitRecipe(batch_size=2, precision="32-true", accelerator="cpu"),
    )
    start_folder(recipe, tmp_path, tmp_path / "start", num_batches=1)
    picture = torch.rand((1, 1, MASK_SIDE, MASK_SIDE), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, frontal = load_segmentation(tmp_path / "start").logits(picture)
        expected, expected_frontal = segmentation_of(None, tmp_path).eval().logits(picture)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(frontal, expected_frontal, atol=2e-3, rtol=1e-3)
    split = pl.read_csv(tmp_path / "start/split.csv")
    assert split.height == _FILMS
    held_out = split.filter(pl.col("part") != "train")["patient"].to_list()
    assert held_out
    refuse_seen_patients(tmp_path / "start", tmp_path, held_out)
