"""A parsed header to an eligible `Instance`, or the typed reason why it is none.

Only an explicit statement rejects: missing, unknown or contradictory tags leave the decision to the picture
(frontal check, lung mask). Statements are read from the most to the least reliable: kind of object, colour
and frames, image type, body part, view; then whether the picture can be decoded at all.
"""

from __future__ import annotations

import re

from screener.elements import Elements
from screener.errors import DecodeError, NotARadiograph, Reason
from screener.header import ParsedHeader
from screener.instance import MODALITY, SOP_CLASS_UID
from screener.records import Instance
from screener.settings import RunSettings
from screener.sop_classes import FLUOROSCOPY, other_kind, other_modality, sop_class_name

_IMAGE_TYPE = 0x00080008
_SERIES_DESCRIPTION = 0x0008103E
_DERIVATION_DESCRIPTION = 0x00082111
_SAMPLES_PER_PIXEL = 0x00280002
_NUMBER_OF_FRAMES = 0x00280008
_LOCALIZERS = frozenset({"LOCALIZER", "SCOUT", "TOPOGRAM"})
_DERIVED_TYPES = re.compile(r"BONE|SOFT.?TISSUE|SUBTRACT|TOMO|SUPPRESS|HEAT.?MAP|SALIENCY")
"""Image Type values of dual-energy, bone-suppressed and tomosynthesis pictures. DERIVED alone says nothing:
every processed radiograph carries it."""
_DERIVED_TEXTS = re.compile(
    r"(bone|soft.?tissue|rib)s?.{0,12}(suppress|subtract|image|only|enhanced)|tomosynth|energy.{0,4}subtract",
    re.I,
)
"""Series and derivation descriptions that devices give the same pictures."""
_REPORT_TYPES = re.compile(r"REPORT|DOSE.?INFO")
_COLOUR = ("RGB", "YBR_")
"""Photometric Interpretations of three samples, where Samples per Pixel is missing."""
_SAMPLES = (1, 3, 4)
"""Samples per Pixel of PS3.3 C.7.6.3.1.1, and of retired ARGB and CMYK; any other is damage, not colour."""
_BITS_ALLOCATED = (8, 16)


def check_eligible(parsed: ParsedHeader, settings: RunSettings) -> Instance:
    """The image's facts if nothing speaks against its being a frontal chest radiograph that can be decoded.

    Args:
        parsed: the header.
        settings: smallest side and largest area of a picture.

    Raises:
        NotARadiograph: the header states that it is something else.
        DecodeError: it may be one, and the header is broken or the picture cannot be decoded.
    """
    _check_kind(parsed.elements, parsed.instance)
    if not parsed.is_whole:
        raise DecodeError(Reason.CORRUPT_HEADER, "header is cut off or does not parse")
    if parsed.pixel_data_offset is None:
        if not any(parsed.elements.values.values()):
            raise DecodeError(Reason.CORRUPT_HEADER, "a DICOM file without a single value")
        raise NotARadiograph(Reason.NO_PIXEL_DATA)
    if parsed.instance is None:
        raise DecodeError(Reason.CORRUPT_HEADER, "pixel data without Rows, Columns or Bits Allocated")
    _check_decodable(parsed.instance, settings)
    return parsed.instance


def _check_kind(elements: Elements, instance: Instance | None) -> None:
    _check_object(elements, instance)
    _check_picture_type(elements, instance)
    if instance is None:
        return
    if instance.body_part == "other":
        raise NotARadiograph(Reason.NOT_CHEST, "another body part is stated")
    if instance.view_position not in (None, "PA", "AP", "FRONTAL"):
        raise NotARadiograph(Reason.LATERAL_VIEW, f"view {instance.view_position}")


def _check_object(elements: Elements, instance: Instance | None) -> None:
    """Kind of object, by SOP class, then by modality."""
    sop_class = elements.code(SOP_CLASS_UID)
    reason = other_kind(sop_class)
    if reason:
        raise NotARadiograph(reason, sop_class_name(sop_class))
    modality = (elements.code(MODALITY) or "").upper()
    reason = other_modality(modality)
    if reason:
        raise NotARadiograph(reason, f"modality {modality}")
    if modality == FLUOROSCOPY and (instance is None or instance.body_part != "chest"):
        raise NotARadiograph(Reason.NOT_A_RADIOGRAPH, "modality RF without a chest body part")


def _check_picture_type(elements: Elements, instance: Instance | None) -> None:
    """Colour, frames, and what Image Type and the derivation say."""
    photometric = instance.photometric_interpretation if instance else ""
    samples = elements.unsigned_short(_SAMPLES_PER_PIXEL) or (3 if photometric.startswith(_COLOUR) else 1)
    if samples not in _SAMPLES:
        raise DecodeError(Reason.CORRUPT_HEADER, f"{samples} samples per pixel")
    if samples > 1 or photometric == "PALETTE COLOR":
        raise NotARadiograph(Reason.COLOUR, f"{samples} samples per pixel {photometric}".strip())
    frames = elements.integer_string(_NUMBER_OF_FRAMES) or 1
    if frames > 1:
        raise NotARadiograph(Reason.MULTI_FRAME, f"{frames} frames")
    image_type = {value.upper() for value in elements.codes(_IMAGE_TYPE)}
    if image_type & _LOCALIZERS:
        raise NotARadiograph(Reason.LOCALIZER, "Image Type states a localizer")
    types = " ".join(sorted(image_type))
    if _REPORT_TYPES.search(types):
        raise NotARadiograph(Reason.NOT_A_RADIOGRAPH, "Image Type states a report")
    descriptions = (elements.text(tag) or "" for tag in (_SERIES_DESCRIPTION, _DERIVATION_DESCRIPTION))
    if _DERIVED_TYPES.search(types) or any(map(_DERIVED_TEXTS.search, descriptions)):
        raise NotARadiograph(Reason.DERIVED_IMAGE, "dual-energy, suppressed or tomosynthesis picture")


def _check_decodable(instance: Instance, settings: RunSettings) -> None:
    """Pixel format and declared size."""
    if instance.bits_allocated not in _BITS_ALLOCATED:
        detail = f"{instance.bits_allocated} bits allocated, 8 or 16 are supported"
        raise DecodeError(Reason.UNSUPPORTED_PIXEL_FORMAT, detail)
    megapixels = instance.rows * instance.columns / 1e6
    if megapixels > settings.max_megapixels:
        detail = f"{megapixels:.0f} megapixels declared, at most {settings.max_megapixels:g} are read"
        raise DecodeError(Reason.IMPLAUSIBLE_SIZE, detail)
    if min(instance.rows, instance.columns) < settings.min_side_px:
        detail = f"{instance.rows} x {instance.columns}, at least {settings.min_side_px} are needed"
        raise NotARadiograph(Reason.TOO_SMALL, detail)
