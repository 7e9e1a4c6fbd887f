"""Header and codestream → where a picture is decoded and drawn when there is a device for it.

Chosen before anything is decoded, and recorded: a device route that fails costs a second attempt on the
host. A reader may question why the device's abilities are an argument and not a table: what nvImageCodec
decodes differs between its CPU and GPU builds, and one version of nvJPEG returned black pictures for 12-bit
lossless JPEG without an error. So the loader tries each kind once at start (`nvimagecodec.prove`) and only
kinds that came back exact are sent there.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum

from screener.canvas import CANVAS_SIDE
from screener.codecs import COVER_SHARE, MOST_HALVINGS
from screener.codestreams import Buffer, Codestream, Coding, jpeg_segments, read_codestream
from screener.display import DisplayTransform
from screener.errors import CorruptPixelData, DecodeError
from screener.frame import EncodedFrame
from screener.transfer_syntax import CODESTREAMS

_START_OF_SCAN = 0xDA
DEVICE_BYTES_PER_PIXEL = 12
"""Decoded words, DALI's copy of them, the crop, a padded copy for the sample and float32 quarters."""


class Place(StrEnum):
    """Who decodes and who draws."""

    DEVICE = "device"
    """nvImageCodec decodes the codestream, DALI draws."""
    UPLOAD = "upload"
    """A host codec decodes at full size, DALI draws."""
    HOST = "host"
    """The worker decodes and draws, as without a device."""


class StreamKind(StrEnum):
    """Codestreams of one component that a decoder treats alike."""

    JPEG_8 = "jpeg, 8 bits"
    LOSSLESS_8 = "jpeg_lossless, 8 bits, predictor 1"
    LOSSLESS_16 = "jpeg_lossless, 9-16 bits, predictor 1"
    J2K_8 = "jpeg2000, 8 bits"
    J2K_16 = "jpeg2000, 9-16 bits"
    J2K_SIGNED = "jpeg2000, 9-16 bits, signed"
    HTJ2K_8 = "htj2k, 8 bits"
    HTJ2K_16 = "htj2k, 9-16 bits"


@dataclass(frozen=True, slots=True)
class Route:
    """Where one picture goes."""

    place: Place
    stream: Codestream | None = None
    """The codestream for nvImageCodec; only when the place is the device."""
    ceiling: int | None = None
    """Highest stored value; what lies above is a lossy codestream's overshoot."""
    bits_corrected: bool = False
    """Bits Stored claims more bits than the codestream has."""


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a device was found able to do."""

    kinds: frozenset[StreamKind]
    """Kinds of codestreams that it decoded exactly."""
    memory_bytes: int
    """Most memory that the pictures of a lane may take."""


HOST = Route(Place.HOST)
UPLOAD = Route(Place.UPLOAD)


def choose_route(frame: EncodedFrame, transform: DisplayTransform, abilities: Abilities) -> Route:
    """Where a picture is decoded and drawn.

    Args:
        frame: one encoded frame of an eligible image.
        transform: its header's display transform.
        abilities: what the device can do.

    Returns:
        The host's own route for whatever is unusual: there a bad file gets its typed reason.
    """
    if not _can_be_drawn(frame, transform, abilities):
        return HOST
    if frame.transfer_syntax_uid not in CODESTREAMS:
        return UPLOAD
    try:
        stream = read_codestream(frame.payload)
    except DecodeError:
        return HOST
    if (stream.rows, stream.columns, stream.components) != (frame.rows, frame.columns, 1):
        return HOST
    if _is_for_device(stream, frame, abilities):
        bits = min(frame.bits_stored, stream.precision)
        corrected = frame.bits_stored > stream.precision or (stream.is_signed and not frame.is_signed)
        ceiling = 2**bits - 1 if bits < stream.precision and not stream.is_signed else None
        return Route(Place.DEVICE, stream, ceiling, corrected)
    # What the host can decode at reduced size is decoded and drawn faster there than at full size.
    return HOST if stream.halvings else UPLOAD


def stream_kind(stream: Codestream) -> StreamKind | None:
    """The kind of a codestream, or None for those that no version of nvImageCodec decodes."""
    is_deep = stream.precision > 8
    match stream.coding:
        case Coding.JPEG:
            return None if is_deep else StreamKind.JPEG_8
        case Coding.JPEG_LOSSLESS if predictor(stream.payload) == 1:
            return StreamKind.LOSSLESS_16 if is_deep else StreamKind.LOSSLESS_8
        case Coding.JPEG2000 if stream.is_signed:
            return StreamKind.J2K_SIGNED if is_deep else None
        case Coding.JPEG2000:
            return StreamKind.J2K_16 if is_deep else StreamKind.J2K_8
        case Coding.HTJ2K if not stream.is_signed:
            return StreamKind.HTJ2K_16 if is_deep else StreamKind.HTJ2K_8
        case _:
            return None


def predictor(payload: Buffer) -> int | None:
    """Predictor of a lossless JPEG's first scan (T.81 H.1.2.1), or None if its header is malformed."""
    try:
        scan = next(start for marker, start in jpeg_segments(payload) if marker == _START_OF_SCAN)
        return int(payload[scan + 1 + 2 * payload[scan]])
    except (CorruptPixelData, struct.error, IndexError):
        return None


def _can_be_drawn(frame: EncodedFrame, transform: DisplayTransform, abilities: Abilities) -> bool:
    """Whether the device's drawing covers this film: no padding mask, no enlargement, few enough halvings."""
    side = max(frame.rows, frame.columns)
    return (
        transform.padding is None
        and COVER_SHARE * CANVAS_SIDE <= side < CANVAS_SIDE * 2 ** (MOST_HALVINGS + 1)
        and frame.rows * frame.columns * DEVICE_BYTES_PER_PIXEL <= abilities.memory_bytes
    )


def _is_for_device(stream: Codestream, frame: EncodedFrame, abilities: Abilities) -> bool:
    # Negative values in an unsigned codestream wrap around: the host unwraps them.
    if frame.is_signed and not stream.is_signed:
        return False
    kind = stream_kind(stream)
    return kind is not None and kind in abilities.kinds
