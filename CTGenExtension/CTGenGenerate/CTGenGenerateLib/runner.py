"""Runs a plan: jobs one after the other, and their results into the scene."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

from CTGenLib import geometry, result
from CTGenLib.job import EngineJob, Outcome
from CTGenLib.runfolder import WINDOWS, RunFolder
from CTGenLib.sequence import JobSequence
from slicer.i18n import tr as _

from .plans import SEED, Plan


class PlanRunner:
    """A running plan. Results go into the scene one by one, so that a later failure takes nothing away.

    Args:
        interpreter: how to start the engine.
        plan: what to do.
        inputs: folder of the plan's files, removed at the end.
        window: name of the window of new volumes; a key of WINDOWS.
        onEvent, onLog: see EngineJob.
        onVolume: called with (number from 1, how many, node) when a volume has been added.
        onEnd: called once with the Outcome, unless stopNow() was called.

    Raises:
        OSError: the engine cannot be started.

    Attributes:
        quality: the engine's check of each volume.
    """

    def __init__(
        self,
        interpreter,
        plan: Plan,
        inputs: str,
        window: str,
        onEvent: Callable[[dict[str, Any]], None],
        onLog: Callable[[str], None],
        onVolume: Callable[[int, int, Any], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self.plan, self._inputs, self._window = plan, inputs, WINDOWS[window]
        self._onLog, self._onVolume, self._onEnd = onLog, onVolume, onEnd
        self._folder = RunFolder(plan.title, plan.beside)
        self._records: list[str] = []
        self._others: list = []
        self.quality: list[dict[str, Any]] = []
        self.sequence = JobSequence(interpreter, plan.requests, onEvent, onLog, self._done, self._ended)

    def stopNow(self) -> None:
        """End the process and remove the files before returning; onEnd is not called."""
        self.sequence.stopNow()
        self._removeInputs()

    def _done(self, number: int, job: EngineJob, outcome: Outcome) -> None:
        plan, outputs = self.plan, outcome.result["outputs"]
        node = geometry.readVolume(outputs["volume"], plan.grid, plan.coarse)
        difference = geometry.readVolume(outputs["difference"], plan.grid) if outputs.get("difference") else None
        name = plan.names[number].replace(SEED, str(json.loads(outcome.record)["seed"]))
        self._folder.addVolume(node, name, outcome.record, self._window, plan.masks[number])
        self._records.append(outcome.record)
        self.quality.append((outcome.result.get("metrics") or {}).get("quality") or {})
        self._onLog(_("Added '{name}'.").format(name=node.GetName()))
        if difference is not None:
            name = _("{name} difference").format(name=name)
            self._others.append(self._folder.addDifferenceVolume(difference, name, outcome.record))
        if plan.kind == "whatif" and number == 1:
            first, second = self._folder.volumes
            self._others.append(self._folder.addDifference(_("B minus A"), first, second))
        self._onVolume(number + 1, len(plan.requests), node)

    def _ended(self, outcome: Outcome) -> None:
        self._removeInputs()
        if self.volumes:
            self._folder.addText(_("{run} report").format(run=self.plan.title), self.plan.report, self._records)
        self._onEnd(outcome)

    @property
    def volumes(self) -> list:
        """What was generated or edited so far."""
        return [node for node in self._folder.volumes if result.isInScene(node)]

    def sideBySide(self) -> list:
        """What to look at together: the CT that was edited, the new volumes, the differences."""
        every = (self.plan.first, *self._folder.volumes, *self._others)
        return [node for node in every if node is not None and result.isInScene(node)]

    def _removeInputs(self) -> None:
        shutil.rmtree(self._inputs, ignore_errors=True)
