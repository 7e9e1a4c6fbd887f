"""The stream against its peers: same files, same machine, in turn, in one go.

On each archive `screener run` and every peer go one after the other, `repeats` times, and ratios are taken
within a repeat, so that a machine that changes speed changes both. Seconds are those of screening itself, as
each reports them: imports and loading networks are not counted, starting decoder or loader processes is. A
peer reads fewer files of the same archive, because it is slow; rates are per file.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.measure import BenchRequest, archives
from bench.peers.environments import PEERS, Peer, PeerUnavailable, python_of
from bench.results import PeerResult, PeerRound
from engines.bundle import default_bundle
from screener.archive import base_folder, walk
from screener.eligibility import check_eligible
from screener.errors import ConfigError, DecodeError
from screener.header import read_header
from screener.settings import RunSettings

PEER_FILES = 16
"""Files of an archive that a peer reads: two full batches, four of each encoding of a mix."""


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
    for repeat in range(request.repeats + 1):
        on_step(
            f"{name}: screener run, " + (f"repeat {repeat} of {request.repeats}" if repeat else "warm-up")
        )
        ours = _run_screener(request, archive, folder / f"{name}-{repeat}")
        if not repeat:
            continue
        for contender in contenders:
            on_step(f"{name}: {contender.peer.name}, repeat {repeat} of {request.repeats}")
            _run_peer(contender, folder / "networks", files, ours)
    for contender in contenders:
        yield PeerResult(
            name, contender.peer.name, tuple(contender.rounds), contender.versions, contender.trouble
        )


def _files(archive: Path) -> list[str]:
    """The first films of an archive, by the walk's order; peers would stumble over anything else."""
    base = base_folder(archive)
    paths = (base / entry.relative_path for entry in walk(archive) if entry.reason is None)
    return [str(path) for path in itertools.islice(filter(_is_film, paths), PEER_FILES)]


def _is_film(path: Path) -> bool:
    settings = RunSettings()
    try:
        with path.open("rb") as file:
            check_eligible(read_header(file, settings), settings)
    except (DecodeError, OSError):
        return False
    return True


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
    return "" if done.returncode == 0 else f"the networks cannot be exported: {_last_line(done.stderr)}"


def _answer(command: list[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own commands
    if done.returncode:
        raise ConfigError(f"{Path(command[1]).name} failed: {_last_line(done.stderr)}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "no output")
