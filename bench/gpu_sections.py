"""The sections of `bench.gpu_check`: each turns a bench with or without a GPU into rows of findings.

A reader may question that sections import DALI, torch and CUDA inside: on a machine that lacks one of them
the other sections still run, and the one that needs it says what is missing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.archive_factory import LARGE_FILM, UIDS, VARIED_SIZES, ArchiveRecipe, Syntax, write_archive
from engines.compare import compare
from engines.devices import Device, Gpu
from engines.engine import Engine, Precision, open_engine, open_engines
from screener.archive import walk
from screener.canvas import CANVAS_SIDE, display_transform, draw_canvas
from screener.codecs import decode
from screener.codestreams import read_codestream
from screener.eligibility import check_eligible
from screener.frame import EncodedFrame, read_frame
from screener.header import ParsedHeader, read_header
from screener.overlap import overlapped
from screener.records import ArchiveEntry, Batch, Float32
from screener.routes import StreamKind
from screener.run import open_verified
from screener.segment import segment
from screener.settings import RunSettings

CODED = (Syntax.J2K, Syntax.HTJ2K, Syntax.JPEG_LOSSLESS)
J2K_GOAL_MP_S = 1000.0
DENSENET_GOAL, UNET_GOAL = 25_000.0, 10_000.0
SHARE_GOAL = 0.9
CANVAS_GOAL = 2e-3
FLIPS_GOAL = 0.005
H200_FP16_FLOPS = 989e12
"""Dense FP16 tensor rate of one H200, NVIDIA's data sheet."""
TIMED_S = 2.0
"""How long each rate is measured."""


@dataclass(frozen=True, slots=True)
class Row:
    """One finding."""

    section: str
    name: str
    value: float | str
    unit: str = ""
    goal: str = ""
    met: bool | None = None
    """None where there is no goal."""


@dataclass(slots=True)
class Bench:
    """What the sections share."""

    gpu: Gpu | None
    """None rehearses on the processor."""
    folder: Path
    pictures: list[Float32]
    deadline: float
    rows: list[Row] = field(default_factory=list)

    @property
    def index(self) -> int | None:
        """CUDA device index, or None."""
        return None if self.gpu is None else self.gpu.index

    @property
    def film_size(self) -> tuple[int, int]:
        """Rows and columns of the films."""
        return (860, 772) if self.gpu is None else LARGE_FILM

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Codestreams of a call."""
        return (2,) if self.gpu is None else (1, 8, 32)

    @property
    def device(self) -> Device:
        """Where the candidate's networks run."""
        return "cpu" if self.gpu is None else "cuda"

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Arithmetic to compare."""
        return ("fp32",) if self.gpu is None else ("fp32", "fp16")

    def archive(self, name: str, count: int, sizes: tuple[tuple[int, int], ...]) -> Path:
        """Films in every coding that the device decodes, uncompressed and JPEG-LS."""
        root = self.folder / name
        mix = dict.fromkeys((*CODED, Syntax.RAW, Syntax.JPEGLS), 1.0)
        if not root.exists():
            write_archive(root, ArchiveRecipe(count, mix, sizes), self.pictures)
        return root


Section = Callable[[Bench], Iterator[Row]]


def exact_decodes(bench: Bench) -> Iterator[Row]:
    """Lossless codestreams against the host's codecs, by kind and at full size."""
    from screener.nvimagecodec import StreamDecoder, StreamFacts, to_host

    decoder = StreamDecoder(bench.index)
    proven = decoder.prove()
    for kind in StreamKind:
        yield Row("exact", kind, "exact" if kind in proven else "left to the host")
    root = bench.archive("films", 20 if bench.gpu else 5, (bench.film_size,))
    for syntax, (_, _, frame) in _one_of_each(root).items():
        if syntax not in CODED:
            continue
        stream = read_codestream(frame.payload)
        expected = decode(frame, cover_px=None).pixels
        facts = StreamFacts(
            np.frombuffer(bytes(stream.payload), np.uint8), frame.rows, frame.columns, str(expected.dtype)
        )
        (picture,) = decoder.decode([facts])
        if picture is None:
            yield Row("exact", f"{syntax} full size", "not decoded", met=None if bench.gpu is None else False)
            continue
        differing = int(np.count_nonzero(to_host(picture)[..., 0] != expected))
        yield Row("exact", f"{syntax} full size", differing, "pixels differ", "0", differing == 0)


