"""The canvas: where the picture lies, what its grey levels mean, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screener.canvas import CANVAS_SIDE, canvas_from_grey, decode_for_canvas, draw_canvas
from screener.codecs import Picture, decode
from screener.display import DisplayTransform, LookupTable, Window, apply_window
from screener.errors import DecodeError, Reason
from screener.frame import EncodedFrame
from screener.records import CanvasFacts, Float32, HeaderFlag
from tests.factories import chest_picture, encode
from tests.test_polarity import ARCHIVE, canvas_of

J2K, HTJ2K, JPEG_BASELINE = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.50"
WINDOW = DisplayTransform(window=Window(2048, 4096))


def draw(
    pixels: npt.NDArray[Any] | Picture, transform: DisplayTransform = WINDOW, **options: bool
) -> tuple[Float32, CanvasFacts]:
    picture = pixels if isinstance(pixels, Picture) else Picture(pixels, 1, "raw")
    rows, columns = (side * picture.reduction for side in picture.pixels.shape)
    out = np.full((CANVAS_SIDE, CANVAS_SIDE), np.nan, np.float32)
    return out, draw_canvas(picture, transform, rows, columns, out, **options)


def draw_frame(
    frame: EncodedFrame, picture: Picture, transform: DisplayTransform = WINDOW
) -> tuple[Float32, CanvasFacts]:
    out = np.full((CANVAS_SIDE, CANVAS_SIDE), np.nan, np.float32)
    return out, draw_canvas(picture, transform, frame.rows, frame.columns, out, check_polarity=False)


def frame_of(film: npt.NDArray[Any], uid: str, *, bits: int = 12) -> EncodedFrame:
    rows, columns = film.shape
    payload = encode(film, uid, bits=bits)
    return EncodedFrame(uid, payload, rows, columns, 8 * film.itemsize, bits, bits - 1, False, "")


def square_film() -> npt.NDArray[Any]:
    """A film of the canvas's own size, so that nothing is resampled."""
    return chest_picture(CANVAS_SIDE, CANVAS_SIDE)


# Geometry


@given(rows=st.integers(16, 2400), columns=st.integers(16, 2400))
@settings(max_examples=60, deadline=None)
def test_letterbox_is_centred_keeps_the_aspect_and_round_trips(rows: int, columns: int) -> None:
    noise = np.random.default_rng(rows).integers(0, 4096, (rows, columns)).astype(np.uint16)
    canvas, facts = draw(noise, DisplayTransform(), check_polarity=False)
    top, left, bottom, right = facts.content
    box = facts.letterbox
    assert 0.97 - 1e-9 <= box.scale * max(rows, columns) / CANVAS_SIDE <= 1.006
    assert 0.97 * CANVAS_SIDE <= max(bottom - top, right - left) <= CANVAS_SIDE
    assert abs(top - (CANVAS_SIDE - bottom)) <= 1 and abs(left - (CANVAS_SIDE - right)) <= 1
    # Up to three rows and columns are left out; rounding moves each edge by at most half a pixel.
    assert box.to_canvas(0, 0) == pytest.approx((top, left), abs=0.51)
    assert box.to_canvas(rows, columns) == pytest.approx((bottom, right), abs=0.51 + 3 * box.scale)
    assert box.to_picture(*box.to_canvas(12.25, 7.5)) == pytest.approx((12.25, 7.5))
    outside = canvas.copy()
    outside[int(top) : int(bottom), int(left) : int(right)] = 0
    assert not outside.any() and not np.isnan(canvas).any()
    assert canvas.min() >= 0 and canvas.max() <= 1


def spot_film(rows: int, columns: int, row: int, column: int) -> npt.NDArray[Any]:
    """A film with a soft bright spot centred on pixel edge (row, column), over a fine pattern."""
    y, x = np.arange(rows)[:, None] + 0.5, np.arange(columns)[None, :] + 0.5
    unit = max(rows, columns) / CANVAS_SIDE
    pattern = 600 + 300 * np.sin(y / unit / 4) * np.sin(x / unit / 4)
    spot = np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * (30 * unit) ** 2))
    film: npt.NDArray[Any] = (pattern + 3000 * spot).astype(np.uint16)
    return film


