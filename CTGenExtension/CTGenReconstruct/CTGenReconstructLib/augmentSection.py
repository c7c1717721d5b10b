"""The Augment tab: what is in a folder, which views to make of it, how far a run is, and cases from the scene."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import ctk
import qt
from CTGenLib import settings
from CTGenLib.job import ID
from CTGenLib.sections import RED, RunSection, duration, fillBox
from slicer.i18n import tr as _

from . import augmentPlan, problems
from .augmentJob import AugmentationLogic, choose, request, same, unfinished
from .augmentPlan import PlanQuestion
from .augmentViews import ViewTable

ROW_HEIGHT, ROWS_SHOWN, AROUND = 22, 5, 30  # pixels of a row; rows until it scrolls; pixels of the heading
PARTS = 100  # of the progress bar, for each case
OFFERED = 500  # number of the first data set that is suggested: far from those that challenges use


class AugmentSection:
    """Everything in the tab, and the buttons below it that only augmenting needs.

    Args:
        ui: the module's widgets.
        logic: runs the jobs.
        run: where to say what happens.
        onChange: called when the panel should be brought up to date.
    """

    def __init__(self, ui: Any, logic: AugmentationLogic, run: RunSection, onChange: Callable[[], None]) -> None:
        self.ui, self._logic, self._run, self._onChange = ui, logic, run, onChange
        self._node = self._engine = None
        self._filling = self._paused = False
        self._failed: list[dict[str, Any]] = []
        self._cases: dict[str, Any] = {}
        self.question = PlanQuestion(onChange)
        self._views = ViewTable(ui, lambda texts: self._set("views", json.dumps(texts)))
        self._paths = ((ui.dataSetEdit, "dataSet"), (ui.augmentOutputEdit, "augmentOutput"))
        self._choices = ((ui.modeBox, "augmentMode"), (ui.layoutBox, "augmentLayout"))
        for edit, name in self._paths:
            edit.filters = ctk.ctkPathLineEdit.Dirs
            edit.connect("currentPathChanged(QString)", lambda path, name=name: self._onPath(name, path))
        for box, name in self._choices:
            box.connect("currentIndexChanged(int)", lambda row, box=box, name=name: self._set(name, box.itemData(row)))
        self._prepareProblems()
        ui.pauseButton.connect("clicked(bool)", self.onPauseButton)
        ui.resumeButton.connect("clicked(bool)", self.onResumeButton)
        ui.addCaseButton.connect("clicked(bool)", self.onAddCaseButton)
        ui.openResultButton.connect("clicked(bool)", self.onOpenResultButton)

    def _prepareProblems(self) -> None:
        table = self.ui.problemTable
        table.setColumnCount(2)
        table.setHorizontalHeaderLabels([_("Case"), _("Problem")])
        table.setSelectionMode(qt.QAbstractItemView.NoSelection)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.verticalHeader().setVisible(False)
        table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        table.setColumnWidth(0, 100)
        table.horizontalHeader().setSectionResizeMode(1, qt.QHeaderView.Stretch)

    # What the tab shows

    def show(self, node, engine) -> None:
        """Bring the tab up to date, and ask the engine about what is chosen unless it was asked.

        Args:
            node: the parameter node.
            engine: from EngineCheck, or None.
        """
        ui, running = self.ui, self._logic.running
        self._node, self._engine = node, engine
        self._filling = True
        for edit, name in self._paths:
            if edit.currentPath != getattr(node, name):
                edit.currentPath = getattr(node, name)
        modes = [(_("add views to the originals"), "add"), (_("views in place of the originals"), "replace")]
        fillBox(ui.modeBox, modes, node.augmentMode)
        layouts = [
            (_("nnU-Net v2"), "nnunet"),
            (_("Decathlon task"), "msd"),
            (_("folders and a table"), "flat"),
            (_("DICOM series"), "dicom"),
        ]
        fillBox(ui.layoutBox, layouts, node.augmentLayout)
        codecs = engine.codecs if engine else []
        self._views.show(json.loads(node.views), [row["name"] for row in codecs if row["available"]])
        self._filling = False
        if not running:
            chosen = engine is not None and not problems.augmentProblem(node, engine)
            words = augmentPlan.command(request(node)) if chosen else []
            self.question.ask(engine.interpreter if chosen else None, words)
        self._showPlan()
        self._showCase()
        asked = self._unfinished()
        ui.resumeFrame.setVisible(asked is not None and not running)
        ui.resumeButton.enabled = engine is not None
        if asked is not None:
            name = os.path.basename(asked["output"])
            ui.resumeLabel.text = _("'{name}' was not finished. Resume goes on with its choices.").format(name=name)
            ui.resumeLabel.toolTip = asked["output"]

    def problem(self) -> str:
        """Why a run is not possible now, beyond what the parameters alone tell; empty when it is."""
        asked = unfinished(self._node.augmentOutput.strip())
        if asked is not None and not same(asked, request(self._node)):
            return _("The result's folder holds an unfinished run with other choices. Resume it, or choose another.")
        if self.question.waiting:
            return _("Waiting for the engine to look at the data set.")
        plan = self.question.plan
        return self.question.problem or (augmentPlan.blocking(plan) if plan else "")

    def _unfinished(self) -> dict[str, Any] | None:
        """The run that can be taken up again: in the folder that is chosen, else the last one of this user."""
        folder = self._node.augmentOutput.strip() or settings.augmentOutput()
        return unfinished(folder) if folder else None

    def _showPlan(self) -> None:
        ui, plan = self.ui, self.question.plan
        text = _("Looking at the data set...") if self.question.waiting else ""
        text, estimate = (augmentPlan.recognizedText(plan), augmentPlan.estimateText(plan)) if plan else (text, "")
        ui.recognizedLabel.text = text
        ui.recognizedLabel.setVisible(bool(text))
        ui.estimateLabel.text = estimate
        ui.estimateLabel.styleSheet = RED if plan is not None and augmentPlan.tooLarge(plan) else ""
        ui.estimateLabel.setVisible(bool(estimate))
        self._showProblems(augmentPlan.problemRows(plan, self._failed))

    def _showProblems(self, rows: Sequence[tuple[str, str, bool]]) -> None:
        table = self.ui.problemTable
        table.setVisible(bool(rows))
        table.setRowCount(len(rows))
        for number, (case, message, serious) in enumerate(rows):
            for column, text in enumerate((case, message)):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(message)
                if serious:
                    item.setForeground(qt.QBrush(qt.QColor("#b00000")))
                table.setItem(number, column, item)
        table.resizeRowsToContents()
        height = sum(table.rowHeight(number) for number in range(len(rows)))
        table.setFixedHeight(min(height, ROWS_SHOWN * ROW_HEIGHT) + AROUND)

    def _showCase(self) -> None:
        self.ui.caseNameEdit.placeholderText = problems.caseName(self._node)
        problem = problems.caseProblem(self._node, self._engine)
        self.ui.addCaseButton.enabled = not problem
        self.ui.addCaseButton.toolTip = problem or _("Write the CT and its segments into the data set as one more case")
        self.ui.caseHintLabel.text = problem
        self.ui.caseHintLabel.setVisible(bool(problem))

    def showButtons(self, shown: bool) -> None:
        """The buttons below the tabs.

        Args:
            shown: whether the tab is.
        """
        ui, logic = self.ui, self._logic
        ui.augmentButtons.setVisible(shown)
        if not shown:
            return
        pausing = logic.augmenting and logic.job.pausing
        ui.pauseButton.enabled = logic.augmenting and not logic.job.cancelling
        ui.pauseButton.text = _("Continue") if pausing else _("Pause")
        ui.pauseButton.toolTip = _("Begin new cases again") if pausing else _("Finish the case that runs, and wait")
        ui.openResultButton.enabled = os.path.isdir(self._output())

    def _output(self) -> str:
        job = self._logic.job
        return job.output if self._logic.augmenting else self._node.augmentOutput.strip()

    # What the user does

    def _set(self, name: str, value: Any) -> None:
        if not self._filling and self._node is not None:
            self._failed = []
            setattr(self._node, name, value)

    def _onPath(self, name: str, path: str) -> None:
        self._set(name, path)
        if name == "dataSet" and not self._filling:
            self._offerOutput()

    def _offerOutput(self) -> None:
        """A folder for the result, unless one is chosen."""
        node = self._node
        if node is not None and os.path.isdir(node.dataSet.strip()) and not node.augmentOutput.strip():
            node.augmentOutput = offered(node.dataSet.strip(), node.augmentLayout)

    def start(self) -> None:
        """Run what is chosen.

        Raises:
            ValueError, OSError: see AugmentationLogic.startAugmentation.
        """
        plan = self.question.plan
        known = {"done": 0, "failed": 0, "skipped": 0, "per_minute": None, "eta_s": None}
        self._cases = known | {"total": len(augmentPlan.usable(plan))} if plan is not None else {}
        self._failed, self._paused = [], False
        self._logic.startAugmentation(self._node, self._engine, self._hear, self._run.log, self._onEnd)

    def onPauseButton(self) -> None:
        """Pause, or go on."""
        pausing = not self._logic.job.pausing
        try:
            self._logic.job.pause(pausing)
        except OSError as error:
            self._run.log(str(error))
            self._run.say(str(error), failed=True)
            return
        self._paused = False
        self._showPause()
        self._onChange()

    def onResumeButton(self) -> None:
        """Take up the run that was not finished, with its own choices."""
        asked = self._unfinished()
        if asked is None:
            self._onChange()
            return
        choose(self._node, asked)
        self._begin(self.start)

    def onAddCaseButton(self) -> None:
        """Add the chosen volume and segmentation to the data set."""
        self._begin(
            lambda: self._logic.startCase(self._node, self._engine, self._run.hear, self._run.log, self._onCase)
        )

    def onOpenResultButton(self) -> None:
        """Show the folder of the result."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._output()))

    def _begin(self, start: Callable[[], None]) -> None:
        self.ui.logText.clear()
        try:
            start()
        except (ValueError, OSError) as error:
            self._run.log(str(error))
            self._run.say(str(error), failed=True)
        else:
            self._run.begin()
        self._onChange()

    # While a job runs

    def _hear(self, event: dict[str, Any]) -> None:
        kind, name = event["event"], event.get("id")
        if kind == "stage" and name != ID:  # the view of a case that is made now
            self._run.part = f"{name}: {event['stage']}. "
            self._showCases(0.0)
            return
        self._run.hear(event)
        if kind == "progress":
            self._run.part = _("{case}: {view}, {done} of {total} {unit}. ").format(
                case=name, view=event["stage"], done=event["done"], total=event["total"], unit=event["unit"]
            )
            self._showCases(event["done"] / max(event["total"], 1))
        elif kind == "case":
            if event["state"] in ("failed", "retry"):
                self._run.log(f"{event['name']}: {event['message']}")
            self._run.part, self._cases = "", event
            self._showCases(0.0)
        elif kind in ("paused", "resumed"):
            self._paused = kind == "paused"
            self._run.part = ""
            self._showCases(0.0)
            self._showPause()

    def _showCases(self, fraction: float) -> None:
        """The bar counts cases; what is done of the one that runs is a part of its own."""
        cases, bar = self._cases, self.ui.progressBar
        if not cases:
            return
        ended = cases["done"] + cases["failed"] + cases["skipped"]
        bar.setRange(0, max(cases["total"], 1) * PARTS)
        bar.setValue(round((ended + min(fraction, 1.0)) * PARTS))
        words = [_("{ended} of {total} cases").format(ended=ended, total=cases["total"])]
        if cases["per_minute"] is not None:
            words.append(_("{rate:.3g}/min").format(rate=cases["per_minute"]))
        if cases["eta_s"] is not None:
            words.append(_("{time} left").format(time=duration(cases["eta_s"])))
        if cases["failed"]:
            words.append(_("{count} failed").format(count=cases["failed"]))
        bar.format = ", ".join(words)

    def _showPause(self) -> None:
        if not self._logic.job.pausing:
            self._run.note = ""
        elif self._paused:
            self._run.note = _("Paused. Continue goes on with the next case.")
        else:
            self._run.note = _("Pausing: the case that runs is finished first.")
        if self._run.note:
            self._run.say(self._run.note)

    def _onEnd(self, outcome) -> None:
        self._run.part = self._run.note = ""
        message = outcome.message
        if outcome.kind == "done":
            found = outcome.result["metrics"]
            self._failed = found["failed"]
            message = _("Done in {time}: {cases} cases, {views} views.").format(
                time=duration(float(outcome.result.get("seconds", 0))), cases=found["cases"], views=found["views"]
            )
            if found["skipped"]:
                message += " " + _("{count} were done before.").format(count=found["skipped"])
            if self._failed:
                message += " " + _("{count} failed, see the problems; Resume tries them again.").format(
                    count=len(self._failed)
                )
            for note in found["notes"]:
                self._run.log(note)
        elif outcome.kind == "cancelled":
            message += " " + _("Cases that are done stay; Resume goes on.")
        self._showEnd(outcome, message)

    def _onCase(self, outcome) -> None:
        message = outcome.message
        if outcome.kind == "done":
            found = outcome.result["metrics"]
            labels = ", ".join(f"{name} ({value})" for name, value in found["labels"].items() if value)
            message = _("Added {case}: the data set has {count} cases. Labels: {labels}.").format(
                case=os.path.basename(outcome.result["outputs"]["image"]), count=found["cases"], labels=labels
            )
            self._offerOutput()
        self._showEnd(outcome, message)

    def _showEnd(self, outcome, message: str) -> None:
        if outcome.kind != "failed":  # the job has logged its own failure
            self._run.log(message)
        self._run.end(message, failed=outcome.kind == "failed")
        self.question.forget()
        self._onChange()


def offered(dataSet: str, layout: str) -> str:
    """An output folder beside a data set: free, and called as nnU-Net wants it where that is the layout."""
    parent, name = os.path.split(os.path.abspath(dataSet))
    name = re.sub(r"^(Dataset|Task)\d+_", "", name)
    if layout != "nnunet":
        return os.path.join(parent, f"{name}_views")
    there = [entry[:10].lower() for entry in os.listdir(parent)]
    name = re.sub(r"[^A-Za-z0-9]", "", name) or "CT"
    number = next((n for n in range(OFFERED, 1000) if f"dataset{n}" not in there), OFFERED)
    return os.path.join(parent, f"Dataset{number}_{name}Views")
