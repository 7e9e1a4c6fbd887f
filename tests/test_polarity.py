"""A negative is caught on its pixels, and no positive is taken for one."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from screener.canvas import CANVAS_SIDE, canvas_from_grey, decode_for_canvas, display_transform, draw_canvas
from screener.polarity import TEMPLATE_SIDE, Polarity, chest_correlation, judge_polarity, thumbnail
from screener.records import CanvasFacts, Float32, HeaderFlag
from tests.factories import read_film

ARCHIVE = Path(__file__).parents[1] / "examples" / "archive"
FILMS = sorted((Path(__file__).parent / "films").glob("*[01].png"))
RIGHT = [
    "film-room-1/1995/CR-MONO1-10-chest",
    "film-room-1/2004/RG1_J2KI.dcm",
    "film-room-1/2004/RG1_JLSN",
    "mobile unit 2/1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819.dcm",
    "clinic/a/test1.dcm",
    "clinic/b/test3.dcm",
]


def canvas_of(path: Path, *, check_polarity: bool = True) -> tuple[Float32, CanvasFacts]:
    parsed, frame = read_film(path)
    assert parsed.instance is not None
    out = np.zeros((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    transform = display_transform(parsed.dataset, parsed.instance)
    picture = decode_for_canvas(frame)
    return out, draw_canvas(picture, transform, frame.rows, frame.columns, out, check_polarity=check_polarity)


def grey(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    return np.asarray(image)


@pytest.mark.parametrize("path", FILMS, ids=lambda path: path.stem)
def test_real_films_are_positive_and_their_negatives_are_flipped(path: Path) -> None:
    image = grey(path)
    canvas, negative = np.zeros((2, CANVAS_SIDE, CANVAS_SIDE), np.float32)
    facts = canvas_from_grey(image, canvas)
    assert HeaderFlag.POLARITY_CORRECTED not in facts.flags
    assert HeaderFlag.POLARITY_DOUBTFUL not in facts.flags
    facts = canvas_from_grey(255 - image, negative)
    assert HeaderFlag.POLARITY_CORRECTED in facts.flags
    assert np.abs(canvas - negative).mean() < 0.01


@pytest.mark.parametrize("name", RIGHT)
def test_right_headers_are_believed(name: str) -> None:
    _, facts = canvas_of(ARCHIVE / name)
    assert HeaderFlag.POLARITY_CORRECTED not in facts.flags
    assert HeaderFlag.POLARITY_DOUBTFUL not in facts.flags


def test_monochrome1_that_is_not_is_caught() -> None:
    """The same pixels once as MONOCHROME2, which they are, and once said to be MONOCHROME1."""
    right, _ = canvas_of(ARCHIVE / RIGHT[3])
    wrong, facts = canvas_of(ARCHIVE / "mobile unit 2" / "wrong polarity.dcm")
    assert HeaderFlag.POLARITY_CORRECTED in facts.flags
    np.testing.assert_allclose(wrong, right, atol=1e-6)
    believed, facts = canvas_of(ARCHIVE / "mobile unit 2" / "wrong polarity.dcm", check_polarity=False)
    assert HeaderFlag.POLARITY_CORRECTED not in facts.flags
    assert chest_correlation(believed) < -0.5


def test_a_picture_of_nothing_is_doubtful() -> None:
    noise = np.random.default_rng(0).random((300, 300), np.float32)
    assert judge_polarity(noise) is Polarity.DOUBTFUL
    assert judge_polarity(np.full((300, 300), 0.5, np.float32)) is Polarity.DOUBTFUL


def test_thumbnail_is_normalised_and_correlation_bounded() -> None:
    small = thumbnail(np.random.default_rng(1).random((57, 91), np.float32))
    assert small.shape == (TEMPLATE_SIDE, TEMPLATE_SIDE) and small.dtype == np.float32
    assert abs(float(small.mean())) < 1e-6 and abs(float(np.linalg.norm(small)) - 1) < 1e-5
    film = grey(FILMS[0]).astype(np.float32) / np.float32(255)
    assert chest_correlation(1 - film) == pytest.approx(-chest_correlation(film), abs=1e-5)
