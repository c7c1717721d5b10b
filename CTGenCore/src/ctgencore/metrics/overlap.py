"""How much two label maps overlap, label by label and lesion by lesion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..labels import DISEASES, ORGANS, name_of
from ..volume import LabelMap
from .base import Case, Context, Metric, Value

COVERED = 0.1  # share of a lesion's voxels that must have its class in the test for it to count as found
LESIONS = (*(organ.index for organ in ORGANS.values() if organ.group in ("tumor", "cyst")), *DISEASES)

ONE_EMPTY = "in one of the two only"


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Voxels of each label in each slice.

    Attributes:
        labels: (K,) labels that either map has, ascending; background (0) is left out.
        reference, test: (K, Z) voxels with the label.
        both: (K, Z) voxels that have it in both.
    """

    labels: np.ndarray
    reference: np.ndarray
    test: np.ndarray
    both: np.ndarray

    def dice(self) -> np.ndarray:
        """(K,) 2 |A and B| / (|A| + |B|)."""
        return 2 * self.both.sum(1) / (self.reference.sum(1) + self.test.sum(1))

    def jaccard(self) -> np.ndarray:
        """(K,) |A and B| / |A or B|."""
        return self.both.sum(1) / (self.reference.sum(1) + self.test.sum(1) - self.both.sum(1))

    def volume_ratio(self) -> np.ndarray:
        """(K,) volume in the test over volume in the reference; inf where the reference has none."""
        with np.errstate(divide="ignore"):
            return self.test.sum(1) / self.reference.sum(1)

    @property
    def worst_slices(self) -> list[int | None]:
        """For each label the slice with the most voxels that have it in one map only; None when there are none."""
        wrong = self.reference + self.test - 2 * self.both
        return [int(row.argmax()) if row.any() else None for row in wrong]

    @property
    def notes(self) -> list[str]:
        """For each label whether an empty-mask rule applied."""
        pairs = zip(self.reference, self.test, strict=True)
        return ["" if a.any() and b.any() else ONE_EMPTY for a, b in pairs]


def count(reference: LabelMap, test: LabelMap) -> Counts:
    """Count voxels by label in one pass over both maps.

    Args:
        reference, test: on equal grids.

    Raises:
        InputError: a label is below 0 or above 65535.
    """
    size = max(_largest(reference), _largest(test)) + 1
    table = np.zeros((3, len(reference.voxels), size), np.int64)
    for z, (a_YX, b_YX) in enumerate(zip(reference.voxels, test.voxels, strict=True)):
        for row, labels in zip(table[:, z], (a_YX, b_YX, a_YX[a_YX == b_YX]), strict=True):
            row += np.bincount(labels.ravel(), minlength=size)
    found = np.flatnonzero(table.any((0, 1)))
    found = found[found > 0]
    a, b, both = (each[:, found].T for each in table)
    return Counts(labels=found, reference=a, test=b, both=both)


def _largest(labels: LabelMap) -> int:
    least, largest = int(labels.voxels.min()), int(labels.voxels.max())
    if least < 0 or largest > 65535:
        raise InputError(
            f"Labels to compare are 0 to 65535; got {least} to {largest}. Convert the map to CTGen's numbers first."
        )
    return largest


# --- lesions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Lesion:
    """One connected lesion of the reference.

    Attributes:
        label: its class, one of :data:`LESIONS`.
        number: 1 for the largest of its class.
        volume_mm3: of the lesion.
        covered: share of its voxels that have its class in the test.
        volume_ratio: volume of the test's lesions of this class that touch it, over its own.
        slice: index along Z of its largest section.
    """

    label: int
    number: int
    volume_mm3: float
    covered: float
    volume_ratio: float
    slice: int

    @property
    def found(self) -> bool:
        """Whether enough of it is covered."""
        return self.covered >= COVERED

    @property
    def region(self) -> str:
        """Such as ``Pulmonary nodules/masses #2``."""
        return f"{name_of(self.label)} #{self.number}"

    @property
    def note(self) -> str:
        """Volume and coverage, for people."""
        return f"{self.volume_mm3:.3g} mm3, {self.covered:.0%} covered"


def lesion_labels(*maps: LabelMap) -> LabelMap:
    """Keep the lesions: tumors, cysts and disease classes (as 150..162, also where painted as 250..262).

    Args:
        maps: at least one, on one grid; where two have a lesion, the later one wins.

    Returns:
        Classes of :data:`LESIONS` and 0, uint8.
    """
    voxels = np.zeros(maps[0].shape, np.uint8)
    for labels in maps:
        lookup = np.zeros(max(263, _largest(labels) + 1), np.uint8)
        lookup[list(LESIONS)] = LESIONS
        lookup[[disease.map_value for disease in DISEASES.values()]] = list(DISEASES)
        for plane, ids in zip(voxels, labels.voxels, strict=True):
            found = lookup[ids]
            np.copyto(plane, found, where=found > 0)
    return LabelMap(voxels, maps[0].geometry)


