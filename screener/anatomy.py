"""Body part and view tags to what they state: chest or not, frontal or lateral, or nothing.

A reader would ask why words and not codes: one archive of 20,000 images held 116 spellings of body parts, in
the language of the site. So a value counts as a statement only where a word of the tables below is in it;
anything else leaves the decision to the picture, flagged as doubtful.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from screener.elements import Elements

BODY_PART_EXAMINED = 0x00180015
ANATOMIC_REGION_SEQUENCE = 0x00082218
VIEW_POSITION = 0x00185101
VIEW_CODE_SEQUENCE = 0x00540220
PATIENT_POSITION = 0x00185100
PATIENT_ORIENTATION = 0x00200020
CODE_VALUE = 0x00080100
CODE_MEANING = 0x00080104
_DEVICE_TEXTS = (0x0008103E, 0x00181030, 0x00181400)
"""Series Description, Protocol Name, Acquisition Device Processing Description: hints, never statements."""


@dataclass(frozen=True, slots=True)
class BodyPart:
    """What the body part tags state."""

    stated: str | None
    """`chest`, `other` or None."""
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What the view tags state."""

    position: str | None
    """PA, AP, FRONTAL, LL, RL, LATERAL or OBLIQUE; None when not stated."""
    doubtful: bool = False

    @property
    def is_frontal(self) -> bool:
        """True unless the tags state a lateral or oblique view."""
        return self.position in (None, "PA", "AP", "FRONTAL")


def _normalise(text: str) -> str:
    """Upper case without accents or punctuation: `Bäcken`, `BACKEN` and `backen` are one word."""
    letters = unicodedata.normalize("NFKD", text.upper())
    kept = "".join(char for char in letters if not unicodedata.combining(char))
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFC", kept)).strip()


def _words(table: str) -> re.Pattern[str]:
    """A pattern for any of the table's words; those of up to four Latin letters must stand alone."""
    words = (_normalise(word) for word in table.split(","))
    return re.compile("|".join(rf"\b{w}\b" if w.isascii() and len(w) <= 4 else w for w in words if w))