def spot_on_canvas(canvas: Float32) -> tuple[float, float]:
    weight = np.maximum(canvas - 0.4, 0).astype(np.float64)
    y, x = np.mgrid[0:CANVAS_SIDE, 0:CANVAS_SIDE] + 0.5
    return float((weight * y).sum() / weight.sum()), float((weight * x).sum() / weight.sum())


@pytest.mark.parametrize(
    ("shape", "spot"),
    [
        ((3056, 2544), (1000, 700)),
        ((1000, 1411), (501, 1203)),
        ((700, 500), (123, 377)),
        ((1537, 1539), (1331, 200)),
        ((3007, 2335), (2700, 2000)),
    ],
)
def test_a_spot_lies_where_the_letterbox_says(shape: tuple[int, int], spot: tuple[int, int]) -> None:
    canvas, facts = draw(spot_film(*shape, *spot), check_polarity=False)
    expected = facts.letterbox.to_canvas(*spot)
    assert spot_on_canvas(canvas) == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("reduction", [2, 4])
@pytest.mark.parametrize("uid", [J2K, HTJ2K, JPEG_BASELINE])
def test_a_spot_stays_in_place_at_reduced_size(uid: str, reduction: int) -> None:
    film = spot_film(768 * reduction - 1, 640 * reduction - 3, 301 * reduction, 207 * reduction)
    bits = 12
    if uid == JPEG_BASELINE:
        film, bits = (film >> 4).astype(np.uint8), 8
    frame = frame_of(film, uid, bits=bits)
    transform = DisplayTransform(window=Window(2.0 ** (bits - 1), 2.0**bits))
    reduced, facts = draw_frame(frame, decode_for_canvas(frame), transform)
    full, _ = draw_frame(frame, decode(frame, cover_px=None), transform)
    assert facts.reduction == reduction
    assert spot_on_canvas(reduced) == pytest.approx(spot_on_canvas(full), abs=0.03)


def test_borders_are_cropped_and_the_letterbox_knows() -> None:
    film = np.zeros((1200, 1000), np.uint16)
    film[200:1100, 100:900] = chest_picture(900, 800)
    canvas, facts = draw(film)
    assert HeaderFlag.BORDER_CROPPED in facts.flags
    assert facts.letterbox.scale == pytest.approx(CANVAS_SIDE / 900, rel=0.03)
    top, left, bottom, right = facts.content
    assert facts.letterbox.to_canvas(200, 100) == pytest.approx((top, left), abs=12)
    assert facts.letterbox.to_canvas(1100, 900) == pytest.approx((bottom, right), abs=12)
    whole, uncropped = draw(chest_picture(900, 800))
    assert HeaderFlag.BORDER_CROPPED not in uncropped.flags
    assert np.abs(canvas - whole).mean() < 0.03


def test_a_film_with_wide_borders_is_decoded_finer() -> None:
    film = np.zeros((1600, 1300), np.uint16)
    film[300:1300, 200:1100] = chest_picture(1000, 900)
    frame = frame_of(film, J2K)
    assert decode(frame, cover_px=CANVAS_SIDE).reduction == 2
    assert decode_for_canvas(frame).reduction == 1