def find_lesions(reference: LabelMap, test: LabelMap) -> Iterator[Lesion]:
    """Take the reference's lesions apart (26 neighbors) and look for each in the test.

    Args:
        reference, test: as :func:`lesion_labels` gives them.

    Yields:
        Lesions by class, the largest first.
    """
    from scipy import ndimage

    connected = np.ones((3, 3, 3), bool)
    voxel_mm3 = float(np.prod(reference.geometry.spacing_mm))
    for index, box in boxes_of(reference, test):
        lesions, n = ndimage.label(reference.voxels[box] == index, connected)
        others, _ = ndimage.label(test.voxels[box] == index, connected)
        sizes, other_sizes = (np.bincount(each.ravel()) for each in (lesions, others))
        shared = (lesions > 0) & (others > 0)
        covered = np.bincount(lesions[shared], minlength=n + 1)
        touching = np.unique(np.stack([lesions[shared], others[shared]]), axis=1)
        around = np.bincount(touching[0], other_sizes[touching[1]], minlength=n + 1)
        places = ndimage.find_objects(lesions)
        for number, k in enumerate(np.argsort(-sizes[1:], kind="stable") + 1, 1):
            sections = (lesions[places[k - 1]] == k).sum((1, 2))
            yield Lesion(
                label=index,
                number=number,
                volume_mm3=float(sizes[k]) * voxel_mm3,
                covered=float(covered[k] / sizes[k]),
                volume_ratio=float(around[k] / sizes[k]),
                slice=box[0].start + places[k - 1][0].start + int(sections.argmax()),
            )


def boxes_of(reference: LabelMap, test: LabelMap) -> Iterator[tuple[int, tuple[slice, slice, slice]]]:
    """Find the box (Z, Y, X) that holds a label in both maps, for each label that either has, ascending."""
    from scipy import ndimage

    found = [ndimage.find_objects(labels.voxels) for labels in (reference, test)]
    for index in range(max(map(len, found))):
        boxes = [each[index] for each in found if index < len(each) and each[index] is not None]
        if boxes:
            z, y, x = (slice(min(s.start for s in a), max(s.stop for s in a)) for a in zip(*boxes, strict=True))
            yield index + 1, (z, y, x)


# --- metrics ---------------------------------------------------------------------------------------------------------


def overlap_metrics(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """Overlap of every label, and as region ``all`` the mean over labels; of ``volume_ratio`` also of every lesion."""
    assert case.labels is not None
    assert case.test_labels is not None
    found = count(case.labels, case.test_labels)
    values = []
    for name in sorted(names):
        numbers = {"dice": found.dice, "jaccard": found.jaccard, "volume_ratio": found.volume_ratio}[name]()
        rows = [
            Value(name, float(number), name_of(int(label)), worst, note)
            for label, number, worst, note in zip(found.labels, numbers, found.worst_slices, found.notes, strict=True)
        ]
        if name == "volume_ratio":
            rows += [Value(name, les.volume_ratio, les.region, les.slice, les.note) for les in _lesions_of(case)]
        else:
            rows.append(mean_value(name, rows, empty=1.0))
        values += rows
    return values


def mean_value(name: str, values: Sequence[Value], empty: float) -> Value:
    """Mean over regions as region ``all``; where there is none, ``empty`` with a note."""
    if not values:
        return Value(name, empty, note="no label in either")
    missing = sum(value.note == ONE_EMPTY for value in values)
    note = f"{missing} of {len(values)} regions {ONE_EMPTY}" if missing else ""
    return Value(name, float(np.mean([value.value for value in values])), note=note)


def lesion_recall(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """Which lesions the test has: 1 or 0 for each, their share for each class and for ``all``."""
    lesions = _lesions_of(case)
    if not lesions:
        return [Value("lesion_recall", float("nan"), note="the reference has no lesion")]
    values = [Value("lesion_recall", float(les.found), les.region, les.slice, les.note) for les in lesions]
    for label in sorted({lesion.label for lesion in lesions}):
        values.append(_share([lesion for lesion in lesions if lesion.label == label], name_of(label)))
    return [*values, _share(lesions, "all")]


def _lesions_of(case: Case) -> list[Lesion]:
    assert case.test_labels is not None
    given = [labels for labels in (case.labels, case.diseases) if labels is not None]
    return list(find_lesions(lesion_labels(*given), lesion_labels(case.test_labels))) if given else []


def _share(lesions: Sequence[Lesion], region: str) -> Value:
    found = sum(lesion.found for lesion in lesions)
    return Value("lesion_recall", found / len(lesions), region, note=f"{found} of {len(lesions)} lesions")


METRICS = (
    Metric(
        name="dice",
        title="Dice",
        better="higher",
        needs=("labels", "test_labels"),
        function="overlap:overlap_metrics",
        source="Dice 1945: 2 |A and B| / (|A| + |B|). Label in one map only: 0; no label at all: 1.",
    ),
    Metric(
        name="jaccard",
        title="Jaccard",
        better="higher",
        needs=("labels", "test_labels"),
        function="overlap:overlap_metrics",
        source="Jaccard 1901: |A and B| / |A or B|. Label in one map only: 0; no label at all: 1.",
    ),
    Metric(
        name="volume_ratio",
        title="Volume, test over reference",
        needs=("labels", "test_labels"),
        function="overlap:overlap_metrics",
        source="1 is ideal. Label in the test only: inf. Of a lesion: the test's that touch it over its own volume.",
    ),
    Metric(
        name="lesion_recall",
        title="Lesions found",
        better="higher",
        needs=("test_labels",),
        function="overlap:lesion_recall",
        source=(
            "CTGen: components (26 neighbors) of tumors, cysts and disease classes in labels and diseases; found when "
            f"at least {COVERED:.0%} of the voxels have the same class in test_labels."
        ),
    ),
)