_SPINE_AND_THE_LIKE = _words(
    # words that hold the name of the chest and are not it
    "SPINE, VERTEBRA, THORACOLUMBAR, COLUMNA, COLONNE, COLONNA, RACHIS, WIRBEL, RYGG, 胸椎, 腰椎, 颈椎,"
    "頸椎, 脊柱, 흉추, 요추, 경추, ПОЗВОНОЧ, THORACIC INLET, THORACIC OUTLET"
)
_CHEST = _words(
    "CHEST, CHST, THORAX, THORACIC, THORACIQUE, THORACAL, TORAX, TORACE, TORACIC, TORAKS, THX, CXR,"
    "LUNG, LUNGS, PULMO, POUMON, POLMON, PULMAO, BRUSTKORB, BROSTKORG, LUNGOR, LUNGE, LUNGA, AKCIGER,"
    "BORSTKAS, MELLKAS, HRUDNIK, KLATKA, PLUCA, KEUHKO, GOGUS, 胸, 肺, 흉부, 가슴, 폐, ГРУД, ЛЕГКИ,"
    "ЛЕГКО, ОГК, ปอด, ทรวงอก, หน้าอก, NGUC, PHOI"
)
_DOUBTFUL = _words(
    # the lungs may be on such a film: the picture decides
    "RIB, RIBS, RIBCAGE, RIB CAGE, RIPPEN, COTES, COSTILLA, COSTAS, COSTE, STERNUM, STERNAL, 肋, 胸骨,"
    "늑골, РЕБР, HEART, CARDIAC, MEDIASTIN, TRUNK, TORSO, BODY, WHOLEBODY, WHOLE BODY, BABYGRAM,"
    "CHESTWALL"
)
_OTHER = _words(
    "ABDOMEN, ABDOMINAL, ABD, KUB, BUIK, BUK, BAUCH, 腹, 복부, ЖИВОТ, БРЮШ, PELVIS, PELVIC, PELVI,"
    "BASSIN, BECKEN, BACKEN, B CKEN, BEKKEN, BACINO, BACIA, CADERA, HIP, HIPS, HUFTE, HUEFTE, HOFT,"
    "HANCHE, ANCA, COXA, 骨盆, 骨盤, 髋, 髖, 골반, ТАЗ, ТАЗОБЕДР, SACRUM, SACRO, COCCYX, SIJ, SI JOINT,"
    "SKULL, HEAD, CRANIUM, CRANI, SCHAEDEL, SCHADEL, KOPF, SKALLE, CABEZA, TETE, TESTA, 头, 頭, 颅,"
    "두개, ЧЕРЕП, BRAIN, JAW, JAWS, TEETH, TOOTH, DENTAL, MANDIB, MAXILLA, ORTHOPAN, TMJ, ZAHN, KIEFER,"
    "牙, 齿, 歯, 下颌, 치아, ЗУБ, ЧЕЛЮСТ, SINUS, NASAL, NOSE, ORBIT, FACE, FACIAL, 鼻, 副鼻腔, EYE,"
    "EAR, MASTOID, NECK, CERVICAL, HALS, CUELLO, NACKE, 颈, 頸, ШЕЯ, LUMBAR, LUMBO, LWS, HWS, BWS,"
    "EXTREMITY, EXTREMITIES, LIMB, UPPERLIMB, LOWERLIMB, 四肢, SHOULDER, SCHULTER, HOMBRO, EPAULE,"
    "SPALLA, AXEL, OMBRO, SCAPULA, CLAVIC, KLAVIK, SCHLUSSELBEIN, 肩, 锁骨, 鎖骨, 어깨, ПЛЕЧ, КЛЮЧИЦ,"
    "ARM, ARMS, HUMERUS, ELBOW, ELLBOGEN, CODO, COUDE, GOMITO, FOREARM, RADIUS, ULNA, 肘, 臂, 팔꿈치,"
    "WRIST, HAND, HANDS, MANO, MANI, MAIN, FINGER, THUMB, CARPAL, CARPUS, SCAPHOID, 手, 腕, 指, 손,"
    "КИСТ, LEG, LEGS, FEMUR, THIGH, KNEE, KNEES, KNIE, KNA, RODILLA, GENOU, GINOCCHIO, JOELHO, PATELLA,"
    "膝, 股, 大腿, 무릎, КОЛЕН, БЕДР, TIBIA, FIBULA, CALF, LOWER LEG, UNTERSCHENKEL, 小腿, 胫, ANKLE,"
    "SPRUNGGELENK, TOBILLO, CHEVILLE, CAVIGLIA, FOOT, FEET, FUSS, FOT, PIE, PIED, PIEDE, TOE, TOES,"
    "HEEL, CALCANE, 足, 踝, 跟, 발, 발목, СТОП, ГОЛЕН, BREAST, MAMMA, MAMMO, 乳, 유방, BLADDER, KIDNEY,"
    "UROGRAM, ESOPHAG, OESOPHAG, STOMACH, COLON, BOWEL, PHANTOM, QC"
)
_CHEST_CODES = frozenset({"51185008", "T-D3000", "39607008", "T-28000", "43799004", "302551006"})
"""Thoracic structure, lung and thoracic cavity in SNOMED CT and SNOMED RT (PS3.16 CID 4031)."""

_FRONTAL_WORDS = {
    "PA": "PA, POSTEROANTERIOR, POSTERO ANTERIOR, POSTERIOR ANTERIOR, 后前位, 後前位",
    "AP": "AP, ANTEROPOSTERIOR, ANTERO POSTERIOR, ANTERIOR POSTERIOR, 前后位, 前後位",
    "FRONTAL": "FRONTAL, FRONT, 正位, 正面, 胸部正位, 정면, ПРЯМАЯ",
}
_POSITIONS = {
    _normalise(word): position for position, words in _FRONTAL_WORDS.items() for word in words.split(",")
}
_LATERAL = _words(
    "LL, RL, LLAT, RLAT, LAT, LATERAL, LATERALE, SEITLICH, PROFIL, LATERO, LMO, MLO, ML, LM, 侧位,"
    "側位, 側面, 측면, БОКОВ"
)
_DECUBITUS = _words("LLD, RLD, DECUB, DECUBITUS")
_OBLIQUE = _words("LLO, RLO, LAO, RAO, LPO, RPO, OBL, OBLIQUE, SCHRAG, 斜")
_LATERAL_SIDES = {
    "LL": "LL",
    "LEFT LATERAL": "LL",
    "LLAT": "LL",
    "RL": "RL",
    "RIGHT LATERAL": "RL",
    "RLAT": "RL",
}

