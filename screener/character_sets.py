"""Bytes of a text element to text, in any DICOM character set, whatever is declared.

Devices leave the character set out or declare Latin-1 and write something else. So a reader would ask when a
declaration is not believed: ASCII and Latin-1 are taken only where the bytes read neither as UTF-8 nor as a
Chinese name; every other declaration is taken wherever it explains the bytes.
"""

from __future__ import annotations

import re

from pydicom.charset import convert_encodings, decode_bytes

from screener.quiet import quiet_pydicom

_ISO_2022 = ["ISO_IR 6", *(f"ISO 2022 IR {number}" for number in (87, 159, 13, 149, 58, 100, 101, 144, 126))]
_NAME_DELIMITERS = frozenset(b"^=\r\n\t\f")
"""A code extension ends at these (PS3.5 6.1.2.5.3)."""
_GB2312_DESIGNATOR = "\x1b$)A"
"""Python's iso_ir_58 codec leaves it in the text."""
_BELIEVED_LAST = frozenset({"", "ISO_IR 6", "ISO 2022 IR 6", "ISO_IR 100", "ISO 2022 IR 100"})
_IDEOGRAPHS = re.compile("[\u3400-\u9fff\U00020000-\U0003ffff]+")


def decode_text(value: bytes, character_sets: tuple[str, ...] = ()) -> str:
    """Text of any DICOM character set (PS3.3 C.12.1.1.2), whatever is declared; never raises.

    What nothing explains is read as Latin-1, which loses no byte.

    Args:
        value: the element's bytes.
        character_sets: values of Specific Character Set; empty when it is missing.
    """
    escapes = b"\x1b" in value
    if value.isascii() and not escapes:
        return value.decode("ascii")
    is_believed = bool(character_sets) and (escapes or character_sets[0] not in _BELIEVED_LAST)
    declared = _decode(value, list(character_sets)) if is_believed else None
    if declared is None and escapes:
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
