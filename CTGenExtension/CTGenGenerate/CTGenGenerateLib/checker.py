"""Asks the engine whether report and masks fit together, a moment after the last change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from typing import Any

import qt
import slicer
from CTGenLib import segments
from CTGenLib.ask import EngineQuestion
from CTGenLib.geometry import GeometryError
from slicer.i18n import tr as _

from . import plans
from .panel import gridInfo

DELAY_MS = 900  # typing goes on
ANSWER_SECONDS = 60
VOXELS = 12_000_000  # a larger grid is made coarser for the check: its export would be felt


class ConsistencyChecker:
    """Checks what would be run, without running it.

    Args:
        onProblems: called with the engine's list of problems (severity, message, fix).
    """

    def __init__(self, onProblems: Callable[[list[dict[str, Any]]], None]) -> None:
        self._onProblems = onProblems
        self._question: EngineQuestion | None = None
        self._folder = ""
        self._what: tuple | None = None
        self._state: tuple | None = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(DELAY_MS)
        self._timer.connect("timeout()", self._check)

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return self._timer.active or self._question is not None

    def look(self, interpreter, parameters, rows) -> None:
        """Check soon, if anything has changed since the last look.

        Args:
            interpreter: the engine's.
            parameters: the parameter node.
            rows: segments that are used, lowest layer first.
        """
        content = segments.contentVersion(parameters.segmentation) if parameters.segmentation is not None else None
        drawn = (parameters.report, parameters.draft, parameters.seed, parameters.model)
        state = (interpreter, drawn, rows, content, gridInfo(parameters))
        if state != self._state:
            self.stop()
            self._state = state
            self._what = (interpreter, parameters, rows)
            self._timer.start()

    def forget(self) -> None:
        """What was found is not about what is chosen now."""
        self.stop()
        self._state = None
        self._onProblems([])

    def stop(self) -> None:
        """Wait for no answer; the next look asks again."""
        if self.waiting:
            self._state = None
        self._timer.stop()
        if self._question is not None:
            self._question.stop()
        self._clean()

    def _clean(self) -> None:
        self._question = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def _check(self) -> None:
        interpreter, parameters, rows = self._what
        self._folder = slicer.util.tempDirectory("CTGen-check-")
        try:
            grid = plans.targetGrid(parameters)
            if grid is not None and grid.voxels() > VOXELS:
                factor = (grid.voxels() / VOXELS) ** (1 / 3)
                grid = grid.resampled(tuple(length * factor for length in grid.spacing()))
            masks = plans.MaskFiles(self._folder, parameters.segmentation, rows, grid)
            request = {"op": "run", "id": "check", "task": "generate", **masks.files, "output": plans.OUTPUT}
            request["options"] = plans.options(parameters, "generate")
            path = os.path.join(self._folder, "job.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump(request, file)
            self._question = EngineQuestion(
                interpreter, ["generate", "--check", path, "--json"], ANSWER_SECONDS, self._hear
            )
        except (GeometryError, OSError) as error:
            self._clean()
            self._onProblems([{"severity": "error", "message": str(error)}])

    def _hear(self, answer: dict[str, Any] | None, problem: str) -> None:
        self._clean()
        if answer is None:
            text = _("Report and masks could not be checked: {reason}").format(reason=problem)
            self._onProblems([{"severity": "warning", "message": text}])
        else:
            self._onProblems(answer.get("problems") or [])