_VIEW_CODES = {
    "272479007": "PA", "R-40888": "PA", "R-10214": "PA",
    "399348003": "AP", "R-10206": "AP",
    "399033003": "FRONTAL", "R-10202": "FRONTAL",
    "399173006": "LL", "R-10236": "LL",
    "399198007": "RL", "R-10232": "RL",
    "399067008": "LATERAL", "R-102CD": "LATERAL", "30730003": "LATERAL", "G-A145": "LATERAL",
    "399352003": "LATERAL", "R-10228": "LATERAL", "399260004": "LATERAL", "R-10224": "LATERAL",
    "399182000": "OBLIQUE", "R-102C1": "OBLIQUE", "399184004": "OBLIQUE", "R-10238": "OBLIQUE",
    "399236003": "OBLIQUE", "R-10234": "OBLIQUE", "399135007": "OBLIQUE", "R-10220": "OBLIQUE",
    "399356000": "OBLIQUE", "R-40985": "OBLIQUE", "399006002": "OBLIQUE", "R-10212": "OBLIQUE",
    "399038007": "OBLIQUE", "R-10210": "OBLIQUE",
}  # fmt: skip
"""DX View, PS3.16 CID 4010: SNOMED CT and SNOMED RT codes."""


def read_body_part(elements: Elements) -> BodyPart:
    """What Body Part Examined and Anatomic Region Sequence state; they must not contradict each other."""
    parts = [_body_part_of(elements.text(BODY_PART_EXAMINED))]
    for item in elements.items(ANATOMIC_REGION_SEQUENCE)[:1]:
        coded_chest = item.code(CODE_VALUE) in _CHEST_CODES
        parts.append(BodyPart("chest") if coded_chest else _body_part_of(item.text(CODE_MEANING)))
    stated = {part.stated for part in parts} - {None}
    if len(stated) == 1:
        return BodyPart(stated.pop())
    return BodyPart(None, doubtful=len(stated) > 1 or any(part.doubtful for part in parts))


def _body_part_of(text: str | None) -> BodyPart:
    words = _normalise(text or "")
    if not words:
        return BodyPart(None)
    if _SPINE_AND_THE_LIKE.search(words):
        return BodyPart("other")
    chest, other = _CHEST.search(words), _OTHER.search(words)
    if chest and not other and not _DOUBTFUL.search(words):
        return BodyPart("chest")
    if other and not chest:
        return BodyPart("other")
    return BodyPart(None, doubtful=True)


def read_view(elements: Elements) -> View:
    """What View Position and View Code Sequence state; Patient Position and orientation serve as hints."""
    coded = [_VIEW_CODES.get(item.code(CODE_VALUE) or "") for item in elements.items(VIEW_CODE_SEQUENCE)[:1]]
    tagged = _view_of(elements.text(VIEW_POSITION))
    position = tagged.position or next(filter(None, coded), None)
    if position is None and elements.code(PATIENT_POSITION) in ("PA", "AP"):
        position = elements.code(PATIENT_POSITION)  # where NIH ChestX-ray14 files carry the view
    view = View(position)
    contradicted = bool(tagged.position and any(coded)) and View(coded[0]).is_frontal != view.is_frontal
    if contradicted:
        return View(None, doubtful=True)
    hinted = position is None and _hints_lateral(elements)
    return View(position, doubtful=tagged.doubtful or hinted)


def _view_of(text: str | None) -> View:
    words = _normalise(text or "")
    if not words:
        return View(None)
    if words in _POSITIONS:
        return View(_POSITIONS[words])
    if _DECUBITUS.search(words):
        return View(None, doubtful=True)  # the patient lies on the side, the film is frontal
    frontal = re.search(r"\b(PA|AP)\b", words)
    if _OBLIQUE.search(words):
        return View("OBLIQUE")
    if _LATERAL.search(words):
        return View(None, doubtful=True) if frontal else View(_LATERAL_SIDES.get(words, "LATERAL"))
    return View(frontal[0]) if frontal else View(None, doubtful=True)


def _hints_lateral(elements: Elements) -> bool:
    """The device's free texts or the row direction (PS3.3 C.7.6.1.1.1) suggest a lateral film."""
    texts = " ".join(_normalise(elements.text(tag) or "") for tag in _DEVICE_TEXTS)
    across = (elements.codes(PATIENT_ORIENTATION) or ("",))[0]
    return bool(_LATERAL.search(texts)) or across[:1] in ("A", "P")
