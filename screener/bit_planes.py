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

from screener.codestreams import Codestream, Coding
from screener.stored_values import Words

_LEAST_PRECISION = 9
"""Bits that must remain: with 8 the library would return bytes."""
_SIZE, _COD, _COC, _QCD, _QCC, _RGN, _SOT, _SOD = (
    0xFF51, 0xFF52, 0xFF53, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF90, 0xFF93,
)  # fmt: skip
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
        """Decoded words (H, W) in the scale of the whole codestream, as close in the mean as integers allow.

        Blocks are cut off towards zero, that is towards the middle of an unsigned range, and every inverse
        transform rounds down by a quarter of a step on either axis.
        """
        step, middle = 1 << self.planes, 1 << (self.stream.precision - 1)
        rounds = self.decompositions - reduction.bit_length() + 1
        levels = np.arange(-middle, middle)
        values = levels * step + (rounds * step) // 3 + np.where(levels >= 0, step // 2, -(step // 2))
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
        None where nothing can be left out, or where the header holds what this does not know: another coding
        or transform, block styles, regions of interest, settings of single components or tile-parts.
    """
    planes = min(planes, stream.precision - _LEAST_PRECISION)
    if planes < 1 or stream.coding is not Coding.JPEG2000:
        return None
    content = bytearray(stream.payload)
    position, decompositions = 2, -1
    while True:
        marker, length = struct.unpack_from(">HH", content, position)
        first = position + 4
        if marker == _SOT:
            break
        if marker in (_COC, _QCC, _RGN):
            return None
        if marker == _SIZE:
            content[first + 36] -= planes
        elif marker == _COD:
            decompositions, style, transform = content[first + 5], content[first + 8], content[first + 9]
            if style or transform != _REVERSIBLE:
                return None
        elif marker == _QCD and not _lower(content, first, length - 2, planes):
            return None
        position += 2 + length
    if decompositions < 0 or not _plain_tile_parts(content, position):
        return None
    return Shortened(
        replace(stream, payload=memoryview(content), precision=stream.precision - planes),
        planes,
        decompositions,
    )


def _lower(content: bytearray, first: int, length: int, planes: int) -> bool:
    """Lower the exponents of an unquantised QCD segment (T.800 A.6.4) in place; False if it is another."""
    exponents = range(first + 1, first + length)
    if content[first] & 0x1F or any(content[at] >> 3 <= planes for at in exponents):
        return False
    for at in exponents:
        content[at] -= planes << 3
    return True


def _plain_tile_parts(content: bytearray, position: int) -> bool:
    """Whether every tile-part's header is its start alone."""
    while True:
        marker, _, _, length = struct.unpack_from(">HHHI", content, position)
        if marker != _SOT:
            return True
        if struct.unpack_from(">H", content, position + _SOT_BYTES)[0] != _SOD:
            return False
        if length == 0:
            return True
        position += length
        if position + _SOT_BYTES + 2 > len(content):
            return True
