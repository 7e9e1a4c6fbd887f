"""A header's elements to the patient's identity, in whatever character set it was written.

Only `pseudonyms` and `private/links` read the result. Values are kept as stored (padding apart), because the
operator joins on them: a name keeps its component groups, a date its form.
"""

from __future__ import annotations

from screener.elements import Elements
from screener.records import Identity

_TEXTS = {
    "patient_id": 0x00100020,
    "issuer_of_patient_id": 0x00100021,
    "patient_name": 0x00100010,
    "accession_number": 0x00080050,
}
_CODES = {
    "patient_birth_date": 0x00100030,
    "study_date": 0x00080020,
    "study_instance_uid": 0x0020000D,
    "sop_instance_uid": 0x00080018,
}


def read_identity(elements: Elements) -> Identity:
    """What identifies the patient; missing, empty and unreadable values are None."""
    texts = {name: elements.text(tag) for name, tag in _TEXTS.items()}
    codes = {name: elements.code(tag) for name, tag in _CODES.items()}
    return Identity(**texts, **codes)