@pytest.mark.parametrize(
    ("side", "scale"),
    [(745, 1), (744, 768 / 744), (1536, 0.5), (1491, 0.5), (3056, 0.25), (3080, 768 / 3080)],
)
def test_a_picture_that_nearly_fills_the_canvas_is_not_enlarged(side: int, scale: float) -> None:
    _, facts = draw(chest_picture(side, side // 2))
    assert facts.letterbox.scale == pytest.approx(scale)


# Grey levels


def test_at_scale_one_grey_levels_are_dicoms() -> None:
    film = square_film()
    canvas, facts = draw(film)
    np.testing.assert_allclose(canvas, apply_window(film.astype(np.float32), Window(2048, 4096)), atol=1e-6)
    inverted, _ = draw(4095 - film, DisplayTransform(window=Window(2048, 4096), inverted=True))
    np.testing.assert_allclose(inverted, canvas, atol=1e-6)
    assert facts.flags == ()


def test_signed_and_rescaled_films_give_the_same_canvas() -> None:
    film = square_film()
    canvas, facts = draw(film)
    signed = (film.astype(np.int32) - 2048).astype(np.int16)
    shifted, same = draw(signed, DisplayTransform(intercept=2048, window=Window(2048, 4096)))
    np.testing.assert_allclose(shifted, canvas, atol=1e-6)
    assert same.pixel_sha256 == facts.pixel_sha256
    negative = DisplayTransform(slope=-10, intercept=40950, window=Window(20475, 40950), inverted=True)
    sloped, _ = draw(film, negative)
    assert np.abs(sloped - canvas).max() < 0.001


def test_modality_and_voi_luts_are_applied_in_order() -> None:
    film = square_film()
    squares = LookupTable(0, 16, ((np.arange(4096) / 4095) ** 2 * 65535).astype(np.float32))
    roots = LookupTable(0, 12, (np.sqrt(np.arange(65536) / 65535) * 4095).astype(np.float32))
    canvas, _ = draw(film, DisplayTransform(modality_lut=squares, voi_lut=roots))
    np.testing.assert_allclose(canvas, film / 4095, atol=2e-3)


@pytest.mark.parametrize(("transform", "flag"), [
    (DisplayTransform(), HeaderFlag.NO_WINDOW),
    (DisplayTransform(unusable_window=True), HeaderFlag.WINDOW_IGNORED),
    (DisplayTransform(window=Window(100_000, 50)), HeaderFlag.WINDOW_IGNORED),
    (DisplayTransform(window=Window(0, 200_000)), HeaderFlag.WINDOW_IGNORED),
])  # fmt: skip
def test_without_a_window_that_shows_the_film_percentiles_do(
    transform: DisplayTransform, flag: HeaderFlag
) -> None:
    film = square_film()
    canvas, facts = draw(film, transform)
    assert facts.flags == (flag,)
    low, high = np.percentile(film, (0.5, 99.5))
    expected = np.clip((film - low) / (high - low), 0, 1)
    assert np.abs(canvas - expected).max() < 0.01
    assert facts.clipped_fraction == pytest.approx(0.012, abs=0.008)


def test_clipped_fraction_counts_both_ends() -> None:
    film = square_film()
    low, high = np.percentile(film, (10, 80))
    _, facts = draw(film, DisplayTransform(window=Window((low + high) / 2, high - low)))
    assert facts.clipped_fraction == pytest.approx(0.3, abs=0.02)
    assert draw(film)[1].clipped_fraction == 0


def test_raw_detector_values_are_logarithmic_flagged_and_right_way_up() -> None:
    """A For Processing film: exposure is high where the film is dark, and the header says MONOCHROME1."""
    film = square_film()
    exposure = (60000 * np.exp(film / -1500.0)).astype(np.uint16)
    raw = DisplayTransform(window=Window(30000, 1), inverted=True, for_processing=True)
    canvas, facts = draw(exposure, raw)
    assert facts.flags == (HeaderFlag.FOR_PROCESSING,)
    assert np.corrcoef(canvas.ravel(), film.ravel())[0, 1] > 0.99
    logarithmic = np.log1p(exposure.astype(np.float64)) * 5000
    already, _ = draw(
        logarithmic.astype(np.uint16),
        DisplayTransform(inverted=True, for_processing=True, logarithmic=True),
    )
    assert np.abs(already - canvas).max() < 0.01
    flipped, facts = draw(exposure, DisplayTransform(for_processing=True))
    assert facts.flags == (HeaderFlag.FOR_PROCESSING, HeaderFlag.POLARITY_CORRECTED)
    np.testing.assert_allclose(flipped, canvas, atol=1e-6)


@pytest.mark.parametrize("padding", [(0, 0), (65000, 65535)])
@pytest.mark.parametrize("inverted", [False, True])
def test_padding_is_black_and_stays_out_of_every_statistic(padding: tuple[int, int], inverted: bool) -> None:
    film = chest_picture(1536, 1536)
    plain, facts = draw(film, DisplayTransform(inverted=inverted), check_polarity=False)
    y, x = np.mgrid[0:1536, 0:1536]
    padded = np.where(y + x < 500, np.uint16(padding[1]), film)
    transform = DisplayTransform(inverted=inverted, padding=padding)
    canvas, with_padding = draw(padded, transform, check_polarity=False)
    assert with_padding.content == facts.content
    assert facts.content == pytest.approx((0, 0, CANVAS_SIDE, CANVAS_SIDE))
    diagonal = y[:768, :768] + x[:768, :768]
    assert not canvas[diagonal < 248].any()
    # The corner that went changes the percentiles a little; no padding bleeds over its edge.
    assert np.abs(canvas - plain)[diagonal > 252].max() < 0.06
    assert with_padding.clipped_fraction == pytest.approx(facts.clipped_fraction, abs=0.01)


def test_a_padding_value_that_covers_the_film_is_not_believed() -> None:
    film = square_film()
    canvas, _ = draw(film, DisplayTransform(window=Window(2048, 4096), padding=(0, 65535)))
    np.testing.assert_array_equal(canvas, draw(film)[0])


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_a_picture_with_one_value_is_blank(dtype: type[np.generic]) -> None:
    with pytest.raises(DecodeError) as error:
        draw(np.full((300, 200), 7, dtype), DisplayTransform())
    assert error.value.reason is Reason.BLANK_IMAGE
    speck = np.full((1000, 800), 7, np.uint16)
    speck[3, 3] = 9
    with pytest.raises(DecodeError):
        draw(speck, DisplayTransform())


# Codecs must not matter


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
def test_grey_levels_that_are_not_finite_cost_one_film_and_not_the_run() -> None:
    """A canvas with NaN gives logits with NaN, which rightly stop every other film, too."""
    with pytest.raises(DecodeError, match="not finite") as error:
        draw(square_film(), DisplayTransform(slope=3e38))
    assert error.value.reason is Reason.DECODE_FAILED


def test_pixel_hash_knows_the_picture_and_not_its_encoding() -> None:
    film = chest_picture(900, 700)
    frame = frame_of(film, J2K)
    _, raw = draw(film)
    _, coded = draw(decode_for_canvas(frame))
    assert raw.pixel_sha256 == coded.pixel_sha256
    assert draw(film[::-1])[1].pixel_sha256 != raw.pixel_sha256


@pytest.mark.parametrize(
    ("uid", "rows", "columns", "reduction"),
    [(HTJ2K, 3056, 2544, 4), (J2K, 1700, 1501, 2), (HTJ2K, 3001, 2335, 4), (HTJ2K, 2351, 2703, 2)],
)
def test_reduced_and_full_decodes_draw_the_same_canvas(
    uid: str, rows: int, columns: int, reduction: int
) -> None:
    """Measured on a real film enlarged to 3056 rows: mean 0.4, 99th percentile 1.9 of 255 grey levels."""
    frame = frame_of(chest_picture(rows, columns), uid)
    reduced, facts = draw_frame(frame, decode_for_canvas(frame, step=4))
    assert facts.reduction == reduction
    full, whole = draw_frame(frame, decode(frame, cover_px=None))
    assert facts.content == whole.content
    assert facts.letterbox.scale == pytest.approx(whole.letterbox.scale, rel=1e-9)
    difference = np.abs(reduced - full) * 255
    assert difference.mean() < 1
    assert np.percentile(difference, 99) < 4


def test_a_real_film_draws_the_same_from_jpeg_ls_and_reduced_jpeg_2000() -> None:
    jpeg_ls, first = canvas_of(ARCHIVE / "film-room-1" / "2004" / "RG1_JLSN")
    jpeg2000, second = canvas_of(ARCHIVE / "film-room-1" / "2004" / "RG1_J2KI.dcm")
    assert (first.route, second.route) == ("jpeg_ls", "jpeg2000/2")
    assert first.content == second.content
    difference = np.abs(jpeg_ls - jpeg2000) * 255
    assert difference.mean() < 1 and np.percentile(difference, 99) < 4


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_pictures_take_the_same_steps(dtype: type[np.generic]) -> None:
    film = (chest_picture(900, 700) >> (4 if dtype is np.uint8 else 0)).astype(dtype)
    out = np.full((CANVAS_SIDE, CANVAS_SIDE), np.nan, np.float32)
    facts = canvas_from_grey(film, out)
    canvas, same = draw(film, DisplayTransform())
    np.testing.assert_array_equal(out, canvas)
    assert (facts.pixel_sha256, facts.flags) == (same.pixel_sha256, same.flags)
    assert facts.route == "grey"
