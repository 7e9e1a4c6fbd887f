"""Real films as hosts for drawn findings: a picture and its lung mask in, the picture with opacities out.

A real film arrives processed, so findings cannot be added to its line integral. Instead its ribs and
vessels are the ruler of its picture transfer: in phantoms, grey per unit of attenuation over the spread
of fine detail inside the lungs is nearly constant whatever the processing, and that ratio gives a real
film's slope. Findings are added in grey through it, up to the grey of the film's mediastinum. A reader
would question the ruler: a film with much disease of its own has more detail, hence the robust spread.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from screener.canvas import CANVAS_SIDE
from screener.errors import ConfigError
from training.conspicuity import Surroundings
from training.findings import Confounder, FindingPlan
from training.nuisances import Nuisance, devices, markers
from training.opacities import Field
from training.phantom import DEVICE_PER_MM, SOFT_PER_MM
from training.phantom_film import Film, draw_findings, zones_of

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

LUNG_HEIGHT_MM = 240.0
"""Apex to dome of an average adult: sets the scale of films without pixel spacing."""
SCATTER_FRACTION = 0.4
"""Scattered share of the signal in the lungs (domain §6): contrast falls by it."""
SLOPE_PER_CONTRAST = 46.0
"""Slope over `anatomy_contrast`, measured in phantoms, where both are known (`tests/test_cohort.py`)."""
BROAD_SHARE = 0.85
"""Slope of structures above about 1 cm over that of fine detail, which processing sharpens."""
_COLUMNS = ("image", "mask", "subject_id", "source", "findings", "licence")


@dataclass(frozen=True, slots=True)
class RealFilm:
    """One host film of the list."""

    image: Path
    mask: Path
    """PNG on the picture's own grid: 0, 1 patient right lung, 2 left."""
    subject_id: str
    source: str
    findings: str
    """The source's own labels; `No Finding` or empty for a normal film."""
    licence: str

    @property
    def key(self) -> str:
        """What identifies the film in a cohort's fingerprint; holds no folder."""
        return f"{self.source}/{self.image.name}"

    def adapt(self, plan: FindingPlan) -> FindingPlan:
        """The plan with what the host itself shows; its own heart cannot be enlarged."""
        if plan.confounder is Confounder.CARDIOMEGALY:
            return replace(plan, confounder=Confounder.NONE)
        return plan


def read_films(path: Path) -> tuple[RealFilm, ...]:
    """Read the list of real films.

    Args:
        path: CSV with columns image, mask, subject_id, source, findings, licence; paths relative to it.

    Raises:
        ConfigError: a column, a value or a file is missing; names the row.
    """
    films = []
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ConfigError(
                f"list of films: missing column {', '.join(missing)}; expected {', '.join(_COLUMNS)}"
            )
        for number, row in enumerate(reader, start=2):
            image, mask = path.parent / row["image"], path.parent / row["mask"]
            if not image.is_file() or not mask.is_file():
                raise ConfigError(f"list of films, row {number}: image or mask file not found")
            if not row["subject_id"] or not row["source"]:
                raise ConfigError(f"list of films, row {number}: subject_id and source must not be empty")
            films.append(
                RealFilm(image, mask, row["subject_id"], row["source"], row["findings"], row["licence"])
            )
    return tuple(films)


def _read_pair(host: RealFilm) -> tuple[UInt8, UInt8]:
    """Picture and lung labels at the size of the canvas: opacities need its pixels, whatever the film has."""
    image = cv2.imread(str(host.image), cv2.IMREAD_GRAYSCALE)
    mask = cv2.imread(str(host.mask), cv2.IMREAD_GRAYSCALE)
    if image is None or mask is None or image.shape != mask.shape:
        raise ConfigError(f"film {host.key}: picture or mask unreadable, or their sizes differ")
    levels = np.flatnonzero(np.bincount(mask.ravel())).tolist()
    if levels != [0, 1, 2]:
        raise ConfigError(
            f"film {host.key}: mask has levels {levels[:6]}; "
            "expected 0 outside, 1 the patient's right lung, 2 the left"
        )
    scale = CANVAS_SIDE / max(image.shape)
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
    return np.asarray(image, np.uint8), np.asarray(mask, np.uint8)


def lung_thickness(lungs: UInt8, pixel_mm: float) -> Float32:
    """Path through lung (mm) guessed from the outline: full in the middle, nothing at the edge."""
    total = np.zeros(lungs.shape, np.float32)
    for lung in (1, 2):
        distance = cv2.distanceTransform((lungs == lung).astype(np.uint8), cv2.DIST_L2, 5) * pixel_mm
        share = np.clip(distance / 45.0, 0, 1)
        total += 150.0 * np.sqrt(1 - (1 - share) ** 2) * (lungs == lung)
    return np.asarray(total, np.float32)


def anatomy_contrast(grey: Float32, lungs: UInt8) -> float:
    """Spread of the film's own ribs and vessels inside the lungs, grey (0 to 1): half the 16-84 % range.

    Structures of 1 to 5 film pixels (about 0.5-3 mm): the size of the opacities that will be drawn.
    """
    inner = cv2.erode((lungs > 0).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=14) > 0
    if not inner.any():
        inner = lungs > 0
    detail = cv2.GaussianBlur(grey, (0, 0), 1.0) - cv2.GaussianBlur(grey, (0, 0), 5.0)
    low, high = np.percentile(detail[inner], [16, 84])
    return float(high - low) / 2


