"""Transfer syntaxes and frames for tests of the codecs."""

from __future__ import annotations

from pathlib import Path

from screener.frame import EncodedFrame
from tests.factories import (
    LOSSLESS_SYNTAXES,
    NATIVE_SYNTAXES,
)

JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS, JPEG_LS = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80"
J2K_LOSSLESS, HTJ2K_LOSSLESS, RLE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.5"
REAL = Path(__file__).parent / "dicom" / "codec"
ENCAPSULATED_LOSSLESS = [uid for uid in LOSSLESS_SYNTAXES if uid not in NATIVE_SYNTAXES]


def frame_of(
    payload: bytes, shape: tuple[int, ...], uid: str, *, bits: int = 12, is_signed: bool = False
) -> EncodedFrame:
    allocated = 8 if bits <= 8 else 16
    rows, columns = shape
    return EncodedFrame(uid, payload, rows, columns, allocated, bits, bits - 1, is_signed, "")
