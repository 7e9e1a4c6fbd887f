"""A random adult chest as numbers: what one phantom subject is built from, and where its lungs end.

Coordinates are millimetres, x to the patient's left (image right), y towards the back, z towards the feet;
the origin is on the midline at the height of the lung apices. The lungs are a chest cavity (superelliptic
cross-section) less heart, great vessels and diaphragm. Everything is convex along a ray, so projected
thickness is a difference of chords and never needs a voxel grid; a reader would question the resulting
smoothness, and the processing step adds the texture that anatomy this simple cannot have.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

_CHORD_POWER = 2.5
"""Exponent of the cavity's cross-section: 2 is an ellipse, larger is boxier."""


@dataclass(frozen=True, slots=True)
class Ellipsoid:
    """A soft-tissue body; radii in mm, `tilt_deg` turns it in the frontal plane."""

    x: float
    y: float
    z: float
    radius_x: float
    radius_y: float
    radius_z: float
    tilt_deg: float = 0.0


@dataclass(frozen=True, slots=True)
class Anatomy:
    """One subject; lengths in mm, angles in degrees."""

    lung_height: float
    """Apex to right hemidiaphragm dome."""
    dome_drop: float
    """How much lower the left dome lies."""
    half_width: float
    """Midline to inner chest wall at the widest."""
    half_depth: float
    wall: float
    """Chest wall thickness, skin to pleura."""
    dome_rise: float
    """Vertical radius of the domes: small ones are flat, as in emphysema."""
    mediastinum: float
    """Half width of the upper mediastinum."""
    turn_deg: float
    """Rotation about the body's long axis; a straight film has 0."""
    heart: tuple[Ellipsoid, ...]
    domes: tuple[Ellipsoid, Ellipsoid]
    """Right, left hemidiaphragm."""
    rib_height: float
    rib_slope: float
    """Posterior to anterior drop of the middle ribs."""
    bone_density: float
    """Mineral content relative to a healthy adult."""
    lung_density: float
    """Attenuation of lung relative to soft tissue."""
    is_female: bool
    fat: float
    """0 lean to 1 obese."""
    gastric_air: float
    """Radius of the gastric bubble, 0 for none."""
    column_wave: tuple[float, float, float, float]
    """Amplitudes (mm) and phases of the bulges of the right and left upper mediastinal border."""
    vessel_calibre: float
    """Factor on vessel radii."""

    @property
    def widest_z(self) -> float:
        """Height at which the cavity reaches its full width."""
        return 0.80 * self.lung_height

    def shift(self, y: float | Float32) -> float | Float32:
        """Sideways displacement (mm) of a structure at depth `y` by the subject's rotation."""
        return y * float(np.sin(np.deg2rad(self.turn_deg)))

    def lateral(self, z: Float32) -> Float32:
        """Midline to inner chest wall at height `z`, mm."""
        t = np.clip(z / self.widest_z, 0.0, 1.0)
        apex = 0.43 * self.half_width
        return np.asarray(apex + (self.half_width - apex) * (1 - (1 - t) ** 2.0) ** 0.60, np.float32)

    def depth(self, z: Float32) -> Float32:
        """Half of the cavity's front-to-back extent at height `z`, mm."""
        t = np.clip(z / (0.8 * self.widest_z), 0.0, 1.0)
        return np.asarray(self.half_depth * (1 - (1 - t) ** 2) ** 0.55, np.float32)

    def medial(self, z: Float32) -> Float32:
        """Half width of the upper mediastinum at height `z`, mm; flares to close the apices."""
        apex = 0.43 * self.half_width
        t = np.clip(z / 55.0, 0.0, 1.0)
        dome = 1 - np.sqrt(np.clip(1 - (1 - t) ** 2, 0.0, 1.0))
        return np.asarray(self.mediastinum + (apex - self.mediastinum) * dome, np.float32)

    def column(self, x: Float32, z: Float32) -> Float32:
        """Half width of the mediastinum on the side of x, mm: `medial` with each border's own bulges."""
        right, left, right_phase, left_phase = self.column_wave
        wave = np.where(x < 0, right * np.sin(z / 31 + right_phase), left * np.sin(z / 26 + left_phase))
        narrow = 4.0 / (1 + np.exp(-(z - 0.45 * self.lung_height) / 15))
        return np.asarray(self.medial(z) + wave * np.clip(z / 50, 0, 1) - narrow, np.float32)

    def cavity_chord(self, x: Float32, z: Float32) -> Float32:
        """Half chord (mm) of the chest cavity along y through (x, z); 0 outside."""
        wide = np.maximum(self.lateral(z), 1.0)
        inside = np.clip(1 - (np.abs(x) / wide) ** _CHORD_POWER, 0.0, 1.0)
        return np.asarray(np.where(z > 0, self.depth(z) * inside ** (1 / _CHORD_POWER), 0.0), np.float32)


