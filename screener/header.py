"""A file's first bytes to its header, `ParsedHeader`, whatever the file turns out to be.

The file is recognised by content, its element headers are walked once (`elements`), and only then does
pydicom parse what was found whole. A reader would ask about files whose file meta already names another kind
of object: those get the walk but not the parse, so that a CT slice costs a tenth of a millisecond.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from screener.elements import (
    UNDEFINED_LENGTH,
    Elements,
    Encoding,
    Scan,
    element_header,
    scan,
)
from screener.errors import DecodeError, Reason
from screener.identity import read_identity
from screener.instance import MODALITY, ROWS, SOP_CLASS_UID, read_instance
from screener.quiet import quiet_pydicom
from screener.records import HeaderFlag, Identity, Instance
from screener.settings import RunSettings
from screener.sop_classes import MEDIA_STORAGE_DIRECTORY, other_kind

HEAD_BYTES = 65536
"""The first read. Nearly every radiograph's header fits, so that a reject costs one read."""
MAX_HEADER_BYTES = 64 << 20
"""A header that goes on for longer is refused."""
PREAMBLE_BYTES = 128
PIXEL_DATA = 0x7FE00010
_MEDIA_STORAGE_SOP_CLASS_UID = 0x00020002
_TRANSFER_SYNTAX_UID = 0x00020010
_LONGEST_ELEMENT_HEADER = 12
_LAST_ELEMENTS = frozenset({0x7FE00008, 0x7FE00009, PIXEL_DATA, 0xFFFAFFFA, 0xFFFCFFFC})
"""Pixel data of three kinds, digital signatures and padding; private groups from 7FE1 may follow, too."""
_FILE_META = (0x00020000, 0x00030000)
_DIRECTORY_RECORD_SEQUENCE = 0x00041220
_AFTER_PICTURE_FACTS = 0x00280104
"""Pixel Representation is the last fact of a picture that its row holds."""
_TELLING = (SOP_CLASS_UID, MODALITY, ROWS, 0x0020000D)
"""A raw data set must hold one of these to be believed: SOP class, modality, Rows or Study Instance UID."""
_EXPLICIT_LITTLE = Encoding(implicit_vr=False, little_endian=True)
_EXPLICIT_BIG = Encoding(implicit_vr=False, little_endian=False)
_IMPLICIT_LITTLE = Encoding(implicit_vr=True, little_endian=True)
_NATIVE_SYNTAXES = {
    _EXPLICIT_LITTLE: str(ExplicitVRLittleEndian),
    _EXPLICIT_BIG: str(ExplicitVRBigEndian),
    _IMPLICIT_LITTLE: str(ImplicitVRLittleEndian),
}


@dataclass(frozen=True, slots=True)
class ParsedHeader:
    """A header as far as it could be read. Its repr holds no identity: it may reach a traceback."""

    dataset: Dataset = field(repr=False)
    """Without pixel data; empty where the file meta names another kind of object or the header is broken."""
    transfer_syntax_uid: str
    pixel_data_offset: int | None
    """Where the pixel data element's tag starts, in the file or in `inflated`; None without pixel data."""
    inflated: bytes | None = field(repr=False)
    """The whole data set of a deflated file."""
    instance: Instance | None
    """The picture's facts; None for what declares no picture."""
    identity: Identity = field(repr=False)
    flags: tuple[HeaderFlag, ...] = ()
    elements: Elements = field(default_factory=Elements, repr=False)
    """The header's top level, for the eligibility rules."""
    is_whole: bool = True
    """False for a header that is cut off or does not parse."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the data set starts and how it is written, from preamble and file meta."""

    file_meta: Elements
    dataset_at: int
    flags: tuple[HeaderFlag, ...]

    @property
    def declared_syntax(self) -> str | None:
        return self.file_meta.code(_TRANSFER_SYNTAX_UID)


