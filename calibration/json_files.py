"""Bytes of a calibration file to its fields, and the refusals that every such file shares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calibration.errors import CalibrationError


def check_model(what: str, fitted: str, used: str) -> None:
    """Refuse a file that was fitted on another model.

    Raises:
        CalibrationError: the hashes differ.
    """
    if fitted != used:
        raise CalibrationError(
            f"{what} was fitted on model {fitted[:12]} and this model is {used[:12]}: one model's scores say "
            "nothing of another's; fit again with screener calibrate"
        )


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write readable JSON.

    Raises:
        CalibrationError: the file cannot be written.
    """
    try:
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise CalibrationError(f"{file.name} cannot be written: {error.strerror}") from error


def content_of(file: Path) -> bytes:
    """Read a file.

    Raises:
        CalibrationError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise CalibrationError(f"{file.name} cannot be read: {error.strerror}") from error


def read_json(content: bytes, name: str, expected_format: str) -> dict[str, Any]:
    """Fields of a JSON object of the expected format, without `format` itself.

    Raises:
        CalibrationError: not JSON, or another format.
    """
    try:
        fields = json.loads(content.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CalibrationError(f"{name} cannot be read: not JSON") from error
    found = fields.pop("format", None) if isinstance(fields, dict) else None
    if found != expected_format:
        raise CalibrationError(f"{name} has format {found}: expected {expected_format}")
    return dict(fields)
