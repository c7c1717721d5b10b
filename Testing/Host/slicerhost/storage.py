"""The IO manager: what ``slicer.util.loadVolume``, ``saveNode`` and ``saveScene`` need, over MRML's storage nodes."""

from __future__ import annotations

import os
from typing import Any

import slicer


class CoreIOManager:
    """Loads and saves volumes and scenes."""

    def fileType(self, _path: str) -> str:
        """Only volumes are loaded here."""
        return "VolumeFile"

    def fileWriterFileType(self, _node: Any) -> str:
        """Only volumes are saved here."""
        return "VolumeFile"

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any, messages: Any = None) -> bool:
        """Load one volume into the scene."""
        if kind != "VolumeFile":
            raise NotImplementedError(f"the test host does not load {kind}")
        path = properties["fileName"]
        name = properties.get("name") or os.path.basename(path).split(".")[0]
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetName(slicer.mrmlScene.GenerateUniqueName(name))
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(path)
        storage.SetSingleFile(1 if properties.get("singleFile") else 0)
        if not storage.ReadData(node):
            if messages is not None:
                messages.AddMessage(slicer.vtkMRMLMessageCollection, f"cannot read {path}")
            return False
        slicer.mrmlScene.AddNode(storage)
        slicer.mrmlScene.AddNode(node)
        node.SetAndObserveStorageNodeID(storage.GetID())
        node.CreateDefaultDisplayNodes()
        if properties.get("show", True):
            logic = slicer.app.applicationLogic()
            logic.GetSelectionNode().SetActiveVolumeID(node.GetID())
            logic.PropagateVolumeSelection()
        if loaded is not None:
            loaded.AddItem(node)
        return True

    def saveNodes(self, kind: str, properties: dict[str, Any], _messages: Any = None) -> bool:
        """Save one volume, or the scene as .mrb."""
        path = properties["fileName"]
        if kind == "SceneFile":
            return bool(slicer.mrmlScene.WriteToMRB(path))
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
        storage.SetFileName(path)
        return bool(storage.WriteData(node))
