"""Stand-ins for qMRML widgets over the real MRML scene."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from .tableview import qMRMLTableView


class qMRMLWidget(QtWidgets.QWidget):  # noqa: N801
    """A widget that passes its scene on."""

    sceneChanged = Signal(object)
    SIGNAL_ALIASES = {"mrmlSceneChanged(vtkMRMLScene*)": "sceneChanged"}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None

    def setMRMLScene(self, scene: Any) -> None:
        """Give the scene to this widget and to all that are connected to it."""
        self._scene = scene
        self.sceneChanged.emit(scene)

    def mrmlScene(self) -> Any:
        """The scene."""
        return self._scene


class qMRMLNodeComboBox(QtWidgets.QWidget):  # noqa: N801
    """Selector of nodes of some classes."""

    currentNodeChanged = Signal(object)
    nodeAddedByUser = Signal(object)
    SIGNAL_ALIASES = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser",
    }

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._observed: list[tuple[Any, int]] = []
        self._current = ""
        self._types: list[str] = []
        self._flags = {"noneEnabled": False, "addEnabled": True, "removeEnabled": True, "renameEnabled": False,
                       "editEnabled": False, "showChildNodeTypes": True, "showHidden": False,
                       "selectNodeUponCreation": True}  # fmt: skip
        self._none_display = "None"
        self._attributes: dict[str, dict[str, Any]] = {}
        self._busy = False
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setSizePolicy(QtWidgets.QSizePolicy.Policy.Ignored, QtWidgets.QSizePolicy.Policy.Fixed)
        row.addWidget(self._combo)
        observed = self._observed
        self.destroyed.connect(lambda: _forget(observed))
        self._combo.currentIndexChanged.connect(self._chosen)

    def setMRMLScene(self, scene: Any) -> None:
        """Observe a scene."""
        _forget(self._observed)
        self._scene = scene
        if scene is not None:
            for event in (
                scene.NodeAddedEvent,
                scene.NodeRemovedEvent,
                scene.EndBatchProcessEvent,
                scene.EndCloseEvent,
            ):
                self._observed.append((scene, scene.AddObserver(event, self._scene_changed)))
        self._fill()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _scene_changed(self, _scene: Any, event: str, node: Any = None) -> None:
        about_one_node = event == "NodeAddedEvent" or node is not None
        if not about_one_node or (node is not None and self._fits(node)):
            self._fill()

    def nodes(self) -> list[Any]:
        """The nodes offered."""
        if self._scene is None:
            return []
        every = (self._scene.GetNthNode(i) for i in range(self._scene.GetNumberOfNodes()))
        return [node for node in every if self._fits(node)]

    def nodeCount(self) -> int:
        """How many nodes are offered."""
        return len(self.nodes())

    def _fits(self, node: Any) -> bool:
        if node.GetHideFromEditors() and not self._flags["showHidden"]:
            return False
        wanted = self._attributes.get(node.GetClassName(), {})
        if any(
            node.GetAttribute(name) is None or value not in (None, node.GetAttribute(name))
            for name, value in wanted.items()
        ):
            return False
        if self._flags["showChildNodeTypes"]:
            return any(node.IsA(name) for name in self._types)
        return node.GetClassName() in self._types

    def _fill(self) -> None:
        before = self._current
        self._busy = True
        self._combo.clear()
        if self._flags["noneEnabled"]:
            self._combo.addItem(self._none_display, "")
        for node in self.nodes():
            self._combo.addItem(node.GetName(), node.GetID())
        index = self._combo.findData(before) if before else -1
        self._combo.setCurrentIndex(index if index >= 0 else 0 if self._flags["noneEnabled"] else -1)
        self._busy = False
        self._current = before if index >= 0 else ""
        if self._current != before:
            self.currentNodeChanged.emit(self.currentNode())

    def _chosen(self, index: int) -> None:
        if not self._busy:
            self.setCurrentNodeID(self._combo.itemData(index) or "")

    def setCurrentNodeID(self, node_id: str) -> None:
        """Select by ID; an unknown one selects nothing."""
        index = self._combo.findData(node_id or "")
        node_id = node_id if index >= 0 else ""
        self._busy = True
        self._combo.setCurrentIndex(index)
        self._busy = False
        if node_id != self._current:
            self._current = node_id or ""
            self.currentNodeChanged.emit(self.currentNode())

    def setCurrentNode(self, node: Any) -> None:
        """Select a node or None."""
        self.setCurrentNodeID(node.GetID() if node is not None else "")

    def currentNode(self) -> Any:
        """The selected node or None."""
        return self._scene.GetNodeByID(self._current) if self._scene is not None and self._current else None

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        """Offer only nodes of this class that have the attribute, with this value if one is given."""
        if node_type not in self._types:
            raise ValueError(f"qMRMLNodeComboBox does not offer '{node_type}'")
        self._attributes.setdefault(node_type, {})[name] = value
        self._fill()

    def _get_types(self) -> list[str]:
        return self._types

    def _set_types(self, types: list[str]) -> None:
        for name in types:
            if not hasattr(slicer, name):
                raise ValueError(f"qMRMLNodeComboBox: there is no node class '{name}'")
        self._types = list(types)
        self._fill()

    def _get_none_display(self) -> str:
        return self._none_display

    def _set_none_display(self, text: str) -> None:
        self._none_display = text
        self._fill()

    def _flag(name: str) -> Any:  # noqa: N805
        def get(self: Any) -> bool:
            return self._flags[name]

        def put(self: Any, value: bool) -> None:
            self._flags[name] = value
            self._fill()

        return Property(bool, get, put)

    nodeTypes = Property("QStringList", _get_types, _set_types)
    noneDisplay = Property(str, _get_none_display, _set_none_display)
    noneEnabled, addEnabled, removeEnabled = _flag("noneEnabled"), _flag("addEnabled"), _flag("removeEnabled")
    renameEnabled, editEnabled, showHidden = _flag("renameEnabled"), _flag("editEnabled"), _flag("showHidden")
    showChildNodeTypes = _flag("showChildNodeTypes")
    selectNodeUponCreation = _flag("selectNodeUponCreation")


def _forget(observed: list[tuple[Any, int]]) -> None:
    """Stop observing."""
    while observed:
        scene, tag = observed.pop()
        scene.RemoveObserver(tag)


class qSlicerScriptedLoadableModuleWidget(qMRMLWidget):  # noqa: N801
    """The panel that a scripted module fills."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self.isEntered = False
        self.python_widget: Any = None
        layout = QtWidgets.QVBoxLayout(self)
        layout.setAlignment(QtCore.Qt.AlignmentFlag.AlignTop)

    def self(self) -> Any:
        """The module's Python widget."""
        return self.python_widget


WIDGETS = {
    cls.__name__: cls for cls in (qMRMLWidget, qMRMLNodeComboBox, qMRMLTableView, qSlicerScriptedLoadableModuleWidget)
}
