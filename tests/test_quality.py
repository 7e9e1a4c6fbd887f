from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest

from screener.quality import grade, grade_batch, measure_film
from screener.records import Batch, Lungs, Quality, QualityFlag, QualityGrade
from screener.zones import find_lungs
from tests.films.films import NAMES, Film, film_of, read_pair

Flag = QualityFlag
FRONTAL = 4.0


def graded(film: Film, frontal_logit: float = FRONTAL) -> Quality:
    return grade(film.canvas, film.probability, film.box, frontal_logit, film.source)[1]


def real_film(name: str) -> Film:
    return film_of(*read_pair(name))


def on_canvas(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[str], Film]:
    """A defect of the grey levels: the mask stays."""

    def defective(name: str) -> Film:
        film = real_film(name)
        changed = np.clip(change(film.canvas[0]), 0, 1).astype(np.float32)
        return replace(film, canvas=changed[None])

    return defective


def on_geometry(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[str], Film]:
    """A defect of the geometry: the mask goes along."""

    def defective(name: str) -> Film:
        image, lungs = read_pair(name)
        return film_of(change(image), np.stack([change(lung) for lung in lungs]))

    return defective


def on_mask(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[str], Film]:
    """A defect of the segmentation: the picture stays."""

    def defective(name: str) -> Film:
        film = real_film(name)
        return replace(film, probability=change(film.probability.copy()))

    return defective


def tilted(picture: np.ndarray) -> np.ndarray:
    turn = cv2.getRotationMatrix2D((64, 64), 15, 0.8)
    return cv2.warpAffine(picture, turn, (128, 128))


def turned_patient(picture: np.ndarray) -> np.ndarray:
    """Move the middle of the thorax sideways by a tenth of the picture and leave its sides."""
    columns = np.arange(128, dtype=np.float32)
    moved = columns + 13 * np.exp(-(((columns - 64) / 18) ** 2))
    rows = np.arange(128, dtype=np.float32)
    return cv2.remap(
        picture, np.tile(moved, (128, 1)), np.tile(rows[:, None], (1, 128)), interpolation=cv2.INTER_LINEAR
    )


def squashed(picture: np.ndarray) -> np.ndarray:
    return cv2.resize(picture, (128, 58), interpolation=cv2.INTER_AREA)


def without_bases(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:76])


def without_left_side(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[:, 48:])


def noisy(canvas: np.ndarray) -> np.ndarray:
    return canvas + np.random.default_rng(0).normal(0, 0.06, canvas.shape)


def with_metal_disk(name: str) -> Film:
    film = real_film(name)
    rows, columns = np.nonzero(film.probability[0] >= 0.5)
    canvas = film.canvas[0].copy()
    cv2.circle(canvas, (int(columns.mean() * 3), int(rows.mean() * 3)), 12, 1.0, -1)
    return replace(film, canvas=canvas[None])


def without_left_lung(probability: np.ndarray) -> np.ndarray:
    probability[1] = 0
    return probability


def with_half_a_lung(probability: np.ndarray) -> np.ndarray:
    rows = np.flatnonzero((probability[1] >= 0.5).any(axis=1))
    probability[1, int(np.quantile(rows, 0.4)) :] = 0
    return probability


def with_stray_parts(probability: np.ndarray) -> np.ndarray:
    probability[0, 2:44, 2:50] = 1
    return probability


