from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screener.records import Float32, Letterbox, QualityFlag
from screener.zones import (
    MASK_LEFT,
    MASK_RIGHT,
    LungFields,
    find_lungs,
    implausibilities,
    mask_in_picture,
    measure,
    outlines,
    zone_areas_cm2,
    zone_labels,
    zone_masks,
    zone_segments,
)
from tests.films.films import NAMES, film_of, read_pair

WHOLE = (0.0, 0.0, 768.0, 768.0)
UNIT = Letterbox(1.0, 0.0, 0.0)


def rectangles(
    right: tuple[int, int, int, int] = (40, 40, 220, 110),
    left: tuple[int, int, int, int] = (40, 140, 220, 210),
) -> Float32:
    """Two rectangular lungs (top, left, bottom, right) on a 256 grid."""
    probability = np.zeros((2, 256, 256), dtype=np.float32)
    for channel, (top, first, bottom, last) in zip(probability, (right, left), strict=True):
        channel[top:bottom, first:last] = 1
    return probability


def real_fields(name: str) -> LungFields:
    return find_lungs(film_of(*read_pair(name)).probability)


def test_zones_are_thirds_from_apex_to_dome() -> None:
    labels = zone_labels(find_lungs(rectangles()))
    for zone, (rows, columns) in enumerate(
        [
            (slice(40, 100), slice(40, 110)),
            (slice(100, 160), slice(40, 110)),
            (slice(160, 220), slice(40, 110)),
            (slice(40, 100), slice(140, 210)),
            (slice(100, 160), slice(140, 210)),
            (slice(160, 220), slice(140, 210)),
        ],
        start=1,
    ):
        assert np.all(labels[rows, columns] == zone)
        assert np.count_nonzero(labels == zone) == 60 * 70


def test_the_sulcus_belongs_to_the_lower_zone_and_does_not_move_the_lines() -> None:
    probability = rectangles()
    probability[0, 220:245, 40:52] = 1  # lateral sulcus, below the dome
    fields = find_lungs(probability)
    assert fields.right is not None
    assert fields.right.dome == 220
    assert fields.right.bottom == 245
    labels = zone_labels(fields)
    assert np.all(labels[220:245, 40:52] == 3)
    assert fields.right.zone_lines == (100, 160)


@pytest.mark.parametrize("name", NAMES)
def test_zones_of_real_films_partition_the_lungs_from_top_to_bottom(name: str) -> None:
    fields = real_fields(name)
    masks = zone_masks(fields)
    assert np.array_equal(masks.sum(axis=0), fields.mask)
    assert masks.any(axis=(1, 2)).all()
    rows = [np.nonzero(mask)[0] for mask in masks]
    for upper, lower in ((0, 1), (1, 2), (3, 4), (4, 5)):
        assert rows[upper].max() < rows[lower].min()
    columns = [np.nonzero(mask)[1].mean() for mask in masks]
    assert max(columns[:3]) < min(columns[3:])  # patient right is on the image's left


def test_the_largest_part_is_the_lung() -> None:
    probability = rectangles()
    probability[0, 5:20, 5:20] = 1
    fields = find_lungs(probability)
    assert fields.right is not None
    assert (fields.right.top, fields.right.left) == (40, 40)
    assert fields.right.stray_share == pytest.approx(225 / (225 + 180 * 70))


def test_specks_are_not_lungs() -> None:
    fields = find_lungs(rectangles(left=(40, 140, 50, 150)))
    assert fields.left is None
    assert implausibilities(fields, UNIT, None, WHOLE) == (QualityFlag.MISSING_LUNG,)


def test_contested_pixels_go_to_the_more_probable_lung() -> None:
    probability = rectangles(right=(40, 40, 220, 130), left=(40, 120, 220, 210))
    probability[1, :, 120:130] = 0.9 * probability[1, :, 120:130]
    fields = find_lungs(probability)
    assert fields.right is not None
    assert fields.left is not None
    assert fields.right.right == fields.left.left == 130
    assert not (fields.right.mask & fields.left.mask).any()


@given(scale=st.floats(0.2, 6.0), row_mm=st.floats(0.05, 3.0), column_mm=st.floats(0.05, 3.0))
def test_area_follows_the_letterbox_and_both_spacings(scale: float, row_mm: float, column_mm: float) -> None:
    letterbox = Letterbox(scale, 0, 0)
    area = measure(find_lungs(rectangles()), letterbox, (row_mm, column_mm), WHOLE).area_cm2
    expected = (180 * 3 / scale * row_mm) * (70 * 3 / scale * column_mm) / 100
    assert area == pytest.approx((expected, expected))
    zones = zone_areas_cm2(find_lungs(rectangles()), letterbox, (row_mm, column_mm))
    assert zones == pytest.approx((expected / 3,) * 6)


