"""Sections of `bench.gpu_check` about pixels: exact decoding, decoding rates, canvases against the host's."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGLossless, JPEGLosslessSV1

from bench.archive_factory import Syntax
from bench.gpu_films import DEVICE_SYNTAXES, REAL_ARCHIVE, REAL_CODECS, canvases_path, frames
from bench.gpu_findings import Bench, Findings, Row, attempted, rate_per_s
from screener.canvas import CANVAS_SIDE, decode_for_canvas, draw_canvas
from screener.codecs import decode
from screener.codestreams import Codestream, read_codestream
from screener.decoders import run_decoder
from screener.display import coarsest_step, display_transform
from screener.eligibility import check_eligible
from screener.errors import DecodeError
from screener.frame import EncodedFrame
from screener.header import ParsedHeader
from screener.nvimagecodec import StreamDecoder, StreamFacts, to_host
from screener.records import Float32, Source
from screener.routes import StreamKind, stream_kind
from screener.settings import RunSettings

J2K_GOAL_MP_S = 1000.0
CANVAS_GOAL = 2e-3
MUST_DECODE = (StreamKind.J2K_16, StreamKind.LOSSLESS_16)
"""A GPU that leaves these to the host misses the goal."""
LOSSLESS = frozenset(map(str, (JPEGLossless, JPEGLosslessSV1, JPEG2000Lossless, HTJ2KLossless)))


def exact(bench: Bench) -> Findings:
    """Lossless codestreams against the host's codecs: small ones by kind, full size, and the real files."""
    decoder = StreamDecoder(bench.index)
    proven = decoder.prove()
    for kind in StreamKind:
        is_missed = bench.gpu is not None and kind in MUST_DECODE and kind not in proven
        verdict = "as the host's" if kind in proven else "left to the host"
        yield Row(f"small {kind}", verdict, met=False if is_missed else None)
    for syntax in DEVICE_SYNTAXES:
        for _, _, frame in frames(bench.folder / "exact" / syntax):
            name = f"{syntax} {frame.bits_stored} bit {frame.rows} x {frame.columns}"
            yield from attempted(name, partial(_full_size, bench, decoder, name, frame))
    yield from attempted("real files", partial(_real_files, decoder, proven))


def _full_size(bench: Bench, decoder: StreamDecoder, name: str, frame: EncodedFrame) -> Findings:
    stream = read_codestream(frame.payload)
    differing = _pixels_that_differ(decoder, stream)
    if differing is None:
        is_missed = bench.gpu is not None and stream_kind(stream) in MUST_DECODE
        yield Row(name, "left to the host", met=False if is_missed else None)
        return
    yield Row(name, differing, "pixels differ", "0", differing == 0)


def _real_files(decoder: StreamDecoder, proven: frozenset[StreamKind]) -> Findings:
    compared: Counter[str] = Counter()
    differing: Counter[str] = Counter()
    for _, _, frame in itertools.chain(frames(REAL_ARCHIVE), frames(REAL_CODECS)):
        try:
            stream = read_codestream(frame.payload)
            kind = stream_kind(stream)
            if (
                kind is None
                or frame.transfer_syntax_uid not in LOSSLESS
                or stream.components != 1
                or kind not in proven
            ):
                continue
            found = _pixels_that_differ(decoder, stream)
        except DecodeError:
            continue
        compared[kind] += 1
        differing[kind] += stream.rows * stream.columns if found is None else found
    for name, count in compared.items():
        yield Row(
            f"real {name}", differing[name], f"pixels differ in {count} files", "0", not differing[name]
        )
    yield Row("real lossless files compared", sum(compared.values()), "files")


def _pixels_that_differ(decoder: StreamDecoder, stream: Codestream) -> int | None:
    """None where the device does not decode it."""
    expected, _ = run_decoder(stream, 1)
    (picture,) = decoder.decode([_facts(stream, str(expected.dtype))])
    return None if picture is None else int(np.count_nonzero(to_host(picture)[..., 0] != expected))


def _facts(stream: Codestream, dtype: str) -> StreamFacts:
    return StreamFacts(np.frombuffer(bytes(stream.payload), np.uint8), stream.rows, stream.columns, dtype)


