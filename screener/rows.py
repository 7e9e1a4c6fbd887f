"""Records to rows of the images and the links table.

Every file found makes one row of each. Nothing of the identity goes into an images row but pseudonyms, the
shifted date and the year; a detail that would quote the identity or the path is withheld here, whatever the
step that wrote it meant well. A row holds only what is known: columns it lacks are null.
"""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from datetime import date

import polars as pl

from screener import schema
from screener.dates import parse_date
from screener.pseudonyms import Pseudonyms
from screener.records import ArchiveEntry, CanvasFacts, Decision, Identity, Instance, Rejection, ScreenedImage

Value = str | int | float | bool | date | list[str] | None

_SHORTEST_QUOTE = 4
"""Identity texts shorter than this ("12") occur in any detail by chance."""
_WITHHELD = "withheld: it quoted the patient or the path"
_FREE_TEXTS = ("modality", "photometric", "manufacturer")
"""Columns copied from the header, where a site may have written anything at all, names included."""
_LONGEST_TEXT = 64
"""The longest that these elements may be (LO, PS3.5 6.2)."""
_UID = re.compile(r"[0-9.]{1,64}")


@dataclass(frozen=True, slots=True)
class FileRows:
    """What one file adds to the tables, by column name; absent columns are null."""

    image: dict[str, Value]
    link: dict[str, Value]

    @property
    def file_id(self) -> str:
        """The file's pseudonym, which both rows carry."""
        return str(self.image["file_id"])


def screened_rows(screened: ScreenedImage, pseudonyms: Pseudonyms) -> FileRows:
    """Rows of a film that went through the whole stream."""
    source = screened.source
    rows = _file_rows(source.entry, source.identity, source.instance, pseudonyms, is_dicom=True)
    rows.image.update(
        status="screened",
        source_sha256=source.source_sha256,
        quality_grade=int(screened.quality.grade),
        quality_flags=[str(flag) for flag in screened.quality.flags],
        lung_area_cm2_r=screened.lungs.area_cm2[0],
        lung_area_cm2_l=screened.lungs.area_cm2[1],
        mask_valid=screened.lungs.mask_valid,
        p_frontal=screened.p_frontal,
        **_canvas_columns(source.canvas, source.instance),
        **_decision_columns(screened.decision),
    )
    return rows


def rejection_rows(rejection: Rejection, pseudonyms: Pseudonyms) -> FileRows:
    """Rows of a file that was rejected or failed.

    It belongs to a study when its header was read far enough to hold an instance or any identifier.
    """
    is_dicom = rejection.instance is not None or any(astuple(rejection.identity))
    rows = _file_rows(rejection.entry, rejection.identity, rejection.instance, pseudonyms, is_dicom=is_dicom)
    rows.image.update(
        status=str(rejection.status),
        reason=str(rejection.reason),
        detail=_safe_detail(rejection),
        step=rejection.step or None,
    )
    return rows


def images_frame(rows: list[FileRows]) -> pl.DataFrame:
    """The images table of these rows, in `schema.IMAGES` order, sorted by file_id.

    Pseudonyms give the order because paths often sort by patient name, and an order can be read back.
    """
    return _frame([row.image for row in rows], schema.IMAGES)


def links_frame(rows: list[FileRows]) -> pl.DataFrame:
    """The links table of these rows, sorted by file_id."""
    return _frame([row.link for row in rows], schema.LINKS)


def _frame(rows: list[dict[str, Value]], table: tuple[schema.Column, ...]) -> pl.DataFrame:
    columns = {column.name: [row.get(column.name) for row in rows] for column in table}
    return pl.DataFrame(columns, schema=schema.polars_schema(table)).sort("file_id")


def _file_rows(
    entry: ArchiveEntry,
    identity: Identity,
    instance: Instance | None,
    pseudonyms: Pseudonyms,
    *,
    is_dicom: bool,
) -> FileRows:
    """What is known of any file: identifiers, size and, if it was read, its header."""
    file_id = pseudonyms.file_id(entry.relative_path)
    image: dict[str, Value] = {
        "file_id": file_id,
        "size_bytes": entry.size_bytes,
        "mtime_key": int(pseudonyms.mtime_keys([entry.mtime_ns])[0]),
    }
    link: dict[str, Value] = {"file_id": file_id, **_path_columns(entry.relative_path)}
    if is_dicom:
        pids = pseudonyms.of_image(identity, file_id)
        ids: dict[str, Value] = {
            "image_pid": pids.image_pid,
            "study_pid": pids.study_pid,
            "subject_pid": pids.subject_pid,
        }
        true_date = parse_date(identity.study_date)
        image |= ids
        image["study_date"] = pseudonyms.shifted_date(identity.study_date, pids)
        image["study_year"] = true_date.year if true_date else None
        link |= ids | _identity_columns(identity)
    if instance is not None:
        image |= _instance_columns(instance)
        for column in _FREE_TEXTS:
            text = image[column]
            if isinstance(text, str) and (len(text) > _LONGEST_TEXT or _quotes(text, entry, identity)):
                image[column] = None
    return FileRows(image, link)