def test_without_spacing_there_is_no_area() -> None:
    geometry = measure(find_lungs(rectangles()), UNIT, None, WHOLE)
    assert geometry.area_cm2 == (None, None)
    assert geometry.mask_valid
    assert zone_areas_cm2(find_lungs(rectangles()), UNIT, None) is None


@pytest.mark.parametrize(("spacing", "plausible"), [(0.25, False), (0.26, True), (0.59, True), (0.6, False)])
def test_area_range(spacing: float, plausible: bool) -> None:
    # Both lungs together are 2268 canvas cm2 at 1 mm a pixel.
    geometry = measure(find_lungs(rectangles()), UNIT, (spacing, spacing), WHOLE)
    assert geometry.mask_valid is plausible


def test_empty_masks_are_no_lungs() -> None:
    fields = find_lungs(np.zeros((2, 256, 256), dtype=np.float32))
    assert fields.found == ()
    assert not zone_labels(fields).any()
    assert outlines(fields) == ()
    assert zone_segments(fields).shape == (0, 4)
    assert measure(fields, UNIT, (0.5, 0.5), WHOLE).area_cm2 == (None, None)


def test_lines_and_outlines_are_in_canvas_pixels() -> None:
    fields = find_lungs(rectangles())
    segments = zone_segments(fields)
    assert segments[0].tolist() == [300, 120, 300, 330]
    assert len(segments) == 4
    right = outlines(fields)[0]
    assert right.min(axis=0).tolist() == [40.5 * 3, 40.5 * 3]
    assert right.max(axis=0).tolist() == [219.5 * 3, 109.5 * 3]


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(300, 900),
    columns=st.integers(300, 900),
    share=st.tuples(st.floats(0.1, 0.3), st.floats(0.6, 0.9)),
)
def test_a_saved_mask_lies_where_the_lung_was_drawn(
    rows: int, columns: int, share: tuple[float, float]
) -> None:
    scale = 768 / max(rows, columns)
    letterbox = Letterbox(scale, (768 - rows * scale) / 2, (768 - columns * scale) / 2)
    top, bottom = (edge * rows for edge in share)
    edges = [letterbox.to_canvas(top, 0.1 * columns), letterbox.to_canvas(bottom, 0.4 * columns)]
    (first_row, first_column), (last_row, last_column) = (
        (round(row / 3), round(column / 3)) for row, column in edges
    )
    probability = np.zeros((2, 256, 256), dtype=np.float32)
    probability[0, first_row:last_row, first_column:last_column] = 1
    drawn = mask_in_picture(probability, letterbox, rows, columns)
    assert drawn.shape == (rows, columns)
    found_rows, found_columns = np.nonzero(drawn == MASK_RIGHT)
    # Half a mask pixel of rounding either way, and one picture pixel.
    tolerance = 1.5 / scale + 1
    assert found_rows.min() == pytest.approx(top, abs=tolerance)
    assert found_rows.max() + 1 == pytest.approx(bottom, abs=tolerance)
    assert found_columns.min() == pytest.approx(0.1 * columns, abs=tolerance)
    assert found_columns.max() + 1 == pytest.approx(0.4 * columns, abs=tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_mask_of_a_real_film_agrees_with_its_mask(name: str) -> None:
    image, lungs = read_pair(name)
    film = film_of(image, lungs)
    drawn = mask_in_picture(film.probability, film.source.canvas.letterbox, *image.shape)
    for mask, grey in zip(lungs > 0.5, (MASK_RIGHT, MASK_LEFT), strict=True):
        dice = 2 * np.count_nonzero(mask & (drawn == grey)) / (mask.sum() + np.count_nonzero(drawn == grey))
        assert dice > 0.985


def test_measuring_takes_milliseconds() -> None:
    probability = film_of(*read_pair(NAMES[0])).probability
    times = []
    for _ in range(20):
        start = time.process_time()
        fields = find_lungs(probability)
        measure(fields, UNIT, (0.5, 0.5), WHOLE)
        zone_labels(fields)
        times.append(time.process_time() - start)
    assert min(times) < 0.01
