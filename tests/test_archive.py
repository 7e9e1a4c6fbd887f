"""The walk: every entry once, links never followed, order stable, unreadable folders reported."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screener import archive
from screener.archive import base_folder, walk
from screener.errors import ConfigError, Reason

# Any bytes that a Linux name may hold; short, so that trees share folders.
_names = st.binary(min_size=1, max_size=4).filter(
    lambda name: not set(name) & {0, 47} and name not in (b".", b"..")
)
_paths = st.lists(st.lists(_names, min_size=1, max_size=4), max_size=25)


@settings(max_examples=60, deadline=None)
@given(paths=_paths)
def test_every_file_of_any_tree_is_found_exactly_once(paths: list[list[bytes]]) -> None:
    with TemporaryDirectory() as root:
        created = set()
        for parts in paths:
            path = Path(root, *map(os.fsdecode, parts))
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("xb") as file:
                    file.write(b"x" * len(parts))
            except (FileExistsError, NotADirectoryError):
                continue
            created.add(os.fsdecode(b"/".join(parts)))
        found = list(walk(Path(root)))
        assert sorted(entry.relative_path for entry in found) == sorted(created)
        assert found == list(walk(Path(root)))
        for entry in found:
            status = Path(root, entry.relative_path).stat()
            assert (entry.size_bytes, entry.mtime_ns) == (status.st_size, status.st_mtime_ns)
            assert entry.reason is None


def test_order_is_by_name_files_before_folders(tmp_path: Path) -> None:
    for name in ("b/2", "b/10", "a/z/1", "a/y", "c", "B"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    assert [entry.relative_path for entry in walk(tmp_path)] == ["B", "c", "a/y", "a/z/1", "b/10", "b/2"]


def test_name_that_is_no_utf8_opens_again(tmp_path: Path) -> None:
    name = "张三".encode("gb18030")
    (tmp_path / os.fsdecode(name)).write_bytes(b"film")
    (entry,) = walk(tmp_path)
    assert os.fsencode(entry.relative_path) == name
    assert (tmp_path / entry.relative_path).read_bytes() == b"film"


def test_links_are_reported_and_never_followed(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    (root / "films").mkdir(parents=True)
    (root / "films" / "one").write_bytes(b"film")
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "archive2").mkdir()
    (root / "inside").symlink_to("films/one")
    (root / "loop-to-root").symlink_to(root, target_is_directory=True)
    (root / "outside").symlink_to("../outside")
    (root / "sibling-with-same-prefix").symlink_to("../archive2")
    (root / "dangling").symlink_to("nowhere")
    (root / "ring-a").symlink_to("ring-b")
    (root / "ring-b").symlink_to("ring-a")
    reasons = {entry.relative_path: entry.reason for entry in walk(root)}
    assert reasons == {
        "films/one": None,
        "inside": Reason.SYMBOLIC_LINK,
        "loop-to-root": Reason.SYMBOLIC_LINK,
        "outside": Reason.LINK_OUTSIDE_ARCHIVE,
        "sibling-with-same-prefix": Reason.LINK_OUTSIDE_ARCHIVE,
        "dangling": Reason.BROKEN_LINK,
        "ring-a": Reason.BROKEN_LINK,
        "ring-b": Reason.BROKEN_LINK,
    }


@pytest.mark.timeout(20)
def test_special_files_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for a writer for ever
    (tmp_path / "empty").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        reasons = {entry.relative_path: entry.reason for entry in walk(tmp_path)}
    assert reasons == {
        "empty": Reason.EMPTY_FILE,
        "fifo": Reason.NOT_REGULAR_FILE,
        "socket": Reason.NOT_REGULAR_FILE,
    }


def test_folder_that_cannot_be_listed_is_one_entry(tmp_path: Path) -> None:
    """A path longer than the system allows cannot be listed by anyone, root included."""
    (tmp_path / "after").write_bytes(b"x")
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):
        os.mkdir("d" * 250, dir_fd=folder)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(os.open("film", os.O_CREAT | os.O_WRONLY, dir_fd=folder))
    os.close(folder)
    after, unreadable = walk(tmp_path)
    assert after.reason is None
    assert unreadable.reason is Reason.UNREADABLE_FOLDER
    assert len(str(tmp_path / unreadable.relative_path)) > 4096 - 252


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_folder_without_permission_is_one_entry(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "film").write_bytes(b"x")
    closed.chmod(0)
    try:
        (entry,) = walk(tmp_path)
    finally:
        closed.chmod(0o700)
    assert (entry.relative_path, entry.reason) == ("closed", Reason.UNREADABLE_FOLDER)


def test_folder_that_may_be_listed_and_not_entered_ends_no_walk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file system lists no types, asking whether an entry is a folder raises."""

    class Typeless:
        def __init__(self, name: str) -> None:
            self.name, self.path = name, str(tmp_path / name)

        def is_dir(self, *, follow_symlinks: bool) -> bool:
            raise PermissionError(13, "Permission denied", self.path)

        stat = is_dir

    monkeypatch.setattr(archive, "_list", lambda _: ([Typeless("a"), Typeless("b")], True))
    found = [(entry.relative_path, entry.reason) for entry in walk(tmp_path)]
    assert found == [("a", Reason.UNREADABLE_FILE), ("b", Reason.UNREADABLE_FILE)]


def test_skipped_folder_is_no_part_of_the_archive(tmp_path: Path) -> None:
    for name in ("film", "campaign/run.json", "other/campaign/film"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x")
    found = [entry.relative_path for entry in walk(tmp_path, frozenset({tmp_path / "campaign"}))]
    assert found == ["film", "other/campaign/film"]


def test_single_file_is_an_archive_of_one(tmp_path: Path) -> None:
    film = tmp_path / "film"
    film.write_bytes(b"film")
    link = tmp_path / "link"
    link.symlink_to(film)
    for root in (film, link):
        (entry,) = walk(root)
        assert (entry.relative_path, entry.size_bytes, entry.reason) == ("film", 4, None)
        assert base_folder(root) / entry.relative_path == film


def test_root_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "one").write_bytes(b"film")
    (tmp_path / "films" / "same").symlink_to("one")
    (tmp_path / "link").symlink_to("films")
    reasons = [(entry.relative_path, entry.reason) for entry in walk(tmp_path / "link")]
    assert reasons == [("one", None), ("same", Reason.SYMBOLIC_LINK)]


def test_missing_root_is_a_config_error_without_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        walk(tmp_path / "zhang-san")
    assert "zhang" not in str(caught.value)


@pytest.mark.slow
def test_walk_keeps_up_with_any_disk(tmp_path: Path) -> None:
    """100,000 entries a second of processor time; run with `-s` to see the rate."""
    for folder in range(50):
        (tmp_path / f"{folder:03}").mkdir()
        for file in range(1000):
            (tmp_path / f"{folder:03}" / f"{file:05}.dcm").write_bytes(b"x")
    started = time.process_time()
    count = sum(1 for _ in walk(tmp_path))
    rate = count / (time.process_time() - started)
    sys.stdout.write(f"\n{rate:,.0f} files/s\n")
    assert count == 50_000
    assert rate > 100_000
