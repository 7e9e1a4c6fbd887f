"""Benchmark archives: reproducible, as asked for, and screened like any other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from bench.archive_factory import (
    UIDS,
    ArchiveRecipe,
    Syntax,
    _shares,
    parse_bits,
    parse_mix,
    parse_sizes,
    read_pictures,
    write_archive,
)
from screener.archive import walk
from screener.canvas import CANVAS_SIDE
from screener.decode_worker import load_file
from screener.errors import ConfigError
from screener.records import Source
from screener.settings import RunSettings

SIZES = ((420, 360), (300, 333))
EVERY_SYNTAX = dict.fromkeys(Syntax, 1.0)


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_same_recipe_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    recipe = ArchiveRecipe(8, {Syntax.RAW: 1, Syntax.JPEGLS: 1}, SIZES, bits=(10, 16))
    size_bytes = write_archive(tmp_path / "a", recipe)
    write_archive(tmp_path / "b", recipe)
    write_archive(tmp_path / "c", ArchiveRecipe(8, recipe.mix, SIZES, bits=(10, 16), seed=1))
    first, second, other = ([path.read_bytes() for path in files(tmp_path / name)] for name in "abc")
    assert first == second
    assert all(mine != theirs for mine, theirs in zip(first, other, strict=True))
    assert size_bytes == sum(map(len, first))


def test_headers_follow_the_recipe_and_patients_have_several_studies(tmp_path: Path) -> None:
    write_archive(tmp_path, ArchiveRecipe(24, EVERY_SYNTAX, SIZES, bits=(10, 12, 14, 16)))
    headers = [dcmread(path) for path in files(tmp_path)]
    assert {header.BitsStored for header in headers} == {10, 12, 14, 16}
    assert {(header.Rows, header.Columns) for header in headers} == set(SIZES)
    assert {header.file_meta.TransferSyntaxUID for header in headers} == set(UIDS.values())
    assert {header.Modality for header in headers} == {"CR", "DX"}
    assert {header.PhotometricInterpretation for header in headers} == {"MONOCHROME1", "MONOCHROME2"}
    assert len({header.SOPInstanceUID for header in headers}) == 24
    studies_of = {
        patient: len({each.StudyInstanceUID for each in headers if each.PatientID == patient})
        for patient in {header.PatientID for header in headers}
    }
    assert set(studies_of.values()) == {2}
    assert min(len(header) for header in headers) > 60


def test_every_film_becomes_a_canvas_with_dark_lungs(tmp_path: Path) -> None:
    write_archive(tmp_path, ArchiveRecipe(24, EVERY_SYNTAX, SIZES, bits=tuple(range(10, 17))))
    for entry in walk(tmp_path):
        canvas = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
        loaded = load_file(tmp_path / entry.relative_path, entry, RunSettings(), canvas)
        assert isinstance(loaded, Source), loaded
        lung, middle = canvas[340:400, 200:260].mean(), canvas[340:400, 360:410].mean()
        assert lung < middle - 0.2


def test_links_are_other_paths_to_the_same_bytes(tmp_path: Path) -> None:
    size_bytes = write_archive(tmp_path, ArchiveRecipe(10, {Syntax.RAW: 1}, SIZES, num_distinct=4))
    written = files(tmp_path)
    assert len(written) == 10
    assert len({path.stat().st_ino for path in written}) == 4
    assert size_bytes == sum(path.stat().st_size for path in written)


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=len(Syntax)), count=st.integers(1, 3000))
def test_shares_add_up_and_follow_the_weights(weights: list[float], count: int) -> None:
    mix = dict(zip(Syntax, weights, strict=False))
    names = _shares(mix, count)
    assert len(names) == count
    for syntax, weight in mix.items():
        assert abs(names.count(str(syntax)) - weight / sum(weights) * count) <= 1 + 1e-6


def test_pictures_of_the_user_become_films(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    grey = np.tile(np.linspace(0, 65535, 90, dtype=np.uint16), (80, 1))
    cv2.imwrite(str(tmp_path / "pictures" / "a.png"), grey)
    pictures = read_pictures(tmp_path / "pictures")
    write_archive(tmp_path / "archive", ArchiveRecipe(1, {Syntax.RAW: 1}, ((300, 320),)), pictures)
    pixels = dcmread(files(tmp_path / "archive")[0]).pixel_array
    assert pixels.shape == (300, 320)
    assert np.all(np.diff(pixels.mean(axis=0)[::40]) > 0)


def test_arguments_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    assert parse_mix("raw=40, j2k=20") == {Syntax.RAW: 40.0, Syntax.J2K: 20.0}
    assert parse_sizes("30x20,40x50") == ((30, 20), (40, 50))
    assert (parse_bits("10-12"), parse_bits("12"), parse_bits("9,16")) == ((10, 11, 12), (12,), (9, 16))
    for refused in (
        lambda: parse_mix("tiff=1"),
        lambda: parse_sizes("30"),
        lambda: parse_bits("a-b"),
        lambda: ArchiveRecipe(0, EVERY_SYNTAX),
        lambda: ArchiveRecipe(1, {Syntax.RAW: 0.0}),
        lambda: ArchiveRecipe(1, EVERY_SYNTAX, bits=(8,)),
        lambda: ArchiveRecipe(1, EVERY_SYNTAX, sizes=((1, 1),)),
        lambda: read_pictures(tmp_path),
    ):
        with pytest.raises(ConfigError):
            refused()
