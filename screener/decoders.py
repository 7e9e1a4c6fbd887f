"""Codestream → words: one fast library call for each coding, at full or at reduced size.

`imagecodecs` has the fastest routine for all of them but cannot leave out resolutions of JPEG 2000 or scale
JPEG's cosines; Pillow can. Two codings have a second library for valid streams that the first refuses; the
route names it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import cast

import imagecodecs
import numpy as np
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile

from screener.codestreams import Codestream, Coding
from screener.errors import CorruptPixelData
from screener.stored_values import Words

CODEC_ERRORS = (RuntimeError, ValueError, OSError, SyntaxError, IndexError, EOFError, TypeError)
"""What the libraries raise on bad codestreams; a MemoryError is for the worker to report."""


def run_decoder(stream: Codestream, reduction: int) -> tuple[Words, str]:
    """Decode a codestream of one component.

    Args:
        stream: the codestream; its size and precision have been checked.
        reduction: 1, 2, 4 or 8; above 1 only where `stream.halvings` allows it.

    Returns:
        (H, W) words, signed where the codestream is, and the route.

    Raises:
        CorruptPixelData: no library decodes it.
    """
    attempts = _ATTEMPTS[stream.coding]
    errors = []
    for route, attempt in attempts:
        try:
            return attempt(stream, reduction), route
        except CODEC_ERRORS as error:
            errors.append(type(error).__name__)
    raise CorruptPixelData(f"{stream.coding} codestream does not decode ({', '.join(errors)})")


def _jpeg(stream: Codestream, reduction: int) -> Words:
    if reduction == 1:
        return imagecodecs.jpeg8_decode(_buffer(stream))
    # The class itself: `Image.open` would refuse by a limit of its own what the settings allow.
    with JpegImageFile(BytesIO(stream.payload)) as image:
        # Rounded down: Pillow scales by as much as keeps the picture at least that large.
        image.draft("L", (max(1, stream.columns // reduction), max(1, stream.rows // reduction)))
        return np.asarray(image)


def _jpeg_lossless(stream: Codestream, reduction: int) -> Words:
    return imagecodecs.jpeg8_decode(_buffer(stream))


def _jpeg_lossless_liblj92(stream: Codestream, reduction: int) -> Words:
    return imagecodecs.ljpeg_decode(_buffer(stream))


def _jpeg_ls(stream: Codestream, reduction: int) -> Words:
    return imagecodecs.jpegls_decode(_buffer(stream))


def _openjpeg(stream: Codestream, reduction: int) -> Words:
    if reduction == 1:
        return imagecodecs.jpeg2k_decode(_buffer(stream), numthreads=1)
    with Jpeg2KImageFile(BytesIO(stream.payload)) as image:
        image.reduce = reduction.bit_length() - 1
        # Pillow rounds the reduced size to the nearest, JPEG 2000 rounds it up (T.800 B-15): multiples of
        # the reduction suit both.
        image._size = (_round_up(stream.columns, reduction), _round_up(stream.rows, reduction))
        words: Words = np.asarray(image)
    # Pillow moves signed samples above zero, and all samples to the top of its 8 or 16 bits.
    unshifted: Words = words >> words.dtype.type(8 * words.itemsize - stream.precision)
    if not stream.is_signed:
        return unshifted
    signed: Words = (unshifted.astype(np.int32) - 2 ** (stream.precision - 1)).astype(np.int16)
    return signed


def _openjph(stream: Codestream, reduction: int) -> Words:
    skip = reduction.bit_length() - 1
    with _no_lost_errors():
        return imagecodecs.htj2k_decode(_buffer(stream), skipres=skip or None)


_HOOK = threading.Lock()
"""`sys.unraisablehook` belongs to the process: two threads must not put back each other's."""


@contextmanager
def _no_lost_errors() -> Iterator[None]:
    """Raise what a binding lost on its way out.

    The HTJ2K binding (imagecodecs 2026.3.6) only reports OpenJPH's errors as unraisable and returns the
    picture as far as it came; without this a damaged film would be screened half black.
    """
    lost: list[str] = []
    with _HOOK:
        previous = sys.unraisablehook
        sys.unraisablehook = lambda unraisable: lost.append(str(unraisable.exc_value))
        try:
            yield
        finally:
            sys.unraisablehook = previous
    if lost:
        raise RuntimeError(lost[0])


def _round_up(side: int, unit: int) -> int:
    return -(-side // unit) * unit


def _buffer(stream: Codestream) -> bytes:
    """The codestream for `imagecodecs`, which takes any buffer although its stubs say bytes."""
    return cast("bytes", stream.payload)


_ATTEMPTS = {
    Coding.JPEG: (("jpeg", _jpeg),),
    Coding.JPEG_LOSSLESS: (("jpeg_lossless", _jpeg_lossless), ("jpeg_lossless-lj92", _jpeg_lossless_liblj92)),
    Coding.JPEG_LS: (("jpeg_ls", _jpeg_ls),),
    Coding.JPEG2000: (("jpeg2000", _openjpeg),),
    Coding.HTJ2K: (("htj2k", _openjph), ("htj2k-openjpeg", _openjpeg)),
}
