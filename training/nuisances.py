"""What varies between films without meaning disease: exposure, processing, position, objects, markers.

One record is drawn per film from a generator of its own, before and apart from the findings, so that no
nuisance can carry the class; `training.probes` tests that. Metal is thickness added to the line integral,
on phantoms and on real films alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from training.phantom_exposure import Exposure

Float32 = npt.NDArray[np.float32]

NUISANCE_FIELDS = (
    "exposure",
    "gamma",
    "noise_fraction",
    "rotation_deg",
    "inspiration",
    "cut_off_px",
    "unsharp",
    "num_devices",
    "num_markers",
    "monochrome1",
)
"""Columns of the cohort that a nuisance-only classifier may see."""


@dataclass(frozen=True, slots=True)
class Nuisance:
    """One film's nuisances."""

    exposure: float
    """Stops from the ideal exposure."""
    gamma: float
    noise_fraction: float
    rotation_deg: float
    inspiration: float
    """Share of full lung height."""
    cut_off_px: float
    """How far the body is off centre, pixels; may cut an apex or a costophrenic angle."""
    unsharp: float
    compression: float
    steepness: float
    num_devices: int
    num_markers: int
    monochrome1: bool
    """Stored the other way round, with the header saying so."""

    @property
    def processing(self) -> Exposure:
        """The same as settings of the phantom's exposure."""
        return Exposure(
            stops=self.exposure,
            noise_fraction=self.noise_fraction,
            compression=self.compression,
            unsharp=self.unsharp,
            gamma=self.gamma,
            toe=self.steepness,
        )


def sample_nuisance(rng: np.random.Generator) -> Nuisance:
    """Draw a film's nuisances within the ranges of domain §6; extreme values are rare."""
    return Nuisance(
        exposure=float(np.clip(rng.normal(0, 0.8), -2, 2)),
        gamma=float(np.clip(rng.lognormal(0, 0.22), 0.6, 1.6)),
        noise_fraction=float(np.clip(rng.lognormal(np.log(0.015), 0.35), 0.01, 0.04)),
        rotation_deg=float(np.clip(rng.normal(0, 2.2), -8, 8)),
        inspiration=float(np.clip(1.02 - rng.exponential(0.06), 0.78, 1.02)),
        cut_off_px=float(rng.normal(0, 9) if rng.random() < 0.88 else rng.uniform(-45, 45)),
        unsharp=float(rng.uniform(0.0, 1.1)),
        compression=float(rng.uniform(0.15, 0.5)),
        steepness=float(rng.uniform(0.75, 1.35)),
        num_devices=int(rng.choice([0, 1, 2, 3], p=[0.80, 0.12, 0.05, 0.03])),
        num_markers=int(rng.choice([0, 1, 2], p=[0.35, 0.5, 0.15])),
        monochrome1=bool(rng.random() < 0.1),
    )


def devices(nuisance: Nuisance, shape: tuple[int, int], pixel_mm: float, rng: np.random.Generator) -> Float32:
    """Metal in the beam, mm, (rows, columns): buttons, electrodes with leads, a pacemaker, a chain."""
    metal = np.zeros(shape, np.float32)
    for _ in range(nuisance.num_devices):
        picture = np.zeros(shape, np.uint8)
        kind = str(rng.choice(["buttons", "electrodes", "pacemaker", "chain"]))
        thickness = _DRAW[kind](picture, pixel_mm, rng)
        metal += thickness * cv2.GaussianBlur(picture.astype(np.float32) / 255, (0, 0), 0.7)
    return metal


def _point(
    shape: tuple[int, int], rng: np.random.Generator, low: float = 0.2, high: float = 0.8
) -> tuple[int, int]:
    return int(rng.uniform(low, high) * shape[1]), int(rng.uniform(low, high) * shape[0])


