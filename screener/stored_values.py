"""Words as a codec gives them → stored values: unused high bits dropped, sign applied (PS3.5 8.1.1).

The question a reader may have: what if bits above Bits Stored are set? In many pixels they are picture and
the tag is wrong, which happens: then it is ignored and the picture flagged. In a few they are an old
overlay and are dropped, or, out of a codestream, the overshoot of a lossy or reduced decoding and cut off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[Any]
"""(H, W) integers of 8 or 16 bits as a codec gives them."""
Pixels = npt.NDArray[Any]
"""(H, W) uint8, uint16 or int16 stored values."""

_WRONG_BITS_SHARE = 0.05
"""Share of pixels with bits above Bits Stored from which they are taken for picture."""


def stored_values(
    words: Words, *, precision: int, bits_stored: int, is_signed: bool, may_overshoot: bool
) -> tuple[Pixels, bool]:
    """Stored values of a picture and whether Bits Stored had to be corrected.

    Args:
        words: (H, W) as decoded, any sign still as two's complement.
        precision: bits that the coding gives a word, 1 to 16.
        bits_stored: by the header.
        is_signed: by the header.
        may_overshoot: the words come out of a codestream.

    Returns:
        (H, W) uint8, uint16, or int16 when signed.
    """
    bits = min(bits_stored, precision)
    corrected = bits_stored > precision
    if bits < precision and int(words.max()) >= 2**bits:
        whole, low = _values(words, precision, is_signed=is_signed), _values(words, bits, is_signed=is_signed)
        differing = np.count_nonzero(whole != low)
        if differing > _WRONG_BITS_SHARE * words.size:
            return whole, True
        if may_overshoot and not is_signed:
            return np.minimum(words, words.dtype.type(2**bits - 1)), corrected
        return low, corrected
    # No bit above Bits Stored is set: unsigned words are the values already.
    return (_extend_sign(words, bits) if is_signed else words), corrected


def _values(words: Words, bits: int, *, is_signed: bool) -> Pixels:
    """The lowest `bits` bits of each word as a number."""
    if is_signed:
        return _extend_sign(words, bits)
    kept: Pixels = words & words.dtype.type(2**bits - 1)
    return kept


def _extend_sign(words: Words, bits: int) -> npt.NDArray[np.int16]:
    """Two's complement of the lowest `bits` bits."""
    signed: npt.NDArray[np.int16] = words.astype(np.uint16, copy=False).view(np.int16)
    unused = np.int16(16 - bits)
    return (signed << unused) >> unused if unused else signed
