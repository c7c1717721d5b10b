"""Surface distances against DeepMind's surface-distance, closed forms, and properties that any distance has."""

from __future__ import annotations

import math

import numpy as np
import pytest
from ctgencore.geometry import Geometry
from ctgencore.metrics import surface
from ctgencore.metrics.base import Case, Context, Value
from ctgencore.metrics.surface import Surfaces, element_areas, label_surfaces, mask_surfaces, surface_metrics
from ctgencore.volume import LabelMap, Volume
from scipy import ndimage

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 0.7, 0.9), (0.5, 3.0, 1.25)]
NAMES = ("nsd", "hd95_mm", "asd_mm", "assd_mm")


def blob(seed: int, shape: tuple[int, int, int] = (17, 22, 19), threshold: float = 0.0) -> np.ndarray:
    """A ragged random mask that touches every side of its array."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return ndimage.gaussian_filter(noise, 1.2, mode="nearest") > threshold


def ball(radius_mm: float, spacing: tuple[float, float, float], reach_mm: float = 26.0) -> np.ndarray:
    axes = [np.arange(-int(reach_mm / mm), int(reach_mm / mm) + 1) * mm for mm in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return z**2 + y**2 + x**2 <= radius_mm**2


def numbers(found: Surfaces, tolerance: float = 1.0) -> list[float]:
    return [found.nsd(tolerance), found.hausdorff(), found.average(), found.average_symmetric()]


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # the peer's own
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("seed", range(4))
def test_against_deepmind(seed: int, spacing: tuple[float, float, float]) -> None:
    peer = pytest.importorskip("surface_distance")
    a, b = blob(seed), blob(seed + 100, threshold=0.05 * seed)
    if seed == 3:  # one voxel in a corner of the array, and a thing far away
        a, b = np.zeros_like(a), np.zeros_like(b)
        a[0, 0, -1] = True
        b[-4:, -3:, :3] = True
    found = mask_surfaces(a, b, spacing)
    theirs = peer.compute_surface_distances(a, b, spacing)
    for ours, distances, areas in (
        (found.reference, theirs["distances_gt_to_pred"], theirs["surfel_areas_gt"]),
        (found.test, theirs["distances_pred_to_gt"], theirs["surfel_areas_pred"]),
    ):
        order = np.lexsort((ours.areas, ours.distances))
        np.testing.assert_allclose(ours.distances[order], distances, rtol=1e-12)
        assert ours.areas.sum() == pytest.approx(areas.sum(), rel=1e-12)
        assert ours.distances @ ours.areas == pytest.approx(distances @ areas, rel=1e-12)
    for tolerance in (0.0, 0.7, 1.0, 2.5, 6.0):
        want = peer.compute_surface_dice_at_tolerance(theirs, tolerance)
        assert found.nsd(tolerance) == pytest.approx(want, abs=1e-12), tolerance
    for percent in (50, 95, 100):
        assert found.hausdorff(percent) == pytest.approx(peer.compute_robust_hausdorff(theirs, percent), rel=1e-12)
    assert found.average() == pytest.approx(peer.compute_average_surface_distance(theirs)[1], rel=1e-12)


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")
@pytest.mark.parametrize("far_voxels", [0, 10**9], ids=["by distance map", "by tree"])
def test_far_surfaces_against_deepmind(far_voxels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = pytest.importorskip("surface_distance")
    monkeypatch.setattr(surface, "FAR_VOXELS", far_voxels)
    a, b = np.zeros((2, 30, 26, 28), bool)
    a[1:12, 2:20, 3:9] = blob(11, (11, 18, 6))
    b[8:29, 10:25, 7:27] = blob(12, (21, 15, 20), 0.4)
    found = mask_surfaces(a, b, (2.5, 0.7, 0.9))
    assert found.hausdorff(100) > surface.NEAR_STEPS * 2.5
    theirs = peer.compute_surface_distances(a, b, (2.5, 0.7, 0.9))
    for ours, distances in (
        (found.reference, theirs["distances_gt_to_pred"]),
        (found.test, theirs["distances_pred_to_gt"]),
    ):
        np.testing.assert_allclose(np.sort(ours.distances), distances, rtol=1e-12)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_areas_of_all_patterns_against_deepmind(spacing: tuple[float, float, float]) -> None:
    tables = pytest.importorskip("surface_distance.lookup_tables")
    theirs = tables.create_table_neighbour_code_to_surface_area(spacing)
    bits = tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL.ravel()  # corners in the order of ours
    codes = [sum(int(bit) for n, bit in enumerate(bits) if code >> n & 1) for code in range(256)]
    assert sorted(codes) == list(range(256))
    np.testing.assert_allclose(element_areas(*spacing), theirs[codes], rtol=1e-12)


def test_areas_in_closed_form() -> None:
    areas = element_areas(2.0, 3.0, 5.0)
    assert areas[0] == areas[255] == 0
    assert areas[0b00001111] == pytest.approx(15)  # a plane between two slices: one voxel face
    assert areas[0b01010101] == pytest.approx(6)
    corner = 0.5 * math.sqrt((1.5 * 2.5) ** 2 + (1 * 2.5) ** 2 + (1 * 1.5) ** 2)  # triangle of half steps 1, 1.5, 2.5
    assert areas[1] == pytest.approx(corner)
    assert areas[0b10000001] == pytest.approx(2 * corner)  # two opposite corners are cut off one by one
    np.testing.assert_allclose(areas, areas[::-1])  # a pattern and its inverse


@pytest.mark.parametrize("spacing", SPACINGS)
def test_boxes_that_lie_apart(spacing: tuple[float, float, float]) -> None:
    a, b = np.zeros((2, 12, 14, 16), bool)
    a[1:11, 2:12, 3:6] = True
    b[1:11, 2:12, 10:13] = True  # seven columns further
    found = mask_surfaces(a, b, spacing)
    shift = spacing[2] * np.array([4, 5, 6, 7])  # gap between the faces, then one voxel more for each layer
    assert sorted({round(d, 9) for d in found.test.distances}) == [round(s, 9) for s in shift]
    assert found.hausdorff(100) == pytest.approx(shift[-1])
    assert found.test.area == pytest.approx(found.reference.area)
    assert found.nsd(float(shift[0]) * 0.999) == 0
    assert found.nsd(float(shift[-1]) * 1.001) == 1
    assert found.average() == pytest.approx(found.average_symmetric())


def test_slab_moved_by_one_slice() -> None:
    a, b = np.zeros((2, 12, 6, 6), bool)
    a[3:7] = b[4:8] = True
    found = mask_surfaces(a, b, (5.0, 1.0, 1.0))
    # The lower plane is a slice away; the upper one lies in the other slab, up to three columns from its sides.
    assert set(found.reference.distances) == {0.0, 1.0, 2.0, 3.0, 5.0}
    assert found.hausdorff(100) == 5.0
    assert found.worst_slice == 3
    # 7 x 7 points in the lower plane: 25 inner ones of 1 mm2, 20 on edges and 4 corners, as computed by hand
    apart = found.reference.areas[found.reference.distances == 5.0]
    assert len(apart) == 49
    assert apart.max() == pytest.approx(math.hypot(0.5, 2.5))  # an edge: half of a side and of the plane, cut off
    assert np.count_nonzero(np.isclose(apart, 1.0)) == 25


@pytest.mark.parametrize("shape", [(1.0, 1.0, 1.0), (2.0, 0.8, 1.0)])
def test_concentric_spheres(shape: tuple[float, float, float]) -> None:
    """Elements lie up to a voxel off the true surface, so that distances fall short by a part of a voxel."""
    short = []
    for scale in (1.0, 0.5):
        spacing = tuple(mm * scale for mm in shape)
        found = mask_surfaces(ball(18, spacing), ball(22, spacing), spacing)
        short.append(4 - found.average_symmetric())
        assert 0 < short[-1] < np.linalg.norm(spacing) / 2
        assert abs(found.hausdorff() - 4) < np.linalg.norm(spacing) / 2
        assert found.nsd(4 - np.linalg.norm(spacing)) < 0.01
        assert found.nsd(4 + np.linalg.norm(spacing)) == 1
        assert found.test.area / found.reference.area == pytest.approx((22 / 18) ** 2, rel=0.02)
        assert 1 < found.test.area / (4 * math.pi * 22**2) < 1.15  # voxels leave steps on a sphere
    assert short[1] == pytest.approx(short[0] / 2, rel=0.15)  # and converge


def test_identity_symmetry_and_scaling() -> None:
    a, b = blob(7), blob(8)
    same = mask_surfaces(a, a, (2.0, 1.0, 0.5))
    assert numbers(same) == [1.0, 0.0, 0.0, 0.0]
    assert same.nsd(0.0) == 1.0
    assert same.worst_slice is None
    there, back = (mask_surfaces(*pair, (2.0, 1.0, 0.5)) for pair in ((a, b), (b, a)))
    for method in (lambda s: s.nsd(1.1), Surfaces.hausdorff, Surfaces.average_symmetric):
        assert method(there) == pytest.approx(method(back), rel=1e-12)
    bigger = mask_surfaces(a, b, (6.0, 3.0, 1.5))
    assert bigger.nsd(3.3) == pytest.approx(there.nsd(1.1), rel=1e-12)
    np.testing.assert_allclose(numbers(bigger)[1:], 3 * np.array(numbers(there)[1:]), rtol=1e-12)
    turned = mask_surfaces(np.flip(a.transpose(2, 0, 1), 1), np.flip(b.transpose(2, 0, 1), 1), (0.5, 2.0, 1.0))
    np.testing.assert_allclose(numbers(turned), numbers(there), rtol=1e-12)
    padded = mask_surfaces(np.pad(a, 3), np.pad(b, 3), (2.0, 1.0, 0.5))  # the border of the array is a border
    np.testing.assert_allclose(numbers(padded), numbers(there), rtol=1e-12)


def test_empty_masks() -> None:
    empty, full = np.zeros((5, 6, 7), bool), np.ones((5, 6, 7), bool)
    both = mask_surfaces(empty, empty, (1, 1, 1))
    assert both.nsd(1) == 1
    assert np.isnan(numbers(both)[1:]).all()
    assert both.note == "empty in both"
    for pair in ((empty, full), (full, empty)):
        one = mask_surfaces(*pair, (1, 1, 1))
        assert numbers(one) == [0.0, math.inf, math.inf, math.inf]
        assert one.note == "in one of the two only"
        assert one.worst_slice == 2


def test_labels_of_a_map_are_measured_one_by_one() -> None:
    rng = np.random.default_rng(3)
    reference = np.where(blob(1), 0, np.repeat(np.array([1, 5, 200], np.uint8), [6, 7, 6])[None, None])
    test = np.where(rng.random(reference.shape) < 0.03, 0, reference)
    test[test == 5] = 7
    geometry = Geometry((19, 22, 17), (0.9, 0.7, 2.5))
    found = dict(label_surfaces(LabelMap(reference, geometry), LabelMap(test, geometry)))
    assert sorted(found) == [1, 5, 7, 200]
    for label, surfaces in found.items():
        alone = mask_surfaces(reference == label, test == label, (2.5, 0.7, 0.9))
        assert numbers(surfaces) == numbers(alone)
        assert surfaces.worst_slice == alone.worst_slice


def test_worst_slice_is_where_the_error_is() -> None:
    a = np.zeros((20, 16, 16), bool)
    a[2:18, 4:12, 4:12] = True
    b = a.copy()
    b[13, 4:12, 4:16] = True  # a shelf on slice 13
    assert mask_surfaces(a, b, (1, 1, 1)).worst_slice == 13


def measured(reference: np.ndarray, test: np.ndarray, tolerance: float = 2.0) -> dict[tuple[str, str], Value]:
    geometry = Geometry(reference.shape[::-1], (1.0, 1.0, 3.0))
    case = Case(
        name="case",
        test=Volume(np.zeros(reference.shape), geometry),
        labels=LabelMap(reference, geometry),
        test_labels=LabelMap(test, geometry),
    )
    context = Context(options={"tolerance_mm": tolerance}, features=lambda *_: np.empty(0))
    return {(v.metric, v.region): v for v in surface_metrics(case, frozenset(NAMES), context)}


def test_rows() -> None:
    reference, test = np.zeros((2, 9, 12, 12), np.uint8)
    reference[2:6, 2:9, 2:9] = 1
    test[3:7, 2:9, 2:9] = 1
    values = measured(reference, test)
    assert set(values) == {(name, region) for name in NAMES for region in ("liver", "all")}
    assert values["hd95_mm", "liver"].value == values["hd95_mm", "all"].value == 3.0
    assert values["nsd", "liver"].slice is not None
    assert measured(reference, test, tolerance=3.0)["nsd", "liver"].value == 1.0
    assert 0 < values["nsd", "liver"].value < 1
    test[0, 0, 0] = 3
    values = measured(reference, test)
    assert values["nsd", "spleen"].value == 0
    assert values["hd95_mm", "spleen"].value == math.inf
    assert values["hd95_mm", "all"].note == "1 of 2 regions in one of the two only"
    values = measured(np.zeros_like(test), np.zeros_like(test))
    assert values["nsd", "all"].value == 1
    assert math.isnan(values["assd_mm", "all"].value)
    assert values["assd_mm", "all"].note
