"""Chooses what turns files into batches of canvases: the host's loader, or the GPU's.

`auto` takes the GPU's loader where there is a GPU whose libraries are installed and work, and says why if it
does not; `cuda` never does without.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from engines.devices import Gpu, choose
from screener.errors import ConfigError, DeviceError
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


def open_loader(
    root: Path, settings: RunSettings, stop: threading.Event, on_fallback: Callable[[str], None]
) -> Loader:
    """The loader for a run.

    Args:
        root: archive root, as `archive.walk` takes it.
        settings: the run's settings; their device chooses.
        stop: once set, no further file is taken; what is being decoded is still delivered.
        on_fallback: told what `auto` could not have, and what is used in its place.

    Raises:
        ConfigError: `cuda` was asked for and DALI or nvImageCodec is missing.
        DeviceError: `cuda` was asked for and the GPU cannot decode films, or paints them differently.
        EngineError: `cuda` was asked for and there is no GPU.
    """
    choice = choose(settings.device)
    if choice.gpu is None:
        if settings.device == "auto":
            on_fallback(choice.reason)
        return HostLoader(root, settings, stop)
    try:
        return _device_loader(root, settings, stop, choice.gpu)
    except (ConfigError, DeviceError) as error:
        if settings.device != "auto":
            raise
        on_fallback(f"films are decoded on the host: {error}")
        return HostLoader(root, settings, stop)


def _device_loader(root: Path, settings: RunSettings, stop: threading.Event, gpu: Gpu) -> Loader:
    try:
        from screener.dali_loader import DaliLoader
    except ImportError as error:  # bindings without their shared libraries raise it too
        found = (str(error).splitlines() or ["not found"])[0]
        raise ConfigError(f"DALI or nvImageCodec cannot be used ({found}): pip install '.[gpu]'") from error
    return DaliLoader(root, settings, stop, gpu_index=gpu.index)
