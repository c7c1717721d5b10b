"""Does a report agree with the masks? Rules find the 18 findings in English reports; nothing is learned."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ..geometry import Geometry
from ..labels import DISEASES, LUNG_LOBES, MAP_OFFSET, ORGANS
from ..volume import LabelMap

LEFT_LOBES, RIGHT_LOBES = LUNG_LOBES[:2], LUNG_LOBES[2:]
# Mask classes that may show a finding: both airless lung classes share one, fibrosis and nodules have two.
CLASSES: dict[str, tuple[int, ...]] = {
    "Atelectasis": (150,),
    "Consolidation": (150,),
    "Peribronchial thickening": (151,),
    "Bronchiectasis": (152,),
    "Emphysema": (153,),
    "Lung opacity": (154,),
    "Pulmonary fibrotic sequela": (156, 155),
    "Lung nodule": (161, 157),
    "Pleural effusion": (159,),
    "Interlobular septal thickening": (162,),
}
# Classes that no finding of CT-RATE's 18 speaks of, and how a report does.
OTHER_WORDS = {160: re.compile(r"pneumothora\w*", re.IGNORECASE), 158: re.compile("")}
NODULE, EFFUSION = 161, 159
MAX_GAP = r"(?:[\s,/-]+[\w-]+){0,9}?[\s,/-]+"  # up to nine words between two words of one term


@dataclass(frozen=True, slots=True)
class Mention:
    """A finding as a clause of a report speaks of it.

    Attributes:
        finding: one of the 18 names.
        negated: the clause says that it is absent.
        side: ``left``, ``right``, ``bilateral`` or empty.
        lobes: lung-lobe ids that the clause names.
        size_mm: the largest length given, 0 without one.
        text: the clause.
        degree: ``mild``, ``moderate``, ``severe`` (of :data:`DEGREES`) or empty.
    """

    finding: str
    negated: bool = False
    side: str = ""
    lobes: tuple[int, ...] = ()
    size_mm: float = 0.0
    text: str = ""
    degree: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a person should look at before generating.

    Attributes:
        code: ``side``, ``lobe``, ``size``, ``negated``, ``unmentioned`` or ``no_mask``.
        severity: ``warning`` or ``info``.
        message: what disagrees, and what to do.
    """

    code: str
    severity: str
    message: str

    def __str__(self) -> str:
        """The message."""
        return self.message


def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern.replace("~", MAX_GAP), re.IGNORECASE)


