"""The stream against its peers: same files, same machine, in turn, in one go.

On each archive `screener run` and every peer go one after the other, `repeats` times, and ratios are taken
within a repeat, so that a machine that changes speed changes both. Seconds are those of screening itself, as
each reports them: imports, loading networks and a peer's warm-up film are not counted, starting decoder or
loader processes is. A peer reads fewer files of the same archive, because it is slow, in the archive's own
mix of encodings; rates are per file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import BenchRequest, archives
from bench.peers.environments import PEERS, Peer, PeerUnavailable, python_of, without_paths
from bench.results import PeerResult, PeerRound
from engines.bundle import default_bundle
from screener.archive import base_folder, walk
from screener.eligibility import check_eligible
from screener.errors import ConfigError, DecodeError
from screener.header import read_header
from screener.processors import usual_slices
from screener.settings import RunSettings

PEER_FILES = 40
"""Files of an archive that a peer reads: five full batches, and the default mix to the file."""


@dataclass(slots=True)
class _Contender:
    """A peer that can run, and what it has done on the archive in hand."""

    peer: Peer
    python: Path | None
    trouble: str = ""
    rounds: list[PeerRound] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)


def race(request: BenchRequest, names: Sequence[str], on_step: Callable[[str], None]) -> Iterator[PeerResult]:
    """Measure peers on every archive of a request.

    Args:
        request: archives, settings and repeats.
        names: peers to measure; none names all.
        on_step: told what is about to run.

    Raises:
        ConfigError: no such peer.
        ScreenerError: `screener run` itself failed.
    """
    unknown = set(names) - {peer.name for peer in PEERS}
    if unknown:
        known = ", ".join(peer.name for peer in PEERS)
        raise ConfigError(f"--peer {sorted(unknown)[0]}: expected one of {known}")
    usual_slices()  # what is started here must not inherit this process's; `screener run` asks for its own
    with tempfile.TemporaryDirectory(prefix="screener-race-") as folder:
        networks = Path(folder, "networks")
        trouble = _export_networks(request.bundle or default_bundle(), networks)
        wanted = [peer for peer in PEERS if not names or peer.name in names]
        found = [_installed(peer, trouble, on_step) for peer in wanted]
        for name, archive in archives(request):
            yield from _race_on(name, archive, found, request, Path(folder), on_step)


def _race_on(
    name: str,
    archive: Path,
    contenders: list[_Contender],
    request: BenchRequest,
    folder: Path,
    on_step: Callable[[str], None],
) -> Iterator[PeerResult]:
    files = _files(archive)
    for contender in contenders:
        contender.rounds = []
    for repeat in range(1, request.repeats + 1):
        on_step(f"{name}: screener run, repeat {repeat} of {request.repeats}")
        ours = _run_screener(request, archive, folder / f"{name}-{repeat}")
        for contender in contenders:
            on_step(f"{name}: {contender.peer.name}, repeat {repeat} of {request.repeats}")
            _run_peer(contender, folder / "networks", files, ours)
    for contender in contenders:
        yield PeerResult(
            name, contender.peer.name, tuple(contender.rounds), contender.versions, contender.trouble
        )


def _files(archive: Path) -> list[str]:
    """A sample of an archive's films, its mix and order kept; peers would stumble over anything else."""
    base = base_folder(archive)
    paths = [base / entry.relative_path for entry in walk(archive) if entry.reason is None]
    films = [(str(path), encoding) for path in paths if (encoding := _encoding(path)) is not None]
    return proportional_sample(films, PEER_FILES)


def proportional_sample(films: Sequence[tuple[str, str]], count: int) -> list[str]:
    """Up to `count` of (path, encoding): of each encoding its share, evenly spaced, in the given order.

    Shares are rounded by largest remainder.
    """
    count = min(count, len(films))
    having = Counter(encoding for _, encoding in films)
    exact = {encoding: count * number / len(films) for encoding, number in having.items()}
    taken = {encoding: int(share) for encoding, share in exact.items()}
    by_remainder = sorted(exact, key=lambda encoding: taken[encoding] - exact[encoding])
    for encoding in by_remainder[: count - sum(taken.values())]:
        taken[encoding] += 1
    chosen: list[str] = []
    seen: Counter[str] = Counter()
    for path, encoding in films:
        before = taken[encoding] * seen[encoding] // having[encoding]
        seen[encoding] += 1
        if taken[encoding] * seen[encoding] // having[encoding] > before:
            chosen.append(path)
    return chosen


def _encoding(path: Path) -> str | None:
    """Transfer syntax of a film, None for what is none."""
    settings = RunSettings()
    try:
        with path.open("rb") as file:
            return check_eligible(read_header(file, settings), settings).transfer_syntax_uid
    except (DecodeError, OSError):
        return None


def _installed(peer: Peer, trouble: str, on_step: Callable[[str], None]) -> _Contender:
    if trouble:
        return _Contender(peer, None, trouble)
    on_step(f"{peer.name}: making its environment (once)")
    try:
        return _Contender(peer, python_of(peer))
    except PeerUnavailable as error:
        return _Contender(peer, None, str(error))


def _run_peer(contender: _Contender, networks: Path, files: list[str], ours: float) -> None:
    """One round, unless the peer cannot run."""
    if contender.python is None:
        return
    command = [str(contender.python), str(contender.peer.path), "--networks", str(networks), *files]
    try:
        answer = _answer(command)
    except ConfigError as error:
        contender.python, contender.trouble, contender.rounds = None, str(error), []
        return
    contender.versions = answer["versions"]
    contender.rounds.append(PeerRound(ours, answer["files"] / answer["seconds"]))


def _run_screener(request: BenchRequest, archive: Path, campaign: Path) -> float:
    """Files a second of one run; overlay pictures are not drawn, no peer draws any."""
    settings = request.settings
    options = ["--out", str(campaign), "--key-file", str(campaign.with_suffix(".key")), "--pictures", "none"]
    options += ["--batch-size", str(settings.batch_size), "--workers", str(settings.workers)]
    options += ["--precision", settings.precision, "--reject-share", "1", "--json"]
    if request.bundle is not None:
        options += ["--bundle", str(request.bundle)]
    summary = _answer([sys.executable, "-m", "screener", "run", str(archive), *options])
    return float(summary["screened"] / summary["seconds"])


def _export_networks(bundle: Path, out: Path) -> str:
    """The bundle's networks for the peers; why not, if that is impossible."""
    done = subprocess.run(  # noqa: S603 - our own module
        [sys.executable, "-m", "bench.peers.networks", str(bundle), str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else f"the networks cannot be exported: {without_paths(done.stderr)}"


def _answer(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own commands
    if done.returncode:
        raise ConfigError(f"{Path(command[1]).name} failed: {without_paths(done.stderr)}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
