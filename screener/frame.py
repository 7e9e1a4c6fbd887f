"""DICOM file → one frame's bytes, still encoded, read once and hashed on the way.

The whole file is read although only the pixel data are needed: its SHA-256 goes into the report (9 ms for a
15 MB film, against a second read of the disk). Each piece is hashed while it is still in the processor's
cache. Sizes are checked against the header before memory is taken.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from io import BufferedReader
from typing import BinaryIO, cast

import numpy as np

from screener.errors import CorruptPixelData, DecodeError, Reason, UnsupportedTransferSyntax
from screener.header import ParsedHeader
from screener.settings import RunSettings
from screener.transfer_syntax import ENCAPSULATED, SUPPORTED, is_big_endian, name_of

_UNDEFINED_LENGTH = 0xFFFFFFFF
PIECE_BYTES = 1 << 18
"""Read and hashed at a time: fits into a core's cache."""
_ITEM = b"\xfe\xff\x00\xe0"
_SEQUENCE_DELIMITER = b"\xfe\xff\xdd\xe0"
MAX_ITEMS = 1 << 18
"""More fragments than this of one frame are no fragmentation but an attack on memory."""
_CODESTREAM_STARTS = (b"\xff\xd8\xff", b"\xff\x4f\xff\x51", b"\x00\x00\x00\x0cjP")


@dataclass(frozen=True, slots=True)
class EncodedFrame:
    """One frame as it lies in the file, and what is needed to decode it."""

    transfer_syntax_uid: str
    payload: bytes | memoryview
    """Native pixels in the file's byte order, or the joined fragments."""
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    source_sha256: str
    """SHA-256 of the whole file, hex."""


@dataclass(frozen=True, slots=True)
class _PixelElement:
    """The Pixel Data element's header."""

    vr: str | None
    length: int
    value: int
    """Byte at which its value starts."""


def read_frame(file: BinaryIO, parsed: ParsedHeader, settings: RunSettings) -> EncodedFrame:
    """Read the pixel data of a single-frame image.

    Args:
        file: the DICOM file, seekable; read whole.
        parsed: its header, already found eligible.
        settings: size limits.

    Raises:
        UnsupportedTransferSyntax: nothing here decodes it.
        DecodeError: `NO_PIXEL_DATA`, `IMPLAUSIBLE_SIZE`, `UNSUPPORTED_PIXEL_FORMAT`,
            `TRUNCATED_PIXEL_DATA`, or `DECODE_FAILED` if encapsulation and transfer syntax disagree.
    """
    instance, uid = parsed.instance, parsed.transfer_syntax_uid
    if uid not in SUPPORTED:
        raise UnsupportedTransferSyntax(name_of(uid))
    if instance is None or parsed.pixel_data_offset is None:
        raise DecodeError(Reason.NO_PIXEL_DATA, "the data set has no Pixel Data element")
    if instance.bits_allocated not in (8, 16):
        found = f"{instance.bits_allocated} bits allocated; 8 and 16 are supported"
        raise DecodeError(Reason.UNSUPPORTED_PIXEL_FORMAT, found)
    size_bytes = os.fstat(file.fileno()).st_size
    _check_declared_size(instance.rows, instance.columns, size_bytes, settings)
    content, source_sha256 = _read_and_hash(file, size_bytes)
    dataset = content if parsed.inflated is None else memoryview(parsed.inflated)
    element = _pixel_element(dataset, parsed.pixel_data_offset, uid)
    if uid in ENCAPSULATED:
        payload = _encapsulated(dataset, element)
    else:
        num_bytes = instance.rows * instance.columns * instance.bits_allocated // 8
        payload = _native(dataset, element, num_bytes)
        if is_big_endian(uid) and element.vr == "OW" and instance.bits_allocated == 8:
            payload = _swap_words(dataset, element.value, num_bytes)
    high_bit = parsed.dataset.get("HighBit")
    return EncodedFrame(
        transfer_syntax_uid=uid,
        payload=payload,
        rows=instance.rows,
        columns=instance.columns,
        bits_allocated=instance.bits_allocated,
        bits_stored=instance.bits_stored,
        high_bit=high_bit if isinstance(high_bit, int) else instance.bits_stored - 1,
        is_signed=instance.is_signed,
        source_sha256=source_sha256,
    )


def _read_and_hash(file: BinaryIO, size_bytes: int) -> tuple[memoryview, str]:
    """The file's bytes, fewer if it ends early, and their SHA-256."""
    content = np.empty(size_bytes, np.uint8).data
    digest, filled = hashlib.sha256(), 0
    file.seek(0)
    read_into = cast(BufferedReader, file).readinto
    while count := read_into(content[filled : filled + PIECE_BYTES]):
        digest.update(content[filled : filled + count])
        filled += count
    return content[:filled], digest.hexdigest()


