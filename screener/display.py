"""Header tags → `DisplayTransform`: what turns stored values into grey levels, in DICOM's order.

Modality LUT, then VOI LUT, then Presentation LUT (PS3.3 C.11.1, C.11.2, C.11.6). A reader may question
that MONOCHROME1 and Presentation LUT Shape INVERSE invert once together and not twice: the DX module
requires the two to occur together, and a header with only one of them means the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from pydicom.dataset import Dataset

from screener.records import Float32, Instance
from screener.transfer_syntax import is_big_endian

_LARGEST_RESCALE = 1e9
"""A larger slope or intercept leaves nothing of 16-bit pixels in float32, or overflows it."""


_STEPS_SHOWN = 512
"""Twice as fine as the films that the networks were trained on, which have 256 levels."""
_MOST_PLANES = 7


class VoiFunction(StrEnum):
    """VOI LUT Function (0028,1056)."""

    LINEAR = "LINEAR"
    LINEAR_EXACT = "LINEAR_EXACT"
    SIGMOID = "SIGMOID"


@dataclass(frozen=True, slots=True)
class Window:
    """A VOI window in modality units."""

    centre: float
    width: float
    function: VoiFunction = VoiFunction.LINEAR

    @property
    def ends(self) -> tuple[float, float]:
        """Highest value shown black and lowest shown white; without meaning for a sigmoid."""
        if self.function is VoiFunction.LINEAR_EXACT:
            return self.centre - self.width / 2, self.centre + self.width / 2
        return self.centre - 0.5 - (self.width - 1) / 2, self.centre - 0.5 + (self.width - 1) / 2


@dataclass(frozen=True, slots=True)
class LookupTable:
    """One item of a Modality or VOI LUT Sequence (PS3.3 C.11.1.1.1, C.11.2.1.1)."""

    first: int
    """Stored value that the first entry is for; lower ones take that entry, higher ones the last."""
    bits: int
    """Bits of an entry, by the descriptor."""
    entries: Float32
    """(N,) entries."""

    def look_up(self, values: Float32) -> Float32:
        """Entries for `values`; area-averaged values between two entries are interpolated."""
        positions = np.arange(self.first, self.first + len(self.entries), dtype=np.float32)
        return np.interp(values, positions, self.entries).astype(np.float32)


@dataclass(frozen=True, slots=True)
class DisplayTransform:
    """All header facts that turn stored values into grey levels. The default is a bare grey picture."""

    slope: float = 1.0
    intercept: float = 0.0
    modality_lut: LookupTable | None = None
    voi_lut: LookupTable | None = None
    window: Window | None = None
    unusable_window: bool = False
    """The header has window tags, but not numbers that make a window."""
    inverted: bool = False
    """MONOCHROME1, Presentation LUT Shape INVERSE, or both."""
    padding: tuple[int, int] | None = None
    """Lowest and highest stored value, both included, that mark pixels outside the picture."""
    for_processing: bool = False
    logarithmic: bool = False
    """Stored values of a For Processing picture are already logarithmic in exposure."""


def display_transform(dataset: Dataset, instance: Instance) -> DisplayTransform:
    """The display transform of one image.

    Args:
        dataset: its header, without pixel data.
        instance: the eligible image that the header describes.

    Returns:
        Tags that are missing or unusable take DICOM's default; they never make a picture fail.
    """
    order: Literal["<", ">"] = ">" if is_big_endian(instance.transfer_syntax_uid) else "<"
    modality_lut = _lookup_table(dataset, "ModalityLUTSequence", order, signed_input=instance.is_signed)
    slope, intercept = _rescale(dataset)
    signed_units = instance.is_signed or intercept < 0
    window = _window(dataset)
    shape = str(dataset.get("PresentationLUTShape", "") or "").strip().upper()
    relationship = str(dataset.get("PixelIntensityRelationship", "") or "").strip().upper()
    return DisplayTransform(
        slope=slope,
        intercept=intercept,
        modality_lut=modality_lut,
        voi_lut=_lookup_table(dataset, "VOILUTSequence", order, signed_input=signed_units),
        window=window,
        unusable_window=window is None and bool(dataset.get("WindowWidth") or dataset.get("WindowCenter")),
        inverted=instance.photometric_interpretation == "MONOCHROME1" or shape == "INVERSE",
        padding=_padding(dataset, instance),
        for_processing=instance.for_presentation is False,
        logarithmic=relationship in ("LOG", "DISP"),
    )


def coarsest_step(transform: DisplayTransform) -> int:
    """How many stored values may fall together unseen: a power of two, at most 1/512 of the header's window.

    1 where something else than a straight window decides what is shown.
    """
    window = transform.window
    special = (transform.modality_lut, transform.voi_lut, transform.padding)
    if window is None or transform.for_processing or any(each is not None for each in special):
        return 1
    if window.function is VoiFunction.SIGMOID:
        return 1
    steps = window.width / abs(transform.slope) / _STEPS_SHOWN
    return 1 << min(max(math.frexp(steps)[1] - 1, 0), _MOST_PLANES)


def modality_values(stored: Float32, transform: DisplayTransform) -> Float32:
    """Stored values to modality units (PS3.3 C.11.1): the LUT if there is one, else slope and intercept."""
    if transform.modality_lut is not None:
        return transform.modality_lut.look_up(stored)
    if transform.slope == 1.0 and transform.intercept == 0.0:
        return stored
    return stored * np.float32(transform.slope) + np.float32(transform.intercept)


def voi_values(values: Float32, transform: DisplayTransform) -> Float32 | None:
    """Modality units to display values in [0, 1], or None when the header says nothing usable."""
    if transform.voi_lut is not None:
        return transform.voi_lut.look_up(values) / np.float32(2**transform.voi_lut.bits - 1)
    if transform.window is not None:
        return apply_window(values, transform.window)
    return None


def apply_window(values: Float32, window: Window) -> Float32:
    """Window to [0, 1]: the formulas of PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2."""
    centre, width = window.centre, window.width
    if window.function is VoiFunction.SIGMOID:
        exponent = np.clip((values - np.float32(centre)) * np.float32(-4 / width), -80, 80)
        sigmoid: Float32 = 1 / (1 + np.exp(exponent))
        return sigmoid
    return linear_ramp(values, *window.ends)


def linear_ramp(values: Float32, low: float, high: float) -> Float32:
    """0 at or below `low`, 1 above `high`, straight between; a step when the two are equal."""
    if high <= low:
        return (values > np.float32(low)).astype(np.float32)
    ramp: Float32 = (values - np.float32(low)) * np.float32(1 / (high - low))
    np.clip(ramp, 0, 1, out=ramp)
    return ramp


def _number(dataset: Dataset, keyword: str, default: float) -> float:
    """First value of a numeric tag; the default when it is missing, empty or not a finite number."""
    try:
        value: Any = dataset.get(keyword)
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = value[0]
        number = float(value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return default
    return number if math.isfinite(number) else default


def _rescale(dataset: Dataset) -> tuple[float, float]:
    """Rescale Slope and Intercept; 1 and 0 where they are missing, zero or no rescale of 16-bit pixels."""
    slope = _number(dataset, "RescaleSlope", 1.0) or 1.0
    intercept = _number(dataset, "RescaleIntercept", 0.0)
    return (slope, intercept) if max(abs(slope), abs(intercept)) <= _LARGEST_RESCALE else (1.0, 0.0)


def _window(dataset: Dataset) -> Window | None:
    """The first window, when its width makes one (PS3.3 C.11.2.1.2: at least 1 for LINEAR, else above 0)."""
    centre = _number(dataset, "WindowCenter", math.nan)
    width = _number(dataset, "WindowWidth", math.nan)
    name = str(dataset.get("VOILUTFunction", "") or "LINEAR").strip().upper()
    function = VoiFunction(name) if name in set(VoiFunction) else VoiFunction.LINEAR
    smallest = 1.0 if function is VoiFunction.LINEAR else math.ulp(0.0)
    if math.isnan(centre) or math.isnan(width) or width < smallest:
        return None
    return Window(centre, width, function)


def _lookup_table(
    dataset: Dataset, keyword: str, order: Literal["<", ">"], *, signed_input: bool
) -> LookupTable | None:
    """First item of a LUT sequence, or None when there is none that can be read."""
    try:
        item = dataset[keyword].value[0]
        length, first, bits = (int(value) for value in item.LUTDescriptor)
        entries = _entries(item.LUTData, bits, order)
    except (KeyError, IndexError, AttributeError, TypeError, ValueError):
        return None
    length = length or 65536
    if not 1 <= bits <= 16 or len(entries) == 0 or abs(len(entries) - length) > 1:
        return None
    # The descriptor's second value is often written unsigned although the input is signed.
    if signed_input and first > 32767:
        first -= 65536
    return LookupTable(first, bits, entries[:length])


def _entries(lut: bytes | int | Sequence[int], bits: int, order: Literal["<", ">"]) -> Float32:
    """LUT Data as numbers, from a list (VR US, SS) or from bytes (VR OW) in the file's order."""
    if isinstance(lut, bytes):
        return np.frombuffer(lut[: len(lut) // 2 * 2], dtype=f"{order}u2").astype(np.float32)
    values = np.atleast_1d(np.asarray(lut, dtype=np.int64))
    return np.where(values < 0, values + 2 ** max(bits, 16), values).astype(np.float32)


def _padding(dataset: Dataset, instance: Instance) -> tuple[int, int] | None:
    """Pixel Padding Value and Range Limit (PS3.3 C.7.5.1.1.2) as a range of stored values."""
    value = _number(dataset, "PixelPaddingValue", math.nan)
    if math.isnan(value):
        return None
    limit = _number(dataset, "PixelPaddingRangeLimit", value)
    low, high = sorted(_as_stored(int(number), instance) for number in (value, limit))
    return low, high


def _as_stored(value: int, instance: Instance) -> int:
    """A padding tag's value as the pixels have it: writers choose US or SS regardless of the sign."""
    span = 1 << instance.bits_allocated
    if instance.is_signed and value >= span // 2:
        return value - span
    if not instance.is_signed and value < 0:
        return value + span
    return value
