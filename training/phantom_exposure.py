"""Line integrals to grey values: scatter, quantum noise, detector blur, and the processing a vendor applies.

Scatter is a broad blur of the primary picture added to it, noise is Poisson-like in the detected signal,
processing is a logarithm, compression of the large structures, an unsharp mask, a window and a gamma. The
compression is what makes ribs visible through the heart on real films; without it phantoms look like maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]

_DETECTOR_MM = 0.17
"""Pixel of the detector whose noise is given; film pixels average over several."""

_FOOT = 0.18
"""Share of the window below the darkest lung, so that lungs are dark grey and not black."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """How a film was taken and processed; drawn independently of every finding."""

    stops: float = 0.0
    """Exposure relative to the ideal, in factors of two."""
    noise_fraction: float = 0.02
    """Noise in the lungs relative to the signal, in one 0.17 mm detector pixel."""
    scatter_ratio: float = 0.55
    """Scattered to primary signal, averaged over the film."""
    scatter_mm: float = 38.0
    blur_mm: float = 0.30
    """Detector and focal-spot blur, standard deviation."""
    compression: float = 0.35
    """Share of large-structure contrast taken out (0 film-like, 0.7 flat)."""
    unsharp: float = 0.5
    """Gain of detail above its own contrast."""
    gamma: float = 1.0
    toe: float = 1.0
    """How strongly the display curve favours the lungs over the mediastinum; 1 is usual."""


def _blur(picture: Float32, sigma_px: float) -> Float32:
    """Gaussian blur; wide ones on a reduced grid."""
    if sigma_px < 6:
        return np.asarray(cv2.GaussianBlur(picture, (0, 0), max(sigma_px, 0.1)), np.float32)
    step = max(int(sigma_px / 3), 1)
    rows, columns = picture.shape
    small = cv2.resize(picture, (max(columns // step, 4), max(rows // step, 4)), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), sigma_px / step, borderType=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(small, (columns, rows), interpolation=cv2.INTER_CUBIC), np.float32)


def detect(
    attenuation: Float32, exposure: Exposure, pixel_mm: float, rng: np.random.Generator | None
) -> Float32:
    """Logarithm of the detected signal with scatter, blur and noise (bright is dense), (rows, columns).

    Without a generator the picture is free of noise.
    """
    primary = np.exp(-np.clip(attenuation, 0, 9)).astype(np.float32)
    scattering = np.minimum(primary, 0.30)
    signal = primary + exposure.scatter_ratio * _blur(scattering, exposure.scatter_mm / pixel_mm)
    signal = _blur(signal, exposure.blur_mm / pixel_mm)
    if rng is not None:
        in_lungs = float(np.exp(-2.1))
        averaged = exposure.noise_fraction * _DETECTOR_MM / pixel_mm
        quanta = 2.0**exposure.stops / (averaged**2 * in_lungs)
        grain = rng.standard_normal(signal.shape, dtype=np.float32)
        grain = 0.45 * grain + 0.9 * cv2.GaussianBlur(grain, (0, 0), 0.7)
        signal = signal + np.sqrt(np.maximum(signal, 1e-4) / quanta) * grain
    return np.asarray(-np.log(np.maximum(signal, 2e-4)), np.float32)


def sharpen(density: Float32, exposure: Exposure, pixel_mm: float) -> Float32:
    """Compress large structures and sharpen fine ones of a logarithmic picture (rows, columns)."""
    flat = density - exposure.compression * _blur(density, 32 / pixel_mm)
    return np.asarray(flat + exposure.unsharp * (flat - _blur(flat, 4.0 / pixel_mm)), np.float32)


def display_window(sharp: Float32, body: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Darkest lung and brightest mediastinum in the middle of the patient, for `display`."""
    rows, columns = sharp.shape
    middle = np.s_[rows // 8 : 7 * rows // 8 : 3, columns // 6 : 5 * columns // 6 : 3]
    chosen = sharp[middle][body[middle]] if body[middle].any() else sharp[middle].ravel()
    low, high = np.percentile(chosen, [3.0, 99.0])
    return float(low), float(high)


def display(sharp: Float32, exposure: Exposure, window: tuple[float, float]) -> Float32:
    """Grey in [0, 1], lungs dark, (rows, columns) float32, through a window and a display curve."""
    scaled = (sharp - window[0]) / max(window[1] - window[0], 1e-3) + _FOOT
    scaled = np.logaddexp(0, 14 * scaled) / 14
    bend = 1.3 * exposure.toe
    grey = (1 - np.exp(-bend * scaled)) / (1 - np.exp(-bend * (1 + _FOOT)))
    return np.asarray(np.clip(grey, 0, 1) ** exposure.gamma, np.float32)
