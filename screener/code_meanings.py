"""What each code of the reports means, in the operator's words. A test asserts that none is missing."""

from __future__ import annotations

from screener.errors import Reason, Status
from screener.records import Diagnosis, HeaderFlag, QualityFlag, Referral

STATUSES: dict[Status, str] = {
    Status.SCREENED: "Went through the networks and has results.",
    Status.REJECTED: "Understood, and not a frontal chest radiograph.",
    Status.FAILED: "May be a chest radiograph and could not be screened; never a negative result.",
}

REASONS: dict[Reason, str] = {
    Reason.NOT_DICOM: "Not a DICOM file.",
    Reason.EMPTY_FILE: "The file has no bytes.",
    Reason.DICOMDIR: "An index of a medium, not an image.",
    Reason.SYMBOLIC_LINK: "A link to a place in the archive, which is screened there.",
    Reason.LINK_OUTSIDE_ARCHIVE: "A link out of the archive; not followed.",
    Reason.BROKEN_LINK: "A link to nothing, or a loop of links.",
    Reason.NOT_REGULAR_FILE: "A socket, pipe or device.",
    Reason.NOT_AN_IMAGE: "DICOM without an image: a report, a presentation state, ...",
    Reason.NO_PIXEL_DATA: "An image object whose pixel data are missing.",
    Reason.NOT_A_RADIOGRAPH: "Another modality: CT, MR, ultrasound, ...",
    Reason.NOT_CHEST: "A radiograph of another body part.",
    Reason.LATERAL_VIEW: "A lateral or oblique view.",
    Reason.MULTI_FRAME: "More than one frame.",
    Reason.COLOUR: "A colour picture.",
    Reason.LOCALIZER: "A localizer (scout).",
    Reason.DERIVED_IMAGE: "Computed from other exposures: dual energy, bone suppression, tomosynthesis.",
    Reason.TOO_SMALL: "The shorter side has fewer pixels than the setting asks for.",
    Reason.NOT_FRONTAL_CHEST: "The picture itself does not look like a frontal chest radiograph.",
    Reason.UNREADABLE_FILE: "The file cannot be opened or read (permissions, disk).",
    Reason.UNREADABLE_FOLDER: "The folder cannot be listed; its files were not found. Open it and run again.",
    Reason.CORRUPT_HEADER: "The DICOM header cannot be parsed.",
    Reason.UNSUPPORTED_TRANSFER_SYNTAX: "No installed decoder reads this transfer syntax.",
    Reason.UNSUPPORTED_PIXEL_FORMAT: "A bit depth or sample layout that is not read.",
    Reason.IMPLAUSIBLE_SIZE: "Declares or needs more pixels, bytes or memory than is allowed.",
    Reason.TRUNCATED_PIXEL_DATA: "The pixel data end early.",
    Reason.DECODE_FAILED: "The pixel data do not decode.",
    Reason.BLANK_IMAGE: "All, or nearly all, of the picture has one value.",
    Reason.DECODER_CRASHED: "The decoder process died on this file.",
    Reason.DECODER_TIMEOUT: "The decoder took longer than the time limit.",
    Reason.FILE_CHANGED: "The file changed between finding and reading it.",
}

REFERRALS: dict[Referral, str] = {
    Referral.NONE: "Nothing suspected at the thresholds.",
    Referral.ROUTINE: "To be read by a qualified reader.",
    Referral.PRIORITY: "To be read by a qualified reader first.",
    Referral.UNREADABLE: "No conclusion: read the film, or repeat it.",
}

DIAGNOSES: dict[Diagnosis, str] = {
    Diagnosis.NORMAL: "Neither pneumoconiosis nor tuberculosis suspected.",
    Diagnosis.PNEUMOCONIOSIS: "Pneumoconiosis suspected.",
    Diagnosis.TB: "Pulmonary tuberculosis suspected.",
    Diagnosis.BOTH: "Both suspected.",
}

QUALITY_FLAGS: dict[QualityFlag, str] = {
    QualityFlag.UNDEREXPOSED: "Lungs too light.",
    QualityFlag.OVEREXPOSED: "Lungs too dark.",
    QualityFlag.LOW_CONTRAST: "Grey levels of the lungs span too little.",
    QualityFlag.CLIPPED: "Too many pixels at either end of the display window.",
    QualityFlag.NOISY: "Noise in flat areas is high.",
    QualityFlag.LUNG_CUT_OFF: "A lung field reaches, or nearly reaches, the border of the picture.",
    QualityFlag.ROTATED: "The patient is turned: the lung fields are unequal.",
    QualityFlag.TILTED: "The lungs' axes lean against the picture's.",
    QualityFlag.LOW_INSPIRATION: "The lung fields are short for their width.",
    QualityFlag.MISSING_LUNG: "One lung field, or both, was not found.",
    QualityFlag.MASK_AREA: "The lung area is outside 150-800 cm2.",
    QualityFlag.MASK_COMPONENTS: "A lung mask is scattered or ragged.",
    QualityFlag.MASK_ASYMMETRY: "The two lung fields differ implausibly in area.",
    QualityFlag.FOREIGN_OBJECT: "A compact, very bright object lies over the lungs.",
    QualityFlag.VIEW_DOUBTFUL: "Barely looks like a frontal chest radiograph.",
    QualityFlag.LOW_RESOLUTION: "Pixels too coarse for small opacities.",
}

HEADER_FLAGS: dict[HeaderFlag, str] = {
    HeaderFlag.NO_PREAMBLE: "No preamble and DICM prefix: a raw data set.",
    HeaderFlag.MISSING_TRANSFER_SYNTAX: "No Transfer Syntax UID; deduced from the data.",
    HeaderFlag.NO_BODY_PART: "No tag names a body part.",
    HeaderFlag.DOUBTFUL_BODY_PART: "The body part tags are odd or contradict; the picture decided.",
    HeaderFlag.NO_VIEW: "No tag names the view.",
    HeaderFlag.DOUBTFUL_VIEW: "The view tags are odd or contradict; the picture decided.",
    HeaderFlag.SECONDARY_CAPTURE: "A secondary capture accepted as a radiograph.",
    HeaderFlag.FOR_PROCESSING: "Raw detector values, not meant for display.",
    HeaderFlag.NO_WINDOW: "No display window; one was taken from the pixels.",
    HeaderFlag.WINDOW_IGNORED: "The display window hides the picture; one was taken from the pixels.",
    HeaderFlag.POLARITY_CORRECTED: "The picture contradicted its declared polarity and was inverted.",
    HeaderFlag.POLARITY_DOUBTFUL: "The picture's polarity could not be told from its pixels.",
    HeaderFlag.BORDER_CROPPED: "Plain collimator borders were cropped.",
    HeaderFlag.NO_SPACING: "No pixel spacing: areas are null.",
    HeaderFlag.BITS_STORED_CORRECTED: "Pixels use more bits than Bits Stored says.",
}