def canvases(bench: Bench) -> Iterator[Row]:
    """Canvases of the device's loader against the host's, from the same full-size pixels."""
    root = bench.archive("varied", 20, VARIED_SIZES if bench.gpu else (bench.film_size,))
    worst: dict[str, float] = {}
    for entry, canvas, route in _loaded(bench, root):
        parsed, frame = _read(root, entry)
        expected = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
        instance = check_eligible(parsed, RunSettings())
        transform = display_transform(parsed.dataset, instance)
        draw_canvas(decode(frame, cover_px=None), transform, frame.rows, frame.columns, expected)
        worst[route] = max(worst.get(route, 0.0), float(np.abs(canvas - expected).max()))
    for route, error in sorted(worst.items()):
        yield Row("canvas", route, error, "largest difference", f"<= {CANVAS_GOAL}", error <= CANVAS_GOAL)


def networks(bench: Bench) -> Iterator[Row]:
    """Masks and logits of the device's engines against the CPU's, on the loader's canvases."""
    root = bench.archive("varied", 20, VARIED_SIZES if bench.gpu else (bench.film_size,))
    canvas = np.stack([canvas for _, canvas, _ in _loaded(bench, root)])[:, None]
    bundle = open_verified(None)
    for precision in bench.precisions:
        with (
            open_engines(bundle, device="cpu", precision="fp32") as reference,
            open_engines(bundle, device=bench.device, precision=precision) as candidate,
        ):
            found = compare(reference, candidate, canvas)
        flips, dice = found.stage_flips, found.mask_dice
        largest = max(error.largest for error in found.logits)
        yield Row("networks", f"{precision} stage flips", flips, "", f"< {FLIPS_GOAL}", flips < FLIPS_GOAL)
        yield Row("networks", f"{precision} mask Dice", dice)
        yield Row("networks", f"{precision} logits", largest, "largest difference")


def decode_rates(bench: Bench) -> Iterator[Row]:
    """Megapixels a second of decoding alone, by syntax and batch size, in device memory."""
    from engines.cuda_runtime import CudaRuntime
    from screener.nvimagecodec import StreamDecoder, StreamFacts

    runtime = None if bench.gpu is None else CudaRuntime(bench.gpu.index)
    stream = runtime.create_stream() if runtime else 0
    decoder = StreamDecoder(bench.index, stream)
    root = bench.archive("films", 20 if bench.gpu else 5, (bench.film_size,))
    for syntax, (_, _, frame) in _one_of_each(root).items():
        if syntax not in CODED:
            continue
        payload = np.frombuffer(bytes(read_codestream(frame.payload).payload), np.uint8)
        facts = StreamFacts(payload, frame.rows, frame.columns, "uint16")
        for batch_size in bench.batch_sizes:

            def once(batch: tuple[StreamFacts, ...] = (facts,) * batch_size) -> bool:
                pictures = decoder.decode(batch)
                if runtime is not None:
                    runtime.synchronize(stream)
                return all(picture is not None for picture in pictures)

            if not once():
                yield Row("decode", f"{syntax} x {batch_size}", "left to the host")
                continue
            rate = _per_second(once) * batch_size * frame.rows * frame.columns / 1e6
            is_goal = syntax is Syntax.J2K and batch_size == max(bench.batch_sizes) and bench.gpu is not None
            goal = f">= {J2K_GOAL_MP_S:.0f}" if is_goal else ""
            met = rate >= J2K_GOAL_MP_S if is_goal else None
            yield Row("decode", f"{syntax} x {batch_size}", rate, "MP/s", goal, met)