def read_header(file: BinaryIO, settings: RunSettings) -> ParsedHeader:
    """Read the header from the start of a file.

    Args:
        file: positioned at its start; read forward as far as the header goes, a deflated one to its end.
        settings: bounds what a deflated data set may take.

    Returns:
        Everything up to the pixel data. A broken header is returned as far as it goes, so that what is known
        of the file reaches its row; `check_eligible` refuses it.

    Raises:
        DecodeError: not DICOM, a DICOMDIR, or a deflated data set that is broken or inflates without bound.
    """
    head = file.read(HEAD_BYTES)
    layout = _recognise(head)
    if layout.file_meta.code(_MEDIA_STORAGE_SOP_CLASS_UID) == MEDIA_STORAGE_DIRECTORY:
        raise DecodeError(Reason.DICOMDIR)
    if layout.declared_syntax == DeflatedExplicitVRLittleEndian:
        inflated = _inflate(head[layout.dataset_at :], file, settings)
        return _read_dataset(io.BytesIO(), inflated, 0, layout, inflated)
    return _read_dataset(file, head, layout.dataset_at, layout, None)


def _recognise(head: bytes) -> _Layout:
    """Preamble and file meta, either of which may be missing (PS3.10 7.1)."""
    has_preamble = head[PREAMBLE_BYTES : PREAMBLE_BYTES + 4] == b"DICM"
    start = PREAMBLE_BYTES + 4 if has_preamble else 0
    flags = () if has_preamble else (HeaderFlag.NO_PREAMBLE,)
    if not has_preamble and not head.startswith((b"\x02\0", b"\x08\0", b"\0\x08", b"\x10\0", b"\0\x10")):
        raise DecodeError(Reason.NOT_DICOM)
    written = _sniff(head, start) or _EXPLICIT_LITTLE
    if written.little_endian:
        first, stop = _FILE_META
        found = scan(head, start, written, first=first, stop=stop)
        return _Layout(found.elements, found.end, flags)
    return _Layout(Elements(), start, flags)


def _sniff(head: bytes, at: int) -> Encoding | None:
    """How the element at an offset is written, by its look; None at the end of the bytes.

    Implicit VR is little endian only. The first group of a data set is small, so that the byte order shows.
    """
    if len(head) < at + 8:
        return None
    if not b"AA" <= head[at + 4 : at + 6] <= b"ZZ" or not head[at + 4 : at + 6].isalpha():
        return _IMPLICIT_LITTLE
    little, big = struct.unpack_from("<H", head, at)[0], struct.unpack_from(">H", head, at)[0]
    return _EXPLICIT_LITTLE if little <= big else _EXPLICIT_BIG


def _read_dataset(
    file: BinaryIO, head: bytes, start: int, layout: _Layout, inflated: bytes | None
) -> ParsedHeader:
    """Header of the data set that starts at an offset of `head` and goes on in `file`."""
    encoding = _sniff(head, start) or _EXPLICIT_LITTLE
    flags = layout.flags
    if layout.declared_syntax is None:
        flags += (HeaderFlag.MISSING_TRANSFER_SYNTAX,)
    found, head, is_other = _scan(file, head, start, encoding, layout)
    elements = found.elements
    if _DIRECTORY_RECORD_SEQUENCE in elements.values:
        raise DecodeError(Reason.DICOMDIR)
    if not layout.file_meta.values and not any(tag in elements.values for tag in _TELLING):
        raise DecodeError(Reason.NOT_DICOM)
    is_broken = bool(found.missing_bytes) or not (is_other or _ends_well(head, found, encoding))
    dataset = None if is_other or is_broken else _parse(head[start : found.end], encoding)
    offset, is_encapsulated = _pixel_data(head, found, encoding)
    syntax = _transfer_syntax(layout.declared_syntax, encoding, is_encapsulated=is_encapsulated)
    return ParsedHeader(
        dataset=Dataset() if dataset is None else dataset,
        transfer_syntax_uid=syntax,
        pixel_data_offset=offset,
        inflated=inflated,
        instance=read_instance(elements, syntax, *flags),
        identity=read_identity(elements),
        flags=flags,
        elements=elements,
        is_whole=dataset is not None,
    )


