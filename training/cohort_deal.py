"""Who gets what: class, source, split and host of every film of a cohort, dealt from fixed decks by the seed.

Dealing instead of drawing gives every source every class in the same proportion, which is what keeps a
classifier from learning the source. The subject, never the film, is the unit of the split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screener.errors import ConfigError
from training.films import RealFilm
from training.findings import FilmClass
from training.splits import PARTS

OTHER_KINDS = ("lateral", "lateral", "limb", "hand", "skull", "abdomen")
"""Pictures that are not frontal chests, in the proportion in which they are dealt."""

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
    parts: tuple[str, ...] = PARTS
    """Parts of the split whose films are made; they are the same films whatever else is made."""

    def __post_init__(self) -> None:
        if self.num_films < 1:
            raise ConfigError(f"--num-films {self.num_films}: expected at least 1")
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise ConfigError(f"--parts {','.join(self.parts)}: expected some of {', '.join(PARTS)}")
        for name in ("real_share", "other_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 0 to 1")


@dataclass(frozen=True, slots=True)
class Slot:
    """What film number `index` is, before anything is drawn."""

    index: int
    film_class: FilmClass
    kind: str
    """frontal, or a kind of `phantom_other`."""
    split: str
    host: RealFilm | None

    @property
    def source(self) -> str:
        """Name of the host's set, or phantom."""
        return "phantom" if self.host is None else self.host.source


def deal(settings: CohortSettings, hosts: tuple[RealFilm, ...]) -> tuple[Slot, ...]:
    """Give every film of the wanted parts its class, source, host and split, by the seed."""
    rng = np.random.default_rng([settings.seed, 0x5107])
    deck = [film_class for film_class, count in CLASS_DECK for _ in range(count)]
    num_real = round(settings.num_films * settings.real_share) if hosts else 0
    num_other = round((settings.num_films - num_real) * settings.other_share)
    shuffled: list[RealFilm] = [hosts[i] for i in rng.permutation(len(hosts))]
    patients = sorted({host.subject_id for host in shuffled})
    host_split = {
        patient: _SPLIT_DECK[place % len(_SPLIT_DECK)]
        for place, patient in enumerate(rng.permutation(patients).tolist())
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
            slots.append(Slot(index, film_class, "frontal", host_split[host.subject_id], host))
            continue
        number = settings.num_films - num_real
        is_other = place * num_other // number != (place + 1) * num_other // number
        kind = OTHER_KINDS[place % len(OTHER_KINDS)] if is_other else "frontal"
        slots.append(Slot(index, film_class, kind, _SPLIT_DECK[(place // len(deck) + 3 * place) % 10], None))
    return tuple(slot for slot in slots if slot.split in settings.parts)
