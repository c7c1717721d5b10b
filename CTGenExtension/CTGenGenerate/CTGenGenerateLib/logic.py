"""Starts runs and remembers the last one."""

from __future__ import annotations

import shutil

import slicer
from CTGenLib.compare import CompareLayout
from slicer.i18n import tr as _

from . import plans, problems
from .problems import EDIT, GENERATE
from .runner import PlanRunner


class GenerationLogic:
    """What CTGenGenerateLogic does, but for the parameter node.

    Attributes:
        runner: the last run, or None.
    """

    def __init__(self) -> None:
        self.runner: PlanRunner | None = None

    @property
    def job(self):
        """The jobs of the last run, or None."""
        return self.runner.sequence if self.runner is not None else None

    @property
    def running(self):
        """Whether a job runs."""
        return self.job is not None and self.job.running

    @property
    def failedFolder(self):
        """Folder of the job that failed, or empty."""
        return self.job.failedFolder if self.job is not None else ""

    @staticmethod
    def problem(parameterNode, engine, what, rows):
        """Why a run is not possible now; empty when it is. See problems.problem."""
        return problems.problem(parameterNode, engine, what, rows)

    def sideBySide(self):
        """What the last run made, to look at together."""
        return self.runner.sideBySide()[: CompareLayout.MOST] if self.runner is not None else []

    def qualityText(self):
        """What the engine's quality check says about the last run's volumes."""
        checks = [check for quality in self.runner.quality for check in quality.get("checks", [])]
        failed = [check["message"] for check in checks if not check["passed"]]
        if failed:
            text = _("Quality check: {failed} of {count} failed. {first}")
            more = " " + _("The log has the others.") if len(failed) > 1 else ""
            return text.format(failed=len(failed), count=len(checks), first=failed[0]) + more
        return _("Quality check passed.") if checks else ""

    def start(self, parameterNode, engine, what, rows, preview=False,
              onEvent=None, onLog=None, onVolume=None, onEnd=None):  # fmt: skip
        """Start jobs and return.

        Args:
            parameterNode: what to do.
            engine: from EngineCheck.
            what: GENERATE, EDIT or WHAT_IF.
            rows: what the segments stand for; see CTGenLib.rows.readRows. Those not in use are
                left out. For EDIT: the rows of the region's segmentation.
            preview: at low resolution.
            onEvent: called with the engine's events.
            onLog: called with lines of text.
            onVolume: called with (number from 1, how many, node) for every new volume.
            onEnd: called with the Outcome; ``runner`` then holds what was made.

        Raises:
            ValueError: what problem() says; a GeometryError is one.
            OSError: the engine cannot be started, or the disk is full.
        """
        if self.running:
            raise ValueError(_("A run is going on already."))
        rows = [row for row in rows if row.used or what == EDIT]
        problem = self.problem(parameterNode, engine, what, rows)
        if problem:
            raise ValueError(problem)
        self.forget()
        folder = slicer.util.tempDirectory("CTGen-inputs-")
        try:
            if what == EDIT:
                plan = plans.planEdit(parameterNode, rows, folder)
            else:
                make = plans.planGenerate if what == GENERATE else plans.planWhatIf
                plan = make(parameterNode, rows, folder, preview)
            self.runner = PlanRunner(
                engine.interpreter, plan, folder, parameterNode.window,
                onEvent or (lambda event: None),
                onLog or (lambda text: None),
                onVolume or (lambda number, count, node: None),
                onEnd or (lambda outcome: None),
            )  # fmt: skip
        except Exception:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def stopNow(self):
        """End a running job at once; volumes that are done stay."""
        if self.running:
            self.runner.stopNow()
        self.forget()

    def forget(self):
        """Let go of the last run: its nodes stay in the scene, what a failed job left is removed."""
        if self.runner is not None:
            self.runner.sequence.removeFolder()
        self.runner = None
