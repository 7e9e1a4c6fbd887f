"""What a benchmark found, as records and as a JSON file that says what it was measured on.

Every figure keeps its repeats: medians and spreads are computed from them when they are shown, never stored
alone. Shares of the bound and ratios to peers are taken within one repeat, whose parts ran one after the
other, so that a machine that changes speed changes both sides.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from screener.errors import ConfigError
from screener.run_manifest import git_commit, machine, versions

FORMAT = 3
"""Version of the result file; 1 counted the start of the decoder processes in every figure, 2 left
grading and reporting out of the bound."""


@dataclass(frozen=True, slots=True)
class Extent:
    """How much a step worked through in one repeat."""

    num_files: int
    num_bytes: int = 0
    """0 where a step does not depend on the size of files."""
    num_pixels: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """One repeat."""

    seconds: float
    """By the clock."""
    core_seconds: float
    """Processor time of this process, its threads and its decoder processes."""
    startup_s: float = 0.0
    """By the clock, until the decoder processes were ready; in neither of the two above."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """One step alone on one archive."""

    archive: str
    """Encoding of the films, or `mix`."""
    step: str
    extent: Extent
    timings: tuple[Timing, ...]

    @property
    def files_per_s(self) -> float:
        """Median over the repeats."""
        return statistics.median(self.extent.num_files / timing.seconds for timing in self.timings)

    @property
    def mp_per_s(self) -> float:
        """Million pixels of the full-size pictures a second."""
        return self.files_per_s * self.extent.num_pixels / self.extent.num_files / 1e6

    @property
    def mb_per_s(self) -> float:
        """Megabytes of the files a second."""
        return self.files_per_s * self.extent.num_bytes / self.extent.num_files / 1e6

    @property
    def core_ms_per_file(self) -> float:
        """Processor milliseconds a file, median over the repeats."""
        return 1e3 * statistics.median(each.core_seconds / self.extent.num_files for each in self.timings)

    @property
    def spread(self) -> float:
        """Slowest repeat over fastest, less 1."""
        seconds = [timing.seconds for timing in self.timings]
        return max(seconds) / min(seconds) - 1


@dataclass(frozen=True, slots=True)
class Waits:
    """Who waits for whom while everything runs: means over samples taken at a fixed interval."""

    slots: int
    """Canvases that fit into the shared memory."""
    free: float
    decoding: float
    drawn: float
    with_engines: float
    engines_idle: float
    """Share of the samples in which no batch was with the engines."""
    decoders_idle: float
    """Share of the samples in which a decoder process had no file."""

    @property
    def verdict(self) -> str:
        """The slower side, in words."""
        if self.engines_idle > self.decoders_idle:
            return "engines wait for decoders"
        return "decoders wait for engines" if self.decoders_idle else "nobody waits"


@dataclass(frozen=True, slots=True)
class StreamRepeat:
    """One repeat of everything together, beside what its parts took alone just before."""

    decode_files_per_s: float
    networks_files_per_s: float
    files_per_s: float
    core_seconds_per_file: float
    waits: Waits
    startup_s: float = 0.0
    """Until the decoder processes were ready, before any clock started."""
    rest_s_per_file: float = 0.0
    """Processor time of grading, deciding and reporting a file, divided by the cores."""

    @property
    def bound_files_per_s(self) -> float:
        """What the cores allow: every file needs all its steps, on the same cores."""
        decode_s, networks_s = 1 / self.decode_files_per_s, 1 / self.networks_files_per_s
        return 1 / (decode_s + networks_s + self.rest_s_per_file)

    @property
    def bound_share(self) -> float:
        """Achieved share of the bound."""
        return self.files_per_s / self.bound_files_per_s


@dataclass(frozen=True, slots=True)
class StreamResult:
    """All steps together on one archive."""

    archive: str
    extent: Extent
    repeats: tuple[StreamRepeat, ...]
    peak_bytes: int
    """Memory of the process tree (PSS), the benchmark's own part included."""

    @property
    def files_per_s(self) -> float:
        """Median over the repeats."""
        return statistics.median(each.files_per_s for each in self.repeats)

    @property
    def bound_files_per_s(self) -> float:
        """Median over the repeats."""
        return statistics.median(each.bound_files_per_s for each in self.repeats)

    @property
    def bound_share(self) -> float:
        """Median over the repeats."""
        return statistics.median(each.bound_share for each in self.repeats)


@dataclass(frozen=True, slots=True)
class PeerRound:
    """The same files through `screener run` and through a peer, one after the other."""

    screener_files_per_s: float
    peer_files_per_s: float

    @property
    def ratio(self) -> float:
        """How many times as many files a second."""
        return self.screener_files_per_s / self.peer_files_per_s


@dataclass(frozen=True, slots=True)
class PeerResult:
    """A peer on one archive, or why it could not be measured."""

    archive: str
    peer: str
    rounds: tuple[PeerRound, ...]
    versions: Mapping[str, str]
    """Of what the peer's environment holds."""
    not_measured: str = ""
    """Why there are no rounds."""

    @property
    def ratio(self) -> float:
        """Median over the rounds."""
        return statistics.median(each.ratio for each in self.rounds)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a result was measured on, and with what."""

    machine: Mapping[str, object]
    versions: Mapping[str, str | None]
    commit: str | None
    """None for an installed package."""
    dirty: bool
    """The source tree held changes beyond the commit."""
    measured_utc: str

    @classmethod
    def now(cls) -> Circumstances:
        """Of this machine, installation and moment; to be taken before what is measured."""
        described = git_commit() or ""
        commit = described.removesuffix("-dirty")
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(machine(), versions(), commit or None, commit != described, moment)

    @property
    def source(self) -> str:
        """What was measured, in words."""
        if self.commit is None:
            return "none: an installed package"
        return f"{self.commit}, with uncommitted changes" if self.dirty else self.commit


@dataclass(frozen=True, slots=True)
class BenchResult:
    """One call of `screener bench`."""

    circumstances: Circumstances
    recipe: Mapping[str, object]
    """What was measured on: an archive recipe, or the number of files of the user's own."""
    engine: str
    """The engines' own description."""
    steps: tuple[StepResult, ...]
    streams: tuple[StreamResult, ...]
    peers: tuple[PeerResult, ...] = ()


def save_result(result: BenchResult, path: Path) -> None:
    """Write a result file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, **asdict(result)}
    path.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def load_result(path: Path) -> BenchResult:
    """Read a result file.

    Raises:
        ConfigError: it cannot be read, or is none of this version.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ConfigError(f"{path.name}: not a benchmark result of format {FORMAT}")
        content["circumstances"] = Circumstances(**content["circumstances"])
        content["steps"] = tuple(_step(each) for each in content["steps"])
        content["streams"] = tuple(_stream(each) for each in content["streams"])
        content["peers"] = tuple(_peer(each) for each in content["peers"])
        return BenchResult(**content)
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path.name} is no benchmark result ({type(error).__name__})") from error


def _step(content: dict[str, Any]) -> StepResult:
    timings = tuple(Timing(**timing) for timing in content["timings"])
    return StepResult(content["archive"], content["step"], Extent(**content["extent"]), timings)


def _stream(content: dict[str, Any]) -> StreamResult:
    repeats = tuple(
        StreamRepeat(**{**repeat, "waits": Waits(**repeat["waits"])}) for repeat in content["repeats"]
    )
    return StreamResult(content["archive"], Extent(**content["extent"]), repeats, content["peak_bytes"])


def _peer(content: dict[str, Any]) -> PeerResult:
    return PeerResult(**{**content, "rounds": tuple(PeerRound(**each) for each in content["rounds"])})