CALCIUM = r"(?:calcif\w*|atherom\w*|atherosclero\w*)"
# ``~`` stands for up to nine words in between.
PATTERNS: dict[str, re.Pattern[str]] = {
    name: _compile("|".join(patterns))
    for name, patterns in {
        "Medical material": (
            r"pace-?makers?|\bICD\b|\bport\b|catheters?|\bstents?\b|sternotomy|sternal wires?|suture mat\w+",
            r"prosthe\w+|electrodes?|tracheostomy|(?:endotracheal|nasogastric|chest|drainage) tubes?",
            r"medical (?:material|device)s?|surgical clips?",
        ),
        "Arterial wall calcification": (
            rf"{CALCIUM}~(?:aort\w*|thoracoabdominal|arterial wall)(?!\s+valve)",
            rf"(?:aort\w*|arterial walls?)(?!\s+valve)~{CALCIUM}",
            r"atherosclero\w*",
        ),
        "Cardiomegaly": (
            r"cardiomegaly|enlarged heart|heart(?: \w+){0,4} (?:enlarged|increased)|enlargement of the heart",
            r"cardiothoracic (?:ratio|index)~increased|increased heart size",
        ),
        "Pericardial effusion": (r"pericardial~(?:effusion|fluid)", r"(?:effusion|fluid)~pericardi\w+"),
        "Coronary artery wall calcification": (rf"{CALCIUM}~(?:coronary|LAD)", rf"coronar\w+~(?:{CALCIUM}|plaques?)"),
        "Hiatal hernia": (r"hiat(?:al|us) hernia",),
        "Lymphadenopathy": (
            r"lymphadenopath\w*|\bLAP\b|(?:enlarged|pathologic\w*|metastatic)~lymph[\s-]?nod\w+",
            r"lymph[\s-]?nod\w+~(?:enlarge\w*|patholog\w*)|lymph node enlargement",
            r"\bnode~enlarged",
        ),
        "Emphysema": (r"emphysem\w*",),
        "Atelectasis": (r"\w*atelecta\w*",),
        "Lung nodule": (
            r"(?:micro)?nodul(?:es?|ar (?:densit|lesion|infiltrat|or )\w*)\b",
            r"(?:pulmonary|lung) mass(?:es)?",
        ),
        "Lung opacity": (r"ground[\s-]?glass(?![\s-]*(?:\w+ )?nodul)", r"\bopacit(?:y|ies)\b"),
        "Pulmonary fibrotic sequela": (
            r"sequela?e?\b(?! fracture)",
            r"fibro(?:tic|sis)\b|fibroatelect\w*|honeycomb\w*",
        ),
        "Pleural effusion": (r"pleural~(?:effusions?|fluid)", r"hydrothorax", r"(?:effusion|fluid)~pleural"),
        "Mosaic attenuation pattern": (r"mosaic",),
        "Peribronchial thickening": (
            r"peribronchial~(?:thick\w*|cuff\w*)|bronchial walls?~thick\w*",
            r"thick\w*~(?:bronchial walls?|peribronchial)",
        ),
        "Consolidation": (r"consolidat\w*",),
        "Bronchiectasis": (
            r"bronchiecta\w*|bronchi~(?:widened|dilat\w+)",
            r"bronchial~ectasia|ectasia~bronch\w+",
        ),
        "Interlobular septal thickening": (r"septal?~thick\w*", r"thick\w*~(?:interlobular )?septa\b"),
    }.items()
}
ELSEWHERE = re.compile(r"thyroid|adrenal|breast|hepatic|\bliver|spleen|kidney|renal|accessory", re.IGNORECASE)
CLAUSE_END = re.compile(
    r"(?<!\d)[.;?!]+|(?<=\d)[.;?!]+(?=\s|$)|\n| {2,}|,? (?:but|however|although|except)\b|,? and (?=there (?:is|are)\b)"
)
NOT_A_DENIAL = re.compile(
    r"(?:can|could) ?not be (?:completely )?(?:excluded|ruled out)|not (?:only|given)|cannot be evaluated\w*"
    r"|no (?:significant )?(?:change|difference|increase|decrease)\b",
    re.IGNORECASE,
)
DENIED_BEFORE = re.compile(r"\b(?:no|not|without|absence of|free of|neither|nor|never)\b", re.IGNORECASE)
DENIED_AFTER = re.compile(
    r"\b(?:not|no longer)(?: been)? (?:\w+ )?(?:detected|observed|seen|present|identified|found|noted|visible)\b"
    r"|\b(?:is|are|was|were) (?:not|absent)\b|no \w+ (?:was|were|is) (?:detected|observed|seen)",
    re.IGNORECASE,
)
SIDES = re.compile(r"\b(left|right|bilateral\w*|both)\b(?! (?:ventric|atri))", re.IGNORECASE)
LOBES = re.compile(
    r"\b(?P<side>left|right|both|bilateral)(?: lungs?)? (?P<part>upper|middle|lower) lobes?"
    r"|\b(?P<part2>upper|middle|lower)(?: lung)? lobes? of (?:the )?(?P<side2>left|right|both|bilateral)"
    r"|\b(?P<part3>upper|middle|lower) lobes?|(?P<lingula>lingul\w*)",
    re.IGNORECASE,
)
SIZES = re.compile(
    r"(\d+(?:[.,]\d+)?)(?:\s*[x\u00d7]\s*(\d+(?:[.,]\d+)?))?\s*(mm|cm|millimet(?:er|re)s?|centimet(?:er|re)s?)\b",
    re.IGNORECASE,
)
DEGREES = {
    "mild": re.compile(r"\b(?:minimal|slight|mild|minor|small|tiny|thin|trace|subtle)(?:ly)?\b", re.IGNORECASE),
    "moderate": re.compile(r"\bmoderate(?:ly)?\b", re.IGNORECASE),
    "severe": re.compile(
        r"\b(?:marked|pronounced|severe|large|massive|extensive|advanced|diffuse)(?:ly)?\b", re.IGNORECASE
    ),
}
LOBE_IDS = {
    ("left", "upper"): 28,
    ("left", "middle"): 28,
    ("left", "lower"): 29,
    ("right", "upper"): 30,
    ("right", "middle"): 31,
    ("right", "lower"): 32,
}


