"""Move arrays between grids in world coordinates."""

from __future__ import annotations

import numpy as np

from .geometry import Geometry


def with_spacing(geometry: Geometry, spacing_mm: tuple[float, float, float]) -> Geometry:
    """A grid over the same field with voxels of about ``spacing_mm`` (x, y, z): sizes are whole, the field is kept."""
    field = np.asarray(geometry.size_xyz) * np.asarray(geometry.spacing_mm)
    size = np.maximum(np.rint(field / np.asarray(spacing_mm)).astype(int), 1)
    spacing = field / size
    shift = geometry.direction_matrix @ ((spacing - np.asarray(geometry.spacing_mm)) / 2)
    return Geometry(tuple(size), tuple(spacing), tuple(np.asarray(geometry.origin_mm) + shift), geometry.direction)


def resample(array_ZYX: np.ndarray, source: Geometry, target: Geometry, *, order: int, fill: float = 0) -> np.ndarray:
    """Values of ``array`` at the voxel centers of another grid.

    Args:
        array_ZYX: on ``source``.
        source, target: grids.
        order: 0 nearest (labels), 1 linear (HU).
        fill: value beyond the source's field.

    Returns:
        (Z, Y, X) of ``target``, of the same number type.
    """
    from scipy import ndimage

    matrix = np.linalg.inv(source.affine_lps()) @ target.affine_lps()  # target index -> source index, (i, j, k)
    turned = matrix[:3, :3][::-1, ::-1]
    if order == 1:  # half a voxel beyond the outermost centers still belongs to the field
        mode = "nearest" if _same_field(source, target) else "constant"
        return ndimage.affine_transform(
            array_ZYX, turned, matrix[:3, 3][::-1], output_shape=target.shape_zyx, order=1, mode=mode, cval=fill
        )
    if _is_diagonal(turned):  # same axes: one lookup per axis
        picks, inside = [], []
        for axis in range(3):
            at = np.rint(turned[axis, axis] * np.arange(target.shape_zyx[axis]) + matrix[:3, 3][2 - axis]).astype(int)
            inside.append((at >= 0) & (at < source.shape_zyx[axis]))
            picks.append(np.clip(at, 0, source.shape_zyx[axis] - 1))
        out = array_ZYX[np.ix_(*picks)]
        out[~(inside[0][:, None, None] & inside[1][None, :, None] & inside[2][None, None, :])] = fill
        return out
    return ndimage.affine_transform(
        array_ZYX, turned, matrix[:3, 3][::-1], output_shape=target.shape_zyx, order=0, mode="constant", cval=fill
    )


def _is_diagonal(matrix: np.ndarray) -> bool:
    return bool(np.abs(matrix - np.diag(np.diag(matrix))).max() < 1e-6)


def _same_field(one: Geometry, two: Geometry) -> bool:
    """Whether both grids cover the same box (their voxels may differ in size)."""

    def corners(grid: Geometry) -> np.ndarray:
        index = np.stack(np.meshgrid([-0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5], indexing="ij"), -1).reshape(-1, 3)
        index = index + (index > 0) * (np.asarray(grid.size_xyz) - 1)
        return index @ grid.affine_lps()[:3, :3].T + grid.affine_lps()[:3, 3]

    return bool(np.abs(corners(one) - corners(two)).max() < 0.5 * min(one.spacing_mm))


def zoom_plane(array_ZYX: np.ndarray, size_yx: tuple[int, int], order: int) -> np.ndarray:
    """Resize slices over the same field (pixel edges meet, corners do not): ``order`` 0 nearest, 1 linear."""
    for axis, size in zip((1, 2), size_yx, strict=True):
        old = array_ZYX.shape[axis]
        if size == old:
            continue
        at = (np.arange(size) + 0.5) * old / size
        if order == 0:
            array_ZYX = array_ZYX.take(np.minimum(at.astype(int), old - 1), axis=axis)
            continue
        low = np.clip(np.floor(at - 0.5).astype(int), 0, old - 1)
        share = np.clip(at - 0.5 - low, 0, 1).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, old - 1)
        array_ZYX = array_ZYX.take(low, axis=axis) * (1 - share) + array_ZYX.take(high, axis=axis) * share
    return np.ascontiguousarray(array_ZYX)
