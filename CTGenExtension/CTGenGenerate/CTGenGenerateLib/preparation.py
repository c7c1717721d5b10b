"""Finds what a run needs, for those who work without the panel."""

from __future__ import annotations

from collections.abc import Callable

from CTGenLib.engine import Engine, EngineCheck
from CTGenLib.labels import LabelTables
from CTGenLib.rows import Row, readRows


class Preparation:
    """Looks for the engine and asks it what the segments stand for. Keep it until it has answered.

    Args:
        segmentationNode: vtkMRMLSegmentationNode or None.
        onReady: called once with the engine (None: not found), the rows, and what went wrong on the way.
    """

    def __init__(self, segmentationNode, onReady: Callable[[Engine | None, list[Row], list[str]], None]) -> None:
        self._segmentation, self._onReady = segmentationNode, onReady
        self._tables = LabelTables(self._look)
        self._check = EngineCheck(self._found)

    def _found(self, engine: Engine | None, problems: list[str]) -> None:
        self._engine, self._problems = engine, problems
        if engine is None:
            self._onReady(None, [], problems)
            return
        self._tables.setInterpreter(engine.interpreter)
        self._look()

    def _look(self) -> None:
        rows = readRows(self._segmentation, self._tables)
        if self._tables.problem:
            self._onReady(self._engine, rows, [*self._problems, self._tables.problem])
        elif not self._tables.waiting:
            self._onReady(self._engine, rows, self._problems)
