"""From a segment's name, in whatever spelling, to an organ id or a disease class."""

from __future__ import annotations

import difflib
import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from .tables import DISEASES, ORGANS, name_of
from .terminology import read_entry

_SIDES = {
    **dict.fromkeys(("left", "lt", "l", "lft", "sin", "sinister", "sinistra", "sinistrum", "sinistri"), "left"),
    **dict.fromkeys(("right", "rt", "r", "rgt", "dx", "dexter", "dextra", "dextrum", "dextri"), "right"),
}
_WORDS = {  # other spellings of one word; Latin and British forms, plurals, abbreviations
    **dict.fromkeys(("oesophagus", "osophagus", "esoph", "oesoph"), "esophagus"),
    **dict.fromkeys(("clavicle", "clavicles", "collarbone"), "clavicula"),
    **dict.fromkeys(("lobus", "lobes"), "lobe"),
    **dict.fromkeys(("lungs", "pulmo", "pulmonis"), "lung"),
    **dict.fromkeys(("pulm", "pulmonalis"), "pulmonary"),
    **dict.fromkeys(("superior", "superius"), "upper"),
    **dict.fromkeys(("inferior", "inferius"), "lower"),
    **dict.fromkeys(("medius", "mid"), "middle"),
    **dict.fromkeys(("vena", "veins", "venae"), "vein"),
    **dict.fromkeys(("arteria", "arteries"), "artery"),
    **dict.fromkeys(("vessels", "vasculature"), "vessel"),
    **dict.fromkeys(("ribs", "costa", "costae"), "rib"),
    **dict.fromkeys(("cartilages", "cartilago"), "cartilage"),
    **dict.fromkeys(("kidneys", "ren", "renal"), "kidney"),
    **dict.fromkeys(("cysts", "cystic"), "cyst"),
    **dict.fromkeys(("adrenals", "suprarenal", "suprarenalis"), "adrenal"),
    **dict.fromkeys(("hepar",), "liver"),
    **dict.fromkeys(("lien",), "spleen"),
    **dict.fromkeys(("ventriculus", "gaster"), "stomach"),
    **dict.fromkeys(("intestine", "intestinum"), "bowel"),
    **dict.fromkeys(("tenue",), "small"),
    **dict.fromkeys(("airways", "bronchi", "bronchus", "bronchia", "bronchial"), "airway"),
    **dict.fromkeys(("cor", "cardiac"), "heart"),
    **dict.fromkeys(("atria",), "atrium"),
    **dict.fromkeys(("appendix", "auricle"), "appendage"),
    **dict.fromkeys(("tumour", "tumors", "tumours", "neoplasm", "cancer", "carcinoma"), "tumor"),
    **dict.fromkeys(("cerebrum", "encephalon"), "brain"),
    **dict.fromkeys(("cranium",), "skull"),
    **dict.fromkeys(("coxa", "coxae", "pelvis", "innominate", "ilium"), "hip"),
    **dict.fromkeys(("scapulae", "shoulderblade"), "scapula"),
    **dict.fromkeys(("breastbone",), "sternum"),
    **dict.fromkeys(("thyroidea",), "thyroid"),
    **dict.fromkeys(("myelon",), "cord"),
    **dict.fromkeys(("vertebrae", "vertebral", "vert", "spine"), "vertebra"),
    **dict.fromkeys(("lienalis",), "splenic"),
    **dict.fromkeys(("erector", "paraspinal", "paravertebral"), "autochthon"),
    **dict.fromkeys(("psoas", "ilopsoas"), "iliopsoas"),
    **dict.fromkeys(("femoral", "femoris"), "femur"),
    **dict.fromkeys(("nodules", "nodular", "nodulus"), "nodule"),
    **dict.fromkeys(("lesions",), "lesion"),
    **dict.fromkeys(("masses",), "mass"),
    **dict.fromkeys(("opacities", "opacification"), "opacity"),
    **dict.fromkeys(("pleura", "pleuralis"), "pleural"),
}
_LEVEL = re.compile(r"\b(c|th|t|l|s)\s*(\d{1,2})\b")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_IDLE = _set(  # words that tell nothing
    "the of and a in to segment seg segmentation mask roi label structure os glandula musculus spinae total common ct"
)
_KIND = _set("bone muscle gland organ")  # tell the kind of an organ, not which one

