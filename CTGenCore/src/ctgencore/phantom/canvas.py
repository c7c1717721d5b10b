"""Grids seen from the body, signed distances on them, and painting with partial-volume edges.

All shapes are given in *body* mm: LPS of a standard body that lies straight. The patient's size and rotation lead from
there to the world, so the anatomy is the same whatever grid it is drawn on.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..geometry import Geometry
    from .scene import Patient

Box = tuple[slice, slice, slice]
FAR = np.float32(99.0)  # mm: "not near", in distance fields
LATTICE_MM = 4.0  # smooth surfaces are worked out at this pitch and interpolated


class Frame:
    """From body mm to world mm: size, then rotation about the head-foot axis."""

    def __init__(self, patient: Patient) -> None:
        self.scale = np.array(patient.scale_xyz, np.float64)
        angle = np.deg2rad(patient.rotation_deg)
        self.cosine, self.sine = float(np.cos(angle)), float(np.sin(angle))
        self.shift = np.array([0.0, -7.0, 0.0])  # the standard body's middle lies that far back

    def to_world(self, points: np.ndarray) -> np.ndarray:
        """(..., 3) body mm to world mm."""
        x, y, z = np.moveaxis((np.asarray(points, np.float64) + self.shift) * self.scale, -1, 0)
        return np.stack([self.cosine * x - self.sine * y, self.sine * x + self.cosine * y, z], -1)

    def to_body(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """In-plane world mm to body mm."""
        turned = (self.cosine * x + self.sine * y, -self.sine * x + self.cosine * y)
        return turned[0] / self.scale[0] - self.shift[0], turned[1] / self.scale[1] - self.shift[1]


class Grid:
    """Where the points of an axis-aligned grid lie in the body.

    Attributes:
        x, y: (Y, X) float32 body mm.
        z: (Z,) float32 body mm.
    """

    def __init__(self, frame: Frame, origin: np.ndarray, spacing: np.ndarray, size: tuple[int, ...]) -> None:
        self.frame, self.origin, self.spacing, self.size = frame, origin, spacing, size
        across, along, up = (np.arange(n) * s + o for n, s, o in zip(size, spacing, origin, strict=True))
        x, y = frame.to_body(across[None, :], along[:, None])
        self.x, self.y = x.astype(np.float32), y.astype(np.float32)
        self.z = (up / frame.scale[2] - frame.shift[2]).astype(np.float32)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return (self.size[2], self.size[1], self.size[0])

    @cached_property
    def whole(self) -> Box:
        """Slices of everything."""
        return tuple(slice(0, n) for n in self.shape)  # type: ignore[return-value]

    def reach(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First and one past the last index (..., 3), in x, y, z, of regions between body points (..., 3)."""
        low, high = np.asarray(low, np.float64), np.asarray(high, np.float64)
        middle, half = self.frame.to_world((low + high) / 2), (high - low) / 2 * self.frame.scale
        c, s = abs(self.frame.cosine), abs(self.frame.sine)
        turned = np.stack([c * half[..., 0] + s * half[..., 1], s * half[..., 0] + c * half[..., 1], half[..., 2]], -1)
        first = np.floor((middle - turned - self.origin) / self.spacing).astype(int)
        last = np.ceil((middle + turned - self.origin) / self.spacing).astype(int) + 1
        return np.clip(first, 0, self.size), np.clip(last, 0, self.size)

    def box(self, low: np.ndarray, high: np.ndarray) -> Box:
        """Array slices around a region between two body points (x, y, z); empty slices where it is not in view."""
        first, last = self.reach(low, high)
        return tuple(slice(int(a), int(max(a, b))) for a, b in zip(first[::-1], last[::-1], strict=True))  # type: ignore[return-value]

    def coordinates(self, box: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Body mm inside a box, broadcastable to it: x and y (1, Y, X), z (Z, 1, 1)."""
        return self.x[None, box[1], box[2]], self.y[None, box[1], box[2]], self.z[box[0], None, None]


def empty(box: Box) -> bool:
    """Whether a box holds no voxel."""
    return any(part.stop <= part.start for part in box)


class Lattice(Grid):
    """A coarse grid around a fine one, anchored in the world so that it never depends on the fine grid's phase."""

    def __init__(self, frame: Frame, geometry: Geometry, pitch: float = LATTICE_MM) -> None:
        fine = np.array(geometry.spacing_mm)
        low = np.array(geometry.origin_mm)
        high = low + fine * (np.array(geometry.size_xyz) - 1)
        first, last = np.floor(low / pitch) - 1, np.ceil(high / pitch) + 1
        size = tuple(int(n) for n in last - first + 1)
        super().__init__(frame, first * pitch, np.full(3, pitch), size)
        self._weights = [
            self._interpolation(n, (np.arange(m) * s + o - start) / pitch)
            for n, m, s, o, start in zip(size, geometry.size_xyz, fine, low, self.origin, strict=True)
        ]

    @staticmethod
    def _interpolation(coarse: int, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Linear weights: lower index and fraction."""
        index = np.clip(np.floor(where).astype(int), 0, coarse - 2)
        return index, (where - index).astype(np.float32)

    def fine_slice(self, field: np.ndarray, k: int) -> np.ndarray:
        """A lattice field (Z', Y', X') on slice ``k`` of the fine grid, (Y, X) float32."""
        (x, fx), (y, fy), (z, fz) = self._weights
        low = field[z[k]]
        plane = low + fz[k] * (field[z[k] + 1] - low)
        rows = plane[:, x]
        rows += fx * (plane[:, x + 1] - rows)
        steps = np.diff(rows, axis=0)
        fine = rows[y]
        fine += fy[:, None] * steps[y]
        return fine

    def fine_box(self, field: np.ndarray, box: Box) -> np.ndarray:
        """A lattice field in a box of the fine grid."""
        planes = [self.fine_slice(field, k)[box[1:]] for k in range(box[0].start, box[0].stop)]
        return np.stack(planes) if planes else np.zeros([part.stop - part.start for part in box], np.float32)


class Solid:
    """A union of simple shapes: signed distance in mm (negative inside) in a box of a grid."""

    def __init__(self, grid: Grid, low: np.ndarray | None = None, high: np.ndarray | None = None) -> None:
        self.grid = grid
        self.box = grid.whole if low is None or high is None else grid.box(low, high)
        self.distance = np.full([part.stop - part.start for part in self.box], FAR, np.float32)

    def _views(self, low: np.ndarray, high: np.ndarray) -> Iterator[tuple[int, Box, Box]]:
        """Number, slices in the grid and slices in the solid's own array of each region (n, 3) that is in view."""
        first, last = self.grid.reach(low, high)
        start = np.array([part.start for part in self.box[::-1]])
        first = np.maximum(first, start)
        last = np.minimum(last, [part.stop for part in self.box[::-1]])
        for n in np.flatnonzero((last > first).all(-1)).tolist():
            (x0, y0, z0), (x1, y1, z1) = first[n].tolist(), last[n].tolist()
            x, y, z = start.tolist()
            there = (slice(z0, z1), slice(y0, y1), slice(x0, x1))
            yield n, there, (slice(z0 - z, z1 - z), slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))

    def tube(
        self,
        points: np.ndarray,
        radius: float | np.ndarray,
        margin: float = 4.0,
        stretch: tuple[float, float, float] = (1.0, 1.0, 1.0),
    ) -> None:
        """Add a rounded tube along a polyline.

        Args:
            points: (n, 3) body mm.
            radius: one, or one per point, mm.
            margin: how far outside the tube the distance must be right.
            stretch: cross-section along x, y, z relative to ``radius``.
        """
        points = np.asarray(points, np.float64)
        radii = np.broadcast_to(np.asarray(radius, np.float64), len(points))
        wide = np.array(stretch)
        starts, stops = points[:-1], points[1:]
        reach = (np.maximum(radii[:-1], radii[1:]) + margin)[:, None] * wide
        for n, there, here in self._views(np.minimum(starts, stops) - reach, np.maximum(starts, stops) + reach):
            start, stop, r0, r1 = starts[n], stops[n], radii[n], radii[n + 1]
            x, y, z = self.grid.coordinates(there)
            step = (stop - start) / wide
            length = max(float(step @ step), 1e-6)
            x, y, z = (x - start[0]) / wide[0], (y - start[1]) / wide[1], (z - start[2]) / wide[2]
            t = x * np.float32(step[0] / length) + y * np.float32(step[1] / length) + z * np.float32(step[2] / length)
            np.clip(t, 0, 1, out=t)
            square = (x - t * np.float32(step[0])) ** 2
            square += (y - t * np.float32(step[1])) ** 2
            square += (z - t * np.float32(step[2])) ** 2
            distance = np.sqrt(square, out=square)
            distance -= np.float32(r0) if r0 == r1 else np.float32(r0) + t * np.float32(r1 - r0)
            part = self.distance[here]
            np.minimum(part, distance, out=part)

    def ellipsoid(
        self,
        center: np.ndarray,
        radii: np.ndarray,
        axes: np.ndarray | None = None,
        margin: float = 4.0,
    ) -> None:
        """Add an ellipsoid; rows of ``axes`` are its axes in the body."""
        center, radii = np.asarray(center, np.float64), np.asarray(radii, np.float64)
        turn = np.eye(3) if axes is None else np.asarray(axes, np.float64)
        reach = np.sqrt(((turn * (radii + margin)[:, None]) ** 2).sum(0))
        for _, there, here in self._views((center - reach)[None], (center + reach)[None]):
            x, y, z = (c - np.float32(m) for c, m in zip(self.grid.coordinates(there), center, strict=True))
            scaled = [(turn[i, 0] * x + turn[i, 1] * y + turn[i, 2] * z) / radii[i] for i in range(3)]
            level = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
            slope = np.sqrt(sum((s / r) ** 2 for s, r in zip(scaled, radii, strict=True)))
            distance = (level - 1) * level / np.maximum(slope, 1e-4)  # first-order exact distance to the surface
            np.maximum(distance, -radii.min(), out=distance)
            part = self.distance[here]
            np.minimum(part, distance.astype(np.float32), out=part)


class Canvas(Grid):
    """HU and organ ids being painted.

    Attributes:
        hu: (Z, Y, X) float32.
        organs: (Z, Y, X) uint8.
        edge: width in mm of a painted edge, one voxel.
    """

    def __init__(self, frame: Frame, geometry: Geometry) -> None:
        super().__init__(frame, np.array(geometry.origin_mm), np.array(geometry.spacing_mm), geometry.size_xyz)
        self.edge = float(np.mean(geometry.spacing_mm[:2]))
        self.hu = np.full(self.shape, -1000, np.float32)
        self.organs = np.zeros(self.shape, np.uint8)

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """Signed distance in mm (negative inside) to the covered fraction of each voxel."""
        part = distance * np.float32(-1 / self.edge)
        part += np.float32(0.5)
        return np.clip(part, 0, 1, out=part)

    def paint(self, distance: np.ndarray, hu: float | np.ndarray, label: int = 0, box: Box | None = None) -> None:
        """Mix ``hu`` in where ``distance`` is negative; ``label`` 0 leaves the labels."""
        where = box or self.whole
        if empty(where):
            return
        cover = self.cover(distance)
        part = self.hu[where]
        part += cover * (hu - part)
        if label:
            self.organs[where][cover > 0.5] = label

    def solid(self, low: np.ndarray, high: np.ndarray) -> Solid:
        """An empty union of shapes between two body points."""
        return Solid(self, np.asarray(low, np.float64), np.asarray(high, np.float64))


def spline(points: np.ndarray, step: float = 6.0) -> np.ndarray:
    """A smooth curve through (n, d) points (Catmull-Rom), sampled about every ``step`` of its first three columns."""
    points = np.asarray(points, np.float64)
    if len(points) == 2:
        count = max(int(np.ceil(np.linalg.norm(points[1, :3] - points[0, :3]) / (4 * step))), 1)
        return points[0] + np.linspace(0, 1, count + 1)[:, None] * (points[1] - points[0])
    ends = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    pieces = []
    for a, b, c, d in zip(ends, ends[1:], ends[2:], ends[3:], strict=False):
        count = max(int(np.ceil(np.linalg.norm(c[:3] - b[:3]) / step)), 1)
        t = (np.arange(count) / count)[:, None]
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.vstack([*pieces, points[-1:]])


def smooth_minimum(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Union of two signed distances with corners rounded over about ``k`` mm."""
    h = np.clip(0.5 + (b - a) / (2 * k), 0, 1)
    return b + (a - b) * h - k * h * (1 - h)


def ramp(value: np.ndarray | float, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between; falls instead of rising when ``low`` > ``high``."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
