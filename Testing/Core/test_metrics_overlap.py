"""Overlap against set arithmetic and closed forms, lesions against scikit-image."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.metrics.base import Case, Context, Value
from ctgencore.metrics.overlap import count, find_lesions, lesion_labels, lesion_recall, overlap_metrics
from ctgencore.volume import LabelMap, Volume
from skimage import measure

NAMES = frozenset({"dice", "jaccard", "volume_ratio"})
CONTEXT = Context(features=lambda *_: np.empty(0))


def label_map(voxels: np.ndarray, spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> LabelMap:
    return LabelMap(voxels, Geometry(voxels.shape[::-1], spacing_mm))


def noise(seed: int, labels: tuple[int, ...] = (0, 1, 3, 200)) -> LabelMap:
    return label_map(np.random.default_rng(seed).choice(np.array(labels, np.uint8), (5, 8, 9)))


def case_of(reference: LabelMap | None, test: LabelMap, diseases: LabelMap | None = None) -> Case:
    ct = Volume(np.zeros(test.shape), test.geometry)
    return Case(name="case", test=ct, labels=reference, test_labels=test, diseases=diseases)


def rows(values: list[Value]) -> dict[tuple[str, str], Value]:
    found = {(value.metric, value.region): value for value in values}
    assert len(found) == len(values)
    return found


def test_against_set_arithmetic() -> None:
    reference, test = noise(0), noise(1, (0, 1, 3, 7))
    found = count(reference, test)
    assert found.labels.tolist() == [1, 3, 7, 200]
    for label, dice, jaccard, ratio, worst in zip(
        found.labels, found.dice(), found.jaccard(), found.volume_ratio(), found.worst_slices, strict=True
    ):
        a, b = (set(map(tuple, np.argwhere(labels.voxels == label).tolist())) for labels in (reference, test))
        assert dice == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
        assert jaccard == pytest.approx(len(a & b) / len(a | b))
        assert ratio == (pytest.approx(len(b) / len(a)) if a else math.inf)
        wrong = [sum(point[0] == z for point in a ^ b) for z in range(5)]
        assert worst is not None
        assert wrong[worst] == max(wrong)
    np.testing.assert_allclose(found.jaccard(), found.dice() / (2 - found.dice()))


def test_identity_and_symmetry() -> None:
    a, b = noise(2), noise(3)
    same = count(a, a)
    assert (same.dice() == 1).all()
    assert (same.jaccard() == 1).all()
    assert (same.volume_ratio() == 1).all()
    assert same.worst_slices == [None] * 3
    np.testing.assert_array_equal(count(a, b).dice(), count(b, a).dice())
    np.testing.assert_allclose(count(a, b).volume_ratio(), 1 / count(b, a).volume_ratio())


def test_shifted_boxes() -> None:
    a, b = np.zeros((2, 10, 10, 10), np.uint8)
    a[2:8, 2:8, 2:8] = 1
    b[2:8, 2:8, 4:10] = 1
    values = rows(overlap_metrics(case_of(label_map(a), label_map(b)), NAMES, CONTEXT))
    assert set(values) == {*((n, "liver") for n in NAMES), ("dice", "all"), ("jaccard", "all")}
    assert values["dice", "liver"].value == pytest.approx(4 / 6)
    assert values["jaccard", "liver"].value == pytest.approx(4 / 8)
    assert values["volume_ratio", "liver"].value == 1
    b[5] = 0  # the worst slice is where the box is missing
    values = rows(overlap_metrics(case_of(label_map(a), label_map(b)), NAMES, CONTEXT))
    assert values["volume_ratio", "liver"].value == pytest.approx(5 / 6)
    assert values["dice", "liver"].slice == 5


def test_rules_for_empty_masks() -> None:
    a, b = np.zeros((2, 4, 8, 8), np.uint8)
    values = rows(overlap_metrics(case_of(label_map(a), label_map(b)), NAMES, CONTEXT))
    assert values["dice", "all"].value == values["jaccard", "all"].value == 1
    assert values["dice", "all"].note == "no label in either"
    a[1, 2:5, 2:5] = 1
    b[1, 2:5, 2:5] = 3
    values = rows(overlap_metrics(case_of(label_map(a), label_map(b)), NAMES, CONTEXT))
    assert values["dice", "liver"].value == values["dice", "spleen"].value == values["jaccard", "all"].value == 0
    assert values["volume_ratio", "liver"].value == 0
    assert values["volume_ratio", "spleen"].value == math.inf
    assert values["dice", "spleen"].note == "in one of the two only"
    assert values["dice", "all"].note == "2 of 2 regions in one of the two only"


def test_numbers_that_are_no_labels() -> None:
    with pytest.raises(InputError, match=r"0 to 65535; got -1 to -1"):
        count(label_map(np.full((2, 2, 2), -1, np.int16)), label_map(np.zeros((2, 2, 2), np.int16)))


# --- lesions ---------------------------------------------------------------------------------------------------------


def nodules() -> tuple[np.ndarray, np.ndarray]:
    """Three nodules of 64, 27 and 8 voxels; the test has the first whole, 2 voxels of the second, none of the third."""
    reference, test = np.zeros((2, 16, 24, 24), np.uint8)
    reference[2:6, 2:6, 2:6] = 161
    reference[8:11, 12:15, 12:15] = 161
    reference[13:15, 20:22, 2:4] = 161
    test[2:6, 2:6, 2:6] = 161
    test[8, 12, 12:14] = 161
    return reference, test


def test_lesions_of_known_size() -> None:
    reference, test = nodules()
    large, middle, small = find_lesions(label_map(reference, (0.5, 1.0, 2.0)), label_map(test, (0.5, 1.0, 2.0)))
    assert [lesion.number for lesion in (large, middle, small)] == [1, 2, 3]
    assert [lesion.volume_mm3 for lesion in (large, middle, small)] == [64, 27, 8]
    assert [lesion.covered for lesion in (large, middle, small)] == [1, pytest.approx(2 / 27), 0]
    assert [lesion.found for lesion in (large, middle, small)] == [True, False, False]  # 7 % are not enough
    assert [lesion.volume_ratio for lesion in (large, middle, small)] == [1, pytest.approx(2 / 27), 0]
    assert [lesion.slice for lesion in (large, middle, small)] == [2, 8, 13]
    assert middle.region == "Pulmonary nodules/masses #2"


def test_lesions_against_scikit_image() -> None:
    rng = np.random.default_rng(5)
    reference, test = (np.where(rng.random((12, 20, 20)) < 0.04, 150, 0).astype(np.uint8) for _ in range(2))
    reference[rng.random(reference.shape) < 0.02] = 26
    for label in (26, 150):
        found = [lesion for lesion in find_lesions(label_map(reference), label_map(test)) if lesion.label == label]
        theirs = measure.regionprops(measure.label(reference == label, connectivity=3))
        assert sorted(lesion.volume_mm3 for lesion in found) == sorted(region.area for region in theirs)
        sizes = [lesion.volume_mm3 for lesion in found]
        assert sizes == sorted(sizes, reverse=True)
        covered = sum(lesion.covered * lesion.volume_mm3 for lesion in found)
        assert covered == pytest.approx(np.count_nonzero((reference == label) & (test == label)))


def test_a_lesion_that_grew_or_merged() -> None:
    reference, test = np.zeros((2, 8, 12, 12), np.uint8)
    reference[3:5, 3:5, 2:4] = reference[3:5, 3:5, 7:9] = 161
    test[3:5, 3:5, 2:9] = 161  # one bridge over both
    pair = list(find_lesions(label_map(reference), label_map(test)))
    assert [lesion.volume_ratio for lesion in pair] == [28 / 8, 28 / 8]
    assert all(lesion.found for lesion in pair)


def test_lesions_may_come_in_any_of_the_maps() -> None:
    reference, test = nodules()
    organs = np.where(reference > 0, 30, 0).astype(np.uint8)
    organs[0, 0, :3] = 26
    painted = np.where(test > 0, 261, 0).astype(np.int16)
    merged = lesion_labels(label_map(organs), label_map(reference))
    np.testing.assert_array_equal(merged.voxels == 161, reference == 161)
    assert set(np.unique(merged.voxels)) == {0, 26, 161}
    np.testing.assert_array_equal(lesion_labels(label_map(painted)).voxels, test)
    names = frozenset({"lesion_recall"})
    case = case_of(label_map(organs), label_map(painted), label_map(reference))
    values = rows(lesion_recall(case, names, CONTEXT))
    nodule = "Pulmonary nodules/masses"
    assert values["lesion_recall", "all"].value == 1 / 4
    assert values["lesion_recall", "all"].note == "1 of 4 lesions"
    assert values["lesion_recall", nodule].value == pytest.approx(1 / 3)
    assert [values["lesion_recall", f"{nodule} #{k}"].value for k in (1, 2, 3)] == [1, 0, 0]
    assert values["lesion_recall", "hepatic tumor #1"].value == 0
    ratios = rows(overlap_metrics(case, frozenset({"volume_ratio"}), CONTEXT))
    assert ratios["volume_ratio", f"{nodule} #2"].value == pytest.approx(2 / 27)
    assert ratios["volume_ratio", f"{nodule} #2"].note == "27 mm3, 7% covered"


def test_no_lesion_at_all() -> None:
    nothing = label_map(np.zeros((4, 8, 8), np.uint8))
    for case in (case_of(nothing, nothing, nothing), case_of(None, nothing)):
        [value] = lesion_recall(case, frozenset({"lesion_recall"}), CONTEXT)
        assert math.isnan(value.value)
        assert value.note == "the reference has no lesion"
