"""Unusual, broken and hostile headers: a typed reason, no crash, nothing of the file in the words."""

from __future__ import annotations

import io
import logging
import resource
import struct
import warnings
import zlib
from functools import cache

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
)

from screener.elements import Encoding, scan
from screener.eligibility import check_eligible
from screener.errors import DecodeError, Reason
from screener.header import MAX_HEADER_BYTES, read_header
from screener.quiet import quiet_pydicom
from screener.records import HeaderFlag
from screener.settings import RunSettings
from tests.dicom_archive import copied_outcomes, real_file
from tests.headers import FILM, SETTINGS, altered, eligible, read, reason_of, with_tags


@cache
def _native_film() -> bytes:
    return real_file("chest/udacity_test1.dcm").read_bytes()


def _rewritten(*, implicit: bool, little: bool) -> bytes:
    """The film's data set alone, without preamble and file meta."""
    with quiet_pydicom():
        dataset = pydicom.dcmread(io.BytesIO(_native_film()))
        bare = Dataset(dataset)
        file = io.BytesIO()
        pydicom.dcmwrite(file, bare, implicit_vr=implicit, little_endian=little)
    return file.getvalue()


@pytest.mark.parametrize(
    ("implicit", "little", "syntax"),
    [
        (True, True, "1.2.840.10008.1.2"),
        (False, True, ExplicitVRLittleEndian),
        (False, False, ExplicitVRBigEndian),
    ],
)
def test_raw_data_set_without_preamble(*, implicit: bool, little: bool, syntax: str) -> None:
    parsed = read(_rewritten(implicit=implicit, little=little))
    instance = check_eligible(parsed, SETTINGS)
    assert instance.transfer_syntax_uid == syntax
    assert {HeaderFlag.NO_PREAMBLE, HeaderFlag.MISSING_TRANSFER_SYNTAX} <= set(instance.flags)
    assert (instance.rows, instance.columns, parsed.identity.patient_id) == (1024, 1024, "2")


def test_file_meta_without_preamble() -> None:
    content = real_file(FILM).read_bytes()[132:]
    instance = eligible(content)
    assert instance.transfer_syntax_uid == "1.2.840.10008.1.2.4.50"
    assert HeaderFlag.NO_PREAMBLE in instance.flags
    assert HeaderFlag.MISSING_TRANSFER_SYNTAX not in instance.flags


def test_wrong_native_transfer_syntax_is_read_as_written() -> None:
    """The file says implicit VR; its data set is explicit."""
    explicit = _rewritten(implicit=False, little=True)
    head = _native_film()
    start = head.index(b"\x08\x00\x16\x00")
    assert eligible(head[:start] + explicit).transfer_syntax_uid == ExplicitVRLittleEndian


def _deflated(payload: bytes) -> bytes:
    """A Part 10 file of the deflated transfer syntax around a payload."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    file = DicomBytesIO()
    pydicom.filewriter.write_file_meta_info(file, meta)
    return bytes(128) + b"DICM" + file.getvalue() + payload


def test_deflated_data_set() -> None:
    plain = _rewritten(implicit=False, little=True)
    packed = zlib.compress(plain, wbits=-15)
    parsed = read(_deflated(packed))
    assert parsed.inflated == plain
    assert check_eligible(parsed, SETTINGS).rows == 1024
    assert reason_of(_deflated(b"\xff" + packed[1:])) is Reason.CORRUPT_HEADER


def test_deflate_bomb_is_refused_before_memory_is_taken() -> None:
    settings_ = RunSettings(max_megapixels=1)
    limit = 2_000_000 + MAX_HEADER_BYTES
    bomb = _deflated(zlib.compress(bytes(2 * limit), 1, wbits=-15))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DecodeError) as caught:
        read_header(io.BytesIO(bomb), settings_)
    assert caught.value.reason is Reason.IMPLAUSIBLE_SIZE
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2.5 * limit / 1024


@pytest.mark.parametrize(
    "content", [b"", b"\xff\xd8\xff\xe0JFIF" * 99, b"PK\x03\x04" * 99, b"name,date\n" * 99]
)
def test_other_files_are_not_dicom(content: bytes) -> None:
    with pytest.raises(DecodeError) as caught:
        read(content)
    assert caught.value.reason is Reason.NOT_DICOM


def test_header_longer_than_the_first_read() -> None:
    """Also where the first read ends inside or next to the pixel data's own element header."""
    for filler_bytes in (*range(64_000, 65_600, 4), 300_000):
        filler = b"\x09\x00\x01\x10OB\x00\x00" + struct.pack("<I", filler_bytes) + bytes(filler_bytes)
        content = real_file(FILM).read_bytes()
        at = content.index(b"\x10\x00\x10\x00PN")
        parsed = read(content[:at] + filler + content[at:])
        assert check_eligible(parsed, SETTINGS).rows == 1024
        assert parsed.pixel_data_offset == read(content).pixel_data_offset + len(filler)  # type: ignore[operator]


