"""Segmentations as label arrays: on which grid, with which ids, and who lies on top."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer
import vtk
from scipy import ndimage
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from . import geometry
from .geometry import GeometryError, Grid

LABEL_TAG = "CTGen.Label"  # id that the user chose; absent: as suggested. Tags are saved with the segmentation
USE_TAG = "CTGen.Use"  # "0": the segment is left out
BODY, LUNG_LOBES = 200, (28, 29, 30, 31, 32)
FILL_MM = 50.0  # how far from its lobe the inside of a lesion may be: a lesion of 10 cm


def segmentIds(segmentationNode) -> list[str]:
    """IDs in the segmentation's own order."""
    segmentation = segmentationNode.GetSegmentation()
    return [segmentation.GetNthSegmentID(row) for row in range(segmentation.GetNumberOfSegments())]


def usedSegments(segmentationNode) -> list[tuple[str, str]]:
    """(ID, name) of the segments that are not marked as left out, in the segmentation's own order."""
    segmentation = segmentationNode.GetSegmentation()
    every = [(segmentId, segmentation.GetSegment(segmentId)) for segmentId in segmentIds(segmentationNode)]
    return [(segmentId, segment.GetName().strip()) for segmentId, segment in every if tag(segment, USE_TAG) != "0"]


def tag(segment, name: str) -> str:
    """A segment's tag; empty: it has none."""
    text = vtk.reference("")
    return str(text) if segment.GetTag(name, text) else ""


def ownGrid(segmentationNode) -> Grid:
    """The grid of a segmentation, with its parent transform: that of the volume it was made on.

    Raises:
        GeometryError: there are no voxels, or a transform bends them.
    """
    image = slicer.vtkOrientedImageData()
    _localGeometry(segmentationNode, image)
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    extent = np.array(image.GetExtent()).reshape(3, 2)
    local = slicer.util.arrayFromVTKMatrix(matrix)
    local[:3, 3] += local[:3, :3] @ extent[:, 0]
    size = extent[:, 1] - extent[:, 0] + 1
    if size.min() < 1:
        raise GeometryError(_("'{name}' has no voxels.").format(name=segmentationNode.GetName()))
    return Grid(tuple(int(count) for count in size), _toWorld(segmentationNode) @ local)


def labelArray(segmentationNode, values: Sequence[tuple[str, int]], grid: Grid) -> np.ndarray:
    """The segments as one label map.

    They are merged on the segmentation's own grid and looked up from there (nearest voxel): merging on a finer grid
    takes Slicer ten times as long.

    Args:
        segmentationNode: vtkMRMLSegmentationNode; its parent transform counts.
        values: (segment ID, label) in the order of painting: later ones lie on top.
        grid: in the world.

    Returns:
        (k, j, i) uint8.

    Raises:
        GeometryError: see ownGrid; or Slicer cannot merge the segments.
    """
    if not values:
        return np.zeros(grid.size[::-1], np.uint8)
    toLocal = np.linalg.inv(_toWorld(segmentationNode))
    ids, labels = vtk.vtkStringArray(), vtk.vtkIntArray()
    for segmentId, label in values:
        ids.InsertNextValue(segmentId)
        labels.InsertNextValue(label)
    own = slicer.vtkOrientedImageData()
    _localGeometry(segmentationNode, own)
    merged = slicer.vtkOrientedImageData()
    if not segmentationNode.GenerateMergedLabelmapForAllSegments(
        merged, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY, own, ids, labels
    ):
        raise GeometryError(_("The segments of '{name}' cannot be merged.").format(name=segmentationNode.GetName()))
    local = Grid(grid.size, toLocal @ grid.ijkToWorld)
    image = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        merged, geometry.orientedImage(local), image
    )
    return vtk_to_numpy(image.GetPointData().GetScalars()).reshape(grid.size[::-1]).astype(np.uint8)


def fillUnder(organs: np.ndarray, hidden: np.ndarray, grid: Grid) -> np.ndarray:
    """Give voxels without an organ that a disease hides the lung lobe that is nearest.

    The Segment Editor cuts segments out of one another unless told otherwise; the model wants the organ below the
    disease, and so does its healthy twin. Where there is a body, only its holes are filled: a disease outside is a
    mistake that the engine reports.

    Args:
        organs: (k, j, i) uint8 organ ids.
        hidden: (k, j, i) bool, voxels of diseases.
        grid: where they lie.

    Returns:
        (k, j, i) uint8.
    """
    holes = hidden & (organs == 0)
    if (organs == BODY).any():
        for k in np.flatnonzero(holes.any(axis=(1, 2))):
            holes[k] &= ndimage.binary_fill_holes(organs[k] > 0)
    if not holes.any():
        return organs
    spacing = grid.spacing()[::-1]
    box = tuple(
        slice(max(0, int(found.min() - FILL_MM / length)), int(found.max() + FILL_MM / length) + 2)
        for found, length in zip(np.nonzero(holes), spacing, strict=True)
    )
    lungs = np.isin(organs[box], LUNG_LOBES)
    if not lungs.any():
        return organs
    distance, nearest = ndimage.distance_transform_edt(~lungs, sampling=spacing, return_indices=True)
    holes = holes[box] & (distance <= FILL_MM)
    filled = organs.copy()
    filled[box][holes] = organs[box][tuple(nearest)][holes]
    return filled


def contentVersion(segmentationNode) -> tuple:
    """Changes when voxels, order or transform of the segmentation change."""
    segmentation = segmentationNode.GetSegmentation()
    name = slicer.vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()
    times = []
    for segmentId in segmentIds(segmentationNode):
        image = segmentation.GetSegment(segmentId).GetRepresentation(name)
        times.append((segmentId, image.GetMTime() if image is not None else 0))
    transform = segmentationNode.GetParentTransformNode()
    return (segmentationNode.GetID(), tuple(times), transform.GetTransformToWorldMTime() if transform else 0)


def _localGeometry(segmentationNode, image) -> None:
    """Fill in the geometry that the segmentation has before its parent transform."""
    segmentation = segmentationNode.GetSegmentation()
    if not segmentationNode.CreateBinaryLabelmapRepresentation():
        raise GeometryError(_("'{name}' has no voxels.").format(name=segmentationNode.GetName()))
    text = segmentation.GetConversionParameter(slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName())
    if not text:
        everything = vtk.vtkStringArray()
        text = segmentation.DetermineCommonLabelmapGeometry(slicer.vtkSegmentation.EXTENT_UNION_OF_SEGMENTS, everything)
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        raise GeometryError(
            _("'{name}' has no grid. Set its source geometry in the Segment Editor.").format(
                name=segmentationNode.GetName()
            )
        )


def _toWorld(segmentationNode) -> np.ndarray:
    transform = segmentationNode.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise GeometryError(
            _("'{name}' lies under a transform that bends it. Harden the transform first.").format(
                name=segmentationNode.GetName()
            )
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)