# phrase -> id, or (left id, right id); phrases are normalized like the names
_ALIASES: dict[str, int | tuple[int, int]] = {
    "LUL": 28,
    "LLL": 29,
    "RUL": 30,
    "RML": 31,
    "RLL": 32,
    "middle lobe": 31,
    "upper lobe": (28, 30),
    "lower lobe": (29, 32),
    "IVC": 7,
    "vena cava inf": 7,
    "SVC": 125,
    "vena cava sup": 125,
    "LAA": 108,
    "urinary bladder": 15,
    "vesica urinaria": 15,
    "vesica fellea": 10,
    "gall bladder": 10,
    "food pipe": 11,
    "gullet": 11,
    "windpipe": 57,
    "lung trachea airway": 132,
    "trachea airway": 132,
    "lung airway": 132,
    "lung airway wall": 132,
    "airway tree": 132,
    "main airway": 132,
    "lung vessel": 133,
    "lung artery": 133,
    "lung vein": 133,
    "pulmonary vessel": 133,
    "vessel tree": 133,
    "lung blood vessel": 133,
    "body trunc": 200,
    "body trunk": 200,
    "trunk": 200,
    "body envelope": 200,
    "body outline": 200,
    "body contour": 200,
    "external contour": 200,
    "external": 200,
    "patient outline": 200,
    "kidney": (14, 5),
    "adrenal": (9, 8),
    "iliac artery": (58, 59),
    "iliac vein": (60, 61),
    "hip": (95, 96),
    "carotid artery": (112, 113),
    "carotid": (112, 113),
    "iliopsoas": (106, 107),
    "psoas major": (106, 107),
    "autochthon": (104, 105),
    "erector spinae": (104, 105),
    "deep back": (104, 105),
    "brachiocephalic artery": 109,
    "innominate artery": 109,
    "truncus brachiocephalicus": 109,
    "innominate vein": (110, 111),
    "spinal canal": 121,
    "medulla spinalis": 121,
    "portal vein": 17,
    "splenic vein": 17,
    "liver vessel": 25,
    "hepatic vein": 25,
    "liver tumor": 26,
    "liver lesion": 26,
    "pancreas tumor": 24,
    "colon tumor": 27,
    "large bowel": 62,
    "bowel large": 62,
    "small intestine": 19,
    "thyroid": 126,
    "atlas": 56,
    "axis": 55,
    "lingula": 28,
    "costal cartilage": 114,
    "rib cartilage": 114,
    "manubrium": 122,
    "head of femur": (93, 94),
}
# Parts of the heart, which the model has as one; their sides belong to the part, not to the organ.
_HEART = frozenset(map(_set, ("myocardium", "atrium", "ventricle", "ventricle myocardium", "pericardium", "whole")))

# Whole lungs stand for a lobe: the model knows lobes only, yet lung is what must be there.
_WHOLE_LUNG = {"left": 28, "right": 30}