def test_hostile_length_takes_no_memory() -> None:
    content = real_file(FILM).read_bytes()
    at = content.index(b"\x08\x00\x60\x00CS")
    hostile = content[:at] + b"\x08\x00\x60\x00OB\x00\x00" + struct.pack("<I", 0xFFFFFFF0) + content[at + 8 :]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert reason_of(hostile) is Reason.CORRUPT_HEADER
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_cut_off_header_is_corrupt_and_keeps_what_is_known() -> None:
    content = real_file(FILM).read_bytes()
    cut = content[: content.index(b"\x28\x00\x10\x00US") + 9]
    assert read(cut).identity.patient_id == "009eb222-eabc-4150-8121-d5a6d06b8ebf"
    assert reason_of(cut) is Reason.CORRUPT_HEADER


_FUZZED = [path for path, _ in copied_outcomes() if path.stat().st_size < 60_000]


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_broken_files_raise_nothing_but_decode_errors(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(_FUZZED)).read_bytes())
    header = st.integers(0, min(len(content), 4000) - 1)
    for at, value in data.draw(st.lists(st.tuples(header, st.integers(0, 255)), max_size=6)):
        content[at] = value
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            parsed = read(bytes(content[:end]))
            check_eligible(parsed, SETTINGS)
        except DecodeError as error:
            _check_says_nothing_of(error)


def _check_says_nothing_of(error: DecodeError) -> None:
    """A detail is made of the product's own words, numbers and names of the standard."""
    assert "^" not in error.detail
    assert len(error.detail) < 120


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=300), implicit=st.booleans(), little=st.booleans())
def test_walk_of_any_bytes_ends_inside_them(data: bytes, *, implicit: bool, little: bool) -> None:
    found = scan(data, 0, Encoding(implicit_vr=implicit, little_endian=little))
    assert 0 <= found.end <= len(data)
    for value in found.elements.values.values():
        assert value in data
    for tag in found.elements.values:
        found.elements.items(tag)
        found.elements.text(tag)
        found.elements.decimals(tag)


def test_pydicom_is_quiet_about_the_file(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for path, outcome in copied_outcomes():
            if outcome.header not in ("not_dicom", "dicomdir"):
                read(path.read_bytes())
    assert not caught
    assert not caplog.records


@pytest.mark.parametrize("rest", [b"", b"\1\2\3", b"\xf3" * 9000])
def test_prefix_without_a_data_set_is_corrupt_and_not_understood(rest: bytes) -> None:
    assert reason_of(bytes(128) + b"DICM" + rest) is Reason.CORRUPT_HEADER


def test_damaged_tag_that_hides_the_pixel_data_is_corrupt() -> None:
    """A film behind it is lost to the reader, not stated to be none."""
    content = with_tags()
    at = content.index(struct.pack("<HH2s", 0x0028, 0x0002, b"US"))
    damaged = content[:at] + struct.pack("<HH", 0xC328, 0x0002) + content[at + 4 :]
    assert reason_of(damaged) is Reason.CORRUPT_HEADER


def test_absurd_sample_count_is_damage_and_not_colour() -> None:
    assert reason_of(with_tags(SamplesPerPixel=42241)) is Reason.CORRUPT_HEADER


@pytest.mark.parametrize("last", [0x7FE11001, 0xFFFCFFFC])
def test_elements_behind_a_missing_picture_are_no_damage(last: int) -> None:
    def alter(dataset: Dataset) -> None:
        del dataset.PixelData
        dataset.add_new(last, "OB", b"rest")

    assert reason_of(altered(alter)) is Reason.NO_PIXEL_DATA
