"""The GPU that tests marked `gpu` run on."""

from __future__ import annotations

import os

import pytest

from engines.devices import Gpu, probe_gpu
from engines.errors import EngineError


def gpu_or_skip() -> Gpu:
    """The first GPU. Without one the test is skipped, or fails where SCREENER_REQUIRE_GPU=1 asks for one."""
    try:
        return probe_gpu()
    except EngineError as error:
        if os.environ.get("SCREENER_REQUIRE_GPU") == "1":
            pytest.fail(f"SCREENER_REQUIRE_GPU=1, but {error}")
        pytest.skip(str(error))
