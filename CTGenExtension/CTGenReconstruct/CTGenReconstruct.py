"""CTGenReconstruct: a CT through a frozen foundation VAE and back, on its own grid.

The module only exchanges data and shows progress; a separate process (``python -m ctgencore``) computes.
"""

import json
import os
import sys
import time
from typing import Annotated

import numpy as np
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

try:
    import CTGenLib  # noqa: F401
except ModuleNotFoundError:  # run from the source tree, where the library lies beside the module's folder
    sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from CTGenLib import geometry, job, result
from CTGenLib.engine import EngineCheck
from CTGenLib.sections import EngineSection, RunSection, duration, fillBox

WINDOWS = ("wide", "soft", "lung", "custom")


class CTGenReconstruct(ScriptedLoadableModule):
    """Describes the module to Slicer."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("CTGen Reconstruct")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = []
        self.parent.contributors = ["CTGen contributors"]
        self.parent.helpText = _("""
<p>Reconstructs a CT through a frozen foundation VAE, an autoencoder trained on photographs or video. The result has the
input's grid and Hounsfield units and keeps a record of how it was made. For research; not for diagnosis.</p>
<p><b>Steps</b>: 1. Choose a CT volume. 2. Choose a codec; 'embedded' needs no download. 3. Click Apply. The result
appears under the input in the Data module.</p>
<p>The computation runs in a process of its own. If the line under Engine is not green, open that section: it says what
is missing.</p>
""") + self.getDefaultModuleDocumentationLink()  # fmt: skip
        self.parent.acknowledgementText = _("""
<p>CTGen implements published work. If you use it, please cite <i>Foundation VAEs for 3D CT Reconstruction,
Augmentation, and Generation</i>, and the authors of the codec that you chose. Weights keep their own licenses, which
the module shows.</p>
""")

    def getDefaultModuleDocumentationLink(self, docPage=None):
        """Point to CTGen's own pages."""
        return _("<p>More in the {start}documentation{end}.</p>").format(
            start='<a href="https://github.com/CTGen/SlicerCTGen/blob/main/CTGenCore/docs/slicer.md">', end="</a>"
        )


@parameterNodeWrapper
class CTGenReconstructParameterNode:
    """What the user chose; saved with the scene.

    inputVolume - The CT.
    codec - Name of the autoencoder.
    window - HU range that the codec sees: a name, or custom (customLow to customHigh).
    device - auto, cpu, cuda:0, ...
    triplanar - Average axial, coronal and sagittal passes (2D codecs).
    calibrate - Fit gain and offset in HU to the input.
    outputVolume - Volume to fill; none: a new one for every run.
    difference - Also make output minus input.
    """

    inputVolume: vtkMRMLScalarVolumeNode
    codec: str = "embedded"
    window: Annotated[str, Choice(WINDOWS)] = "wide"
    customLow: Annotated[int, WithinRange(-32768, 32767)] = -1000
    customHigh: Annotated[int, WithinRange(-32768, 32767)] = 1000
    device: str = "auto"
    triplanar: bool = False
    calibrate: bool = False
    outputVolume: vtkMRMLScalarVolumeNode
    difference: bool = False


class CTGenReconstructWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.runSection = None
        self.engineSection = None
        self._parameterNode = None
        self._parameterNodeGuiTag = None
        self._filling = False

    @property
    def engine(self):
        """The engine that answered, or None."""
        return self.engineSection.engine

    # Life cycle

    def setup(self):
        """Build the panel. Starts nothing and installs nothing."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/CTGenReconstruct.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = CTGenReconstructLogic()

        for name, text in (
            ("wide", _("wide (-1000 to 1000 HU)")),
            ("soft", _("soft tissue (-175 to 250 HU)")),
            ("lung", _("lung (-1350 to 150 HU)")),
            ("custom", _("custom")),
        ):
            self.ui.windowBox.addItem(text, name)
        self.ui.codecBox.connect("currentIndexChanged(int)", self._onChoice)
        self.ui.windowBox.connect("currentIndexChanged(int)", self._onChoice)
        self.ui.deviceBox.connect("currentIndexChanged(int)", self._onChoice)
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.runSection = RunSection(self.ui, self.logic)
        self.engineSection = EngineSection(
            self.ui, self.resourcePath("requirements.txt"), self.runSection, self.updateGui
        )

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self):
        """The module is unloaded, or Slicer ends: nothing may go on running."""
        self.engineSection.stop()
        self.runSection.stop()
        self.logic.stopNow()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """The user comes to the module."""
        self.initializeParameterNode()
        self.engineSection.checkOnce()

    def exit(self):
        """The user goes to another module; a job goes on."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """The input goes away: the job has no use any more."""
        if self.logic.running:
            self.logic.stopNow()
            self._showIdle(_("Stopped, because the scene was closed."))
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Start anew in the empty scene."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    # Parameters

    def initializeParameterNode(self):
        """Observe this scene's parameter node; choose the first volume if none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        if not self._parameterNode.inputVolume:
            self._parameterNode.inputVolume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")

    def setParameterNode(self, parameterNode):
        """Bind the panel to a parameter node, or to none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateGui)
        self._parameterNode = parameterNode
        if self._parameterNode is not None:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateGui)
            self.updateGui()

    def _onChoice(self, index):
        if self._filling or self._parameterNode is None:
            return
        with slicer.util.NodeModify(self._parameterNode):
            for box, name in (
                (self.ui.codecBox, "codec"),
                (self.ui.windowBox, "window"),
                (self.ui.deviceBox, "device"),
            ):
                if box.currentIndex >= 0:
                    setattr(self._parameterNode, name, box.itemData(box.currentIndex))

    # What the panel shows

    def updateGui(self, caller=None, event=None):
        """Show parameters, engine and what can be done."""
        node = self._parameterNode
        if node is None:
            return
        self._filling = True
        fillBox(self.ui.codecBox, self._codecItems(), node.codec)
        fillBox(self.ui.deviceBox, self.engineSection.deviceItems(), node.device)
        self.ui.windowBox.setCurrentIndex(WINDOWS.index(node.window))
        self._filling = False
        custom = node.window == "custom"
        self.ui.customLabel.setVisible(custom)
        self.ui.customRange.setVisible(custom)
        self.ui.codecInfoLabel.text = self._codecInfo(node.codec)
        row = self.engine.codec(node.codec) if self.engine else None
        self.ui.triplanarBox.enabled = bool(node.triplanar or row is None or row["is_2d"])
        self.engineSection.show(self.logic.running)
        self._showButtons()

    def _codecItems(self):
        rows = self.engine.codecs if self.engine else []
        return [
            (row["title"] if row["available"] else _("{title} (not installed)").format(title=row["title"]), row["name"])
            for row in rows
        ]

    def _codecInfo(self, name):
        row = self.engine.codec(name) if self.engine else None
        if row is None:
            return _("Details appear when the engine has been checked.")
        text = _("{description} License: {license}.").format(description=row["description"], license=row["license"])
        return text if row["available"] else f"{text}\n{row['why']}"

    def _showButtons(self):
        running = self.logic.running
        for widget in (self.ui.inputsButton, self.ui.methodButton, self.ui.outputsButton):
            widget.enabled = not running
        if running:
            cancelling = self.logic.job.cancelling
            self.ui.applyButton.enabled = True
            self.ui.applyButton.text = _("Stop now") if cancelling else _("Cancel")
            self.ui.applyButton.toolTip = (
                _("Stop the engine without waiting for it") if cancelling else _("Stop; no volume will be added")
            )
            return
        problem = _("Waiting for the engine.") if self.engineSection.checking else ""
        problem = problem or self.logic.problem(self._parameterNode, self.engine)
        self.ui.applyButton.text = _("Apply")
        self.ui.applyButton.enabled = not problem
        self.ui.applyButton.toolTip = problem or _("Reconstruct the volume")
        self.ui.hintLabel.text = problem
        self.ui.hintLabel.setVisible(bool(problem))

    # Running

    def onApplyButton(self):
        """Apply, or Cancel while a job runs."""
        if self.logic.running:
            self.logic.job.cancel()
            self._showButtons()
            return
        self.ui.logText.clear()
        try:
            self.logic.start(self._parameterNode, self.engine, self.runSection.hear, self.runSection.log, self._onEnd)
        except (ValueError, OSError) as error:
            self.runSection.log(str(error))
            self.runSection.say(str(error), failed=True)
            return
        self.runSection.begin()
        self.updateGui()

    def _onEnd(self, outcome, nodes):
        if outcome.kind == "done":
            seconds = duration(float(outcome.result.get("seconds", 0)))
            names = ", ".join(f"'{node.GetName()}'" for node in nodes)
            message = _("Done in {time}: {names}.").format(time=seconds, names=names)
            metrics = outcome.result.get("metrics") or {}
            if metrics.get("mae_hu") is not None:
                message += " " + _("Mean absolute error {mae:.1f} HU.").format(mae=metrics["mae_hu"])
            if metrics.get("psnr") is not None:
                message += " " + _("PSNR {psnr:.1f} dB.").format(psnr=metrics["psnr"])
        else:
            message = outcome.message
        if outcome.kind != "failed":  # the job has logged its own failure
            self.runSection.log(message)
        self._showIdle(message, failed=outcome.kind == "failed")

    def _showIdle(self, message, failed=False):
        self.runSection.end(message, failed)
        if self._parameterNode is not None:
            self.engineSection.show(running=False)
            self._showButtons()


class CTGenReconstructLogic(ScriptedLoadableModuleLogic):
    """Runs reconstructions; works without the panel."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        self.job = None
        self.failedFolder = ""

    def getParameterNode(self):
        """The scene's parameter node, typed."""
        return CTGenReconstructParameterNode(super().getParameterNode())

    @property
    def running(self):
        """Whether a job runs."""
        return self.job is not None and self.job.running

    @staticmethod
    def options(parameterNode):
        """The parameters as the engine's ReconstructOptions."""
        window = parameterNode.window
        if window == "custom":
            window = f"{parameterNode.customLow} {parameterNode.customHigh}"
        return {
            "codec": parameterNode.codec,
            "window": window,
            "device": parameterNode.device,
            "triplanar": parameterNode.triplanar,
            "calibrate": parameterNode.calibrate,
        }

    @staticmethod
    def problem(parameterNode, engine):
        """Why a run is not possible now; empty when it is."""
        volume = parameterNode.inputVolume
        if volume is None:
            return _("Choose a CT volume.")
        try:
            geometry.checkExportable(volume)
        except geometry.GeometryError as error:
            return str(error)
        if parameterNode.outputVolume is volume:
            return _("The output must not be the input.")
        if parameterNode.window == "custom" and parameterNode.customLow >= parameterNode.customHigh:
            return _("The window's lower end must be below its upper end.")
        if engine is None or engine.torch is None:
            return _("The engine is not ready; see Engine below.")
        codec = engine.codec(parameterNode.codec)
        if codec is None:
            return _("The engine does not know the codec '{name}'.").format(name=parameterNode.codec)
        if not codec["available"]:
            return _("The codec '{name}' is not installed.").format(name=parameterNode.codec)
        if parameterNode.triplanar and not codec.get("is_2d"):
            return _("Triplanar works with 2D codecs; '{name}' is 3D.").format(name=parameterNode.codec)
        return ""

    def start(self, parameterNode, engine, onEvent=None, onLog=None, onEnd=None):
        """Start a job and return.

        Args:
            parameterNode: what to do.
            engine: from EngineCheck.
            onEvent: called with the engine's events.
            onLog: called with lines of text.
            onEnd: called with the Outcome and the list of new nodes.

        Raises:
            ValueError: what problem() says; a GeometryError is one.
            OSError: the engine cannot be started.
        """
        if self.running:
            raise ValueError(_("A reconstruction is running already."))
        problem = self.problem(parameterNode, engine)
        if problem:
            raise ValueError(problem)
        self._forgetFailure()
        inputVolume, replaced = parameterNode.inputVolume, parameterNode.outputVolume
        self.job = job.ReconstructionJob(
            engine.interpreter,
            inputVolume,
            self.options(parameterNode),
            parameterNode.difference,
            onEvent or (lambda event: None),
            onLog or (lambda text: None),
            lambda outcome: self._end(outcome, inputVolume, replaced, onEnd or (lambda outcome, nodes: None)),
        )

    def stopNow(self):
        """End a running job at once; nothing is added."""
        if self.running:
            self.job.stopNow()
        self._forgetFailure()

    def _forgetFailure(self):
        if self.failedFolder:
            self.job.removeFolder()
        self.failedFolder = ""

    def _end(self, outcome, inputVolume, replaced, onEnd):
        nodes = []
        if outcome.kind == "done":
            try:
                nodes = self._addResults(outcome, inputVolume, replaced)
            except geometry.GeometryError as error:
                outcome = job.Outcome("failed", str(error))
                self.job.log(outcome.message)
        if outcome.kind == "failed":
            self.job.removeVolumes()
            self.failedFolder = self.job.folder
        else:
            self.job.removeFolder()
        onEnd(outcome, nodes)

    def _addResults(self, outcome, inputVolume, replaced):
        """Read everything and check it before anything is added."""
        outputs, grid = outcome.result["outputs"], self.job.grid
        output = geometry.readVolume(outputs["volume"], grid)
        difference = geometry.readVolume(outputs["difference"], grid) if "difference" in outputs else None
        name = f"{inputVolume.GetName()} {self.job.options['codec']}"
        nodes = [result.addResult(output, inputVolume, outcome.record, name, replaced)]
        if difference is not None:
            name = _("{name} difference").format(name=nodes[0].GetName())
            nodes.append(result.addResult(difference, inputVolume, outcome.record, name, difference=True))
        if slicer.app.layoutManager() is not None:
            slicer.util.setSliceViewerLayers(background=inputVolume, foreground=nodes[0], foregroundOpacity=1.0)
        return nodes


