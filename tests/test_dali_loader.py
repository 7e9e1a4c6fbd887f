"""Files to batches through the device's loader, against the host's canvases; on a CPU too.

Films are just larger than the canvas, so that the host too decodes them at full size and both see the same
pixels. Tests marked `gpu` repeat the main ones on a GPU.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from engines.devices import Gpu
from screener.archive import walk
from screener.canvas import CANVAS_SIDE
from screener.dali_lane import CANVAS_TOLERANCE, Lane
from screener.dali_loader import DaliLoader
from screener.decode_worker import load_file
from screener.errors import DeviceError, Reason
from screener.host_loader import HostLoader
from screener.loader import open_loader
from screener.nvimagecodec import GPU_BACKENDS, StreamDecoder, StreamFacts
from screener.records import Batch, Float32, HeaderFlag, Rejection, Source
from screener.routes import StreamKind
from screener.settings import RunSettings
from tests import factories, worker_mains
from tests.dicom_archive import real_file
from tests.factories import chest_picture, encode, write_film
from tests.gpu import gpu_or_skip

ROWS, COLUMNS = 860, 772
RUN = RunSettings(batch_size=4, workers=1)
"""One worker: this suite shares its machine."""


@pytest.fixture(params=[pytest.param("cpu"), pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> int | None:
    """None for the processor, else the GPU."""
    return None if request.param == "cpu" else gpu_or_skip().index


def load(
    root: Path, device: int | None, run: RunSettings = RUN, **options: Any
) -> tuple[dict[str, tuple[Source, Float32]], dict[str, Rejection]]:
    films: dict[str, tuple[Source, Float32]] = {}
    rejections: dict[str, Rejection] = {}
    with DaliLoader(root, run, threading.Event(), gpu_index=device, **options) as loader:

        def reject(rejection: Rejection) -> None:
            rejections[rejection.entry.relative_path] = rejection

        for batch in loader.batches(walk(root), on_reject=reject):
            for source, canvas in zip(batch.sources, batch.canvas, strict=True):
                assert source.entry.relative_path not in films
                films[source.entry.relative_path] = source, canvas[0].copy()
            loader.release(batch)
    assert set(films) | set(rejections) == {entry.relative_path for entry in walk(root)}
    return films, rejections


def on_host(root: Path, name: str) -> tuple[Source | Rejection, Float32]:
    (entry,) = [entry for entry in walk(root) if entry.relative_path == name]
    canvas = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    return load_file(root / name, entry, RUN, canvas), canvas


def assert_like_the_host(root: Path, films: dict[str, tuple[Source, Float32]]) -> None:
    for name, (source, canvas) in films.items():
        expected, plain = on_host(root, name)
        assert isinstance(expected, Source)
        assert np.abs(canvas - plain).max() <= CANVAS_TOLERANCE, name
        assert source.identity == expected.identity and source.source_sha256 == expected.source_sha256
        assert source.canvas.letterbox == expected.canvas.letterbox, name
        assert source.canvas.content == expected.canvas.content, name
        assert source.canvas.flags == expected.canvas.flags, name
        assert source.canvas.clipped_fraction == pytest.approx(expected.canvas.clipped_fraction, abs=2e-3)


SYNTAXES = {
    "implicit": ("1.2.840.10008.1.2", "host:raw"),
    "explicit": ("1.2.840.10008.1.2.1", "host:raw"),
    "big_endian": ("1.2.840.10008.1.2.2", "host:raw"),
    "deflated": ("1.2.840.10008.1.2.1.99", "host:deflated"),
    "rle": ("1.2.840.10008.1.2.5", "host:rle"),
    "lossless_sv6": ("1.2.840.10008.1.2.4.57", "host:jpeg_lossless"),
    "jpeg_ls": ("1.2.840.10008.1.2.4.80", "host:jpeg_ls"),
    "near_lossless": ("1.2.840.10008.1.2.4.81", "host:jpeg_ls"),
    "extended": ("1.2.840.10008.1.2.4.51", "host:jpeg"),
    "j2k_lossless": ("1.2.840.10008.1.2.4.90", "nvimagecodec:jpeg2000"),
    "j2k": ("1.2.840.10008.1.2.4.91", "nvimagecodec:jpeg2000"),
    "htj2k_lossless": ("1.2.840.10008.1.2.4.201", "nvimagecodec:htj2k"),
    "htj2k_rpcl": ("1.2.840.10008.1.2.4.202", "nvimagecodec:htj2k"),
    "htj2k": ("1.2.840.10008.1.2.4.203", "nvimagecodec:htj2k"),
}
"""12-bit films: transfer syntax and the route on every device."""


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film in every transfer syntax, 8-bit and signed ones."""
    folder = tmp_path_factory.mktemp("syntaxes")
    deep = chest_picture(ROWS, COLUMNS)
    shallow = chest_picture(ROWS, COLUMNS, bits=8)
    signed = chest_picture(ROWS, COLUMNS, is_signed=True)
    window: dict[str, Any] = {"WindowCenter": 2048, "WindowWidth": 4096}
    for name, (uid, _) in SYNTAXES.items():
        write_film(folder / name, deep, bits_stored=12, transfer_syntax_uid=uid, **window)
    for name, uid in (("8_baseline", "50"), ("8_lossless", "70"), ("8_j2k", "90"), ("8_htj2k", "201")):
        syntax = f"1.2.840.10008.1.2.4.{uid}"
        write_film(folder / name, shallow, transfer_syntax_uid=syntax, WindowCenter=128, WindowWidth=256)
    write_film(folder / "12_lossless", deep, bits_stored=12, transfer_syntax_uid="1.2.840.10008.1.2.4.70")
    for name, uid in (("signed_raw", "1.2.840.10008.1.2.1"), ("signed_j2k", "1.2.840.10008.1.2.4.90")):
        write_film(
            folder / name, signed, bits_stored=12, transfer_syntax_uid=uid, RescaleIntercept=2048, **window
        )
    return folder