def mentions(report: str) -> tuple[Mention, ...]:
    """Find the 18 findings in a report.

    Args:
        report: English text; findings and impression in any order.

    Returns:
        A mention per finding and clause, in reading order.
    """
    found: list[Mention] = []
    for clause in CLAUSE_END.split(report):
        if clause and clause.strip():
            found += _in_clause(clause.strip())
    return tuple(found)


def check_report(report: str, organs: LabelMap | None, diseases: LabelMap | None) -> list[Notice]:
    """Compare a report with the masks it is to be generated with.

    Args:
        report: English text.
        organs: organ ids, perhaps with diseases painted over them as 250..262; None without a mask.
        diseases: class ids 150..162 on the same grid; None when there are none or they are painted over the organs.

    Returns:
        Warnings (report and mask contradict each other) and hints (one of them is silent), warnings first. Nothing when
        there is no mask at all.

    Raises:
        InputError: the two masks lie on different grids.
    """
    organ_ids, classes, geometry = _masks(organs, diseases)
    if classes is None or geometry is None:
        return []
    index = np.nonzero(classes)
    kinds = classes[index]
    lobes = np.zeros(len(kinds), np.uint8) if organ_ids is None else organ_ids[index]
    on_left = np.isin(lobes, LEFT_LOBES)
    beside = ~np.isin(lobes, LUNG_LOBES)
    if beside.any():  # fluid may be painted outside the lobes, or nobody gave any
        to_x = geometry.affine_lps()[0]
        x = to_x[0] * index[2] + to_x[1] * index[1] + to_x[2] * index[0] + to_x[3]
        on_left |= beside & (x > _midline(organ_ids, geometry))
    there = {lobe for lobe in LUNG_LOBES if organ_ids is not None and (organ_ids == lobe).any()}
    spoken = mentions(report)
    notices: list[Notice] = []
    for number in sorted({*map(int, np.unique(kinds))} & set(DISEASES)):
        names = [name for name, own in CLASSES.items() if number in own]
        told = [mention for mention in spoken if mention.finding in names]
        if number in OTHER_WORDS and OTHER_WORDS[number].search(report):
            continue
        here = kinds == number
        notices += _about_class(number, names, told, on_left[here], lobes[here], there)
        said = max((mention.size_mm for mention in told if not mention.negated), default=0.0)
        if said and number in (NODULE, EFFUSION):
            notices += _about_size(number, said, _extent(classes, number, geometry.spacing_zyx))
    shown = {int(n) for n in np.unique(kinds)}
    for name, own in CLASSES.items():
        if any(m.finding == name and not m.negated for m in spoken) and not shown & set(own):
            notices.append(
                Notice(
                    "no_mask",
                    "info",
                    f"The report mentions {name.lower()}, but the disease mask has no {_named(own[0])}. "
                    "The text alone will steer it; paint it to say where.",
                )
            )
    return sorted(notices, key=lambda notice: notice.severity != "warning")


