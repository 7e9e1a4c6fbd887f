"""SOP Class UID and Modality to whether they state that an object is no radiograph.

Only the standard's own words count: a private or unknown SOP class, or a modality that is not a defined term,
states nothing and leaves the decision to the picture.
"""

from __future__ import annotations

from functools import lru_cache

from pydicom.config import IGNORE
from pydicom.uid import UID

from screener.errors import Reason

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
DX_FOR_PRESENTATION = "1.2.840.10008.5.1.4.1.1.1.1"
DX_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.1.1"
MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
_STANDARD_PREFIX = "1.2.840.10008."
_MAY_BE_RADIOGRAPHS = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.1",  # Computed Radiography
        DX_FOR_PRESENTATION,
        DX_FOR_PROCESSING,
        SECONDARY_CAPTURE,
        "1.2.840.10008.5.1.4.1.1.7.2",  # multi-frame greyscale byte and word secondary capture: a single
        "1.2.840.10008.5.1.4.1.1.7.3",  # frame may be a film
        "1.2.840.10008.5.1.4.1.1.12.2",  # X-ray radiofluoroscopy: R/F rooms store chest films under it
    }
)
_STORAGE_NAMES = ("Storage", "Storage - Trial", "For Presentation", "For Processing")
_HOLD_PICTURES = ("Image", "RT Dose", "Segmentation Storage", "Parametric Map", "Volume Storage")

FLUOROSCOPY = "RF"
"""Stated by R/F rooms for films and fluoroscopy alike: believed to be a film only when it says chest."""


def _terms(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


_OTHER_PICTURES = _terms(
    "CT MR US NM PT MG IO PX XA ES XC GM SM OP OPT OPM OPR OPV OAM OCT OPTENF OPTBSV IVUS IVOCT BDUS BMD",
    "CFM DG DMS EC FA FS SEG RTDOSE RTIMAGE STAIN TG VA VF ST CS CP LP DD DS DM MA MS M3D",
)
_NO_PICTURES = _terms(
    "SR PR KO DOC AU ECG EEG EMG EOG EPS HD RESP POS PLAN REG FID RWV RTPLAN RTSTRUCT RTRECORD RTRAD",
    "RTSEGANN RTINTENT SMR SRF TEXTUREMAP ANN ASMT CTPROTOCOL XAPROTOCOL IOL KER LEN OSS CDA",
)
"""Defined terms of PS3.3 C.7.3.1.1.1 (and retired ones), less those of projection radiographs."""


@lru_cache(maxsize=1024)
def other_kind(sop_class_uid: str | None) -> Reason | None:
    """Why a SOP class cannot be a radiograph: not an image at all, or an image of another kind."""
    if sop_class_uid in _MAY_BE_RADIOGRAPHS or not (sop_class_uid or "").startswith(_STANDARD_PREFIX):
        return None
    name = sop_class_name(sop_class_uid)
    if not name.endswith(_STORAGE_NAMES):
        return None
    return Reason.NOT_A_RADIOGRAPH if any(word in name for word in _HOLD_PICTURES) else Reason.NOT_AN_IMAGE


def sop_class_name(sop_class_uid: str | None) -> str:
    """The standard's name of a SOP class; empty for what it does not define."""
    name = UID(sop_class_uid or "", IGNORE).name
    return "" if name == sop_class_uid else name


def other_modality(modality: str | None) -> Reason | None:
    """Why a modality cannot be that of a radiograph."""
    if modality in _NO_PICTURES:
        return Reason.NOT_AN_IMAGE
    return Reason.NOT_A_RADIOGRAPH if modality in _OTHER_PICTURES else None
