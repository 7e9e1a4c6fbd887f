"""Grey levels against pydicom's reference implementation and against the tags' many forms."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRLittleEndian

from screener.display import (
    DisplayTransform,
    VoiFunction,
    Window,
    apply_window,
    display_transform,
    modality_values,
    voi_values,
)
from screener.records import Float32, Instance
from tests.factories import chest_picture, film_dataset

SMALL = chest_picture(40, 33, bits=12)
SMALL_SIGNED = chest_picture(40, 33, bits=12, is_signed=True)


def instance_of(dataset: Dataset, *, for_presentation: bool | None = True) -> Instance:
    return Instance(
        sop_class_uid=None,
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        modality="CR",
        rows=dataset.Rows,
        columns=dataset.Columns,
        bits_allocated=dataset.BitsAllocated,
        bits_stored=dataset.BitsStored,
        is_signed=bool(dataset.PixelRepresentation),
        photometric_interpretation=dataset.PhotometricInterpretation,
        view_position="PA",
        body_part="chest",
        pixel_spacing_mm=None,
        spacing_source=None,
        for_presentation=for_presentation,
        manufacturer=None,
        patient_age_years=None,
        patient_sex=None,
        study_year=None,
    )


def transform_of(dataset: Dataset) -> DisplayTransform:
    return display_transform(dataset, instance_of(dataset))


def lut_item(entries: npt.NDArray[np.uint16], first: int, bits: int = 16, vr: str = "OW") -> Dataset:
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
    if vr == "OW":
        item.add_new("LUTData", "OW", entries.astype("<u2").tobytes())
    else:
        item.add_new("LUTData", "US", entries.tolist())
    return item


def pydicom_display(dataset: Dataset, pixels: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """pydicom's grey levels in [0, 1]: it scales a window's output to the modality units' range."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    units = apply_modality_lut(pixels, dataset)
    with np.errstate(over="ignore"):
        shown: npt.NDArray[np.float64] = apply_voi_lut(units, dataset).astype(np.float64)
    low, high = 0.0, 2.0**dataset.BitsStored - 1
    lut = dataset.get("VOILUTSequence") or dataset.get("ModalityLUTSequence")
    if lut:
        high = 2.0 ** lut[0].LUTDescriptor[2] - 1
    elif dataset.PixelRepresentation:
        low, high = -(2.0 ** (dataset.BitsStored - 1)), 2.0 ** (dataset.BitsStored - 1) - 1
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    low, high = low * slope + intercept, high * slope + intercept
    shown -= low
    shown /= high - low
    return shown


def display(dataset: Dataset, pixels: npt.NDArray[Any]) -> Float32:
    transform = transform_of(dataset)
    grey = voi_values(modality_values(pixels.astype(np.float32), transform), transform)
    assert grey is not None and grey.dtype == np.float32
    return grey


