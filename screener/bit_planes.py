"""Reversible JPEG 2000 → the same codestream with its lowest bit-planes out of the decoder's reach.

Decoding time goes into bit-planes, most of it into the lowest, which are grain. A canvas shows a few hundred
grey levels; a film has thousands. A decoder counts a block's planes from the exponents of the main header
(T.800 E-2, B.10.5) and stops at the last: with all exponents and the precision lowered by n it ends n planes
early and returns values in steps of 2**n. Nothing else in the file changes.

The decision a reader would question: this is an approximation, of the size that decoding at reduced
resolution is anyway; it is asked for only together with that, and only as far as the header's window allows.
`docs/decisions/bit-planes.md` has the figures.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import numpy as np

from screener.codestreams import (
    CODING_STYLE,
    COMPONENT_CODING_STYLE,
    SIZE,
    START_OF_TILE_PART,
    Codestream,
    Coding,
    jpeg2000_segments,
)
from screener.stored_values import Words

_LEAST_PRECISION = 9
"""Bits that must remain: with 8 the library would return bytes."""
_QCD, _QCC, _RGN, _SOD = 0xFF5C, 0xFF5D, 0xFF5E, 0xFF93
_HARMLESS = frozenset((0xFF58, 0xFF61, 0xFF64))
"""Packet lengths, packed packet headers and comments."""
_REVERSIBLE = 1
_SOT_BYTES = 12


@dataclass(frozen=True, slots=True)
class Shortened:
    """A codestream that ends `planes` bit-planes early."""

    stream: Codestream
    """Its precision is that of what comes out."""
    planes: int
    decompositions: int
    """How often the wavelet transform was applied."""

    def restore(self, words: Words, reduction: int) -> Words:
        """Decoded words (H, W) in the scale of the whole codestream.

        Blocks are cut off towards zero, that is towards the middle of an unsigned range: half a step. Every
        inverse transform of a grainy picture rounds down by up to half a step, of a plain one by nothing; a
        third is between the two.
        """
        step, middle = 1 << self.planes, 1 << (self.stream.precision - 1)
        rounds = self.decompositions - reduction.bit_length() + 1
        levels = np.arange(-middle, middle)
        values = levels * step + (rounds * step) // 3 + np.sign(levels) * (step // 2)
        np.clip(values, -middle * step, middle * step - 1, out=values)
        if self.stream.is_signed:
            restored: Words = values.astype(words.dtype)[words + words.dtype.type(middle)]
        else:
            restored = (values + middle * step).astype(words.dtype)[words]
        return restored


def without_low_planes(stream: Codestream, planes: int) -> Shortened | None:
    """Lower a codestream's exponents and precision by `planes`.

    Args:
        stream: one component.
        planes: bit-planes to leave out; fewer are left out where too little precision would remain.

    Returns:
        None where nothing can be left out, where the codestream is malformed, or where its header holds what
        this does not know: another coding or transform, block styles, regions of interest, settings of single
        components or tiles.
    """
    planes = min(planes, stream.precision - _LEAST_PRECISION)
    if planes < 1 or stream.coding is not Coding.JPEG2000:
        return None
    content = bytearray(stream.payload)
    try:
        decompositions = _lower_main_header(content, planes)
    except (struct.error, IndexError, ValueError):
        return None
    if decompositions is None:
        return None
    lowered = replace(stream, payload=memoryview(content), precision=stream.precision - planes)
    return Shortened(lowered, planes, decompositions)


def _lower_main_header(content: bytearray, planes: int) -> int | None:
    """Lower precision and exponents in place; returns the decompositions, None if that is not all it takes.

    Raises:
        struct.error, IndexError, ValueError: the header is malformed.
    """
    tile_parts, decompositions = 0, None
    for marker, first, end in jpeg2000_segments(memoryview(content)):
        if marker in (COMPONENT_CODING_STYLE, _QCC, _RGN):
            return None
        if marker == START_OF_TILE_PART:
            tile_parts = first - 4
        elif marker == SIZE:
            content[first + 36] -= planes
        elif marker == CODING_STYLE:
            decompositions, style, transform = content[first + 5], content[first + 8], content[first + 9]
            if style or transform != _REVERSIBLE:
                return None
        elif marker == _QCD and not _lower(content, range(first, end), planes):
            return None
    return decompositions if _plain_tile_parts(content, tile_parts) else None


def _lower(content: bytearray, segment: range, planes: int) -> bool:
    """Lower the exponents of an unquantised QCD segment (T.800 A.6.4) in place; False if it is another."""
    style, exponents = content[segment[0]], segment[1:]
    if style & 0x1F or any(content[at] >> 3 <= planes for at in exponents):
        return False
    for at in exponents:
        content[at] -= planes << 3
    return True


def _plain_tile_parts(content: bytearray, position: int) -> bool:
    """Whether no tile-part's header holds settings of its own."""
    while struct.unpack_from(">H", content, position)[0] == START_OF_TILE_PART:
        (length,) = struct.unpack_from(">I", content, position + 6)
        at = position + _SOT_BYTES
        while (marker := struct.unpack_from(">H", content, at)[0]) != _SOD:
            if marker not in _HARMLESS:
                return False
            at += 2 + struct.unpack_from(">H", content, at + 2)[0]
        if length == 0:  # the last tile-part, up to the end marker
            return True
        position += length
    return True