def _in_clause(clause: str) -> list[Mention]:
    """Mentions of one clause, each with the places and sizes of its own part of the clause."""
    plain = NOT_A_DENIAL.sub(" ", clause)
    hits: list[tuple[int, int, str]] = []
    for name, pattern in PATTERNS.items():
        match = pattern.search(plain)
        if match and not (name == "Lung nodule" and ELSEWHERE.search(plain)):
            hits.append((match.start(), match.end(), name))
    hits.sort()
    if any(name == "Coronary artery wall calcification" for *_, name in hits):
        rest = re.sub(r"coronary(?: arter\w*| vascular)?", " ", plain, flags=re.IGNORECASE)
        if not re.search(r"aort|arterial|vascular wall", rest, re.IGNORECASE):
            hits = [hit for hit in hits if hit[2] != "Arterial wall calcification"]
    cuts = [0, *(max(_cut(plain, a[1], b[0]), a[0] + 1) for a, b in pairwise(hits)), len(plain)]
    parts = [plain[start:stop] for start, stop in pairwise(cuts)]
    found = []
    for (start, end, name), part in zip(hits, parts, strict=False):
        negated = bool(DENIED_BEFORE.search(plain[:start])) or bool(DENIED_AFTER.search(plain[start:]))
        negated = negated or bool(DENIED_BEFORE.search(plain[start:end]))
        side, lobes = _place(part)
        degree = next((word for word, pattern in DEGREES.items() if pattern.search(part)), "")
        found.append(Mention(name, negated, side, lobes, _size(part), clause, degree))
    return _inherit(found)


def _cut(text: str, after: int, before: int) -> int:
    """Where the words of one finding end and those of the next begin."""
    between = text[after:before]
    for mark in (";", ",", " and ", " with "):
        at = between.rfind(mark)
        if at >= 0:
            return after + at
    return before


def _inherit(found: list[Mention]) -> list[Mention]:
    """``Ground glass and consolidation in both lungs``: who has no place of its own takes its right neighbor's."""
    for i in range(len(found) - 2, -1, -1):
        if not found[i].side and not found[i].lobes:
            found[i] = replace(found[i], side=found[i + 1].side, lobes=found[i + 1].lobes)
    return found


def _place(text: str) -> tuple[str, tuple[int, ...]]:
    """Side and lobes that a text names."""
    sides = {"bilateral" if word.lower()[0] == "b" else word.lower() for word in SIDES.findall(text)}
    side = "bilateral" if len(sides) > 1 or "bilateral" in sides else next(iter(sides), "")
    lobes: set[int] = set()
    for match in LOBES.finditer(text):
        if match["lingula"]:
            lobes.add(28)
            continue
        part = (match["part"] or match["part2"] or match["part3"]).lower()
        own = (match["side"] or match["side2"] or side).lower()
        if part == "middle" and not own:
            own = "right"
        for where in ("left", "right") if own in ("both", "bilateral") else (own,):
            if (where, part) in LOBE_IDS:
                lobes.add(LOBE_IDS[where, part])
    named = tuple(sorted(lobes))
    return side or _sides_of(named), named


def _size(text: str) -> float:
    """The largest length in mm, 0 without one."""
    lengths = [0.0]
    for first, second, unit in SIZES.findall(text):
        factor = 10.0 if unit.lower().startswith("c") else 1.0
        lengths += [factor * float(number.replace(",", ".")) for number in (first, second) if number]
    return max(lengths)


def _masks(
    organs: LabelMap | None, diseases: LabelMap | None
) -> tuple[np.ndarray | None, np.ndarray | None, Geometry | None]:
    """Organ ids, class ids and their geometry; classes painted over organs are taken off them."""
    ids = None if organs is None else organs.voxels
    if diseases is not None:
        if organs is not None:
            organs.geometry.assert_equal(diseases.geometry, 0.01, "the organ mask and the disease mask")
        return ids, diseases.voxels, diseases.geometry
    if ids is None or organs is None:
        return None, None, None
    painted = ids >= min(DISEASES) + MAP_OFFSET
    return np.where(painted, 0, ids), np.where(painted, ids - np.asarray(MAP_OFFSET, ids.dtype), 0), organs.geometry


def _midline(organs: np.ndarray | None, geometry: Geometry) -> float:
    """x in mm of the body's middle: between the lungs' centers, else of the whole body, else of the grid."""
    affine = geometry.affine_lps()
    if organs is None or not organs.any():
        return float((affine[0, :3] * (np.array(geometry.size_xyz) - 1) / 2).sum() + affine[0, 3])

    def center(ids: tuple[int, ...]) -> float | None:
        inside = np.isin(organs, ids) if ids else organs > 0
        total = int(inside.sum())
        if not total:
            return None
        z, y, x = (
            float(inside.sum(axis=other) @ np.arange(n)) / total
            for other, n in zip(((1, 2), (0, 2), (0, 1)), inside.shape, strict=True)
        )
        return float(affine[0] @ np.array([x, y, z, 1]))

    left, right = center(LEFT_LOBES), center(RIGHT_LOBES)
    if left is not None and right is not None:
        return 0.5 * (left + right)
    return float(center(()) or 0.0)