def _scan(
    file: BinaryIO, head: bytes, start: int, encoding: Encoding, layout: _Layout
) -> tuple[Scan, bytes, bool]:
    """Walk the header, reading on where it is longer than the head.

    Returns:
        What was found, all bytes read, and whether file meta and data set name another kind of object.
    """
    media_class = layout.file_meta.values.get(_MEDIA_STORAGE_SOP_CLASS_UID, b"")
    if other_kind(layout.file_meta.code(_MEDIA_STORAGE_SOP_CLASS_UID)):
        found = scan(head, start, encoding, stop=_AFTER_PICTURE_FACTS)
        found.elements.values.setdefault(SOP_CLASS_UID, media_class)
        if other_kind(found.elements.code(SOP_CLASS_UID)):
            return found, head, True
    found = scan(head, start, encoding)
    while len(head) < MAX_HEADER_BYTES:
        if not found.missing_bytes and found.end + _LONGEST_ELEMENT_HEADER <= len(head):
            break  # an element ended the walk, not the bytes
        wanted = max(found.missing_bytes + HEAD_BYTES, 3 * len(head))
        more = file.read(min(wanted, MAX_HEADER_BYTES))
        if not more:
            break
        head += more
        found = scan(head, start, encoding)
    found.elements.values.setdefault(SOP_CLASS_UID, media_class)
    return found, head, False


def _ends_well(head: bytes, found: Scan, encoding: Encoding) -> bool:
    """Whether the element that ended the walk may come last; else a damaged tag hides the rest."""
    if found.end + 8 > len(head):
        return True
    tag = element_header(head, found.end, encoding)[0]
    return tag in _LAST_ELEMENTS or (0x7FE1 <= tag >> 16 <= 0x7FFF and bool(tag >> 16 & 1))


def _parse(header: bytes, encoding: Encoding) -> Dataset | None:
    """The header by pydicom, for its sequences and LUTs; None if it does not parse."""
    with quiet_pydicom():
        try:
            return read_dataset(io.BytesIO(header), encoding.implicit_vr, encoding.little_endian)
        except Exception:  # pydicom raises what it meets on broken structure; the file gets its reason
            return None


def _pixel_data(head: bytes, found: Scan, encoding: Encoding) -> tuple[int | None, bool]:
    """Offset of the Pixel Data element, None if missing or empty, and whether it is encapsulated."""
    if found.missing_bytes or found.end + 8 > len(head):
        return None, False
    tag, _, length = element_header(head, found.end, encoding)
    has_pixels = tag == PIXEL_DATA and length > 0
    return (found.end if has_pixels else None), has_pixels and length == UNDEFINED_LENGTH


def _transfer_syntax(declared: str | None, encoding: Encoding, *, is_encapsulated: bool) -> str:
    """The declared syntax; where it is missing or native, the one that the bytes show.

    Encapsulated pixel data without a declared syntax keep an empty UID: nothing says which codec.
    """
    if declared is None and is_encapsulated:
        return ""
    if declared is None or declared in _NATIVE_SYNTAXES.values():
        return _NATIVE_SYNTAXES[encoding]
    return declared


def _inflate(start: bytes, file: BinaryIO, settings: RunSettings) -> bytes:
    """A deflated data set (PS3.5 A.5), never more of it than the largest picture allowed can take."""
    limit = int(settings.max_megapixels * 2e6) + MAX_HEADER_BYTES
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    parts: list[bytes] = []
    taken = 0
    chunk = start
    try:
        while chunk and not inflater.eof:
            parts.append(inflater.decompress(chunk, limit - taken + 1))
            taken += len(parts[-1])
            if taken > limit:
                raise DecodeError(Reason.IMPLAUSIBLE_SIZE, f"deflated data set inflates beyond {limit} bytes")
            chunk = file.read(HEAD_BYTES)
    except zlib.error:
        if not taken:
            raise DecodeError(Reason.CORRUPT_HEADER, "deflated data set does not inflate") from None
    return b"".join(parts)
