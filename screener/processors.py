"""How this program asks for processor time: no thread pools inside films, and long time slices.

Decoding and networks take turns on every core, and each turn begins with the other's data in the cache. The
decision a reader would question is a system call that Python has no name for: Linux lets an ordinary
process choose the length of its turns (since 6.12; older kernels take the request and ignore it), and turns
of 100 ms instead of a few leave each more of its data in the cache (docs/decisions/
worker-processes.md). Priority is left as it is, but for the decoder processes (`decode_worker`).
"""

from __future__ import annotations

import ctypes
import os
import platform

import cv2

SLICE_NS = 100_000_000
"""Turn asked for, in nanoseconds; Linux takes 0.1 to 100 ms."""
_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
"""Number of the system call sched_setattr(2) by machine."""


class SchedulingAttributes(ctypes.Structure):
    """The kernel's `struct sched_attr`, first version."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def share_cores() -> bool:
    """Set this process up for taking turns; threads and processes that it starts from now on inherit it.

    Films are worked on side by side, so OpenCV's own threads would only add to the work.

    Returns:
        Whether the kernel took the request for long slices.
    """
    cv2.setNumThreads(1)
    return _ask_for_slices(SLICE_NS)


def usual_slices() -> bool:
    """Take the system's own slices again, for whatever is started from now on.

    Returns:
        Whether the kernel took the request.
    """
    return _ask_for_slices(0)


def _ask_for_slices(nanoseconds: int) -> bool:
    """Have the calling thread's turns last so long; 0 is the kernel's default."""
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None or os.sched_getscheduler(0) not in (os.SCHED_OTHER, os.SCHED_BATCH):
        return False
    wanted = SchedulingAttributes(
        size=ctypes.sizeof(SchedulingAttributes),
        policy=os.sched_getscheduler(0),
        nice=os.getpriority(os.PRIO_PROCESS, 0),
        runtime=nanoseconds,
    )
    refused: int = ctypes.CDLL(None).syscall(number, 0, ctypes.byref(wanted), 0)
    return refused == 0
