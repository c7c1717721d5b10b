"""Puts results into the scene: under their input, displayed like it, with the record of how they were made."""

from __future__ import annotations

import json

import slicer
import vtk
from slicer.i18n import tr as _

DIFFERENCE_WINDOW = 400.0  # HU around zero: reconstruction errors at edges reach some hundred HU
SOURCE_REFERENCE = "CTGen.SourceVolume"


def addResult(node, inputVolume, record: str, name: str, replaced=None, difference: bool = False):
    """Add a result to the scene.

    Args:
        node: detached volume node that lies on the input's world grid in the input's voxel order.
        inputVolume: the CT it was made from; it may have left the scene meanwhile.
        record: the run record, JSON.
        name: base of the node's name; a number is added when it is taken.
        replaced: node to fill instead of adding a new one, or None.
        difference: the voxels are output minus input.

    Returns:
        The node in the scene.
    """
    scene = slicer.mrmlScene
    moveWith(node, inputVolume)
    if replaced is not None and isInScene(replaced):
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        with slicer.util.NodeModify(replaced):
            replaced.SetAndObserveImageData(node.GetImageData())
            replaced.SetIJKToRASMatrix(matrix)
            replaced.SetAndObserveTransformNodeID(node.GetTransformNodeID())
        node = replaced
    else:
        node.SetName(scene.GenerateUniqueName(name))
        scene.AddNode(node)
    node.CreateDefaultDisplayNodes()
    _display(node, inputVolume, difference)
    _describe(node, inputVolume, record, difference)
    _placeUnder(node, inputVolume)
    return node


def isInScene(node) -> bool:
    """Whether a node is in the scene: the user may have removed it."""
    return slicer.mrmlScene.GetNodeByID(node.GetID() or "") is node


def moveWith(node, inputVolume) -> None:
    """Give a detached result its input's own grid and transform, if that is still there, so that both move together."""
    if isInScene(inputVolume):
        matrix = vtk.vtkMatrix4x4()
        inputVolume.GetIJKToRASMatrix(matrix)
        node.SetIJKToRASMatrix(matrix)
        node.SetAndObserveTransformNodeID(inputVolume.GetTransformNodeID())


def _display(node, inputVolume, difference: bool) -> None:
    source = inputVolume.GetDisplayNode()
    if difference:
        showWindow(node, DIFFERENCE_WINDOW, 0.0)
    elif source is not None:
        node.GetDisplayNode().SetAndObserveColorNodeID(source.GetColorNodeID())
        showWindow(node, source.GetWindow(), source.GetLevel())


def showWindow(node, window: float, level: float) -> None:
    """Set a volume's window and level in HU."""
    display = node.GetDisplayNode()
    display.AutoWindowLevelOff()
    display.SetWindowLevel(window, level)


def _describe(node, inputVolume, record: str, difference: bool) -> None:
    note = _("(output minus input, HU)") if difference else ""
    describe(node, record, note)
    node.SetAttribute("CTGen.SourceVolume", inputVolume.GetName() or "")
    node.SetNodeReferenceID(SOURCE_REFERENCE, inputVolume.GetID())


def describe(node, record: str, note: str = "") -> None:
    """Put the record of how a node was made into its attributes, which are saved with the scene.

    Args:
        node: any node.
        record: the run record, JSON.
        note: a word more for the description.
    """
    facts = json.loads(record)
    options = facts.get("options", {})
    attributes = {
        "Record": record,
        "RecordId": facts.get("record_id", ""),
        "Task": facts.get("task", ""),
        "Codec": facts.get("codec", ""),
        "Options": json.dumps(options),
        "EngineVersion": facts.get("ctgencore_version", ""),
        "Synthetic": str(bool(facts.get("synthetic"))).lower(),
    }
    if "model" in options:
        attributes |= {
            "Model": options["model"],
            "Seed": str(facts.get("seed", "")),
            "Report": options.get("report", ""),
        }
    for key, value in attributes.items():
        node.SetAttribute(f"CTGen.{key}", value)
    words = [_("CTGen"), _("SYNTHETIC") if facts.get("synthetic") else "", facts.get("task", "")]
    node.SetDescription(" ".join(filter(None, [*words, options.get("model") or facts.get("codec", ""), note])))


def _placeUnder(node, inputVolume) -> None:
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    parent = hierarchy.GetItemByDataNode(inputVolume)
    item = hierarchy.GetItemByDataNode(node)
    if parent and item and parent != item:
        hierarchy.SetItemParent(item, parent)
