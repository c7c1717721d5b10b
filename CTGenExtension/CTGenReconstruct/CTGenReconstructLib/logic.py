"""Starts runs and puts their results into the scene."""

from __future__ import annotations

import slicer
from CTGenLib import geometry, result
from CTGenLib.job import EngineJob, Outcome, ReconstructionJob
from slicer.i18n import tr as _

from . import problems
from .comparison import Comparison, ComparisonJob
from .problems import COMPARE, ONE


class ReconstructionLogic:
    """What CTGenReconstructLogic does, but for the parameter node.

    Attributes:
        job: the last one, or None.
        failedFolder: folder of the job that failed, or empty.
    """

    def __init__(self) -> None:
        self.job: EngineJob | None = None
        self.failedFolder = ""

    @property
    def running(self):
        """Whether a job runs."""
        return self.job is not None and self.job.running

    @staticmethod
    def problem(parameterNode, engine, what=ONE):
        """Why a run is not possible now; empty when it is. See problems.problem."""
        return problems.problem(parameterNode, engine, what)

    @staticmethod
    def _shared(parameterNode):
        """Options that both tasks have."""
        window = parameterNode.window
        if window == "custom":
            window = f"{parameterNode.customLow} {parameterNode.customHigh}"
        return {"window": window, "device": parameterNode.device, "calibrate": parameterNode.calibrate}

    @classmethod
    def options(cls, parameterNode):
        """The parameters as the engine's ReconstructOptions."""
        own = {"codec": parameterNode.codec, "triplanar": parameterNode.triplanar}
        return own | cls._shared(parameterNode)

    @classmethod
    def comparisonOptions(cls, parameterNode, engine):
        """The parameters as the engine's CompareOptions."""
        return {"codecs": problems.chosen(parameterNode, engine)} | cls._shared(parameterNode)

    def start(self, parameterNode, engine, onEvent=None, onLog=None, onEnd=None):
        """Start a reconstruction and return.

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
        self._prepare(parameterNode, engine, ONE)
        inputVolume, replaced = parameterNode.inputVolume, parameterNode.outputVolume
        self.job = ReconstructionJob(
            engine.interpreter,
            inputVolume,
            self.options(parameterNode),
            parameterNode.difference,
            onEvent or (lambda event: None),
            onLog or (lambda text: None),
            lambda outcome: self._end(outcome, inputVolume, replaced, onEnd or (lambda outcome, nodes: None)),
        )

    def startComparison(self, parameterNode, engine, onEvent=None, onLog=None, onRow=None, onEnd=None):
        """Start a comparison of codecs and return.

        Args:
            parameterNode: what to do; its ``comparison`` becomes the new table when the first codec is done.
            engine: from EngineCheck.
            onEvent: called with the engine's events.
            onLog: called with lines of text.
            onRow: called with the comparison when one more codec is done.
            onEnd: called with the Outcome and the comparison.

        Raises:
            ValueError: what problem() says; a GeometryError is one.
            OSError: the engine cannot be started.
        """
        self._prepare(parameterNode, engine, COMPARE)
        options = self.comparisonOptions(parameterNode, engine)
        comparison = Comparison(parameterNode, options)

        def row(found):
            comparison.add(found, self.job)
            (onRow or (lambda comparison: None))(comparison)

        self.job = ComparisonJob(
            engine.interpreter,
            parameterNode.inputVolume,
            options,
            onEvent or (lambda event: None),
            onLog or (lambda text: None),
            row,
            lambda outcome: self._endComparison(outcome, comparison, onEnd or (lambda outcome, comparison: None)),
        )

    def stopNow(self):
        """End a running job at once; nothing more is added."""
        if self.running:
            self.job.stopNow()
        self._forgetFailure()

    def _prepare(self, parameterNode, engine, what):
        self._begin(self.problem(parameterNode, engine, what))

    def _begin(self, problem):
        if self.running:
            raise ValueError(_("A job is running already."))
        if problem:
            raise ValueError(problem)
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
                outcome = Outcome("failed", str(error))
                self.job.log(outcome.message)
        self._tidy(outcome)
        onEnd(outcome, nodes)

    def _endComparison(self, outcome, comparison, onEnd):
        self._tidy(outcome)
        onEnd(outcome, comparison)

    def _tidy(self, outcome):
        """Leave of the job's folder what helps to find a fault."""
        if outcome.kind == "failed":
            self.job.removeVolumes()
            self.failedFolder = self.job.folder
        else:
            self.job.removeFolder()

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
