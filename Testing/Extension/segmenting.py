"""Segmentations for the tests: from a phantom's labels, or from real label files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import slicer

SEED = 3


def add_segmentation(labels: np.ndarray, volume: Any, names: dict[int, str], name: str = "Segmentation") -> Any:
    """One segment per label, on the volume's grid.

    Args:
        labels: (k, j, i).
        volume: the volume that it was made on.
        names: label -> segment name; labels without a name are left out.
        name: of the node.
    """
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for label, text in names.items():
        segment_id = node.GetSegmentation().AddEmptySegment("", text)
        mask = (labels == label).astype(np.uint8)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segment_id, volume)
    return node


def load_segmentation(case: Path) -> tuple[Any, Any]:
    """A CT of the real set and its TotalSegmentator masks, named as that tool names them."""
    volume = slicer.util.loadVolume(str(case / "ct.nii.gz"))
    names = json.loads((case / "labels.json").read_text(encoding="utf-8"))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    storage.SetFileName(str(case / "seg.nii.gz"))
    storage.SetSingleFile(1)
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    assert storage.ReadData(labels)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "TotalSegmentator")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    assert slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(labels, node)
    slicer.mrmlScene.RemoveNode(labels)
    values = [int(value) for value in np.unique(_voxels(case)) if value]
    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == len(values)
    for row, value in enumerate(values):
        segmentation.GetNthSegment(row).SetName(names[str(value)])
    return volume, node


def _voxels(case: Path) -> np.ndarray:
    import SimpleITK as sitk

    return sitk.GetArrayFromImage(sitk.ReadImage(str(case / "seg.nii.gz")))


def segment_id(node: Any, name: str) -> str:
    """ID of the segment with this name."""
    return node.GetSegmentation().GetSegmentIdBySegmentName(name)
