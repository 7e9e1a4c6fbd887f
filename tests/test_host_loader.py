"""Files to batches through real worker processes and shared memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.archive_factory import ArchiveRecipe, Syntax, write_archive
from screener.archive import walk
from screener.canvas import CANVAS_SIDE
from screener.decode_worker import NICENESS, load_file
from screener.errors import Reason
from screener.host_loader import HostLoader, _Frames
from screener.records import ArchiveEntry, Batch, Float32, Rejection, Source
from screener.settings import RunSettings
from tests import worker_mains
from tests.dicom_archive import real_file


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty films, three files that are none, and a film cut short."""
    folder = tmp_path_factory.mktemp("loader")
    write_archive(folder, ArchiveRecipe(20, dict.fromkeys(Syntax, 1.0), sizes=((420, 360), (300, 333))))
    for name in ("codec/CT_small.dcm", "odd/test-SR.dcm", "odd/zipMR.gz"):
        shutil.copy(real_file(name), folder)
    whole = (folder / "0000" / "IM000000").read_bytes()
    (folder / "short").write_bytes(whole[: len(whole) - 5000])
    return folder


def load(
    root: Path, run: RunSettings, **options: object
) -> tuple[list[tuple[Source, Float32]], list[Rejection]]:
    films: list[tuple[Source, Float32]] = []
    rejections: list[Rejection] = []
    with HostLoader(root, run, threading.Event(), **options) as loader:  # type: ignore[arg-type]
        for batch in loader.batches(walk(root), on_reject=rejections.append):
            films += [
                (source, canvas.copy()) for source, canvas in zip(batch.sources, batch.canvas, strict=True)
            ]
            loader.release(batch)
    return films, rejections


@pytest.mark.parametrize(("batch_size", "workers"), [(1, 1), (4, 2), (7, 3), (32, 2)])
def test_every_file_ends_once_and_canvases_equal_the_plain_path(
    archive: Path, batch_size: int, workers: int
) -> None:
    run = RunSettings(batch_size=batch_size, workers=workers)
    films, rejections = load(archive, run)
    ended = [source.entry.relative_path for source, _ in films]
    ended += [rejection.entry.relative_path for rejection in rejections]
    assert sorted(ended) == sorted(entry.relative_path for entry in walk(archive))
    assert {rejection.reason for rejection in rejections} >= {Reason.NOT_A_RADIOGRAPH, Reason.NOT_DICOM}
    for source, canvas in films:
        plain = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
        alone = load_file(archive / source.entry.relative_path, source.entry, run, plain)
        assert alone == source
        np.testing.assert_array_equal(canvas[0], plain)


def test_batches_are_full_except_the_last(archive: Path) -> None:
    sizes: list[int] = []
    with HostLoader(archive, RunSettings(batch_size=4, workers=2), threading.Event()) as loader:
        for batch in loader.batches(walk(archive), on_reject=lambda _: None):
            sizes.append(len(batch))
            loader.release(batch)
    assert sizes[:-1] == [4] * (len(sizes) - 1)
    assert 0 < sizes[-1] <= 4


def test_no_file_is_taken_while_every_frame_is_in_use(archive: Path) -> None:
    with HostLoader(archive, RunSettings(batch_size=2, workers=2), threading.Event()) as loader:
        held: list[Batch] = []
        batches = loader.batches(walk(archive), on_reject=lambda _: None)
        for batch in batches:
            held.append(batch)
            if len(held) == 4:
                break
        first = [batch.canvas.copy() for batch in held]
        threading.Event().wait(0.5)  # workers would overwrite now, if they were allowed to
        for batch, copy in zip(held, first, strict=True):
            np.testing.assert_array_equal(batch.canvas, copy)
            loader.release(batch)
        num_more = 0
        for batch in batches:
            num_more += len(batch)
            loader.release(batch)
        assert num_more == 20 - 4 * 2


def test_a_decoder_crash_in_the_stream_keeps_study_and_patient(archive: Path, tmp_path: Path) -> None:
    place = tmp_path / "archive"
    shutil.copytree(archive, place)
    (place / "0000" / "IM000003").rename(place / "0000" / "segfault")
    (place / "0000" / "IM000005").rename(place / "0000" / "hang")
    run = RunSettings(batch_size=4, workers=2, timeout_s=5.0)
    films, rejections = load(place, run, worker_main=worker_mains.decode_or_misbehave)
    reasons = {rejection.entry.relative_path: rejection for rejection in rejections}
    assert len(films) == 18
    assert reasons["0000/segfault"].reason is Reason.DECODER_CRASHED
    assert reasons["0000/hang"].reason is Reason.DECODER_TIMEOUT
    assert reasons["0000/segfault"].identity.study_instance_uid
    assert reasons["0000/segfault"].instance is not None


def test_decoder_processes_let_the_engines_go_first(archive: Path) -> None:
    with HostLoader(archive, RunSettings(workers=2), threading.Event()) as loader:
        loader.wait_ready()
        decoders = [child for child in psutil.Process().children() if "spawn_main" in str(child.cmdline())]
        nice = [child.nice() for child in decoders]
    assert nice == 2 * [min(os.getpriority(os.PRIO_PROCESS, 0) + NICENESS, 19)]


def test_an_error_of_the_walk_reaches_the_caller(archive: Path) -> None:
    def broken() -> Iterator[ArchiveEntry]:
        yield next(walk(archive))
        raise RuntimeError("the walk broke")

    with (
        HostLoader(archive, RunSettings(workers=1), threading.Event()) as loader,
        pytest.raises(RuntimeError, match="the walk broke"),
    ):
        list(loader.batches(broken(), on_reject=lambda _: None))


