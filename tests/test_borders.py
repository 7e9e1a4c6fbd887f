"""Collimator borders: plain ones go, lung never does."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screener.borders import Rectangle, inside_borders
from tests.factories import chest_picture

FILMS = sorted((Path(__file__).parent / "films").glob("*[01].png"))
FILM = chest_picture(600, 500)


def bordered(top: int, left: int, bottom: int, right: int, level: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    shape = (top + FILM.shape[0] + bottom, left + FILM.shape[1] + right)
    picture = (level + rng.integers(0, 8, shape)).astype(np.uint16)
    picture[top : top + FILM.shape[0], left : left + FILM.shape[1]] = FILM
    return picture


@given(
    top=st.integers(0, 120),
    left=st.integers(0, 120),
    bottom=st.integers(0, 120),
    right=st.integers(0, 120),
    level=st.sampled_from([0, 4080]),
)
@settings(max_examples=40, deadline=None)
def test_plain_borders_go_and_no_picture_does(
    top: int, left: int, bottom: int, right: int, level: int
) -> None:
    picture = bordered(top, left, bottom, right, level)
    inside = inside_borders(picture)
    # No pixel of the film is lost, and at most 2 % of a side is left of a border.
    assert inside.top <= top and inside.left <= left
    assert inside.bottom >= top + FILM.shape[0] and inside.right >= left + FILM.shape[1]
    height, width = picture.shape
    assert top - inside.top <= 0.02 * height and left - inside.left <= 0.02 * width
    assert inside.bottom - (height - bottom) <= 0.02 * height
    assert inside.right - (width - right) <= 0.02 * width


@pytest.mark.parametrize("path", FILMS, ids=lambda path: path.stem)
def test_real_films_lose_nothing_inside_the_lungs(path: Path) -> None:
    film = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    mask = cv2.imread(str(path.with_suffix(".mask.png")), cv2.IMREAD_GRAYSCALE)
    assert film is not None and mask is not None
    inside = inside_borders(np.asarray(film))
    assert np.count_nonzero(mask) == np.count_nonzero(
        mask[inside.top : inside.bottom, inside.left : inside.right]
    )


def test_an_oblique_border_and_a_marker_in_the_border_stay() -> None:
    oblique = FILM.copy()
    for row in range(len(FILM)):
        oblique[row, : 20 + row // 20] = 0
    # A column counts as plain with 5 % of picture in it, which is 30 rows: 2 columns here.
    assert inside_borders(oblique).left <= 22
    marked = bordered(100, 0, 0, 0, 0)
    marked[30:70, 200:300] = 4000
    assert inside_borders(marked).top <= 30


@pytest.mark.parametrize("picture", [np.zeros((300, 200), np.uint8), np.full((1, 1), 9, np.uint16)])
def test_a_plain_picture_is_left_whole(picture: np.ndarray) -> None:
    assert inside_borders(picture) == Rectangle(0, 0, *picture.shape)


def test_padding_far_outside_the_values_does_not_make_lung_look_plain() -> None:
    padded = FILM.copy()
    padded[:150, :150] = 65535
    assert inside_borders(padded) == Rectangle(0, 0, *FILM.shape)


def test_a_border_over_most_of_the_picture_is_not_believed() -> None:
    picture = np.zeros((600, 500), np.uint16)
    picture[250:350, 200:300] = FILM[250:350, 200:300]
    assert inside_borders(picture) == Rectangle(0, 0, 600, 500)