def decode_rates(bench: Bench) -> Findings:
    """Megapixels a second of decoding alone into device memory, by syntax and batch size."""
    synchronize: Callable[[], None] = _nothing_to_wait_for
    cuda_stream = 0
    if bench.gpu is not None:
        from engines.cuda_runtime import CudaRuntime

        runtime = CudaRuntime(bench.gpu.index)
        cuda_stream = runtime.create_stream()
        synchronize = partial(runtime.synchronize, cuda_stream)
    decoder = StreamDecoder(bench.index, cuda_stream)
    rates = {"": 0.0}
    for name, films in _films_by_syntax(bench):
        for batch_size in (1, 8, 32, 64) if bench.gpu else (2,):
            batch = list(itertools.islice(itertools.cycle(films), batch_size))
            label = f"{name} x {batch_size}"
            for row in attempted(label, partial(_decode_rate, bench, decoder, label, batch, synchronize)):
                rates |= {label: row.value} if isinstance(row.value, float) else {}
                yield row
    best = max(rate for label, rate in rates.items() if label.startswith(Syntax.J2K) or not label)
    goal = f">= {J2K_GOAL_MP_S:.0f}"
    yield bench.judged("j2k, best batch size", best, "MP/s", goal, met=best >= J2K_GOAL_MP_S)


def _nothing_to_wait_for() -> None:
    """The processor's decoder has no stream."""


def _films_by_syntax(bench: Bench) -> Iterator[tuple[str, list[StreamFacts]]]:
    for syntax in DEVICE_SYNTAXES:
        streams = [read_codestream(frame.payload) for _, _, frame in frames(bench.folder / "exact" / syntax)]
        yield f"{syntax} 10-16 bit", [_facts(stream, "uint16") for stream in streams]
    _, _, frame = next(frames(bench.folder / "exact" / DEVICE_SYNTAXES[0]))
    grey = (decode(frame, cover_px=None).pixels >> max(0, frame.bits_stored - 8)).astype(np.uint8)
    yield "jpeg 8 bit", [_facts(read_codestream(bytes(imagecodecs.jpeg8_encode(grey, level=90))), "uint8")]


def _decode_rate(
    bench: Bench,
    decoder: StreamDecoder,
    label: str,
    batch: list[StreamFacts],
    synchronize: Callable[[], None],
) -> Findings:
    def once() -> int:
        pictures = decoder.decode(batch)
        synchronize()
        return sum(picture is not None for picture in pictures)

    num_decoded = once()
    if num_decoded < len(batch):
        yield Row(label, f"{len(batch) - num_decoded} of {len(batch)} left to the host")
        return
    rate = rate_per_s(bench, once) * sum(film.rows * film.columns for film in batch) / 1e6
    yield Row(label, rate, "MP/s")


def canvases(bench: Bench) -> Findings:
    """Canvases of the device's loader against the host's, by route; both are kept for the networks."""
    pairs: list[tuple[Float32, Float32]] = []
    worst: dict[str, list[float]] = {}
    for root in (REAL_ARCHIVE, bench.folder / "varied"):
        headers = {entry.relative_path: (parsed, frame) for entry, parsed, frame in frames(root)}
        for source, canvas in _drawn(bench, root):
            expected = _host_canvas(*headers[source.entry.relative_path], source)
            worst.setdefault(source.canvas.route, []).append(float(np.abs(canvas - expected).max()))
            pairs.append((expected, canvas))
    for route, errors in sorted(worst.items()):
        is_met = max(errors) <= CANVAS_GOAL
        yield Row(
            f"{route}, {len(errors)} films", max(errors), "largest difference", f"<= {CANVAS_GOAL}", is_met
        )
    np.save(canvases_path(bench), np.array(pairs, np.float32).swapaxes(0, 1)[:, :, None])


def _drawn(bench: Bench, root: Path) -> Iterator[tuple[Source, Float32]]:
    from screener.archive import walk
    from screener.dali_loader import DaliLoader

    settings = RunSettings(batch_size=bench.batch_size, workers=0 if bench.gpu else 1)
    with DaliLoader(root, settings, threading.Event(), gpu_index=bench.index) as loader:
        for batch in loader.batches(walk(root), on_reject=lambda _: None):
            for source, canvas in zip(batch.sources, batch.canvas, strict=True):
                yield source, canvas[0].copy()
            loader.release(batch)


def _host_canvas(parsed: ParsedHeader, frame: EncodedFrame, source: Source) -> Float32:
    """The host's canvas from pixels of the same size: what a worker drew itself may have been reduced."""
    out = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    transform = display_transform(parsed.dataset, check_eligible(parsed, RunSettings()))
    if source.canvas.reduction == 1:
        picture = decode(frame, cover_px=None)
    else:
        picture = decode_for_canvas(frame, coarsest_step(transform))
    draw_canvas(picture, transform, frame.rows, frame.columns, out)
    return out
