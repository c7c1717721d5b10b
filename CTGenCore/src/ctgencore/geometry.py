"""Where voxels lie in the patient (LPS, mm), and exact padding plans with their inverse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np

from .errors import InputError

_AXIS_CODES = ("RL", "AP", "IS")  # (towards minus, towards plus) of the L, P and S axes
SHEAR_TOLERANCE = 1e-4  # cosine between two axes; DICOM's six-digit cosines give up to 2e-6, a 0.01 degree tilt 1.7e-4


@dataclass(frozen=True)
class Geometry:
    """A voxel grid: SimpleITK's four numbers, nothing more.

    Attributes:
        size_xyz: voxels along i, j, k.
        spacing_mm: distance between voxel centres along i, j, k.
        origin_mm: centre of voxel (0, 0, 0), LPS.
        direction: 3x3 matrix, row-major; column n is the LPS unit vector of voxel axis n.

    Raises:
        InputError: a number is not finite, a size or spacing is not positive, or the axes are not unit vectors that
            span space.
    """

    size_xyz: tuple[int, int, int]
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    def __post_init__(self) -> None:
        """Turn whatever sequences came into plain tuples and check them."""
        object.__setattr__(self, "size_xyz", tuple(int(n) for n in self.size_xyz))
        for name in ("spacing_mm", "origin_mm", "direction"):
            object.__setattr__(self, name, tuple(float(v) for v in np.asarray(getattr(self, name)).ravel()))
        if len(self.size_xyz) != 3 or min(self.size_xyz) < 1:
            raise InputError(f"A volume has three positive sizes (x, y, z); got {self.size_xyz}.")
        if len(self.spacing_mm) != 3 or not all(math.isfinite(v) and v > 0 for v in self.spacing_mm):
            raise InputError(
                f"Spacing must be three positive numbers in mm; got {self.spacing_mm}. Correct the header."
            )
        if len(self.origin_mm) != 3 or not all(math.isfinite(v) for v in self.origin_mm):
            raise InputError(
                f"The origin must be three finite numbers in mm; got {self.origin_mm}. Correct the header."
            )
        if len(self.direction) != 9 or not all(math.isfinite(v) for v in self.direction):
            raise InputError(f"The direction must be nine finite numbers; got {self.direction}. Correct the header.")
        lengths = np.linalg.norm(self.direction_matrix, axis=0)
        if np.abs(lengths - 1).max() > 1e-3 or abs(np.linalg.det(self.direction_matrix)) < 1e-3:
            raise InputError(
                f"The direction's columns must be unit vectors that span space; got {self.direction} with lengths "
                f"{lengths.round(4).tolist()}. Correct the header."
            )

    @property
    def direction_matrix(self) -> np.ndarray:
        """Direction cosines as (3, 3) float64."""
        return np.asarray(self.direction, dtype=np.float64).reshape(3, 3)

    @property
    def shape_zyx(self) -> tuple[int, int, int]:
        """Array shape (Z, Y, X)."""
        x, y, z = self.size_xyz
        return (z, y, x)

    @property
    def spacing_zyx(self) -> tuple[float, float, float]:
        """Spacing in mm in array order (Z, Y, X)."""
        x, y, z = self.spacing_mm
        return (z, y, x)

    def affine_lps(self) -> np.ndarray:
        """Voxel index (i, j, k, 1) to LPS mm, (4, 4) float64."""
        affine = np.eye(4)
        affine[:3, :3] = self.direction_matrix * np.asarray(self.spacing_mm)
        affine[:3, 3] = self.origin_mm
        return affine

    def affine_ras(self) -> np.ndarray:
        """Voxel index (i, j, k, 1) to RAS mm (NIfTI's and Slicer's world), (4, 4) float64."""
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ self.affine_lps()

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of the axes i, j, k, for example ``LPS``; ambiguous oblique axes may repeat."""
        codes = ""
        for column in self.direction_matrix.T:
            axis = int(np.argmax(np.abs(column)))
            codes += _AXIS_CODES[axis][int(column[axis] > 0)]
        return codes

    @property
    def is_left_handed(self) -> bool:
        """Whether the voxel axes form a left-handed system."""
        return bool(np.linalg.det(self.direction_matrix) < 0)

    def is_sheared(self, tol: float = SHEAR_TOLERANCE) -> bool:
        """Whether two voxel axes are not perpendicular (cosine above ``tol``), as in a tilted gantry's raw grid."""
        gram = self.direction_matrix.T @ self.direction_matrix
        return bool(np.abs(gram[np.triu_indices(3, 1)]).max() > tol)

    def max_corner_distance_mm(self, other: Geometry) -> float:
        """Largest distance in mm between the same corner voxel of both grids (each with its own size)."""
        corners = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)

        def world(grid: Geometry) -> np.ndarray:
            index = corners * (np.asarray(grid.size_xyz) - 1)
            return index @ grid.affine_lps()[:3, :3].T + grid.affine_lps()[:3, 3]

        return float(np.linalg.norm(world(self) - world(other), axis=1).max())

    def assert_equal(self, other: Geometry, tol_mm: float = 1e-6, what: str = "the two volumes") -> None:
        """Demand the same grid.

        Raises:
            InputError: the sizes differ, or a corner voxel lies more than ``tol_mm`` away.
        """
        if self.size_xyz != other.size_xyz:
            raise InputError(
                f"The grids of {what} must be equal: sizes (x, y, z) are {self.size_xyz} and {other.size_xyz}. "
                "Resample one onto the other first."
            )
        distance = self.max_corner_distance_mm(other)
        if not distance <= tol_mm:
            raise InputError(
                f"The grids of {what} must be equal within {tol_mm:g} mm: their corners lie up to {distance:.6g} mm "
                "apart. Resample one onto the other first."
            )

    def to_dict(self) -> dict[str, list[float]]:
        """Plain lists, for JSON."""
        return {
            "size_xyz": list(self.size_xyz),
            "spacing_mm": list(self.spacing_mm),
            "origin_mm": list(self.origin_mm),
            "direction": list(self.direction),
        }


