"""Distances between the surfaces of two segmentations, in mm.

A surface is made of the elements ("surfels") that marching cubes draws between eight neighboring voxels: one element
at each corner of the voxel grid whose eight voxels are neither all inside nor all outside. Each counts by its area.
This is how DeepMind's ``surface-distance`` measures (Nikolov et al. 2018, arXiv:1809.04430), and the numbers are the
same; the areas are computed here, and nearest elements are found by a k-d tree of the surface instead of a distance map
of the whole box.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import cast

import numpy as np

from ..labels import name_of
from ..volume import LabelMap
from .base import Case, Context, Metric, Value
from .overlap import ONE_EMPTY, boxes_of, mean_value

PERCENT = 95.0  # of the robust Hausdorff distance
LEAF = 32  # points per leaf of the k-d tree: the fastest of 8, 16 and 32 on an organ
NEAR_STEPS = 6.0  # the tree finds at once what lies within so many voxels (of their longest side)
FAR_VOXELS = 1000  # finding one further away may cost as much as a distance map of so many voxels

BOTH_EMPTY = "empty in both"

_Point = tuple[int, int, int]
_CORNERS: tuple[_Point, ...] = tuple(product((0, 1), repeat=3))  # type: ignore[arg-type]  # bit n of a code: corner n


@dataclass(frozen=True, kw_only=True, slots=True)
class Surface:
    """Elements of one surface and how far the other surface is.

    Attributes:
        distances: (n,) float64, mm to the nearest element of the other surface; inf when there is none.
        areas: (n,) float64, mm^2.
        slices: (n,) index along Z of the mask's voxels that the element touches, the lower of two.
    """

    distances: np.ndarray
    areas: np.ndarray
    slices: np.ndarray

    @property
    def area(self) -> float:
        """Of the whole surface, mm^2."""
        return float(self.areas.sum())

    def percentile(self, percent: float) -> float:
        """Distance in mm that ``percent`` % of the area does not exceed; nan for an empty surface."""
        if not self.distances.size:
            return float("nan")
        order = np.argsort(self.distances, kind="stable")
        share = np.cumsum(self.areas[order]) / self.areas.sum()
        return float(self.distances[order[min(int(np.searchsorted(share, percent / 100)), len(order) - 1)]])


@dataclass(frozen=True, kw_only=True, slots=True)
class Surfaces:
    """The surfaces of two masks: what all distance metrics are computed from.

    Where a mask is empty: both, NSD is 1 and distances are nan; one of them, NSD is 0 and distances are inf.

    Attributes:
        reference: its surface, with distances to the test's.
        test: its surface, with distances to the reference's.
    """

    reference: Surface
    test: Surface

    @property
    def note(self) -> str:
        """Which empty-mask rule applied, or an empty text."""
        sizes = {self.reference.distances.size > 0, self.test.distances.size > 0}
        return "" if sizes == {True} else ONE_EMPTY if True in sizes else BOTH_EMPTY

    @property
    def worst_slice(self) -> int | None:
        """Index along Z where the surfaces are furthest apart, the middle of the one when the other is empty."""
        distances = np.concatenate([self.reference.distances, self.test.distances])
        slices = np.concatenate([self.reference.slices, self.test.slices])
        if not distances.size or distances.max() == 0:
            return None
        if np.isinf(distances).any():
            return int(slices.min() + slices.max()) // 2
        return int(slices[distances.argmax()])

    def nsd(self, tolerance_mm: float) -> float:
        """Normalized surface Dice: share of both areas that lies within ``tolerance_mm`` of the other surface."""
        area = self.reference.area + self.test.area
        near = sum(float(s.areas[s.distances <= tolerance_mm].sum()) for s in (self.reference, self.test))
        return near / area if area else 1.0

    def hausdorff(self, percent: float = PERCENT) -> float:
        """Larger of the two directed percentiles of distance, by area, in mm."""
        return self._defined(max(self.reference.percentile(percent), self.test.percentile(percent)))

    def average(self) -> float:
        """Mean distance from the test's surface to the reference's, by area, in mm."""
        return self._defined(_mean(self.test))

    def average_symmetric(self) -> float:
        """Mean distance of all elements of both surfaces, by area, in mm."""
        return self._defined(_mean(self.reference, self.test))

    def _defined(self, value: float) -> float:
        return {BOTH_EMPTY: float("nan"), ONE_EMPTY: float("inf")}.get(self.note, value)


def _mean(*surfaces: Surface) -> float:
    area = sum(s.area for s in surfaces)
    return sum(float(s.distances @ s.areas) for s in surfaces) / area if area else float("nan")


def mask_surfaces(reference: np.ndarray, test: np.ndarray, spacing_zyx: Sequence[float]) -> Surfaces:
    """Compare the surfaces of two masks.

    Args:
        reference, test: (Z, Y, X) bool, equal shapes. What touches the border of the array ends there.
        spacing_zyx: mm.

    Returns:
        Both surfaces with their distances.
    """
    from scipy import ndimage

    [box] = ndimage.find_objects((reference | test).view(np.uint8)) or [(slice(0, 0),) * 3]
    return _surfaces(reference[box], test[box], spacing_zyx, box[0].start)


def label_surfaces(reference: LabelMap, test: LabelMap) -> Iterator[tuple[int, Surfaces]]:
    """Compare the surfaces of every label that either map has, each in the box that holds it.

    Args:
        reference, test: on equal grids; 0 is background.

    Yields:
        Label and its surfaces, by ascending label.
    """
    for index, box in boxes_of(reference, test):
        a, b = (labels.voxels[box] == index for labels in (reference, test))
        yield index, _surfaces(a, b, reference.geometry.spacing_zyx, box[0].start)


def _surfaces(reference: np.ndarray, test: np.ndarray, spacing_zyx: Sequence[float], first: int) -> Surfaces:
    """Of masks cut to their box, whose slice 0 is slice ``first``."""
    areas = element_areas(*map(float, spacing_zyx))
    codes = [_codes(mask) for mask in (reference, test)]
    edges = [code + np.uint8(1) > 1 for code in codes]  # neither 0 nor 255
    points = [np.argwhere(edge) for edge in edges]
    sides = []
    for this, other in ((0, 1), (1, 0)):
        distances = np.zeros(len(points[this]))
        apart = ~edges[other][edges[this]]
        distances[apart] = _nearest(points[this][apart], edges[other], np.asarray(spacing_zyx, float))
        patterns = codes[this][edges[this]]
        slices = points[this][:, 0] + first - (patterns & 15 > 0)  # corner n lies between voxels n - 1 and n
        sides.append(Surface(distances=distances, areas=areas[patterns], slices=slices))
    return Surfaces(reference=sides[0], test=sides[1])


def _codes(mask: np.ndarray) -> np.ndarray:
    """Which of the eight voxels around each corner of the grid are inside: (Z+1, Y+1, X+1) uint8, bits by _CORNERS."""
    code: np.ndarray = np.pad(mask.view(np.uint8), 1)
    code = code[:, :, :-1] | code[:, :, 1:] << 1
    code = code[:, :-1] | code[:, 1:] << 2
    return code[:-1] | code[1:] << 4


def _nearest(points: np.ndarray, edge: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Distance in mm from each of the grid points (n, 3) to the nearest True of ``edge``; inf when there is none."""
    from scipy import ndimage
    from scipy.spatial import cKDTree

    others = np.argwhere(edge)
    if not len(points) or not len(others):
        return np.full(len(points), np.inf)
    tree = cKDTree(others * spacing, leafsize=LEAF, balanced_tree=False)  # grid points: medians hardly split them
    index = tree.query(points * spacing, distance_upper_bound=NEAR_STEPS * spacing.max())[1]
    far = index == len(others)
    found = others[np.where(far, 0, index)]
    if np.count_nonzero(far) * FAR_VOXELS > edge.size:
        nearest = ndimage.distance_transform_edt(~edge, spacing, return_distances=False, return_indices=True)
        found[far] = nearest[(slice(None), *points[far].T)].T
    elif far.any():
        found[far] = others[tree.query(points[far] * spacing)[1]]
    return np.sqrt(np.square((points - found) * spacing).sum(1))  # of whole steps: equal distances come out equal


