"""The stream: an archive in, reports out.

archive → header → pixels → canvas → segment → grade → classify → decide → report. Decoding runs in worker
processes (`host_loader`), two batches overlap in the engines, everything else runs in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from calibration.model_calibration import Calibration
from engines.engine import Engines
from screener.classify import classify
from screener.counters import Counters
from screener.decide import decide
from screener.keepsakes import Keepsakes
from screener.loader import Loader
from screener.overlap import overlapped
from screener.parts import PartWriter
from screener.quality import grade_batch
from screener.records import ArchiveEntry, Batch, Rejection, ScreenedImage
from screener.segment import segment
from screener.verdict import conclude

BATCHES_WITH_ENGINES = 2
"""One batch is graded and decided while the next one is in the networks."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Everything between a batch of canvases and its rows."""

    engines: Engines
    calibration: Calibration
    keepsakes: Keepsakes | None = None

    def read(self, batch: Batch) -> list[ScreenedImage | Rejection]:
        """Segment, grade, classify and decide; rows in the batch's order."""
        lungs = segment(batch, self.engines.segmentation)
        logits = classify(batch, lungs, self.engines.classification)
        graded = grade_batch(batch, lungs)
        decisions = decide(logits, self.calibration)
        films = zip(batch.sources, graded, lungs.frontal_logit[:, 0], decisions, strict=True)
        ended = [
            conclude(source, geometry, quality, float(frontal_logit), decision)
            for source, (geometry, quality), frontal_logit, decision in films
        ]
        if self.keepsakes is not None:
            self.keepsakes.keep(batch, lungs, logits, ended)
        return ended


def screen(
    entries: Iterable[ArchiveEntry],
    loader: Loader,
    reader: Reader,
    report: PartWriter,
    counters: Counters,
) -> None:
    """Screen every entry; each ends as exactly one row of the report.

    Args:
        entries: pending files of the archive, in the order of the walk.
        loader: turns entries into batches of canvases; stop it to end early.
        reader: turns batches into rows.
        report: takes rows and seals parts.
        counters: counts rows.
    """

    def record(ended: ScreenedImage | Rejection) -> None:
        report.add(ended)
        counters.count(ended)

    batches = loader.batches(entries, on_reject=record)
    for batch, ended in overlapped(reader.read, batches, depth=BATCHES_WITH_ENGINES):
        loader.release(batch)
        for film in ended:
            record(film)
