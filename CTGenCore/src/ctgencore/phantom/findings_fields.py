"""Shapes, soft steps and random fields in mm coordinates; nothing here knows a scene or a grid."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CELL_CHUNK = 65_536

Distance = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def smoothstep(value: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below ``low``, 1 above ``high``, smooth between (``low`` may exceed ``high``)."""
    t = np.clip((value - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def faded(field: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """How strongly a diffuse finding is painted and where its mask lies: little is left outside the mask.

    Returns:
        Density 0..1 and mask (where the smooth step of ``field`` exceeds 0.3), both of the field's shape.
    """
    step = smoothstep(field, low, high)
    return ((step - 0.15) / 0.85).clip(0, None), step > 0.3


def capsules(points: np.ndarray, radius: np.ndarray | float) -> Distance:
    """Signed distance (mm) to a tube around a polyline.

    Args:
        points: (n, 3) LPS mm, n >= 2.
        radius: (n,) mm or one for all.
    """
    radii = np.broadcast_to(np.asarray(radius, float), len(points))

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        found: np.ndarray | None = None
        for a, b, ra, rb in zip(points[:-1], points[1:], radii[:-1], radii[1:], strict=True):
            along = (b - a).astype(np.float32)
            dx, dy, dz = x - np.float32(a[0]), y - np.float32(a[1]), z - np.float32(a[2])
            t = ((dx * along[0] + dy * along[1] + dz * along[2]) / max(float(along @ along), 1e-6)).clip(0, 1)
            gap = np.sqrt((dx - t * along[0]) ** 2 + (dy - t * along[1]) ** 2 + (dz - t * along[2]) ** 2)
            gap = gap - (np.float32(ra) + t * np.float32(rb - ra))
            found = gap if found is None else np.minimum(found, gap)
        if found is None:
            raise ValueError("A tube needs at least two points.")
        return found

    return distance


def ellipsoid(center: np.ndarray, radii: np.ndarray, axes: np.ndarray | None = None) -> Distance:
    """Signed distance (mm, first order) to an ellipsoid.

    Args:
        center: (3,) LPS mm.
        radii: (3,) mm along ``axes``.
        axes: (3, 3) orthonormal rows; the world's by default.
    """
    frame = np.eye(3) if axes is None else axes

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = x - np.float32(center[0]), y - np.float32(center[1]), z - np.float32(center[2])
        near = np.zeros(np.broadcast_shapes(x.shape, y.shape, z.shape), np.float32)
        slope = np.zeros_like(near)
        for axis, r in zip(frame.astype(np.float32), np.asarray(radii, np.float32), strict=True):
            part = (dx * axis[0] + dy * axis[1] + dz * axis[2]) / r
            near += part**2
            slope += (part / r) ** 2
        length = np.sqrt(near)
        return (length - 1) * length / np.sqrt(slope).clip(1e-6)  # Quilez's bound: exact on the surface to first order

    return distance


def fullest(cover: np.ndarray) -> np.ndarray:
    """The voxels with the highest coverage, as many as the covered volume holds (at least one if any is touched)."""
    count = int(np.rint(cover.sum()))
    top = float(cover.max()) if cover.size else 0.0
    if top <= 0.02:
        return np.zeros(cover.shape, bool)
    count = min(max(count, 1), cover.size)
    limit = np.partition(cover.ravel(), cover.size - count)[cover.size - count]
    return cover >= max(float(limit), 0.02)


def cells(x: np.ndarray, y: np.ndarray, z: np.ndarray, cell_mm: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Cellular pattern (Worley 1996) at points: distances in mm to the nearest and second nearest of scattered seeds.

    Args:
        x, y, z: (n,) mm.
        cell_mm: mean distance between seeds.
        seed: of the scatter.

    Returns:
        Nearest and second nearest distance, (n,) each.
    """
    first, second = np.empty(x.shape, np.float32), np.empty(x.shape, np.float32)
    for start in range(0, len(x), CELL_CHUNK):
        part = slice(start, start + CELL_CHUNK)
        first[part], second[part] = _cells([axis[part] / np.float32(cell_mm) for axis in (x, y, z)], seed)
    return np.sqrt(first) * cell_mm, np.sqrt(second) * cell_mm


def _cells(place: list[np.ndarray], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of :func:`cells` at points in units of a cell, one seed in each cell."""
    base = [np.floor(axis).astype(np.int64) for axis in place]
    low = [int(axis.min()) - 1 for axis in base]
    size = [int(axis.max()) + 2 - start for axis, start in zip(base, low, strict=True)]
    i, j, k = (np.arange(n) + start for n, start in zip(size, low, strict=True))
    grid = (i[:, None, None], j[None, :, None], k[None, None, :])
    seeds = [
        (cell + np.float32(0.1) + np.float32(0.8) * _uniform(_hash(*grid, seed * 3 + axis))).astype(np.float32).ravel()
        for axis, cell in enumerate(grid)
    ]
    flat = ((base[0] - low[0]) * size[1] + base[1] - low[1]) * size[2] + base[2] - low[2]
    first = np.full(flat.shape, 1e6, np.float32)
    second = first.copy()
    for di, dj, dk in np.ndindex(3, 3, 3):
        cell = flat + (((di - 1) * size[1] + dj - 1) * size[2] + dk - 1)
        gap = np.zeros(flat.shape, np.float32)
        for axis, own in zip(place, seeds, strict=True):
            away = axis - own[cell]
            away *= away
            gap += away
        np.minimum(second, np.maximum(first, gap), out=second)
        np.minimum(first, gap, out=first)
    return first, second


def linear(at: np.ndarray, points: np.ndarray, step: float) -> np.ndarray:
    """(n, m) weights of linear interpolation between equidistant points, constant beyond them."""
    where = ((at - points[0]) / step).clip(0, len(points) - 1)
    index = np.minimum(where.astype(int), max(len(points) - 2, 0))
    matrix = np.zeros((len(at), len(points)), np.float32)
    rows = np.arange(len(at))
    matrix[rows, index] = 1 - (where - index)
    matrix[rows, np.minimum(index + 1, len(points) - 1)] += where - index
    return matrix


def spline(at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lattice indices (m,) and cubic B-spline weights (n, m) at positions in lattice units."""
    base = np.floor(at).astype(np.int64)
    t = (at - base).astype(np.float32)
    index = np.arange(base.min() - 1, base.max() + 3)
    matrix = np.zeros((len(at), len(index)), np.float32)
    rows = np.arange(len(at))
    taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    for k, tap in enumerate(taps):
        matrix[rows, base - index[0] - 1 + k] = tap / 6
    return index, matrix


def separable(values: np.ndarray, matrices: list[np.ndarray]) -> np.ndarray:
    """Apply (n, m) matrices for x, y, z to lattice values (z, y, x)."""
    along_x = values @ matrices[0].T
    along_y = np.matmul(matrices[1], along_x)
    return np.tensordot(matrices[2], along_y, axes=(1, 0))


def _hash(i: np.ndarray, j: np.ndarray, k: np.ndarray, seed: int) -> np.ndarray:
    """Well mixed uint32 of integer lattice coordinates (Murmur3 finalizer)."""
    mixed = i * 73856093 ^ j * 19349663 ^ k * 83492791 ^ ((seed * 2654435761) & 0x7FFFFFFF)
    h = (mixed & 0xFFFFFFFF).astype(np.uint32)
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    return h ^ (h >> np.uint32(16))


def _uniform(h: np.ndarray) -> np.ndarray:
    return h.astype(np.float32) * np.float32(2**-32)


def hashed(indices: list[np.ndarray], seed: int) -> np.ndarray:
    """Uniform values of unit variance on a lattice, (z, y, x)."""
    x, y, z = indices
    h = _hash(x[None, None, :], y[None, :, None], z[:, None, None], seed)
    return (_uniform(h) - np.float32(0.5)) * np.float32(12**0.5)
