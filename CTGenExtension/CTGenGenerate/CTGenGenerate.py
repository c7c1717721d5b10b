"""CTGenGenerate: CT from segmentations and a report, edits of a CT, and what-if pairs.

The module only exchanges data and shows progress; a separate process (``python -m ctgencore``) computes.
"""

import os
import random
import sys
import time
from typing import Annotated

import numpy as np
import slicer
import vtk
from slicer import vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode
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

from CTGenGenerateLib import panel, plans
from CTGenGenerateLib.checker import ConsistencyChecker
from CTGenGenerateLib.logic import GenerationLogic
from CTGenGenerateLib.panel import SOLVERS
from CTGenGenerateLib.preparation import Preparation
from CTGenGenerateLib.problems import EDIT, GENERATE
from CTGenGenerateLib.reportBox import ReportBox
from CTGenGenerateLib.segmentTable import SegmentTable
from CTGenLib import geometry, result
from CTGenLib.compare import CompareLayout
from CTGenLib.labels import LabelTables
from CTGenLib.rows import readRows
from CTGenLib.runfolder import WINDOWS
from CTGenLib.sections import EngineSection, RunSection, duration

LARGEST_SEED = 2**31 - 1


class CTGenGenerate(ScriptedLoadableModule):
    """Describes the module to Slicer."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("CTGen Generate")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = ["Segmentations"]
        self.parent.contributors = ["CTGen contributors"]
        self.parent.helpText = _("""
<p>Draws CT from a segmentation of organs and diseases and from a report, changes a region of a CT, and shows what one
change does. What it makes is synthetic and marked so. For research; not for diagnosis.</p>
<p><b>Steps</b>: 1. Choose a segmentation; look over the table. 2. Write a report, or pick sentences under Findings.
3. Click Preview, then Generate. The results lie in a folder of their own in the Data module.</p>
<p>The computation runs in a process of its own. If the line under Engine is not green, open that section: it says what
is missing.</p>
""") + self.getDefaultModuleDocumentationLink()  # fmt: skip
        self.parent.acknowledgementText = _("""
<p>CTGen implements published work. If you use it, please cite <i>Foundation VAEs for 3D CT Reconstruction,
Augmentation, and Generation</i>. Weights keep their own licenses, which the module shows.</p>
""")

    def getDefaultModuleDocumentationLink(self, docPage=None):
        """Point to CTGen's own pages."""
        return _("<p>More in the {start}documentation{end}.</p>").format(
            start='<a href="https://github.com/CTGen/SlicerCTGen/blob/main/CTGenCore/docs/slicer.md">', end="</a>"
        )


@parameterNodeWrapper
class CTGenGenerateParameterNode:
    """What the user chose; saved with the scene.

    segmentation - Organs and diseases; what a segment stands for is kept in the segment's tags.
    referenceVolume - Volume whose grid the result gets; none: that of the segmentation.
    spacingIn, spacingBetween - Distance of pixels and of slices in mm; 0: as the grid has it.
    report - Text to draw.
    model, seed, variants, steps, guidance, solver, tries, draft, device - See the engine's GenerateOptions.
    editVolume, editRegion, editSegment - CT to change, and the segment where.
    strength, feather, editDifference - See the engine's EditOptions.
    factor - What differs between A and B of a what-if pair.
    otherReport - Report of B.
    window - Window of new volumes.
    sideBySide - Change the layout when a run has made several volumes.
    outlines - Show the segmentation without its fill once there are results.
    """

    segmentation: vtkMRMLSegmentationNode
    referenceVolume: vtkMRMLScalarVolumeNode
    spacingIn: Annotated[float, WithinRange(0, 10)] = 0.0
    spacingBetween: Annotated[float, WithinRange(0, 20)] = 0.0
    report: str = ""
    model: str = "foundation-embedded"
    seed: Annotated[int, WithinRange(0, LARGEST_SEED)] = 0
    variants: Annotated[int, WithinRange(1, 8)] = 1
    steps: Annotated[int, WithinRange(1, 999)] = 20
    guidance: Annotated[float, WithinRange(0, 20)] = 1.0
    solver: Annotated[str, Choice(SOLVERS)] = "ddim"
    tries: Annotated[int, WithinRange(1, 10)] = 1
    draft: bool = True
    device: str = "auto"
    editVolume: vtkMRMLScalarVolumeNode
    editRegion: vtkMRMLSegmentationNode
    editSegment: str = ""
    strength: Annotated[float, WithinRange(0.05, 1)] = 0.8
    feather: Annotated[float, WithinRange(0, 50)] = 4.0
    editDifference: bool = False
    factor: Annotated[str, Choice(plans.FACTORS)] = "report"
    otherReport: str = ""
    window: Annotated[str, Choice(tuple(WINDOWS))] = "lung"
    sideBySide: bool = True
    outlines: bool = True


class CTGenGenerateWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.runSection = None
        self.engineSection = None
        self.labelTables = None
        self.table = None
        self.reportBox = None
        self.checker = None
        self.compare = CompareLayout()
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
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/CTGenGenerate.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = CTGenGenerateLogic()
        ui = self.ui
        self._choices = (
            (ui.modelBox, "model"),
            (ui.solverBox, "solver"),
            (ui.deviceBox, "device"),
            (ui.factorBox, "factor"),
            (ui.windowBox, "window"),
            (ui.editSegmentBox, "editSegment"),
        )
        for box, _name in self._choices:
            box.connect("currentIndexChanged(int)", self._onChoice)
        self.runSection = RunSection(ui, self.logic)
        self.reportBox = ReportBox(ui, uiWidget, self._onText, self.onShortcut)
        ui.otherReportText.connect("textChanged()", self._onText)
        ui.tabs.connect("currentChanged(int)", lambda index: self.updateGui())
        ui.diceButton.connect("clicked(bool)", self.onDiceButton)
        ui.previewButton.connect("clicked(bool)", self.onPreviewButton)
        ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        ui.compareButton.connect("clicked(bool)", self.onCompareButton)
        ui.restoreButton.connect("clicked(bool)", self.onRestoreButton)
        ui.outlinesBox.connect("toggled(bool)", lambda checked: self._showOutlines())
        self.reportBox.showProblems([])
        self.engineSection = EngineSection(ui, self.resourcePath("requirements.txt"), self.runSection, self._onEngine)
        self.labelTables = LabelTables(self._onLabels)
        self.checker = ConsistencyChecker(self.reportBox.showProblems)
        self.table = SegmentTable(ui, self.labelTables, self.updateGui)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self):
        """The module is unloaded, or Slicer ends: nothing may go on running."""
        self.engineSection.stop()
        self.labelTables.stop()
        self.checker.stop()
        self.runSection.stop()
        self.logic.stopNow()
        self.setParameterNode(None)
        self.table.stop()
        self.removeObservers()

    def enter(self):
        """The user comes to the module."""
        self.initializeParameterNode()
        self.engineSection.checkOnce()

    def exit(self):
        """The user goes to another module; a job goes on."""
        self.checker.stop()
        self.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """The inputs go away: the job has no use any more. The report stays in the history."""
        self.checker.forget()
        if self._parameterNode is not None:
            self.reportBox.remember(self._parameterNode.report)
        if self.logic.running:
            self.logic.stopNow()
            self._showIdle(_("Stopped, because the scene was closed."))
        self.compare.restore()
        self.logic.forget()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        """Start anew in the empty scene."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    # Parameters

    def initializeParameterNode(self):
        """Observe this scene's parameter node; choose the first segmentation and CT if none is chosen."""
        self.setParameterNode(self.logic.getParameterNode())
        node = self._parameterNode
        first = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
        with slicer.util.NodeModify(node):
            for name in ("segmentation", "editRegion"):
                if getattr(node, name) is None:
                    setattr(node, name, first)
            if node.editVolume is None:
                volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")  # label maps are of this class too
                node.editVolume = next((each for each in volumes if not each.IsA("vtkMRMLLabelMapVolumeNode")), None)

    def setParameterNode(self, parameterNode):
        """Bind the panel to a parameter node, or to none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateGui)
        self._parameterNode = parameterNode
        if self._parameterNode is None:
            self.table.setSegmentation(None)
        else:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateGui)
            self.updateGui()

    def _onChoice(self, index):
        if self._filling or self._parameterNode is None:
            return
        window = self._parameterNode.window
        with slicer.util.NodeModify(self._parameterNode):
            for box, name in self._choices:
                if box.currentIndex >= 0:
                    setattr(self._parameterNode, name, box.itemData(box.currentIndex))
        if self.logic.runner is not None and window != self._parameterNode.window:
            for volume in self.logic.runner.volumes:
                result.showWindow(volume, *WINDOWS[self._parameterNode.window])

    def _onText(self):
        if self._filling or self._parameterNode is None:
            return
        with slicer.util.NodeModify(self._parameterNode):
            self._parameterNode.report = self.ui.reportText.plainText
            self._parameterNode.otherReport = self.ui.otherReportText.plainText

    def _onEngine(self):
        self.labelTables.setInterpreter(self.engine.interpreter if self.engine else None)
        self.table.update()

    def _onLabels(self):
        self.reportBox.setFindings(self.labelTables.findings)
        self.table.update()

    # What the panel shows

    def updateGui(self, caller=None, event=None):
        """Show parameters, engine and what can be done."""
        node = self._parameterNode
        if node is None:
            return
        self.table.setSegmentation(node.segmentation)
        self._filling = True
        panel.show(self.ui, node, self.engineSection)
        self.reportBox.setText(node.report)
        self._filling = False
        self.engineSection.show(self.logic.running)
        self._showButtons()
        self._checkSoon()

    def _showButtons(self):
        ui, running, what = self.ui, self.logic.running, self.ui.tabs.currentIndex
        for widget in (ui.tabs, ui.reportButton, ui.modelButton):
            widget.enabled = not running
        ui.compareButton.enabled = not running and len(self.logic.sideBySide()) > 1
        ui.restoreButton.enabled = self.compare.shown
        ui.previewButton.setVisible(what != EDIT)
        if running:
            cancelling = self.logic.job.cancelling
            ui.previewButton.enabled = False
            ui.applyButton.enabled = True
            ui.applyButton.text = _("Stop now") if cancelling else _("Cancel")
            ui.applyButton.toolTip = (
                _("Stop the engine without waiting for it") if cancelling else _("Stop; volumes that are done stay")
            )
            return
        problem = _("Waiting for the engine.") if self.engineSection.checking else ""
        problem = problem or self.labelTables.problem
        problem = problem or self.logic.problem(self._parameterNode, self.engine, what, self._rows())
        ui.applyButton.text = (_("Generate"), _("Edit"), _("Compare A and B"))[what]
        for button in (ui.applyButton, ui.previewButton):
            button.enabled = not problem
        ui.applyButton.toolTip = problem or _("Draw at full resolution (Ctrl+Enter)")
        ui.hintLabel.text = problem
        ui.hintLabel.setVisible(bool(problem))

    def _rows(self):
        """What the segments of the tab stand for."""
        if self.ui.tabs.currentIndex == EDIT:
            return readRows(self._parameterNode.editRegion, self.labelTables)
        return self.table.used()

    def _checkSoon(self):
        """Have the engine look at report and masks, if they have changed and could be run."""
        if self.logic.running:
            return
        if self.ui.applyButton.enabled and self.ui.tabs.currentIndex != EDIT:
            self.checker.look(self.engine.interpreter, self._parameterNode, self.table.used())
        else:
            self.checker.forget()

    # Running

    def onDiceButton(self):
        """Draw another seed."""
        self._parameterNode.seed = random.randrange(LARGEST_SEED)

    def onPreviewButton(self):
        """Draw at low resolution."""
        self._start(preview=True)

    def onApplyButton(self):
        """Draw, or Cancel while a job runs."""
        if self.logic.running:
            self.logic.job.cancel()
            self._showButtons()
        else:
            self._start(preview=False)

    def onShortcut(self):
        """Ctrl+Enter: run; never cancel."""
        if not self.logic.running and self.ui.applyButton.enabled:
            self._start(preview=False)

    def onCompareButton(self):
        """Show the last run's volumes side by side."""
        self.compare.show(self.logic.sideBySide())
        self._showButtons()

    def onRestoreButton(self):
        """Back to the layout before."""
        self.compare.restore()
        self._showButtons()

    def _start(self, preview):
        node, what = self._parameterNode, self.ui.tabs.currentIndex
        if self.checker.waiting:
            self.checker.forget()
        self.ui.logText.clear()
        self.runSection.part = ""
        self.reportBox.remember(node.report)
        try:
            self.logic.start(
                node, self.engine, what, self._rows(), preview,
                self.runSection.hear, self.runSection.log, self._onVolume, self._onEnd,
            )  # fmt: skip
        except (ValueError, OSError) as error:
            self.runSection.log(str(error))
            self.runSection.say(str(error), failed=True)
            return
        self._showPart(1)
        self.runSection.begin()
        self.updateGui()

    def _showPart(self, number):
        count = self.logic.job.count
        self.runSection.part = _("{number} of {count}: ").format(number=number, count=count) if count > 1 else ""

    def _onVolume(self, number, count, volume):
        self._showPart(min(number + 1, count))
        self.compare.restore()  # the views of an earlier comparison keep their volumes
        panel.showVolume(volume)

    def _onEnd(self, outcome):
        volumes = self.logic.runner.volumes
        message = outcome.message
        if outcome.kind == "done":
            time = duration(float(outcome.result.get("seconds", 0)))
            names = ", ".join(f"'{volume.GetName()}'" for volume in volumes)
            message = _("Done in {time}: {names}.") if len(volumes) == 1 else _("Done, the last in {time}: {names}.")
            message = f"{message.format(time=time, names=names)} {self.logic.qualityText()}".strip()
        elif volumes:
            message += " " + _("Volumes that were done before stay: {count}.").format(count=len(volumes))
        if outcome.kind != "failed":  # the job has logged its own failure
            self.runSection.log(message)
        together = self.logic.sideBySide()
        if self._parameterNode is not None and self._parameterNode.sideBySide and len(together) > 1:
            self.compare.show(together)
        self._showOutlines()
        if volumes and self.logic.runner.plan.focus is not None:
            slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *self.logic.runner.plan.focus)
        self._showIdle(message, failed=outcome.kind == "failed")

    def _showOutlines(self):
        """Show or hide the fill of the segmentations over the results."""
        node = self._parameterNode
        if node is not None and self.logic.runner is not None and self.logic.runner.volumes:
            for segmentation in (node.segmentation, node.editRegion):
                panel.showFill(segmentation, not node.outlines)

    def _showIdle(self, message, failed=False):
        self.runSection.end(message, failed)
        if self._parameterNode is not None:
            self.updateGui()