def _instance_columns(instance: Instance) -> dict[str, Value]:
    intent = {True: "presentation", False: "processing", None: None}[instance.for_presentation]
    columns: dict[str, Value] = {
        "sop_class": _uid(instance.sop_class_uid),
        "transfer_syntax": _uid(instance.transfer_syntax_uid),
        "modality": _text(instance.modality),
        "body_part_tag": _text(instance.body_part),
        "view_tag": _text(instance.view_position),
        "photometric": _text(instance.photometric_interpretation),
        "intent": intent,
        "manufacturer": _text(instance.manufacturer),
        "rows": instance.rows,
        "cols": instance.columns,
        "bits_stored": instance.bits_stored,
        "spacing_mm": None if instance.pixel_spacing_mm is None else sum(instance.pixel_spacing_mm) / 2,
        "spacing_source": instance.spacing_source,
        "header_flags": [str(flag) for flag in instance.flags],
        "age_years": instance.patient_age_years,
        "sex": _text(instance.patient_sex),
    }
    if instance.study_year is not None:
        columns["study_year"] = instance.study_year
    return columns


def _canvas_columns(canvas: CanvasFacts, instance: Instance) -> dict[str, Value]:
    flags = dict.fromkeys((*instance.flags, *canvas.flags))
    return {
        "pixel_sha256": canvas.pixel_sha256,
        "decode_route": canvas.route,
        "clipped_frac": canvas.clipped_fraction,
        "header_flags": [str(flag) for flag in flags],
    }


def _decision_columns(decision: Decision) -> dict[str, Value]:
    return {
        "p_normal": (1 - decision.p_pneumoconiosis) * (1 - decision.p_tb),
        "p_pneumoconiosis": decision.p_pneumoconiosis,
        "p_tb": decision.p_tb,
        "p_pneumoconiosis_raw": decision.p_pneumoconiosis_raw,
        "p_tb_raw": decision.p_tb_raw,
        **{f"p_stage{stage}": p for stage, p in enumerate(decision.p_stage)},
        **{f"p_stage{stage}_raw": p for stage, p in enumerate(decision.p_stage_raw)},
        "dx_pred": str(decision.dx_pred),
        "stage_pred": decision.stage_pred,
        "stage_expected": decision.stage_expected,
        "stage_consistent": decision.stage_consistent,
        "tb_coexist_flag": decision.tb_coexist_flag,
        **dict(zip(schema.ZONE_COLUMNS, decision.zone_scores, strict=True)),
        "n_zones_pos": sum(score >= 0.5 for score in decision.zone_scores),
        "referral": str(decision.referral),
        "referral_reasons": list(decision.referral_reasons),
        "threshold_set_id": decision.threshold_set_id,
        "calibrated": decision.calibrated,
    }


def _path_columns(relative_path: str) -> dict[str, Value]:
    """The path as text; when its bytes are not UTF-8, also those bytes, since text cannot hold them."""
    raw = relative_path.encode("utf-8", "surrogateescape")
    shown = raw.decode("utf-8", "replace")
    return {"relative_path": shown, "relative_path_hex": None if shown == relative_path else raw.hex()}


def _identity_columns(identity: Identity) -> dict[str, Value]:
    return {column: _text(getattr(identity, column)) for column in Identity.__slots__}


def _safe_detail(rejection: Rejection) -> str | None:
    if _quotes(rejection.detail, rejection.entry, rejection.identity):
        return _WITHHELD
    return _text(rejection.detail or None)


def _quotes(text: str, entry: ArchiveEntry, identity: Identity) -> bool:
    """Whether a text holds the path, the file's name or anything that identifies the patient."""
    path = entry.relative_path
    private = [path, path.rpartition("/")[2], *(str(value) for value in astuple(identity) if value)]
    said = text.casefold()
    return any(len(each) >= _SHORTEST_QUOTE and each.casefold() in said for each in private)


def _uid(value: str | None) -> str | None:
    """A UID; null for anything else that stands in its place."""
    return value if value and _UID.fullmatch(value) else None


def _text(value: str | None) -> str | None:
    """Text that Parquet can hold: a lone surrogate (an undecodable byte) becomes a visible escape."""
    return value if value is None else value.encode("utf-8", "backslashreplace").decode("utf-8")
