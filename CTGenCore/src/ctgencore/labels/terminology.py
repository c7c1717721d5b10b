"""3D Slicer's terminology entries (DICOM codes in one line of text) for the labels, both ways.

The codes are those of DICOM's segmentation context groups as 3D Slicer and TotalSegmentator's public mapping use them.
Where SNOMED CT has no code that we are certain of, the entry carries our own, in a private coding scheme as DICOM
allows (PS3.16, 8.2: names of private schemes begin with 99).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .tables import DISEASES, ORGANS, name_of

PRIVATE_SCHEME = "99CTGEN"
_CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
_REGIONS = "Anatomic codes - DICOM master list"
_ANATOMY = ("SCT", "123037004", "Anatomical Structure")
_ALTERED = ("SCT", "49755003", "Morphologically Altered Structure")
_NONE = ("", "", "")
_TISSUE = ("SCT", "85756007", "Tissue")
TISSUE = (_TISSUE, _TISSUE, _NONE, _NONE, _NONE)  # an entry that says nothing, as 3D Slicer writes it
_SIDE = {"left": ("SCT", "7771000", "Left"), "right": ("SCT", "24028007", "Right"), "": _NONE}

_CODES = {  # organ name without its side -> SNOMED CT concept and meaning
    "liver": (10200004, "Liver"),
    "spleen": (78961009, "Spleen"),
    "pancreas": (15776009, "Pancreas"),
    "kidney": (64033007, "Kidney"),
    "aorta": (15825003, "Aorta"),
    "inferior vena cava": (64131007, "Inferior vena cava"),
    "adrenal gland": (23451007, "Adrenal gland"),
    "gallbladder": (28231008, "Gallbladder"),
    "esophagus": (32849002, "Esophagus"),
    "stomach": (69695003, "Stomach"),
    "duodenum": (38848004, "Duodenum"),
    "bladder": (89837001, "Urinary bladder"),
    "portal vein and splenic vein": (110765007, "Portal vein and splenic vein"),
    "small bowel": (30315005, "Small Intestine"),
    "brain": (12738006, "Brain"),
    "lung upper lobe": (45653009, "Upper lobe of lung"),
    "lung lower lobe": (90572001, "Lower lobe of lung"),
    "lung middle lobe": (72481006, "Middle lobe of right lung"),
    "trachea": (44567001, "Trachea"),
    "iliac artery": (73634005, "Common iliac artery"),
    "iliac vena": (46027005, "Common iliac vein"),
    "colon": (71854001, "Colon"),
    "humerus": (85050009, "Humerus"),
    "scapula": (79601000, "Scapula"),
    "clavicula": (51299004, "Clavicle"),
    "femur": (71341001, "Femur"),
    "hip": (29836001, "Hip"),
    "sacrum": (54735007, "Sacrum"),
    "gluteus maximus": (181674001, "Gluteus maximus muscle"),
    "gluteus medius": (78333006, "Gluteus medius muscle"),
    "gluteus minimus": (75297007, "Gluteus minimus muscle"),
    "autochthon": (244849004, "Deep muscle of back"),
    "iliopsoas": (68455001, "Iliopsoas muscle"),
    "atrial appendage": (68786006, "Auricular appendage"),
    "brachiocephalic trunk": (12691009, "Brachiocephalic artery"),
    "brachiocephalic vein": (8887007, "Brachiocephalic vein"),
    "common carotid artery": (32062004, "Common carotid artery"),
    "costal cartilages": (50016007, "Costal cartilage"),
    "heart": (80891009, "Heart"),
    "prostate": (41216001, "Prostate"),
    "pulmonary vein": (122972007, "Pulmonary vein"),
    "skull": (89546000, "Skull"),
    "spinal cord": (2748008, "Spinal cord"),
    "sternum": (56873002, "Sternum"),
    "subclavian artery": (29700009, "Subclavian artery"),
    "superior vena cava": (48345005, "Superior vena cava"),
    "thyroid gland": (69748006, "Thyroid gland"),
    "airway": (110726009, "Trachea and bronchus"),
    "body": (22943007, "Trunk"),
}
# fmt: off
_RIBS = (
    48535007, 78247007, 25888004, 25523003, 15339008, 59558009, 24915002, 5953002, 22565002, 77644006, 58830002,
    43993008,
)
_VERTEBRAE = {
    "C": (14806007, 39976000, 113205007, 5329002, 36978003, 36054005, 87391001),
    "T": (
        64864005, 53733008, 1626008, 73071006, 56401006, 45296009, 62487009, 11068009, 82687006, 7610001,
        12989004, 23215003,
    ),
    "L": (66794005, 14293000, 36470004, 11994002, 49668003),
    "S": (65985001,),
}
# fmt: on
_OF_A_REGION = {  # organ id -> type, region (concept, meaning)
    24: ((108369006, "Neoplasm"), (15776009, "Pancreas")),
    25: ((59820001, "Blood vessel"), (10200004, "Liver")),
    26: ((108369006, "Neoplasm"), (10200004, "Liver")),
    27: ((108369006, "Neoplasm"), (71854001, "Colon")),
    116: ((367643001, "Cyst"), (64033007, "Kidney")),
    117: ((367643001, "Cyst"), (64033007, "Kidney")),
    133: ((59820001, "Blood vessel"), (39607008, "Lung")),
}
_DISEASE_CODES = {  # class -> type, region
    150: ((95436008, "Lung consolidation"), (39607008, "Lung")),
    152: ((12295008, "Bronchiectasis"), (39607008, "Lung")),
    153: ((87433001, "Pulmonary emphysema"), (39607008, "Lung")),
    159: ((41699000, "Effusion"), (91381003, "Pleural cavity")),
    160: ((36118008, "Pneumothorax"), (91381003, "Pleural cavity")),
    161: ((27925004, "Nodule"), (39607008, "Lung")),
}
_ALSO_READ = {  # (type, region or empty) of further entries -> id; sides are ignored
    ("46621007", ""): 150,  # Atelectasis
    ("60046008", ""): 159,  # Pleural effusion
    ("4147007", "39607008"): 161,  # Mass of the lung
    ("108369006", "39607008"): 161,  # Neoplasm of the lung
    ("82471001", ""): 115,  # atria, ventricles, myocardium
    ("73829009", ""): 115,
    ("87878005", ""): 115,
    ("53085002", ""): 115,
    ("74281007", ""): 115,
}


@dataclass(frozen=True, slots=True)
class Coded:
    """What a terminology entry says: a label, how sure, and why."""

    id: int
    confidence: float
    why: str


def terminology_for(index: int) -> str:
    """3D Slicer's serialized terminology entry of an organ id or disease class.

    Raises:
        KeyError: no such id.
    """
    category, kind, modifier, region, region_modifier = entry(index)
    parts = [
        _CONTEXT,
        *(_text(code) for code in (category, kind, modifier)),
        _REGIONS,
        _text(region),
        _text(region_modifier),
    ]
    return "~".join(parts)


def read_entry(text: str) -> Coded | None:
    """The label that a serialized entry stands for; None when it says nothing ("Tissue") or leaves the side open."""
    fields = text.strip().rstrip("|").split("~")
    if len(fields) < 3:
        return None
    codes = [tuple(field.split("^")[:3]) for field in fields[1:4] + fields[5:7]]
    codes += [()] * (5 - len(codes))
    _, kind, modifier, region, region_modifier = [code if len(code) == 3 else _NONE for code in codes]
    if kind[0] == PRIVATE_SCHEME and kind[1].isdigit() and int(kind[1]) in DISEASES:
        return Coded(int(kind[1]), 1.0, "its terminology entry")
    if kind[0] != "SCT":
        return None
    side = modifier[1] or region_modifier[1]
    index = _reverse().get((kind[1], side, region[1])) or _reverse().get((kind[1], side, ""))
    if index is None and kind[1] in _UNSIDED_CODES:  # the side of an organ that has only one
        index = _reverse().get((kind[1], "", ""))
    if index is not None:
        return Coded(index, 1.0, f"its terminology entry, {kind[2]}")
    index = _ALSO_READ.get((kind[1], region[1])) or _ALSO_READ.get((kind[1], ""))
    if index is None:
        index = next(
            (i for i, (k, r) in _DISEASE_CODES.items() if str(k[0]) == kind[1] and region[1] in ("", str(r[0]))), None
        )
    return Coded(index, 0.9, f"its terminology entry, {kind[2]}") if index is not None else None


_UNSIDED_CODES = {str(_CODES[name][0]) for name in ("lung middle lobe", "pulmonary vein", "costal cartilages")}


def entry(index: int) -> tuple[tuple[str, str, str], ...]:
    """Codes of an organ id or disease class.

    Returns:
        Category, type, modifier, region and region modifier, each (scheme, value, meaning); empty texts for none.
    """
    if index in DISEASES:
        if index not in _DISEASE_CODES:
            return _ALTERED, (PRIVATE_SCHEME, str(index), name_of(index)), _NONE, _NONE, _NONE
        kind, region = _DISEASE_CODES[index]
        return _ALTERED, _sct(kind), _NONE, _sct(region), _NONE
    organ = ORGANS[index]
    side = _SIDE[organ.side]
    if index in _OF_A_REGION:
        kind, region = _OF_A_REGION[index]
        category = _ANATOMY if organ.group in ("vessel", "lung_vessel") else _ALTERED
        return category, _sct(kind), _NONE, _sct(region), side
    name = organ.name.removeprefix(organ.side).strip()
    if index == 108:
        name, side = "atrial appendage", _SIDE["left"]
    if index == 31:
        side = _NONE  # its code says right
    return _ANATOMY, _sct(_concept(name)), side, _NONE, _NONE


def _concept(name: str) -> tuple[int, str]:
    if name.startswith("rib "):
        return _RIBS[int(name[4:]) - 1], name.capitalize()
    if name.startswith("vertebrae "):
        level = name.split()[1]
        return _VERTEBRAE[level[0]][int(level[1:]) - 1], f"{level} vertebra"
    return _CODES[name]


def _sct(concept: tuple[int, str]) -> tuple[str, str, str]:
    return "SCT", str(concept[0]), concept[1]


def _text(code: tuple[str, str, str]) -> str:
    return "^".join(code)


@lru_cache(maxsize=1)
def _reverse() -> dict[tuple[str, str, str], int]:
    """(type, side, region) codes -> id."""
    table = {}
    for index in [*ORGANS, *_DISEASE_CODES]:
        _, kind, modifier, region, region_modifier = entry(index)
        table[kind[1], modifier[1] or region_modifier[1], region[1]] = index
    return table
