"""Label maps put together and taken apart: diseases over organs, several organ maps into one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..volume import LabelMap
from .tables import BODY, DISEASES, LUNG_LOBES, MAP_OFFSET, ORGANS, name_of
from .validate import Problem

# Who lies in whom: a label of a later group wins where two maps claim a voxel.
_ORDER = (
    *("body", "lung", "muscle", "organ", "kidney", "heart", "neuro", "vessel"),
    *("spine", "rib", "bone_cartilage", "airway", "lung_vessel", "cyst", "tumor"),
)


def paint(organs: np.ndarray | LabelMap, diseases: np.ndarray | LabelMap) -> np.ndarray:
    """Paint disease classes over organs, as the generator was trained: the organ gives way to class id + 100.

    Args:
        organs: (Z, Y, X) organ ids.
        diseases: (Z, Y, X) class ids 150..162, 0 elsewhere.

    Returns:
        (Z, Y, X) int16 combined map.

    Raises:
        InputError: the shapes differ, or a value is no disease class.
    """
    organs, diseases = _voxels(organs), _voxels(diseases)
    if organs.shape != diseases.shape:
        raise InputError(
            f"Organs and diseases lie on one grid; got {organs.shape} and {diseases.shape} (Z, Y, X). Resample one."
        )
    strangers = sorted({*map(int, np.unique(diseases))} - {0, *DISEASES})
    if strangers:
        raise InputError(f"Disease classes are 150..162 and 0; got {strangers[:5]}. Convert the map first.")
    ill = diseases > 0
    combined = organs.astype(np.int16)
    combined[ill] = diseases[ill].astype(np.int16) + MAP_OFFSET
    return combined


def split(combined: np.ndarray | LabelMap) -> tuple[np.ndarray, np.ndarray]:
    """Take a combined map apart.

    The organ under a disease is lost in a combined map; the nearest lung lobe is taken.

    Args:
        combined: (Z, Y, X) organ ids with diseases painted as 250..262.

    Returns:
        Organ ids and disease classes, (Z, Y, X) uint8 each.
    """
    voxels = _voxels(combined)
    ill = voxels >= min(DISEASES) + MAP_OFFSET
    diseases = np.where(ill, voxels - MAP_OFFSET, 0).astype(np.uint8)
    organs = np.where(ill, 0, voxels).astype(np.uint8)
    return (fill_under(organs, ill) if ill.any() else organs), diseases


def fill_under(organs: np.ndarray, hidden: np.ndarray) -> np.ndarray:
    """Give hidden voxels the lung lobe nearest to them (diseases are of the lung), body (200) where there is none.

    Args:
        organs: (Z, Y, X) organ ids.
        hidden: (Z, Y, X) bool.

    Returns:
        (Z, Y, X), the type of ``organs``.
    """
    from scipy.ndimage import distance_transform_edt

    organs = organs.copy()
    known = ~hidden & np.isin(organs, LUNG_LOBES)
    box = tuple(slice(max(0, int(where.min()) - 16), int(where.max()) + 17) for where in np.nonzero(hidden))
    if not known[box].any():
        organs[hidden] = BODY
        return organs
    index = distance_transform_edt(~known[box], return_distances=False, return_indices=True)
    organs[box] = np.where(hidden[box], organs[box][tuple(index)], organs[box])
    return organs


def merge(maps: Sequence[LabelMap]) -> tuple[LabelMap, list[Problem]]:
    """One organ map out of several on the same grid (TotalSegmentator's tasks write one each).

    Where two claim a voxel, the label that lies inside the other wins: body, lung, muscle, organs, vessels, bones,
    airways, lung vessels, tumors.

    Args:
        maps: organ maps in the model's ids.

    Returns:
        The merged map, and a note for each pair of labels that overlapped.

    Raises:
        InputError: no map, or different grids.
    """
    if not maps:
        raise InputError("Merging takes at least one label map; got none.")
    rank = np.full(256, len(_ORDER), np.uint8)
    rank[0] = 0
    for organ in ORGANS.values():
        rank[organ.index] = _ORDER.index(organ.group) + 1
    merged = maps[0].voxels.astype(np.uint8)
    problems: list[Problem] = []
    for layer in maps[1:]:
        layer.geometry.assert_equal(maps[0].geometry, 1e-2, "the label maps")
        other = layer.voxels.astype(np.uint8)
        problems += _overlaps(merged, other, rank)
        merged = np.where(rank[other] > rank[merged], other, merged)
    names = {int(value): name_of(int(value)) for value in np.unique(merged) if value}
    return LabelMap(merged, maps[0].geometry, names), problems


def _overlaps(one: np.ndarray, two: np.ndarray, rank: np.ndarray) -> list[Problem]:
    both = (one > 0) & (two > 0) & (one != two)
    pairs, counts = np.unique(np.stack([one[both], two[both]]), axis=1, return_counts=True)
    notes = []
    for (a, b), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        winner, loser = (b, a) if rank[b] > rank[a] else (a, b)
        if loser == BODY or (loser in LUNG_LOBES and ORGANS[winner].group in ("airway", "lung_vessel")):
            continue  # as it should be
        notes.append(
            Problem(
                "overlap",
                "warning",
                f"{name_of(winner)} and {name_of(loser)} share {count} voxels; {name_of(winner)} keeps them.",
                f"If {name_of(loser)} should win, remove those voxels from {name_of(winner)}.",
            )
        )
    return notes


def _voxels(labels: np.ndarray | LabelMap) -> np.ndarray:
    return labels.voxels if isinstance(labels, LabelMap) else labels
