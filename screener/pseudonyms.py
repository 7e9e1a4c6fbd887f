"""Patient identity and paths to keyed pseudonyms; the only module of the stream that reads identity.

A pseudonym is HMAC-SHA-256 under a secret key, cut to 128 bits. A plain hash would not do: patient IDs are
short and can be enumerated. Every field is length-prefixed, so no two identities share an encoding, and each
kind of pseudonym has a key of its own, so equal text never gives equal pseudonyms across kinds.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from screener.dates import parse_date
from screener.errors import ConfigError
from screener.records import Identity

KEY_BYTES = 32
PSEUDONYM_BYTES = 16
MAX_DATE_SHIFT_DAYS = 182
"""Study dates move by a whole number of days in [-182, +182], the same for all studies of one subject."""

_BLOCK_BYTES = 64  # SHA-256 block (FIPS 180-4), to which HMAC pads its key (RFC 2104)


@dataclass(frozen=True, slots=True)
class ImagePseudonyms:
    """Pseudonyms of one DICOM file, 32 hex digits each."""

    image_pid: str
    study_pid: str
    subject_pid: str | None
    """None without a Patient ID."""


class _Keyed:
    """HMAC-SHA-256 with the padded key absorbed once: 1 us a message, half of `hmac.digest` (measured)."""

    def __init__(self, key: bytes) -> None:
        padded = key.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in padded))

    def digest(self, message: bytes) -> bytes:
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class Pseudonyms:
    """Makes the pseudonyms of one key.

    Args:
        key: 32 secret bytes, see `load_key`.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ConfigError(f"pseudonym key: expected {KEY_BYTES} bytes, found {len(key)}")
        self._kinds = {
            kind: _Keyed(hmac.digest(key, f"screener/{kind}".encode(), "sha256"))
            for kind in ("file", "image", "study", "subject", "archive", "date-shift", "mtime")
        }
        self.key_id = hmac.digest(key, b"screener/key-id", "sha256")[:8].hex()
        """Public name of the key, 16 hex digits; says nothing about the key itself."""

    def file_id(self, relative_path: str) -> str:
        """Pseudonym of a path below the archive root (bytes that are not UTF-8 through surrogateescape)."""
        return self._digest("file", relative_path.encode("utf-8", "surrogateescape")).hex()

    def file_digests(self, relative_paths: Iterable[str]) -> bytes:
        """`file_id` of many paths as raw bytes, 16 a path, for looking up known files in bulk."""
        digest = self._kinds["file"].digest
        return b"".join(
            digest(path.encode("utf-8", "surrogateescape"))[:PSEUDONYM_BYTES] for path in relative_paths
        )

    def mtime_keys(self, mtimes_ns: Iterable[int]) -> npt.NDArray[np.int64]:
        """(N,) keyed digests of modification times: they say whether a file changed, and not when.

        The time itself would often be the day of the study, which `shifted_date` hides; and file systems
        hold times that no 64-bit count of nanoseconds can.
        """
        digest = self._kinds["mtime"].digest
        keys = b"".join(digest(str(mtime_ns).encode())[:8] for mtime_ns in mtimes_ns)
        return np.frombuffer(keys, ">i8").astype(np.int64)

    def of_image(self, identity: Identity, file_id: str) -> ImagePseudonyms:
        """Pseudonyms of a DICOM file.

        The same UID under two patients makes two studies and two images. A missing UID is replaced by the
        file's own pseudonym, so that such a file is a study of its own.
        """
        subject = _subject(identity)
        return ImagePseudonyms(
            image_pid=self._instance_pid("image", subject, identity.sop_instance_uid, file_id),
            study_pid=self._instance_pid("study", subject, identity.study_instance_uid, file_id),
            subject_pid=None if subject is None else self._digest("subject", subject).hex(),
        )

    def archive_pid(self, archive_root: Path) -> str:
        """Pseudonym of an archive's root folder.

        Links are not resolved, so that a link at the old place makes a moved archive the same again.
        """
        return self._digest("archive", os.fsencode(archive_root.absolute())).hex()

    def shifted_date(self, study_date: str | None, pseudonyms: ImagePseudonyms) -> date | None:
        """Study Date (DICOM DA) moved by the subject's keyed shift; None when missing or not a date.

        All studies of a subject move alike, so intervals between them stay true. A study without a
        Patient ID moves by a shift of its own.
        """
        true_date = parse_date(study_date)
        if true_date is None:
            return None
        owner = pseudonyms.subject_pid or pseudonyms.study_pid
        number = int.from_bytes(self._kinds["date-shift"].digest(owner.encode()), "big")
        days = number % (2 * MAX_DATE_SHIFT_DAYS + 1) - MAX_DATE_SHIFT_DAYS
        try:
            return true_date + timedelta(days=days)
        except OverflowError:  # year 1 or 9999: a placeholder, not a date
            return None

    def _instance_pid(self, kind: str, subject: bytes | None, uid: str | None, file_id: str) -> str:
        stripped = _stripped(uid)
        own = _fields(None, file_id) if stripped is None else _fields(stripped)
        return self._digest(kind, _fields(subject) + own).hex()

    def _digest(self, kind: str, message: bytes) -> bytes:
        return self._kinds[kind].digest(message)[:PSEUDONYM_BYTES]


def load_key(path: Path, campaign: Path) -> Pseudonyms:
    """Read the pseudonym key, or make one on first use (file 0600, a new folder 0700).

    Args:
        path: the key file.
        campaign: the campaign folder, which must not hold the key: whoever has both can undo the pseudonyms.

    Raises:
        ConfigError: the key lies in the campaign folder, is open to others or damaged, or cannot be read
            or made.
    """
    if path.resolve().is_relative_to(campaign.resolve()):
        raise ConfigError("the pseudonym key must lie outside the campaign folder: choose another --key-file")
    try:
        if not path.exists():
            _create_key(path)
        return Pseudonyms(_read_key(path))
    except OSError as error:
        raise ConfigError(f"pseudonym key {path}: {error.strerror}; give another --key-file") from error


def _create_key(path: Path) -> None:
    """Write a fresh key beside its place and link it there: two first runs at once end with one whole key."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(temporary)
    finally:
        temporary.unlink()


def _read_key(path: Path) -> bytes:
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"pseudonym key {path} is not a regular file; give another --key-file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigError(
                f"pseudonym key {path} is open to others (mode {mode:04o}); run: chmod 600 {path}"
            )
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"pseudonym key {path} is damaged: expected {KEY_BYTES} bytes, found {status.st_size}; restore "
            "it from a backup, or give another --key-file (and another --out: all pseudonyms change)"
        )
    return key


def _subject(identity: Identity) -> bytes | None:
    """Issuer and Patient ID as unambiguous bytes; None without a Patient ID."""
    patient_id = _stripped(identity.patient_id)
    return None if patient_id is None else _fields(_stripped(identity.issuer_of_patient_id), patient_id)


def _stripped(text: str | None) -> str | None:
    """Padding spaces and nulls are not significant (PS3.5 6.2); an empty value is a missing one."""
    return (text or "").strip("\0 ") or None


def _fields(*fields: str | bytes | None) -> bytes:
    """Length-prefixed fields; a missing field differs from an empty one."""
    parts = []
    for field in fields:
        if field is None:
            parts.append(b"\0")
        else:
            raw = field if isinstance(field, bytes) else field.encode("utf-8", "surrogatepass")
            parts.append(b"\1" + len(raw).to_bytes(8, "big") + raw)
    return b"".join(parts)
