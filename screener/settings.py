"""What a run can be told: one frozen record, validated once.

Flags of the command line carry the fields' names.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from screener.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "int8"]
Pictures = Literal["none", "referred", "all"]


def default_key_file() -> Path:
    """Where the pseudonym key lives unless told otherwise: the user's configuration folder."""
    return Path.home() / ".config" / "screener" / "pseudonym.key"


def available_cores() -> int:
    """Cores this process may use (its affinity mask, not the machine's count)."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of one run; those marked *result* change results and belong to the campaign's fingerprint."""

    device: Device = "auto"
    """Where the networks run."""
    precision: Precision = "auto"
    """*result* Arithmetic of the engine; auto takes int8 where bundle and processor have it, else bf16."""
    batch_size: int = 8
    """Images per engine call."""
    workers: int = 0
    """Decoder processes; 0 means one per core."""
    timeout_s: float = 60.0
    """A file that takes a decoder longer than this is given up as `decoder_timeout`."""
    max_megapixels: float = 100.0
    """*result* Pictures declared larger than this are refused before memory is taken."""
    max_file_mb: float = 512.0
    """*result* Of larger files only the header is read."""
    part_rows: int = 2000
    """Rows after which a part of the images table is written."""
    part_seconds: float = 60.0
    """Seconds after which a part is written even if it is short."""
    reject_share: float = 0.5
    """Share of rejected and failed files above which the exit code is 3."""
    min_side_px: int = 256
    """*result* Pictures with a shorter side are rejected as `too_small`."""
    save_masks: bool = False
    """Write each lung mask as PNG in the picture's own geometry."""
    gpu_memory_mb: float = 4096.0
    """Device memory that films may take while they are decoded and painted; networks come on top."""
    pictures: Pictures = "referred"
    """Films that get an overlay picture (lung contour, zones, activation) for the report."""

    def __post_init__(self) -> None:
        for name, choices in (("device", Device), ("precision", Precision), ("pictures", Pictures)):
            if getattr(self, name) not in get_args(choices):
                raise ConfigError(f"--{name} {getattr(self, name)}: expected {', '.join(get_args(choices))}")
        checks = {
            "batch_size": 1 <= self.batch_size <= 256,
            "workers": 0 <= self.workers <= 256,
            "timeout_s": self.timeout_s > 0,
            "max_megapixels": 0 < self.max_megapixels <= 1000,
            "max_file_mb": self.max_file_mb > 0,
            "part_rows": self.part_rows >= 1,
            "part_seconds": self.part_seconds > 0,
            "reject_share": 0 <= self.reject_share <= 1,
            "gpu_memory_mb": self.gpu_memory_mb > 0,
            "min_side_px": 16 <= self.min_side_px <= 4096,
        }
        for name, fine in checks.items():
            if not fine:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)} is out of range")

    @property
    def num_workers(self) -> int:
        """Decoder processes actually started."""
        return self.workers or available_cores()

    def result_settings(self) -> dict[str, object]:
        """The settings that change results, for the campaign's fingerprint."""
        names = ("precision", "max_megapixels", "max_file_mb", "min_side_px")
        return {name: value for name, value in asdict(self).items() if name in names}
