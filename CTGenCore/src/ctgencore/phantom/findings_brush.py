"""Painting on a scene in mm: boxes, soft edges, noise and places that do not depend on the grid."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from scipy import ndimage

from ..labels import AIRWAY, TRACHEA, VESSEL
from ..labels import LUNG_LOBES as LOBES
from .findings_fields import Distance, capsules, ellipsoid, fullest, hashed, linear, separable, spline
from .scene import Scene, Tube

LEFT_LOBES, RIGHT_LOBES = LOBES[:2], LOBES[2:]
STEP_MM = 4.0  # of the coarse lattice on which distances and places are worked out
FINE_MM = 1.3  # shapes are sampled at least this finely, whatever the voxels
SLAB_VOXELS = 2_000_000
SAMPLES = 500  # voxels remembered of each part of a mask

Box = tuple[slice, slice, slice]


def lobes_of(side: str, lobe: int = 0) -> tuple[int, ...]:
    """Lobe ids that a side and a lobe mean."""
    if lobe:
        return (lobe,)
    return {"left": LEFT_LOBES, "right": RIGHT_LOBES}.get(side, LOBES)


class Brush:
    """A scene with its axes in mm and what is known about its lungs."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        x, y, z = scene.axes_mm()
        self.axes = (x.ravel(), y.ravel(), z.ravel())
        self.spacing = np.array(scene.geometry.spacing_mm)
        self.marked: list[np.ndarray] = []
        self.edge = np.float32(max(self.spacing[:2].mean(), 0.8))

    # --- where -------------------------------------------------------------------------------------------------

    def box(self, low: np.ndarray, high: np.ndarray) -> Box | None:
        """Array slices around a region in mm, or None when it lies outside the grid."""
        slices = []
        for axis, start, stop in zip(self.axes[::-1], low[::-1], high[::-1], strict=True):
            first, last = int(np.searchsorted(axis, start)), int(np.searchsorted(axis, stop))
            if (last <= 0 and axis[0] > stop) or first >= len(axis):
                return None
            slices.append(slice(max(first - 1, 0), min(last + 1, len(axis))))
        return slices[0], slices[1], slices[2]

    def slabs(self, low: np.ndarray, high: np.ndarray) -> Iterator[Box]:
        """The box of a region in stacks of slices that fit a processor's cache better than the whole."""
        box = self.box(low, high)
        if box is None:
            return
        plane = (box[1].stop - box[1].start) * (box[2].stop - box[2].start)
        step = max(1, SLAB_VOXELS // max(plane, 1))
        for first in range(box[0].start, box[0].stop, step):
            yield slice(first, min(first + step, box[0].stop)), box[1], box[2]

    def mm(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World coordinates (x, y, z) of a box, broadcastable to (Z, Y, X)."""
        x, y, z = (axis[part] for axis, part in zip(self.axes, box[::-1], strict=True))
        return x[None, None, :], y[None, :, None], z[:, None, None]

    def among(self, box: Box, ids: tuple[int, ...]) -> np.ndarray:
        """Where the organ map holds one of ``ids`` (boolean, of the box)."""
        return _table(ids)[self.scene.organs[box]]

    def organ_at(self, point: np.ndarray) -> int:
        """Organ id of the voxel nearest to a point; 0 outside the grid."""
        index = [int(np.rint((p - axis[0]) / s)) for p, axis, s in zip(point, self.axes, self.spacing, strict=True)]
        if any(not 0 <= i < len(axis) for i, axis in zip(index, self.axes, strict=True)):
            return 0
        return int(self.scene.organs[index[2], index[1], index[0]])

    def march(self, start: np.ndarray, heading: np.ndarray, ids: tuple[int, ...], *, leave: bool) -> np.ndarray | None:
        """First point on a ray where the organ map leaves (or enters) ``ids``; None within 300 mm."""
        for length in np.arange(0.0, 300.0, 0.5):
            point = start + length * heading
            if (self.organ_at(point) in ids) != leave:
                return point
        return None

    # --- the coarse lattice ------------------------------------------------------------------------------------

    @cached_property
    def lattice(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates of the coarse lattice along x, y, z: multiples of :data:`STEP_MM` inside the grid."""
        return tuple(  # type: ignore[return-value]
            np.arange(np.ceil(axis[0] / STEP_MM), np.floor(axis[-1] / STEP_MM) + 1) * STEP_MM for axis in self.axes
        )

    @cached_property
    def coarse(self) -> np.ndarray:
        """Organ ids on the lattice, (z, y, x); vessels and bronchi inside a lobe count as that lobe."""
        index = [
            np.rint((points - axis[0]) / s).astype(int)
            for points, axis, s in zip(self.lattice, self.axes, self.spacing, strict=True)
        ]
        organs = self.scene.organs[np.ix_(*index[::-1])]
        inner = _table((VESSEL, AIRWAY))
        for _ in range(3):
            lobes = _spread(np.where(_table(LOBES)[organs], organs, 0))
            organs = np.where(inner[organs] & (lobes > 0), lobes, organs)
        return organs

    @cached_property
    def depth(self) -> np.ndarray:
        """Distance in mm to the surface of the lungs on the lattice, positive inside."""
        inside = _table(LOBES)[self.coarse]
        if not inside.any():
            return np.full(inside.shape, -1e3, np.float32)
        gap = ndimage.distance_transform_edt(inside, STEP_MM) - 0.5 * STEP_MM
        beyond = np.where(inside, 0.0, -2.0)  # outside only the sign matters
        return ndimage.gaussian_filter(np.where(inside, gap, beyond), 0.6, output=np.float32)

    def behind(self, lobes: tuple[int, ...], box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Where the lungs' back wall is, seen from a box.

        Returns:
            y in mm of the wall at each (z, x) of the box, (Z, 1, X), and the lung in front of it in mm, (Z, Y, X):
            0 at the wall, growing towards the front.
        """
        inside = _table(lobes)[self.coarse]
        y = self.lattice[1]
        last = y[inside.shape[1] - 1 - inside[:, ::-1].argmax(axis=1)] + 0.5 * STEP_MM
        valid = inside.any(axis=1).astype(np.float32)
        weight = ndimage.gaussian_filter(valid, 1.7)
        wall = ndimage.gaussian_filter(np.where(valid > 0, last, 0) * valid, 1.7) / np.maximum(weight, 1e-4)
        matrices = [
            linear(self.axes[0][box[2]], self.lattice[0], STEP_MM),
            linear(self.axes[2][box[0]], self.lattice[2], STEP_MM),
        ]
        back = (matrices[1] @ wall.astype(np.float32) @ matrices[0].T)[:, None, :]
        return back, back - self.axes[1][box[1]][None, :, None]

    def sample(self, values: np.ndarray, box: Box) -> np.ndarray:
        """Lattice values (z, y, x) interpolated linearly to the voxels of a box."""
        matrices = []
        for axis, part, points in zip(self.axes, box[::-1], self.lattice, strict=True):
            matrices.append(linear(axis[part], points, STEP_MM))
        return separable(values.astype(np.float32), matrices)

    def points(self, ids: tuple[int, ...]) -> np.ndarray:
        """Lattice points (n, 3) in mm that belong to organs."""
        z, y, x = np.nonzero(_table(ids)[self.coarse])
        return np.stack([self.lattice[0][x], self.lattice[1][y], self.lattice[2][z]], axis=1)

    def place(self, ids: tuple[int, ...], at: np.ndarray) -> np.ndarray | None:
        """A point at the quantiles ``at`` = (x, y, z) of an organ, None without it: z, then y on that level, then x.

        Quantiles move little when the grid changes, unlike the first hit of a random search.
        """
        points = self.points(ids)
        if not len(points):
            return None
        place = np.zeros(3)
        for axis in (2, 1, 0):
            place[axis] = np.quantile(points[:, axis], at[axis])
            points = points[np.abs(points[:, axis] - place[axis]) <= 2 * STEP_MM]
            if not len(points):
                return None
        return place

    def region_at(self, point: np.ndarray) -> int:
        """Organ id of the lattice point nearest to a point, 0 outside: the same on any grid."""
        index = [int(np.rint((p - points[0]) / STEP_MM)) for p, points in zip(point, self.lattice, strict=True)]
        if any(not 0 <= i < len(points) for i, points in zip(index, self.lattice, strict=True)):
            return 0
        return int(self.coarse[index[2], index[1], index[0]])

    def depth_at(self, point: np.ndarray) -> float:
        """Depth below the lungs' surface in mm at a point."""
        index = [(p - points[0]) / STEP_MM for p, points in zip(point, self.lattice, strict=True)]
        return float(ndimage.map_coordinates(self.depth, [[i] for i in index[::-1]], order=1, mode="nearest")[0])

    def bounds(self, ids: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray] | None:
        """Lowest and highest corner (x, y, z) of organs in mm, with a margin; None without them."""
        points = self.points(ids)
        return (points.min(0) - 6, points.max(0) + 6) if len(points) else None

    def territory(self, box: Box, lobes: tuple[int, ...], *, rim: bool = False) -> np.ndarray:
        """Voxels of lobes with the vessels in them, without bronchi.

        Args:
            rim: also the half-filled voxels around, so that no dark line stays between a lesion and the chest wall.
        """
        found = self.among(box, lobes)
        vessels = self.among(box, (VESSEL,))
        if vessels.any():
            found |= vessels & (self.sample(_table(lobes)[self.coarse], box) > 0.5)
        if rim:
            wide = found.copy()
            wide[:, 1:] |= found[:, :-1]
            wide[:, :-1] |= found[:, 1:]
            wide[:, :, 1:] |= found[:, :, :-1]
            wide[:, :, :-1] |= found[:, :, 1:]
            found |= wide & (self.scene.hu[box] < -150) & ~self.among(box, (*LOBES, TRACHEA, AIRWAY, 0))
        return found

    # --- how ---------------------------------------------------------------------------------------------------

    def noise(self, box: Box, cell_mm: float, seed: int) -> np.ndarray:
        """Smooth random field of unit variance in world coordinates: hashed lattice values under cubic B-splines."""
        indices, matrices = [], []
        for axis, part in zip(self.axes, box[::-1], strict=True):
            index, matrix = spline(axis[part] / cell_mm)
            indices.append(index)
            matrices.append(matrix)
        return separable(hashed(indices, seed) * np.float32(3.0), matrices)  # 3.0 = 0.479 ** -1.5

    def cover(self, box: Box, distance: Distance) -> np.ndarray:
        """Fraction of each voxel that lies inside a shape; large voxels are split until :data:`FINE_MM`."""
        parts = [max(1, min(4, int(np.ceil(s / FINE_MM)))) for s in self.spacing]
        fine = []
        for axis, part, n, s in zip(self.axes, box[::-1], parts, self.spacing, strict=True):
            offsets = ((np.arange(n) + 0.5) / n - 0.5) * s
            fine.append((axis[part][:, None] + offsets).astype(np.float32).ravel())
        edge = np.float32(max(float(np.mean([s / n for s, n in zip(self.spacing, parts, strict=True)])), 0.5))
        inside = (0.5 - distance(fine[0][None, None, :], fine[1][None, :, None], fine[2][:, None, None]) / edge).clip(
            0, 1
        )
        counts = [len(axis) // n for axis, n in zip(fine, parts, strict=True)]
        split = inside.reshape(counts[2], parts[2], counts[1], parts[1], counts[0], parts[0])
        return split.mean(axis=(1, 3, 5))

    def mix(self, box: Box, cover: np.ndarray, hu: float | np.ndarray) -> None:
        """Blend ``hu`` in by coverage."""
        part = self.scene.hu[box]
        part += cover * (hu - part)

    def fill(self, box: Box, cover: np.ndarray, hu: float = 30.0) -> None:
        """Replace this share of the air by tissue of ``hu``: vessels, which hold none, stay as they are."""
        part = self.scene.hu[box]
        part += cover * (hu - part).clip(0, None)

    def mark(self, box: Box, inside: np.ndarray, disease: int) -> None:
        """Write a class id into the disease map and remember some of the voxels, see :meth:`still_visible`."""
        part = self.scene.diseases[box]
        part[inside] = disease
        some = np.flatnonzero(inside)
        index = np.unravel_index(some[:: max(1, len(some) // SAMPLES)], part.shape)
        self.marked.append(np.stack([i + axis.start for i, axis in zip(index, box, strict=True)]))

    def still_visible(self, marked: list[np.ndarray], disease: int) -> bool:
        """Whether later findings left at least a tenth of the marked voxels (3, n each) in their class."""
        index = np.concatenate([np.zeros((3, 0), int), *marked], axis=1)
        return index.size > 0 and float((self.scene.diseases[tuple(index)] == disease).mean()) >= 0.1

    def shape(
        self,
        low: np.ndarray,
        high: np.ndarray,
        distance: Distance,
        hu: float,
        disease: int = 0,
        *,
        only: tuple[int, ...] = (),
        never: tuple[int, ...] = (),
        strength: float = 1.0,
        air_only: bool = False,
        margin_mm: float = 0.0,
    ) -> float:
        """Paint a small shape with partial-volume edges.

        The mask gets the best covered voxels, as many as hold the shape's volume, so that it is as large on any grid.

        Args:
            low, high: (3,) mm, bounds of the shape.
            distance: signed distance in mm.
            hu: of the shape.
            disease: class id of its mask, 0 for none.
            only: organ ids it may cover; all by default.
            never: organ ids it must not cover.
            strength: how much of ``hu`` is mixed in at full coverage.
            air_only: leave what is denser than ``hu`` as it is.
            margin_mm: the mask is drawn so much wider, for strands that are thinner than a voxel.

        Returns:
            Painted volume in ml.
        """
        box = self.box(np.asarray(low) - self.spacing, np.asarray(high) + self.spacing)
        if box is None:
            return 0.0
        allowed = np.ones(self.scene.hu[box].shape, bool)
        if only:
            allowed &= self.among(box, only)
        if never:
            allowed &= ~self.among(box, never)
        cover = self.cover(box, distance) * allowed
        (self.fill if air_only else self.mix)(box, cover * np.float32(strength), hu)
        if disease:
            wide = self.cover(box, lambda x, y, z: distance(x, y, z) - margin_mm) * allowed if margin_mm else cover
            self.mark(box, fullest(wide), disease)
        return float(cover.sum() * self.spacing.prod() / 1000)

    def tube(
        self,
        points: np.ndarray,
        radius: np.ndarray | float,
        hu: float,
        disease: int = 0,
        *,
        only: tuple[int, ...] = (),
    ) -> None:
        """Paint a tube along a polyline (n, 3) in mm, segment by segment."""
        radii = np.broadcast_to(np.asarray(radius, float), len(points))
        for i in range(len(points) - 1):
            pair, size = points[i : i + 2], radii[i : i + 2]
            reach = size.max()
            self.shape(pair.min(0) - reach, pair.max(0) + reach, capsules(pair, size), hu, disease, only=only)

    def ball(
        self,
        center: np.ndarray,
        radii: np.ndarray | float,
        hu: float,
        *,
        only: tuple[int, ...] = (),
        never: tuple[int, ...] = (),
    ) -> float:
        """Paint an ellipsoid along the world's axes and return its volume in ml."""
        radii = np.broadcast_to(np.asarray(radii, float), 3)
        return self.shape(center - radii, center + radii, ellipsoid(center, radii), hu, only=only, never=never)

    def airways(self, lobes: tuple[int, ...]) -> list[Tube]:
        """Bronchi that run in the given lobes."""
        return [tube for tube in self.scene.tubes if tube.kind == "airway" and tube.lobe in lobes]


def _table(ids: tuple[int, ...]) -> np.ndarray:
    table = np.zeros(256, bool)
    table[list(ids)] = True
    return table


def _spread(labels: np.ndarray) -> np.ndarray:
    """Largest label among a voxel and its six neighbors."""
    found = labels.copy()
    for axis in range(3):
        for step in (1, -1):
            found = np.maximum(found, np.roll(labels, step, axis))
    return found
