"""Every Parquet column: name, type, unit, meaning. The data dictionary is generated from here.

`SCHEMA_VERSION` rises with any change of a name, a type or a meaning. Probabilities are in [0, 1];
identifiers are keyed pseudonyms (hex); null means that it was not known or not computed, never zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from screener.records import ZONES

SCHEMA_VERSION = "1"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    dtype: pl.DataType
    unit: str
    meaning: str


def _column(name: str, dtype: type[pl.DataType] | pl.DataType, unit: str, meaning: str) -> Column:
    return Column(name, dtype() if isinstance(dtype, type) else dtype, unit, meaning)


_IDS = (
    _column("image_pid", pl.String, "hex", "Pseudonym of the SOP instance (patient and SOP Instance UID)."),
    _column("study_pid", pl.String, "hex", "Pseudonym of the study (patient and Study Instance UID)."),
    _column(
        "subject_pid", pl.String, "hex", "Pseudonym of the patient (issuer and Patient ID); null without one."
    ),
)

_RESULTS = (
    _column(
        "quality_grade", pl.Int8, "1-4", "Technical quality: 1 good, 2 acceptable, 3 poor, 4 unreadable."
    ),
    _column("quality_flags", pl.List(pl.String), "codes", "Why the grade is not 1."),
    _column(
        "clipped_frac", pl.Float32, "0-1", "Share of picture pixels at either end of the display window."
    ),
    _column("lung_area_cm2_r", pl.Float32, "cm2", "Area of the patient's right lung field at the detector."),
    _column("lung_area_cm2_l", pl.Float32, "cm2", "Area of the patient's left lung field at the detector."),
    _column("mask_valid", pl.Boolean, "", "The lung mask is anatomically plausible."),
    _column("p_frontal", pl.Float32, "0-1", "Probability that the picture is a frontal chest radiograph."),
    _column("p_normal", pl.Float32, "0-1", "(1 - p_pneumoconiosis)(1 - p_tb): neither suspected."),
    _column("p_pneumoconiosis", pl.Float32, "0-1", "Calibrated probability of radiographic pneumoconiosis."),
    _column("p_tb", pl.Float32, "0-1", "Calibrated probability of radiographic pulmonary tuberculosis."),
    _column("p_stage0", pl.Float32, "0-1", "Calibrated probability of stage 0."),
    _column("p_stage1", pl.Float32, "0-1", "Calibrated probability of stage I."),
    _column("p_stage2", pl.Float32, "0-1", "Calibrated probability of stage II."),
    _column("p_stage3", pl.Float32, "0-1", "Calibrated probability of stage III."),
    _column("p_pneumoconiosis_raw", pl.Float32, "0-1", "The network's probability before calibration."),
    _column("p_tb_raw", pl.Float32, "0-1", "The network's probability before calibration."),
    _column("p_stage0_raw", pl.Float32, "0-1", "The network's probability before calibration."),
    _column("p_stage1_raw", pl.Float32, "0-1", "The network's probability before calibration."),
    _column("p_stage2_raw", pl.Float32, "0-1", "The network's probability before calibration."),
    _column("p_stage3_raw", pl.Float32, "0-1", "The network's probability before calibration."),
    _column(
        "dx_pred", pl.String, "code", "Suspected: normal, pneumoconiosis, tb or both, at the thresholds."
    ),
    _column("stage_pred", pl.Int8, "0-3", "Suspected stage: the most probable calibrated stage."),
    _column("stage_expected", pl.Float32, "0-3", "Probability-weighted mean stage."),
    _column("stage_consistent", pl.Boolean, "", "Both heads agree on whether pneumoconiosis is suspected."),
    _column(
        "tb_coexist_flag", pl.Boolean, "", "Tuberculosis and stage I or more both pass their thresholds."
    ),
    _column("zone_ru", pl.Float32, "0-3", "Expected profusion level, right upper zone."),
    _column("zone_rm", pl.Float32, "0-3", "Expected profusion level, right middle zone."),
    _column("zone_rl", pl.Float32, "0-3", "Expected profusion level, right lower zone."),
    _column("zone_lu", pl.Float32, "0-3", "Expected profusion level, left upper zone."),
    _column("zone_lm", pl.Float32, "0-3", "Expected profusion level, left middle zone."),
    _column("zone_ll", pl.Float32, "0-3", "Expected profusion level, left lower zone."),
    _column("n_zones_pos", pl.Int8, "0-6", "Zones whose expected profusion level rounds to 1 or more."),
    _column("referral", pl.String, "code", "none, routine, priority or unreadable."),
    _column("referral_reasons", pl.List(pl.String), "codes", "What led to the referral."),
    _column("threshold_set_id", pl.String, "", "The threshold set that decided."),
    _column("calibrated", pl.Boolean, "", "False when the bundle carries no fitted calibration."),
)

_SUBJECT = (
    _column("study_year", pl.Int16, "year", "Calendar year of the study."),
    _column(
        "study_date", pl.Date, "date", "Study date moved by a keyed number of days, the same for one subject."
    ),
    _column("age_years", pl.Int8, "years", "Age at study from the header, top-coded at 90."),
    _column("sex", pl.String, "code", "Patient Sex from the header: F, M or O."),
)

IMAGES: tuple[Column, ...] = (
    _column("file_id", pl.String, "hex", "Pseudonym of the file's path below the archive root."),
    *_IDS,
    _column("size_bytes", pl.Int64, "bytes", "Size of the file when it was screened."),
    _column(
        "mtime_key", pl.Int64, "", "Keyed digest of the file's modification time: says whether, not when."
    ),
    _column("source_sha256", pl.String, "hex", "SHA-256 of the file; null when it was not read whole."),
    _column(
        "pixel_sha256",
        pl.String,
        "hex",
        "SHA-256 of the 8-bit canvas: equal for the same picture sent twice.",
    ),
    _column("status", pl.String, "code", "screened, rejected or failed."),
    _column("reason", pl.String, "code", "Why it was not screened; null when screened."),
    _column("detail", pl.String, "", "What was found and expected; never identity or paths."),
    _column("step", pl.String, "code", "Where it ended: archive, header, pixels, canvas, picture or report."),
    _column("sop_class", pl.String, "UID", "SOP Class UID."),
    _column("transfer_syntax", pl.String, "UID", "Transfer Syntax UID."),
    _column("modality", pl.String, "code", "Modality tag."),
    _column(
        "body_part_tag", pl.String, "code", "What the body part tags say: chest, other; null when missing."
    ),
    _column("view_tag", pl.String, "code", "View from the header: PA, AP, LL, ...; null when missing."),
    _column("photometric", pl.String, "code", "Photometric Interpretation tag."),
    _column("intent", pl.String, "code", "presentation or processing; null when not declared."),
    _column("manufacturer", pl.String, "", "Manufacturer tag."),
    _column("rows", pl.Int32, "pixels", "Rows tag."),
    _column("cols", pl.Int32, "pixels", "Columns tag."),
    _column("bits_stored", pl.Int32, "bits", "Bits Stored tag."),
    _column("spacing_mm", pl.Float32, "mm", "Pixel spacing at the detector (mean of row and column)."),
    _column("spacing_source", pl.String, "code", "imager, pixel or nominal: the tag that gave the spacing."),
    _column(
        "decode_route",
        pl.String,
        "code",
        "Codec, reduction and bit-planes left out, e.g. jpeg2000/4-2; with --device cuda also where, e.g. "
        "nvimagecodec:jpeg2000.",
    ),
    _column("header_flags", pl.List(pl.String), "codes", "What was unusual and dealt with."),
    *_SUBJECT,
    *_RESULTS,
)

STUDIES: tuple[Column, ...] = (
    _IDS[1],
    _IDS[2],
    _column("image_pid", pl.String, "hex", "The image that speaks for the study: screened if any image was."),
    _column("file_id", pl.String, "hex", "The file of that image."),
    _column("num_images", pl.Int32, "images", "Distinct images of the study found, whatever became of them."),
    _column("num_screened", pl.Int32, "images", "Distinct images of the study screened."),
    _column("num_failed", pl.Int32, "images", "Distinct images of the study with a file that failed."),
    _column("status", pl.String, "code", "screened, rejected or failed: the best that any image reached."),
    _column("reason", pl.String, "code", "Why no image was screened; null otherwise."),
    _column("view_tag", pl.String, "code", "View of the image that speaks for the study."),
    _column("manufacturer", pl.String, "", "Manufacturer tag of that image."),
    *_SUBJECT,
    *_RESULTS,
)

LINKS: tuple[Column, ...] = (
    _column("file_id", pl.String, "hex", "Pseudonym of the file's path below the archive root."),
    *_IDS,
    _column("relative_path", pl.String, "", "Path below the archive root."),
    _column(
        "relative_path_hex", pl.String, "hex", "The path's bytes when they are not UTF-8; null otherwise."
    ),
    _column("patient_id", pl.String, "", "Patient ID."),
    _column("issuer_of_patient_id", pl.String, "", "Issuer of Patient ID."),
    _column("patient_name", pl.String, "", "Patient's Name, decoded from its DICOM character set."),
    _column("patient_birth_date", pl.String, "", "Patient's Birth Date as stored."),
    _column("accession_number", pl.String, "", "Accession Number."),
    _column("study_date", pl.String, "", "Study Date as stored."),
    _column("study_instance_uid", pl.String, "UID", "Study Instance UID."),
    _column("sop_instance_uid", pl.String, "UID", "SOP Instance UID."),
)

ZONE_COLUMNS = tuple(f"zone_{zone}" for zone in ZONES)
"""Columns of the six zones, in `records.ZONES` order."""

TABLES = {"images": IMAGES, "studies": STUDIES, "private/links": LINKS}


def polars_schema(table: tuple[Column, ...]) -> pl.Schema:
    """The table's columns as a Polars schema, in order."""
    return pl.Schema({column.name: column.dtype for column in table})
