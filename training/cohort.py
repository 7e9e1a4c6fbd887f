"""A training cohort on disk: films drawn from phantoms and real films, masks, labels, nuisances, splits.

Film number i of seed s is decided by (s, i) alone, so any number of workers, and a resumed build, give the
same bytes. A reader would question figures on simulated films: they prove plumbing and compare
methods, and the table says of every film what it was made from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import polars as pl

from screener.canvas import CANVAS_SIDE, draw_canvas
from screener.codecs import Picture
from screener.display import DisplayTransform
from screener.errors import ConfigError
from screener.records import CanvasFacts
from screener.settings import available_cores
from training.cohort_deal import CohortSettings, Slot, deal
from training.cohort_rows import FILM_SCHEMA, OPACITY_SCHEMA, CohortFilm, film_row
from training.films import RealFilm, read_films, real_film
from training.finding_maps import canvas_grid, finding_maps
from training.findings import FindingPlan, sample_plan
from training.nuisances import Nuisance, sample_nuisance
from training.opacities import Opacity
from training.phantom_film import Film, other_film, phantom_film, zones_of
from training.splits import PARTS

UInt8 = npt.NDArray[np.uint8]

FORMAT = "screener-cohort"
GENERATOR_VERSION = 5
"""Rises whenever the same seed gives other films."""
MASK_SIDE = 256
_PART_FILMS = 40


def _generators(seed: int, index: int) -> Iterator[np.random.Generator]:
    """Independent generators of one film: plan, nuisance, anatomy, findings, film."""
    for stream in range(5):
        yield np.random.default_rng([seed, index, stream])


def _draw(slot: Slot, seed: int) -> tuple[Film, FindingPlan, Nuisance]:
    plan_rng, nuisance_rng, anatomy_rng, findings_rng, film_rng = _generators(seed, slot.index)
    nuisance = sample_nuisance(nuisance_rng)
    if slot.kind != "frontal":
        return other_film(slot.kind, nuisance, anatomy_rng, film_rng), FindingPlan(), nuisance
    plan = sample_plan(plan_rng, slot.film_class)
    if slot.host is not None:
        plan = slot.host.adapt(plan)
        return real_film(slot.host, plan, nuisance, findings_rng, film_rng), plan, nuisance
    return phantom_film(plan, nuisance, anatomy_rng, findings_rng, film_rng), plan, nuisance


def _to_canvas(film: Film, *, monochrome1: bool = False) -> tuple[UInt8, UInt8 | None, CanvasFacts]:
    """The picture's canvas, its lung labels on the mask grid, and where it lies."""
    canvas = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    rows, columns = film.grey.shape
    stored = np.asarray(cv2.bitwise_not(film.grey), np.uint8) if monochrome1 else film.grey
    picture = Picture(stored, reduction=1, route="drawn")
    facts = draw_canvas(picture, DisplayTransform(inverted=monochrome1), rows, columns, canvas)
    levels = np.round(canvas * 255).astype(np.uint8)
    if film.lungs is None:
        return levels, None, facts
    labels = np.zeros((MASK_SIDE, MASK_SIDE), np.uint8)
    for lung in (1, 2):
        labels[canvas_grid((film.lungs == lung).astype(np.float32), facts, MASK_SIDE) >= 0.5] = lung
    return levels, labels, facts


