"""Long time slices and kept memory: asked of the kernel and the C library, and really given."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from engines.openvino import has_int8_units
from screener.processors import SLICE_NS

SLICES = """
import os, threading, cv2
from pathlib import Path
from screener.processors import share_cores, usual_slices
os.setpriority(os.PRIO_PROCESS, 0, 5)
taken = share_cores()
assert cv2.getNumThreads() == 1
def slice_of_this_thread():
    for line in Path(f"/proc/self/task/{threading.get_native_id()}/sched").read_text().splitlines():
        if line.startswith("se.slice"):
            print(taken, line.split()[-1], os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0))
thread = threading.Thread(target=slice_of_this_thread)
thread.start(); thread.join()
usual_slices()
slice_of_this_thread()
"""
FAULTS = """
import resource, sys
import numpy as np
from screener.decode_worker import _keep_freed_memory
if sys.argv[1] == "kept":
    _keep_freed_memory()
def work():
    return np.ones(24 << 20, np.uint8), np.ones(24 << 20, np.uint8), np.ones(24 << 20, np.uint8)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


GIANT = """
import resource
import numpy as np
from pathlib import Path
from screener.decode_worker import _keep_freed_memory
_keep_freed_memory()
giant = np.ones(1 << 30, np.uint8)
stays = np.ones(2 << 20, np.uint8)
del giant
print(next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line))
"""


def run(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    # Huge pages would make a handful of faults of what is thousands.
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=environment)
    return done.stdout


def test_threads_inherit_the_long_slice_and_keep_priority_and_policy() -> None:
    if not Path("/proc/self/sched").exists():
        pytest.skip("this kernel does not show its slices")
    said = [line.split() for line in run(SLICES).splitlines()]
    if not said:
        pytest.skip("this kernel has no slices of its own length (before 6.12)")
    (taken, found, nice, policy), (_, usual, *_) = said
    assert (taken, int(found)) == ("True", SLICE_NS)
    assert (nice, policy) == ("5", str(os.SCHED_OTHER))
    assert int(usual) < SLICE_NS


def test_a_decoder_process_takes_no_fresh_pages_for_the_next_film() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("this C library has no such setting")
    assert int(run(FAULTS, "kept")) < 100
    assert int(run(FAULTS, "given back")) > 10_000


def test_one_giant_film_does_not_stay_in_memory() -> None:
    assert int(run(GIANT)) < 256 << 10


@pytest.mark.parametrize("cap", ["AVX2", "avx512_core"])
def test_int8_is_no_default_where_its_products_would_saturate(
    monkeypatch: pytest.MonkeyPatch, cap: str
) -> None:
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    assert not has_int8_units()


def test_int8_units_are_found_by_the_processors_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert has_int8_units() == bool(flags & {"amx_int8", "avx512_vnni", "avx_vnni"})
    monkeypatch.setattr(Path, "read_text", lambda self: "flags : fpu sse2 avx2\n")
    assert not has_int8_units()
