"""Pictures kept beside the tables: lung masks and, for referred films, overlays.

They are made while the canvas is still in memory (the archive is never read twice) and named by pseudonym.
Files appear whole: written beside their place, then renamed. Unlike the tables they are not synced to disk
one by one: a film whose picture was lost in a power cut is still in its table.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from screener.errors import ReportError
from screener.pictures import draw_overlay
from screener.pseudonyms import Pseudonyms
from screener.records import Batch, Logits, Lungs, Referral, Rejection, ScreenedImage
from screener.zones import mask_in_picture


class Keepsakes:
    """Writes the pictures of one campaign.

    Args:
        campaign: the campaign folder; `masks` and `pictures` are made on first use.
        pseudonyms: of the campaign's key.
        save_masks: write each lung mask.
        pictures: which films get an overlay: `none`, `referred` or `all`.
    """

    def __init__(self, campaign: Path, pseudonyms: Pseudonyms, *, save_masks: bool, pictures: str) -> None:
        self._masks = campaign / "masks"
        self._pictures = campaign / "pictures"
        self._pseudonyms = pseudonyms
        self._save_masks = save_masks
        self._which = pictures

    def keep(
        self, batch: Batch, lungs: Lungs, logits: Logits, ended: list[ScreenedImage | Rejection]
    ) -> None:
        """Write what is asked for of one batch.

        Raises:
            ReportError: the disk is full or the folder cannot be written.
        """
        for index, film in enumerate(ended):
            if not isinstance(film, ScreenedImage):
                continue
            if self._save_masks:
                self._write(self._masks, film, ".png", _mask_png(lungs, index, film))
            is_referred = film.decision.referral is not Referral.NONE
            if self._which == "all" or (self._which == "referred" and is_referred):
                drawn = draw_overlay(
                    batch.canvas[index, 0],
                    lungs.probability[index],
                    lungs.box[index],
                    logits.activation[index],
                )
                self._write(self._pictures, film, ".webp", drawn)

    def _write(self, folder: Path, film: ScreenedImage, suffix: str, content: bytes) -> None:
        file_id = self._pseudonyms.file_id(film.source.entry.relative_path)
        name = self._pseudonyms.of_image(film.source.identity, file_id).image_pid
        temporary = folder / f".{file_id}{suffix}.tmp"
        try:
            folder.mkdir(exist_ok=True)
            temporary.write_bytes(content)
            temporary.replace(folder / f"{name}{suffix}")
        except OSError as error:
            raise ReportError(
                f"cannot write into {folder.name}/ of the campaign: {error.strerror}"
            ) from error


def _mask_png(lungs: Lungs, index: int, film: ScreenedImage) -> bytes:
    instance = film.source.instance
    letterbox = film.source.canvas.letterbox
    mask: npt.NDArray[np.uint8] = mask_in_picture(
        lungs.probability[index], letterbox, instance.rows, instance.columns
    )
    done, png = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    if not done:
        raise ReportError("a lung mask could not be encoded as PNG")
    return png.tobytes()
