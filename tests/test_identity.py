"""Names in every DICOM character set, declared, undeclared and wrongly declared, come through intact."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screener.character_sets import decode_text
from screener.elements import Elements
from screener.errors import DecodeError
from screener.header import read_header
from screener.identity import read_identity
from screener.records import Identity
from screener.settings import RunSettings
from tests.dicom_archive import copied_outcomes, real_file


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("charset/chrX2.dcm", "Wang^XiaoDong=王^小东="),
        ("charset/chrGB2312.dcm", "Zhang^XiaoDong=张^小东="),
        ("charset/chrH32.dcm", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        ("charset/chrJapMulti.dcm", "やまだ^たろう"),
        ("charset/chrRuss.dcm", "Люкceмбypг"),
        ("charset/chrFren.dcm", "Buc^Jérôme"),
    ],
)
def test_name_of_a_real_file(file: str, name: str) -> None:
    parsed = read_header(io.BytesIO(real_file(file).read_bytes()), RunSettings())
    assert parsed.identity.patient_name == name


def _iso_2022(*parts: bytes) -> bytes:
    return b"\x1b".join(parts)


@pytest.mark.parametrize(
    ("value", "character_sets", "name"),
    [
        ("李^小龙".encode(), ("ISO_IR 192",), "李^小龙"),
        ("朱^镕基".encode("gb18030"), ("GB18030",), "朱^镕基"),
        ("朱^镕基".encode("gbk"), ("GBK",), "朱^镕基"),
        ("𠮷^野".encode("gb18030"), ("GB18030",), "𠮷^野"),
        ("Иванов^Пётр".encode("iso8859_5"), ("ISO_IR 144",), "Иванов^Пётр"),
        ("Łukasz".encode("iso8859_2"), ("ISO_IR 101",), "Łukasz"),
        ("Διονυσιος".encode("iso8859_7"), ("ISO_IR 126",), "Διονυσιος"),
        # 春 is 0x3D 0x55 in JIS X 0208: its first byte is the = that separates component groups
        ("春田^花子".encode("iso2022_jp"), ("", "ISO 2022 IR 87"), "春田^花子"),
        (_iso_2022(b"Hong^Gildong=", b"$)C\xfb\xf3^", b"$)C\xd1\xce\xd4\xd7"), ("", "ISO 2022 IR 149"),
         "Hong^Gildong=洪^吉洞"),
    ],
)  # fmt: skip
def test_declared_character_set(value: bytes, character_sets: tuple[str, ...], name: str) -> None:
    assert decode_text(value, character_sets) == name


@pytest.mark.parametrize(
    "declared",
    [(), ("",), ("ISO_IR 6",), ("ISO_IR 100",), ("NONSENSE",), ("", "NONSENSE"), ("", "ISO 2022 IR 58")],
)
@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("李^小龙".encode(), "李^小龙"),
        ("Wang^XiaoDong=王^小东".encode("gb18030"), "Wang^XiaoDong=王^小东"),
        ("朱^镕基".encode("gbk"), "朱^镕基"),
        ("春田^花子".encode("iso2022_jp"), "春田^花子"),
        ("Иванов".encode(), "Иванов"),
        ("Müller^Jérôme".encode("latin-1"), "Müller^Jérôme"),
        ("Ås^Mary".encode("latin-1"), "Ås^Mary"),
        (b"Smith^John", "Smith^John"),
    ],
)
def test_missing_or_wrong_character_set(value: bytes, declared: tuple[str, ...], name: str) -> None:
    assert decode_text(value, declared) == name


_CHARACTER_SETS = (
    "", "ISO_IR 6", "ISO_IR 13", "ISO_IR 100", "ISO_IR 144", "ISO_IR 166", "ISO_IR 192", "GB18030", "GBK",
    "ISO 2022 IR 13", "ISO 2022 IR 58", "ISO 2022 IR 87", "ISO 2022 IR 149", "ISO 2022 IR 159", "NONSENSE",
    "utf-16",
)  # fmt: skip


@given(
    value=st.binary(max_size=40) | st.text(max_size=12).map(lambda name: name.encode("iso2022_jp", "ignore")),
    character_sets=st.lists(st.sampled_from(_CHARACTER_SETS), max_size=3),
)
def test_any_bytes_in_any_character_set_decode(value: bytes, character_sets: list[str]) -> None:
    text = decode_text(value, tuple(character_sets))
    text.encode()  # no lone surrogates: the private table stores UTF-8
    assert "\ufffd" not in text or "\ufffd".encode() in value or "\ufffd".encode("gb18030") in value


@given(value=st.binary(max_size=60), tag=st.sampled_from([0x00100010, 0x00100020, 0x00080050, 0x00080005]))
def test_reading_identity_never_raises(value: bytes, tag: int) -> None:
    read_identity(Elements(values={tag: value}))


def test_missing_values_are_none() -> None:
    assert read_identity(Elements(values={0x00100020: b"  ", 0x00100010: b""})) == Identity()


def test_padding_is_no_part_of_an_identifier() -> None:
    identity = read_identity(Elements(values={0x00100020: b" 12 ", 0x0020000D: b"1.2.3\x00"}))
    assert (identity.patient_id, identity.study_instance_uid) == ("12", "1.2.3")


def test_repr_of_a_header_holds_no_identity() -> None:
    """Tracebacks and debug output print records."""
    for path, _ in copied_outcomes():
        try:
            parsed = read_header(io.BytesIO(path.read_bytes()), RunSettings())
        except DecodeError:
            continue
        for identifier in (parsed.identity.patient_name, parsed.identity.patient_id):
            assert not identifier or len(identifier) < 3 or identifier not in repr(parsed)