def network_rates(bench: Bench) -> Iterator[Row]:
    """Images a second of each of the bundle's graphs alone: the backend that a run takes, and eager torch."""
    from engines.torch_reference import TorchEngine

    bundle = open_verified(None)
    batch_size = 64 if bench.gpu else 1
    for name in ("segmentation", "classification"):
        for precision in bench.precisions:
            chosen = open_engine(
                bundle, name, device=bench.device, precision=precision, batch_size=batch_size
            )
            yield _engine_rate(f"{name} {precision}", chosen, batch_size)
            eager = TorchEngine.from_onnx(
                bundle.read_graph(name),
                device="cpu" if bench.gpu is None else f"cuda:{bench.gpu.index}",
                precision=precision,
                micro_batch=batch_size,
            )
            yield _engine_rate(f"{name} {precision}", eager, batch_size)


def _engine_rate(label: str, engine: Engine, batch_size: int) -> Row:
    random = np.random.default_rng(0)
    shapes = {spec.name: (batch_size, *(size or 1 for size in spec.shape[1:])) for spec in engine.inputs}
    feeds = {name: random.random(shape, np.float32) for name, shape in shapes.items()}
    if "box" in feeds:
        feeds["box"] = np.tile(np.array([100, 100, 700, 700], np.float32), (batch_size, 1))
    rate = _per_second(lambda: engine.run(feeds)) * batch_size
    backend = engine.description.split(",")[0]
    engine.close()
    return Row("network", f"{label} ({backend})", rate, "images/s")


def plain_network_rates(bench: Bench) -> Iterator[Row]:
    """Images a second of a DenseNet-121 at 224² and a U-Net of base 32 at 256² in FP16 torch.

    Eager and compiled, without copies: these are the rates that the goals name.
    """
    import torch
    from monai.networks.nets.basic_unet import BasicUNet
    from monai.networks.nets.densenet import DenseNet121
    from torch.utils.flop_counter import FlopCounterMode

    densenet: Any = DenseNet121(spatial_dims=2, in_channels=1, out_channels=2)
    unet: Any = BasicUNet(spatial_dims=2, in_channels=1, out_channels=2, features=(32, 32, 64, 128, 256, 32))
    plain = (
        ("DenseNet-121 224²", densenet, 224, DENSENET_GOAL),
        ("U-Net base 32 256²", unet, 256, UNET_GOAL),
    )
    place, batch_size = ("cuda", 256) if bench.gpu else ("cpu", 1)
    dtype = torch.float16 if bench.gpu else torch.float32
    for name, module, side, wanted in plain:
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            module.eval()(torch.zeros(1, 1, side, side))
        bound = H200_FP16_FLOPS / counter.get_total_flops()
        yield Row("plain", f"{name} at the H200's FP16 rate", bound, "images/s")
        network = module.to(place, dtype, memory_format=torch.channels_last)
        images = torch.rand(batch_size, 1, side, side, device=place, dtype=dtype)
        images = images.to(memory_format=torch.channels_last)
        runs = {"eager": network}
        if bench.gpu:
            runs["compiled"] = torch.compile(network, mode="max-autotune")
        best = 0.0
        for mode, run in runs.items():
            best = max(best, rate := _torch_rate(run, images))
            yield Row("plain", f"{name} {mode}", rate, "images/s")
        met = best >= wanted if bench.gpu else None
        yield Row("plain", f"{name} best", best, "images/s", f">= {wanted:.0f}", met)


def _torch_rate(run: Any, images: Any) -> float:  # noqa: ANN401 - torch is imported on use
    import torch

    def once() -> None:
        with torch.inference_mode():
            run(images)
        if images.is_cuda:
            torch.cuda.current_stream().synchronize()

    return _per_second(once) * len(images)


