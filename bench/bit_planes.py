"""Real pictures as 12-bit JPEG 2000 films → what leaving out bit-planes saves, and what it changes.

    python -m bench.bit_planes [OUT.json]

Films are the real pictures of the tests and phantoms with findings, enlarged to 7.8 megapixels with grain,
and the real DICOM films of the demo archive at their own size. Every film is decoded in full, then at
reduced size with each step; canvases and fp32 logits are compared with those of the reduced decode that
keeps every plane (`step 1`), and that one with the full decode, with bf16 engines and with int8 ones where
the bundle has them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time

import cv2
import imagecodecs
import numpy as np
import numpy.typing as npt
from pydicom.uid import JPEG2000Lossless

from bench.archive_factory import GRAIN_LEVELS, LARGE_FILM, phantoms_with_findings
from bench.gpu_films import REAL_ARCHIVE, frames, real_pictures
from bench.gpu_parity import HEADS, Answers, answers, flips
from engines.engine import open_engines
from screener.canvas import CANVAS_SIDE, decode_for_canvas, draw_canvas
from screener.codecs import Picture, decode
from screener.display import DisplayTransform, Window, display_transform
from screener.eligibility import check_eligible
from screener.errors import DecodeError
from screener.frame import EncodedFrame
from screener.records import Float32
from screener.run import open_verified
from screener.settings import RunSettings

STEPS = (1, 2, 4, 8)
REPEATS = 3
BATCH = 8
Pair = tuple[Float32, Float32]
"""Canvases (N, 1, 768, 768) of the two decodes."""


@dataclass(frozen=True, slots=True)
class Row:
    """One decode against another."""

    decode: str
    against: str
    num_films: int
    decode_ms: float
    """Processor milliseconds a film, mean over the films of the best of three."""
    grey_mean: float
    """Mean absolute difference of the canvases, grey levels of 255."""
    grey_p99: float
    diagnosis_logit_mean: float
    diagnosis_logit_max: float
    stage_logit_max: float
    flips: int
    """Films whose stage or diagnosis changes."""


@dataclass(frozen=True, slots=True)
class Film:
    """A 12-bit film as reversible JPEG 2000."""

    frame: EncodedFrame
    transform: DisplayTransform


def films() -> Iterator[Film]:
    """Every film, encoded when it is its turn."""
    rng = np.random.default_rng(0)
    pictures = [picture.astype(np.float32) / np.float32(255) for picture in real_pictures()]
    pictures += phantoms_with_findings()
    rows, columns = LARGE_FILM
    for picture in pictures:
        large = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_CUBIC)
        yield _film(4095 * large + rng.normal(0, GRAIN_LEVELS, large.shape))
    for _, parsed, frame in frames(REAL_ARCHIVE):
        if max(frame.rows, frame.columns) < 2 * CANVAS_SIDE:  # it would not be decoded at reduced size
            continue
        try:
            instance = check_eligible(parsed, RunSettings())
        except DecodeError:
            continue
        values = decode(frame, cover_px=None).pixels.astype(np.float32)
        low, high = np.percentile(values, (0.1, 99.9))
        grey = 4095 * (values - low) / max(high - low, 1)
        yield _film(4095 - grey if display_transform(parsed.dataset, instance).inverted else grey)


def _film(values: npt.NDArray[np.floating]) -> Film:
    words = np.clip(np.round(values), 0, 4095).astype(np.uint16)
    payload = imagecodecs.jpeg2k_encode(words, codecformat="J2K", reversible=True, bitspersample=12)
    rows, columns = words.shape
    frame = EncodedFrame(str(JPEG2000Lossless), bytes(payload), rows, columns, 16, 12, 11, False, "")
    return Film(frame, DisplayTransform(window=Window(2048, 4096)))


def draw(film: Film, picture: Picture) -> Float32:
    """One canvas (768, 768)."""
    out = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    draw_canvas(picture, film.transform, film.frame.rows, film.frame.columns, out)
    return out


def compare(name: str, against: str, canvases: Pair, found: Answers, other: Answers, decode_ms: float) -> Row:
    """Differences of two decodes of the same films."""
    grey = 255 * np.abs(canvases[0] - canvases[1])
    diagnosis, stage = (np.abs(found.logits[head] - other.logits[head]) for head in HEADS[:2])
    stage_flips, diagnosis_flips = flips(found, other)
    return Row(
        decode=name,
        against=against,
        num_films=len(grey),
        decode_ms=round(decode_ms, 1),
        grey_mean=round(float(grey.mean()), 3),
        grey_p99=round(float(np.percentile(grey, 99)), 3),
        diagnosis_logit_mean=round(float(diagnosis.mean()), 3),
        diagnosis_logit_max=round(float(diagnosis.max()), 3),
        stage_logit_max=round(float(stage.max()), 3),
        flips=int((stage_flips | diagnosis_flips).sum()),
    )


def timed(frame: EncodedFrame, step: int | None) -> tuple[Picture, float]:
    """A decode and its best processor milliseconds; None decodes in full, once."""
    best, picture = float("inf"), None
    for _ in range(1 if step is None else REPEATS):
        start = process_time()
        picture = decode(frame, cover_px=None) if step is None else decode_for_canvas(frame, step)
        best = min(best, 1e3 * (process_time() - start))
    assert picture is not None
    return picture, best


def measure() -> list[Row]:
    """All rows."""
    drawn: dict[int | None, list[Float32]] = {step: [] for step in (None, *STEPS)}
    spent: dict[int | None, list[float]] = {step: [] for step in (None, *STEPS)}
    for film in films():
        for step, canvases in drawn.items():
            picture, milliseconds = timed(film.frame, step)
            canvases.append(draw(film, picture))
            spent[step].append(milliseconds)
    stacked = {step: np.stack(canvases)[:, None] for step, canvases in drawn.items()}
    bundle = open_verified(None)
    with open_engines(bundle, device="cpu", precision="fp32") as engines:
        said = {step: answers(engines, canvases, BATCH) for step, canvases in stacked.items()}
    rounded: dict[str, Answers] = {}
    for precision in ("bf16", *(("int8",) if bundle.has_int8 else ())):
        with open_engines(bundle, device="cpu", precision=precision) as engines:
            rounded[precision] = answers(engines, stacked[1], BATCH)

    def row(name: str, step: int, against: str, other: int | None) -> Row:
        pair = stacked[step], stacked[other]
        return compare(name, against, pair, said[step], said[other], float(np.mean(spent[step])))

    same = stacked[1], stacked[1]
    return [
        row("step 1", 1, "full size", None),
        *(row(f"step {step}", step, "step 1", 1) for step in STEPS[1:]),
        *(
            compare(f"step 1, {precision}", "step 1, fp32", same, found, said[1], float(np.mean(spent[1])))
            for precision, found in rounded.items()
        ),
    ]


def main() -> None:
    """Print the table; write it where an argument says."""
    rows = [asdict(row) for row in measure()]
    for line in (list(rows[0]), *(row.values() for row in rows)):
        sys.stdout.write("  ".join(str(value) for value in line) + "\n")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
