"""Encoded frame → stored values on the host, at the resolution the canvas needs.

Wavelet and cosine codestreams are decoded at the smallest size that still covers the canvas: 0.8 s of
JPEG 2000 become 0.07 s. A reader may question `COVER_SHARE`: a quarter of the commonest film (3056 rows) is
764 pixels, four short of the canvas, and enlarging by half a percent loses nothing that decoding sixteen
times the pixels would bring back.

A wavelet's low-pass sample is centred on the first pixel of the block it stands for, not on the block's
middle; `Picture.origin_px` says so and the letterbox takes it into account.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

import imagecodecs
import numpy as np

from screener.bit_planes import without_low_planes
from screener.codestreams import MOST_HALVINGS, Codestream, Coding, read_codestream
from screener.decoders import CODEC_ERRORS, run_decoder
from screener.errors import CorruptPixelData, DecodeError, Reason, UnsupportedTransferSyntax
from screener.frame import EncodedFrame
from screener.records import HeaderFlag
from screener.stored_values import Pixels, Words, stored_values
from screener.transfer_syntax import CODESTREAMS, DEFLATED, NATIVE, RLE, is_big_endian, name_of

__all__ = ["COVER_SHARE", "MOST_HALVINGS", "Picture", "decode"]

COVER_SHARE = 0.97
"""A reduced picture with this share of the side asked for still covers it."""


@dataclass(frozen=True, slots=True)
class Picture:
    """Decoded stored values, sign and unused high bits dealt with."""

    pixels: Pixels
    """(H, W) stored values at 1/reduction of the full size, rounded up."""
    reduction: int
    """1, 2, 4 or 8."""
    route: str
    """Codec, reduction and bit-planes left out, for example `jpeg2000/4-2`."""
    origin_px: float = 0.0
    """Outer edge of the first pixel in full-size pixels; below 0 for reduced wavelet pictures."""
    flags: tuple[HeaderFlag, ...] = ()
    step: int = 1
    """Stored values that fall together; above 1 where low bit-planes were left out."""

    def __post_init__(self) -> None:
        if self.pixels.ndim != 2 or self.pixels.dtype not in (np.uint8, np.uint16, np.int16):
            found = f"{self.pixels.dtype} {self.pixels.shape}"
            raise ValueError(f"pixels: expected uint8, uint16 or int16 (H, W), found {found}")


def decode(frame: EncodedFrame, *, cover_px: float | None, step: int = 1) -> Picture:
    """Decode one frame.

    Args:
        frame: the encoded frame.
        cover_px: the longer side needed, in pixels; codings that can will decode at 1/2, 1/4 or 1/8 as
            long as the picture still covers it. None decodes at full size.
        step: how many stored values may fall together in a reduced picture, a power of two.

    Raises:
        UnsupportedTransferSyntax: nothing here decodes it.
        DecodeError: `DECODE_FAILED`, `TRUNCATED_PIXEL_DATA` or `UNSUPPORTED_PIXEL_FORMAT`.
    """
    uid = frame.transfer_syntax_uid
    if uid in CODESTREAMS:
        return _decode_codestream(frame, cover_px, step)
    if uid == RLE:
        return _unpack(_rle_words(frame), frame, "rle")
    if uid in NATIVE:
        return _unpack(_native_words(frame), frame, "deflated" if uid == DEFLATED else "raw")
    raise UnsupportedTransferSyntax(name_of(uid))


def _native_words(frame: EncodedFrame) -> Words:
    order = ">" if is_big_endian(frame.transfer_syntax_uid) else "<"
    words = np.frombuffer(frame.payload, f"{order}u{frame.bits_allocated // 8}")
    return words.reshape(frame.rows, frame.columns).astype(words.dtype.newbyteorder("="), copy=False)


def _rle_words(frame: EncodedFrame) -> Words:
    """RLE Lossless (PS3.5 G): one run-length segment for each byte of a pixel, high byte first."""
    num_bytes = frame.bits_allocated // 8
    num_segments = int.from_bytes(frame.payload[:4], "little")
    if len(frame.payload) < 64 or num_segments != num_bytes:
        raise CorruptPixelData(f"RLE header names {num_segments} segments, {num_bytes} expected")
    size_bytes = frame.rows * frame.columns * num_bytes
    try:
        decoded = imagecodecs.dicomrle_decode(cast("bytes", frame.payload), f"<u{num_bytes}", out=size_bytes)
    except CODEC_ERRORS as error:
        raise CorruptPixelData(f"RLE segments do not decode ({type(error).__name__})") from None
    if len(decoded) < size_bytes:
        found = f"RLE segments decode to {len(decoded)} bytes, {size_bytes} expected"
        raise CorruptPixelData(found, Reason.TRUNCATED_PIXEL_DATA)
    words = np.frombuffer(decoded, f"<u{num_bytes}", frame.rows * frame.columns)
    return words.reshape(frame.rows, frame.columns)


def _unpack(words: Words, frame: EncodedFrame, route: str) -> Picture:
    shift = frame.high_bit + 1 - frame.bits_stored
    if 0 < shift <= frame.bits_allocated - frame.bits_stored:
        words = words >> words.dtype.type(shift)
    return _picture(words, frame.bits_allocated, frame, route, may_overshoot=False)


def _picture(
    words: Words, precision: int, frame: EncodedFrame, route: str, *, may_overshoot: bool
) -> Picture:
    pixels, corrected = stored_values(
        words,
        precision=precision,
        bits_stored=frame.bits_stored,
        is_signed=frame.is_signed,
        may_overshoot=may_overshoot,
    )
    return Picture(pixels, 1, route, flags=_corrected(corrected))


def _corrected(corrected: bool) -> tuple[HeaderFlag, ...]:
    return (HeaderFlag.BITS_STORED_CORRECTED,) if corrected else ()


def _decode_codestream(frame: EncodedFrame, cover_px: float | None, step: int) -> Picture:
    stream = read_codestream(frame.payload)
    _check(stream, frame)
    reduction = _reduction(stream, frame, cover_px)
    # Unused high bits: whether they are set is judged by the exact values.
    planes = step.bit_length() - 1 if frame.bits_stored >= stream.precision else 0
    words, route, planes = _run(stream, reduction, planes)
    expected = (-(-frame.rows // reduction), -(-frame.columns // reduction))
    if words.shape != expected:
        raise CorruptPixelData(f"decoded to {words.shape}, {expected} expected")
    if stream.is_signed:
        # The codestream's own sign and precision win, as in every viewer.
        corrected = not frame.is_signed or frame.bits_stored > stream.precision
        picture = Picture(words.astype(np.int16, copy=False), 1, route, flags=_corrected(corrected))
    else:
        picture = _picture(words, stream.precision, frame, route, may_overshoot=True)
    wavelet = stream.coding in (Coding.JPEG2000, Coding.HTJ2K)
    origin_px = 0.5 - reduction / 2 if wavelet else 0.0
    return replace(picture, reduction=reduction, origin_px=origin_px, step=1 << planes)


def _run(stream: Codestream, reduction: int, planes: int) -> tuple[Words, str, int]:
    """Words, route and the bit-planes left out, at most `planes` and none at full size."""
    shortened = without_low_planes(stream, planes) if reduction > 1 else None
    if shortened is not None:
        try:
            words, route = run_decoder(shortened.stream, reduction)
        except CorruptPixelData:
            pass  # the whole codestream says better what is wrong
        else:
            route = f"{route}/{reduction}-{shortened.planes}"
            return shortened.restore(words, reduction), route, shortened.planes
    words, route = run_decoder(stream, reduction)
    return words, f"{route}/{reduction}" if reduction > 1 else route, 0


def _check(stream: Codestream, frame: EncodedFrame) -> None:
    """Compare the codestream's header with DICOM's before the decoder takes memory."""
    if (stream.rows, stream.columns) != (frame.rows, frame.columns):
        found = f"codestream of {stream.rows} x {stream.columns} pixels"
        raise CorruptPixelData(f"{found}, the header says {frame.rows} x {frame.columns}")
    if stream.components != 1 or stream.precision > 16:
        found = f"codestream of {stream.components} components with {stream.precision} bits"
        raise DecodeError(Reason.UNSUPPORTED_PIXEL_FORMAT, f"{found}; 1 with at most 16 is supported")


def _reduction(stream: Codestream, frame: EncodedFrame, cover_px: float | None) -> int:
    """The largest reduction that the codestream offers and that still covers `cover_px`."""
    # Negative values in an unsigned codestream wrap around: only exact pixels can be unwrapped.
    wrapped = frame.is_signed and not stream.is_signed
    if cover_px is None or wrapped:
        return 1
    side, halvings = max(stream.rows, stream.columns), 0
    while halvings < stream.halvings and side / 2 ** (halvings + 1) >= COVER_SHARE * cover_px:
        halvings += 1
    return 1 << halvings