def chord(body: Ellipsoid, x: Float32, z: Float32, *, shift: float = 0.0) -> Float32:
    """Half chord (mm) of an ellipsoid along y through (x, z); 0 outside its silhouette."""
    angle = np.deg2rad(body.tilt_deg)
    cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    dx, dz = x - np.float32(body.x + shift), z - np.float32(body.z)
    across = (dx * cosine + dz * sine) / np.float32(body.radius_x)
    along = (dz * cosine - dx * sine) / np.float32(body.radius_z)
    inside = np.maximum(1 - across * across - along * along, 0)
    return np.asarray(np.float32(body.radius_y) * np.sqrt(inside), np.float32)


def _heart(
    rng: np.random.Generator, half_width: float, half_depth: float, dome_z: float
) -> tuple[Ellipsoid, ...]:
    """Heart and great vessels for a cardiothoracic ratio of 0.40-0.55."""
    heart_width = 2 * half_width * float(np.clip(rng.normal(0.465, 0.035), 0.40, 0.55))
    right_part = heart_width * rng.uniform(0.30, 0.37)
    left_part = heart_width - right_part
    size = heart_width / 130.0
    front = -0.30 * half_depth
    apex_z = dome_z + rng.uniform(10, 22)
    top = apex_z - 88 * size
    knob_z = top - rng.uniform(28, 42)
    knob = rng.uniform(13, 18)
    tilt = float(rng.uniform(26, 44))
    return (
        Ellipsoid(0.20 * left_part, front, apex_z - 42 * size, 0.87 * left_part, 48 * size, 50 * size, tilt),
        Ellipsoid(
            -right_part * 0.28, front, apex_z - 36 * size, right_part * 0.74, 40 * size, 54 * size, 4.0
        ),
        Ellipsoid(0.30 * left_part, front + 10, top + 8, 0.34 * left_part, 30.0, 38 * size, -16.0),
        Ellipsoid(knob * 1.05, 10.0, knob_z, knob * 1.15, 20.0, knob * rng.uniform(1.1, 1.4), 0.0),
        Ellipsoid(knob * 0.95, 0.55 * half_depth, knob_z + 95, knob * 0.95, 13.0, 115.0, 2.0),
        Ellipsoid(-rng.uniform(12, 17), front + 20, knob_z + 8, rng.uniform(15, 20), 16.0, 75.0, -4.0),
    )


def sample_anatomy(rng: np.random.Generator, *, inspiration: float = 1.0) -> Anatomy:
    """Draw a subject.

    Args:
        rng: generator that decides everything.
        inspiration: 1 for full; 0.8 lifts the domes by a fifth of the lung height.

    Returns:
        Anatomy within about 10 % (one standard deviation 5 %) of an average adult.
    """

    def vary(mean: float, share: float = 0.05) -> float:
        return float(mean * np.clip(rng.normal(1, share), 1 - 2.4 * share, 1 + 2.4 * share))

    is_female = bool(rng.random() < 0.4)
    build = 0.95 if is_female else 1.0
    half_width = vary(141 * build)
    half_depth = vary(96 * build)
    height = vary(246 * build) * inspiration
    drop = float(rng.uniform(8, 20))
    rise = vary(52, 0.16)
    mediastinum = vary(27, 0.1)
    wide = half_width * 0.62
    domes = (
        Ellipsoid(
            -half_width * 0.47, -4.0, height + rise, wide * 1.02, half_depth * 1.12, rise, rng.uniform(-2, 6)
        ),
        Ellipsoid(
            half_width * 0.50,
            -4.0,
            height + drop + rise,
            wide * 0.98,
            half_depth * 1.12,
            rise,
            rng.uniform(-6, 2),
        ),
    )
    return Anatomy(
        lung_height=height,
        dome_drop=drop,
        half_width=half_width,
        half_depth=half_depth,
        wall=float(rng.uniform(17, 27)),
        dome_rise=rise,
        mediastinum=mediastinum,
        turn_deg=float(np.clip(rng.normal(0, 2.2), -6, 6)),
        heart=_heart(rng, half_width, half_depth, height),
        domes=domes,
        rib_height=vary(13.0, 0.08),
        rib_slope=vary(100, 0.14),
        bone_density=vary(1.0, 0.12),
        lung_density=float(rng.uniform(0.22, 0.32)),
        is_female=is_female,
        fat=float(rng.beta(2, 4)),
        gastric_air=float(rng.uniform(14, 34)) if rng.random() < 0.7 else 0.0,
        column_wave=(rng.uniform(1, 5), rng.uniform(1, 5), rng.uniform(0, 6.28), rng.uniform(0, 6.28)),
        vessel_calibre=vary(1.25, 0.12),
    )
