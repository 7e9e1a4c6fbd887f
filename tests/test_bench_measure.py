"""The benchmark itself on a tiny archive, timing aside; peers as real processes."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from typer.testing import CliRunner

from bench import commands, workbench
from bench.archive_factory import UIDS, ArchiveRecipe, Syntax, write_archive
from bench.clock import Clock
from bench.measure import STEPS, BenchRequest, measure
from bench.peers.environments import PEERS, Peer, PeerUnavailable, python_of, without_paths
from bench.race import _Contender, _files, _installed, _race_on, proportional_sample, race
from screener.errors import ConfigError
from screener.settings import RunSettings

TINY = ArchiveRecipe(6, {Syntax.RAW: 1.0}, sizes=((300, 333),))


@pytest.mark.bench
def test_every_step_and_the_stream_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "SAMPLE_FILES", 4)
    monkeypatch.setattr(workbench, "NETWORK_FILES", 4)
    monkeypatch.setattr(workbench, "REPORT_ROWS", 20)
    write_archive(tmp_path, TINY)
    (tmp_path / "note.txt").write_text("no DICOM")
    said: list[str] = []
    request = BenchRequest(RunSettings(batch_size=2, workers=1), TINY, archive=tmp_path, repeats=1)
    result = measure(request, said.append)
    assert [step.step for step in result.steps] == list(STEPS)
    (stream,) = result.streams
    assert stream.extent.num_files == 6
    assert stream.extent.num_pixels == 6 * 300 * 333
    assert stream.peak_bytes > 10**8
    for step in result.steps:
        assert 0 < step.files_per_s < float("inf")
        assert len(step.timings) == 1
    cost = {step.step: step.timings[0].core_seconds for step in result.steps}
    assert cost["decode"] > cost["header"]
    assert cost["networks"] > cost["segmentation"]
    startup = {step.step: step.timings[0].startup_s for step in result.steps}
    assert startup.pop("decode") > 0.1
    assert set(startup.values()) == {0.0}
    assert stream.repeats[0].startup_s > 0.1
    waits = stream.repeats[0].waits
    assert waits.slots == 8
    assert waits.free + waits.decoding + waits.drawn + waits.with_engines == pytest.approx(8, abs=0.5)
    assert "everything together, repeat 1 of 1" in said[-1]


def test_the_clock_counts_what_processes_do_once_they_are_ready_and_nothing_before() -> None:
    code = (
        "import time\n"
        "while time.process_time() < 1: pass\n"
        "input(print('ready', flush=True))\n"
        "while time.process_time() < 1.4: pass"
    )
    clock = Clock()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        clock.ready()
        process.communicate("go\n")
    timing = clock.timing()
    assert timing.startup_s > 0.9
    assert 0.3 < timing.core_seconds < 0.9
    assert timing.seconds > 0.3
    clock.start()
    assert clock.timing().startup_s == 0.0


def test_an_archive_without_films_is_refused(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("no DICOM")
    done = CliRunner().invoke(commands.app, ["--archive", str(tmp_path), "--quick"])
    assert isinstance(done.exception, ConfigError)


def test_the_archive_command_writes_what_it_is_told(tmp_path: Path) -> None:
    arguments = [
        "archive",
        "--out",
        str(tmp_path / "a"),
        "--count",
        "3",
        "--sizes",
        "40x30",
        "--mix",
        "raw=1",
    ]
    done = CliRunner().invoke(commands.app, arguments)
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "a").rglob("IM*"))) == 3


def test_a_peer_that_cannot_be_installed_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    peer = Peer("missing", "plain_loop.py", (str(tmp_path / "no_such_wheel.whl"),))
    with pytest.raises(PeerUnavailable, match="pip failed"):
        python_of(peer, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_an_unknown_peer_is_refused() -> None:
    with pytest.raises(ConfigError, match="plain loop"):
        list(race(BenchRequest(RunSettings(), TINY), ["fastest"], print))


def test_peers_run_the_same_files_and_one_that_fails_has_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, folder = tmp_path / "archive", tmp_path / "race"
    write_archive(archive, TINY)
    (archive / "a-note.txt").write_text("no DICOM")
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text(
        "import json, sys\nfiles = sys.argv[3:]\nassert sys.argv[1] == '--networks'\n"
        "assert len(files) == 6 and all(open(file, 'rb').read(132).endswith(b'DICM') for file in files)\n"
        "print(json.dumps({'seconds': 2.0, 'files': len(files), 'versions': {'thing': '1'}}))"
    )
    bad.write_text("raise SystemExit('cannot read a film')")
    leaky = tmp_path / "leaky.py"
    leaky.write_text("import sys\nopen(sys.argv[3] + '/wang.dcm')")
    contenders = [
        _Contender(Peer("good", str(good), ()), Path(sys.executable)),
        _Contender(Peer("bad", str(bad), ()), Path(sys.executable)),
        _Contender(Peer("leaky", str(leaky), ()), Path(sys.executable)),
        _Contender(Peer("missing", "plain_loop.py", ()), None, "pip failed"),
    ]
    monkeypatch.setattr("bench.race._run_screener", lambda *_: 30.0)
    request = BenchRequest(RunSettings(), TINY, repeats=2)
    done = {each.peer: each for each in _race_on("raw", archive, contenders, request, folder, print)}
    assert [each.ratio for each in done["good"].rounds] == [10.0, 10.0]
    assert done["good"].versions == {"thing": "1"}
    assert done["bad"].rounds == ()
    assert "cannot read a film" in done["bad"].not_measured
    assert done["leaky"].not_measured == "leaky.py failed: NotADirectoryError"
    assert done["missing"].not_measured == "pip failed"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Traceback\n\nFileNotFoundError: [Errno 2] No such file: '/a/b c'\n", "FileNotFoundError"),
        ("pydicom.errors.InvalidDicomError", "pydicom.errors.InvalidDicomError"),
        ("ERROR: No matching distribution for torch", "ERROR: No matching distribution for torch"),
        ("cannot read '/archive of/wang' today", "cannot read"),
        ("/archive/wang.dcm", "said only a path"),
        ("", "no output"),
    ],
)
def test_what_a_failed_peer_said_names_no_path(said: str, kept: str) -> None:
    assert without_paths(said) == kept


def test_the_default_mix_reaches_peers_to_the_file(tmp_path: Path) -> None:
    mix = {Syntax.RAW: 40.0, Syntax.JPEG_LOSSLESS: 30.0, Syntax.J2K: 20.0, Syntax.JPEGLS: 10.0}
    write_archive(tmp_path, ArchiveRecipe(60, mix, sizes=((300, 333),)))
    files = _files(tmp_path)
    assert files == sorted(set(files))
    syntaxes = Counter(dcmread(file).file_meta.TransferSyntaxUID for file in files)
    assert [syntaxes[UIDS[syntax]] for syntax in mix] == [16, 12, 8, 4]


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=200), st.integers(1, 60))
def test_a_sample_is_proportional_and_spread_over_the_archive(encodings: list[str], count: int) -> None:
    films = [(f"{place:03d}", encoding) for place, encoding in enumerate(encodings)]
    chosen = proportional_sample(films, count)
    assert len(chosen) == min(count, len(films))
    assert chosen == sorted(set(chosen))
    for encoding in set(encodings):
        places = [place for place, each in films if each == encoding]
        taken = [places.index(place) for place in chosen if place in places]
        assert abs(len(taken) - len(chosen) * len(places) / len(films)) < 1
        steps = {after - before for before, after in itertools.pairwise(taken)}
        assert not steps or max(steps) - min(steps) <= 1


def test_without_exported_networks_no_peer_is_installed() -> None:
    contender = _installed(PEERS[0], "the networks cannot be exported: no torch", print)
    assert contender.python is None


def test_peer_scripts_import_nothing_of_this_repository() -> None:
    for peer in PEERS:
        lines = peer.path.read_text("utf-8").splitlines()
        imported = {
            line.split()[1].partition(".")[0] for line in lines if line.startswith(("import", "from"))
        }
        assert not imported & {"screener", "engines", "calibration", "training", "bench"}, peer.name


def test_the_plain_loop_letterboxes_and_reads_probabilities(tmp_path: Path) -> None:
    import torch

    from bench.peers import plain_loop

    write_archive(tmp_path, ArchiveRecipe(1, {Syntax.J2K: 1.0}, sizes=((400, 300),)))
    seen: list[torch.Tensor] = []

    def segmentation(canvas: torch.Tensor) -> tuple[torch.Tensor, ...]:
        seen.append(canvas)
        return torch.zeros(1, 2, 256, 256), torch.zeros(1, 4), torch.zeros(1, 1)

    def classification(*_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return torch.zeros(1, 2), torch.tensor([[0.0, 0.0, 0.0, 50.0]]), torch.zeros(1), torch.zeros(1)

    stage = plain_loop.screen(next(tmp_path.rglob("IM*")), segmentation, classification)
    assert stage.shape == (1, 4)
    assert float(stage[0, 3]) == pytest.approx(1)
    canvas = seen[0][0, 0].numpy()
    assert canvas.shape == (768, 768)
    assert not canvas[:, :96].any()
    assert canvas[:, 96:672].any(axis=0).all()
    assert np.isfinite(canvas).all()


@pytest.mark.slow
def test_exported_networks_compute_what_the_bundle_computes(tmp_path: Path) -> None:
    import torch

    from bench.peers.networks import export_networks
    from engines.bundle import default_bundle
    from engines.engine import open_engine
    from screener.run import open_verified

    export_networks(default_bundle(), tmp_path)
    canvas = np.random.default_rng(0).random((3, 1, 768, 768), np.float32)
    engine = open_engine(open_verified(None), "segmentation", device="cpu", precision="fp32")
    expected = engine.run({"canvas": canvas})["lungs"]
    with torch.inference_mode():
        lungs, _, _ = torch.export.load(tmp_path / "segmentation.pt2").module()(torch.from_numpy(canvas))
    assert np.abs(lungs.numpy() - expected).max() < 1e-4


def test_results_are_json_all_the_way(tmp_path: Path) -> None:
    from bench.measure import recipe_record

    record = recipe_record(BenchRequest(RunSettings(), TINY))
    assert json.loads(json.dumps(record))["count"] == 6
    assert "archive" in recipe_record(BenchRequest(RunSettings(), TINY, archive=tmp_path))
    assert str(tmp_path) not in json.dumps(recipe_record(BenchRequest(RunSettings(), TINY, archive=tmp_path)))
