"""One archive, and each step of the stream as a function that works through it alone.

The steps are the product's own functions on the product's own arrangement: decoding runs in the real
decoder processes on all cores, the networks in the real engines with two batches under way, the rest in one
thread, as in `screener run`. Steps that are cheap or run on one core take a sample of the archive. The
archive is read once before anything is timed (`warm_up`): what is measured is the machine's processors, not
whether its disk happened to hold the files in memory.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from bench.clock import Clock
from bench.results import Extent, Timing
from calibration.model_calibration import Calibration
from engines.engine import Engines
from screener.archive import base_folder, walk
from screener.campaign import Campaign
from screener.canvas import CANVAS_VERSION
from screener.classify import classify
from screener.decide import decide
from screener.decode_worker import HEADER_READ_BYTES
from screener.eligibility import check_eligible
from screener.errors import ConfigError, DecodeError
from screener.fingerprint import Fingerprint
from screener.frame import read_frame
from screener.header import ParsedHeader, read_header
from screener.host_loader import HostLoader
from screener.overlap import overlapped
from screener.pipeline import BATCHES_WITH_ENGINES
from screener.pseudonyms import KEY_BYTES, Pseudonyms
from screener.quality import grade_batch
from screener.records import ArchiveEntry, Batch, Logits, Lungs, Rejection, ScreenedImage
from screener.segment import segment
from screener.settings import RunSettings
from screener.verdict import conclude

SAMPLE_FILES = 64
"""Files that the one-threaded steps read."""
NETWORK_FILES = 256
"""Films that the networks are given, at least; the kept batches again and again."""
KEPT_BATCHES = 4
"""Batches of canvases kept in memory for the networks and for grading."""
REPORT_ROWS = 2000
"""Rows that the report step writes: one part."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Canvases and what the networks said of them."""

    batch: Batch
    lungs: Lungs
    logits: Logits


