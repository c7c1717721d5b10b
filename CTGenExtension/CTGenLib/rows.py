"""What the segments of a segmentation, or the values of a label map, stand for; and both as label arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _
from vtk.util.numpy_support import vtk_to_numpy

from . import geometry, segments
from .geometry import GeometryError, Grid
from .labels import DISEASE, ORGAN, Label, LabelTables, Suggestion

BODY = 200  # lies below everything: the envelope would hide the organs
FIRST_DISEASE, MAP_OFFSET = 150, 100  # a disease class painted into an organ map has this added
LABELS_ATTRIBUTE = "CTGen.Labels"  # of label maps that CTGen made: label -> name


@dataclass(frozen=True)
class Row:
    """A segment and what it stands for.

    Attributes:
        segmentId, name: of the segment; of a label map: the value and the color's name.
        color: (r, g, b), 0 to 1.
        used: whether it goes to the engine.
        label: what it stands for; None: nothing known.
        chosen: the user said so.
        suggestion: what the engine says; None: nothing, or not yet.
        waiting: the engine has not answered yet.
    """

    segmentId: str
    name: str
    color: tuple[float, float, float]
    used: bool
    label: Label | None
    chosen: bool
    suggestion: Suggestion | None
    waiting: bool

    @property
    def rank(self) -> int:
        """Body, organs, diseases: the higher lies on top."""
        if self.label is None:
            return 1
        return 2 if self.label.kind == DISEASE else int(self.label.id != BODY)


def readRows(node, tables: LabelTables) -> list[Row]:
    """What the segments stand for, lowest layer first; asks the engine about names that it has not seen.

    Args:
        node: vtkMRMLSegmentationNode, vtkMRMLLabelMapVolumeNode or None.
        tables: the engine's labels.
    """
    return readRowsOf([node], tables)[0]


def readRowsOf(nodes: Sequence, tables: LabelTables) -> list[list[Row]]:
    """The rows of several nodes, asked for together; see readRows."""
    found, asked = [], []
    for node in nodes:
        rows: list[Row] = []
        if node is not None:
            read = _labelMapRows if node.IsA("vtkMRMLLabelMapVolumeNode") else _segmentRows
            rows, pairs = read(node, tables)
            asked += pairs
        found.append(sorted(rows, key=lambda row: row.rank))
    tables.ask(asked)
    return found


def labelArrays(node, rows: Sequence[Row], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Organs and diseases as label arrays.

    Args:
        node: vtkMRMLSegmentationNode or vtkMRMLLabelMapVolumeNode; its parent transform counts.
        rows: of the node, lowest layer first; those without a label are left out.
        grid: in the world.

    Returns:
        (organs, diseases), both (k, j, i) uint8.

    Raises:
        GeometryError: the node has no voxels, or a transform bends it.
    """
    kinds = [
        [(row.segmentId, row.label.id) for row in rows if row.label is not None and row.label.kind == kind]
        for kind in (ORGAN, DISEASE)
    ]
    if not node.IsA("vtkMRMLLabelMapVolumeNode"):
        return tuple(segments.labelArray(node, values, grid) for values in kinds)
    own = geometry.worldGrid(node)
    image = slicer.vtkOrientedImageData()
    image.ShallowCopy(node.GetImageData())
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(own.ijkToWorld))
    lying = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        image, geometry.orientedImage(grid), lying
    )
    voxels = vtk_to_numpy(lying.GetPointData().GetScalars()).reshape(grid.size[::-1]).astype(np.int64)
    arrays = []
    for values in kinds:
        table = np.zeros(max(int(voxels.max()), *(int(value) for value, _label in values), 0) + 1, np.uint8)
        for value, label in values:
            table[int(value)] = label
        arrays.append(table[np.maximum(voxels, 0)])
    return arrays[0], arrays[1]


def _segmentRows(node, tables: LabelTables) -> tuple[list[Row], list[tuple[str, str]]]:
    pairs, rows = [], []
    for segmentId in segments.segmentIds(node):
        segment = node.GetSegmentation().GetSegment(segmentId)
        pair = (segment.GetName(), segments.tag(segment, segment.GetTerminologyEntryTagName()))
        chosen = segments.tag(segment, segments.LABEL_TAG)
        used = segments.tag(segment, segments.USE_TAG) != "0"
        rows.append(_row(segmentId, pair, segment.GetColor(), tables, used, int(chosen) if chosen.isdigit() else None))
        pairs.append(pair)
    return rows, pairs


def _labelMapRows(node, tables: LabelTables) -> tuple[list[Row], list[tuple[str, str]]]:
    """One row per value. A map that CTGen made says itself what its values are; else the colors' names count."""
    own = node.GetAttribute(LABELS_ATTRIBUTE) is not None
    colors = node.GetDisplayNode().GetColorNode() if node.GetDisplayNode() is not None else None
    pairs, rows = [], []
    for value in labelValues(node):
        name = (colors.GetColorName(value) if colors is not None else "") or _("label {value}").format(value=value)
        color = [0.5, 0.5, 0.5, 1.0]
        if colors is not None:
            colors.GetColor(value, color)
        label = (value - MAP_OFFSET if value >= FIRST_DISEASE + MAP_OFFSET else value) if own else None
        rows.append(_row(str(value), (name, ""), tuple(color[:3]), tables, True, label))
        if not own:
            pairs.append((name, ""))
    return rows, pairs


def _row(segmentId: str, pair: tuple[str, str], color, tables: LabelTables, used: bool, chosen: int | None) -> Row:
    suggestion = tables.suggestion(*pair)
    wanted = chosen if chosen is not None else suggestion.id if suggestion else None
    waiting = not tables.labels or not (chosen is not None or tables.asked(*pair))
    label = tables.labels.get(wanted)
    return Row(segmentId, pair[0], color, used, label, chosen is not None, suggestion, waiting)


_values: dict[str, tuple[int, list[int]]] = {}  # node ID -> (time, values): counting takes a second on a large map


def labelValues(node) -> list[int]:
    """The values above 0 in a label map."""
    image = node.GetImageData()
    if image is None or image.GetNumberOfPoints() == 0:
        return []
    known = _values.get(node.GetID())
    if known is None or known[0] != image.GetMTime():
        voxels = slicer.util.arrayFromVolume(node)
        if voxels.dtype.kind not in "iu":
            raise GeometryError(_("'{name}' holds no whole numbers.").format(name=node.GetName()))
        found = [int(value) for value in np.unique(voxels) if value > 0]
        known = _values[node.GetID()] = (image.GetMTime(), found)
    return known[1]
