"""Files in memory that workers fill and the main process maps: codestreams, stored values, canvases.

One slot holds what one film left, whatever its size; memory is given back when the slot is emptied. A reader
may question a file each and not one large arena: films differ in size a hundredfold, and the kernel already
knows how to give pages of the right number to each and take them back.
"""

from __future__ import annotations

import mmap
import os
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt


class Slots:
    """A fixed number of anonymous files in memory. Closing gives all of it back.

    Args:
        count: slots, each an open file of this process.
    """

    def __init__(self, count: int) -> None:
        self._descriptors = [os.memfd_create(f"screener-slot-{number}") for number in range(count)]
        self._free = list(reversed(range(count)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def paths(self) -> tuple[str, ...]:
        """Where another process of the same user opens each slot."""
        return tuple(f"/proc/{os.getpid()}/fd/{descriptor}" for descriptor in self._descriptors)

    @property
    def num_free(self) -> int:
        """Slots that can be taken."""
        return len(self._free)

    def take(self) -> int:
        """A free slot; there must be one."""
        return self._free.pop()

    def release(self, slot: int) -> None:
        """Empty a slot for the next film; no array of it may be used any more."""
        os.ftruncate(self._descriptors[slot], 0)
        self._free.append(slot)

    def read(self, slot: int, size_bytes: int) -> npt.NDArray[np.uint8]:
        """The first bytes of a slot, mapped and not copied."""
        mapped = mmap.mmap(self._descriptors[slot], size_bytes, access=mmap.ACCESS_READ)
        return np.frombuffer(mapped, np.uint8)

    def close(self) -> None:
        """Give the memory back once nothing maps it."""
        for descriptor in self._descriptors:
            os.close(descriptor)