def test_canvases_of_every_transfer_syntax_equal_the_hosts(archive: Path, device: int | None) -> None:
    films, rejections = load(archive, device)
    assert not rejections
    assert_like_the_host(archive, films)
    for name, (_, route) in SYNTAXES.items():
        assert films[name][0].canvas.route == route
    assert films["8_baseline"][0].canvas.route == "nvimagecodec:jpeg"
    assert films["8_j2k"][0].canvas.route == "nvimagecodec:jpeg2000"
    assert films["8_htj2k"][0].canvas.route == "nvimagecodec:htj2k"
    if device is None:
        assert films["12_lossless"][0].canvas.route == "host:jpeg_lossless"
        assert films["signed_j2k"][0].canvas.route == "host:jpeg2000"


DISPLAYS: dict[str, dict[str, Any]] = {
    "linear": {"WindowCenter": 2000, "WindowWidth": 3000},
    "exact": {"WindowCenter": 2000, "WindowWidth": 3000, "VOILUTFunction": "LINEAR_EXACT"},
    "sigmoid": {"WindowCenter": 2000, "WindowWidth": 1500, "VOILUTFunction": "SIGMOID"},
    "rescaled": {"WindowCenter": 3100, "WindowWidth": 4500, "RescaleSlope": "1.5", "RescaleIntercept": "100"},
    "no_window": {},
    "hiding_window": {"WindowCenter": 100, "WindowWidth": 20},
    "step": {"WindowCenter": 2000, "WindowWidth": 1},
    "monochrome1": {"WindowCenter": 2048, "WindowWidth": 4096, "PhotometricInterpretation": "MONOCHROME1"},
    "padding": {"WindowCenter": 2048, "WindowWidth": 4096, "PixelPaddingValue": 0},
    "for_processing": {"PresentationIntentType": "FOR PROCESSING"},
}


def voi_table() -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [4096, 0, 12]
    item.LUTData = (np.linspace(0, 1, 4096) ** 2 * 4095).astype("<u2").tobytes()
    return Sequence([item])


def test_every_kind_of_display_equals_the_hosts(tmp_path: Path, device: int | None) -> None:
    film = chest_picture(ROWS, COLUMNS)
    bordered = film.copy()
    bordered[:90], bordered[:, -80:] = 12, 12
    padded = film.copy()
    padded[:70] = 0
    for name, tags in DISPLAYS.items():
        pixels = padded if name == "padding" else 4095 - film if name == "monochrome1" else film
        write_film(tmp_path / name, pixels, bits_stored=12, **tags)
    write_film(tmp_path / "table", film, bits_stored=12, VOILUTSequence=voi_table())
    write_film(tmp_path / "borders", bordered, bits_stored=12, WindowCenter=2048, WindowWidth=4096)
    write_film(tmp_path / "negative", 4095 - film, bits_stored=12, WindowCenter=2048, WindowWidth=4096)
    films, rejections = load(tmp_path, device)
    assert not rejections
    assert_like_the_host(tmp_path, films)
    flags = {name: source.canvas.flags for name, (source, _) in films.items()}
    assert HeaderFlag.WINDOW_IGNORED in flags["hiding_window"] and HeaderFlag.NO_WINDOW in flags["no_window"]
    assert HeaderFlag.FOR_PROCESSING in flags["for_processing"]


