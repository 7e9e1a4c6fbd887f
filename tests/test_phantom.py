"""The phantom: geometry, laterality, projection of mass, masks, and that findings stay inside the lungs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.findings import FindingPlan
from training.nuisances import Nuisance, sample_nuisance
from training.phantom import attenuate
from training.phantom_anatomy import Ellipsoid, chord, sample_anatomy
from training.phantom_exposure import Exposure, detect, display, display_window, sharpen
from training.phantom_film import Film, other_film, phantom_film, zones_of
from training.phantom_projection import Frame

FRAME = Frame(384, 384, 430 / 384, 60.0, 192.0)


def generators(seed: int) -> tuple[np.random.Generator, np.random.Generator, np.random.Generator]:
    first, second, third = (np.random.default_rng([seed, stream]) for stream in range(3))
    return first, second, third


def calm(seed: int = 0) -> Nuisance:
    nuisance = sample_nuisance(np.random.default_rng(seed))
    return replace(nuisance, num_devices=0, num_markers=0, rotation_deg=0.0, cut_off_px=0.0, inspiration=1.0)


def film_of(plan: FindingPlan, seed: int = 3) -> Film:
    return phantom_film(plan, calm(), *generators(seed))


@given(row=st.floats(5, 90), column=st.floats(5, 90), angle=st.floats(-8, 8))
def test_frame_grid_inverts_to_pixel(row: float, column: float, angle: float) -> None:
    frame = Frame(96, 96, 0.7, 30.0, 50.0, rotation_deg=angle)
    x, z = frame.grid()
    found_row, found_column = frame.to_pixel(x[int(row), int(column)], z[int(row), int(column)])
    assert found_row == pytest.approx(int(row) + 0.5, abs=1e-3)
    assert found_column == pytest.approx(int(column) + 0.5, abs=1e-3)


@given(x=st.floats(-20, 20), z=st.floats(-15, 20), volume=st.floats(0.1, 50))
def test_splat_keeps_mass_and_centre(x: float, z: float, volume: float) -> None:
    frame = Frame(96, 96, 0.7, 40.0, 48.0)
    one = np.float32
    film = frame.splat(np.array([x], one), np.array([z], one), np.array([volume], one))
    assert film.sum() * 0.7**2 == pytest.approx(volume, rel=1e-4)
    grid_x, grid_z = frame.grid()
    assert (film * grid_x).sum() / film.sum() == pytest.approx(x, abs=1e-2)
    assert (film * grid_z).sum() / film.sum() == pytest.approx(z, abs=1e-2)


def test_splat_beyond_the_film_is_dropped() -> None:
    film = FRAME.splat(
        np.array([9000.0], np.float32), np.array([0.0], np.float32), np.array([1.0], np.float32)
    )
    assert not film.any()


def test_chord_of_a_sphere() -> None:
    sphere = Ellipsoid(0, 0, 0, 10, 10, 10, 33.0)
    half = chord(sphere, np.array([0, 6, 11], np.float32), np.array([0, 0, 0], np.float32))
    assert half == pytest.approx([10, 8, 0], abs=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_anatomy_is_a_chest_the_right_way_round(seed: int) -> None:
    rng = np.random.default_rng(seed)
    anatomy = replace(sample_anatomy(rng), turn_deg=0.0)
    projection = attenuate(anatomy, FRAME, rng)
    rows, columns = np.nonzero(projection.lungs == 1)
    left_rows, left_columns = np.nonzero(projection.lungs == 2)
    assert columns.mean() < left_columns.mean(), "patient right is image left"
    assert rows.size > left_rows.size * 0.98, "the heart takes from the left lung"
    height_mm = (rows.max() - rows.min()) * FRAME.pixel_mm
    assert 200 < height_mm < 330
    area_cm2 = (projection.lungs > 0).sum() * FRAME.pixel_mm**2 / 100
    assert 300 < area_cm2 < 750
    heart = anatomy.heart[0]
    assert heart.x > 0, "the heart lies to the patient's left"
    assert anatomy.domes[0].z < anatomy.domes[1].z, "the right dome is higher"


def test_lungs_are_darker_than_mediastinum_and_abdomen() -> None:
    film = film_of(FindingPlan())
    assert film.lungs is not None
    rows, columns = np.nonzero(film.lungs)
    right_edge = np.nonzero((film.lungs == 1).any(axis=0))[0].max()
    left_edge = np.nonzero((film.lungs == 2).any(axis=0))[0].min()
    centre = (right_edge + left_edge) // 2
    middle = film.grey[rows.min() : rows.max(), centre - 6 : centre + 6]
    lung = np.median(film.grey[film.lungs > 0])
    assert lung + 40 < np.median(middle)
    assert lung + 40 < np.median(film.grey[rows.max() - 5 :, columns.min() + 40 : columns.max() - 40])


def test_zones_are_thirds_in_the_order_of_the_records() -> None:
    film = film_of(FindingPlan())
    assert film.lungs is not None
    zones = zones_of(film.lungs)
    heights = [np.nonzero((zones == zone).any(axis=1))[0] for zone in range(1, 7)]
    assert heights[0].mean() < heights[1].mean() < heights[2].mean()
    assert heights[3].mean() < heights[4].mean() < heights[5].mean()
    assert np.median(film.lungs[zones == 1]) == 1
    assert np.median(film.lungs[zones == 4]) == 2
    assert abs(heights[0].size - heights[1].size) <= 1


def test_findings_change_the_lungs_and_not_the_rest() -> None:
    healthy, ill = film_of(FindingPlan()), film_of(FindingPlan((3, 3, 3, 3, 3, 3), "r", "r"))
    assert healthy.lungs is not None
    change = ill.grey.astype(np.float32) - healthy.grey
    distant = np.zeros_like(healthy.lungs, bool)
    distant[:, : np.nonzero(healthy.lungs)[1].min() - 20] = True
    assert change[healthy.lungs > 0].mean() > 3
    assert np.abs(change[distant]).mean() < 1.0
    assert ill.lungs is not None
    assert np.array_equal(healthy.lungs, ill.lungs), "a finding never changes the mask"


@settings(deadline=None, max_examples=20)
@given(
    stops=st.floats(-2, 2),
    gamma=st.floats(0.6, 1.6),
    compression=st.floats(0, 0.6),
    unsharp=st.floats(0, 1.5),
)
def test_processing_keeps_order_and_range(
    stops: float, gamma: float, compression: float, unsharp: float
) -> None:
    exposure = Exposure(stops=stops, gamma=gamma, compression=compression, unsharp=unsharp)
    steps = np.repeat(np.linspace(1.2, 4.5, 4, dtype=np.float32), 48)[None].repeat(96, 0)
    sharp = sharpen(detect(steps, exposure, 0.56, np.random.default_rng(1)), exposure, 0.56)
    grey = display(sharp, exposure, display_window(sharp, np.ones_like(sharp, bool)))
    assert grey.dtype == np.float32
    assert grey.min() >= 0
    assert grey.max() <= 1
    means = [grey[:, 48 * n + 14 : 48 * n + 34].mean() for n in range(4)]
    assert means == sorted(means), "more attenuation is never darker"


def test_noise_grows_as_exposure_falls() -> None:
    flat = np.full((128, 128), 2.1, np.float32)
    spread = [
        detect(flat, Exposure(stops=stops), 0.56, np.random.default_rng(0)).std()
        for stops in (-2.0, 0.0, 2.0)
    ]
    assert spread[0] / spread[1] == pytest.approx(2, rel=0.1)
    assert spread[1] / spread[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("kind", ["lateral", "limb", "hand", "skull", "abdomen"])
def test_other_pictures_have_no_lungs_and_some_contrast(kind: str) -> None:
    film = other_film(kind, calm(), np.random.default_rng(1), np.random.default_rng(2))
    assert film.lungs is None
    assert film.grey.std() > 10


def test_same_generators_same_film() -> None:
    plan = FindingPlan((1, 2, 1, 1, 2, 0), "q", "t")
    assert np.array_equal(film_of(plan).grey, film_of(plan).grey)
