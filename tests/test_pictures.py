import cv2
import numpy as np
import pytest

from bench.synthetic_campaign import simple_chest
from screener.pictures import MARGIN, MAX_BYTES, PANEL_SIDE, draw_overlay
from screener.records import Float32


def decoded(picture: bytes) -> np.ndarray:
    bgr = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB).astype(np.int32)


def panels(picture: bytes) -> list[np.ndarray]:
    return np.split(decoded(picture), 3, axis=1)


def activation_at(row: int, column: int) -> Float32:
    """A single hot cell for the first finding, nothing for the second."""
    activation = np.full((2, 16, 16), -1, np.float32)
    activation[0, row, column] = 5
    return activation


def test_three_panels_in_a_small_webp() -> None:
    picture = draw_overlay(*simple_chest(), activation_at(8, 8))
    assert picture[:4] == b"RIFF"
    assert picture[8:12] == b"WEBP"
    assert len(picture) <= MAX_BYTES
    assert decoded(picture).shape == (PANEL_SIDE, 3 * PANEL_SIDE, 3)


def test_the_map_lies_where_the_activation_is_and_only_in_its_panel() -> None:
    film, first, second = panels(draw_overlay(*simple_chest(), activation_at(4, 12)))
    warmth = (first - film)[:, :, 0] - (first - film)[:, :, 2]  # red gained over blue
    row, column = np.unravel_index(np.argmax(cv2.blur(warmth.astype(np.float32), (9, 9))), warmth.shape)
    # Cell (4, 12) of 16 over the lung box, which fills the panel but for its margin.
    assert row / PANEL_SIDE == pytest.approx(0.06 + 0.88 * 4.5 / 16, abs=0.05)
    assert column / PANEL_SIDE == pytest.approx(0.06 + 0.88 * 12.5 / 16, abs=0.05)
    assert np.abs(second - film).mean() < 3


def test_contour_and_zone_lines_are_drawn() -> None:
    canvas, lungs, box = simple_chest()
    film = panels(draw_overlay(canvas, lungs, box, activation_at(0, 0)))[0]
    bare = panels(draw_overlay(canvas, np.zeros_like(lungs), box, activation_at(0, 0)))[0]
    changed = np.abs(film - bare).max(axis=2) > 60
    assert 400 < changed.sum() < 6000
    assert (np.abs(film - bare)[:, :, 0].sum() > 0) and changed.any(axis=1).sum() > PANEL_SIDE // 2


def test_a_map_over_a_narrow_box_lies_over_the_square_that_the_graph_crops() -> None:
    canvas, lungs, box = simple_chest()
    middle = (box[1] + box[3]) / 2
    box[1], box[3] = middle - (box[2] - box[0]) / 4, middle + (box[2] - box[0]) / 4
    side = box[2] - box[0]
    hot = panels(draw_overlay(canvas, lungs, box, activation_at(4, 12)))[1].astype(int)
    cold = panels(draw_overlay(canvas, lungs, box, np.zeros((2, 16, 16), np.float32)))[1].astype(int)
    row, column = np.unravel_index(np.abs(hot - cold).sum(axis=2).argmax(), hot.shape[:2])
    shown = side * (1 + 2 * MARGIN)
    assert row / PANEL_SIDE == pytest.approx((MARGIN * side + 4.5 / 16 * side) / shown, abs=0.04)
    assert column / PANEL_SIDE == pytest.approx((MARGIN * side + 12.5 / 16 * side) / shown, abs=0.04)


def test_nothing_from_outside_the_lung_box_is_shown() -> None:
    canvas, lungs, box = simple_chest()
    text = np.zeros(canvas.shape, np.uint8)
    cv2.putText(text, "ZHANG SAN 1960", (20, 60), cv2.FONT_HERSHEY_SIMPLEX, 1.5, 255, 4)
    cv2.putText(text, "HOSPITAL", (520, 750), cv2.FONT_HERSHEY_SIMPLEX, 1.5, 255, 4)
    written = np.maximum(canvas, text.astype(np.float32) / 255)
    assert (written != canvas).sum() > 1000
    assert draw_overlay(written, lungs, box, activation_at(3, 3)) == draw_overlay(
        canvas, lungs, box, activation_at(3, 3)
    )


@pytest.mark.parametrize(
    "box",
    [np.zeros(4), np.array([np.nan, 0, 10, 10]), np.array([700, 700, 100, 100])],
    ids=["empty", "nan", "inverted"],
)
def test_a_box_that_is_none_shows_the_whole_canvas(box: np.ndarray) -> None:
    canvas, lungs, _ = simple_chest()
    picture = draw_overlay(canvas, lungs, box.astype(np.float32), activation_at(3, 3))
    assert decoded(picture).shape == (PANEL_SIDE, 3 * PANEL_SIDE, 3)


def test_noise_and_broken_numbers_still_make_a_small_picture() -> None:
    rng = np.random.default_rng(0)
    canvas = rng.random((768, 768)).astype(np.float32)
    canvas[0, 0] = np.nan
    activation = rng.normal(size=(2, 16, 16)).astype(np.float32)
    activation[0, 0, 0] = np.inf
    whole = np.array([0, 0, 768, 768], np.float32)
    assert 0 < len(draw_overlay(canvas, np.zeros((2, 256, 256), np.float32), whole, activation)) <= MAX_BYTES


def test_wrong_ranks_are_refused() -> None:
    canvas, lungs, box = simple_chest()
    with pytest.raises(ValueError, match="expected ranks"):
        draw_overlay(canvas[None], lungs, box, activation_at(0, 0))
