"""Phantom pictures that are not frontal chests: lateral chests, limbs, hands, skulls, blank exposures.

They teach the frontal head of the segmentation network what to refuse. They are plainer than the frontal
phantom: an ellipsoid trunk seen from the side, bones as shafts and shells in soft tissue.
"""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from training.phantom import BONE_PER_MM, SOFT_PER_MM
from training.phantom_anatomy import Ellipsoid, chord

Float32 = npt.NDArray[np.float32]


def _grid(rows: int, columns: int, pixel_mm: float) -> tuple[Float32, Float32]:
    row, column = np.mgrid[0:rows, 0:columns].astype(np.float32)
    return (column - columns / 2) * np.float32(pixel_mm), row * np.float32(pixel_mm)


def _shaft(
    shape: tuple[int, int], start: tuple[float, float], end: tuple[float, float], radius: float
) -> Float32:
    """Thickness map (pixels) of a hollow bone between two (column, row) points; radius in pixels."""
    row, column = np.mgrid[0 : shape[0], 0 : shape[1]].astype(np.float32)
    along = np.array([end[0] - start[0], end[1] - start[1]])
    length = float(np.hypot(*along)) + 1e-6
    t = np.clip(((column - start[0]) * along[0] + (row - start[1]) * along[1]) / length**2, 0, 1)
    distance = np.hypot(column - start[0] - t * along[0], row - start[1] - t * along[1])
    flare = radius * (1 + 0.45 * np.abs(2 * t - 1) ** 4)
    outer = np.sqrt(np.clip(1 - (distance / flare) ** 2, 0, 1)) * flare
    inner = np.sqrt(np.clip(1 - (distance / (0.68 * flare)) ** 2, 0, 1)) * 0.68 * flare
    return np.asarray(2 * (outer - 0.75 * inner), np.float32)


def lateral_chest(shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator) -> Float32:
    """Line integral of a chest seen from the side, (rows, columns)."""
    x, z = _grid(*shape, pixel_mm)
    flip = 1.0 if rng.random() < 0.5 else -1.0
    x = flip * x + rng.normal(0, 12)
    top, height = rng.uniform(30, 70), rng.uniform(215, 270)
    body = 2 * chord(Ellipsoid(0, 0, top + 170, rng.uniform(115, 140), 165, 330, 0), x, z)
    lung = 2 * chord(Ellipsoid(0, 0, top + height * 0.62, rng.uniform(84, 102), 125, height * 0.62, -6), x, z)
    dome = top + height + 0.0016 * (x + 20) ** 2 - 0.12 * x
    lung = lung / (1 + np.exp(np.clip((z - dome) / 2, -40, 40)))
    heart = 2 * chord(Ellipsoid(-42, 0, top + height * 0.72, 46, 50, 56, 18), x, z)
    soft = body - 0.74 * np.clip(lung - heart, 0, None)
    soft = soft + 110 / (1 + np.exp((z - top - 10 + 0.3 * np.abs(x)) / 9)) * (np.abs(x) < 75)
    centre = 76 - 0.0011 * (z - top - 140) ** 2
    within = np.abs(((z - top) / 25) % 1 - 0.5)
    vertebra = np.exp(-((np.abs(x - centre) / 16) ** 6)) * (0.5 + (within < 0.4))
    bone = 9.0 * vertebra + 5.0 * np.exp(-((x + 92 + 0.05 * (z - top)) ** 2) / 16) * (
        (z > top + 40) & (z < top + 190)
    )
    for rib in range(9):
        course = top + 20 + 24 * rib + 0.32 * (76 - x)
        bone = bone + 1.6 * np.exp(-(((z - course) / 5.5) ** 4)) * (lung > 5)
    return np.asarray(SOFT_PER_MM * soft + BONE_PER_MM * bone, np.float32)


def limb(shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator) -> Float32:
    """Line integral of a thigh, lower leg or forearm, (rows, columns)."""
    num_bones = int(rng.integers(1, 3))
    middle = shape[1] / 2 + rng.normal(0, 20)
    lean = rng.normal(0, 0.18) * shape[0]
    width = rng.uniform(28, 75) / pixel_mm
    soft = _shaft(shape, (middle, -50), (middle + lean, shape[0] + 50), width) * np.float32(pixel_mm * 1.6)
    bone = np.zeros(shape, np.float32)
    joint = rng.uniform(0.3, 0.7) * shape[0]
    for number in range(num_bones):
        offset = (number - (num_bones - 1) / 2) * width * 0.7
        radius = rng.uniform(0.16, 0.28) * width
        for start, end in ((-60.0, joint - 6), (joint + 6, shape[0] + 60.0)):
            slope = lean / shape[0]
            ends = (middle + offset + slope * start, start), (middle + offset + slope * end, end)
            bone = np.maximum(bone, _shaft(shape, *ends, radius))
    return np.asarray(SOFT_PER_MM * soft + BONE_PER_MM * 0.8 * pixel_mm * bone, np.float32)