def test_every_size_is_drawn_by_one_or_the_other(tmp_path: Path, device: int | None) -> None:
    for rows, columns in ((700, 500), (1500, 1240), (1531, 1029), (1100, 300), (1024, 1024)):
        film = chest_picture(rows, columns)
        write_film(tmp_path / f"{rows}", film, bits_stored=12, WindowCenter=2048, WindowWidth=4096)
    films, rejections = load(tmp_path, device)
    assert not rejections
    assert_like_the_host(tmp_path, films)


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sound films among broken codestreams, a blank one, and files that are no film."""
    folder = tmp_path_factory.mktemp("faults")
    film = chest_picture(ROWS, COLUMNS)
    j2k = {"bits_stored": 12, "transfer_syntax_uid": "1.2.840.10008.1.2.4.90"}
    stream = encode(film, j2k["transfer_syntax_uid"], bits=12)  # type: ignore[arg-type]
    for number in range(3):
        write_film(folder / f"sound{number}", film, **j2k)  # type: ignore[arg-type]
    garbled = bytearray(stream)
    garbled[200:-2] = bytes(len(garbled) - 202)
    write_film(folder / "truncated", film, payload=stream[: len(stream) // 2], **j2k)  # type: ignore[arg-type]
    write_film(folder / "garbled", film, payload=bytes(garbled), **j2k)  # type: ignore[arg-type]
    write_film(folder / "garbage", film, payload=b"no codestream at all", **j2k)  # type: ignore[arg-type]
    write_film(folder / "black", np.zeros_like(film), **j2k)  # type: ignore[arg-type]
    write_film(folder / "blank_raw", np.full_like(film, 7), bits_stored=12)
    shutil.copy(real_file("odd/test-SR.dcm"), folder)
    return folder


def test_one_bad_sample_costs_one_sample(faults: Path, device: int | None) -> None:
    films, rejections = load(faults, device)
    assert {name for name in films if name.startswith("sound")} == {"sound0", "sound1", "sound2"}
    assert films["sound0"][0].canvas.route == "nvimagecodec:jpeg2000"
    assert_like_the_host(faults, films)
    assert rejections["black"].reason is Reason.BLANK_IMAGE
    assert rejections["blank_raw"].reason is Reason.BLANK_IMAGE
    assert rejections["truncated"].reason is Reason.TRUNCATED_PIXEL_DATA
    for name, rejection in rejections.items():
        expected, _ = on_host(faults, name)
        assert isinstance(expected, Rejection)
        assert (rejection.reason, rejection.instance) == (expected.reason, expected.instance)


def all_black(
    decode: Callable[[StreamDecoder, list[StreamFacts]], list[Any]],
) -> Callable[[StreamDecoder, list[StreamFacts]], list[Any]]:
    """nvJPEG before 13.0.2 on 12-bit lossless JPEG: success, and every pixel zero."""

    def black(decoder: StreamDecoder, streams: list[StreamFacts]) -> list[Any]:
        pictures = decode(decoder, streams)
        return [np.zeros_like(np.asarray(each)) if each is not None else None for each in pictures]

    return black


def test_an_all_zero_decode_is_never_a_picture(faults: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proven = StreamDecoder(None).prove()
    monkeypatch.setattr(StreamDecoder, "decode", all_black(StreamDecoder.decode))
    assert not StreamDecoder(None).prove()
    monkeypatch.setattr(StreamDecoder, "prove", lambda _: proven)  # it went wrong after the start
    films, _ = load(faults, None)
    assert films["sound0"][0].canvas.route == "host:jpeg2000"
    assert_like_the_host(faults, films)


def test_a_device_error_sends_the_batch_to_the_host(faults: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Lane._placed, []

    def once(lane: Lane, films: list[Any], dtype: str, **options: Any) -> Any:
        calls.append(len(films))
        if len(calls) == 1:
            raise RuntimeError("CUDA error")
        return real(lane, films, dtype, **options)

    monkeypatch.setattr(Lane, "_placed", once)
    films, rejections = load(faults, None)
    assert {"sound0", "sound1", "sound2"} <= set(films)
    assert_like_the_host(faults, films)
    assert rejections["black"].reason is Reason.BLANK_IMAGE


def test_what_the_gpus_libraries_raise_at_the_start_is_one_typed_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("nvImageCodec failure: driver too old\nin some file")

    open_before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr("screener.nvimagecodec.nv.Decoder", broken)
    with pytest.raises(DeviceError, match=r"cannot decode films \(nvImageCodec failure: driver too old\)"):
        DaliLoader(tmp_path, RUN, threading.Event(), gpu_index=None)
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


@pytest.fixture
def unusable_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is found, and that CUDA then cannot use: its number is beyond any machine's."""
    gpu = Gpu(999, "Fake", (9, 0), 80 << 30, 13000)
    monkeypatch.setattr("engines.devices.probe_gpu", lambda index: gpu)
    monkeypatch.setattr("engines.devices._installed_backend", lambda *_: "torch")