def _check_declared_size(rows: int, columns: int, size_bytes: int, settings: RunSettings) -> None:
    if rows < 1 or columns < 1 or rows * columns > settings.max_megapixels * 1e6:
        found = f"{rows} x {columns} pixels; at most {settings.max_megapixels:g} megapixels are decoded"
        raise DecodeError(Reason.IMPLAUSIBLE_SIZE, found)
    if size_bytes > settings.max_file_mb * 1e6:
        found = f"{size_bytes / 1e6:.0f} MB; at most {settings.max_file_mb:g} MB are read"
        raise DecodeError(Reason.IMPLAUSIBLE_SIZE, found)


def _pixel_element(dataset: memoryview, offset: int, uid: str) -> _PixelElement:
    """Parse the element header at `offset` (PS3.5 7.1.2, 7.1.3)."""
    order = ">" if is_big_endian(uid) else "<"
    head = bytes(dataset[offset : offset + 12])
    if len(head) < 8 or struct.unpack_from(order + "HH", head) != (0x7FE0, 0x0010):
        raise CorruptPixelData("the file ends before its pixel data", Reason.TRUNCATED_PIXEL_DATA)
    vr = head[4:6]
    if vr in (b"OB", b"OW", b"UN") and len(head) == 12:
        return _PixelElement(vr.decode(), struct.unpack_from(order + "I", head, 8)[0], offset + 12)
    return _PixelElement(None, struct.unpack_from(order + "I", head, 4)[0], offset + 8)


def _native(dataset: memoryview, element: _PixelElement, num_bytes: int) -> memoryview:
    """The first `num_bytes` of the value; more is padding, less is a truncated picture."""
    if element.length == _UNDEFINED_LENGTH:
        raise CorruptPixelData("pixel data are encapsulated, the transfer syntax says native")
    present = min(element.length, len(dataset) - element.value)
    if present < num_bytes:
        found = f"{present} bytes of pixel data, {num_bytes} expected"
        raise CorruptPixelData(found, Reason.TRUNCATED_PIXEL_DATA)
    return dataset[element.value : element.value + num_bytes]


def _swap_words(dataset: memoryview, start: int, num_bytes: int) -> bytes:
    """8-bit pixels written as big endian words: every two bytes change places (PS3.5 A.3)."""
    words = np.frombuffer(dataset, np.uint16, min(num_bytes + 1, len(dataset) - start) // 2, start)
    return words.byteswap().tobytes()[:num_bytes].ljust(num_bytes, b"\x00")


def _encapsulated(dataset: memoryview, element: _PixelElement) -> bytes | memoryview:
    """All fragments of the one frame, joined (PS3.5 A.4); the basic offset table is skipped."""
    if element.length != _UNDEFINED_LENGTH:
        raise CorruptPixelData("pixel data are native, the transfer syntax says encapsulated")
    items = _items(dataset, element.value)
    # The first item is the offset table, which may be empty; some writers leave it out altogether.
    if items and not bytes(items[0][:8]).startswith(_CODESTREAM_STARTS):
        items = items[1:]
    fragments = [item for item in items if len(item)]
    if not fragments:
        raise CorruptPixelData("encapsulated pixel data hold no fragment", Reason.TRUNCATED_PIXEL_DATA)
    return fragments[0] if len(fragments) == 1 else b"".join(fragments)


def _items(dataset: memoryview, position: int) -> list[memoryview]:
    """Values of the items from `position` to the sequence delimiter; the end of the file also ends them."""
    items: list[memoryview] = []
    while position + 8 <= len(dataset):
        tag = bytes(dataset[position : position + 4])
        (length,) = struct.unpack_from("<I", dataset, position + 4)
        if tag == _SEQUENCE_DELIMITER:
            break
        if tag != _ITEM or length == _UNDEFINED_LENGTH:
            raise CorruptPixelData(f"item expected among the fragments, found {tag.hex()}")
        position += 8
        if position + length > len(dataset):
            found = f"a fragment of {length} bytes has {len(dataset) - position}"
            raise CorruptPixelData(found, Reason.TRUNCATED_PIXEL_DATA)
        if len(items) >= MAX_ITEMS:
            raise CorruptPixelData(f"more than {MAX_ITEMS} fragments of one frame")
        items.append(dataset[position : position + length])
        position += length
    return items
