"""Bytes of a DICOM data set to its elements' raw values, and those to text and numbers that never raise.

A reader would ask why not pydicom alone: a CT series must cost almost nothing, and a hostile length must not
take memory. This scan walks element headers over bytes already in hand (PS3.5 section 7), about a third of
pydicom's time, and says where the pixel data start or that the header is cut off; pydicom then parses, for
its sequences and LUTs, only what was found whole. Values are decoded on use and a malformed one is None.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field

from screener.character_sets import decode_text

UNDEFINED_LENGTH = 0xFFFFFFFF
PIXEL_DATA_GROUP_START = 0x7FE00008
"""Float Pixel Data, the first of the elements that can hold pixels."""
_KEPT_BYTES = 4096
"""Longer values (LUTs, overlays, thumbnails) and private ones are stepped over; pydicom reads LUTs."""
_MAX_DEPTH = 32

_ITEM = 0xFFFEE000
_ITEM_END = 0xFFFEE00D
_SEQUENCE_END = 0xFFFEE0DD

SHORT_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
"""Value representations with a two-byte length (PS3.5 table 7.1-2)."""
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
"""Value representations with a four-byte length after two reserved bytes (PS3.5 table 7.1-1)."""

_HEADERS = {True: struct.Struct("<HH2sH"), False: struct.Struct(">HH2sH")}
"""Element header by byte order: group, number, VR, short length."""

SPECIFIC_CHARACTER_SET = 0x00080005
_PADDING = " \0"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How a data set's element headers are written."""

    implicit_vr: bool
    little_endian: bool

    @property
    def byte_order(self) -> str:
        """Prefix for `struct`."""
        return "<" if self.little_endian else ">"


_UNKNOWN_ITEMS = Encoding(implicit_vr=True, little_endian=True)
"""How the items of a UN element of undefined length are written (PS3.5 6.2.2)."""


@dataclass(frozen=True, slots=True)
class Elements:
    """Raw values of a data set's top level, by tag; reading one never raises."""

    encoding: Encoding = Encoding(implicit_vr=True, little_endian=True)
    values: dict[int, bytes] = field(default_factory=dict, repr=False)
    """Undefined-length sequences keep their items and delimiters."""

    def code(self, tag: int) -> str | None:
        """First value of a code string, UID, date or number string; None when empty or missing."""
        codes = self.codes(tag)
        return codes[0] or None if codes else None

    def codes(self, tag: int) -> tuple[str, ...]:
        """All values of a multi-valued string, stripped, empty ones kept."""
        value = self.values.get(tag)
        if not value:
            return ()
        return tuple(part.strip(_PADDING) for part in value.decode("latin-1").split("\\"))

    def text(self, tag: int) -> str | None:
        """A text value in the data set's character set, padding stripped; None when empty or missing."""
        value = self.values.get(tag)
        if not value:
            return None
        return decode_text(value, self.codes(SPECIFIC_CHARACTER_SET)).strip(_PADDING) or None

    def unsigned_short(self, tag: int) -> int | None:
        """First value of a US element."""
        value = self.values.get(tag, b"")
        if len(value) < 2:
            return None
        return int(struct.unpack_from(self.encoding.byte_order + "H", value)[0])

    def integer_string(self, tag: int) -> int | None:
        """First value of an IS element."""
        numbers = self.decimals(tag)
        return int(numbers[0]) if numbers else None

    def decimals(self, tag: int) -> tuple[float, ...]:
        """All values of a DS or IS element; empty if any is not a finite number."""
        codes = self.codes(tag)
        numbers = tuple(float(code) for code in codes if _NUMBER.fullmatch(code))
        whole = len(numbers) == len(codes) and all(map(math.isfinite, numbers))
        return numbers if whole else ()

    def items(self, tag: int) -> tuple[Elements, ...]:
        """Items of a sequence that was short enough to be kept."""
        value = self.values.get(tag, b"")
        found: list[Elements] = []
        at = 0
        while at + 8 <= len(value):
            item_tag, length = _item_header(value, at, self.encoding)
            if item_tag != _ITEM:
                break
            at += 8
            end = len(value) if length == UNDEFINED_LENGTH else at + length
            item = scan(value[:end], at, self.encoding, stop=_ITEM_END)
            found.append(Elements(self.encoding, item.elements.values | self._character_set()))
            at = item.end + 8 if length == UNDEFINED_LENGTH else end
        return tuple(found)

    def _character_set(self) -> dict[int, bytes]:
        declared = self.values.get(SPECIFIC_CHARACTER_SET)
        return {SPECIFIC_CHARACTER_SET: declared} if declared else {}


