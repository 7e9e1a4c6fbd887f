"""A whole chest film from nothing: anatomy → attenuation, lung masks and lung thickness on a film's grid.

`attenuate` projects one subject by Beer–Lambert, as a sum of material thickness times attenuation; findings
are further soft-tissue thickness that the caller adds before `phantom_exposure.expose` turns the sum into
grey values. Lung masks are the silhouettes of the aerated field: heart, great vessels and the lung behind
the diaphragm are left out (the anatomical convention), and findings never change them.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.phantom_anatomy import Anatomy, chord
from training.phantom_projection import Frame
from training.phantom_skeleton import clavicles, ribs, scapulae, spine
from training.phantom_vessels import vessels

Float32 = npt.NDArray[np.float32]

SOFT_PER_MM = 0.02
"""Attenuation of soft tissue, 1/mm, at the effective energy of a 120 kVp chest exposure (domain §6)."""
BONE_PER_MM = 0.030
"""Attenuation of compact bone above soft tissue, 1/mm."""
DEVICE_PER_MM = 0.25
"""Attenuation of metal, 1/mm, lowered so that thin wires do not saturate at film resolution."""


@dataclass(frozen=True, slots=True)
class Projection:
    """One subject projected on one film; all maps (rows, columns)."""

    attenuation: Float32
    """Line integral of attenuation, dimensionless."""
    lungs: npt.NDArray[np.uint8]
    """0 background, 1 patient right lung, 2 left."""
    lung_thickness: Float32
    """Path through lung, mm; also behind heart and diaphragm."""


def _body(anatomy: Anatomy, x: Float32, z: Float32) -> Float32:
    """Soft-tissue thickness of trunk, shoulders, neck and arms as if the lungs were solid, mm."""
    side = np.abs(x)
    wide = (
        np.maximum(anatomy.lateral(np.maximum(z, 1)), 0.86 * anatomy.half_width)
        + anatomy.wall
        + 16 * anatomy.fat
    )
    deep = anatomy.depth(np.maximum(z, 0.30 * anatomy.widest_z)) + 0.75 * anatomy.wall + 12 * anatomy.fat
    trunk = 2 * deep * np.clip(1 - (side / wide) ** 2.6, 0, 1) ** (1 / 2.6)
    slope = (
        -98
        + 96 * (1 - np.exp(-np.clip(side - 52, 0, None) / 48))
        + 0.18 * np.clip(side - 150, 0, None) ** 1.2
    )
    below = np.clip((z - slope) / 75, 0, 1)
    shoulder = (205 - 0.22 * side) * np.sqrt(1 - (1 - below) ** 2)
    shoulder *= 1 / (1 + np.exp((z - 62 - 0.42 * side) / 22))
    arm_x = anatomy.half_width * 1.42 + 12 + 0.10 * z
    arm = 92 * np.sqrt(np.clip(1 - ((side - arm_x) / 46) ** 2, 0, 1)) / (1 + np.exp(-(z - 20) / 12))
    return np.asarray(
        np.maximum(np.maximum(trunk * (1 / (1 + np.exp(-(z - 5) / 14))), shoulder), arm), np.float32
    )


def _chest_wall(anatomy: Anatomy, x: Float32, z: Float32, rng: np.random.Generator) -> Float32:
    """Breasts, pectoral muscle and fat folds over the lungs, mm of soft tissue."""
    layer = np.zeros_like(x)
    for side in (-1, 1):
        centre = side * anatomy.half_width * rng.uniform(0.52, 0.60)
        if anatomy.is_female:
            low = anatomy.lung_height * rng.uniform(0.76, 0.94)
            size = rng.uniform(48, 70) * (0.85 + 0.5 * anatomy.fat)
            across = (x - centre) / size
            down = (z - low) / (size * np.where(z > low, 0.62, 1.25))
            layer += size * rng.uniform(0.22, 0.42) * np.clip(1 - across**2 - down**2, 0, 1) ** 0.8
        else:
            middle = anatomy.lung_height * 0.42
            across = (x - centre * 1.1) / (anatomy.half_width * 0.62)
            layer += rng.uniform(8, 20) * np.clip(1 - across**2 - ((z - middle) / 95) ** 2, 0, 1) ** 0.8
    return np.asarray(layer, np.float32)


def _airways(anatomy: Anatomy, x: Float32, z: Float32) -> Float32:
    """Air in trachea and main bronchi, mm of missing soft tissue."""
    carina = 0.34 * anatomy.lung_height
    centre = anatomy.shift(15.0) - 2.5 * np.clip(z / carina, 0, 1)
    tube = (
        15
        * np.sqrt(np.clip(1 - ((x - centre) / 8.2) ** 2, 0, 1))
        / (1 + np.exp(np.clip((z - carina) / 3, -60, 60)))
    )
    for side, drop in ((-1, 1.35), (1, 0.85)):
        out = side * (x - centre)
        course = carina + drop * out
        tube = tube + 9 * np.sqrt(np.clip(1 - ((z - course) / 7.5) ** 2, 0, 1)) * ((out > 0) & (out < 34))
    return np.asarray(tube, np.float32)


def _lung_field(anatomy: Anatomy, x: Float32, z: Float32) -> tuple[Float32, Float32, npt.NDArray[np.uint8]]:
    """Lung along the ray (mm), the share of it that organs took away, and the anatomical lung labels."""
    cavity = anatomy.cavity_chord(x, z)
    organs = np.zeros_like(cavity)
    for body in anatomy.heart:
        organs = np.maximum(organs, chord(body, x, z, shift=float(anatomy.shift(body.y))))
    column = anatomy.column(x, z)
    off_midline = np.abs(x - float(anatomy.shift(0.3 * anatomy.half_depth)))
    labels = (cavity > 2.0) & (organs <= 0) & (off_midline > column - 4)
    solid = 1 - 0.38 / (1 + np.exp(-(z - 0.30 * anatomy.lung_height) / 12))
    organs = np.maximum(organs, np.clip((column - off_midline) / 11.0, 0, 1) ** 0.6 * cavity * solid)
    dome = np.zeros_like(cavity)
    for body in anatomy.domes:
        reached = np.where(z > body.z, 2 * anatomy.half_depth, chord(body, x, z))
        labels &= reached <= 0
        dome = np.maximum(dome, reached)
    sulcus = 1 / (1 + np.exp(np.clip((z - anatomy.lung_height - 0.72 * anatomy.dome_rise) / 5, -60, 60)))
    left = np.clip(cavity - np.maximum(organs, dome), 0, None) * sulcus
    taken = np.where(cavity > 0, 1 - left / np.maximum(cavity, 1e-3), 1)
    lungs = np.where(labels, np.where(x < 0, 1, 2), 0).astype(np.uint8)
    return (2 * left).astype(np.float32), taken.astype(np.float32), lungs


def attenuate(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Projection:
    """Project a subject on a film.

    Args:
        anatomy: the subject.
        frame: where the body lies on the film.
        rng: decides bone texture, vessels, breasts and other detail.

    Returns:
        Line integrals, masks and lung thickness on the frame's grid.
    """
    x, z = frame.grid()
    thickness, taken, lungs = _lung_field(anatomy, x, z)
    soft = _body(anatomy, x, z) + _chest_wall(anatomy, x, z, rng)
    soft = soft - np.minimum((1 - anatomy.lung_density) * thickness, 0.94 * soft)
    soft = soft - np.minimum(_airways(anatomy, x, z), 0.5 * soft)
    tree = vessels(anatomy, frame, rng) * np.sqrt(np.clip(1 - taken, 0, 1))
    soft += 0.72 * tree + _parenchyma(frame, rng) * np.sqrt(thickness)
    soft -= _gastric_air(anatomy, x, z, rng)
    tubes = [cv2.GaussianBlur(bone(anatomy, frame, rng), (0, 0), 1.15) for bone in (ribs, clavicles)]
    bone = tubes[0] + tubes[1] + scapulae(anatomy, frame, rng) + spine(anatomy, x, z, rng)
    attenuation = SOFT_PER_MM * np.clip(soft, 0, None) + BONE_PER_MM * bone
    return Projection(attenuation.astype(np.float32), lungs, thickness)


def _parenchyma(frame: Frame, rng: np.random.Generator) -> Float32:
    """Small vessels and septa beyond the tree, as a random texture (mm per root mm of lung)."""
    grain = rng.standard_normal((frame.rows, frame.columns), dtype=np.float32)
    texture = np.zeros_like(grain)
    for scale_mm, weight in ((0.8, 0.30), (1.6, 0.42), (3.5, 0.45)):
        sigma = scale_mm / frame.pixel_mm
        band = cv2.GaussianBlur(grain, (0, 0), 0.5 * sigma) - cv2.GaussianBlur(grain, (0, 0), sigma)
        texture += weight * band / max(float(band.std()), 1e-6)
    return np.asarray(0.04 * texture, np.float32)


def _gastric_air(anatomy: Anatomy, x: Float32, z: Float32, rng: np.random.Generator) -> Float32:
    """Gas below the left dome, mm of missing soft tissue."""
    radius = anatomy.gastric_air
    if radius <= 0:
        return np.zeros_like(x)
    top = anatomy.lung_height + anatomy.dome_drop + rng.uniform(8, 14)
    across = (x - anatomy.half_width * rng.uniform(0.36, 0.55)) / (radius * 1.25)
    down = (z - top - radius * 0.8) / (radius * 0.8)
    return np.asarray(1.6 * radius * np.sqrt(np.clip(1 - across**2 - down**2, 0, 1)), np.float32)
