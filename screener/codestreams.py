"""JPEG-family codestream → what its own header says, without decoding it.

Decoders take memory by the codestream's header, not by DICOM's, and several of them fill what a truncated
codestream lacks with grey. So size, components and completeness are read here first. The coding is taken
from the codestream too and not from the transfer syntax: files with the wrong one of the JPEG family exist,
and every viewer shows them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from screener.errors import CorruptPixelData, DecodeError, Reason

Buffer = bytes | memoryview

_SOI = b"\xff\xd8"
_SOC = b"\xff\x4f\xff\x51"
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_DCT = frozenset((0xC0, 0xC1, 0xC2, 0xC9, 0xCA))
_LOSSLESS = 0xC3
_JPEG_LS = 0xF7
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {_JPEG_LS}
SIZE, CODING_STYLE, COMPONENT_CODING_STYLE, START_OF_TILE_PART = 0xFF51, 0xFF52, 0xFF53, 0xFF90
_CAP, _EOC = 0xFF50, 0xFFD9
MOST_HALVINGS = 3
_TRAILER_BYTES = 65536
"""An end marker may be followed by padding; coded pixels can never hold its bytes."""


class Coding(StrEnum):
    """What the codestream is coded with; the name is part of a picture's decode route."""

    JPEG = "jpeg"
    JPEG_LOSSLESS = "jpeg_lossless"
    JPEG_LS = "jpeg_ls"
    JPEG2000 = "jpeg2000"
    HTJ2K = "htj2k"


@dataclass(frozen=True, slots=True)
class Codestream:
    """A codestream and what its header says."""

    payload: Buffer
    """The codestream alone, without a JP2 wrapper."""
    coding: Coding
    rows: int
    columns: int
    components: int
    precision: int
    """Bits of a sample."""
    is_signed: bool
    """JPEG and JPEG-LS know no sign."""
    halvings: int = 0
    """How often decoding can halve the picture, at most 3; 0 where coding or image offset forbid it."""


def read_codestream(payload: Buffer) -> Codestream:
    """Parse the headers of one frame's codestream.

    Raises:
        DecodeError: `DECODE_FAILED` if it is no known codestream or is malformed, `TRUNCATED_PIXEL_DATA`
            if it ends before its end.
    """
    start = bytes(payload[:8])
    try:
        if start.startswith(_SOI):
            return _read_jpeg(payload)
        if start == _JP2_SIGNATURE:
            payload = payload[bytes(payload[:4096]).index(_SOC) :]
            start = _SOC
        if start.startswith(_SOC):
            return _read_jpeg2000(payload)
    except (struct.error, IndexError, ValueError):
        raise CorruptPixelData("the codestream's header is malformed or cut off") from None
    raise CorruptPixelData(f"no JPEG or JPEG 2000 codestream: starts with {start[:4].hex()}")


def jpeg_segments(payload: Buffer) -> Iterator[tuple[int, int]]:
    """Marker and first content byte of each segment after the start of image (T.81 B.1.1.4).

    Raises:
        CorruptPixelData: there is no marker where one must be.
        struct.error: the codestream ends; what is wanted was not among its segments.
    """
    position = 2
    while True:
        fill, marker = struct.unpack_from(">BB", payload, position)
        if fill != 0xFF:
            raise CorruptPixelData(f"JPEG marker expected at byte {position}")
        if marker == 0xFF:
            position += 1
            continue
        (length,) = struct.unpack_from(">H", payload, position + 2)
        yield marker, position + 4
        position += 2 + length


def _read_jpeg(payload: Buffer) -> Codestream:
    """JPEG (T.81 B) and JPEG-LS (T.87 C): segments up to the start of frame, then the end marker."""
    marker, position = next(each for each in jpeg_segments(payload) if each[0] in _START_OF_FRAME)
    precision, rows, columns, components = struct.unpack_from(">BHHB", payload, position)
    # After the start of frame only: a thumbnail in an application segment has an end of its own.
    if b"\xff\xd9" not in bytes(payload[max(position, len(payload) - _TRAILER_BYTES) :]):
        raise _truncated("JPEG end of image is missing")
    coding = _jpeg_coding(marker)
    halvings = MOST_HALVINGS if coding is Coding.JPEG and precision == 8 else 0
    return Codestream(payload, coding, rows, columns, components, precision, False, halvings)


def _jpeg_coding(marker: int) -> Coding:
    if marker in _DCT:
        return Coding.JPEG
    if marker == _LOSSLESS:
        return Coding.JPEG_LOSSLESS
    if marker == _JPEG_LS:
        return Coding.JPEG_LS
    raise CorruptPixelData(f"JPEG process with start of frame {marker:02X} is not supported")


def jpeg2000_segments(payload: Buffer) -> Iterator[tuple[int, int, int]]:
    """Marker, first content byte and end of each main header segment (T.800 A), up to the first tile-part's.

    Raises:
        struct.error: the codestream ends before its first tile-part.
    """
    marker, position = 0, 2
    while marker != START_OF_TILE_PART:
        marker, length = struct.unpack_from(">HH", payload, position)
        yield marker, position + 4, position + 2 + length
        position += 2 + length


def _read_jpeg2000(payload: Buffer) -> Codestream:
    """JPEG 2000 main header, then the chain of tile-parts."""
    halvings, high_throughput = MOST_HALVINGS, False
    tile_parts, size, components = 0, b"", 1
    for marker, first, end in jpeg2000_segments(payload):
        segment = bytes(payload[first:end])
        if marker == START_OF_TILE_PART:
            tile_parts = first - 4
        elif marker == SIZE:
            size, components = segment, struct.unpack_from(">H", segment, 34)[0]
        elif marker == CODING_STYLE:
            halvings = min(halvings, segment[5])
            high_throughput |= bool(segment[8] & 0x40)
        elif marker == COMPONENT_CODING_STYLE:
            halvings = min(halvings, segment[2 if components < 257 else 3])
        high_throughput |= marker == _CAP
    right, bottom, left, top = struct.unpack_from(">4I", size, 2)
    depth, step_x, step_y = struct.unpack_from(">3B", size, 36)
    if (step_x, step_y) != (1, 1):
        raise CorruptPixelData("the JPEG 2000 component is subsampled")
    return Codestream(
        payload=_with_end(payload, tile_parts),
        coding=Coding.HTJ2K if high_throughput else Coding.JPEG2000,
        rows=bottom - top,
        columns=right - left,
        components=components,
        precision=(depth & 0x7F) + 1,
        is_signed=bool(depth & 0x80),
        halvings=0 if left or top else halvings,
    )


def _with_end(payload: Buffer, position: int) -> Buffer:
    """The codestream with its end marker; some writers forget it although every tile-part is there."""
    while position + 12 <= len(payload):
        marker, _, _, length = struct.unpack_from(">HHHI", payload, position)
        if marker != START_OF_TILE_PART:
            break
        if length == 0:  # the last tile-part: up to the end marker
            if b"\xff\xd9" not in bytes(payload[-_TRAILER_BYTES:]):
                raise _truncated("JPEG 2000 end of codestream is missing")
            return payload
        if length < 14:
            raise CorruptPixelData(f"JPEG 2000 tile-part of {length} bytes")
        position += length
    if position > len(payload):
        raise _truncated(f"JPEG 2000 tile-part ends at byte {position} of {len(payload)}")
    if bytes(payload[position : position + 2]) == b"\xff\xd9":
        return payload
    return bytes(payload[:position]) + b"\xff\xd9"


def _truncated(detail: str) -> DecodeError:
    return CorruptPixelData(detail, Reason.TRUNCATED_PIXEL_DATA)
