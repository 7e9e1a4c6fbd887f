"""Chooses what turns files into batches of canvases: the host's loader, or the GPU's.

`auto` takes the GPU's loader where there is a GPU and its libraries are installed; `cuda` never does without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from engines.devices import choose
from screener.errors import ConfigError
from screener.host_loader import HostLoader
from screener.records import ArchiveEntry, Batch, Rejection
from screener.settings import RunSettings


class Loader(Protocol):
    """Turns archive entries into batches of canvases. Use as a context manager; iterate `batches` once."""

    def __enter__(self) -> Self:
        """Workers are running."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the workers; batches that are still held must not be used any more."""

    def batches(
        self, entries: Iterable[ArchiveEntry], on_reject: Callable[[Rejection], None]
    ) -> Iterator[Batch]:
        """Yield batches as they fill; every entry ends in exactly one batch or one rejection."""

    def release(self, batch: Batch) -> None:
        """The engines are done with this batch: its memory may be drawn over."""


def open_loader(root: Path, settings: RunSettings, stop: threading.Event) -> Loader:
    """The loader for a run.

    Args:
        root: archive root, as `archive.walk` takes it.
        settings: the run's settings; their device chooses.
        stop: once set, no further file is taken; what is being decoded is still delivered.

    Raises:
        ConfigError: `cuda` was asked for and DALI or nvImageCodec is missing.
        EngineError: `cuda` was asked for and there is no GPU.
        ScreenerError: the GPU paints differently from the host.
    """
    gpu = choose(settings.device).gpu
    if gpu is None:
        return HostLoader(root, settings, stop)
    try:
        from screener.dali_loader import DaliLoader
    except ImportError as error:  # bindings without their shared libraries raise it too
        if settings.device == "auto":
            return HostLoader(root, settings, stop)
        found = str(error).splitlines()[0]
        raise ConfigError(
            f"--device cuda needs DALI and nvImageCodec ({found}): pip install '.[gpu]'"
        ) from error
    return DaliLoader(root, settings, stop, gpu_index=gpu.index)


def fallbacks(settings: RunSettings) -> tuple[str, ...]:
    """What `auto` could not have, and what is used in its place; for the run's manifest."""
    if settings.device != "auto":
        return ()
    choice = choose(settings.device)
    if choice.gpu is None:
        return (choice.reason,)
    try:
        from screener import dali_loader  # noqa: F401 - is it there?
    except ImportError as error:
        return (f"films are decoded on the host: {str(error).splitlines()[0]}",)
    return ()