class CTGenGenerateLogic(ScriptedLoadableModuleLogic, GenerationLogic):
    """Runs generations and edits; works without the panel."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        GenerationLogic.__init__(self)

    def getParameterNode(self):
        """The scene's parameter node, typed."""
        return CTGenGenerateParameterNode(super().getParameterNode())


class CTGenGenerateTest(ScriptedLoadableModuleTest):
    """Self test: a small body and lungs must become a CT on their grid. Needs a working engine."""

    def setUp(self):
        """Start with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run all."""
        self.setUp()
        self.test_generate()

    def _wait(self, done, seconds):
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.02)
        self.assertTrue(done())

    def test_generate(self):
        """A body with lungs becomes a synthetic CT on the segmentation's grid, in a folder of its own."""
        shape = (16, 48, 48)
        _z, y, x = np.indices(shape)
        body = ((y - 24) / 18) ** 2 + ((x - 24) / 22) ** 2 < 1
        lungs = [((y - 24) / 11) ** 2 + ((x - middle) / 7) ** 2 < 1 for middle in (14, 34)]
        volume = slicer.util.addVolumeFromArray(
            np.zeros(shape, np.int16), np.diag([-7.0, -7.0, 8.0, 1.0]), "SelfTestGrid"
        )
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "SelfTest")
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        for name, part in (("body", body), ("left lung upper lobe", lungs[1]), ("right lung upper lobe", lungs[0])):
            segmentId = segmentation.GetSegmentation().AddEmptySegment("", name)
            slicer.util.updateSegmentBinaryLabelmapFromArray(part.astype(np.uint8), segmentation, segmentId, volume)
        answers = []
        self.preparation = Preparation(segmentation, lambda *answer: answers.append(answer))
        self._wait(lambda: answers, 180)
        engine, rows, problems = answers[0]
        self.assertIsNotNone(engine, problems)

        logic = CTGenGenerateLogic()
        parameterNode = logic.getParameterNode()
        parameterNode.segmentation = segmentation
        parameterNode.steps = 2
        ends = []
        logic.start(parameterNode, engine, GENERATE, rows, onEnd=ends.append)
        self._wait(lambda: ends, 300)
        self.assertEqual(ends[0].kind, "done", ends[0].message)
        made = logic.runner.volumes[0]
        self.assertEqual(slicer.util.arrayFromVolume(made).shape, shape)
        self.assertLess(geometry.worldGrid(made).distance(geometry.worldGrid(volume)), 1e-3)
        self.assertEqual(made.GetAttribute("CTGen.Synthetic"), "true")
        self.delayDisplay("Test passed")
