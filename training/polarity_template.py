"""Normal frontal films → `screener/assets/mean_chest.npy`, the template of `screener.polarity`.

    python -m training.polarity_template FOLDER [OUT]

FOLDER holds `labels.csv` (file, label, view) and the films it names; only NIH ChestX-ray14 films (`nih_`,
`nihj_`) labelled normal are used, whose terms are unrestricted. The mean over many patients of a 32 × 32
thumbnail holds no patient.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import cv2
import numpy as np

from screener.canvas import CANVAS_SIDE, canvas_from_grey
from screener.errors import ConfigError
from screener.polarity import thumbnail
from screener.records import Float32


def normal_films(folder: Path) -> list[Path]:
    """NIH frontal films labelled normal that `labels.csv` in `folder` names."""
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as file:
        return [
            folder / row["file"]
            for row in csv.DictReader(file)
            if row["label"] == "normal"
            and row["view"] in ("PA", "AP")
            and Path(row["file"]).name.startswith(("nih_", "nihj_"))
        ]


def mean_chest(films: list[Path]) -> Float32:
    """Mean (32, 32) thumbnail of the films' canvases and their mirror images, zero mean, unit norm.

    Mirrored because the template must not care on which side the heart lies.
    """
    total = np.zeros_like(thumbnail(np.zeros((CANVAS_SIDE, CANVAS_SIDE), np.float32)))
    canvas = np.zeros((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    for film in films:
        image = cv2.imread(str(film), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise ConfigError(f"{film.name} cannot be read as a picture")
        # Judging the polarity needs the template that is being made: the films are known to be positive.
        facts = canvas_from_grey(image, canvas, check_polarity=False)
        top, left, bottom, right = (int(edge) for edge in facts.content)
        total += thumbnail(canvas[top:bottom, left:right])
    total += total[:, ::-1]
    return thumbnail(total)


def main() -> None:
    """Write the template."""
    default = Path(__file__).parents[1] / "screener" / "assets" / "mean_chest.npy"
    out = Path(sys.argv[2]) if len(sys.argv) > 2 else default
    films = normal_films(Path(sys.argv[1]))
    np.save(out, mean_chest(films))
    sys.stdout.write(f"{len(films)} films\n")


if __name__ == "__main__":
    main()
