"""Transfer syntaxes that can be decoded, by how their pixel data lie in the file (PS3.5 A, PS3.6 A)."""

from __future__ import annotations

from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

NATIVE = frozenset(
    str(uid)
    for uid in (
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
    )
)
"""Pixel data lie in the data set as they are."""
DEFLATED = str(DeflatedExplicitVRLittleEndian)
RLE = str(RLELossless)
CODESTREAMS = frozenset(
    str(uid)
    for uid in (
        JPEGBaseline8Bit,
        JPEGExtended12Bit,
        JPEGLossless,
        JPEGLosslessSV1,
        JPEGLSLossless,
        JPEGLSNearLossless,
        JPEG2000Lossless,
        JPEG2000,
        HTJ2KLossless,
        HTJ2KLosslessRPCL,
        HTJ2K,
    )
)
"""Pixel data are fragments of one self-describing JPEG-family codestream."""
ENCAPSULATED = CODESTREAMS | {RLE}
SUPPORTED = NATIVE | ENCAPSULATED


def is_big_endian(uid: str) -> bool:
    """Whether words of native pixel data have their high byte first."""
    return uid == str(ExplicitVRBigEndian)


def name_of(uid: str) -> str:
    """The transfer syntax's name, or the UID itself when it is not in the standard."""
    return str(UID(uid).name)
