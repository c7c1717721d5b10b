"""Volumes to files and back, in world coordinates (RAS, mm), with proof that the grid is the same.

The engine gets the grid as it lies in the world: a linear parent transform is part of it. Slicer flips the slice axis
of a left-handed volume when it reads one; the flip is undone here, so that voxel (i, j, k) of the result is that of the
input.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk

TOLERANCE_MM = 1e-3  # NRRD: 1e-12 was measured; NIfTI, in float32: 2e-4; a wrong grid is off by a voxel's fraction
SHEAR_TOLERANCE = 1e-4  # cosine between two axes; the engine's own limit


class GeometryError(ValueError):
    """A volume that cannot be sent, or a result that does not lie where the input lies."""


@dataclass(frozen=True)
class Grid:
    """A voxel grid in the world.

    Attributes:
        size: voxels along i, j, k.
        ijkToWorld: (4, 4) float64, voxel index to RAS mm.
    """

    size: tuple[int, int, int]
    ijkToWorld: np.ndarray

    def corners(self) -> np.ndarray:
        """World positions of the eight corner voxels, (8, 3)."""
        index = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), -1).reshape(-1, 3)
        index = index * (np.array(self.size) - 1)
        return index @ self.ijkToWorld[:3, :3].T + self.ijkToWorld[:3, 3]

    def distance(self, other: Grid) -> float:
        """Largest distance in mm between the same corners; infinite when the sizes differ."""
        if self.size != other.size:
            return float("inf")
        return float(np.linalg.norm(self.corners() - other.corners(), axis=1).max())

    def flipped(self) -> Grid:
        """The same voxels with the slice axis reversed."""
        flip = np.diag([1.0, 1.0, -1.0, 1.0])
        flip[2, 3] = self.size[2] - 1
        return Grid(self.size, self.ijkToWorld @ flip)

    def spacing(self) -> tuple[float, float, float]:
        """Distance of voxels along i, j, k in mm."""
        return tuple(float(length) for length in np.linalg.norm(self.ijkToWorld[:3, :3], axis=0))

    def voxels(self) -> int:
        """How many there are."""
        return int(np.prod(self.size, dtype=np.int64))

    def resampled(self, spacing: tuple[float, float, float]) -> Grid:
        """The same box in other voxels.

        Args:
            spacing: mm along i, j, k; 0 keeps that of this grid. The box keeps its center and grows or shrinks by less
                than a voxel.
        """
        old = np.array(self.spacing())
        new = np.array([wanted or kept for wanted, kept in zip(spacing, old, strict=True)])
        size = np.maximum(np.rint(np.array(self.size) * old / new), 2).astype(int)
        matrix = self.ijkToWorld.copy()
        matrix[:3, :3] *= new / old
        center = self.corners().mean(axis=0)
        matrix[:3, 3] = center - matrix[:3, :3] @ ((size - 1) / 2)
        return Grid(tuple(int(count) for count in size), matrix)

    def covers(self, other: Grid) -> bool:
        """Whether both fill the same box, but for one voxel of the coarser grid on every side."""
        slack = max(*self.spacing(), *other.spacing())
        boxes = [np.array((grid.corners().min(axis=0), grid.corners().max(axis=0))) for grid in (self, other)]
        return bool(np.abs(boxes[0] - boxes[1]).max() <= slack)

    def shear(self) -> float:
        """Largest cosine between two voxel axes."""
        axes = self.ijkToWorld[:3, :3] / np.linalg.norm(self.ijkToWorld[:3, :3], axis=0)
        return float(np.abs((axes.T @ axes)[np.triu_indices(3, 1)]).max())


def worldGrid(volumeNode) -> Grid:
    """The grid of a volume, with its parent transform.

    Raises:
        GeometryError: the volume has no voxels, or its transform bends it.
    """
    image = volumeNode.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        raise GeometryError(_("'{name}' has no voxels.").format(name=volumeNode.GetName()))
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    transform = volumeNode.GetParentTransformNode()
    if transform is not None:
        if not transform.IsTransformToWorldLinear():
            raise GeometryError(
                _("'{name}' lies under a transform that bends it. Harden the transform first.").format(
                    name=volumeNode.GetName()
                )
            )
        toWorld = vtk.vtkMatrix4x4()
        transform.GetMatrixTransformToWorld(toWorld)
        vtk.vtkMatrix4x4.Multiply4x4(toWorld, matrix, matrix)
    return Grid(image.GetDimensions(), slicer.util.arrayFromVTKMatrix(matrix))


def checkExportable(volumeNode) -> Grid:
    """The volume's world grid, if the engine can use it.

    Raises:
        GeometryError: it is sheared, flat, not of one number per voxel, or what worldGrid refuses.
    """
    grid = worldGrid(volumeNode)
    name = volumeNode.GetName()
    components = volumeNode.GetImageData().GetNumberOfScalarComponents()
    if components != 1:
        raise GeometryError(
            _("'{name}' has {count} numbers per voxel; a CT has one.").format(name=name, count=components)
        )
    return checkSendable(grid, name)


def checkSendable(grid: Grid, name: str) -> Grid:
    """The grid, if the engine can use it.

    Raises:
        GeometryError: it is flat or sheared.
    """
    if min(grid.size) < 2:
        raise GeometryError(_("'{name}' is a single slice; a volume is needed.").format(name=name))
    if grid.shear() > SHEAR_TOLERANCE:
        raise GeometryError(
            _("The voxel axes of '{name}' are not perpendicular. Resample it onto a regular grid first "
              "(module Resample Scalar/Vector/DWI Volume).").format(name=name)
        )  # fmt: skip
    return grid


def exportVolume(volumeNode, path: str) -> Grid:
    """Write a volume as it lies in the world.

    Args:
        volumeNode: vtkMRMLScalarVolumeNode.
        path: .nrrd file.

    Returns:
        The grid written.

    Raises:
        GeometryError: see checkExportable; or the file cannot be written.
    """
    grid = checkExportable(volumeNode)
    _write(volumeNode.GetImageData(), grid, path)
    return grid


def exportArray(voxels: np.ndarray, grid: Grid, path: str) -> None:
    """Write voxels that are in no node.

    Args:
        voxels: (k, j, i) uint8 or int16.
        grid: where they lie.
        path: .nrrd file.

    Raises:
        GeometryError: the file cannot be written.
    """
    image = vtk.vtkImageData()
    image.SetDimensions(grid.size)
    image.GetPointData().SetScalars(numpy_to_vtk(np.ascontiguousarray(voxels).ravel(), deep=True))
    _write(image, grid, path)


def orientedImage(grid: Grid):
    """A vtkOrientedImageData without voxels that lies on the grid."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(0, grid.size[0] - 1, 0, grid.size[1] - 1, 0, grid.size[2] - 1)
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(grid.ijkToWorld))
    return image