DEFECTS: dict[str, tuple[Flag, Callable[[str], Film]]] = {
    "inverted": (Flag.LOW_CONTRAST, on_canvas(lambda canvas: 1 - canvas)),
    "flat": (Flag.LOW_CONTRAST, on_canvas(lambda canvas: 0.5 + 0.1 * (canvas - 0.5))),
    "too dark": (Flag.OVEREXPOSED, on_canvas(lambda canvas: canvas**5)),
    "too bright": (Flag.UNDEREXPOSED, on_canvas(lambda canvas: canvas**0.15)),
    "narrow window": (Flag.CLIPPED, on_canvas(lambda canvas: (canvas - 0.5) * 6 + 0.5)),
    "noise": (Flag.NOISY, on_canvas(noisy)),
    "bases cut off": (Flag.LUNG_CUT_OFF, on_geometry(without_bases)),
    "side cut off": (Flag.LUNG_CUT_OFF, on_geometry(without_left_side)),
    "turned patient": (Flag.ROTATED, on_geometry(turned_patient)),
    "tilted": (Flag.TILTED, on_geometry(tilted)),
    "expiration": (Flag.LOW_INSPIRATION, on_geometry(squashed)),
    "metal disk": (Flag.FOREIGN_OBJECT, with_metal_disk),
    "lung missing": (Flag.MISSING_LUNG, on_mask(without_left_lung)),
    "half a lung": (Flag.MASK_ASYMMETRY, on_mask(with_half_a_lung)),
    "stray parts": (Flag.MASK_COMPONENTS, on_mask(with_stray_parts)),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_good_film_lacks_nothing_but_resolution(name: str) -> None:
    # The carrier repository reduced the films to 128 pixels, 2.7 mm each: too coarse for p opacities.
    quality = graded(real_film(name))
    assert quality.flags == (Flag.LOW_RESOLUTION,)
    assert quality.grade is QualityGrade.ACCEPTABLE


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("defect", DEFECTS)
def test_each_defect_raises_its_flag(defect: str, name: str) -> None:
    flag, make = DEFECTS[defect]
    quality = graded(make(name))
    assert flag in quality.flags
    assert quality.grade >= QualityGrade.ACCEPTABLE


@pytest.mark.parametrize("spacing_mm", [0.2, None])
def test_a_film_of_full_resolution_is_good(spacing_mm: float | None) -> None:
    image, lungs = read_pair("CHNCXR_0618_1")
    large = cv2.resize(image, (2048, 2048), interpolation=cv2.INTER_CUBIC)
    masks = np.stack([cv2.resize(lung, (2048, 2048)) for lung in lungs])
    film = film_of(large, masks, (spacing_mm, spacing_mm) if spacing_mm else None)
    geometry, quality = grade(film.canvas, film.probability, film.box, FRONTAL, film.source)
    assert quality == Quality(QualityGrade.GOOD, ())
    assert geometry.mask_valid


def test_areas_scale_with_both_spacings() -> None:
    image, lungs = read_pair(NAMES[0])
    isotropic, anisotropic = (
        np.array(
            grade(film.canvas, film.probability, film.box, FRONTAL, film.source)[0].area_cm2, dtype=float
        )
        for film in (film_of(image, lungs, (2.7, 2.7)), film_of(image, lungs, (2.7, 1.35)))
    )
    assert np.allclose(isotropic, 2 * anisotropic)


def test_an_impossible_area_is_flagged_only_where_spacing_is_known() -> None:
    image, lungs = read_pair(NAMES[0])
    assert Flag.MASK_AREA in graded(film_of(image, lungs, (8.0, 8.0))).flags
    assert Flag.MASK_AREA not in graded(film_of(image, lungs)).flags


@pytest.mark.parametrize(
    ("logit", "flagged", "unreadable"), [(4, False, False), (0.5, True, False), (-0.5, True, True)]
)
def test_doubtful_view(logit: float, flagged: bool, unreadable: bool) -> None:
    quality = graded(real_film(NAMES[0]), logit)
    assert (Flag.VIEW_DOUBTFUL in quality.flags) is flagged
    assert (quality.grade is QualityGrade.UNREADABLE) is unreadable


def test_unreadable_needs_more_than_a_missing_lung() -> None:
    one = on_mask(without_left_lung)(NAMES[0])
    neither = replace(one, probability=np.zeros_like(one.probability))
    blank = replace(one, canvas=np.full_like(one.canvas, 0.5))
    assert graded(one).grade is QualityGrade.POOR
    assert graded(neither).grade is QualityGrade.UNREADABLE
    assert graded(blank).grade is QualityGrade.UNREADABLE


def test_missing_lungs_have_no_area_rather_than_none_of_it() -> None:
    film = film_of(*read_pair(NAMES[0]), (2.7, 2.7))
    probability = without_left_lung(film.probability.copy())
    geometry, _ = grade(film.canvas, probability, film.box, FRONTAL, film.source)
    assert geometry.area_cm2[0] is not None
    assert geometry.area_cm2[1] is None
    assert not geometry.mask_valid


def test_a_batch_is_graded_film_by_film() -> None:
    films = [real_film(name) for name in NAMES[:3]]
    batch = Batch(tuple(film.source for film in films), np.stack([film.canvas for film in films]))
    lungs = Lungs(
        np.stack([film.probability for film in films]),
        np.stack([film.box for film in films]),
        np.full((3, 1), FRONTAL, dtype=np.float32),
    )
    assert [quality for _, quality in grade_batch(batch, lungs)] == [graded(film) for film in films]


def test_grading_takes_milliseconds() -> None:
    film = real_film(NAMES[0])
    times = []
    for _ in range(10):
        start = time.process_time()
        graded(film)
        times.append(time.process_time() - start)
    assert min(times) < 0.05


@pytest.mark.parametrize("sd", [0.01, 0.03, 0.08])
def test_noise_is_measured_in_the_lungs(sd: float) -> None:
    film = real_film(NAMES[0])
    canvas = film.canvas + np.random.default_rng(0).normal(0, sd, film.canvas.shape).astype(np.float32)
    small = cv2.resize(canvas[0], (256, 256), interpolation=cv2.INTER_AREA)
    measures = measure_film(canvas, small, find_lungs(film.probability), film.source)
    assert measures.noise_sd == pytest.approx(sd, rel=0.05)
