"""Headers for tests: real files, altered copies of them, and what reading one comes to."""

from __future__ import annotations

import io
from collections.abc import Callable

import pydicom
import pytest
from pydicom.dataset import Dataset

from screener.eligibility import check_eligible
from screener.errors import DecodeError, Reason
from screener.header import ParsedHeader, read_header
from screener.quiet import quiet_pydicom
from screener.records import Instance
from screener.settings import RunSettings
from tests.dicom_archive import real_file

SETTINGS = RunSettings()
FILM = "chest/normal (2).dcm"


def read(content: bytes) -> ParsedHeader:
    return read_header(io.BytesIO(content), SETTINGS)


def eligible(content: bytes) -> Instance:
    return check_eligible(read(content), SETTINGS)


def reason_of(content: bytes) -> Reason:
    with pytest.raises(DecodeError) as caught:
        eligible(content)
    return caught.value.reason


def altered(alter: Callable[[Dataset], None], name: str = FILM) -> bytes:
    """A real file with some of its header changed."""
    with quiet_pydicom():
        dataset = pydicom.dcmread(real_file(name))
        alter(dataset)
        file = io.BytesIO()
        dataset.save_as(file)
    return file.getvalue()


def with_tags(**tags: object) -> bytes:
    def alter(dataset: Dataset) -> None:
        for keyword, value in tags.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)

    return altered(alter)


def with_text(keyword: str, text: str) -> bytes:
    """A code string as sites write it: in their own language, in the character set of the file."""

    def alter(dataset: Dataset) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.add_new(pydicom.datadict.tag_for_keyword(keyword) or 0, "LO", text)

    return altered(alter)