def _write(image, grid: Grid, path: str) -> None:
    node = slicer.vtkMRMLScalarVolumeNode()
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(grid.ijkToWorld))
    node.SetAndObserveImageData(image)
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(path)
    storage.SetUseCompression(0)
    if not storage.WriteData(node):
        raise GeometryError(_("Cannot write {path}. Is the disk full?").format(path=path))


def readVolume(path: str, grid: Grid | None, coarse: bool = False):
    """Read a result that must lie on a known grid.

    Args:
        path: volume file.
        grid: where it must lie; None: anywhere.
        coarse: the result fills the same box in other voxels (a preview).

    Returns:
        A vtkMRMLScalarVolumeNode that is in no scene. With a grid, and not coarse: with exactly this grid and its voxel
        order.

    Raises:
        GeometryError: it cannot be read, or lies elsewhere.
    """
    node = slicer.vtkMRMLScalarVolumeNode()
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(path)
    storage.SetSingleFile(1)
    if not storage.ReadData(node):
        raise GeometryError(_("The engine's result {path} cannot be read.").format(path=path))
    if grid is None:
        return node
    found = worldGrid(node)
    if coarse:
        if not found.covers(grid):
            raise GeometryError(_("The preview does not lie where its inputs lie."))
        return node
    if found.distance(grid) > TOLERANCE_MM:
        if found.size != grid.size:
            raise GeometryError(
                _("The result has {found} voxels; the input has {expected}.").format(
                    found=found.size, expected=grid.size
                )
            )
        if found.distance(grid.flipped()) > TOLERANCE_MM:
            raise GeometryError(
                _("The result does not lie where the input lies: corners are up to {distance:.4g} mm apart.").format(
                    distance=found.distance(grid)
                )
            )
        slicer.util.updateVolumeFromArray(node, slicer.util.arrayFromVolume(node)[::-1].copy())
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(grid.ijkToWorld))
    return node
