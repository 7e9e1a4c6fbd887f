from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from screener.errors import Reason, ScreenerError
from screener.records import ArchiveEntry, Rejection
from screener.worker_pool import DecoderPool, Task, WorkerMain
from tests import worker_mains


def run(
    names: list[str],
    *,
    workers: int = 2,
    timeout_s: float = 1.0,
    main: WorkerMain = worker_mains.misbehave,
    args: tuple[str, ...] = (),
) -> dict[str, Rejection]:
    pool = DecoderPool(workers, timeout_s, main, args)
    ended: dict[str, Rejection] = {}
    pending = [Task(ArchiveEntry(name, 1, 1), slot) for slot, name in enumerate(names)]
    give_up = time.monotonic() + 60
    try:
        while (pending or pool.num_waiting) and time.monotonic() < give_up:
            while pending and pool.num_free:
                pool.submit(pending.pop(0))
            for done in pool.collect(0.5):
                assert isinstance(done.outcome, Rejection)
                assert done.task.entry.relative_path not in ended
                ended[done.task.entry.relative_path] = done.outcome
    finally:
        pool.close()
    return ended


def test_a_crash_costs_exactly_the_file_that_crashed() -> None:
    names = [f"file{index}" for index in range(30)]
    names[3], names[4], names[17] = "segfault3", "segfault4", "exit17"
    ended = run(names)
    assert sorted(ended) == sorted(names)
    crashed = {name for name, end in ended.items() if end.reason is Reason.DECODER_CRASHED}
    assert crashed == {"segfault3", "segfault4", "exit17"}
    assert ended["segfault3"].detail == "the decoder process ended by SIGSEGV"
    assert ended["exit17"].detail == "the decoder process ended by exit code 7"
    assert Counter(end.reason for end in ended.values())[Reason.TOO_SMALL] == 27


def test_a_hang_is_killed_and_costs_that_file_only() -> None:
    names = ["file0", "hang1", "file2", "file3", "hang4", "file5", "file6", "slow7", "file8"]
    ended = run(names, timeout_s=0.8)
    assert sorted(ended) == sorted(names)
    late = {name for name, end in ended.items() if end.reason is Reason.DECODER_TIMEOUT}
    assert late == {"hang1", "hang4"}
    assert "0.8 s" in ended["hang1"].detail


def test_queued_files_do_not_share_the_time_limit() -> None:
    names = [f"slow{index}" for index in range(10)]
    ended = run(names, workers=1, timeout_s=0.8)
    assert {end.reason for end in ended.values()} == {Reason.TOO_SMALL}


def test_workers_that_cannot_start_stop_the_run() -> None:
    pool = DecoderPool(1, 1.0, worker_mains.cannot_start, ())
    with pytest.raises(ScreenerError, match=r"cannot start \(exit code 3\)"):
        for _ in range(100):
            pool.collect(0.2)
    pool.close()


def test_waiting_until_ready_ends_with_every_worker_ready_or_says_that_none_starts() -> None:
    pool = DecoderPool(2, 1.0, worker_mains.misbehave, ())
    try:
        pool.wait_ready()
        assert all(worker.is_ready for worker in pool._workers)
        pool.submit(Task(ArchiveEntry("a", 1, 1), 0))
        began = time.monotonic()
        while pool.num_waiting:
            assert len(pool.collect(5.0)) == 1
        assert time.monotonic() - began < 1.0
    finally:
        pool.close()
    pool = DecoderPool(1, 1.0, worker_mains.cannot_start, ())
    with pytest.raises(ScreenerError, match="cannot start"):
        pool.wait_ready()
    pool.close()


def test_worker_killed_while_it_starts_costs_no_file_and_no_run(tmp_path: Path) -> None:
    mark = str(tmp_path / "mark")
    ended = run(["a", "b", "c"], workers=1, main=worker_mains.start_at_the_second_attempt, args=(mark,))
    assert {end.reason for end in ended.values()} == {Reason.TOO_SMALL}
    assert len(ended) == 3


def test_worker_that_dies_in_the_middle_of_an_answer_has_crashed() -> None:
    ended = run(["a"], workers=1, main=worker_mains.die_in_the_middle_of_an_answer)
    assert ended["a"].reason is Reason.DECODER_CRASHED


def test_worker_killed_from_outside_costs_at_most_the_file_in_hand() -> None:
    pool = DecoderPool(1, 5.0, worker_mains.misbehave, ())
    try:
        while not pool._workers[0].is_ready:
            pool.collect(0.2)
        os.kill(pool._workers[0].process.pid or 0, signal.SIGKILL)
        for name in ("a", "b"):
            pool.submit(Task(ArchiveEntry(name, 1, 1), 0))
        done = []
        while pool.num_waiting:
            done += pool.collect(0.5)
        reasons = sorted(each.outcome.reason for each in done if isinstance(each.outcome, Rejection))
        assert reasons == [Reason.DECODER_CRASHED, Reason.TOO_SMALL]
    finally:
        pool.close()
