"""Other people's label numbers to the model's."""

from __future__ import annotations

import csv
import difflib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..volume import LabelMap
from .combine import fill_under
from .filenames import names_of_file
from .naming import Suggestion, suggest, why_not
from .tables import BODY, DISEASES, MAP_OFFSET, ORGANS, name_of

# Organ ids of TotalSegmentator v2's task `total`, classes 1..117 in its order.
# fmt: off
_TOTAL = (
    3, 5, 14, 10, 1, 12, 4, 8, 9, 28, 29, 30, 31, 32, 11, 57, 126, 19, 13, 62, 15, 118, 116, 117, 97, 127, 33, 34,
    35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 115, 6, 119, 109, 124,
    123, 113, 112, 110, 111, 108, 125, 7, 17, 58, 59, 60, 61, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 121, 98, 99,
    100, 101, 102, 103, 104, 105, 106, 107, 22, 120, 63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74, 75, 76, 77, 78,
    79, 80, 81, 82, 83, 84, 85, 86, 122, 114,
)
_BTCV = (3, 5, 14, 10, 11, 1, 12, 6, 7, 17, 4, 8, 9)  # Multi-Atlas Labeling Beyond the Cranial Vault, classes 1..13
# fmt: on
_OWN = {index: index for index in [*ORGANS, *DISEASES]} | {d.map_value: d.class_id for d in DISEASES.values()}

SCHEMES: dict[str, dict[int, int]] = {
    "ctgen": _OWN,
    "totalsegmentator": dict(enumerate(_TOTAL, 1)),
    "vista3d": {index: index for index in ORGANS if index not in (133,)} | {23: 161},
    "btcv": dict(enumerate(_BTCV, 1)),
}
# VISTA3D classes without a counterpart: what they are and what to do.
_VISTA3D_ELSE = {
    2: "kidney: segment left (14) and right (5)",
    16: "prostate or uterus: use prostate (118)",
    18: "rectum: body (200) covers it",
    20: "lung: segment its lobes (28 to 32)",
    21: "bone: segment the single bones",
    128: "bone lesion: the disease classes lie in the lungs",
    129: "kidney mass: use a kidney cyst (116, 117) if it is one",
    130: "liver tumor: use hepatic tumor (26)",
    131: "vertebrae L6: the model ends at L5",
}
SURE = 0.8  # suggestions below this confidence are listed as guesses


@dataclass(frozen=True)
class Conversion:
    """A label map in the model's numbers, and what the conversion had to decide.

    Attributes:
        labels: organ ids; ``names`` holds the model's names. Classes without a counterpart became body (200).
        diseases: disease classes 150..162, where the source had any.
        dropped: source label -> what it was and what to do about it.
        guessed: source label -> suggestion below :data:`SURE`, for a person to look at.
    """

    labels: LabelMap
    diseases: LabelMap | None = None
    dropped: dict[int, str] = field(default_factory=dict)
    guessed: dict[int, Suggestion] = field(default_factory=dict)


def convert(labels: LabelMap, scheme: str | Path) -> Conversion:
    """Renumber a label map.

    Args:
        labels: any label map.
        scheme: ``ctgen`` (the model's own numbers), ``totalsegmentator`` (v2, task ``total``), ``vista3d``, ``btcv``,
            ``names`` (``labels.names``, or the names that come with its file), or the path of a CSV file with the
            columns label and name (or id).

    Returns:
        Organs, diseases if there are any, and what was dropped or guessed.

    Raises:
        InputError: unknown scheme, no names, a bad CSV line, or no label at all has a counterpart.
    """
    present = [int(value) for value in np.unique(labels.voxels) if value != 0]
    dropped: dict[int, str] = {}
    guessed: dict[int, Suggestion] = {}
    scheme = str(scheme)
    if scheme == "names":
        table = _by_names(labels, present, dropped, guessed)
    elif scheme in SCHEMES:
        table = SCHEMES[scheme]
    elif scheme.lower().endswith((".csv", ".tsv", ".txt")):
        table = read_table(Path(scheme), guessed)
    else:
        raise InputError(
            f"A label scheme is one of {', '.join(SCHEMES)}, names, or a CSV file with the columns label,name; "
            f"got {scheme!r}."
        )
    for value in present:
        if value not in table and value not in dropped:
            name = labels.names.get(value, "")
            reason = _VISTA3D_ELSE.get(value, "") if scheme == "vista3d" else ""
            dropped[value] = reason or f"{name or 'label ' + str(value)}: not in the scheme {Path(scheme).name}"
    if present and len(dropped) == len(present):
        raise InputError(
            f"None of the labels {present[:10]} has a counterpart in the scheme {Path(scheme).name}: "
            f"{next(iter(dropped.values()))}. Pick the scheme that wrote this file, or map its labels in a CSV file."
        )
    used = {value: table.get(value, BODY) for value in present}
    organs, diseases = _apply(labels.voxels, used)
    names = {value: name_of(value) for value in sorted({*map(int, np.unique(organs))} - {0})}
    result = LabelMap(organs, labels.geometry, names, labels.source)
    found = {value: name_of(value) for value in sorted(set(used.values())) if value in DISEASES}
    overlay = LabelMap(diseases, labels.geometry, found, labels.source) if found else None
    return Conversion(result, overlay, dropped, {k: v for k, v in guessed.items() if k in used})


