"""Encoded frame → stored values on the host, at the resolution the canvas needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from screener.records import HeaderFlag


@dataclass(frozen=True, slots=True)
class Picture:
    """Decoded stored values, sign and unused high bits dealt with."""

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | npt.NDArray[np.int16]
    """(H, W) stored values at 1/reduction of the full size, rounded up."""
    reduction: int
    """1, 2, 4 or 8."""
    route: str
    """Codec and reduction, for example `jpeg2000/4`."""
    origin_px: float = 0.0
    """Where the first pixel's outer edge lies, in full-size pixels: negative for wavelets, see `codecs`."""
    flags: tuple[HeaderFlag, ...] = ()
