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
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode, vtkMRMLTableNode
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

from CTGenLib import geometry
from CTGenLib.engine import EngineCheck
from CTGenLib.sections import EngineSection, RunSection, duration, fillBox
from CTGenReconstructLib import table
from CTGenReconstructLib.augmentJob import AugmentationLogic
from CTGenReconstructLib.augmentSection import AugmentSection
from CTGenReconstructLib.codecTable import CodecTable, about
from CTGenReconstructLib.comparisonSection import ComparisonSection
from CTGenReconstructLib.problems import AUGMENT, COMPARE

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
<p>The tab <b>Compare</b> runs several codecs on the same CT and shows numbers, reconstructions and differences side by
side. The tab <b>Augment</b> makes a data set for segmentation larger: every case once more through a codec, labels
untouched.</p>
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
    comparedCodecs - Names of the codecs to compare, with spaces between.
    comparison - Table of the comparison that is shown.
    dataSet, augmentOutput - Folders: a data set for segmentation, and the one that is made of it.
    views - Texts of its views, a JSON list; see the engine's AugmentOptions, also for mode, layout and seed.
    caseVolume, caseSegmentation - What is added to the data set as a case.
    caseName, casePatient - Its name (empty: that of the volume) and whose it is (empty: nobody else's).
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
    comparedCodecs: str = "embedded dct16"
    comparison: vtkMRMLTableNode
    dataSet: str = ""
    augmentOutput: str = ""
    views: str = '["embedded"]'
    augmentMode: str = "add"
    augmentLayout: str = "nnunet"
    augmentSeed: Annotated[int, WithinRange(0, 2147483647)] = 0
    caseVolume: vtkMRMLScalarVolumeNode
    caseSegmentation: vtkMRMLSegmentationNode
    caseName: str = ""
    casePatient: str = ""


class CTGenReconstructWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.runSection = None
        self.engineSection = None
        self.codecTable = None
        self.comparisonSection = None
        self.augmentSection = None
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
        self.ui.tabs.connect("currentChanged(int)", lambda index: self.updateGui())
        self.ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        self.runSection = RunSection(self.ui, self.logic)
        self.codecTable = CodecTable(self.ui, self._onCodecs)
        self.comparisonSection = ComparisonSection(self.ui, self.runSection)
        self.augmentSection = AugmentSection(self.ui, self.logic, self.runSection, self.updateGui)
        self.engineSection = EngineSection(
            self.ui, self.resourcePath("requirements.txt"), self.runSection, self.updateGui
        )

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self):
        """The module is unloaded, or Slicer ends: nothing may go on running."""
        self.engineSection.stop()
        self.augmentSection.question.forget()
        self.runSection.stop()
        self.logic.stopNow()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        """The user comes to the module."""
        if not self.logic.running:
            self.augmentSection.question.forget()  # the data set may have changed meanwhile
        self.initializeParameterNode()
        self.engineSection.checkOnce()

    def exit(self):
        """The user goes to another module; a job goes on."""
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """The input goes away: the job has no use any more, unless it works on files alone."""
        self.comparisonSection.forget()
        if self.logic.running and not self.logic.augmenting:
            self.logic.stopNow()
            self._showIdle(_("Stopped, because the scene was closed."))
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Start anew in the empty scene."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    # Parameters

    def initializeParameterNode(self):
        """Observe this scene's parameter node; choose the first volume and segmentation where none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        node = self._parameterNode
        volume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        node.inputVolume = node.inputVolume or volume
        node.caseVolume = node.caseVolume or volume
        segmentation = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        node.caseSegmentation = node.caseSegmentation or segmentation

    def setParameterNode(self, parameterNode):
        """Bind the panel to a parameter node, or to none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateGui)
        self._parameterNode = parameterNode
        if self._parameterNode is None:
            self.comparisonSection.show(None)
        else:
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

    def _onCodecs(self, names):
        if self._parameterNode is not None:
            self._parameterNode.comparedCodecs = " ".join(names)

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
        augmenting = self.ui.tabs.currentIndex == AUGMENT
        custom = node.window == "custom" and not augmenting
        self.ui.customLabel.setVisible(custom)
        self.ui.customRange.setVisible(custom)
        row = self.engine.codec(node.codec) if self.engine else None
        self.ui.codecInfoLabel.text = about(row)
        self.ui.triplanarBox.enabled = bool(node.triplanar or row is None or row["is_2d"])
        self.codecTable.show(self.engine.codecs if self.engine else [], node.comparedCodecs.split())
        if augmenting:
            self.augmentSection.show(node, self.engine)
        for widget in (self.ui.inputsButton, self.ui.windowLabel, self.ui.windowBox, self.ui.calibrateBox):
            widget.setVisible(not augmenting)
        self.engineSection.show(self.logic.running)
        self._showButtons()

    def _codecItems(self):
        rows = self.engine.codecs if self.engine else []
        return [
            (row["title"] if row["available"] else _("{title} (not installed)").format(title=row["title"]), row["name"])
            for row in rows
        ]

    def _showButtons(self):
        ui, running, what = self.ui, self.logic.running, self.ui.tabs.currentIndex
        for widget in (ui.inputsButton, ui.tabs, ui.methodButton):
            widget.enabled = not running
        ui.comparisonButton.setVisible(what == COMPARE and ui.comparisonSelector.nodeCount() > 0)
        self.comparisonSection.show(self._parameterNode.comparison)
        self.augmentSection.showButtons(what == AUGMENT)
        starts = (
            (_("Apply"), _("Reconstruct the volume"), _("Stop; no volume will be added")),
            (_("Compare"), _("Reconstruct the volume with every codec checked"), _("Stop; codecs that are done stay")),
            (_("Augment"), _("Make the new data set"), _("Stop; cases that are done stay")),
        )
        start, ready, stop = starts[what]
        if running:
            cancelling = self.logic.job.cancelling
            ui.applyButton.enabled = True
            ui.applyButton.text = _("Stop now") if cancelling else _("Cancel")
            ui.applyButton.toolTip = _("Stop the engine without waiting for it") if cancelling else stop
            return
        problem = _("Waiting for the engine.") if self.engineSection.checking else ""
        problem = problem or self.logic.problem(self._parameterNode, self.engine, what)
        if what == AUGMENT:
            problem = problem or self.augmentSection.problem()
        ui.applyButton.text = start
        ui.applyButton.enabled = not problem
        ui.applyButton.toolTip = problem or ready
        ui.hintLabel.text = problem
        ui.hintLabel.setVisible(bool(problem))

    # Running

    def onApplyButton(self):
        """Apply, Compare or Augment, or Cancel while a job runs."""
        if self.logic.running:
            self.logic.job.cancel()
            self._showButtons()
            return
        self.ui.logText.clear()
        node, run, what = self._parameterNode, self.runSection, self.ui.tabs.currentIndex
        try:
            if what == AUGMENT:
                self.augmentSection.start()
            elif what == COMPARE:
                self.logic.startComparison(node, self.engine, run.hear, run.log, self._onRow, self._onEndOfComparison)
            else:
                self.logic.start(node, self.engine, run.hear, run.log, self._onEnd)
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
        self._showEnd(outcome, message)

    def _onRow(self, comparison):
        if self._parameterNode is not None:
            self.comparisonSection.show(self._parameterNode.comparison)
        if len(comparison.done) == 1:
            self.comparisonSection.select(comparison.done[0])

    def _onEndOfComparison(self, outcome, comparison):
        message = outcome.message
        if outcome.kind == "done":
            message = _("Done in {time}.").format(time=duration(float(outcome.result.get("seconds", 0))))
            message += " " + table.summary(comparison.rows)
            if comparison.failed:
                message += " " + _("Failed: {codecs}; see below.").format(codecs=", ".join(comparison.failed))
        elif comparison.done:
            message += " " + _("Kept: {codecs}.").format(codecs=", ".join(comparison.done))
        self._showEnd(outcome, message)

    def _showEnd(self, outcome, message):
        if outcome.kind != "failed":  # the job has logged its own failure
            self.runSection.log(message)
        self._showIdle(message, failed=outcome.kind == "failed")

    def _showIdle(self, message, failed=False):
        self.runSection.end(message, failed)
        if self._parameterNode is not None:
            self.engineSection.show(running=False)
            self._showButtons()


class CTGenReconstructLogic(ScriptedLoadableModuleLogic, AugmentationLogic):
    """Runs reconstructions, comparisons and augmentations; works without the panel."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        AugmentationLogic.__init__(self)

    def getParameterNode(self):
        """The scene's parameter node, typed."""
        return CTGenReconstructParameterNode(super().getParameterNode())


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
