"""CTGenEvaluate: numbers for a CT against its reference, where they are worst, and what they say.

The module only exchanges data and shows results; a separate process (``python -m ctgencore``) computes.
"""

import os
import sys
import time
from typing import Annotated

import ctk
import numpy as np
import slicer
import vtk
from slicer import vtkMRMLDisplayableNode, vtkMRMLScalarVolumeNode, vtkMRMLTableNode
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

from CTGenEvaluateLib import panel, results, table
from CTGenEvaluateLib.logic import EvaluationLogic
from CTGenEvaluateLib.metrics import MetricTables
from CTGenEvaluateLib.problems import FOLDERS, PAIR, given
from CTGenEvaluateLib.resultSection import ResultSection
from CTGenLib.engine import EngineCheck
from CTGenLib.labels import LabelTables
from CTGenLib.rows import readRowsOf
from CTGenLib.sections import EngineSection, RunSection, duration, fillBox


class CTGenEvaluate(ScriptedLoadableModule):
    """Describes the module to Slicer."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("CTGen Evaluate")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Image Synthesis")]
        self.parent.dependencies = ["Segmentations", "Colors"]
        self.parent.contributors = ["CTGen contributors"]
        self.parent.helpText = _("""
<p>Measures a reconstructed or generated CT against a reference and its organs: every number is named by its recipe, and
a click on it leads to the slice where it is worst. For research; not for diagnosis.</p>
<p><b>Steps</b>: 1. Choose the CT to test and its reference, or two folders. 2. Choose what to measure. 3. Click
Evaluate. Table, chart and error map lie in a folder of their own in the Data module.</p>
<p>The computation runs in a process of its own. If the line under Engine is not green, open that section: it says what
is missing.</p>
""") + self.getDefaultModuleDocumentationLink()  # fmt: skip
        self.parent.acknowledgementText = _("""
<p>CTGen implements published work. The list of metrics names the source of each; please cite those that you report.</p>
""")

    def getDefaultModuleDocumentationLink(self, docPage=None):
        """Point to CTGen's own pages."""
        return _("<p>More in the {start}documentation{end}.</p>").format(
            start='<a href="https://github.com/CTGen/SlicerCTGen/blob/main/CTGenCore/docs/slicer.md">', end="</a>"
        )


@parameterNodeWrapper
class CTGenEvaluateParameterNode:
    """What the user chose; saved with the scene.

    testVolume, referenceVolume - The CT to test, and what it should be like (or none).
    organs, testOrgans - Segmentation or label map of the reference, and one of the test CT.
    testFolder, referenceFolder, organsFolder - The same as folders of files.
    resultsFolder - Where an evaluation of folders is kept.
    preset - Which metrics.
    tolerance, segmenter, device - See the engine's EvaluateOptions.
    resultTable - Evaluation that is shown.
    sideBySide - Change the layout when there are results.
    """

    testVolume: vtkMRMLScalarVolumeNode
    referenceVolume: vtkMRMLScalarVolumeNode
    organs: vtkMRMLDisplayableNode
    testOrgans: vtkMRMLDisplayableNode
    testFolder: str = ""
    referenceFolder: str = ""
    organsFolder: str = ""
    resultsFolder: str = ""
    preset: str = "reconstruction"
    tolerance: Annotated[float, WithinRange(0.1, 20)] = 2.0
    segmenter: Annotated[str, Choice(panel.SEGMENTERS)] = "threshold"
    device: str = "auto"
    resultTable: vtkMRMLTableNode
    sideBySide: bool = True


class CTGenEvaluateWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.runSection = None
        self.engineSection = None
        self.labelTables = None
        self.metricTables = None
        self.resultSection = None
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
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/CTGenEvaluate.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = CTGenEvaluateLogic()
        self._choices = ((ui.presetBox, "preset"), (ui.segmenterBox, "segmenter"), (ui.deviceBox, "device"))
        self._paths = (
            (ui.testFolderEdit, "testFolder"),
            (ui.referenceFolderEdit, "referenceFolder"),
            (ui.organsFolderEdit, "organsFolder"),
            (ui.resultsFolderEdit, "resultsFolder"),
        )
        for box, _name in self._choices:
            box.connect("currentIndexChanged(int)", self._onChoice)
        for edit, _name in self._paths:
            edit.filters = ctk.ctkPathLineEdit.Dirs
            edit.connect("currentPathChanged(QString)", self._onPath)
        ui.tabs.connect("currentChanged(int)", lambda index: self.updateGui())
        ui.applyButton.connect("clicked(bool)", self.onApplyButton)
        panel.prepare(ui.metricTable)
        self.runSection = RunSection(ui, self.logic)
        self.resultSection = ResultSection(ui, self.runSection, lambda node: readRowsOf([node], self.labelTables)[0])
        self.engineSection = EngineSection(ui, self.resourcePath("requirements.txt"), self.runSection, self._onEngine)
        self.labelTables = LabelTables(self.updateGui)
        self.metricTables = MetricTables(self.updateGui)

        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.initializeParameterNode()

    def cleanup(self):
        """The module is unloaded, or Slicer ends: nothing may go on running."""
        self.engineSection.stop()
        self.labelTables.stop()
        self.metricTables.stop()
        self.runSection.stop()
        self.resultSection.stop()
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
        """The inputs go away: the job has no use any more."""
        self.resultSection.forget()
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
        """Observe this scene's parameter node; choose the last two CTs if none is chosen, the later as the test."""
        self.setParameterNode(self.logic.getParameterNode())
        node = self._parameterNode
        if node.testVolume is None and node.referenceVolume is None:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")  # label maps are of this class too
            volumes = [each for each in volumes if not each.IsA("vtkMRMLLabelMapVolumeNode")]
            with slicer.util.NodeModify(node):
                node.testVolume = volumes[-1] if volumes else None
                node.referenceVolume = volumes[0] if len(volumes) > 1 else None

    def setParameterNode(self, parameterNode):
        """Bind the panel to a parameter node, or to none."""
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._parameterNodeGuiTag)
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateGui)
        self._parameterNode = parameterNode
        if self._parameterNode is None:
            self.resultSection.show(None, None)
        else:
            self._parameterNodeGuiTag = self._parameterNode.connectGui(self.ui)
            self.addObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.updateGui)
            self.updateGui()

    def _onChoice(self, index):
        if self._filling or self._parameterNode is None:
            return
        with slicer.util.NodeModify(self._parameterNode):
            for box, name in self._choices:
                if box.currentIndex >= 0:
                    setattr(self._parameterNode, name, box.itemData(box.currentIndex))

    def _onPath(self, path):
        if self._filling or self._parameterNode is None:
            return
        with slicer.util.NodeModify(self._parameterNode):
            for edit, name in self._paths:
                setattr(self._parameterNode, name, edit.currentPath)

    def _onEngine(self):
        interpreter = self.engine.interpreter if self.engine else None
        self.labelTables.setInterpreter(interpreter)
        self.metricTables.setInterpreter(interpreter)
        self.updateGui()

    # What the panel shows

    def updateGui(self, caller=None, event=None):
        """Show parameters, engine, results and what can be done."""
        node = self._parameterNode
        if node is None:
            return
        ui, tables = self.ui, self.metricTables
        self._filling = True
        fillBox(ui.presetBox, panel.presetItems(list(tables.presets)), node.preset)
        fillBox(ui.segmenterBox, [(name, name) for name in panel.SEGMENTERS], node.segmenter)
        fillBox(ui.deviceBox, self.engineSection.deviceItems(), node.device)
        for edit, name in self._paths:
            if edit.currentPath != getattr(node, name):
                edit.currentPath = getattr(node, name)
        self._filling = False
        organs, testOrgans = self._rows()
        words = [panel.organsText(organs)]
        words += [_("In the test CT: {organs}").format(organs=panel.organsText(testOrgans))] if testOrgans else []
        ui.organsInfoLabel.text = "\n".join(filter(None, words))
        ui.organsInfoLabel.setVisible(bool(ui.organsInfoLabel.text))
        what = ui.tabs.currentIndex
        panel.showMetrics(
            ui.metricTable, tables.of(node.preset), given(node, what, organs, testOrgans), what == FOLDERS
        )
        self.engineSection.show(self.logic.running)
        self._showButtons()

    def _rows(self):
        """What the segments of both label sources stand for."""
        if self.ui.tabs.currentIndex != PAIR:
            return [], []
        return readRowsOf([self._parameterNode.organs, self._parameterNode.testOrgans], self.labelTables)

    def _showButtons(self):
        ui, running = self.ui, self.logic.running
        for widget in (ui.tabs, ui.metricsButton):
            widget.enabled = not running
        self.resultSection.show(self._parameterNode.resultTable, self.engine)
        if running:
            cancelling = self.logic.job.cancelling
            ui.applyButton.enabled = True
            ui.applyButton.text = _("Stop now") if cancelling else _("Cancel")
            ui.applyButton.toolTip = (
                _("Stop the engine without waiting for it") if cancelling else _("Stop; nothing will be added")
            )
            return
        problem = _("Waiting for the engine.") if self.engineSection.checking else ""
        problem = problem or self.labelTables.problem
        problem = problem or self.logic.problem(
            self._parameterNode, self.engine, self.metricTables, ui.tabs.currentIndex, *self._rows()
        )
        ui.applyButton.text = _("Evaluate")
        ui.applyButton.enabled = not problem
        ui.applyButton.toolTip = problem or _("Measure")
        ui.hintLabel.text = problem
        ui.hintLabel.setVisible(bool(problem))

    # Running

    def onApplyButton(self):
        """Evaluate, or Cancel while a job runs."""
        if self.logic.running:
            self.logic.job.cancel()
            self._showButtons()
            return
        self.ui.logText.clear()
        try:
            self.logic.start(
                self._parameterNode, self.engine, self.metricTables, self.ui.tabs.currentIndex, *self._rows(),
                self.labelTables.labels, self.runSection.hear, self.runSection.log, self._onEnd,
            )  # fmt: skip
        except (ValueError, OSError) as error:
            self.runSection.log(str(error))
            self.runSection.say(str(error), failed=True)
            return
        self.runSection.begin()
        self.updateGui()

    def _onEnd(self, outcome, node):
        message = outcome.message
        if outcome.kind == "done":
            evaluation = table.read(node)
            seconds = duration(float(outcome.result.get("seconds", 0)))
            message = _("Done in {time}: {numbers}.").format(time=seconds, numbers=panel.summaryText(evaluation))
            failed = len({each["case"] for each in evaluation["failures"]})
            if failed:
                message += " " + _("{count} cases failed, see below.").format(count=failed)
        elif outcome.kind == "cancelled" and self.logic.job.pair is None:
            message += " " + _("Cases that are done are kept in the results folder; run again to go on.")
        if outcome.kind != "failed":  # the job has logged its own failure
            self.runSection.log(message)
        if node is not None and self._parameterNode is not None:
            self._parameterNode.resultTable = node
            if self._parameterNode.sideBySide:
                self.resultSection.onCompareButton()
        self._showIdle(message, failed=outcome.kind == "failed")

    def _showIdle(self, message, failed=False):
        self.runSection.end(message, failed)
        if self._parameterNode is not None:
            self.updateGui()


