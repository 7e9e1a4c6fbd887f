"""Crops in memory-mapped arrays to float batches on a device, for training that must not wait for films.

On a GPU all films are copied to its memory once, as bytes, when they take less than half of what is free; a
batch is then an index there. The decision a reader would question: no data loader and no worker processes.
Crops are bytes that need no decoding, so the only work would be copying them twice.

Shape letters: N films, C side of the crop, F side of the finding maps.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from training.crops import CropFilms

Int64 = npt.NDArray[np.int64]


class CropStore:
    """The films of a task, where its network can reach them fastest."""

    def __init__(self, films: CropFilms) -> None:
        self.films = films
        self._held: dict[str, Tensor] | None = None

    def pictures(self, places: Int64, device: torch.device, side: int | None = None) -> tuple[Tensor, Tensor]:
        """Crops (N, 1, C, C) in [0, 1] and lung masks (N, 2, C, C) of some films; C is `side` where given."""
        crop = self._bytes("crops", places, device)[:, None].float() / 255
        lungs = self._bytes("lungs", places, device).float() / 255
        if side is not None and side != crop.shape[-1]:
            crop = functional.interpolate(crop, size=(side, side), mode="area")
        return crop, functional.interpolate(lungs, size=crop.shape[-2:], mode="bilinear", align_corners=False)

    def maps(self, places: Int64, device: torch.device) -> Tensor | None:
        """(N, 3, F, F) maps of drawn findings in [0, 1]; None where the films have none."""
        if self.films.maps is None:
            return None
        return self._bytes("maps", places, device).float() / 255

    def _bytes(self, name: str, places: Int64, device: torch.device) -> Tensor:
        held = self._on_gpu(device) if device.type == "cuda" else {}
        if name in held:
            return held[name][torch.from_numpy(places).to(device)]
        return torch.from_numpy(getattr(self.films, name)[places]).to(device)

    def _on_gpu(self, device: torch.device) -> dict[str, Tensor]:
        if self._held is None:
            arrays = {"crops": self.films.crops, "lungs": self.films.lungs}
            if self.films.maps is not None:
                arrays["maps"] = self.films.maps
            needed = sum(array.nbytes for array in arrays.values())
            fits = 2 * needed < torch.cuda.mem_get_info(device)[0]
            self._held = {name: _copied(array, device) for name, array in arrays.items()} if fits else {}
        return self._held


def _copied(array: npt.NDArray[np.uint8], device: torch.device, films_at_once: int = 512) -> Tensor:
    """An array on a device, copied in pieces: pages of a memory map become plain memory on the way."""
    held = torch.empty(array.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(array), films_at_once):
        held[start : start + films_at_once] = torch.from_numpy(array[start : start + films_at_once].copy())
    return held