class Workbench:
    """Opens an archive once and keeps what its steps need.

    Args:
        archive: folder of DICOM files.
        settings: of the run.
        engines: opened for this machine.
        calibration: of the bundle.
        transfer_syntax_uid: work only on files of this transfer syntax; None takes all.

    Raises:
        ConfigError: no file of the archive can be screened.
    """

    def __init__(
        self,
        archive: Path,
        settings: RunSettings,
        engines: Engines,
        calibration: Calibration,
        transfer_syntax_uid: str | None = None,
    ) -> None:
        self.archive = archive
        self.settings = settings
        self.engines = engines
        self.calibration = calibration
        self.clock = Clock()
        self._root = base_folder(archive)
        found = (self._film(entry) for entry in walk(archive) if entry.reason is None)
        films = [film for film in found if film and transfer_syntax_uid in (None, film.transfer_syntax_uid)]
        if not films:
            raise ConfigError("the archive holds no file that can be screened")
        self.entries = [film.entry for film in films]
        self.num_by_syntax = Counter(film.transfer_syntax_uid for film in films)
        self.whole = _extent(films)
        self._sample = films[:: max(1, len(films) // SAMPLE_FILES)][:SAMPLE_FILES]
        self._headers = [self._header(film.entry) for film in self._sample]
        self._prepared = self._prepare()
        self._ended = [film for each in self._prepared for film in self._verdicts(each)]

    def timed(self, step: Callable[[Workbench], Extent]) -> tuple[Extent, Timing]:
        """Run a step and time it, decoder processes that worked in it included."""
        self.clock.start()
        extent = step(self)
        return extent, self.clock.timing()

    def warm_up(self) -> None:
        """Bring every file into memory, and the processors up to speed."""
        for entry in self.entries:
            (self._root / entry.relative_path).read_bytes()
        self._decode(self.entries[:SAMPLE_FILES])
        self.networks()

    def walk(self) -> Extent:
        """Find every file."""
        return Extent(sum(1 for _ in walk(self.archive)))

    def header(self) -> Extent:
        """Parse the sample's headers and judge them, on one core."""
        for film in self._sample:
            self._header(film.entry)
        return _extent(self._sample)

    def read(self) -> Extent:
        """Read and hash the sample's pixel data, headers already parsed, on one core."""
        for film, parsed in zip(self._sample, self._headers, strict=True):
            with self._open(film.entry) as file:
                read_frame(file, parsed, self.settings)
        return _extent(self._sample)

    def decode(self) -> Extent:
        """Every file to a canvas in the decoder processes; the canvases are thrown away."""
        self._decode(self.entries)
        return self.whole

    def segmentation(self) -> Extent:
        """The segmentation network alone, on all cores."""
        return self._through(lambda each: segment(each.batch, self.engines.segmentation))

    def classification(self) -> Extent:
        """The classification network alone, on all cores."""
        return self._through(lambda each: classify(each.batch, each.lungs, self.engines.classification))

    def networks(self) -> Extent:
        """Both networks one after the other, two batches under way, on all cores."""
        return self._through(self._both_networks)

    def grade_decide(self) -> Extent:
        """Quality, decision and verdict, in one thread."""
        return Extent(sum(len(self._verdicts(each)) for each in self._prepared))

    def report(self) -> Extent:
        """Rows and one part of a campaign, in one thread."""
        copies = itertools.islice(_copies(self._ended), REPORT_ROWS)
        with temporary_campaign(self.archive, self.settings) as campaign, campaign.writer() as report:
            for film in copies:
                report.add(film)
        return Extent(REPORT_ROWS)

    def _prepare(self) -> list[Prepared]:
        """What the networks, grading and the report work on; warms both engines up."""
        prepared = []
        with HostLoader(self.archive, self.settings, threading.Event()) as loader:
            batches = loader.batches(iter(self.entries), on_reject=lambda _: None)
            for batch in itertools.islice(batches, KEPT_BATCHES):
                prepared.append(self._answer(Batch(batch.sources, batch.canvas.copy())))
                loader.release(batch)
        return prepared

    def _decode(self, entries: list[ArchiveEntry]) -> None:
        with HostLoader(self.archive, self.settings, threading.Event()) as loader:
            loader.wait_ready()
            self.clock.ready()
            for batch in loader.batches(iter(entries), on_reject=lambda _: None):
                loader.release(batch)

    def _answer(self, batch: Batch) -> Prepared:
        lungs = segment(batch, self.engines.segmentation)
        return Prepared(batch, lungs, classify(batch, lungs, self.engines.classification))

    def _both_networks(self, each: Prepared) -> Logits:
        lungs = segment(each.batch, self.engines.segmentation)
        return classify(each.batch, lungs, self.engines.classification)

    def _through(self, network: Callable[[Prepared], object]) -> Extent:
        """Run the kept batches until the networks' number of films is reached."""
        rounds = max(1, NETWORK_FILES // sum(len(each.batch) for each in self._prepared))
        batches = self._prepared * rounds
        for _ in overlapped(network, batches, depth=BATCHES_WITH_ENGINES):
            pass
        return Extent(sum(len(each.batch) for each in batches))

    def _verdicts(self, each: Prepared) -> list[ScreenedImage | Rejection]:
        graded = grade_batch(each.batch, each.lungs)
        decisions = decide(each.logits, self.calibration)
        films = zip(each.batch.sources, graded, each.lungs.frontal_logit[:, 0], decisions, strict=True)
        return [
            conclude(source, geometry, quality, float(frontal_logit), decision)
            for source, (geometry, quality), frontal_logit, decision in films
        ]

    def _open(self, entry: ArchiveEntry) -> BinaryIO:
        return (self._root / entry.relative_path).open("rb", buffering=HEADER_READ_BYTES)

    def _header(self, entry: ArchiveEntry) -> ParsedHeader:
        with self._open(entry) as file:
            parsed = read_header(file, self.settings)
        check_eligible(parsed, self.settings)
        return parsed

    def _film(self, entry: ArchiveEntry) -> _Film | None:
        try:
            instance = self._header(entry).instance
        except (DecodeError, OSError):
            return None
        if instance is None:
            return None
        return _Film(entry, instance.rows * instance.columns, instance.transfer_syntax_uid)


@dataclass(frozen=True, slots=True)
class _Film:
    entry: ArchiveEntry
    num_pixels: int
    transfer_syntax_uid: str


def _extent(films: list[_Film]) -> Extent:
    num_bytes = sum(film.entry.size_bytes for film in films)
    return Extent(len(films), num_bytes, sum(film.num_pixels for film in films))


def _copies(ended: list[ScreenedImage | Rejection]) -> Iterator[ScreenedImage | Rejection]:
    """The same rows again and again, each time as other files of other studies."""
    films = [film for film in ended if isinstance(film, ScreenedImage)]
    for copy in itertools.count():
        for film in films:
            source = film.source
            entry = replace(source.entry, relative_path=f"{copy}/{source.entry.relative_path}")
            study = f"{source.identity.study_instance_uid}.{copy}"
            identity = replace(source.identity, study_instance_uid=study)
            yield replace(film, source=replace(source, entry=entry, identity=identity))


@contextmanager
def temporary_campaign(archive: Path, settings: RunSettings) -> Iterator[Campaign]:
    """A campaign on the disk that holds temporary files, bound to no real network and to no real key."""
    with (
        tempfile.TemporaryDirectory(prefix="screener-bench-") as folder,
        Campaign.open(
            Path(folder, "campaign"),
            archive_root=archive,
            fingerprint=Fingerprint("0" * 64, "0" * 64, "none", CANVAS_VERSION, settings.result_settings()),
            pseudonyms=Pseudonyms(bytes(KEY_BYTES)),
            settings=settings,
        ) as campaign,
    ):
        yield campaign
