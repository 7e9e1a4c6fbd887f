"""Real pictures as 12-bit JPEG 2000 films → what leaving out bit-planes saves, and what it changes.

    python -m bench.bit_planes [OUT.json]

Films are drawn from the real pictures of the tests at 7.8 megapixels. Every film is decoded in full, then at
reduced size with each step; canvases and fp32 logits are compared with those of the reduced decode that keeps
every plane (`step 1`), and that one with the full decode: so both approximations can be read side by side.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from time import process_time

import numpy as np

from bench.archive_factory import ArchiveRecipe, Syntax, write_archive
from bench.gpu_films import real_pictures
from engines.engine import Engines, open_engines
from screener.canvas import CANVAS_SIDE, decode_for_canvas, draw_canvas
from screener.codecs import Picture, decode
from screener.display import display_transform
from screener.eligibility import check_eligible
from screener.frame import EncodedFrame, read_frame
from screener.header import ParsedHeader, read_header
from screener.records import Float32
from screener.run import open_verified
from screener.settings import RunSettings

STEPS = (1, 2, 4, 8)
REPEATS = 3
BATCH = 8


@dataclass(frozen=True, slots=True)
class Heads:
    """Canvases and logits of all films."""

    canvases: Float32
    diagnosis: Float32
    stage: Float32


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


def films(folder: Path) -> list[tuple[ParsedHeader, EncodedFrame]]:
    """Write the films and read them back."""
    pictures = [picture.astype(np.float32) / np.float32(255) for picture in real_pictures()]
    write_archive(folder, ArchiveRecipe(len(pictures), {Syntax.J2K: 1.0}), pictures)
    read = []
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        with path.open("rb") as file:
            parsed = read_header(file, RunSettings())
            read.append((parsed, read_frame(file, parsed, RunSettings())))
    return read


def draw(parsed: ParsedHeader, frame: EncodedFrame, picture: Picture) -> Float32:
    """One canvas (768, 768)."""
    out = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    transform = display_transform(parsed.dataset, check_eligible(parsed, RunSettings()))
    draw_canvas(picture, transform, frame.rows, frame.columns, out)
    return out


def infer(engines: Engines, canvases: list[Float32]) -> Heads:
    """Logits of canvases, in batches."""
    stacked = np.stack(canvases)[:, None]
    diagnosis, stage = [], []
    for first in range(0, len(stacked), BATCH):
        batch = stacked[first : first + BATCH]
        lungs = engines.segmentation.run({"canvas": batch})
        given = {"canvas": batch, "lungs": lungs["lungs"], "box": lungs["box"]}
        heads = engines.classification.run(given)
        diagnosis.append(heads["diagnosis_logits"])
        stage.append(heads["stage_logits"])
    return Heads(stacked, np.concatenate(diagnosis), np.concatenate(stage))


def compare(name: str, against: str, found: Heads, other: Heads, decode_ms: float) -> Row:
    """Differences of two decodes of the same films."""
    grey = 255 * np.abs(found.canvases - other.canvases)
    diagnosis, stage = np.abs(found.diagnosis - other.diagnosis), np.abs(found.stage - other.stage)
    flipped = ((found.diagnosis > 0) != (other.diagnosis > 0)).any(axis=1)
    flipped |= found.stage.argmax(axis=1) != other.stage.argmax(axis=1)
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
        flips=int(flipped.sum()),
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
    with tempfile.TemporaryDirectory() as folder:
        for parsed, frame in films(Path(folder)):
            for step, canvases in drawn.items():
                picture, milliseconds = timed(frame, step)
                canvases.append(draw(parsed, frame, picture))
                spent[step].append(milliseconds)
    with open_engines(open_verified(None), device="cpu", precision="fp32") as engines:
        heads = {step: infer(engines, canvases) for step, canvases in drawn.items()}
    rows = [compare("step 1", "full size", heads[1], heads[None], float(np.mean(spent[1])))]
    for step in STEPS[1:]:
        rows.append(compare(f"step {step}", "step 1", heads[step], heads[1], float(np.mean(spent[step]))))
    return rows


def main() -> None:
    """Print the table; write it where an argument says."""
    rows = [asdict(row) for row in measure()]
    for line in (list(rows[0]), *(row.values() for row in rows)):
        sys.stdout.write("  ".join(str(value) for value in line) + "\n")
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
