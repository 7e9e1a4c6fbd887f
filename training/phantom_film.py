"""A phantom subject on film: anatomy, findings and nuisances to an 8-bit picture with its exact masks.

The picture is what a workstation would export; the caller brings it to the canvas with the same function
as any other picture. Anatomy, findings and nuisances each have a generator of their own, so that changing
one never changes another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from screener.zones import find_lungs, zone_labels
from training import conspicuity
from training.findings import Confounder, FindingPlan
from training.large_opacities import large_opacities
from training.nuisances import Nuisance, devices, markers
from training.opacities import Drawing, Field, small_opacities
from training.phantom import DEVICE_PER_MM, SOFT_PER_MM, attenuate
from training.phantom_anatomy import Anatomy, sample_anatomy
from training.phantom_exposure import detect, display, display_window, sharpen
from training.phantom_other import other_picture
from training.phantom_projection import Frame
from training.tuberculosis import confounder, merge, tuberculosis

Float32 = npt.NDArray[np.float32]
UInt8 = npt.NDArray[np.uint8]

FIELDS_MM = ((430, 350), (350, 430), (430, 430), (400, 400), (360, 360))
"""Height and width of the exposed field."""
_FIELD_SHARES = (0.38, 0.14, 0.20, 0.16, 0.12)
_LONG_SIDE_PX = 768
_PATIENT = 0.8
"""Line integral above which a pixel shows the patient."""


@dataclass(frozen=True, slots=True)
class Film:
    """One picture with everything that is known of it."""

    grey: UInt8
    """(rows, columns), lungs dark."""
    lungs: UInt8 | None
    """(rows, columns) 0, 1 patient right, 2 left; None when there is no frontal chest."""
    pixel_mm: float
    drawing: Drawing


def zones_of(lungs: UInt8) -> UInt8:
    """Zones 1-6 of a lung label map on its own grid, by the rule that screening uses.

    Args:
        lungs: (rows, columns) 0, 1 patient right, 2 left.
    """
    side = max(lungs.shape)
    square = np.zeros((side, side), np.uint8)
    square[: lungs.shape[0], : lungs.shape[1]] = lungs
    probability = np.stack([square == 1, square == 2]).astype(np.float32)
    labels = zone_labels(find_lungs(probability, canvas_side=side))
    return np.ascontiguousarray(labels[: lungs.shape[0], : lungs.shape[1]]).astype(np.uint8)


def draw_findings(plan: FindingPlan, field: Field, rng: np.random.Generator) -> Drawing:
    """Everything of a plan drawn on one field."""
    return merge(
        small_opacities(plan, field, rng),
        large_opacities(plan, field, rng),
        tuberculosis(plan, field, rng),
        confounder(plan, field, rng),
    )


def _frame(anatomy: Anatomy, nuisance: Nuisance, rng: np.random.Generator) -> Frame:
    height, width = FIELDS_MM[int(rng.choice(len(FIELDS_MM), p=_FIELD_SHARES))]
    pixel_mm = max(height, width) / _LONG_SIDE_PX
    rows, columns = round(height / pixel_mm), round(width / pixel_mm)
    room = height - anatomy.lung_height - 45
    above = float(np.clip(rng.normal(0.42 * room, 10), 12, 110))
    return Frame(
        rows,
        columns,
        pixel_mm,
        origin_row=above / pixel_mm + nuisance.cut_off_px,
        origin_column=columns / 2 + rng.normal(0, 5) / pixel_mm,
        rotation_deg=nuisance.rotation_deg,
    )


def _enlarge_heart(anatomy: Anatomy, rng: np.random.Generator) -> Anatomy:
    factor = rng.uniform(1.22, 1.5)
    heart = tuple(
        replace(
            body,
            x=body.x * factor,
            radius_x=body.radius_x * factor,
            radius_z=body.radius_z * (0.5 + 0.5 * factor),
        )
        if n < 2
        else body
        for n, body in enumerate(anatomy.heart)
    )
    return replace(anatomy, heart=heart)


def _finish(
    attenuation: Float32, findings: Float32, nuisance: Nuisance, pixel_mm: float, rng: np.random.Generator
) -> UInt8:
    """Expose, process and mark a film; `findings` are line integrals on top of `attenuation`."""
    shape = (attenuation.shape[0], attenuation.shape[1])
    exposure = nuisance.processing
    total = attenuation + DEVICE_PER_MM * devices(nuisance, shape, pixel_mm, rng)
    # The window is set without the findings: it must not tell of them outside the lungs.
    healthy = sharpen(detect(total, exposure, pixel_mm, None), exposure, pixel_mm)
    window = display_window(healthy, attenuation > min(_PATIENT, 0.3 * float(attenuation.max())))
    density = detect(np.maximum(total + findings, 0), exposure, pixel_mm, rng)
    grey = display(sharpen(density, exposure, pixel_mm), exposure, window)
    grey = np.maximum(grey, markers(nuisance, shape, rng))
    return np.clip(np.round(grey * 255), 0, 255).astype(np.uint8)


def phantom_film(
    plan: FindingPlan,
    nuisance: Nuisance,
    anatomy_rng: np.random.Generator,
    findings_rng: np.random.Generator,
    film_rng: np.random.Generator,
) -> Film:
    """Make a frontal chest film of a random subject.

    Args:
        plan: what to draw.
        nuisance: how it was taken.
        anatomy_rng: decides the subject.
        findings_rng: decides where findings lie.
        film_rng: decides framing, noise, objects and markers.
    """
    anatomy = sample_anatomy(anatomy_rng, inspiration=nuisance.inspiration)
    if plan.confounder is Confounder.CARDIOMEGALY:
        anatomy = _enlarge_heart(anatomy, findings_rng)
    frame = _frame(anatomy, nuisance, film_rng)
    projection = attenuate(anatomy, frame, anatomy_rng)
    surroundings = conspicuity.Surroundings.of(projection.attenuation, projection.lungs, frame.pixel_mm)

    def judge(soft_mm: Float32) -> float:
        return surroundings.contrast(np.float32(SOFT_PER_MM) * soft_mm)

    field = Field(
        projection.lungs, zones_of(projection.lungs), projection.lung_thickness, frame.pixel_mm, judge
    )
    drawing = draw_findings(plan, field, findings_rng)
    findings = (SOFT_PER_MM * drawing.soft_mm).astype(np.float32)
    grey = _finish(projection.attenuation, findings, nuisance, frame.pixel_mm, film_rng)
    return Film(grey, projection.lungs, frame.pixel_mm, drawing)


def other_film(
    kind: str, nuisance: Nuisance, anatomy_rng: np.random.Generator, film_rng: np.random.Generator
) -> Film:
    """Make a film that is not a frontal chest; kinds as `phantom_other.other_picture`."""
    height, width = FIELDS_MM[int(film_rng.choice(len(FIELDS_MM), p=_FIELD_SHARES))]
    pixel_mm = max(height, width) / _LONG_SIDE_PX
    shape = (round(height / pixel_mm), round(width / pixel_mm))
    attenuation = other_picture(kind, shape, pixel_mm, anatomy_rng)
    turn = cv2.getRotationMatrix2D((shape[1] / 2, shape[0] / 2), nuisance.rotation_deg, 1.0)
    turned = cv2.warpAffine(attenuation, turn, (shape[1], shape[0]), borderMode=cv2.BORDER_REPLICATE)
    nothing = np.zeros(shape, np.float32)
    grey = _finish(np.asarray(np.maximum(turned, 0), np.float32), nothing, nuisance, pixel_mm, film_rng)
    return Film(grey, None, pixel_mm, Drawing(nothing, ()))
