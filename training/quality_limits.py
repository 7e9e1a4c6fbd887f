"""Films with lung masks to the table behind the quality limits: `python -m training.quality_limits FOLDER`.

Every pair goes through the same canvas and the same measures as screening, with its own mask in place of a
network's. Questionable: films of 128 pixels are measured as they are, so their noise is none and every one of
them is flagged `low_resolution`, rightly.

FOLDER holds `pairs.csv` with the columns `image`, `mask` (paths below FOLDER) and `convention`.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import fields as fields_of
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from screener.canvas import CANVAS_SIDE, canvas_from_grey
from screener.quality import FilmMeasures, grade, measure_film
from screener.records import ArchiveEntry, CanvasFacts, Float32, Identity, Instance, Letterbox, Source
from screener.zones import find_lungs

MASK_SIDE = 256
PERCENTILES = (0, 1, 50, 99, 100)
FRONTAL_LOGIT = 5.0


def pairs(folder: Path) -> Iterator[tuple[str, npt.NDArray[np.uint8], Float32]]:
    """Every film whose mask has two lungs: convention, (H, W) grey, (2, H, W) lungs, patient right first."""
    with (folder / "pairs.csv").open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            image = cv2.imread(str(folder / row["image"]), cv2.IMREAD_GRAYSCALE)
            mask = cv2.imread(str(folder / row["mask"]), cv2.IMREAD_GRAYSCALE)
            if image is None or mask is None:
                raise SystemExit(f"{row['image']}: the film or its mask cannot be read")
            lungs = two_lungs(np.asarray(mask, dtype=np.uint8))
            if lungs is not None:
                yield row["convention"], np.asarray(image, dtype=np.uint8), lungs


def two_lungs(mask: npt.NDArray[np.uint8]) -> Float32 | None:
    """The two largest parts of a mask (H, W), as (2, H, W) patient right first; None when there is one."""
    count, labels, stats, centroids = cv2.connectedComponentsWithStats((mask > 127).astype(np.uint8))
    if count < 3:
        return None
    largest = [int(label) + 1 for label in np.argsort(-stats[1:, cv2.CC_STAT_AREA])[:2]]
    right, left = sorted(largest, key=lambda label: float(centroids[label][0]))
    return np.stack([labels == right, labels == left]).astype(np.float32)


def on_mask_grid(lungs: Float32, letterbox: Letterbox) -> Float32:
    """Masks (2, H, W) of a picture as lung probability (2, M, M) over the canvas."""
    scale = letterbox.scale
    offset = scale / 2 - 0.5
    move = np.array([[scale, 0, letterbox.left + offset], [0, scale, letterbox.top + offset]])
    drawn = (cv2.warpAffine(lung, move, (CANVAS_SIDE, CANVAS_SIDE)) for lung in lungs)
    small = [cv2.resize(lung, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA) for lung in drawn]
    return np.stack(small).astype(np.float32)


def plain_source(
    facts: CanvasFacts, shape: tuple[int, ...], spacing_mm: tuple[float, float] | None = None
) -> Source:
    """A source with the least header that grading looks at."""
    header = Instance(
        sop_class_uid=None,
        transfer_syntax_uid="",
        modality=None,
        rows=shape[0],
        columns=shape[1],
        bits_allocated=8,
        bits_stored=8,
        is_signed=False,
        photometric_interpretation="MONOCHROME2",
        view_position=None,
        body_part="chest",
        pixel_spacing_mm=spacing_mm,
        spacing_source=None,
        for_presentation=None,
        manufacturer=None,
        patient_age_years=None,
        patient_sex=None,
        study_year=None,
    )
    return Source(ArchiveEntry("", 0, 0), Identity(), header, facts, "")


def lung_box(probability: Float32) -> Float32:
    """Top, left, bottom, right (4,) of both lungs in canvas pixels; the whole canvas without lungs."""
    rows, columns = np.nonzero(probability.max(axis=0) >= 0.5)
    if not rows.size:
        return np.array([0, 0, CANVAS_SIDE, CANVAS_SIDE], dtype=np.float32)
    edges = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    return np.asarray(edges, dtype=np.float32) * np.float32(CANVAS_SIDE / MASK_SIDE)


def measure_pairs(folder: Path) -> tuple[dict[str, list[FilmMeasures]], dict[str, Counter[str]]]:
    """Measures of every film with both lungs, and how often each grade and flag was given, by convention."""
    measures: dict[str, list[FilmMeasures]] = defaultdict(list)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for convention, image, lungs in pairs(folder):
        canvas = np.empty((1, CANVAS_SIDE, CANVAS_SIDE), dtype=np.float32)
        source = plain_source(canvas_from_grey(image, canvas[0]), image.shape)
        probability = on_mask_grid(lungs, source.canvas.letterbox)
        geometry, quality = grade(canvas, probability, lung_box(probability), FRONTAL_LOGIT, source)
        counts[convention].update(str(flag) for flag in quality.flags)
        counts[convention][f"grade {quality.grade}"] += 1
        counts[convention]["mask_valid"] += geometry.mask_valid
        lung_fields = find_lungs(probability)
        if len(lung_fields.found) == 2:
            small = cv2.resize(canvas[0], (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA)
            measures[convention].append(measure_film(canvas, small, lung_fields, source))
    return measures, counts


def main(folder: Path) -> None:
    """Print the counts and the percentiles of every measure as Markdown."""
    measures, counts = measure_pairs(folder)
    for convention, films in measures.items():
        lines = [
            "",
            f"{convention}: {len(films)} films, {dict(counts[convention].most_common())}",
            "",
            "| measure | " + " | ".join(f"{percentile} %" for percentile in PERCENTILES) + " |",
            "| --- " * (len(PERCENTILES) + 1) + "|",
        ]
        for measure in fields_of(FilmMeasures):
            found = np.percentile([getattr(film, measure.name) for film in films], PERCENTILES)
            lines.append(f"| {measure.name} | " + " | ".join(f"{value:.3f}" for value in found) + " |")
        sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
