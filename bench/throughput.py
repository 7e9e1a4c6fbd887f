"""The whole stream against the plain loop: same files, same networks, same machine, in one go.

For each transfer syntax, and for all of them mixed, `screener run` and the plain loop (`bench.peers`) screen
the same archive in turn, `repeats` times; ratios are taken within a repeat, so that a machine that changes
speed changes both. Seconds are those of screening itself, as either reports them: imports and loading the
networks are not counted, starting the decoder processes is. The plain loop reads fewer files, because it is
slow; rates are per image.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.archive_factory import ArchiveRecipe, Syntax, write_archive
from screener.run_manifest import git_commit, machine, versions

SYNTAXES = (Syntax.RAW, Syntax.JPEG_LOSSLESS, Syntax.J2K, Syntax.JPEGLS)
ROUND_FILES = 96
"""Files that `screener run` screens in one round."""
PLAIN_FILES = 8
"""Files of the same archive that the plain loop reads."""


@dataclass(frozen=True, slots=True)
class Round:
    """One paired measurement."""

    archive: str
    screener_images_per_s: float
    plain_images_per_s: float

    @property
    def ratio(self) -> float:
        """How many times as many images a second."""
        return self.screener_images_per_s / self.plain_images_per_s


@dataclass(frozen=True, slots=True)
class Comparison:
    """All rounds on one archive."""

    archive: str
    rounds: tuple[Round, ...]

    def row(self) -> dict[str, Any]:
        """Medians and spread, for the table and the result file."""
        ratios = sorted(each.ratio for each in self.rounds)
        return {
            "archive": self.archive,
            "screener_images_per_s": statistics.median(each.screener_images_per_s for each in self.rounds),
            "plain_images_per_s": statistics.median(each.plain_images_per_s for each in self.rounds),
            "ratio": statistics.median(ratios),
            "ratio_min": ratios[0],
            "ratio_max": ratios[-1],
            "rounds": [asdict(each) for each in self.rounds],
        }


def compare(repeats: int, sizes: tuple[tuple[int, int], ...] = ((3056, 2544),)) -> Iterator[Comparison]:
    """Measure every syntax, then the mix.

    Args:
        repeats: paired rounds on each archive.
        sizes: (rows, columns) of the films.
    """
    mixes: dict[str, dict[Syntax, float]] = {str(syntax): {syntax: 1.0} for syntax in SYNTAXES}
    mixes["mix"] = dict.fromkeys(SYNTAXES, 1.0)
    for name, mix in mixes.items():
        with tempfile.TemporaryDirectory(prefix="screener-bench-") as folder:
            archive = Path(folder, "archive")
            write_archive(archive, ArchiveRecipe(ROUND_FILES, mix, sizes))
            files = sorted(archive.rglob("IM*"))
            chosen = [file for file in files][: PLAIN_FILES if name != "mix" else 2 * PLAIN_FILES]
            _run_screener(archive, Path(folder, "warm-up"))
            rounds = tuple(_round(name, archive, chosen, Path(folder, f"{k}")) for k in range(repeats))
            yield Comparison(name, rounds)


def _round(name: str, archive: Path, files: Sequence[Path], campaign: Path) -> Round:
    screened = _run_screener(archive, campaign)
    plain = _json_of([sys.executable, "-m", "bench.peers.plain_loop", *map(str, files)])
    return Round(name, screened["screened"] / screened["seconds"], plain["files"] / plain["seconds"])


def _run_screener(archive: Path, campaign: Path) -> dict[str, Any]:
    key = str(campaign.with_suffix(".key"))
    return _json_of(
        [sys.executable, "-m", "screener", "run", str(archive), "--out", str(campaign), "--key-file", key]
        + ["--json", "--pictures", "none"]
    )


def _json_of(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own commands
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def result_file(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows with what they were measured on."""
    return {"rows": rows, "machine": machine(), "versions": versions(), "commit": git_commit()}