def read_table(path: Path, guessed: dict[int, Suggestion]) -> dict[int, int]:
    """Read a CSV of label,name or label,id rows; a header is optional, `;` and tabs work too.

    Args:
        path: the file, UTF-8.
        guessed: receives the labels whose name was matched with doubt.

    Returns:
        Source label to organ id, disease class, or 0 for background.

    Raises:
        InputError: missing or unreadable file, or a bad line; the message names the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path.name}: cannot be read as UTF-8 text ({error}). Check the path and the export."
        ) from None
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    table: dict[int, int] = {}
    for number, row in enumerate(csv.reader(text.splitlines(), delimiter=delimiter), 1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        where = f"{path.name}, line {number}"
        if len(cells) < 2:
            raise InputError(f"{where}: a row is label,name or label,id; got {','.join(row)!r}. Add the second column.")
        if not cells[0].isdigit():
            if not table and number == 1:
                continue  # the header
            raise InputError(f"{where}: the first column is a whole number >= 0; got {cells[0]!r}. Correct it.")
        label = int(cells[0])
        if label in table:
            raise InputError(f"{where}: label {label} is mapped twice. Keep one row.")
        table[label] = _target(label, cells[1], where, guessed)
    if not table:
        raise InputError(f"{path.name}: holds no row of the form label,name or label,id. Add one per label.")
    return table


def _target(label: int, cell: str, where: str, guessed: dict[int, Suggestion]) -> int:
    if cell.lstrip("-").isdigit():
        value = int(cell)
        value = value - MAP_OFFSET if value - MAP_OFFSET in DISEASES else value
        if value and value not in ORGANS and value not in DISEASES:
            raise InputError(
                f"{where}: {value} is no label of the model. Organs are 1..133 (some are unused) and 200, diseases "
                "150..162, background 0; see the tables in the documentation."
            )
        return value
    if cell.lower() in ("background", "none", "ignore", ""):
        return 0
    found = suggest(cell)
    if found is None:
        names = [organ.name for organ in ORGANS.values()] + [disease.name for disease in DISEASES.values()]
        near = difflib.get_close_matches(cell.lower(), names, n=3, cutoff=0.4)
        hint = f" Similar names: {', '.join(near)}." if near else ""
        raise InputError(f"{where}: {cell!r} is no known name: {why_not(cell)}.{hint}")
    if found.confidence < SURE:
        guessed[label] = found
    return found.id


def _by_names(
    labels: LabelMap, present: list[int], dropped: dict[int, str], guessed: dict[int, Suggestion]
) -> dict[int, int]:
    named = {value: (name, "") for value, name in labels.names.items()}
    if not named and labels.source is not None:
        named = names_of_file(labels.source)
    if not named:
        raise InputError(
            "The scheme names needs names in the file (.seg.nrrd, TotalSegmentator's NIfTI) or in labels.json beside "
            "it; there are none. Give a numbering (totalsegmentator, vista3d, btcv) or a CSV file."
        )
    table: dict[int, int] = {}
    for value in present:
        name, terminology = named.get(value, ("", ""))
        found = suggest(name, terminology)
        if found is None:
            dropped[value] = f"{name or 'label ' + str(value)}: {why_not(name)}"
            continue
        table[value] = found.id
        if found.confidence < SURE:
            guessed[value] = found
    return table


def _apply(voxels: np.ndarray, used: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Organ ids and disease classes, both (Z, Y, X) uint8; what lies under a disease is taken from its surroundings."""
    mapped = np.zeros(voxels.shape, np.uint8)
    if used and max(used) < 65536 and min(used) >= 0:
        lookup = np.zeros(max(used) + 1, np.uint8)
        for value, target in used.items():
            lookup[value] = target
        mapped = lookup[voxels]
    else:
        for value, target in used.items():
            mapped[voxels == value] = target
    ill = np.isin(mapped, list(DISEASES))
    diseases = np.where(ill, mapped, 0).astype(np.uint8)
    if ill.any():
        mapped = fill_under(mapped, ill)
    return mapped, diseases
