"""A running evaluation."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from CTGenLib import geometry
from CTGenLib.job import EngineJob, Outcome
from CTGenLib.rows import Row, labelArrays

TEST, REFERENCE, ORGANS, TEST_ORGANS, DISEASES = (
    *("test.nrrd", "reference.nrrd", "organs.nrrd", "organs_test.nrrd", "diseases.nrrd"),
)
EVALUATION, DIFFERENCE = "evaluation.json", "difference.nrrd"


class EvaluationJob(EngineJob):
    """An evaluation that may end with failures of single cases.

    Args:
        interpreter: how to start the engine.
        request: without the files of a pair.
        pair: what is in the scene and goes to files, or None.
        onEvent, onLog, onEnd: see EngineJob.
    """

    OUTPUTS = ("evaluation",)
    EXIT_CODES = (0, 1)

    def __init__(
        self,
        interpreter,
        request: Mapping[str, Any],
        pair: Pair | None,
        onEvent: Callable[[dict[str, Any]], None],
        onLog: Callable[[str], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self.pair = pair
        super().__init__(interpreter, request, onEvent, onLog, onEnd)

    @property
    def resultsFolder(self) -> str:
        """Where the engine writes."""
        return os.path.dirname(self.path(self.request["output"]))

    def _writeInputs(self) -> None:
        if self.pair is not None:
            self.request |= self.pair.write(self.path)


class Pair:
    """Two CTs of the scene and their organs.

    Args:
        test, reference: volume nodes; the reference may be None.
        organs, testOrgans: (node, rows) of segmentations or label maps; the node may be None.

    Attributes:
        grid: of the test volume.
        organArrays: (k, j, i) organ ids of the reference and of the test CT, where there are any.
        colors: name of an organ -> (r, g, b).
    """

    def __init__(self, test, reference, organs: tuple[Any, Sequence[Row]], testOrgans: tuple[Any, Sequence[Row]]):
        self.test, self.reference, self.organs, self.testOrgans = test, reference, organs[0], testOrgans[0]
        self._rows, self._testRows = ([row for row in rows if row.used] for _node, rows in (organs, testOrgans))
        self.grid = geometry.checkExportable(test)
        self.organArrays: list[np.ndarray] = []
        self.colors = {row.label.name: tuple(row.color) for row in (*self._testRows, *self._rows) if row.label}

    def write(self, path: Callable[[str], str]) -> dict[str, str | None]:
        """Write everything; returns the request's files.

        Raises:
            GeometryError: something cannot be sent.
        """
        geometry.exportVolume(self.test, path(TEST))
        files: dict[str, str | None] = {"input": TEST, "reference": None, "difference": None}
        if self.reference is not None:
            geometry.exportVolume(self.reference, path(REFERENCE))
            files |= {"reference": REFERENCE, "difference": DIFFERENCE}
        if self.organs is not None:
            organs, diseases = labelArrays(self.organs, self._rows, self.grid)
            for key, name, labels in (("mask", ORGANS, organs), ("disease", DISEASES, diseases)):
                if labels.any():
                    geometry.exportArray(labels, self.grid, path(name))
                    files[key] = name
            self.organArrays.append(organs)
        if self.testOrgans is not None:
            organs, _diseases = labelArrays(self.testOrgans, self._testRows, self.grid)
            geometry.exportArray(organs, self.grid, path(TEST_ORGANS))
            files["test_mask"] = TEST_ORGANS
            self.organArrays.append(organs)
        return files