# Words that decide on a disease class, best match first: (all of these words, class, confidence).
_DISEASE_WORDS: tuple[tuple[str, int, float], ...] = (
    ("tree bud", 157, 0.8),
    ("micronodule", 157, 0.95),
    ("micronodules", 157, 0.95),
    ("miliary", 157, 0.7),
    ("ground glass", 154, 0.95),
    ("groundglass", 154, 0.95),
    ("ggo", 154, 0.95),
    ("ggn", 154, 0.7),
    ("crazy paving", 154, 0.6),
    ("honeycombing", 155, 0.95),
    ("honeycomb", 155, 0.95),
    ("septal thickening", 162, 0.95),
    ("kerley", 162, 0.7),
    ("wall thickening", 151, 0.8),
    ("airway thickening", 151, 0.9),
    ("peribronchial", 151, 0.9),
    ("airway cuffing", 151, 0.8),
    ("bronchiectasis", 152, 0.95),
    ("bronchiectases", 152, 0.95),
    ("bronchiectatic", 152, 0.9),
    ("emphysema", 153, 0.95),
    ("emphysematous", 153, 0.9),
    ("bulla", 153, 0.7),
    ("bullae", 153, 0.7),
    ("pneumothorax", 160, 0.95),
    ("ptx", 160, 0.8),
    ("pleural effusion", 159, 0.97),
    ("effusion", 159, 0.85),
    ("pleural thickening", 159, 0.95),
    ("pleural fluid", 159, 0.85),
    ("hydrothorax", 159, 0.9),
    ("hemothorax", 159, 0.8),
    ("haemothorax", 159, 0.8),
    ("empyema", 159, 0.8),
    ("atelectasis", 150, 0.95),
    ("atelectases", 150, 0.95),
    ("atelectatic", 150, 0.9),
    ("consolidation", 150, 0.95),
    ("consolidations", 150, 0.95),
    ("collapse", 150, 0.6),
    ("pneumonia", 150, 0.6),
    ("covid infiltrate", 154, 0.6),
    ("covid", 154, 0.5),
    ("infiltrate", 150, 0.6),
    ("infiltration", 150, 0.6),
    ("linear", 156, 0.85),
    ("fibrotic", 156, 0.6),
    ("fibrosis", 156, 0.6),
    ("band", 156, 0.6),
    ("scar", 156, 0.5),
    ("reticulation", 156, 0.5),
    ("nodule", 161, 0.95),
    ("mass", 161, 0.9),
    ("metastasis", 161, 0.6),
    ("metastases", 161, 0.6),
    ("lung tumor", 161, 0.9),
    ("tumor", 161, 0.5),
    ("gtv", 161, 0.4),
    ("itv", 161, 0.3),
    ("lesion", 161, 0.4),
    ("opacity", 154, 0.6),
)
# Organs outside the lungs: a nodule of theirs is not a pulmonary nodule.
_ELSEWHERE = _set(
    "thyroid liver kidney spleen pancreas adrenal brain bone vertebra rib breast lymph node prostate bladder colon "
    "stomach heart pericardial pericardium skin hepatic ascites peritoneal mediastinal muscle gland spine esophagus "
    "bowel"
)
_NO_CLASS = {  # findings that have words but no mask class
    "pericardial effusion": "the model has no mask class for it: describe it in the report",
    "lymph node": "the model has no mask class for lymph nodes: describe them in the report",
    "pulmonary artery": "the model has no label for it: leave it out, body (200) covers it",
    "lung": "the model has lung lobes: say which side, or segment the lobes",
    "rib": "the model has ribs 1 to 12 of each side: say which",
    "vertebra": "the model has vertebrae C1 to S1: say which",
}


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What a segment's name probably means.

    Attributes:
        id: organ id (1..200) or disease class (150..162).
        name: as in the tables.
        kind: ``organ`` or ``disease``.
        confidence: 1 = the very name or code, below 0.8 a person should look.
        why: what the answer rests on.
    """

    id: int
    name: str
    kind: str
    confidence: float
    why: str


def suggest(name: str, terminology: str = "") -> Suggestion | None:
    """Find the organ id or disease class that a segment's name or terminology entry stands for.

    Args:
        name: any common spelling: ``lung_upper_lobe_left``, ``LUL``, ``Rt. kidney``, ``oesophagus``, ``GGO`` ...
        terminology: 3D Slicer's serialized terminology entry; where it tells something it wins over the name.

    Returns:
        The best match, None when nothing fits or the side is open; :func:`why_not` then says what to do.
    """
    coded = read_entry(terminology)
    if coded is not None:
        return _made(coded.id, coded.confidence, coded.why)
    found = _find(name)
    return found if isinstance(found, Suggestion) else None


def why_not(name: str) -> str:
    """What keeps :func:`suggest` from an answer, with the next step; empty when it has one."""
    found = _find(name)
    return found if isinstance(found, str) else ""


def _made(index: int, confidence: float, why: str) -> Suggestion:
    return Suggestion(index, name_of(index), "disease" if index in DISEASES else "organ", round(confidence, 2), why)


@lru_cache(maxsize=4096)
def _find(name: str) -> Suggestion | str:
    side, all_words = _normalized(name)
    words = all_words - _KIND
    if not all_words and not side:
        return "it has no name: give it one"
    if all(word.isdigit() for word in words):
        return "its name says nothing: rename it"
    index = _index()
    if (side, words) in index:
        return _made(index[side, words], 1.0, "the name")
    if all_words in _disease_names():
        return _made(_disease_names()[all_words], 1.0, "the name")
    if words and words - {"heart"} in _HEART:
        return _made(115, 0.9, "a part of the heart, which the model has as one")
    if words == {"lung"} and side in _WHOLE_LUNG:
        return _made(_WHOLE_LUNG[side], 0.5, "a whole lung: the model has lobes, so one lobe stands for all of it")
    for phrase, reason in _NO_CLASS.items():
        if words == _normalized(phrase)[1]:
            return reason
    if "pulmonary" in words:
        all_words = all_words - {"pulmonary"} | {"lung"}
        words = all_words - _KIND
        if (side, words) in index:
            return _made(index[side, words], 0.9, "the name, with lung for pulmonary")
    disease = _disease(all_words)
    if disease is not None:
        return disease
    unnumbered = frozenset(word for word in words if not word.isdigit())
    if (side, unnumbered) in index:
        return _made(index[side, unnumbered], 0.9, "the name without its number")
    if ("left", words) in index and not side:
        return "the model has it on both sides: say left or right"
    if side and ("", words) in index and not ORGANS[index["", words]].side:
        return _made(index["", words], 0.7, "the name without its side, which the model does not tell apart")
    return _similar(side, words) or "no name of the model resembles it: pick the label by hand or leave it out"


def _disease(words: frozenset[str]) -> Suggestion | str | None:
    for phrase, class_id, confidence in _DISEASE_WORDS:
        if not set(phrase.split()) <= words:
            continue
        elsewhere = words & _ELSEWHERE - set(phrase.split())
        if elsewhere:
            return f"the disease classes lie in the lungs, this one in the {' '.join(sorted(elsewhere))}: leave it out"
        return _made(class_id, confidence, f"the word {phrase}")
    return None


def _similar(side: str, words: frozenset[str]) -> Suggestion | None:
    """The nearest spelling, word by word, with the same side and the same numbers."""
    numbers = {word for word in words if re.search(r"\d", word)}
    best, found = 0.75, None
    for (where, known), index in _index().items():
        if where != side or len(known) != len(words) or not numbers <= known:
            continue
        score = min(max(difflib.SequenceMatcher(None, word, other).ratio() for other in known) for word in words)
        if score > best:
            best, found = score, index
    return None if found is None else _made(found, 0.75 * best, "a similar spelling")


def _normalized(name: str) -> tuple[str, frozenset[str]]:
    """Side and words of a name: lower case, no accents, one spelling per word, without idle words."""
    text = unicodedata.normalize("NFKD", name)
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower()
    text = re.sub(r"\b(\d+)(st|nd|rd|th)\b", r"\1", re.sub(r"[^a-z0-9]+", " ", text))
    level = _LEVEL.search(text)
    if level and not set(_LEVEL.sub(" ", text).split()) - _IDLE - _KIND - {
        "vertebra",
        "vertebrae",
        "vertebral",
        "body",
        "spine",
    }:
        return "", frozenset({f"{level[1][0]}{int(level[2])}"})
    text = re.sub(r"(?<=[a-z])(?=\d)", " ", text)
    side, words = "", set()
    for word in text.split():
        if word in _SIDES:
            side = _SIDES[word]
        elif word.isdigit():
            words.add(str(int(word)))
        elif word not in _IDLE:
            words.add(_WORDS.get(word, word))
    return side, frozenset(words)


@lru_cache(maxsize=1)
def _disease_names() -> dict[frozenset[str], int]:
    return {_normalized(disease.name)[1]: disease.class_id for disease in DISEASES.values()}


@lru_cache(maxsize=1)
def _index() -> dict[tuple[str, frozenset[str]], int]:
    """(side, words) of every name and alias."""

    def key(phrase: str) -> tuple[str, frozenset[str]]:
        side, words = _normalized(phrase)
        return side, words - _KIND

    index: dict[tuple[str, frozenset[str]], int] = {}
    for phrase, target in _ALIASES.items():
        if isinstance(target, int):
            index[key(phrase)] = target
        else:
            words = key(phrase)[1]
            index["left", words], index["right", words] = target
    for organ in ORGANS.values():
        index[key(organ.name)] = organ.index
    return index
