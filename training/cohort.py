"""A training cohort on disk: films drawn from phantoms and real films, masks, labels, nuisances, splits.

Film number i of seed s is decided by (s, i) alone, so any number of workers, and a resumed build, give the same
bytes. Classes, sources and splits are dealt from fixed decks rather than drawn, so that every class comes
from every source in the same proportion; the subject, never the film, is the unit of the split.
Synthetic scores prove plumbing only: the table says of every film what it was made from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, fields
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from screener.canvas import CANVAS_SIDE, canvas_from_grey
from screener.errors import ConfigError
from screener.records import ZONES, CanvasFacts
from screener.settings import available_cores
from screener.staging import LARGE_OPACITY_MM, LargeOpacity, stage_from_zones
from training.findings import FilmClass, FindingPlan, sample_plan
from training.films import RealFilm, read_films, real_film
from training.nuisances import Nuisance, sample_nuisance
from training.opacities import Opacity
from training.phantom_film import Film, other_film, phantom_film, zones_of

UInt8 = npt.NDArray[np.uint8]

FORMAT = "screener-cohort"
GENERATOR_VERSION = 1
"""Rises whenever the same seed gives other films."""
MASK_SIDE = 256
_PART_FILMS = 40
_OTHER_KINDS = ("lateral", "lateral", "limb", "hand", "skull", "abdomen")

CLASS_DECK = (
    (FilmClass.NORMAL, 7), (FilmClass.TB, 7), (FilmClass.OTHER, 6),
    (FilmClass.STAGE_I, 11), (FilmClass.STAGE_II, 10), (FilmClass.STAGE_III, 10),
)  # fmt: skip
"""Films of each class in a deck of 51; uneven on purpose, stage 0 holds three classes."""
_SPLIT_DECK = ("train",) * 7 + ("calibration",) + ("test",) * 2


@dataclass(frozen=True, slots=True)
class CohortSettings:
    """What decides a cohort."""

    num_films: int
    seed: int = 0
    films: Path | None = None
    """CSV of real films with lung masks (see `training.films`); None makes phantoms only."""
    real_share: float = 0.5
    """Share of real-film based rows when `films` is given."""
    other_share: float = 0.08
    """Share of pictures that are not frontal chests."""

    def __post_init__(self) -> None:
        if self.num_films < 1:
            raise ConfigError(f"--num-films {self.num_films}: expected at least 1")
        for name in ("real_share", "other_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 0 to 1")


@dataclass(frozen=True, slots=True)
class CohortFilm:
    """One row of cohort.parquet."""

    film_id: str
    subject_id: str
    source: str
    split: str
    film_class: str
    canvas: str
    lungs: str | None
    zones: str | None
    view: str
    content_top: float
    content_left: float
    content_bottom: float
    content_right: float
    pixel_mm: float
    pneumoconiosis: int | None
    tb: int | None
    stage: int | None
    stage_ambiguous: bool
    ru: int | None
    rm: int | None
    rl: int | None
    lu: int | None
    lm: int | None
    ll: int | None
    large_long_mm: float
    large_short_mm: float
    aggregation: bool
    opacity_type: str
    num_opacities: int
    confounder: str
    tb_pattern: str
    exposure: float
    gamma: float
    noise_fraction: float
    rotation_deg: float
    inspiration: float
    cut_off_px: float
    unsharp: float
    num_devices: int
    num_markers: int
    seed: int
    licence: str
    host_findings: str


@dataclass(frozen=True, slots=True)
class _Slot:
    """What film number `index` is, before anything is drawn."""

    index: int
    film_class: FilmClass
    kind: str
    """frontal, or a kind of `phantom_other`."""
    split: str
    host: RealFilm | None

    @property
    def source(self) -> str:
        return "phantom" if self.host is None else self.host.source


def _deal(settings: CohortSettings, hosts: tuple[RealFilm, ...]) -> tuple[_Slot, ...]:
    """Give every film its class, source, host and split, by the seed."""
    rng = np.random.default_rng([settings.seed, 0x5107])
    deck = [film_class for film_class, count in CLASS_DECK for _ in range(count)]
    num_real = round(settings.num_films * settings.real_share) if hosts else 0
    num_other = round((settings.num_films - num_real) * settings.other_share)
    shuffled: list[RealFilm] = [hosts[i] for i in rng.permutation(len(hosts))]
    patients = sorted({host.subject_id for host in shuffled})
    host_split = {
        patient: _SPLIT_DECK[place % len(_SPLIT_DECK)] for place, patient in enumerate(rng.permutation(patients).tolist())
    }
    slots = []
    drawn_of: dict[str, int] = {}
    for index in range(settings.num_films):
        real = index * num_real // settings.num_films != (index + 1) * num_real // settings.num_films
        place = drawn_of.get(str(real), 0)
        drawn_of[str(real)] = place + 1
        # 7 is coprime to the deck's 51 and to ten splits: classes interleave in every split.
        film_class = deck[(7 * place) % len(deck)]
        if real:
            host = shuffled[place % len(shuffled)]
            slots.append(_Slot(index, film_class, "frontal", host_split[host.subject_id], host))
            continue
        number = settings.num_films - num_real
        is_other = place * num_other // number != (place + 1) * num_other // number
        kind = _OTHER_KINDS[place % len(_OTHER_KINDS)] if is_other else "frontal"
        slots.append(_Slot(index, film_class, kind, _SPLIT_DECK[(place // len(deck) + 3 * place) % 10], None))
    return tuple(slots)


def _generators(seed: int, index: int) -> Iterator[np.random.Generator]:
    """Independent generators of one film: plan, nuisance, anatomy, findings, film."""
    for stream in range(5):
        yield np.random.default_rng([seed, index, stream])


def _draw(slot: _Slot, seed: int) -> tuple[Film, FindingPlan, Nuisance]:
    plan_rng, nuisance_rng, anatomy_rng, findings_rng, film_rng = _generators(seed, slot.index)
    nuisance = sample_nuisance(nuisance_rng)
    if slot.kind != "frontal":
        return other_film(slot.kind, nuisance, anatomy_rng, film_rng), FindingPlan(), nuisance
    plan = sample_plan(plan_rng, slot.film_class)
    if slot.host is not None:
        plan = slot.host.adapt(plan)
        return real_film(slot.host, plan, nuisance, findings_rng, film_rng), plan, nuisance
    return phantom_film(plan, nuisance, anatomy_rng, findings_rng, film_rng), plan, nuisance


def _to_canvas(film: Film) -> tuple[UInt8, UInt8 | None, CanvasFacts]:
    """The picture's canvas, its lung labels on the mask grid, and where it lies."""
    canvas = np.empty((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    facts = canvas_from_grey(film.grey, canvas)
    levels = np.round(canvas * 255).astype(np.uint8)
    if film.lungs is None:
        return levels, None, facts
    box = facts.letterbox
    step = MASK_SIDE / CANVAS_SIDE
    forward = np.array(
        [
            [box.scale * step, 0, step * (box.left + 0.5 * box.scale) - 0.5],
            [0, box.scale * step, step * (box.top + 0.5 * box.scale) - 0.5],
        ]
    )
    labels = np.zeros((MASK_SIDE, MASK_SIDE), np.uint8)
    for lung in (1, 2):
        soft = cv2.GaussianBlur((film.lungs == lung).astype(np.float32), (0, 0), 0.5 / (box.scale * step))
        small = cv2.warpAffine(soft, forward, (MASK_SIDE, MASK_SIDE), flags=cv2.INTER_LINEAR)
        labels[small >= 0.5] = lung
    return levels, labels, facts


def _row(slot: _Slot, film: Film, plan: FindingPlan, nuisance: Nuisance, facts: CanvasFacts, seed: int) -> CohortFilm:
    frontal = film.lungs is not None
    large = tuple(LargeOpacity(long, short) for long, short in film.drawing.large_mm if long > LARGE_OPACITY_MM)
    staged = stage_from_zones(plan.levels, large_opacities=large, aggregation=plan.aggregation)
    biggest = max(film.drawing.large_mm, default=(0.0, 0.0))
    name = f"s{seed}-{slot.index:06d}"
    top, left, bottom, right = facts.content
    levels = dict(zip(ZONES, plan.levels, strict=True)) if frontal else dict.fromkeys(ZONES)
    return CohortFilm(
        film_id=name,
        subject_id=slot.host.subject_id if slot.host else f"phantom-{seed}-{slot.index:06d}",
        source=slot.source,
        split=slot.split,
        film_class=slot.film_class.value if frontal else "none",
        canvas=f"canvas/{name}.png",
        lungs=f"lungs/{name}.png" if frontal else None,
        zones=f"zones/{name}.png" if frontal else None,
        view="frontal" if frontal else ("lateral" if slot.kind == "lateral" else "other"),
        content_top=top,
        content_left=left,
        content_bottom=bottom,
        content_right=right,
        pixel_mm=film.pixel_mm / facts.letterbox.scale,
        pneumoconiosis=int(staged.stage >= 1) if frontal else None,
        tb=int(bool(plan.tb)) if frontal else None,
        stage=staged.stage if frontal else None,
        stage_ambiguous=staged.stage_ambiguous or staged.large_opacity_unstaged,
        **levels,
        large_long_mm=float(biggest[0]),
        large_short_mm=float(biggest[1]),
        aggregation=plan.aggregation,
        opacity_type=plan.opacity_type,
        num_opacities=len(film.drawing.opacities),
        confounder=plan.confounder.value,
        tb_pattern=",".join(plan.tb) or "none",
        exposure=nuisance.exposure,
        gamma=nuisance.gamma,
        noise_fraction=nuisance.noise_fraction,
        rotation_deg=nuisance.rotation_deg,
        inspiration=nuisance.inspiration,
        cut_off_px=nuisance.cut_off_px,
        unsharp=nuisance.unsharp,
        num_devices=nuisance.num_devices,
        num_markers=nuisance.num_markers,
        seed=seed,
        licence=slot.host.licence if slot.host else "generated",
        host_findings=slot.host.findings if slot.host else "",
    )


def _make(slot: _Slot, seed: int, out: Path) -> tuple[CohortFilm, tuple[Opacity, ...], CanvasFacts]:
    """Draw one film and write its pictures."""
    film, plan, nuisance = _draw(slot, seed)
    levels, labels, facts = _to_canvas(film)
    row = _row(slot, film, plan, nuisance, facts, seed)
    cv2.imwrite(str(out / row.canvas), levels, [cv2.IMWRITE_PNG_COMPRESSION, 3])
    if labels is not None:
        cv2.imwrite(str(out / f"lungs/{row.film_id}.png"), labels)
        cv2.imwrite(str(out / f"zones/{row.film_id}.png"), zones_of(labels))
    return row, film.drawing.opacities, facts


def _write_part(number: int, slots: tuple[_Slot, ...], seed: int, out: Path) -> int:
    """Make the films of one part; the part's table is renamed into place last."""
    import polars as pl

    cv2.setNumThreads(1)
    rows: list[dict[str, object]] = []
    bodies: list[dict[str, object]] = []
    for slot in slots:
        row, opacities, facts = _make(slot, seed, out)
        rows.append(asdict(row))
        for body in opacities:
            entry = asdict(body)
            entry["row"], entry["column"] = facts.letterbox.to_canvas(body.row, body.column)
            bodies.append({"film_id": row.film_id, **entry})
    opacity_schema = {"film_id": pl.String, "kind": pl.String, "row": pl.Float32, "column": pl.Float32, "diameter_mm": pl.Float32, "peak_mm": pl.Float32, "zone": pl.Int8}
    _rename_into_place(pl.DataFrame(bodies, schema=opacity_schema), out / f"parts/opacities-{number:05d}.parquet")
    _rename_into_place(pl.DataFrame(rows, schema=_schema()), out / f"parts/films-{number:05d}.parquet")
    return len(slots)


def _schema() -> dict[str, object]:
    """Polars types of a `CohortFilm`."""
    import polars as pl

    types = {"str": pl.String, "str | None": pl.String, "float": pl.Float32, "bool": pl.Boolean, "int": pl.Int32, "int | None": pl.Int8}
    return {field.name: types[str(field.type)] for field in fields(CohortFilm)}


def _rename_into_place(table: object, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    table.write_parquet(temporary)  # type: ignore[attr-defined]
    temporary.replace(path)


def _claim(out: Path, settings: CohortSettings, hosts: tuple[RealFilm, ...]) -> None:
    """Create the folder, or check that it holds the same cohort."""
    import hashlib

    listed = hashlib.sha256("\n".join(host.key for host in hosts).encode()).hexdigest()[:16]
    described = {
        "format": FORMAT,
        "generator_version": GENERATOR_VERSION,
        "num_films": settings.num_films,
        "seed": settings.seed,
        "real_share": settings.real_share if hosts else 0.0,
        "other_share": settings.other_share,
        "num_real_films": len(hosts),
        "real_films_sha256": listed,
    }
    path = out / "cohort.json"
    if path.exists():
        if json.loads(path.read_text()) != described:
            raise ConfigError("the folder holds another cohort; choose an empty folder, or the same arguments to resume")
        return
    for name in ("canvas", "lungs", "zones", "parts"):
        (out / name).mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(described, indent=2) + "\n")


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
    import polars as pl

    hosts = read_films(settings.films) if settings.films else ()
    _claim(out, settings, hosts)
    slots = _deal(settings, hosts)
    parts = [slots[start : start + _PART_FILMS] for start in range(0, len(slots), _PART_FILMS)]
    missing = [n for n in range(len(parts)) if not (out / f"parts/films-{n:05d}.parquet").exists()]
    # Forked children of a process that has used Polars can hang: start clean ones.
    with ProcessPoolExecutor(workers or available_cores(), mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_write_part, n, parts[n], settings.seed, out) for n in missing]
        for job in as_completed(jobs):
            finished = job.result()
            if on_progress is not None:
                on_progress(finished)
    for table, stem in (("cohort", "films"), ("opacities", "opacities")):
        whole = pl.concat([pl.read_parquet(out / f"parts/{stem}-{n:05d}.parquet") for n in range(len(parts))])
        _rename_into_place(whole, out / f"{table}.parquet")
    return out / "cohort.parquet"
