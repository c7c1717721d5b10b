"""``slicer.app``, the module manager and the MRML application logic, as far as scripted modules use them."""

from __future__ import annotations

import colorsys
import os
import tempfile
from types import SimpleNamespace
from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

from .storage import CoreIOManager
from .views import LayoutManager


class ScriptedModule(QtCore.QObject):
    """What a scripted module's class gets as ``parent``; unknown attributes are errors."""

    _NAMES = ("title", "categories", "dependencies", "contributors", "helpText", "acknowledgementText", "icon",
              "hidden", "associatedNodeTypes", "path", "name")  # fmt: skip

    def __init__(self, path: str) -> None:
        super().__init__()
        self._widget: Any = None
        self.path = path
        self.name = os.path.basename(path).removesuffix(".py")

    def __setattr__(self, name: str, value: Any) -> None:
        """Only the properties of qSlicerScriptedLoadableModule."""
        if name not in self._NAMES and not name.startswith("_"):
            raise AttributeError(f"qSlicerScriptedLoadableModule has no property '{name}'")
        self.__dict__[name] = value

    def set_widget(self, widget: Any) -> None:
        """Remember the panel."""
        self._widget = widget

    def widgetRepresentation(self) -> Any:
        """The panel."""
        return self._widget


class ModuleManager(QtCore.QObject):
    """Knows the modules by name."""

    aboutToUnload = Signal(str)
    SIGNAL_ALIASES = {"moduleAboutToBeUnloaded(QString)": "aboutToUnload"}

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[str, Any] = {}

    def module(self, name: str) -> Any:
        """A module or None."""
        return self.modules.get(name)


class ModuleEntry(SimpleNamespace):
    """A module of Slicer itself: only its logic."""

    def logic(self) -> Any:
        """The real C++ logic."""
        return self._logic


class Application(QtWidgets.QApplication):
    """``slicer.app``."""

    startedUp = Signal()
    SIGNAL_ALIASES = {"startupCompleted()": "startedUp"}
    documentationBaseUrl = "https://slicer.readthedocs.io/en/latest/"

    def __init__(self) -> None:
        super().__init__(["slicerhost"])
        self.setApplicationName("SlicerTestHost")
        self.setOrganizationName("CTGen")
        self._temporary = tempfile.mkdtemp(prefix="slicerhost-")
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, self._temporary)
        self._startup_environment = dict(os.environ)
        self._module_manager = ModuleManager()
        self._io_manager = CoreIOManager()
        self._logic: Any = None
        self._layout_manager: Any = None

    temporaryPath = Property(str, lambda self: self._temporary)

    def start_scene(self) -> None:
        """Make the scene, the application logic, the module logics and the slice views."""
        scene = slicer.vtkMRMLScene()
        slicer.mrmlScene = scene
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        scene.AddNode(crosshair)
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(scene)
        self._logic.SetHomeDirectory(self._temporary)
        self._logic.SetShareDirectory("share")
        self._write_color_files()
        slicer.modules = SimpleNamespace()
        slicer.moduleNames = SimpleNamespace()
        logics = {"Colors": "vtkSlicerColorLogic", "Volumes": "vtkSlicerVolumesLogic",
                  "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
                  "Segmentations": "vtkSlicerSegmentationsModuleLogic"}  # fmt: skip
        for name, class_name in logics.items():
            logic = getattr(slicer, class_name)()
            logic.SetMRMLApplicationLogic(self._logic)
            logic.SetMRMLScene(scene)
            self._logic.SetModuleLogic(name, logic)
            setattr(slicer.modules, name.lower(), ModuleEntry(name=name, _logic=logic))
            if name == "Colors":
                logic.AddDefaultColorNodes()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._layout_manager = LayoutManager(self._logic)
        scene.AddObserver(scene.NodeAddedEvent, _add_to_subject_hierarchy)
        scene.AddObserver(scene.NodeAboutToBeRemovedEvent, _remove_from_subject_hierarchy)

    def _write_color_files(self) -> None:
        """Slicer's color logic reads its tables from files; label maps and new segments need these two."""
        folder = os.path.join(self._temporary, "share", "ColorFiles")
        os.makedirs(folder)
        lines = ["0 Background 0 0 0 0"]
        for label in range(1, 256):
            color = colorsys.hsv_to_rgb(label * 0.618 % 1, 0.65, 0.95)
            lines.append(f"{label} region_{label} {' '.join(str(round(255 * part)) for part in color)} 255")
        for name in ("GenericColors", "GenericAnatomyColors"):
            with open(os.path.join(folder, f"{name}.txt"), "w", encoding="utf-8") as file:
                file.write("\n".join(lines))

    def applicationLogic(self) -> Any:
        """The real vtkSlicerApplicationLogic."""
        return self._logic

    def coreIOManager(self) -> CoreIOManager:
        """Loads and saves."""
        return self._io_manager

    ioManager = coreIOManager

    def layoutManager(self) -> Any:
        """The slice views."""
        return self._layout_manager

    def moduleManager(self) -> ModuleManager:
        """The modules."""
        return self._module_manager

    def mrmlScene(self) -> Any:
        """The scene."""
        return slicer.mrmlScene

    def testingEnabled(self) -> bool:
        """Always: message boxes are logged instead of shown."""
        return True

    def startupEnvironment(self) -> Any:
        """The environment before "Slicer" changed it."""
        environment = QtCore.QProcessEnvironment()
        for name, value in self._startup_environment.items():
            environment.insert(name, value)
        return environment

    def userSettings(self) -> QtCore.QSettings:
        """Settings in a temporary folder."""
        return QtCore.QSettings()

    settings = userSettings

    def moduleDocumentationUrl(self, name: str) -> str:
        """Where the manual of a module is."""
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def pauseRender(self) -> None:
        """Pictures are drawn on request only."""

    resumeRender = pauseRender

    def restart(self) -> None:
        """Never in a test."""
        raise RuntimeError("slicer.app.restart() called")


def _subject_hierarchy_wanted(node: Any) -> bool:
    return node.IsA("vtkMRMLDisplayableNode") and not node.GetHideFromEditors()


@vtk.calldata_type(vtk.VTK_OBJECT)
def _add_to_subject_hierarchy(scene: Any, _event: str, node: Any) -> None:
    """In Slicer, Qt plugins make the item of a new data node."""
    if node is None or scene.IsImporting() or not _subject_hierarchy_wanted(node):
        return
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is not None and not hierarchy.GetItemByDataNode(node):
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _remove_from_subject_hierarchy(scene: Any, _event: str, node: Any) -> None:
    """... and remove it with its node; items below it go up."""
    if scene.IsClosing() or scene.IsImporting() or node.IsA("vtkMRMLSubjectHierarchyNode"):
        return  # the last: MRML merges two hierarchies when it is asked for one, and would do so again and again
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
    if hierarchy is None:
        return
    item = hierarchy.GetItemByDataNode(node)
    if item:
        hierarchy.RemoveItem(item, False, False)