@dataclass(frozen=True)
class PadPlan:
    """How many voxels to add around a volume; :meth:`crop` is the exact inverse of :meth:`apply`.

    Attributes:
        before_zyx, after_zyx: voxels added at the low and high end of Z, Y, X.
    """

    before_zyx: tuple[int, int, int]
    after_zyx: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Check the counts."""
        if len(self.before_zyx) != 3 or len(self.after_zyx) != 3 or min(*self.before_zyx, *self.after_zyx) < 0:
            raise InputError(f"A pad plan has three counts >= 0 on each side; got {self.before_zyx}, {self.after_zyx}.")

    def apply(self, array: Any, mode: str = "edge") -> Any:
        """Pad the last three axes of a NumPy array or torch tensor.

        Args:
            array: (..., Z, Y, X).
            mode: ``edge`` repeats the border voxel, ``reflect`` mirrors without repeating it (any length).

        Returns:
            (..., Z', Y', X'), same type and dtype.
        """
        if mode not in ("edge", "reflect"):
            raise InputError(f"Padding mode must be edge or reflect; got {mode!r}.")
        for axis in range(3):
            before, after = self.before_zyx[axis], self.after_zyx[axis]
            if before or after:
                index = np.arange(array.shape[axis - 3])
                index = np.pad(index, (before, after), mode=mode)  # type: ignore[call-overload]
                array = array[(..., index, *[slice(None)] * (2 - axis))]
        return array

    def crop(self, array: Any) -> Any:
        """Take the padding off the last three axes again (a view)."""
        window = []
        for axis in range(3):
            before, after = self.before_zyx[axis], self.after_zyx[axis]
            size = array.shape[axis - 3]
            if size <= before + after:
                raise InputError(f"Cannot crop {before}+{after} voxels from an axis of {size}.")
            window.append(slice(before, size - after))
        return array[(..., *window)]


@dataclass(frozen=True)
class AxisPlan:
    """Turns an array so that its axes run nearest to feet-head, front-back, right-left; :meth:`undo` is its inverse.

    Attributes:
        axes: array axis of the original that becomes Z, Y, X.
        flips: whether Z, Y, X is then reversed.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    @staticmethod
    def to_lps(geometry: Geometry) -> AxisPlan:
        """The plan for arrays of this grid; oblique grids keep their own axes, named after the nearest ones."""
        matrix = geometry.direction_matrix
        strength = np.abs(matrix)
        axes = max(permutations(range(3)), key=lambda order: sum(strength[w, v] for w, v in enumerate(order)))
        flips = [bool(matrix[world, voxel] < 0) for world, voxel in enumerate(axes)]
        return AxisPlan((2 - axes[2], 2 - axes[1], 2 - axes[0]), (flips[2], flips[1], flips[0]))

    def apply(self, array_ZYX: np.ndarray) -> np.ndarray:
        """A view of the array with its axes in that order."""
        turned = array_ZYX.transpose(self.axes)
        return np.flip(turned, tuple(axis for axis, flip in enumerate(self.flips) if flip))

    def undo(self, array_ZYX: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`apply`."""
        turned = np.flip(array_ZYX, tuple(axis for axis, flip in enumerate(self.flips) if flip))
        return turned.transpose(np.argsort(self.axes))

    def reorder(self, values_zyx: Sequence[float]) -> tuple[float, float, float]:
        """Sizes or spacings given per original array axis, in the new order."""
        z, y, x = (values_zyx[axis] for axis in self.axes)
        return (z, y, x)
