"""Bones of the phantom as projected thickness of compact bone: ribs, clavicles, scapulae, spine.

Ribs and clavicles are hollow tubes along 3-D curves (a cortical shell round sparse trabecular bone), so that
their edges come out brighter than their middles and the lateral turns brightest, as on a film. The spine and
the scapulae are plates in the frontal plane: their depth structure is hidden on a frontal film.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from training.phantom_anatomy import Anatomy
from training.phantom_projection import Frame

Float32 = npt.NDArray[np.float32]

_CORTEX_MM = 1.0
_TRABECULAR_SHARE = 0.28
"""Compact bone per volume of trabecular bone."""
_NUM_RIBS = 11


def _tube(
    path: Float32, normal: Float32, height: Float32, width: float, rng: np.random.Generator
) -> tuple[Float32, Float32, Float32]:
    """Cloud of a hollow tube: path (n, 3) and unit normal (n, 3) in mm; height across, width along normal."""
    tangent = np.gradient(path, axis=0)
    step = np.linalg.norm(tangent, axis=1, keepdims=True)
    up = np.cross(tangent / np.maximum(step, 1e-6), normal)
    num_shell, num_core = 18, 8
    n = path.shape[0]
    psi = (np.arange(num_shell) + rng.random((n, num_shell))) * (2 * np.pi / num_shell)
    disk = np.sqrt(rng.random((n, num_core)))
    phi = rng.random((n, num_core)) * 2 * np.pi
    across = np.concatenate([np.cos(psi), disk * np.cos(phi)], axis=1) * height[:, None] / 2
    along = np.concatenate([np.sin(psi), disk * np.sin(phi)], axis=1) * width / 2
    jitter = (rng.random((n, num_shell + num_core)) - 0.5) * step
    unit = tangent / np.maximum(step, 1e-6)
    points = path[:, None] + across[..., None] * up[:, None] + along[..., None] * normal[:, None]
    points = points + jitter[..., None] * unit[:, None]
    perimeter = np.pi * (0.5 * (height + width))
    shell = (perimeter * _CORTEX_MM * step[:, 0] / num_shell)[:, None].repeat(num_shell, 1)
    core = (np.pi / 4 * height * width * _TRABECULAR_SHARE * step[:, 0] / num_core)[:, None].repeat(
        num_core, 1
    )
    fade = np.clip((n - 1 - np.arange(n)) / (0.10 * n), 0, 1)[:, None]
    volume = np.concatenate([shell, core], axis=1) * fade
    return points[..., 0].ravel(), points[..., 2].ravel(), volume.ravel().astype(np.float32)


def _rib_path(anatomy: Anatomy, rib: int, side: int, offset: float, slope: float) -> tuple[Float32, Float32]:
    """Centre line (n, 3) and outward normal (n, 3) of a rib, counted from 1; side is -1 right, 1 left."""
    spacing = (anatomy.lung_height - 8) / 9
    start = (rib - 1) * spacing - 6 + offset
    drop = slope * float(np.interp(rib, [1, 2, 4, 7, 11], [0.42, 0.62, 0.92, 1.08, 1.02]))
    end = np.deg2rad(float(np.interp(rib, [1, 5, 8, 11], [146, 142, 128, 104])))
    phi = np.linspace(0.14, end, 520 if rib > 2 else 360).astype(np.float32)
    z = start + drop * ((1 - np.cos(phi)) / 2) ** 1.15 - 7 * np.exp(-((phi - 0.35) ** 2) / 0.08)
    reach = anatomy.lateral(np.maximum(z, 3.0)) + 3.0
    deep = anatomy.depth(np.maximum(z, 6.0)) + 3.0
    x = side * (reach * np.abs(np.sin(phi)) ** 0.8 + 12 * np.exp(-phi * 4))
    y = np.asarray(deep * np.sign(np.cos(phi)) * np.abs(np.cos(phi)) ** 0.8, np.float32)
    path = np.stack([x + anatomy.shift(y), y, z], axis=1)
    normal = np.stack([side * np.sin(phi), np.cos(phi), np.zeros_like(phi)], axis=1)
    return path.astype(np.float32), (normal / np.linalg.norm(normal, axis=1, keepdims=True)).astype(
        np.float32
    )


def ribs(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Float32:
    """Compact-bone thickness of the ribs, mm, (rows, columns)."""
    clouds = []
    for rib in range(1, _NUM_RIBS + 1):
        offset, slope = rng.normal(0, 1.2), anatomy.rib_slope * rng.normal(1, 0.03)
        for side in (-1, 1):
            path, normal = _rib_path(
                anatomy, rib, side, offset + rng.normal(0, 0.8), slope * rng.normal(1, 0.02)
            )
            tall = anatomy.rib_height * (0.8 if rib < 3 else 1.0)
            height = tall * (1 + 0.12 * np.sin(np.linspace(0, 5, path.shape[0]) + rng.random() * 6))
            clouds.append(_tube(path, normal, height.astype(np.float32), 6.5, rng))
    x, z, volume = (np.concatenate(parts) for parts in zip(*clouds, strict=True))
    return frame.splat(x, z, volume * np.float32(anatomy.bone_density))


def clavicles(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Float32:
    """Compact-bone thickness of both clavicles, mm, (rows, columns)."""
    clouds = []
    tilt = rng.normal(-8, 6)
    for side in (-1, 1):
        t = np.linspace(0, 1, 420).astype(np.float32)
        x = side * (14 + (anatomy.half_width * 1.22 - 14) * t)
        z = 40 + rng.normal(0, 2) + (tilt + rng.normal(0, 2) - 26) * t + 9 * np.sin(2 * np.pi * t * 0.9)
        y = np.full_like(t, -0.75 * anatomy.half_depth)
        path = np.stack([x + anatomy.shift(y), y, z], axis=1).astype(np.float32)
        normal = np.tile(np.array([0, -1, 0], np.float32), (t.size, 1))
        height = 11.5 + 9 * np.exp(-((t / 0.10) ** 2)) + 3 * t
        clouds.append(_tube(path, normal, height.astype(np.float32), 11.0, rng))
    x, z, volume = (np.concatenate(parts) for parts in zip(*clouds, strict=True))
    return frame.splat(x, z, volume * np.float32(1.15 * anatomy.bone_density))


def _polygon(frame: Frame, x: Float32, z: Float32) -> Float32:
    row, column = frame.to_pixel(x.astype(np.float32), z.astype(np.float32))
    points = np.round(np.stack([column, row], axis=1) * 16).astype(np.int32)
    picture = np.zeros((frame.rows, frame.columns), np.uint8)
    cv2.fillPoly(picture, [points], 255, lineType=cv2.LINE_AA, shift=4)
    return np.asarray(picture / np.float32(255), np.float32)


def _smooth_closed(points: list[tuple[float, float]], num: int = 160) -> tuple[Float32, Float32]:
    """Closed smooth curve through a few (x, z) corners."""
    from scipy.ndimage import gaussian_filter1d

    corners = np.asarray([*points, points[0]], np.float64)
    t = np.linspace(0, len(points), num, endpoint=False)
    x = np.interp(t, np.arange(len(corners)), corners[:, 0])
    z = np.interp(t, np.arange(len(corners)), corners[:, 1])
    return (
        gaussian_filter1d(x, 3, mode="wrap").astype(np.float32),
        gaussian_filter1d(z, 3, mode="wrap").astype(np.float32),
    )


def scapulae(anatomy: Anatomy, frame: Frame, rng: np.random.Generator) -> Float32:
    """Compact-bone thickness of scapulae and humeral heads, mm; medial borders may overlie the lungs."""
    total = np.zeros((frame.rows, frame.columns), np.float32)
    clear = rng.normal(6, 12)
    for side in (-1, 1):
        edge = anatomy.half_width * 0.93 + clear + rng.normal(0, 3)
        corners = [
            (edge - 8, 14),
            (edge + 42, 4),
            (edge + 62, 40),
            (edge + 38, 78),
            (edge + 16, 148),
            (edge + 2, 150),
            (edge - 4, 90),
        ]
        x, z = _smooth_closed([(side * a, b + rng.normal(0, 3)) for a, b in corners])
        plate = _polygon(frame, x, z)
        rim = np.clip(plate - cv2.erode(plate, np.ones((3, 3), np.uint8), iterations=2), 0, 1)
        total += 1.3 * plate + 1.6 * cv2.GaussianBlur(rim, (0, 0), 1.2)
        spine_x, spine_z = _smooth_closed(
            [
                (side * (edge + 2), 52),
                (side * (edge + 60), 14),
                (side * (edge + 66), 20),
                (side * (edge + 6), 60),
            ]
        )
        total += 2.0 * _polygon(frame, spine_x, spine_z)
        head_x, head_z = _smooth_closed(
            [(side * (edge + 58 + 24 * np.cos(a)), 42 + 25 * np.sin(a)) for a in np.arange(0, 6.2, 0.5)]
        )
        total += 4.0 * _polygon(frame, head_x, head_z)
    return cv2.GaussianBlur(total, (0, 0), 1.0) * np.float32(anatomy.bone_density)


def spine(anatomy: Anatomy, x: Float32, z: Float32, rng: np.random.Generator) -> Float32:
    """Compact-bone equivalent thickness of the vertebral column, mm, for pixel coordinates x, z."""
    bend = rng.normal(0, 2.5) * np.sin(z / 90 + rng.random() * 6)
    across = np.abs(x - bend - anatomy.shift(0.75 * anatomy.half_depth))
    pitch = 23.0 + 0.018 * np.clip(z, -80, 300)
    phase = (z + 40) / pitch
    within = np.abs(phase - np.floor(phase) - 0.5)
    half = 13.5 + 0.018 * np.clip(z, -60, 320) + 2.5 * within
    body = 1 / (1 + np.exp(np.clip((across - half) / 0.9, -60, 60)))
    disc = 1 / (1 + np.exp((within - 0.40) / 0.02))
    edge = np.exp(-((across - half + 1.5) ** 2) / 3.5) + np.exp(-((within - 0.40) ** 2) / 0.0009) * body
    pedicle = np.exp(-(((across - 0.72 * half) / 3.2) ** 2) - ((within - 0.12) / 0.12) ** 2)
    process = np.exp(-((across / 2.4) ** 2)) * np.exp(-(((phase + 0.35) % 1 - 0.5) ** 2) / 0.03)
    bone = body * (1.0 + 3.0 * disc) + 1.2 * edge + 2.4 * pedicle + 2.6 * process
    return np.asarray(bone * anatomy.bone_density, np.float32)