@given(
    function=st.sampled_from(VoiFunction),
    centre=st.integers(-3000, 5000),
    width=st.one_of(st.integers(1, 6000), st.floats(1.5, 6000)),
    slope=st.sampled_from([0.25, 1, 2.5]),
    intercept=st.sampled_from([-1024, 0, 17.5]),
    is_signed=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_windows_equal_pydicom(
    function: VoiFunction, centre: int, width: float, slope: float, intercept: float, is_signed: bool
) -> None:
    pixels = SMALL_SIGNED if is_signed else SMALL
    dataset = film_dataset(
        pixels,
        bits_stored=12,
        WindowCenter=centre,
        WindowWidth=f"{width:.6g}",
        VOILUTFunction=function.value,
        RescaleSlope=slope,
        RescaleIntercept=intercept,
    )
    np.testing.assert_allclose(display(dataset, pixels), pydicom_display(dataset, pixels), atol=2e-5)


def test_window_formulas_at_their_edges() -> None:
    """PS3.3 C.11.2.1.2.1's own examples: the ends of a window of 2048 and 4096, and one of width 1."""
    values = np.array([-1, 0, 1, 2047, 2048, 4095, 4096], np.float32)
    wide = apply_window(values, Window(2048, 4096))
    np.testing.assert_allclose(wide[[0, 1, 5, 6]], [0, 0, 1, 1])
    np.testing.assert_allclose(wide[2], 1 / 4095, rtol=1e-4)
    step = apply_window(values, Window(2048, 1))
    np.testing.assert_array_equal(step, [0, 0, 0, 0, 1, 1, 1])
    exact = apply_window(values, Window(2048, 4096, VoiFunction.LINEAR_EXACT))
    np.testing.assert_allclose(exact[[1, 4, 6]], [0, 0.5, 1])
    sigmoid = apply_window(values, Window(2048, 10, VoiFunction.SIGMOID))
    np.testing.assert_allclose(sigmoid[[0, 4, 6]], [0, 0.5, 1], atol=1e-6)


@pytest.mark.parametrize("vr", ["OW", "US"])
@pytest.mark.parametrize(("first", "is_signed"), [(0, False), (300, False), (-2048, True), (-500, True)])
def test_voi_lut_sequence_equals_pydicom_and_wins_over_windows(first: int, is_signed: bool, vr: str) -> None:
    pixels = SMALL_SIGNED if is_signed else SMALL
    entries = (np.linspace(0, 1, 2500) ** 2 * 4095).astype(np.uint16)
    dataset = film_dataset(pixels, bits_stored=12, WindowCenter=1, WindowWidth=2)
    dataset.VOILUTSequence = [lut_item(entries, first, bits=12, vr=vr)]
    np.testing.assert_allclose(display(dataset, pixels), pydicom_display(dataset, pixels), atol=1e-6)


@pytest.mark.parametrize("first", [0, 200])
def test_modality_lut_sequence_equals_pydicom(first: int) -> None:
    entries = (np.sqrt(np.linspace(0, 1, 3000)) * 65535).astype(np.uint16)
    dataset = film_dataset(SMALL, bits_stored=12, WindowCenter=30000, WindowWidth=50000)
    dataset.ModalityLUTSequence = [lut_item(entries, first)]
    dataset.ModalityLUTSequence[0].ModalityLUTType = "US"
    np.testing.assert_allclose(display(dataset, SMALL), pydicom_display(dataset, SMALL), atol=2e-5)


def test_lut_bytes_of_big_endian_files_are_big_endian() -> None:
    entries = np.linspace(0, 4095, 4096).astype(np.uint16)
    dataset = film_dataset(SMALL, bits_stored=12)
    dataset.VOILUTSequence = [lut_item(entries.byteswap(), 0, bits=12)]
    instance = replace(instance_of(dataset), transfer_syntax_uid="1.2.840.10008.1.2.2")
    grey = voi_values(SMALL.astype(np.float32), display_transform(dataset, instance))
    assert grey is not None
    np.testing.assert_allclose(grey, SMALL / 4095, atol=1e-6)


def test_full_length_lut_has_a_zero_in_its_descriptor() -> None:
    entries = np.arange(65536).astype(np.uint16)[::-1]
    dataset = film_dataset(SMALL, bits_stored=12)
    dataset.VOILUTSequence = [lut_item(entries, 0)]
    np.testing.assert_allclose(display(dataset, SMALL), 1 - SMALL / 65535, atol=1e-6)


def test_averaged_values_between_two_lut_entries_are_interpolated() -> None:
    dataset = film_dataset(SMALL, bits_stored=12)
    dataset.VOILUTSequence = [lut_item(np.array([0, 100, 300], np.uint16), 10, bits=10)]
    transform = transform_of(dataset)
    grey = voi_values(np.array([5, 10.5, 11.25, 99], np.float32), transform)
    assert grey is not None
    np.testing.assert_allclose(grey * 1023, [0, 50, 150, 300], rtol=1e-5)


def test_signed_lut_start_written_unsigned_is_read_signed() -> None:
    dataset = film_dataset(SMALL_SIGNED, bits_stored=12)
    item = lut_item(np.arange(4096).astype(np.uint16), 0, bits=12)
    item.LUTDescriptor = [4096, 65536 - 2048, 12]
    dataset.VOILUTSequence = [item]
    np.testing.assert_allclose(display(dataset, SMALL_SIGNED), (SMALL_SIGNED + 2048.0) / 4095, atol=1e-6)


@pytest.mark.parametrize(
    "descriptor", [[0, 0], [10, 0, 12], [2500, 0, 40], [0, 0, 0]], ids=["two", "length", "bits", "zeros"]
)
def test_unreadable_luts_are_as_good_as_none(descriptor: list[int]) -> None:
    dataset = film_dataset(SMALL, bits_stored=12)
    item = lut_item(np.arange(2500).astype(np.uint16), 0, bits=12)
    item.LUTDescriptor = descriptor
    dataset.VOILUTSequence = [item]
    assert transform_of(dataset).voi_lut is None
    dataset.VOILUTSequence = []
    assert transform_of(dataset).voi_lut is None


def test_first_of_several_windows_counts() -> None:
    dataset = film_dataset(SMALL, WindowCenter=[100, 900], WindowWidth=[50, 800])
    assert transform_of(dataset).window == Window(100, 50)


@pytest.mark.parametrize(
    ("centre", "width", "function"),
    [(100, 0, None), (100, 0.5, None), (100, -5, "SIGMOID"), (None, 100, None), (100, None, None)],
)
def test_windows_that_are_none_are_unusable(
    centre: float | None, width: float | None, function: str | None
) -> None:
    dataset = film_dataset(SMALL)
    for keyword, value in (("WindowCenter", centre), ("WindowWidth", width), ("VOILUTFunction", function)):
        if value is not None:
            setattr(dataset, keyword, value)
    transform = transform_of(dataset)
    assert transform.window is None and transform.unusable_window


def test_narrow_windows_of_the_exact_and_sigmoid_functions_are_windows() -> None:
    dataset = film_dataset(SMALL, WindowCenter=100, WindowWidth=0.5, VOILUTFunction="LINEAR_EXACT")
    assert transform_of(dataset).window == Window(100, 0.5, VoiFunction.LINEAR_EXACT)


def test_unknown_voi_function_is_linear_and_no_window_is_no_window() -> None:
    dataset = film_dataset(SMALL, WindowCenter=100, WindowWidth=50, VOILUTFunction="CUBIC")
    assert transform_of(dataset).window == Window(100, 50, VoiFunction.LINEAR)
    bare = transform_of(film_dataset(SMALL))
    assert bare.window is None and not bare.unusable_window


@pytest.mark.parametrize(
    ("photometric", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME1", "INVERSE", True),
    ],
)
def test_inversion_happens_once(photometric: str, shape: str | None, inverted: bool) -> None:
    dataset = film_dataset(SMALL, PhotometricInterpretation=photometric)
    if shape:
        dataset.PresentationLUTShape = shape
    assert transform_of(dataset).inverted is inverted


@pytest.mark.parametrize(
    ("pixels", "vr", "value", "limit", "padding"),
    [
        (SMALL, "US", 0, None, (0, 0)),
        (SMALL, "US", 4095, 4000, (4000, 4095)),
        (SMALL, "SS", -1, None, (65535, 65535)),
        (SMALL_SIGNED, "US", 63488, None, (-2048, -2048)),
        (SMALL_SIGNED, "SS", -2048, -2000, (-2048, -2000)),
    ],
)
def test_padding_is_in_the_pixels_own_sign(
    pixels: npt.NDArray[Any], vr: str, value: int, limit: int | None, padding: tuple[int, int]
) -> None:
    dataset = film_dataset(pixels, bits_stored=12)
    dataset.add_new("PixelPaddingValue", vr, value)
    if limit is not None:
        dataset.add_new("PixelPaddingRangeLimit", vr, limit)
    assert transform_of(dataset).padding == padding


def test_raw_pictures_are_for_processing_only_when_declared() -> None:
    dataset = film_dataset(SMALL, PixelIntensityRelationship="LOG")
    raw = display_transform(dataset, instance_of(dataset, for_presentation=False))
    assert raw.for_processing and raw.logarithmic
    unknown = display_transform(dataset, instance_of(dataset, for_presentation=None))
    assert not unknown.for_processing


def test_broken_numbers_take_their_defaults() -> None:
    dataset = film_dataset(SMALL)
    dataset.RescaleSlope, dataset.RescaleIntercept = 0, None
    transform = transform_of(dataset)
    assert (transform.slope, transform.intercept) == (1.0, 0.0)


@pytest.mark.parametrize("rescale", [(1e37, 0), (-1e38, 3e38), (1e300, 0), (1, 1e300), (1, -1e10)])
def test_rescale_that_would_overflow_is_none(rescale: tuple[float, float]) -> None:
    dataset = film_dataset(SMALL)
    dataset.RescaleSlope, dataset.RescaleIntercept = (f"{value:g}" for value in rescale)
    transform = transform_of(dataset)
    assert (transform.slope, transform.intercept) == (1.0, 0.0)


def test_lut_data_of_odd_length_is_cut_to_words() -> None:
    dataset = film_dataset(SMALL, bits_stored=12)
    item = lut_item(np.arange(16).astype(np.uint16), 0, bits=12)
    item["LUTData"].value = struct.pack("<16H", *range(16)) + b"\x00"
    dataset.VOILUTSequence = [item]
    lut = transform_of(dataset).voi_lut
    assert lut is not None and lut.entries.tolist() == list(range(16))
