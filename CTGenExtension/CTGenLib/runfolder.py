"""A folder in the subject hierarchy that holds what one run made: volumes, the mask they were made from, the report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import slicer
from slicer.i18n import tr as _

from . import geometry, result
from .geometry import Grid
from .rows import LABELS_ATTRIBUTE

MASK_REFERENCE = "CTGen.Mask"
WINDOWS = {"lung": (1400.0, -500.0), "soft": (400.0, 40.0), "bone": (1800.0, 400.0)}  # HU, as radiology has them


@dataclass(frozen=True)
class MaskData:
    """A label map with the names of its labels.

    Attributes:
        labels: (k, j, i) int16; organ ids, and disease class + 100 where a disease lies.
        grid: where it lies.
        names: label -> (name, (r, g, b)).
    """

    labels: np.ndarray
    grid: Grid
    names: Mapping[int, tuple[str, tuple[float, float, float]]]


class RunFolder:
    """Made when the first result is added; a run without results leaves nothing in the scene.

    Args:
        name: of the folder; a number is added when it is taken.
        beside: node whose neighbor the folder becomes, or None.

    Attributes:
        volumes: nodes of the volumes, in the order of their making.
    """

    def __init__(self, name: str, beside=None) -> None:
        self._name, self._beside = name, beside
        self._item = 0
        self._masks: list[tuple[MaskData, object]] = []
        self.volumes: list = []

    def addVolume(self, node, name: str, record: str, window: tuple[float, float], mask: MaskData | None = None):
        """Add a generated or edited volume.

        Args:
            node: detached volume node.
            name: base of its name.
            record: the run record, JSON.
            window: window and level in HU.
            mask: the labels it was made from, added once however many volumes share them.

        Returns:
            The node in the scene.
        """
        self.add(node, name)
        node.CreateDefaultDisplayNodes()
        result.showWindow(node, *window)
        result.describe(node, record)
        if mask is not None:
            found = [other for data, other in self._masks if data is mask]
            if not found:
                found = [self._addMask(mask)]
                self._masks.append((mask, found[0]))
            node.SetNodeReferenceID(MASK_REFERENCE, found[0].GetID())
        self.volumes.append(node)
        return node

    def addDifference(self, name: str, first, second):
        """Add ``second - first`` in HU.

        Raises:
            GeometryError: they lie on different grids.
        """
        grid = geometry.worldGrid(first)
        if geometry.worldGrid(second).distance(grid) > geometry.TOLERANCE_MM:
            raise geometry.GeometryError(_("The two volumes have different grids; there is no difference to show."))
        voxels = slicer.util.arrayFromVolume(second).astype(np.int16) - slicer.util.arrayFromVolume(first)
        node = slicer.vtkMRMLScalarVolumeNode()
        slicer.util.updateVolumeFromArray(node, voxels)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(grid.ijkToWorld))
        return self.addDifferenceVolume(node, name, second.GetAttribute("CTGen.Record"))

    def addDifferenceVolume(self, node, name: str, record: str):
        """Add a detached volume of differences in HU; returns it."""
        self.add(node, name)
        node.CreateDefaultDisplayNodes()
        result.showWindow(node, result.DIFFERENCE_WINDOW, 0.0)
        result.describe(node, record, _("(difference, HU)"))
        return node

    def addText(self, name: str, report: str, records: Sequence[str]) -> None:
        """Add a text node with the report and the records."""
        node = slicer.vtkMRMLTextNode()
        node.SetText("\n\n".join([report or _("(no report)"), *records]))
        self.add(node, name)

    def add(self, node, name: str) -> None:
        """Add a detached node of any kind; a number is added to a name that is taken."""
        scene = slicer.mrmlScene
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        if not self._item:
            beside = hierarchy.GetItemByDataNode(self._beside) if self._beside is not None else 0
            parent = hierarchy.GetItemParent(beside) if beside else hierarchy.GetSceneItemID()
            self._item = hierarchy.CreateFolderItem(parent, hierarchy.GenerateUniqueItemName(self._name))
        node.SetName(scene.GenerateUniqueName(name))
        scene.AddNode(node)
        item = hierarchy.GetItemByDataNode(node)
        if item:
            hierarchy.SetItemParent(item, self._item)
        else:
            hierarchy.CreateItem(self._item, node)

    def _addMask(self, mask: MaskData):
        colors = slicer.vtkMRMLColorTableNode()
        colors.SetTypeToUser()
        colors.SetNumberOfColors(max(mask.names, default=0) + 1)
        colors.SetName(slicer.mrmlScene.GenerateUniqueName(_("{run} labels").format(run=self._name)))
        colors.SetColor(0, _("background"), 0.0, 0.0, 0.0, 0.0)
        for label, (name, color) in mask.names.items():
            colors.SetColor(label, name, *color, 1.0)
        colors.HideFromEditorsOff()
        slicer.mrmlScene.AddNode(colors)
        node = slicer.vtkMRMLLabelMapVolumeNode()
        slicer.util.updateVolumeFromArray(node, mask.labels)
        node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(mask.grid.ijkToWorld))
        self.add(node, _("{run} mask").format(run=self._name))
        node.CreateDefaultDisplayNodes()
        node.GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())
        node.SetAttribute(LABELS_ATTRIBUTE, json.dumps({label: name for label, (name, _color) in mask.names.items()}))
        return node
