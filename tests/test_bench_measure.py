"""The benchmark itself on a tiny archive, timing aside; peers as real processes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from bench import commands, workbench
from bench.archive_factory import ArchiveRecipe, Syntax, write_archive
from bench.measure import STEPS, BenchRequest, measure
from bench.peers.environments import PEERS, Peer, PeerUnavailable, python_of
from bench.race import _Contender, _installed, _race_on, race
from screener.errors import ConfigError
from screener.settings import RunSettings

TINY = ArchiveRecipe(6, {Syntax.RAW: 1.0}, sizes=((300, 333),))


@pytest.mark.bench
def test_every_step_and_the_stream_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workbench, "SAMPLE_FILES", 4)
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
    waits = stream.repeats[0].waits
    assert waits.slots == 8
    assert waits.free + waits.decoding + waits.drawn + waits.with_engines == pytest.approx(8, abs=0.5)
    assert "everything together, repeat 1 of 1" in said[-1]


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
    contenders = [
        _Contender(Peer("good", str(good), ()), Path(sys.executable)),
        _Contender(Peer("bad", str(bad), ()), Path(sys.executable)),
        _Contender(Peer("missing", "plain_loop.py", ()), None, "pip failed"),
    ]
    monkeypatch.setattr("bench.race._run_screener", lambda *_: 30.0)
    request = BenchRequest(RunSettings(), TINY, repeats=2)
    done = {each.peer: each for each in _race_on("raw", archive, contenders, request, folder, print)}
    assert [each.ratio for each in done["good"].rounds] == [10.0, 10.0]
    assert done["good"].versions == {"thing": "1"}
    assert done["bad"].rounds == ()
    assert "cannot read a film" in done["bad"].not_measured
    assert done["missing"].not_measured == "pip failed"


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