def _make(slot: Slot, seed: int, out: Path) -> tuple[CohortFilm, tuple[Opacity, ...], CanvasFacts]:
    """Draw one film and write its pictures."""
    film, plan, nuisance = _draw(slot, seed)
    levels, labels, facts = _to_canvas(film, monochrome1=nuisance.monochrome1)
    row = film_row(slot, film, plan, nuisance, facts, seed)
    cv2.imwrite(str(out / row.canvas), levels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if labels is not None:
        cv2.imwrite(str(out / f"lungs/{row.film_id}.png"), labels)
        cv2.imwrite(str(out / f"zones/{row.film_id}.png"), zones_of(labels))
        cv2.imwrite(str(out / f"findings/{row.film_id}.png"), finding_maps(film, facts))
    return row, film.drawing.opacities, facts


def _write_part(number: int, slots: tuple[Slot, ...], seed: int, out: Path) -> int:
    """Make the films of one part; the part's table is renamed into place last."""
    rows: list[dict[str, object]] = []
    bodies: list[dict[str, object]] = []
    for slot in slots:
        row, opacities, facts = _make(slot, seed, out)
        rows.append(asdict(row))
        for body in opacities:
            entry = asdict(body)
            entry["row"], entry["column"] = facts.letterbox.to_canvas(body.row, body.column)
            bodies.append({"film_id": row.film_id, **entry})
    _write(pl.DataFrame(bodies, schema=OPACITY_SCHEMA), out / f"parts/opacities-{number:05d}.parquet")
    _write(pl.DataFrame(rows, schema=FILM_SCHEMA), out / f"parts/films-{number:05d}.parquet")
    return len(slots)


def _write(table: pl.DataFrame, path: Path) -> None:
    """Write a table beside its place, then rename it: a table that exists is whole."""
    temporary = path.with_suffix(".tmp")
    table.write_parquet(temporary)
    temporary.replace(path)


def _claim(out: Path, settings: CohortSettings, hosts: tuple[RealFilm, ...]) -> None:
    """Create the folder, or check that it holds the same cohort."""
    listed = hashlib.sha256()
    for host in hosts:
        listed.update(host.key.encode() + host.mask.read_bytes())
    described = {
        "format": FORMAT,
        "generator_version": GENERATOR_VERSION,
        "num_films": settings.num_films,
        "seed": settings.seed,
        "real_share": settings.real_share if hosts else 0.0,
        "other_share": settings.other_share,
        "num_real_films": len(hosts),
        "real_films_sha256": listed.hexdigest()[:16],
    } | ({} if settings.parts == PARTS else {"parts": list(settings.parts)})
    path = out / "cohort.json"
    if path.exists():
        if json.loads(path.read_text()) != described:
            raise ConfigError(
                "the folder holds another cohort; choose an empty folder, or the same arguments to resume"
            )
        return
    for name in ("canvas", "lungs", "zones", "findings", "parts"):
        (out / name).mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(described, indent=2) + "\n")


def made_parts(folder: Path) -> tuple[str, ...]:
    """Parts of the split that a cohort folder was built to hold; all of them where it does not say."""
    path = folder / "cohort.json"
    described = json.loads(path.read_text()) if path.exists() else {}
    return tuple(described.get("parts", PARTS))


def _make_parts(jobs: list[tuple[int, tuple[Slot, ...], int, Path]], workers: int) -> Iterator[int]:
    """Run the jobs, in this process if one worker is enough; yields the films of each finished part."""
    if workers == 1 or len(jobs) < 2:
        yield from (_write_part(*job) for job in jobs)
        return
    # Forked children of a process that has used Polars can hang: start clean ones.
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for job in as_completed([pool.submit(_write_part, *job) for job in jobs]):
            yield job.result()


def build(
    out: Path, settings: CohortSettings, *, workers: int = 0, on_progress: Callable[[int], None] | None = None
) -> Path:
    """Build, or finish building, a cohort.

    Args:
        out: folder of the cohort; created.
        settings: what decides the cohort.
        workers: processes; 0 means one per core.
        on_progress: called with the number of films just finished.

    Returns:
        Path of cohort.parquet, sorted by film.

    Raises:
        ConfigError: the folder holds another cohort, or the list of real films cannot be used.
    """
    hosts = read_films(settings.films) if settings.films else ()
    _claim(out, settings, hosts)
    slots = deal(settings, hosts)
    parts = [slots[start : start + _PART_FILMS] for start in range(0, len(slots), _PART_FILMS)]
    missing = [n for n in range(len(parts)) if not (out / f"parts/films-{n:05d}.parquet").exists()]
    for finished in _make_parts(
        [(n, parts[n], settings.seed, out) for n in missing], workers or available_cores()
    ):
        if on_progress is not None:
            on_progress(finished)
    for table, stem in (("cohort", "films"), ("opacities", "opacities")):
        whole = pl.concat([pl.read_parquet(out / f"parts/{stem}-{n:05d}.parquet") for n in range(len(parts))])
        _write(whole, out / f"{table}.parquet")
    return out / "cohort.parquet"
