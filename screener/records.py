"""The records that flow through the stream. Each checks its own rank, length and dtype.

Shape letters: N images of a batch, S side of the canvas, M side of a mask, H and W of a picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

import numpy as np
import numpy.typing as npt

from screener.errors import REASON_STATUS, Reason, Status

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
Int8 = npt.NDArray[np.int8]

ZONES = ("ru", "rm", "rl", "lu", "lm", "ll")
"""The six zones: patient right upper, middle, lower, then left. Thirds from apex to diaphragm dome."""


class Referral(StrEnum):
    """What the operator is asked to do with a study."""

    NONE = "none"
    ROUTINE = "routine"
    PRIORITY = "priority"
    UNREADABLE = "unreadable"


class Diagnosis(StrEnum):
    """Differential diagnosis suspected by the network; never a diagnosis."""

    NORMAL = "normal"
    PNEUMOCONIOSIS = "pneumoconiosis"
    TB = "tb"
    BOTH = "both"


class QualityGrade(IntEnum):
    """ILO-style technical quality; 4 is unreadable and always refers."""

    GOOD = 1
    ACCEPTABLE = 2
    POOR = 3
    UNREADABLE = 4


class QualityFlag(StrEnum):
    """Reason codes behind a quality grade."""

    UNDEREXPOSED = "underexposed"
    OVEREXPOSED = "overexposed"
    LOW_CONTRAST = "low_contrast"
    CLIPPED = "clipped"
    NOISY = "noisy"
    LUNG_CUT_OFF = "lung_cut_off"
    ROTATED = "rotated"
    TILTED = "tilted"
    LOW_INSPIRATION = "low_inspiration"
    MISSING_LUNG = "missing_lung"
    MASK_AREA = "mask_area"
    MASK_COMPONENTS = "mask_components"
    MASK_ASYMMETRY = "mask_asymmetry"
    FOREIGN_OBJECT = "foreign_object"
    VIEW_DOUBTFUL = "view_doubtful"
    LOW_RESOLUTION = "low_resolution"


class HeaderFlag(StrEnum):
    """What was unusual about the file or its header, and was dealt with rather than rejected."""

    NO_PREAMBLE = "no_preamble"
    MISSING_TRANSFER_SYNTAX = "missing_transfer_syntax"
    NO_BODY_PART = "no_body_part"
    DOUBTFUL_BODY_PART = "doubtful_body_part"
    NO_VIEW = "no_view"
    DOUBTFUL_VIEW = "doubtful_view"
    SECONDARY_CAPTURE = "secondary_capture"
    FOR_PROCESSING = "for_processing"
    NO_WINDOW = "no_window"
    WINDOW_IGNORED = "window_ignored"
    POLARITY_CORRECTED = "polarity_corrected"
    POLARITY_DOUBTFUL = "polarity_doubtful"
    BORDER_CROPPED = "border_cropped"
    NO_SPACING = "no_spacing"
    BITS_STORED_CORRECTED = "bits_stored_corrected"


@dataclass(frozen=True, slots=True)
class ArchiveEntry:
    """One directory entry of the archive that must end as one row."""

    relative_path: str
    """POSIX path below the archive root (bytes that are not UTF-8 kept through surrogateescape)."""
    size_bytes: int
    mtime_ns: int
    reason: Reason | None = None
    """Set when the walk itself decided: a link, a special file, an unreadable folder."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What identifies the patient; only `pseudonyms` reads it, only `private/links` stores it."""

    patient_id: str | None = None
    issuer_of_patient_id: str | None = None
    patient_name: str | None = None
    patient_birth_date: str | None = None
    accession_number: str | None = None
    study_date: str | None = None
    study_instance_uid: str | None = None
    sop_instance_uid: str | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """An eligible image's header facts; carries no patient identity."""

    sop_class_uid: str | None
    transfer_syntax_uid: str
    modality: str | None
    rows: int
    columns: int
    bits_allocated: int
    bits_stored: int
    is_signed: bool
    photometric_interpretation: str
    view_position: str | None
    body_part: str | None
    """`chest`, `other` or None; the tag's free text is never kept."""
    pixel_spacing_mm: tuple[float, float] | None
    """(row, column) spacing at the detector."""
    spacing_source: str | None
    """`imager`, `pixel`, `nominal` or None."""
    for_presentation: bool | None
    manufacturer: str | None
    patient_age_years: int | None
    """Integer, top-coded at 90."""
    patient_sex: str | None
    study_year: int | None
    flags: tuple[HeaderFlag, ...] = ()


@dataclass(frozen=True, slots=True)
class Letterbox:
    """Where a picture lies on the canvas: canvas = scale * pixel + (top, left), pixel-edge coordinates."""

    scale: float
    top: float
    left: float

    def to_canvas(self, row: float, column: float) -> tuple[float, float]:
        """Picture (row, column) edge coordinates to canvas coordinates."""
        return self.scale * row + self.top, self.scale * column + self.left

    def to_picture(self, row: float, column: float) -> tuple[float, float]:
        """Canvas coordinates to picture (row, column) edge coordinates."""
        return (row - self.top) / self.scale, (column - self.left) / self.scale


