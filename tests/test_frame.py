"""One frame's bytes out of a file: fragments, byte orders, sizes and everything that can be wrong."""

from __future__ import annotations

import hashlib
import struct
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from screener.codecs import decode
from screener.errors import DecodeError, Reason, UnsupportedTransferSyntax
from screener.frame import MAX_ITEMS, PIECE_BYTES, read_frame
from screener.header import read_header
from screener.settings import RunSettings
from tests.factories import (
    LOSSLESS_SYNTAXES,
    NATIVE_SYNTAXES,
    chest_picture,
    encode,
    read_film,
    write_film,
)

EXPLICIT_LITTLE, EXPLICIT_BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
JPEG_LOSSLESS, RLE = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.5"
ITEM, DELIMITER = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"
PIXEL_DATA = b"\xe0\x7f\x10\x00"


def item(value: bytes) -> bytes:
    return ITEM + struct.pack("<I", len(value)) + value


def replace_pixel_data(path: Path, element: bytes) -> Path:
    """The file with another Pixel Data element, byte for byte."""
    content = path.read_bytes()
    path.write_bytes(content[: content.rindex(PIXEL_DATA + b"O")] + element)
    return path


def encapsulated_film(path: Path, value: bytes, uid: str = JPEG_LOSSLESS) -> Path:
    """A film whose encapsulated pixel data are `value`, items and all."""
    write_film(path, transfer_syntax_uid=uid)
    return replace_pixel_data(path, PIXEL_DATA + b"OB\x00\x00\xff\xff\xff\xff" + value)


def reason_of(path: Path, settings: RunSettings | None = None) -> Reason:
    with pytest.raises(DecodeError) as error:
        read_film(path, settings)
    assert str(path) not in str(error.value)
    return error.value.reason


@pytest.mark.parametrize("uid", LOSSLESS_SYNTAXES)
def test_frame_holds_the_header_facts_and_the_files_hash(tmp_path: Path, uid: str) -> None:
    path = write_film(tmp_path / "f", chest_picture(31, 27), transfer_syntax_uid=uid, bits_stored=12)
    _, frame = read_film(path)
    assert frame.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (frame.rows, frame.columns, frame.bits_allocated) == (31, 27, 16)
    assert (frame.bits_stored, frame.high_bit, frame.is_signed) == (12, 11, False)
    assert frame.transfer_syntax_uid == uid


def test_a_film_of_many_pieces_is_hashed_whole_and_a_short_read_is_truncated(tmp_path: Path) -> None:
    source = np.random.default_rng(0).integers(0, 4096, (901, 700)).astype(np.uint16)
    path = write_film(tmp_path / "f", source, bits_stored=12)
    assert path.stat().st_size > 2 * PIECE_BYTES
    _, frame = read_film(path)
    assert frame.source_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    np.testing.assert_array_equal(decode(frame, cover_px=None).pixels, source)

    class ShrinkingFile(BufferedReader):
        def readinto(self, buffer: Any) -> int:
            return super().readinto(buffer) if self.tell() < PIECE_BYTES else 0

    with ShrinkingFile(FileIO(path)) as file:
        parsed = read_header(file, RunSettings())
        with pytest.raises(DecodeError) as error:
            read_frame(file, parsed, RunSettings())
    assert error.value.reason is Reason.TRUNCATED_PIXEL_DATA


# Native pixel data


@pytest.mark.parametrize("vr", ["OB", "OW"])
@pytest.mark.parametrize("shape", [(31, 27), (30, 28)])
@pytest.mark.parametrize("uid", NATIVE_SYNTAXES)
def test_eight_bit_pixels_in_bytes_or_words(
    tmp_path: Path, uid: str, shape: tuple[int, int], vr: str
) -> None:
    source = chest_picture(*shape, bits=8)
    path = write_film(tmp_path / "f", source, transfer_syntax_uid=uid)
    if vr == "OW" and uid in (EXPLICIT_LITTLE, EXPLICIT_BIG):
        stored = source.tobytes() + b"\x00" * (source.size % 2)
        order = ">" if uid == EXPLICIT_BIG else "<"
        words = np.frombuffer(stored, "<u2").astype(f"{order}u2").tobytes()
        tag = struct.pack(order + "HH", 0x7FE0, 0x0010)
        content = path.read_bytes()
        head = content[: content.rindex(tag + b"O")]
        path.write_bytes(head + tag + b"OW\x00\x00" + struct.pack(order + "I", len(words)) + words)
    np.testing.assert_array_equal(decode(read_film(path)[1], cover_px=None).pixels, source)
    if uid != EXPLICIT_BIG or vr == "OW":
        np.testing.assert_array_equal(dcmread(path).pixel_array, source)