@dataclass(frozen=True, slots=True)
class Scan:
    """What a walk over element headers found."""

    elements: Elements
    end: int
    """Offset of the element that stopped the walk, or where the bytes ran out."""
    missing_bytes: int
    """How many more the next element needs; 0 when the walk ended at an element or with the bytes."""


def scan(
    data: bytes, at: int, encoding: Encoding, *, first: int = 0, stop: int = PIXEL_DATA_GROUP_START
) -> Scan:
    """Walk the elements of a data set's top level.

    Args:
        data: bytes that hold the data set.
        at: offset of its first element.
        encoding: how it is written.
        first: tags below this one end the walk.
        stop: so does this one and any above.

    Returns:
        Raw values of the elements before that, longer ones left out. Anything readable is returned; a
        walk that runs out of bytes inside an element says so in `missing_bytes`.
    """
    values: dict[int, bytes] = {}
    end = len(data)
    unpack = _HEADERS[encoding.little_endian].unpack_from
    short_vrs = frozenset[bytes]() if encoding.implicit_vr else SHORT_VRS
    while at + 8 <= end:
        group, number, vr, length = unpack(data, at)
        tag, value_at = group << 16 | number, at + 8
        if vr not in short_vrs:
            tag, value_at, length = element_header(data, at, encoding)
        if not first <= tag < stop:
            return Scan(Elements(encoding, values), at, 0)
        if value_at > end:
            break
        after = value_at + length
        if length == UNDEFINED_LENGTH:
            is_unknown = vr == b"UN" and not encoding.implicit_vr
            after = _end_of_items(data, value_at, _UNKNOWN_ITEMS if is_unknown else encoding)
        if after > end:
            return Scan(Elements(encoding, values), at, after - end)
        if length and not group & 1 and after - value_at <= _KEPT_BYTES:
            values.setdefault(tag, data[value_at:after])
        at = after
    rest = data[at:end].strip(b"\0")
    return Scan(Elements(encoding, values), at, 8 if rest else 0)


def element_header(data: bytes, at: int, encoding: Encoding) -> tuple[int, int, int]:
    """Tag, offset of the value and its length (may be `UNDEFINED_LENGTH`) of the element at an offset.

    An explicit VR that is not two letters is read as implicit, one that is unknown as having a short length:
    what pydicom does, so that both walk alike.
    """
    group, number, vr, length = _HEADERS[encoding.little_endian].unpack_from(data, at)
    tag = group << 16 | number
    if not encoding.implicit_vr:
        if vr in SHORT_VRS:
            return tag, at + 8, length
        if vr in LONG_VRS:
            if at + 12 > len(data):
                return tag, at + 12, 0
            return tag, at + 12, struct.unpack_from(encoding.byte_order + "L", data, at + 8)[0]
        if b"AA" <= vr <= b"ZZ":
            return tag, at + 8, length
    return tag, at + 8, struct.unpack_from(encoding.byte_order + "L", data, at + 4)[0]


def _item_header(data: bytes, at: int, encoding: Encoding) -> tuple[int, int]:
    group, number, length = struct.unpack_from(encoding.byte_order + "HHL", data, at)
    return group << 16 | number, length


def _end_of_items(data: bytes, at: int, encoding: Encoding, depth: int = 0) -> int:
    """Offset after an undefined-length value's sequence delimiter; beyond the data if it is not in them."""
    beyond = len(data) + 8
    while depth < _MAX_DEPTH and at + 8 <= len(data):
        tag, length = _item_header(data, at, encoding)
        at += 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            return beyond
        at = _end_of_item(data, at, encoding, depth) if length == UNDEFINED_LENGTH else at + length
    return max(at, beyond)


def _end_of_item(data: bytes, at: int, encoding: Encoding, depth: int) -> int:
    """Offset after an undefined-length item's delimiter; beyond the data if it is not in them."""
    while at + 8 <= len(data):
        tag, value_at, length = element_header(data, at, encoding)
        if tag == _ITEM_END:
            return at + 8
        nested = length == UNDEFINED_LENGTH
        at = _end_of_items(data, value_at, encoding, depth + 1) if nested else value_at + length
    return len(data) + 8