def hand(shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator) -> Float32:
    """Line integral of a spread hand, enlarged to fill the film, (rows, columns)."""
    wrist = np.array([shape[1] / 2 + rng.normal(0, 30), shape[0] * 0.92])
    size = shape[0] * rng.uniform(0.20, 0.26)
    soft = np.zeros(shape, np.float32)
    bone = np.zeros(shape, np.float32)
    for angle_deg, reach in ((-52, 0.75), (-22, 1.0), (-4, 1.08), (13, 1.0), (32, 0.82)):
        angle = np.deg2rad(angle_deg + rng.normal(0, 4))
        heading = np.array([np.sin(angle), -np.cos(angle)])
        joints = [wrist + heading * size * reach * share for share in (0.35, 1.4, 2.1, 2.6, 2.95)]
        tip = joints[-1]
        soft = np.maximum(soft, _shaft(shape, (wrist[0], wrist[1]), (tip[0], tip[1]), size * 0.17))
        for start, end in pairwise(joints):
            gap = 0.04 * (end - start)
            bone = np.maximum(bone, _shaft(shape, tuple(start + gap), tuple(end - gap), size * 0.055))
    bone += _shaft(
        shape, (wrist[0] - size * 0.2, wrist[1]), (wrist[0] - size * 0.2, shape[0] + 80), size * 0.11
    )
    return np.asarray(SOFT_PER_MM * 1.2 * pixel_mm * soft + BONE_PER_MM * 1.4 * pixel_mm * bone, np.float32)


def skull(shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator) -> Float32:
    """Line integral of a skull, frontal or lateral, (rows, columns)."""
    x, z = _grid(*shape, pixel_mm)
    wide, tall = rng.uniform(72, 105) * 1.4, rng.uniform(95, 110) * 1.4
    centre = Ellipsoid(
        float(rng.normal(0, 8)), 0, 0.5 * shape[0] * pixel_mm - 20, wide, 100, tall, float(rng.normal(0, 8))
    )
    outer = 2 * chord(centre, x, z)
    inner_shape = Ellipsoid(centre.x, 0, centre.z, wide - 9, 94, tall - 9, centre.tilt_deg)
    shell = outer - 2 * chord(inner_shape, x, z)
    soft = outer.copy()
    for side in (-1, 1):
        orbit = Ellipsoid(centre.x + side * 0.38 * wide, 0, centre.z + 0.25 * tall, 28, 26, 25)
        soft -= 0.9 * chord(orbit, x, z)
        shell += 6 * np.exp(-(((chord(orbit, x, z) - 6) / 6) ** 2)) * (chord(orbit, x, z) > 0)
    neck = 120 * np.exp(-(((x - centre.x) / 62) ** 4)) / (1 + np.exp(-(z - centre.z - 0.8 * tall) / 8))
    return np.asarray(SOFT_PER_MM * np.maximum(soft, neck) + 0.5 * BONE_PER_MM * shell, np.float32)


def abdomen(shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator) -> Float32:
    """Line integral of an abdomen with spine, pelvis and bowel gas, (rows, columns)."""
    x, z = _grid(*shape, pixel_mm)
    soft = 2 * chord(Ellipsoid(0, 0, 220, rng.uniform(155, 190), 115, 800), x, z)
    for _ in range(int(rng.integers(5, 16))):
        gas = Ellipsoid(
            rng.uniform(-110, 110),
            0,
            rng.uniform(60, 330),
            rng.uniform(10, 28),
            14,
            rng.uniform(8, 20),
            rng.uniform(-60, 60),
        )
        soft -= 1.5 * chord(gas, x, z)
    within = np.abs((z / 36) % 1 - 0.5)
    bone = 12 * np.exp(-((np.abs(x) / 22) ** 6)) * (0.5 + (within < 0.42))
    for side in (-1, 1):
        wing = chord(Ellipsoid(side * 92, 0, 330, 62, 12, 80, side * 28), x, z)
        bone += 0.9 * wing
    return np.asarray(SOFT_PER_MM * np.clip(soft, 0, None) + BONE_PER_MM * bone, np.float32)


def other_picture(kind: str, shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator) -> Float32:
    """Line integral of a picture that must be refused.

    Args:
        kind: lateral, limb, hand, skull or abdomen.
        shape: rows and columns.
        pixel_mm: pixel size.
        rng: decides the anatomy.
    """
    draw = {"lateral": lateral_chest, "limb": limb, "hand": hand, "skull": skull, "abdomen": abdomen}[kind]
    picture = draw(shape, pixel_mm, rng)
    if kind in ("limb", "hand") and rng.random() < 0.5:
        turned = np.ascontiguousarray(np.rot90(picture))
        return np.asarray(cv2.resize(turned, (shape[1], shape[0]), interpolation=cv2.INTER_AREA), np.float32)
    return picture