def _buttons(picture: npt.NDArray[np.uint8], pixel_mm: float, rng: np.random.Generator) -> float:
    column, row = _point(picture.shape, rng, 0.15, 0.7)
    step = rng.uniform(60, 95) / pixel_mm
    lean = rng.normal(0, 0.06)
    radius = max(int(rng.uniform(4, 7) / pixel_mm), 3)
    for number in range(int(rng.integers(1, 5))):
        centre = (int(column + lean * number * step), int(row + number * step))
        cv2.circle(picture, centre, radius, 150, -1, cv2.LINE_AA)
        cv2.circle(picture, centre, radius, 255, 1, cv2.LINE_AA)
        for dx, dy in ((-1, -1), (1, 1)):
            cv2.circle(
                picture,
                (centre[0] + dx * max(radius // 3, 1), centre[1] + dy * max(radius // 3, 1)),
                1,
                0,
                -1,
            )
    return float(rng.uniform(0.5, 2.0))


def _curve(
    picture: npt.NDArray[np.uint8],
    start: tuple[int, int],
    end: tuple[int, int],
    width: int,
    rng: np.random.Generator,
) -> None:
    t = np.linspace(0, 1, 60)[:, None]
    middle = (np.array(start) + np.array(end)) / 2 + rng.normal(0, 0.12 * picture.shape[0], 2)
    path = (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * middle + t**2 * np.array(end)
    cv2.polylines(picture, [np.round(path * 8).astype(np.int32)], False, 255, width, cv2.LINE_AA, 3)


def _electrodes(picture: npt.NDArray[np.uint8], pixel_mm: float, rng: np.random.Generator) -> float:
    exit_point = (int(rng.uniform(0, picture.shape[1])), picture.shape[0] - 1)
    for _ in range(int(rng.integers(1, 4))):
        centre = _point(picture.shape, rng)
        cv2.circle(picture, centre, max(int(4.5 / pixel_mm), 3), 220, -1, cv2.LINE_AA)
        _curve(picture, centre, exit_point, 2, rng)
    return float(rng.uniform(0.8, 2.0))


def _pacemaker(picture: npt.NDArray[np.uint8], pixel_mm: float, rng: np.random.Generator) -> float:
    side = 1 if rng.random() < 0.85 else -1
    column = int(picture.shape[1] * (0.5 + side * rng.uniform(0.22, 0.32)))
    row = int(picture.shape[0] * rng.uniform(0.16, 0.26))
    size = (int(24 / pixel_mm), int(20 / pixel_mm))
    cv2.ellipse(picture, (column, row), size, float(rng.uniform(0, 90)), 0, 360, 210, -1, cv2.LINE_AA)
    _curve(picture, (column, row), (int(picture.shape[1] * 0.55), int(picture.shape[0] * 0.66)), 2, rng)
    return float(rng.uniform(4, 7))


def _chain(picture: npt.NDArray[np.uint8], pixel_mm: float, rng: np.random.Generator) -> float:
    del pixel_mm
    width = picture.shape[1]
    drop = int(picture.shape[0] * rng.uniform(0.12, 0.3))
    t = np.linspace(-1, 1, 90)
    path = np.stack([width / 2 + t * width * rng.uniform(0.12, 0.2), drop * (1 - t**2)], axis=1)
    cv2.polylines(picture, [np.round(path * 8).astype(np.int32)], False, 255, 2, cv2.LINE_AA, 3)
    return float(rng.uniform(0.6, 1.5))


_DRAW = {"buttons": _buttons, "electrodes": _electrodes, "pacemaker": _pacemaker, "chain": _chain}


def markers(nuisance: Nuisance, shape: tuple[int, int], rng: np.random.Generator) -> Float32:
    """Lead letters and burned-in text, (rows, columns) in [0, 1]: 1 is white."""
    picture = np.zeros(shape, np.uint8)
    for _ in range(nuisance.num_markers):
        text = str(rng.choice(["L", "R", "PA", "L PA", "AP", "1", "LDG", "12-34", "ERECT"]))
        scale = float(rng.uniform(0.5, 1.3))
        left = rng.random() < 0.5
        column = int(shape[1] * (rng.uniform(0.02, 0.10) if left else rng.uniform(0.82, 0.92)))
        row = int(shape[0] * (rng.uniform(0.05, 0.14) if rng.random() < 0.8 else rng.uniform(0.9, 0.97)))
        cv2.putText(
            picture,
            text,
            (column, row),
            cv2.FONT_HERSHEY_SIMPLEX,
            scale,
            255,
            int(rng.integers(1, 4)),
            cv2.LINE_AA,
        )
    return np.asarray(picture / np.float32(255), np.float32)
