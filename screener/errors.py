"""Errors, reasons and exit codes.

The tree::

    ScreenerError
    ├── ConfigError                  a setting, key or folder that cannot be used
    ├── DeviceError                  the GPU cannot decode or paint films
    ├── DecodeError                  this file cannot be screened (becomes a row, never stops a run)
    │   ├── UnsupportedTransferSyntax
    │   ├── CorruptPixelData
    │   └── NotARadiograph
    └── ReportError                  the campaign folder is inconsistent

`engines.errors` holds `BundleError` and `EngineError`: that floor imports nothing from here.

A `DecodeError` carries a `Reason` and becomes a row of the images table at exactly one place, the loader.
Everything else stops the run. `detail` must never hold patient identity or a path.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Status(StrEnum):
    """How a file ended."""

    SCREENED = "screened"
    REJECTED = "rejected"
    FAILED = "failed"


class Reason(StrEnum):
    """Why a file was not screened. `REASON_STATUS` says which reasons reject and which fail.

    *Rejected*: understood, and not a frontal chest radiograph. *Failed*: may be one, and could not be
    screened; `screener retry` takes these up again.
    """

    # rejected: not a file that can hold an image
    NOT_DICOM = "not_dicom"
    EMPTY_FILE = "empty_file"
    DICOMDIR = "dicomdir"
    SYMBOLIC_LINK = "symbolic_link"
    LINK_OUTSIDE_ARCHIVE = "link_outside_archive"
    BROKEN_LINK = "broken_link"
    NOT_REGULAR_FILE = "not_regular_file"
    # rejected: DICOM, but not a frontal chest radiograph
    NOT_AN_IMAGE = "not_an_image"
    NO_PIXEL_DATA = "no_pixel_data"
    NOT_A_RADIOGRAPH = "not_a_radiograph"
    NOT_CHEST = "not_chest"
    LATERAL_VIEW = "lateral_view"
    MULTI_FRAME = "multi_frame"
    COLOUR = "colour"
    LOCALIZER = "localizer"
    DERIVED_IMAGE = "derived_image"
    TOO_SMALL = "too_small"
    NOT_FRONTAL_CHEST = "not_frontal_chest"
    # failed: a person or a retry is needed
    UNREADABLE_FILE = "unreadable_file"
    UNREADABLE_FOLDER = "unreadable_folder"
    CORRUPT_HEADER = "corrupt_header"
    UNSUPPORTED_TRANSFER_SYNTAX = "unsupported_transfer_syntax"
    UNSUPPORTED_PIXEL_FORMAT = "unsupported_pixel_format"
    IMPLAUSIBLE_SIZE = "implausible_size"
    TRUNCATED_PIXEL_DATA = "truncated_pixel_data"
    DECODE_FAILED = "decode_failed"
    BLANK_IMAGE = "blank_image"
    DECODER_CRASHED = "decoder_crashed"
    DECODER_TIMEOUT = "decoder_timeout"
    FILE_CHANGED = "file_changed"


_FAILED = frozenset(
    {
        Reason.UNREADABLE_FILE,
        Reason.UNREADABLE_FOLDER,
        Reason.CORRUPT_HEADER,
        Reason.UNSUPPORTED_TRANSFER_SYNTAX,
        Reason.UNSUPPORTED_PIXEL_FORMAT,
        Reason.IMPLAUSIBLE_SIZE,
        Reason.TRUNCATED_PIXEL_DATA,
        Reason.DECODE_FAILED,
        Reason.BLANK_IMAGE,
        Reason.DECODER_CRASHED,
        Reason.DECODER_TIMEOUT,
        Reason.FILE_CHANGED,
    }
)

REASON_STATUS: dict[Reason, Status] = {
    reason: Status.FAILED if reason in _FAILED else Status.REJECTED for reason in Reason
}


class ExitCode(IntEnum):
    """Process exit codes of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    TOO_MANY_REJECTED = 3


class ScreenerError(Exception):
    """Base of every error this product raises on purpose; its text is shown to the operator."""


class ConfigError(ScreenerError):
    """A setting, key file or folder cannot be used as given."""


class DeviceError(ScreenerError):
    """The GPU or its libraries cannot decode or paint films as they must be."""


class DecodeError(ScreenerError):
    """This one file cannot be screened.

    Args:
        reason: the typed reason that the images table will carry.
        detail: what was found and what was expected; no identity, no path.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


class UnsupportedTransferSyntax(DecodeError):
    """No decoder of this installation handles the transfer syntax."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.UNSUPPORTED_TRANSFER_SYNTAX, detail)


class CorruptPixelData(DecodeError):
    """The pixel data do not decode to what the header declares."""

    def __init__(self, detail: str, reason: Reason = Reason.DECODE_FAILED) -> None:
        super().__init__(reason, detail)


class NotARadiograph(DecodeError):
    """The header or the picture says that this is not a frontal chest radiograph."""


class ReportError(ScreenerError):
    """The campaign folder is inconsistent, or a report cannot be written."""