def test_a_file_that_changed_since_it_was_found_fails(archive: Path, tmp_path: Path) -> None:
    (entry,) = [entry for entry in walk(archive) if entry.relative_path == "0000/IM000001"]
    changed = ArchiveEntry(entry.relative_path, entry.size_bytes, entry.mtime_ns + 1)
    out = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    ended = load_file(archive / entry.relative_path, changed, RunSettings(), out)
    assert isinstance(ended, Rejection)
    assert ended.reason is Reason.FILE_CHANGED


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(["fill", "reject"]), max_size=60), st.integers(1, 4))
def test_frames_never_hand_out_a_slot_twice(endings: list[str], batch_size: int) -> None:
    frames = _Frames(batch_size)
    out: list[int] = []
    for ending in endings:
        slot = frames.take()
        if slot is None:
            break
        assert slot not in out
        if ending == "reject":
            frames.give_back(slot)
            continue
        out.append(slot)
        frame = frames.fill(slot, slot)  # type: ignore[arg-type] # any object stands for a source here
        in_frame = [each for each in out if each // batch_size == slot // batch_size]
        assert (frame is not None) == (len(in_frame) == batch_size)
    assert len(out) == len(set(out))
    frames.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.booleans(), min_size=1, max_size=12), st.integers(1, 4), st.randoms(use_true_random=False))
def test_batches_are_full_except_the_last_however_late_files_are_rejected(
    is_film: list[bool], batch_size: int, random: Random
) -> None:
    frames = _Frames(batch_size)
    memory: Float32 = np.memmap(f"/proc/self/fd/{frames.descriptor}", np.float32, "r+")
    canvases = memory.reshape(-1, CANVAS_SIDE * CANVAS_SIDE)
    taken = [slot for _ in is_film if (slot := frames.take()) is not None]
    full: list[int] = []
    for number, slot in random.sample(list(enumerate(taken)), len(taken)):
        canvases[slot, 0] = number
        if not is_film[number]:
            frames.give_back(slot)
        elif (frame := frames.fill(slot, number)) is not None:  # type: ignore[arg-type] # stands for a source
            full.append(frame)
    batches = [frames.batch(frame) for frame in full]
    batches += [frames.batch(frame) for frame in frames.close_ranks()]
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    seen: list[object] = [number for batch in batches for number in batch.sources]
    assert set(seen) == {number for number, _ in enumerate(taken) if is_film[number]}
    assert seen == [batch.canvas[row, 0, 0, 0] for batch in batches for row in range(len(batch))]
    frames.close()


def test_leaving_early_does_not_wait_for_what_is_being_decoded(archive: Path, tmp_path: Path) -> None:
    place = tmp_path / "archive"
    shutil.copytree(archive, place)
    (place / "0000" / "IM000003").rename(place / "0000" / "hang")
    run = RunSettings(batch_size=1, workers=2, timeout_s=60.0)
    entries = sorted(walk(place), key=lambda entry: not entry.relative_path.endswith("hang"))
    with HostLoader(place, run, threading.Event(), worker_mains.decode_or_misbehave) as loader:
        next(loader.batches(entries, on_reject=lambda _: None))
        began = time.monotonic()
    assert time.monotonic() - began < 10


def resident_share(path: Path) -> float:
    """Share of a file's pages that lie in the page cache (mincore)."""
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        pages = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        address = ctypes.c_void_p(ctypes.addressof(first))
        assert mincore(address, ctypes.c_size_t(len(mapped)), pages) == 0
        del first
    return sum(page & 1 for page in pages) / len(pages)


def test_of_files_that_are_no_film_only_the_header_is_read(tmp_path: Path) -> None:
    for number in range(8):
        shutil.copy(real_file("codec/CT_small.dcm"), tmp_path / f"ct{number}")
        os.truncate(tmp_path / f"ct{number}", 2**24)
        with (tmp_path / f"ct{number}").open("r+b") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if max(map(resident_share, tmp_path.iterdir())) > 0.01:
        pytest.skip("this file system keeps every file in memory")
    _, rejections = load(tmp_path, RunSettings(workers=1))
    assert {each.reason for each in rejections} == {Reason.NOT_A_RADIOGRAPH}
    assert max(map(resident_share, tmp_path.iterdir())) < 0.2


def test_a_huge_file_is_judged_by_its_header_first(tmp_path: Path) -> None:
    """A disk image or a long CT is no failed film, however large; a film that is too large is one."""
    film = tmp_path / "film"
    write_archive(tmp_path / "films", ArchiveRecipe(1, {Syntax.RAW: 1.0}, sizes=((420, 360),)))
    shutil.copy(next(path for path in (tmp_path / "films").rglob("*") if path.is_file()), film)
    shutil.copy(real_file("codec/CT_small.dcm"), tmp_path / "ct")
    (tmp_path / "image.iso").write_bytes(b"not DICOM")
    shutil.rmtree(tmp_path / "films")
    for path in tmp_path.iterdir():
        os.truncate(path, 2**30)
    _, rejections = load(tmp_path, RunSettings(workers=1))
    reasons = {each.entry.relative_path: each.reason for each in rejections}
    assert reasons == {
        "ct": Reason.NOT_A_RADIOGRAPH,
        "image.iso": Reason.NOT_DICOM,
        "film": Reason.IMPLAUSIBLE_SIZE,
    }