class CTGenEvaluateLogic(ScriptedLoadableModuleLogic, EvaluationLogic):
    """Runs evaluations; works without the panel."""

    def __init__(self):
        ScriptedLoadableModuleLogic.__init__(self)
        EvaluationLogic.__init__(self)

    def getParameterNode(self):
        """The scene's parameter node, typed."""
        return CTGenEvaluateParameterNode(super().getParameterNode())


class CTGenEvaluateTest(ScriptedLoadableModuleTest):
    """Self test: a volume with a known error. Needs a working engine."""

    def setUp(self):
        """Start with an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Run all."""
        self.setUp()
        self.test_evaluate()

    def _wait(self, done, seconds):
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            slicer.app.processEvents()
            time.sleep(0.02)
        self.assertTrue(done())

    def test_evaluate(self):
        """A volume that is 10 HU too high has a bias of 10 HU, and an error map of 10 HU."""
        rng = np.random.default_rng(0)
        voxels = rng.integers(-900, 900, (16, 32, 40)).astype(np.int16)
        matrix = np.diag([-2.0, -2.0, 3.0, 1.0])
        reference = slicer.util.addVolumeFromArray(voxels, matrix, "SelfTestReference")
        test = slicer.util.addVolumeFromArray(voxels + np.int16(10), matrix, "SelfTestCT")
        answers = []
        EngineCheck(lambda engine, problems: answers.append((engine, problems)))
        self._wait(lambda: answers, 180)
        engine, problems = answers[0]
        self.assertIsNotNone(engine, problems)
        tables = MetricTables(lambda: None)
        tables.setInterpreter(engine.interpreter)
        self._wait(lambda: not tables.waiting, 180)

        logic = CTGenEvaluateLogic()
        parameterNode = logic.getParameterNode()
        parameterNode.testVolume, parameterNode.referenceVolume = test, reference
        ends = []
        logic.start(parameterNode, engine, tables, PAIR, onEnd=lambda outcome, node: ends.append((outcome, node)))
        self._wait(lambda: ends, 300)
        outcome, node = ends[0]
        self.assertEqual(outcome.kind, "done", outcome.message)
        lines = {(line["metric"], line["region"]): line["mean"] for line in table.read(node)["summary"]}
        self.assertAlmostEqual(lines["bias_hu", "all"], 10.0, places=3)
        errors = node.GetNodeReference(results.ERROR_MAP)
        self.assertTrue((slicer.util.arrayFromVolume(errors) == 10).all())
        self.delayDisplay("Test passed")