# --- areas of surface elements ---------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def element_areas(z_mm: float, y_mm: float, x_mm: float) -> np.ndarray:
    """Area in mm^2 of the element for each of the 256 patterns of eight voxels, (256,).

    Marching cubes as published (Lorensen & Cline 1987): a polygon through the midpoints of the edges that cross the
    surface; on a face with two diagonal pairs, the corners of the rarer kind are cut off one by one. A polygon is cut
    into triangles so that its area on a cubic grid is the largest. A pattern and its inverse have the same area.
    """
    scale = np.array([y_mm * x_mm, z_mm * x_mm, z_mm * y_mm])
    areas = np.array([np.linalg.norm(normals * scale, axis=1).sum() for normals in _element_normals()])
    areas.setflags(write=False)
    return areas


@lru_cache(maxsize=1)
def _element_normals() -> tuple[np.ndarray, ...]:
    """For each pattern the normals of its triangles, (n, 3), as long as their areas on a grid of 1 mm."""
    found = []
    for code in range(256):
        inside = {corner for bit, corner in enumerate(_CORNERS) if code >> bit & 1}
        rarer = inside if len(inside) <= 4 else set(_CORNERS) - inside
        triangles = [normal for loop in _loops(rarer) for normal in _cut(loop)[1]]
        found.append(np.array(triangles).reshape(-1, 3))
    return tuple(found)