def test_short_native_pixel_data_are_truncated(tmp_path: Path) -> None:
    path = write_film(tmp_path / "f")
    whole = path.read_bytes()
    path.write_bytes(whole[:-2])
    assert reason_of(path) is Reason.TRUNCATED_PIXEL_DATA
    path.write_bytes(whole[: len(whole) // 2])
    assert reason_of(path) is Reason.TRUNCATED_PIXEL_DATA


def test_declared_length_shorter_than_the_picture_is_truncated(tmp_path: Path) -> None:
    path = write_film(tmp_path / "f", chest_picture(32, 32), Rows=64)
    assert reason_of(path) is Reason.TRUNCATED_PIXEL_DATA


def test_longer_pixel_data_and_missing_padding_are_fine(tmp_path: Path) -> None:
    source = chest_picture(31, 27, bits=8)
    for name, payload in (("longer", source.tobytes() + b"\x00" * 64), ("odd", source.tobytes())):
        path = write_film(tmp_path / name, source, payload=payload)
        if name == "odd":
            path.write_bytes(path.read_bytes()[:-1])  # the padding byte is missing
        np.testing.assert_array_equal(decode(read_film(path)[1], cover_px=None).pixels, source)


# Encapsulated pixel data


def test_fragments_are_joined_and_offset_tables_skipped(tmp_path: Path) -> None:
    source = chest_picture()
    payload = encode(source, JPEG_LOSSLESS, bits=12)
    parts = item(payload[:1000]) + item(payload[1000:1002]) + item(payload[1002:])
    whole = item(payload)
    values = (
        item(b"") + parts + DELIMITER,
        item(struct.pack("<I", 0)) + parts + DELIMITER,
        item(b"") + parts,  # the sequence delimiter is missing
        item(b"") + item(b"") + parts + DELIMITER,  # an empty fragment
        whole + DELIMITER,  # the offset table is missing
        item(b"") + whole + DELIMITER + b"\xfc\xff\xfc\xffOB\x00\x00\x02\x00\x00\x00\x00\x00",
    )
    for number, value in enumerate(values):
        path = encapsulated_film(tmp_path / str(number), value)
        np.testing.assert_array_equal(decode(read_film(path)[1], cover_px=None).pixels, source)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.TRUNCATED_PIXEL_DATA),
        (item(b""), Reason.TRUNCATED_PIXEL_DATA),
        (item(b"") + DELIMITER, Reason.TRUNCATED_PIXEL_DATA),
        (item(b"") + item(b"") + DELIMITER, Reason.TRUNCATED_PIXEL_DATA),
        (item(b"") + ITEM + struct.pack("<I", 5000) + b"short", Reason.TRUNCATED_PIXEL_DATA),
        (item(b"") + ITEM + b"\xff\xff\xff\xff" + b"nested", Reason.DECODE_FAILED),
        (item(b"") + b"something else altogether", Reason.DECODE_FAILED),
        (item(b"") * (MAX_ITEMS + 1) + item(b"film") + DELIMITER, Reason.DECODE_FAILED),
    ],
)
def test_broken_encapsulation_is_a_typed_failure(tmp_path: Path, value: bytes, reason: Reason) -> None:
    assert reason_of(encapsulated_film(tmp_path / "f", value)) is reason


def test_native_pixel_data_under_an_encapsulated_syntax(tmp_path: Path) -> None:
    path = write_film(tmp_path / "f", transfer_syntax_uid=RLE)
    words = chest_picture().tobytes()
    replace_pixel_data(path, PIXEL_DATA + b"OW\x00\x00" + struct.pack("<I", len(words)) + words)
    assert reason_of(path) is Reason.DECODE_FAILED


def test_encapsulated_pixel_data_under_a_native_syntax(tmp_path: Path) -> None:
    path = write_film(tmp_path / "f")
    value = item(b"") + item(encode(chest_picture(), RLE, bits=12)) + DELIMITER
    replace_pixel_data(path, PIXEL_DATA + b"OB\x00\x00\xff\xff\xff\xff" + value)
    assert reason_of(path) is Reason.DECODE_FAILED


# Refusals before memory is taken


def test_declared_megapixels_are_refused_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_film(tmp_path / "f", Rows=46341, Columns=46341)
    monkeypatch.setattr(hashlib, "sha256", lambda *_: pytest.fail("the file was read"))
    assert reason_of(path) is Reason.IMPLAUSIBLE_SIZE


@pytest.mark.parametrize("limits", [RunSettings(max_megapixels=0.05), RunSettings(max_file_mb=0.1)])
def test_limits_come_from_the_settings(tmp_path: Path, limits: RunSettings) -> None:
    path = write_film(tmp_path / "f")
    read_film(path)
    assert reason_of(path, limits) is Reason.IMPLAUSIBLE_SIZE


@pytest.mark.parametrize("bits_allocated", [1, 12, 32])
def test_other_bits_allocated_are_an_unsupported_format(tmp_path: Path, bits_allocated: int) -> None:
    path = write_film(tmp_path / "f", BitsAllocated=bits_allocated)
    assert reason_of(path) is Reason.UNSUPPORTED_PIXEL_FORMAT


def test_unsupported_transfer_syntax_is_named(tmp_path: Path) -> None:
    path = write_film(
        tmp_path / "f", chest_picture(), transfer_syntax_uid="1.2.840.10008.1.2.4.55", payload=b"\xff\xd8"
    )
    with pytest.raises(UnsupportedTransferSyntax, match="Process 10 and 12"):
        read_film(path)


def test_missing_high_bit_is_the_one_below_bits_stored(tmp_path: Path) -> None:
    _, frame = read_film(write_film(tmp_path / "f", HighBit=None))
    assert frame.high_bit == 11