class CTGenReconstructTest(ScriptedLoadableModuleTest):
    """Self test: the identity codec must return the volume. Needs a working engine."""

    def setUp(self):
        """Start with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run all."""
        self.setUp()
        self.test_identity()

    def _wait(self, done, seconds):
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.02)
        self.assertTrue(done())

    def test_identity(self):
        """An oblique anisotropic volume comes back voxel by voxel, on its grid, under its input."""
        rng = np.random.default_rng(0)
        voxels = rng.integers(-1000, 1000, (9, 20, 24)).astype(np.int16)
        matrix = np.array([[0.68, -0.24, 0, 5], [0.17, 0.96, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]])
        matrix[:3, 1] -= matrix[:3, 0] * (matrix[:3, 0] @ matrix[:3, 1]) / (matrix[:3, 0] @ matrix[:3, 0])
        volume = slicer.util.addVolumeFromArray(voxels, matrix, "SelfTestCT")
        answers = []
        EngineCheck(lambda engine, problems: answers.append((engine, problems)))
        self._wait(lambda: answers, 180)
        engine, problems = answers[0]
        self.assertIsNotNone(engine, problems)

        logic = CTGenReconstructLogic()
        parameterNode = logic.getParameterNode()
        parameterNode.inputVolume = volume
        parameterNode.codec = "identity"
        ends = []
        logic.start(parameterNode, engine, onEnd=lambda outcome, nodes: ends.append((outcome, nodes)))
        self._wait(lambda: ends, 180)
        outcome, nodes = ends[0]
        self.assertEqual(outcome.kind, "done", outcome.message)
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(nodes[0]), voxels)
        self.assertLess(geometry.worldGrid(nodes[0]).distance(geometry.worldGrid(volume)), 1e-6)
        self.assertEqual(json.loads(nodes[0].GetAttribute("CTGen.Record"))["codec"], "identity")
        self.delayDisplay("Test passed")