@dataclass(frozen=True, slots=True)
class CanvasFacts:
    """What making the canvas found out; the pixels themselves stay in the batch."""

    letterbox: Letterbox
    content: tuple[float, float, float, float]
    """Canvas rectangle (top, left, bottom, right) that holds picture; the rest is letterbox."""
    reduction: int
    """1, 2, 4 or 8: the codec decoded at 1/reduction of the full size."""
    route: str
    """Codec route, for example `jpeg2000/4-2`, `raw`, `rle`."""
    clipped_fraction: float
    """Share of picture pixels at either end of the window, 0 to 1."""
    pixel_sha256: str
    """SHA-256 of the canvas quantised to 8 bits."""
    flags: tuple[HeaderFlag, ...] = ()


@dataclass(frozen=True, slots=True)
class Source:
    """Where an image came from: the entry, its identity (private) and its header."""

    entry: ArchiveEntry
    identity: Identity
    instance: Instance
    canvas: CanvasFacts
    source_sha256: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A file that was not screened, and why. `detail` holds no identity and no path."""

    entry: ArchiveEntry
    reason: Reason
    detail: str = ""
    step: str = ""
    identity: Identity = field(default_factory=Identity)
    instance: Instance | None = None

    @property
    def status(self) -> Status:
        """Rejected or failed, by the reason."""
        return REASON_STATUS[self.reason]


def _check(name: str, array: np.ndarray, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise ValueError(f"{name}: expected {np.dtype(dtype)} {shape}, found {array.dtype} {array.shape}")


@dataclass(frozen=True, slots=True)
class Batch:
    """N canvases ready for the networks."""

    sources: tuple[Source, ...]
    canvas: Float32
    """(N, 1, S, S) in [0, 1], 0 black, lungs dark."""

    def __post_init__(self) -> None:
        _check("canvas", self.canvas, np.float32, (len(self.sources), 1, None, self.canvas.shape[-2]))

    def __len__(self) -> int:
        return len(self.sources)


@dataclass(frozen=True, slots=True)
class Lungs:
    """Lung fields of a batch, as the segmentation graph returns them."""

    probability: Float32
    """(N, 2, M, M) in [0, 1]: patient right, then left. M x M covers the whole canvas."""
    box: Float32
    """(N, 4) top, left, bottom, right of both lungs in canvas pixels."""
    frontal_logit: Float32
    """(N, 1): log-odds that the picture is a frontal chest radiograph."""

    def __post_init__(self) -> None:
        count = self.probability.shape[0]
        _check("probability", self.probability, np.float32, (count, 2, None, self.probability.shape[2]))
        _check("box", self.box, np.float32, (count, 4))
        _check("frontal_logit", self.frontal_logit, np.float32, (count, 1))

    @property
    def masks(self) -> Bool:
        """(N, 2, M, M) bool: probability at least one half."""
        return self.probability >= 0.5


@dataclass(frozen=True, slots=True)
class LungGeometry:
    """Areas and mask plausibility of one film; areas are None without a pixel spacing."""

    area_cm2: tuple[float | None, float | None]
    """Patient right, left; at the detector, not corrected for magnification."""
    mask_valid: bool


@dataclass(frozen=True, slots=True)
class Quality:
    """Technical quality of one film."""

    grade: QualityGrade
    flags: tuple[QualityFlag, ...]


@dataclass(frozen=True, slots=True)
class Logits:
    """Task heads of the classification graph."""

    diagnosis: Float32
    """(N, 2): pneumoconiosis, tuberculosis; independent log-odds."""
    stage: Float32
    """(N, 4): stage 0, I, II, III."""
    zones: Float32
    """(N, 6, 4): profusion level 0-3 of RU RM RL LU LM LL."""
    activation: Float32
    """(N, 2, h, w) class activation over the square around the box: pneumoconiosis, tuberculosis."""

    def __post_init__(self) -> None:
        count = self.diagnosis.shape[0]
        _check("diagnosis", self.diagnosis, np.float32, (count, 2))
        _check("stage", self.stage, np.float32, (count, 4))
        _check("zones", self.zones, np.float32, (count, 6, 4))
        _check("activation", self.activation, np.float32, (count, 2, None, None))


@dataclass(frozen=True, slots=True)
class Decision:
    """What is said about one film. Probabilities are calibrated unless named raw."""

    p_pneumoconiosis: float
    p_tb: float
    p_stage: tuple[float, float, float, float]
    p_pneumoconiosis_raw: float
    p_tb_raw: float
    p_stage_raw: tuple[float, float, float, float]
    dx_pred: Diagnosis
    stage_pred: int
    stage_expected: float
    """Probability-weighted mean stage, 0 to 3."""
    stage_consistent: bool
    """False when the two heads disagree (no pneumoconiosis suspected but stage I or more, or the reverse)."""
    tb_coexist_flag: bool
    zone_scores: tuple[float, ...]
    """Expected profusion level 0-3 of the six zones."""
    referral: Referral
    referral_reasons: tuple[str, ...]
    threshold_set_id: str
    calibrated: bool


@dataclass(frozen=True, slots=True)
class ScreenedImage:
    """One film, all that the images table says of it."""

    source: Source
    lungs: LungGeometry
    quality: Quality
    p_frontal: float
    decision: Decision


@dataclass(frozen=True, slots=True)
class RunSummary:
    """Counters of one run; they always reconcile."""

    found: int
    screened: int
    rejected: int
    failed: int
    already_done: int
    reasons: dict[str, int]
    seconds: float
    bytes_read: int
    interrupted: bool = False

    def __post_init__(self) -> None:
        if self.found != self.screened + self.rejected + self.failed + self.already_done:
            raise ValueError(f"counters do not reconcile: {self}")