def _faces() -> Iterator[list[_Point]]:
    """The four corners of each face of the cube, counterclockwise seen from outside."""
    for axis, side in product(range(3), (0, 1)):
        corners = []
        for first, second in ((0, 0), (1, 0), (1, 1), (0, 1)):
            corner = [0, 0, 0]
            corner[axis], corner[(axis + 1) % 3], corner[(axis + 2) % 3] = side, first, second
            corners.append((corner[0], corner[1], corner[2]))
        yield corners if side else corners[::-1]


def _loops(chosen: set[_Point]) -> list[list[np.ndarray]]:
    """Polygons that cut the chosen corners off the cube; points in half steps, so that midpoints are whole numbers."""

    def middle(a: _Point, b: _Point) -> _Point:
        return a[0] + b[0], a[1] + b[1], a[2] + b[2]

    following = {}
    for face in _faces():
        for n in range(4):
            if face[n] in chosen and face[n - 1] not in chosen:  # a run of chosen corners starts
                last = n
                while face[(last + 1) % 4] in chosen:
                    last += 1
                following[middle(face[n - 1], face[n])] = middle(face[last % 4], face[(last + 1) % 4])
    loops = []
    while following:
        start, point = following.popitem()
        loop = [start]
        while point != start:
            loop.append(point)
            point = following.pop(point)
        loops.append([np.array(each) / 2 for each in loop])
    return loops


def _cut(loop: list[np.ndarray]) -> tuple[float, list[np.ndarray]]:
    """Area and triangle normals of a polygon, cut so that the area is the largest."""
    if len(loop) < 3:
        return 0.0, []
    cuts = []
    for n in range(1, len(loop) - 1):
        normal = np.cross(loop[n] - loop[0], loop[-1] - loop[0]) / 2
        (area, before), (more, after) = _cut(loop[: n + 1]), _cut(loop[n:])
        cuts.append((area + more + float(np.linalg.norm(normal)), [*before, *after, normal]))
    return max(cuts, key=lambda cut: cut[0])


# --- metrics ---------------------------------------------------------------------------------------------------------


def surface_metrics(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """Surface metrics of every label, and their mean over labels as region ``all``."""
    assert case.labels is not None
    assert case.test_labels is not None
    tolerance = float(cast(float, context.options["tolerance_mm"]))
    found: dict[str, list[Value]] = {name: [] for name in names}
    for index, surfaces in label_surfaces(case.labels, case.test_labels):
        for name in names:
            value = _NUMBERS[name](surfaces, tolerance)
            found[name].append(Value(name, value, name_of(index), surfaces.worst_slice, surfaces.note))
    nothing = Surfaces(**dict.fromkeys(("reference", "test"), Surface(**dict.fromkeys(Surface.__slots__, np.empty(0)))))
    return [
        value
        for name, values in found.items()
        for value in [*values, mean_value(name, values, _NUMBERS[name](nothing, tolerance))]
    ]


_NUMBERS = {
    "nsd": Surfaces.nsd,
    "hd95_mm": lambda surfaces, _: surfaces.hausdorff(),
    "asd_mm": lambda surfaces, _: surfaces.average(),
    "assd_mm": lambda surfaces, _: surfaces.average_symmetric(),
}
_SOURCE = "Nikolov et al. 2018 (arXiv:1809.04430), equal to DeepMind's surface-distance. "

METRICS = tuple(
    Metric(
        name=name,
        title=title,
        unit=unit,
        better="lower" if unit else "higher",
        needs=("labels", "test_labels"),
        function="surface:surface_metrics",
        source=_SOURCE + rule,
    )
    for name, title, unit, rule in (
        ("nsd", "Surface Dice", "", "At the option tolerance_mm. Label in one map only: 0; in neither: 1."),
        ("hd95_mm", "Hausdorff distance, 95 %", "mm", "Larger of both directions. Label in one map only: inf."),
        ("asd_mm", "Surface distance, test to reference", "mm", "Mean by area. Label in one map only: inf."),
        ("assd_mm", "Surface distance, symmetric", "mm", "Mean by area of both. Label in one map only: inf."),
    )
)