def end_to_end(bench: Bench) -> Iterator[Row]:
    """Loader alone, segmentation of its batches alone, and the two together, files in the page cache."""
    root = bench.archive("films", 200 if bench.gpu else 5, (bench.film_size,))
    count = sum(1 for _ in _loaded(bench, root))  # files to the page cache, kernels loaded
    began = time.perf_counter()
    kept = [canvas for _, canvas, _ in _loaded(bench, root)]
    loader = count / (time.perf_counter() - began)
    with open_engines(open_verified(None), device=bench.device) as engines:
        canvas = np.stack(kept[: _settings(bench).batch_size])[:, None]
        engines.segmentation.run({"canvas": canvas})
        network = _per_second(lambda: engines.segmentation.run({"canvas": canvas})) * len(canvas)
        with _loader(bench, root) as opened:
            began = time.perf_counter()
            batches = opened.batches(walk(root), on_reject=lambda _: None)
            for batch, _ in overlapped(lambda each: segment(each, engines.segmentation), batches, depth=2):
                opened.release(batch)
            together = count / (time.perf_counter() - began)
    share = together / min(loader, network)
    yield Row("stream", "loader alone, workers' start included", loader, "images/s")
    yield Row("stream", "segmentation alone", network, "images/s")
    yield Row("stream", "together", together, "images/s")
    met = share >= SHARE_GOAL if bench.gpu else None
    yield Row("stream", "share of the slower", share, "", f">= {SHARE_GOAL}", met)


def capacity(bench: Bench) -> Iterator[Row]:
    """Device memory in use now, and how many films would fit in the rest."""
    if bench.gpu is None:
        yield Row("capacity", "device memory", "no GPU")
        return
    from cuda.bindings import runtime

    _, free, total = runtime.cudaMemGetInfo()
    yield Row("capacity", "device memory in use", (total - free) / 1e9, "GB")
    rows, columns = LARGE_FILM
    yield Row("capacity", "decoded films that would fit", free // (2 * rows * columns), "films")


def _settings(bench: Bench) -> RunSettings:
    return RunSettings(batch_size=32) if bench.gpu else RunSettings(batch_size=4, workers=1)


def _loader(bench: Bench, root: Path) -> Any:  # noqa: ANN401 - imported on use
    from screener.dali_loader import DaliLoader

    return DaliLoader(root, _settings(bench), threading.Event(), gpu_index=bench.index)


def _loaded(bench: Bench, root: Path) -> Iterator[tuple[ArchiveEntry, Float32, str]]:
    """Every film's entry, canvas (768, 768) and route."""
    with _loader(bench, root) as loader:
        batch: Batch
        for batch in loader.batches(walk(root), on_reject=lambda _: None):
            for source, canvas in zip(batch.sources, batch.canvas, strict=True):
                yield source.entry, canvas[0].copy(), source.canvas.route
            loader.release(batch)


def _one_of_each(root: Path) -> dict[Syntax, tuple[ArchiveEntry, ParsedHeader, EncodedFrame]]:
    """The first file of each encoding."""
    names = {str(uid): syntax for syntax, uid in UIDS.items()}
    found: dict[Syntax, tuple[ArchiveEntry, ParsedHeader, EncodedFrame]] = {}
    for entry in walk(root):
        parsed, frame = _read(root, entry)
        found.setdefault(names[frame.transfer_syntax_uid], (entry, parsed, frame))
    return found


def _read(root: Path, entry: ArchiveEntry) -> tuple[ParsedHeader, EncodedFrame]:
    with (root / entry.relative_path).open("rb") as file:
        parsed = read_header(file, RunSettings())
        return parsed, read_frame(file, parsed, RunSettings())


def _per_second(once: Callable[[], object]) -> float:
    """Calls a second, after one to warm up."""
    once()
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < TIMED_S:
        once()
        calls += 1
    return calls / (time.perf_counter() - began)


SECTIONS: tuple[Section, ...] = (
    exact_decodes,
    canvases,
    networks,
    decode_rates,
    network_rates,
    end_to_end,
    plain_network_rates,
    capacity,
)
