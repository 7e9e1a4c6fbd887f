"""Bytes of a DICOM data set to its elements' raw values, and those to text and numbers that never raise.

A reader would ask why not pydicom alone: a CT series must cost almost nothing, and a hostile length must not
take memory. This scan walks element headers over bytes already in hand (PS3.5 section 7), about a third of
pydicom's time, and says where the pixel data start or that the header is cut off; pydicom then parses, for
its sequences and LUTs, only what was found whole. Values are decoded on use and a malformed one is None.
"""

from __future__ import annotations

import logging
import math
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from pydicom.charset import convert_encodings, decode_bytes

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
_ISO_2022 = ["ISO_IR 6", *(f"ISO 2022 IR {number}" for number in (87, 159, 13, 149, 58, 100, 101, 144, 126))]
_NAME_DELIMITERS = frozenset(b"^=\r\n\t\f")
"""A code extension ends at these (PS3.5 6.1.2.5.3)."""
_GB2312_DESIGNATOR = "\x1b$)A"
"""Python's iso_ir_58 codec leaves it in the text."""
_BELIEVED_LAST = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6", "ISO_IR 100", "ISO 2022 IR 100"})
_IDEOGRAPHS = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]+")
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


def decode_text(value: bytes, character_sets: tuple[str, ...] = ()) -> str:
    """Text of any DICOM character set (PS3.3 C.12.1.1.2), whatever is declared; never raises.

    Devices leave the character set out or declare Latin-1 and write something else. So ASCII and Latin-1 are
    believed only where the bytes are neither UTF-8 nor Chinese names; Latin-1 comes last and loses no byte.

    Args:
        value: the element's bytes.
        character_sets: values of Specific Character Set; empty when it is missing.
    """
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    specific = [name for name in character_sets if name not in _BELIEVED_LAST]
    declared = _decode(value, list(character_sets)) if specific else None
    if declared is None and b"\x1b" in value:
        declared = _decode(value, _ISO_2022)
    if declared is None:
        declared = _decode_strictly(value, "utf-8") or _chinese_name(value)
    return value.decode("latin-1") if declared is None else declared


def _decode(value: bytes, character_sets: list[str]) -> str | None:
    """The text by pydicom's decoder, or None where it would warn, guess or lose something."""
    try:
        with quiet_pydicom("error"):
            text = decode_bytes(value, convert_encodings(character_sets), set(_NAME_DELIMITERS))
    except (UserWarning, LookupError, ValueError):
        return None
    text = text.replace(_GB2312_DESIGNATOR, "")
    return None if "\x1b" in text else text


@contextmanager
def quiet_pydicom(warned: Literal["ignore", "error"] = "ignore") -> Iterator[None]:
    """Keep pydicom's warnings and log messages in: they may quote values of the file.

    Args:
        warned: whether what it warns of is ignored or raised.
    """
    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(warned)
            yield
    finally:
        logger.disabled = was_disabled


def _decode_strictly(value: bytes, codec: str) -> str | None:
    try:
        return value.decode(codec)
    except UnicodeDecodeError:
        return None


def _chinese_name(value: bytes) -> str | None:
    """The text if it reads as GB18030 with two or more ideographs and each word all ideographs or all ASCII.

    Nearly any Latin-1 text is GB18030 too; but an accented letter there takes its neighbour along and leaves
    a word half Chinese.
    """
    text = _decode_strictly(value, "gb18030")
    if text is None:
        return None
    words = re.split(r"[\^= ]+", text)
    whole = all(word.isascii() or _IDEOGRAPHS.fullmatch(word) for word in words)
    return text if whole and sum(not char.isascii() for char in text) >= 2 else None
