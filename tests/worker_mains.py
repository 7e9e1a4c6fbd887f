"""Decoder main functions that misbehave on request: the file's name says how."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

from screener.dali_worker import DeviceWorkerSettings
from screener.decode_worker import WorkerSettings
from screener.errors import Reason
from screener.frame import EncodedFrame
from screener.header import ParsedHeader
from screener.records import Rejection
from screener.settings import RunSettings
from screener.worker_pool import Task

ReadFrame = Callable[[BinaryIO, ParsedHeader, RunSettings], EncodedFrame]


def misbehave(pipe: Connection) -> None:
    """Answer every task with `too_small`, except files named to crash, hang, exit or dawdle."""
    pipe.send(None)
    while True:
        try:
            task: Task = pipe.recv()
        except EOFError:
            return
        name = task.entry.relative_path
        if name.startswith("segfault"):
            ctypes.string_at(0)
        if name.startswith("exit"):
            os._exit(7)
        if name.startswith("hang"):
            time.sleep(3600)
        if name.startswith("slow"):
            time.sleep(0.2)
        pipe.send(Rejection(task.entry, Reason.TOO_SMALL))


def cannot_start(pipe: Connection) -> None:
    """Die before saying ready."""
    os._exit(3)


def start_at_the_second_attempt(pipe: Connection, mark: str) -> None:
    """Die before saying ready, but only the first time."""
    if not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    misbehave(pipe)


def die_in_the_middle_of_an_answer(pipe: Connection) -> None:
    """Answer a first task with half a message."""
    pipe.send(None)
    pipe.recv()
    os.write(pipe.fileno(), b"\0\0\x10\0half")
    os.kill(os.getpid(), signal.SIGKILL)


def decode_or_misbehave(pipe: Connection, settings: WorkerSettings) -> None:
    """Decode as the product does, but crash or hang in the pixels of files named so."""
    from screener import decode_worker

    names = vars(decode_worker)
    names["read_frame"] = _misbehaving(names["read_frame"])
    decode_worker.decode_files(pipe, settings)


def _misbehaving(real: ReadFrame) -> ReadFrame:
    def read_frame(file: BinaryIO, parsed: ParsedHeader, run: RunSettings) -> EncodedFrame:
        name = Path(f"/proc/self/fd/{file.fileno()}").readlink().name
        if name == "segfault":
            ctypes.string_at(0)
        if name == "hang":
            time.sleep(3600)
        return real(file, parsed, run)

    return read_frame


def prepare_or_misbehave(pipe: Connection, settings: DeviceWorkerSettings) -> None:
    """As `decode_or_misbehave`, for the device's loader."""
    from screener import dali_worker, decode_worker

    names = vars(decode_worker)
    names["read_frame"] = _misbehaving(names["read_frame"])
    dali_worker.prepare_files(pipe, settings)
