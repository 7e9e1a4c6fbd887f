"""What decides a campaign's results, as a record that two runs can be compared by.

The archive is part of it: files are known by their path below the archive root, and two archives can hold
equal paths. It is recorded as a keyed pseudonym of the root, since folder names may name people.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from screener.errors import ConfigError, ReportError
from screener.schema import SCHEMA_VERSION


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Everything that decides a campaign's results."""

    model_sha256: str
    """Hash over the bundle's graphs."""
    calibration_sha256: str
    """Hash of the bundle's calibration."""
    threshold_set_id: str
    canvas_version: str
    settings: Mapping[str, object] = field(default_factory=dict)
    """`RunSettings.result_settings()`, with the precision that `auto` came to."""
    schema_version: str = SCHEMA_VERSION

    def record(self, *, key_id: str, archive_pid: str) -> dict[str, object]:
        """The fingerprint with key and archive, flat, as `campaign.json` holds it."""
        return {
            "model_sha256": self.model_sha256,
            "calibration_sha256": self.calibration_sha256,
            "threshold_set_id": self.threshold_set_id,
            "canvas_version": self.canvas_version,
            "schema_version": self.schema_version,
            "key_id": key_id,
            "archive_pid": archive_pid,
            **{f"settings.{name}": value for name, value in sorted(self.settings.items())},
        }


def record_sha256(record: Mapping[str, object]) -> str:
    """SHA-256 of a fingerprint record, 64 hex digits."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def refuse_other(recorded: object, asked: Mapping[str, object]) -> None:
    """Refuse a run whose fingerprint is not the campaign's.

    Raises:
        ConfigError: names what differs and the ways out.
        ReportError: the campaign's own record is damaged.
    """
    if not isinstance(recorded, dict):
        raise ReportError(
            "campaign.json has no fingerprint: restore it from a backup or choose another --out"
        )
    differing = [
        f"{_NAMES.get(name, name)} (was {_short(recorded.get(name))}, now {_short(asked.get(name))})"
        for name in sorted({*recorded, *asked})
        if recorded.get(name) != asked.get(name)
    ]
    if differing:
        raise ConfigError(
            f"this campaign was made differently: {'; '.join(differing)}. Choose another --out for a new "
            "campaign, or run with the bundle, settings, key and archive that made this one (for an archive "
            "that moved, put a link where it was)"
        )


_NAMES = {
    "model_sha256": "bundle's networks",
    "calibration_sha256": "bundle's calibration",
    "threshold_set_id": "threshold set",
    "canvas_version": "canvas version",
    "schema_version": "schema version",
    "key_id": "pseudonym key",
    "archive_pid": "archive folder",
}


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 20 else f"{text[:12]}…"
