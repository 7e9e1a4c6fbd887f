"""A header's elements to the facts about one image, `Instance`, whether or not it is eligible.

A reader would ask why so much is corrected rather than refused: tags that say how values are stored are often
wrong in ways that have one sensible reading, and refusing a film costs a patient. What was corrected is
flagged; what has no sensible reading is left for `eligibility` to refuse.
"""

from __future__ import annotations

import re
from datetime import date

from screener.anatomy import BODY_PART_EXAMINED, BodyPart, View, read_body_part, read_view
from screener.dates import parse_date
from screener.elements import Elements
from screener.records import HeaderFlag, Instance
from screener.sop_classes import DX_FOR_PRESENTATION, DX_FOR_PROCESSING, SECONDARY_CAPTURE

SOP_CLASS_UID = 0x00080016
MODALITY = 0x00080060
ROWS = 0x00280010
COLUMNS = 0x00280011
BITS_ALLOCATED = 0x00280100
_MANUFACTURER = 0x00080070
_PRESENTATION_INTENT = 0x00080068
_DATES = (0x00080020, 0x00080021, 0x00080022, 0x00080023)
"""Study, series, acquisition and content date: the first one present dates the study."""
_BIRTH_DATE = 0x00100030
_SEX = 0x00100040
_AGE = 0x00101010
_PHOTOMETRIC_INTERPRETATION = 0x00280004
_BITS_STORED = 0x00280101
_PIXEL_REPRESENTATION = 0x00280103
_SPACINGS = {"imager": 0x00181164, "pixel": 0x00280030, "nominal": 0x00182010}
"""Imager Pixel Spacing is at the detector (PS3.3 10.7.1.3); the others are what is left."""
_PLAUSIBLE_SPACING_MM = (0.02, 5.0)

OLDEST_AGE_KEPT = 90
_OLDEST_PLAUSIBLE_AGE = 125
_UNITS_PER_YEAR = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0, "": 1.0}


def read_instance(elements: Elements, transfer_syntax_uid: str, *flags: HeaderFlag) -> Instance | None:
    """The image's facts, or None for what declares no picture (Rows, Columns and Bits Allocated).

    Args:
        elements: the header's top level.
        transfer_syntax_uid: how the file is written.
        flags: what was already noticed of the file.
    """
    rows, columns = elements.unsigned_short(ROWS), elements.unsigned_short(COLUMNS)
    bits_allocated = elements.unsigned_short(BITS_ALLOCATED)
    if not rows or not columns or not bits_allocated:
        return None
    bits_stored, bits_corrected = _bits_stored(elements, bits_allocated)
    body_part, view = read_body_part(elements), read_view(elements)
    spacing, source = _spacing(elements)
    sop_class = elements.code(SOP_CLASS_UID)
    for_presentation = _for_presentation(elements, sop_class)
    conditions = {
        HeaderFlag.NO_BODY_PART: body_part == BodyPart(None) and not elements.text(BODY_PART_EXAMINED),
        HeaderFlag.DOUBTFUL_BODY_PART: body_part.doubtful,
        HeaderFlag.NO_VIEW: view == View(None),
        HeaderFlag.DOUBTFUL_VIEW: view.doubtful,
        HeaderFlag.SECONDARY_CAPTURE: sop_class == SECONDARY_CAPTURE,
        HeaderFlag.FOR_PROCESSING: for_presentation is False,
        HeaderFlag.NO_SPACING: spacing is None,
        HeaderFlag.BITS_STORED_CORRECTED: bits_corrected,
    }
    return Instance(
        sop_class_uid=sop_class,
        transfer_syntax_uid=transfer_syntax_uid,
        modality=_short(elements.code(MODALITY)),
        rows=rows,
        columns=columns,
        bits_allocated=bits_allocated,
        bits_stored=bits_stored,
        is_signed=elements.unsigned_short(_PIXEL_REPRESENTATION) == 1,
        photometric_interpretation=_short(elements.code(_PHOTOMETRIC_INTERPRETATION)) or "MONOCHROME2",
        view_position=view.position,
        body_part=body_part.stated,
        pixel_spacing_mm=spacing,
        spacing_source=source,
        for_presentation=for_presentation,
        manufacturer=elements.text(_MANUFACTURER),
        patient_age_years=_age_years(elements),
        patient_sex=_sex(elements),
        study_year=_study_year(elements),
        flags=(*flags, *(flag for flag, holds in conditions.items() if holds)),
    )


def _short(code: str | None) -> str | None:
    """A code string as the standard limits it; anything longer is not one."""
    return code.upper() if code and len(code) <= 16 else None


def _bits_stored(elements: Elements, bits_allocated: int) -> tuple[int, bool]:
    """Bits Stored, and whether it was missing or impossible: then every bit allocated counts."""
    stored = elements.unsigned_short(_BITS_STORED)
    return (stored, False) if stored and stored <= bits_allocated else (bits_allocated, True)


def _spacing(elements: Elements) -> tuple[tuple[float, float] | None, str | None]:
    low, high = _PLAUSIBLE_SPACING_MM
    for source, tag in _SPACINGS.items():
        spacing = elements.decimals(tag)
        if len(spacing) == 2 and all(low <= side <= high for side in spacing):
            return (spacing[0], spacing[1]), source
    return None, None


def _for_presentation(elements: Elements, sop_class: str | None) -> bool | None:
    intent = (elements.code(_PRESENTATION_INTENT) or "").upper()
    if intent in ("FOR PRESENTATION", "FOR PROCESSING"):
        return intent == "FOR PRESENTATION"
    return {DX_FOR_PRESENTATION: True, DX_FOR_PROCESSING: False}.get(sop_class or "")


def _age_years(elements: Elements) -> int | None:
    """Age at study in whole years, top-coded: Patient's Age, else from the dates."""
    found = re.fullmatch(r"(\d{1,3})([DWMY]?)", elements.code(_AGE) or "")
    if found:
        age = int(int(found[1]) / _UNITS_PER_YEAR[found[2]])
    else:
        born, studied = parse_date(elements.code(_BIRTH_DATE)), _study_date(elements)
        if born is None or studied is None:
            return None
        age = studied.year - born.year - ((studied.month, studied.day) < (born.month, born.day))
    return min(age, OLDEST_AGE_KEPT) if 0 <= age <= _OLDEST_PLAUSIBLE_AGE else None


def _sex(elements: Elements) -> str | None:
    sex = (elements.code(_SEX) or "").upper()
    return sex if sex in ("F", "M", "O") else None


def _study_year(elements: Elements) -> int | None:
    studied = _study_date(elements)
    return studied.year if studied else None


def _study_date(elements: Elements) -> date | None:
    return next(filter(None, (parse_date(elements.code(tag)) for tag in _DATES)), None)