def picture_slope(grey: Float32, lungs: UInt8) -> float:
    """Grey (0 to 1) per unit of attenuation in the lungs of one film, fine detail, scatter taken off."""
    return float(np.clip(SLOPE_PER_CONTRAST * anatomy_contrast(grey, lungs), 0.25, 1.5))


def _position(grey: UInt8, lungs: UInt8, nuisance: Nuisance) -> tuple[UInt8, UInt8]:
    """Rotate and shift a film, keeping its size."""
    rows, columns = grey.shape
    turn = cv2.getRotationMatrix2D((columns / 2, rows / 2), 0.5 * nuisance.rotation_deg, 1.0)
    turn[1, 2] += 0.5 * nuisance.cut_off_px
    moved = cv2.warpAffine(
        grey, turn, (columns, rows), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    labels = cv2.warpAffine(lungs, turn, (columns, rows), flags=cv2.INTER_NEAREST)
    return np.asarray(moved, np.uint8), np.asarray(labels, np.uint8)


def _reprocess(grey: Float32, nuisance: Nuisance, pixel_mm: float) -> Float32:
    """The processing that a finished picture can still take: unsharp mask, compression, gamma."""
    soft = cv2.GaussianBlur(grey, (0, 0), 4.0 / pixel_mm)
    grey = grey + 0.35 * (nuisance.unsharp - 0.3) * (grey - soft)
    broad = cv2.GaussianBlur(
        cv2.resize(grey, None, fx=0.125, fy=0.125, interpolation=cv2.INTER_AREA), (0, 0), 8
    )
    broad = cv2.resize(broad, (grey.shape[1], grey.shape[0]), interpolation=cv2.INTER_LINEAR)
    grey = grey - 0.5 * (nuisance.compression - 0.3) * (broad - float(broad.mean()))
    return np.asarray(np.clip(grey, 0, 1) ** nuisance.gamma, np.float32)


def _noise(grey: Float32, nuisance: Nuisance, rng: np.random.Generator) -> Float32:
    """Grain on top of the film's own, weaker where the film is white."""
    strength = 0.35 * nuisance.noise_fraction * 2 ** (-nuisance.exposure / 2)
    grain = cv2.GaussianBlur(rng.standard_normal(grey.shape, dtype=np.float32), (0, 0), 0.6)
    return np.asarray(grey + strength * grain * np.sqrt(np.clip(1.15 - grey, 0.05, 1)), np.float32)


def _add_findings(grey: Float32, lungs: UInt8, soft_mm: Float32, pixel_mm: float) -> Float32:
    """Grey with findings, which approach but do not exceed the film's own mediastinum."""
    contrast = SOFT_PER_MM * (1 - SCATTER_FRACTION) * cv2.GaussianBlur(soft_mm, (0, 0), 0.4 / pixel_mm)
    broad = cv2.GaussianBlur(contrast, (0, 0), 4.0 / pixel_mm)
    change = np.float32(picture_slope(grey, lungs)) * (contrast - (1 - BROAD_SHARE) * broad)
    rows, columns = np.nonzero(lungs)
    box = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    dense = float(np.percentile(grey[box][lungs[box] == 0], 55))
    room = np.maximum(dense - grey, 0.06)
    return np.asarray(grey + np.where(change > 0, room * (1 - np.exp(-change / room)), change), np.float32)


def real_film(
    host: RealFilm,
    plan: FindingPlan,
    nuisance: Nuisance,
    findings_rng: np.random.Generator,
    film_rng: np.random.Generator,
) -> Film:
    """Draw a plan and nuisances into a real film.

    Args:
        host: the film.
        plan: what to draw; an empty plan leaves the film as it is but for the nuisances.
        nuisance: how it is to look; position nuisances are halved, the film has its own.
        findings_rng: decides where findings lie.
        film_rng: decides noise, objects and markers.

    Raises:
        ConfigError: picture and mask cannot be read or do not fit.
    """
    image, lungs = _position(*_read_pair(host), nuisance)
    rows = np.nonzero((lungs > 0).any(axis=1))[0]
    pixel_mm = float(np.clip(LUNG_HEIGHT_MM / max(np.ptp(rows) * 0.93, 1.0), 0.30, 0.75))
    # Processing comes before the findings, so that it cannot tell of them outside the lungs.
    grey = _reprocess(np.asarray(image / np.float32(255), np.float32), nuisance, pixel_mm)
    anatomy = Surroundings.of(grey, lungs, pixel_mm)

    def judge(soft_mm: Float32) -> float:
        return anatomy.contrast(np.clip(_add_findings(grey, lungs, soft_mm, pixel_mm), 0, 1) - grey)

    field = Field(lungs, zones_of(lungs), lung_thickness(lungs, pixel_mm), pixel_mm, judge)
    drawing = draw_findings(plan, field, findings_rng)
    grey = _add_findings(grey, lungs, drawing.soft_mm, pixel_mm)
    shape = (grey.shape[0], grey.shape[1])
    metal = DEVICE_PER_MM * (1 - SCATTER_FRACTION) * devices(nuisance, shape, pixel_mm, film_rng)
    grey = grey + np.maximum(0.97 - grey, 0) * (1 - np.exp(-metal))
    grey = np.maximum(_noise(grey.astype(np.float32), nuisance, film_rng), markers(nuisance, shape, film_rng))
    return Film(np.clip(np.round(grey * 255), 0, 255).astype(np.uint8), lungs, pixel_mm, drawing)
