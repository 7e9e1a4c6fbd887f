"""Headers of benchmark films: what four kinds of radiography unit write, with made-up patients.

A header costs a reader by its elements, so each film has the seventy-odd of a real one: identification,
acquisition, a VOI LUT window, a procedure code, a private block, a request sequence. Makers and patients are
made up. Everything follows from the file's number and the seed.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import Dataset, Sequence
from pydicom.uid import (
    UID,
    ComputedRadiographyImageStorage,
    DigitalXRayImageStorageForPresentation,
)

ROOT_UID = "2.25.7411"
"""Prefix of every UID written, under the UUID-derived root of PS3.5 B.2."""
IMAGES_PER_STUDY = 2
STUDIES_PER_PATIENT = 2
DETECTOR_MM = 430.0
"""Longer side of the detector."""
_FIRST_YEAR, _NUM_YEARS = 2012, 13
_FAMILY_NAMES = ("Wang", "Li", "Kowalski", "Nkosi", "Ivanov", "Garcia", "Sato", "Singh")


@dataclass(frozen=True, slots=True)
class RadiographyUnit:
    """One kind of unit."""

    modality: str
    maker: str
    model: str
    photometric_interpretation: str
    body_part: str
    view_position: str


UNITS = (
    RadiographyUnit("DX", "Maker A", "Flat Panel 3000", "MONOCHROME2", "CHEST", "PA"),
    RadiographyUnit("CR", "Maker B", "Plate Reader XG", "MONOCHROME1", "CHEST", "PA"),
    RadiographyUnit("DX", "Maker C", "Mobile DR", "MONOCHROME2", "CHEST", "AP"),
    RadiographyUnit("CR", "Maker D", "Digitizer 35", "MONOCHROME2", "THORAX", ""),
)


def describe(
    number: int, unit: RadiographyUnit, *, seed: int, rows: int, columns: int, bits_stored: int
) -> Dataset:
    """Everything of one film's data set but its pixels.

    Args:
        number: the file's number, from 0: patient, study and UIDs follow from it.
        unit: what took the film.
        seed: the archive's; other seeds give other UIDs.
        rows: height of the picture.
        columns: width of the picture.
        bits_stored: bits of a sample.
    """
    study = number // IMAGES_PER_STUDY
    dataset = Dataset()
    _add_identification(dataset, number, study, seed)
    _add_unit(dataset, unit, number)
    _add_request(dataset, study)
    _add_picture(dataset, unit, rows, columns, bits_stored)
    _add_private_block(dataset, number)
    return dataset


def _add_identification(dataset: Dataset, number: int, study: int, seed: int) -> None:
    patient = study // STUDIES_PER_PATIENT
    family = _FAMILY_NAMES[patient % len(_FAMILY_NAMES)]
    day = f"{_FIRST_YEAR + study % _NUM_YEARS}{1 + study % 12:02d}{1 + study % 28:02d}"
    time = f"{8 + study % 9:02d}{number % 60:02d}{study % 60:02d}"
    dataset.SOPInstanceUID = UID(f"{ROOT_UID}.{seed}.3.{number + 1}")
    dataset.StudyInstanceUID = UID(f"{ROOT_UID}.{seed}.1.{study + 1}")
    dataset.SeriesInstanceUID = UID(f"{ROOT_UID}.{seed}.2.{number + 1}")
    dataset.PatientID, dataset.PatientName = f"BENCH{patient:07d}", f"{family}^Patient{patient}"
    dataset.PatientBirthDate, dataset.PatientSex = f"{1945 + patient % 45}0101", "MF"[patient % 7 == 0]
    dataset.PatientAge = f"{_FIRST_YEAR + study % _NUM_YEARS - 1945 - patient % 45:03d}Y"
    dataset.StudyDate = dataset.SeriesDate = dataset.AcquisitionDate = dataset.ContentDate = day
    dataset.StudyTime = dataset.SeriesTime = dataset.AcquisitionTime = dataset.ContentTime = time
    dataset.AccessionNumber, dataset.StudyID = f"A{study:09d}", f"{study:06d}"
    dataset.SeriesNumber, dataset.InstanceNumber = 1, 1 + number % IMAGES_PER_STUDY
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.InstitutionName, dataset.ReferringPhysicianName = "Benchmark Clinic", "Occupational^Health"


def _add_unit(dataset: Dataset, unit: RadiographyUnit, number: int) -> None:
    is_cr = unit.modality == "CR"
    dataset.SOPClassUID = ComputedRadiographyImageStorage if is_cr else DigitalXRayImageStorageForPresentation
    dataset.Modality, dataset.Manufacturer, dataset.ManufacturerModelName = (
        unit.modality,
        unit.maker,
        unit.model,
    )
    dataset.StationName, dataset.DeviceSerialNumber, dataset.SoftwareVersions = "ROOM1", "0042", "5.2.1"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.BodyPartExamined, dataset.ViewPosition = unit.body_part, unit.view_position
    dataset.StudyDescription, dataset.SeriesDescription = "Chest", "Chest frontal"
    dataset.ProtocolName, dataset.PatientOrientation = "CHEST", ["L", "F"]
    dataset.KVP, dataset.Exposure, dataset.ExposureTime = "125", str(1 + number % 4), "8"
    dataset.XRayTubeCurrent, dataset.DistanceSourceToDetector = "320", "1800"
    dataset.FilterType, dataset.Grid, dataset.FocalSpots = "NONE", "FOCUSED", "1.2"
    if is_cr:
        dataset.PlateID, dataset.PlateType, dataset.Sensitivity = "P0815", "ST-VI", "400"
    else:
        dataset.PresentationIntentType, dataset.DetectorType = "FOR PRESENTATION", "SCINTILLATOR"
        dataset.DetectorID, dataset.FieldOfViewShape = "D0815", "RECTANGLE"
        dataset.ExposureIndex, dataset.DeviationIndex = "310", "0.4"


def _add_request(dataset: Dataset, study: int) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "36643-5", "LN", "XR Chest 2 Views"
    dataset.ProcedureCodeSequence = Sequence([code])
    request = Dataset()
    request.RequestedProcedureID, request.ScheduledProcedureStepID = f"R{study}", f"S{study}"
    request.RequestedProcedureDescription = "Chest radiograph, periodic examination"
    dataset.RequestAttributesSequence = Sequence([request])


def _add_picture(dataset: Dataset, unit: RadiographyUnit, rows: int, columns: int, bits_stored: int) -> None:
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, 1
    dataset.PhotometricInterpretation = unit.photometric_interpretation
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, bits_stored, bits_stored - 1
    dataset.PixelRepresentation = 0
    spacing = f"{DETECTOR_MM / max(rows, columns):.5f}"
    dataset.ImagerPixelSpacing = [spacing, spacing]
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits_stored - 1), 2**bits_stored
    dataset.WindowCenterWidthExplanation, dataset.VOILUTFunction = "NORMAL", "LINEAR"
    dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = "0", "1", "US"
    dataset.PresentationLUTShape = (
        "INVERSE" if unit.photometric_interpretation == "MONOCHROME1" else "IDENTITY"
    )
    dataset.LossyImageCompression, dataset.BurnedInAnnotation = "00", "NO"
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LOG", 1


def _add_private_block(dataset: Dataset, number: int) -> None:
    block = dataset.private_block(0x0021, "BENCHMARK 1.0", create=True)
    block.add_new(0x01, "LO", "processing parameters")
    block.add_new(0x02, "OB", bytes((number + index) % 256 for index in range(512)))
    block.add_new(0x03, "DS", ["0.35", "1.20", "0.80"])