@pytest.mark.usefixtures("unusable_gpu")
def test_auto_falls_back_to_the_host_and_says_why(faults: Path) -> None:
    told: list[str] = []
    with open_loader(faults, RUN, threading.Event(), told.append) as loader:
        assert isinstance(loader, HostLoader)
        batches = loader.batches(walk(faults), on_reject=lambda _: None)
        assert any(source.entry.relative_path == "sound0" for batch in batches for source in batch.sources)
    (text,) = told
    assert text.startswith("films are decoded on the host: the GPU cannot decode films (CUDA: cudaSetDevice")


@pytest.mark.usefixtures("unusable_gpu")
def test_cuda_never_falls_back(tmp_path: Path) -> None:
    settings = RunSettings(device="cuda", workers=1)
    told: list[str] = []
    with pytest.raises(DeviceError, match="use --device cpu"):
        open_loader(tmp_path, settings, threading.Event(), told.append)
    assert told == []


def test_a_gpu_never_hands_codestreams_to_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    film = factories.chest_picture(120, 90)
    payload = np.frombuffer(encode(film, "1.2.840.10008.1.2.4.90", bits=12), np.uint8)
    stream = StreamFacts(payload, 120, 90, "uint16")
    monkeypatch.setattr("screener.nvimagecodec.CPU_BACKENDS", GPU_BACKENDS)
    assert StreamDecoder(None).decode([stream]) == [None]  # the kinds of a GPU, and none here


def test_decoder_proves_on_a_cpu_what_its_documentation_says() -> None:
    assert StreamDecoder(None).prove() == {
        StreamKind.JPEG_8,
        StreamKind.LOSSLESS_8,
        StreamKind.J2K_8,
        StreamKind.J2K_16,
        StreamKind.HTJ2K_8,
        StreamKind.HTJ2K_16,
    }


@pytest.mark.parametrize("uid", ["90", "201"])
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_lossless_codestreams_decode_exactly(uid: str, bits: int) -> None:
    film = factories.chest_picture(120, 90, bits=bits)
    payload = np.frombuffer(encode(film, f"1.2.840.10008.1.2.4.{uid}", bits=bits), np.uint8)
    (picture,) = StreamDecoder(None).decode([StreamFacts(payload, 120, 90, str(film.dtype))])
    assert picture is not None
    np.testing.assert_array_equal(picture[..., 0], film)


def test_decoder_leaves_out_what_is_not_as_declared() -> None:
    film = factories.chest_picture(120, 90)
    payload = np.frombuffer(encode(film, "1.2.840.10008.1.2.4.90", bits=12), np.uint8)
    good, wrong_size = StreamFacts(payload, 120, 90, "uint16"), StreamFacts(payload, 121, 90, "uint16")
    noise = StreamFacts(payload[40:], 120, 90, "uint16")
    pictures = StreamDecoder(None).decode([good, wrong_size, noise, good])
    assert [picture is not None for picture in pictures] == [True, False, False, True]


def test_a_worker_that_crashes_costs_its_file(faults: Path, tmp_path: Path) -> None:
    for name in ("sound0", "sound1"):
        shutil.copy(faults / name, tmp_path)
    shutil.copy(faults / "sound2", tmp_path / "segfault")
    films, rejections = load(tmp_path, None, worker_main=worker_mains.prepare_or_misbehave)
    assert set(films) == {"sound0", "sound1"}
    assert rejections["segfault"].reason is Reason.DECODER_CRASHED
    assert rejections["segfault"].identity.study_instance_uid


def test_memory_bound_and_back_pressure(archive: Path) -> None:
    run = RunSettings(batch_size=2, workers=1, gpu_memory_mb=20)  # one film of 12 bytes a pixel in each lane
    held: list[Batch] = []
    with DaliLoader(archive, run, threading.Event(), gpu_index=None) as loader:
        batches = loader.batches(walk(archive), on_reject=lambda _: None)
        for batch in batches:
            held.append(batch)
            if len(held) == 4:
                break
        copies = [batch.canvas.copy() for batch in held]
        threading.Event().wait(0.5)  # lanes would paint over them now, if they were allowed to
        for batch, copy in zip(held, copies, strict=True):
            np.testing.assert_array_equal(batch.canvas, copy)
            loader.release(batch)
        names = [source.entry.relative_path for batch in held for source in batch.sources]
        for batch in batches:
            names += [source.entry.relative_path for source in batch.sources]
            loader.release(batch)
    assert sorted(names) == sorted(entry.relative_path for entry in walk(archive))


def test_leaving_early_ends_workers_and_lanes(archive: Path) -> None:
    before = threading.active_count()
    with DaliLoader(archive, RUN, threading.Event(), gpu_index=None) as loader:
        next(loader.batches(walk(archive), on_reject=lambda _: None))
    assert threading.active_count() == before
