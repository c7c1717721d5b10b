"""Starts evaluations and puts their results into the scene."""

from __future__ import annotations

import os
from collections.abc import Mapping

from CTGenLib import geometry
from CTGenLib.job import Outcome
from CTGenLib.labels import Label
from slicer.i18n import tr as _

from . import problems, results
from .job import EVALUATION, EvaluationJob, Pair
from .problems import FOLDERS


class EvaluationLogic:
    """What CTGenEvaluateLogic does, but for the parameter node.

    Attributes:
        job: the last one, or None.
        failedFolder: folder of the job that failed, or empty.
    """

    def __init__(self) -> None:
        self.job: EvaluationJob | None = None
        self.failedFolder = ""

    @property
    def running(self):
        """Whether a job runs."""
        return self.job is not None and self.job.running

    @staticmethod
    def problem(parameterNode, engine, tables, what, organs=(), testOrgans=()):
        """Why a run is not possible now; empty when it is. See problems.problem."""
        return problems.problem(parameterNode, engine, tables, what, organs, testOrgans)

    @staticmethod
    def options(parameterNode):
        """The parameters as the engine's EvaluateOptions."""
        return {
            "metrics": [parameterNode.preset],
            "tolerance_mm": parameterNode.tolerance,
            "segmenter": parameterNode.segmenter,
            "device": parameterNode.device,
        }

    def start(self, parameterNode, engine, tables, what, organs=(), testOrgans=(),
              labels: Mapping[int, Label] | None = None, onEvent=None, onLog=None, onEnd=None):  # fmt: skip
        """Start a job and return.

        Args:
            parameterNode: what to do.
            engine: from EngineCheck.
            tables: the engine's metrics.
            what: PAIR or FOLDERS.
            organs, testOrgans: what the segments of the parameter node's ``organs`` and ``testOrgans`` stand for; see
                CTGenLib.rows.readRows. Without rows they are not used.
            labels: the engine's, by number; with them the middle of an organ is found in a slice.
            onEvent: called with the engine's events.
            onLog: called with lines of text.
            onEnd: called with the Outcome and the table node, or None.

        Raises:
            ValueError: what problem() says; a GeometryError is one.
            OSError: the engine cannot be started, or the disk is full.
        """
        if self.running:
            raise ValueError(_("An evaluation is running already."))
        problem = self.problem(parameterNode, engine, tables, what, organs, testOrgans)
        if problem:
            raise ValueError(problem)
        self._forgetFailure()
        request = {"task": "evaluate", "options": self.options(parameterNode)}
        pair = None
        if what == FOLDERS:
            folder = os.path.abspath(parameterNode.resultsFolder.strip())
            os.makedirs(folder, exist_ok=True)
            request |= {"output": os.path.join(folder, EVALUATION)}
            for key, path in (
                ("input", parameterNode.testFolder),
                ("reference", parameterNode.referenceFolder),
                ("mask", parameterNode.organsFolder),
            ):
                request[key] = os.path.abspath(path.strip()) if path.strip() else None
        else:
            request |= {"output": EVALUATION}
            pair = Pair(
                parameterNode.testVolume,
                parameterNode.referenceVolume,
                (parameterNode.organs if organs else None, organs),
                (parameterNode.testOrgans if testOrgans else None, testOrgans),
            )
        ids = {label.name: label.id for label in (labels or {}).values()}
        self.job = EvaluationJob(
            engine.interpreter,
            request,
            pair,
            onEvent or (lambda event: None),
            onLog or (lambda text: None),
            lambda outcome: self._end(outcome, ids, onEnd or (lambda outcome, node: None)),
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

    def _end(self, outcome, ids, onEnd):
        node = None
        if outcome.kind == "done":
            try:
                node = results.add(self.job, outcome, ids)
            except geometry.GeometryError as error:
                outcome = Outcome("failed", str(error))
                self.job.log(outcome.message)
        if outcome.kind == "failed":
            self.job.removeVolumes()
            self.failedFolder = self.job.folder
        else:
            self.job.removeFolder()
        onEnd(outcome, node)