def _named(number: int) -> str:
    return f"class {number} ({DISEASES[number].name.lower()})"


def _about_class(
    number: int, names: list[str], told: list[Mention], on_left: np.ndarray, lobes: np.ndarray, there: set[int]
) -> list[Notice]:
    """Compare one mask class with what the report says about the findings it may show; ``there``: the mask's lobes."""
    positive = [mention for mention in told if not mention.negated]
    what = " or ".join(name.lower() for name in names) or DISEASES[number].name.lower()
    if not positive:
        if any(m.negated for m in told):
            text = f"The report says that there is no {what}, but the disease mask contains {_named(number)}."
            return [Notice("negated", "warning", f"{text} Change the report or erase the mask.")]
        text = f"The disease mask contains {_named(number)}, which the report does not mention."
        return [Notice("unmentioned", "info", f"{text} Add a sentence on {what}.")]
    subject = " and ".join(dict.fromkeys(mention.finding.lower() for mention in positive))
    mask = f"the disease mask of {_named(number)} lies"
    left = float(on_left.mean())
    sides = {mention.side for mention in positive} - {""}
    both = "bilateral" in sides or len(sides) > 1
    notices = []
    for said, wrong, other in (("left", 1 - left, "right"), ("right", left, "left")):
        if sides == {said} and wrong > 0.5:
            text = f"The report says {said} {subject}; {mask} on the {other} ({100 * wrong:.0f} % of its voxels)."
            notices.append(Notice("side", "warning", f"{text} Paint it on the {said} or change the report."))
        if both and wrong > 0.98:
            text = f"The report says {subject} on both sides; {mask} on the {other} alone."
            notices.append(Notice("side", "warning", f"{text} Paint the {said} too or change the report."))
    named = {lobe for mention in positive for lobe in mention.lobes}
    # "in both lungs, the largest in the left upper lobe" leaves open where the others lie
    open_ended = any(_sides_of(mention.lobes) != mention.side for mention in positive if mention.side or mention.lobes)
    inside = lobes[np.isin(lobes, LUNG_LOBES)]
    if not notices and named & there and not open_ended and len(inside):
        share = float(np.isin(inside, list(named)).mean())
        if share < 0.25:
            most = ORGANS[int(np.bincount(inside).argmax())].name
            places = ", ".join(ORGANS[lobe].name for lobe in sorted(named))
            text = f"The report places {subject} in the {places}; {mask} in the {most}."
            notices.append(Notice("lobe", "warning", f"{text} Move the mask or change the report."))
    return notices


def _sides_of(lobes: tuple[int, ...]) -> str:
    sides = {"left" if lobe in LEFT_LOBES else "right" for lobe in lobes}
    return "bilateral" if len(sides) > 1 else next(iter(sides), "")


def _about_size(number: int, said: float, measured: float) -> list[Notice]:
    if 0.5 * said <= measured <= 2 * said:
        return []
    what = "The thickest effusion" if number == EFFUSION else "The largest nodule"
    text = f"{what} in the disease mask measures {measured:.0f} mm, the report says {said:g} mm."
    return [Notice("size", "warning", f"{text} Paint it in the size of the report or change the number.")]


def _extent(classes: np.ndarray, number: int, spacing_zyx: tuple[float, float, float]) -> float:
    """Size of a class in mm as a report would give it: thickness of fluid, diameter of the largest nodule."""
    from scipy import ndimage  # slow to load

    inside = classes == number
    box = tuple(slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(inside))
    crop = np.pad(inside[box], 1)
    if number == EFFUSION:
        return float(2 * ndimage.distance_transform_edt(crop, spacing_zyx).max())
    parts, _ = ndimage.label(crop, np.ones((3, 3, 3)))
    volume = float(np.bincount(parts.ravel())[1:].max()) * float(np.prod(spacing_zyx))
    return float((6 * volume / np.pi) ** (1 / 3))
