"""The command as an operator meets it: a process, its exit code, its output, and what a kill leaves."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import psutil
import pytest

from bench.archive_factory import ArchiveRecipe, Syntax, write_archive
from screener import INTENDED_USE
from screener.doctor import CODECS
from screener.pseudonyms import load_key
from tests.dicom_archive import REPOSITORY, copied_outcomes

SCREENER = [sys.executable, "-m", "screener"]
EXAMPLES = REPOSITORY / "examples" / "archive"


def screener(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [*SCREENER, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240, check=False)


@pytest.fixture(scope="module")
def many_films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 small films of every syntax."""
    archive = tmp_path_factory.mktemp("many") / "archive"
    write_archive(archive, ArchiveRecipe(120, dict.fromkeys(Syntax, 1.0), sizes=((420, 360), (300, 333))))
    return archive


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    probe = (
        "import sys\nfrom screener.cli import app\nfrom typer.testing import CliRunner\n"
        "result = CliRunner().invoke(app, ['--help'])\nassert result.exit_code == 0\n"
        "heavy = {'numpy', 'cv2', 'polars', 'openvino', 'pydicom', 'torch', 'scipy'} & set(sys.modules)\n"
        "print(sorted(heavy), result.output)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("[]")
    for command in ("run", "retry", "inspect", "resolve", "doctor"):
        assert f" {command} " in done.stdout


def test_every_command_is_in_the_readme_and_has_help() -> None:
    from typer.main import get_command

    from screener.cli import app

    readme = (REPOSITORY / "README.md").read_text("utf-8")
    commands = getattr(get_command(app), "commands")  # noqa: B009 - click types the group only at run time
    assert len(commands) >= 5
    for name, command in commands.items():
        assert command.help, name
        assert f"screener {name}" in readme, name


def test_usage_errors_exit_with_2(tmp_path: Path) -> None:
    assert screener("run", tmp_path / "nothing", "--key-file", tmp_path / "key").returncode == 2
    assert screener("run", EXAMPLES, "--device", "abacus", "--key-file", tmp_path / "key").returncode == 2
    assert screener("no-such-command").returncode == 2
    (tmp_path / "empty").mkdir()
    done = screener("run", "empty", "--key-file", "key", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["found"]) == (2, 0)
    assert "mounted" in done.stderr
    assert pl.read_parquet(tmp_path / "empty-campaign" / "studies.parquet").height == 0


def test_a_run_prints_rows_places_and_intended_use(tmp_path: Path) -> None:
    done = screener("run", EXAMPLES, "--key-file", tmp_path / "key", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "archive-campaign" / "studies.parquet").exists()
    assert "archive-campaign/studies.parquet" in done.stdout
    assert INTENDED_USE in done.stdout
    assert "suspected, not diagnosed" in done.stdout


def test_too_many_rejects_exit_with_3_and_json_is_json(tmp_path: Path) -> None:
    done = screener(
        "run",
        EXAMPLES,
        "--out",
        tmp_path / "c",
        "--key-file",
        tmp_path / "key",
        "--json",
        "--reject-share",
        0.05,
    )
    assert done.returncode == 3
    summary = json.loads(done.stdout)
    assert summary["found"] == summary["screened"] + summary["rejected"] + summary["failed"]


def identities() -> set[str]:
    """Names, IDs and file names of the real files: what must not appear anywhere public."""
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    found: set[str] = set()
    for path, _ in copied_outcomes():
        try:
            dataset = dcmread(path, stop_before_pixels=True, force=path.suffix != ".gz")
            values = [str(dataset.get(name, "")) for name in ("PatientName", "PatientID", "AccessionNumber")]
        except (InvalidDicomError, OSError, ValueError, AttributeError, NotImplementedError):
            continue
        found |= {value for value in values if len(value) >= 6}
    found |= {path.name for path in EXAMPLES.rglob("*") if path.is_file() and len(path.name) >= 6}
    assert len(found) > 10
    return found


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_no_identity_leaves_the_private_folder(tmp_path: Path) -> None:
    done = screener(
        "run", EXAMPLES, "--out", tmp_path / "c", "--key-file", tmp_path / "key", "--pictures", "all"
    )
    public = [done.stdout.encode(), done.stderr.encode()]
    public += [
        path.read_bytes()
        for path in (tmp_path / "c").rglob("*")
        if path.is_file() and "private" not in path.parts
    ]
    tables = [
        pl.read_parquet(path) for path in (tmp_path / "c").rglob("*.parquet") if "private" not in path.parts
    ]
    public += [
        table.with_columns(pl.col(pl.List(pl.String)).list.join(" ")).write_csv().encode() for table in tables
    ]
    everything = b"\n".join(public)
    leaked = {text for text in identities() - {"DICOMDIR"} if text.encode() in everything}
    assert not leaked
    assert (tmp_path / "c" / "private").stat().st_mode & 0o777 == 0o700


def test_names_in_chinese_come_back_intact(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(REPOSITORY / "tests" / "dicom" / "charset", archive)
    screener("run", archive, "--out", tmp_path / "c", "--key-file", tmp_path / "key")
    resolved = screener("resolve", tmp_path / "c", "--images")
    assert "Wang^XiaoDong=王^小东" in resolved.stdout
    assert "やまだ^たろう" in resolved.stdout
    assert "Люкceмбypг" in resolved.stdout


def test_inspect_explains_and_names_nobody() -> None:
    chest = next(path for path, outcome in copied_outcomes() if outcome.file == "chest/RG1_JLSN")
    done = screener("inspect", chest, "--json")
    facts = json.loads(done.stdout)
    assert facts["outcome"]["status"] == "screened"
    assert facts["canvas"]["route"] == "jpeg_ls"
    assert "9RG1" not in done.stdout
    ct = next(path for path, outcome in copied_outcomes() if outcome.file == "codec/CT_small.dcm")
    assert json.loads(screener("inspect", ct, "--json").stdout)["outcome"]["reason"] == "not_a_radiograph"


def test_doctor_finds_this_installation_sound() -> None:
    done = screener("doctor", "--json")
    assert done.returncode == 0, done.stdout
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["JPEG 2000"]["found"] == "decodes exactly"
    codecs = {check["name"]: check["state"] for check in checks.values() if check["topic"] == "codec"}
    assert codecs.keys() == CODECS.keys()
    assert set(codecs.values()) == {"fine"}
    assert checks["default"]["state"] == "fine"


def test_doctor_finds_a_codec_that_decodes_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CODECS["RLE"].run()
    monkeypatch.setattr("imagecodecs.dicomrle_decode", lambda *_, out: bytes(out))
    assert not CODECS["RLE"].run()


def start(archive: Path, campaign: Path) -> subprocess.Popen[bytes]:
    arguments: Sequence[object] = ("run", archive, "--out", campaign, "--key-file", campaign.with_name("key"))
    quick_parts = ("--part-rows", "10", "--batch-size", "4", "--json")
    command = [*SCREENER, *map(str, arguments), *quick_parts]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> dict[str, int]:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors.decode()
    summary: dict[str, int] = json.loads(output)
    return summary


def wait_for_parts(campaign: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + 120
    while len(list((campaign / "images").glob("part-*.parquet"))) < count and process.poll() is None:
        assert time.monotonic() < give_up, "no parts appeared"
        time.sleep(0.02)


def studies(campaign: Path) -> pl.DataFrame:
    return pl.read_parquet(campaign / "studies.parquet")


def test_kill_9_and_resume_gives_the_uninterrupted_studies(many_films: Path, tmp_path: Path) -> None:
    load_key(tmp_path / "key", tmp_path / "whole")
    assert finish(start(many_films, tmp_path / "whole"))["screened"] == 120
    campaign = tmp_path / "killed"
    luck = random.Random(7)
    for parts in (2, 5):
        process = start(many_films, campaign)
        wait_for_parts(campaign, parts, process)
        time.sleep(luck.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        sealed = pl.read_parquet(campaign / "images" / "part-*.parquet")
        assert sealed["file_id"].is_unique().all()
    summary = finish(start(many_films, campaign))
    assert summary["already_done"] >= 40
    assert summary["found"] == 120
    assert pl.read_parquet(campaign / "images" / "part-*.parquet").height == 120
    assert studies(campaign).equals(studies(tmp_path / "whole"))


def test_ctrl_c_finishes_the_part_in_hand_and_says_how_to_continue(many_films: Path, tmp_path: Path) -> None:
    campaign = tmp_path / "c"
    process = start(many_films, campaign)
    wait_for_parts(campaign, 1, process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    summary = json.loads(output)
    assert summary["interrupted"]
    rows = pl.read_parquet(campaign / "images" / "part-*.parquet").height
    assert rows == summary["found"] < 120
    assert b"press Ctrl-C again" in errors
    assert b"same command again" in errors
    finish(start(many_films, campaign))
    assert pl.read_parquet(campaign / "images" / "part-*.parquet").height == 120


def test_a_second_ctrl_c_ends_at_once_however_long_the_files_in_hand_take(
    many_films: Path, tmp_path: Path
) -> None:
    process = start(many_films, tmp_path / "c")
    wait_for_parts(tmp_path / "c", 1, process)
    for child in psutil.Process(process.pid).children():
        if "--multiprocessing-fork" in child.cmdline():  # a decoder, not the resource tracker
            child.send_signal(signal.SIGSTOP)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while b"Ctrl-C again" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=40)  # a file in hand is given up after 60 s
    assert process.returncode not in (None, 0)


def test_stop_of_a_service_reaches_every_process_and_costs_no_file(many_films: Path, tmp_path: Path) -> None:
    campaign = tmp_path / "c"
    process = start(many_films, campaign)
    wait_for_parts(campaign, 1, process)
    for each in [*psutil.Process(process.pid).children(recursive=True), process]:
        each.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert json.loads(output)["failed"] == 0


def test_no_worker_outlives_a_killed_run(many_films: Path, tmp_path: Path) -> None:
    process = start(many_films, tmp_path / "c")
    wait_for_parts(tmp_path / "c", 1, process)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_a_second_run_on_the_same_campaign_is_refused_while_one_works(
    many_films: Path, tmp_path: Path
) -> None:
    process = start(many_films, tmp_path / "c")
    wait_for_parts(tmp_path / "c", 1, process)
    other = screener("run", many_films, "--out", tmp_path / "c", "--key-file", tmp_path / "key")
    process.kill()
    process.communicate()
    assert other.returncode == 2
    assert "working on this campaign" in other.stderr


def test_engines_are_held_against_torch_on_real_films() -> None:
    done = screener("engines", "verify", EXAMPLES, "--precision", "fp32")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept" in done.stdout
    assert screener("engines", "verify", EXAMPLES, "--precision", "fp7").returncode == 2


def test_building_plans_without_a_gpu_says_what_is_missing() -> None:
    import shutil as programs

    if programs.which("nvidia-smi") is None:
        done = screener("engines", "build")
        assert done.returncode == 1
        assert "GPU" in done.stderr or "TensorRT" in done.stderr
