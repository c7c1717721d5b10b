"""Stand-ins for the base classes of scripted modules (own code, same interface as Slicer's)."""

import os
import sys
import unittest

import qt
import slicer

__all__ = [
    "ScriptedLoadableModule",
    "ScriptedLoadableModuleLogic",
    "ScriptedLoadableModuleTest",
    "ScriptedLoadableModuleWidget",
]


class ScriptedLoadableModule:
    """Describes the module to Slicer through ``parent``."""

    def __init__(self, parent):
        self.parent = parent
        self.moduleName = type(self).__name__
        for extension in ("svg", "png"):
            icon = os.path.join(os.path.dirname(parent.path), "Resources", "Icons", f"{self.moduleName}.{extension}")
            if os.path.exists(icon):
                parent.icon = qt.QIcon(icon)
                break

    def resourcePath(self, name):
        """A file of the module's Resources folder."""
        return os.path.join(os.path.dirname(self.parent.path), "Resources", name)

    def runTest(self, msec=100, **kwargs):
        """Run the module's own test class."""
        case = getattr(sys.modules[type(self).__module__], f"{self.moduleName}Test")()
        case.messageDelay = msec
        case.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    """Fills the module's panel."""

    def __init__(self, parent=None):
        if parent is None:
            raise NotImplementedError("the test host always gives a parent")
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        self.parent = parent
        self.layout = parent.layout()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, name):
        """A file of the module's Resources folder."""
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", name)

    def setup(self):
        """Overridden by the module."""

    def cleanup(self):
        """Overridden by the module."""

    def _onModuleAboutToBeUnloaded(self, name):
        if name == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    """Keeps the module's parameter node."""

    def __init__(self, parent=None):
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        """The module's node, made when missing."""
        node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
        if node is None:
            node = slicer.mrmlScene.AddNode(self.createParameterNode())
        node.SetAttribute("ModuleName", self.moduleName)
        return node

    def createParameterNode(self):
        """A new node, not yet in the scene."""
        node = slicer.vtkMRMLScriptedModuleNode()
        node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Base of a module's self test."""

    def __init__(self, *args, **kwargs):
        if not args:
            args = ("runTest",)
        super().__init__(*args, **kwargs)
        self.messageDelay = 0

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        """Slicer shows this; here it only lets events pass."""
        slicer.app.processEvents()

    def runTest(self):
        """Overridden by the module."""
