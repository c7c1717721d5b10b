"""A comparison of codecs: its job, and what it finds in the scene while it finds it.

Everything hangs on the table by node references, so that it is all there again when a scene is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from CTGenLib import errormap, geometry, result
from CTGenLib.job import INPUT, EngineJob, Outcome
from CTGenLib.runfolder import RunFolder
from slicer.i18n import tr as _

from . import table

COMPARISON = "comparison.json"
WINDOW = (1400.0, -500.0)  # window and level in HU of a CT that has none
SUFFIXES = (".nii.gz", ".nrrd")  # of volumes; the record has .json instead


class ComparisonJob(EngineJob):
    """A running comparison.

    Args:
        interpreter: how to start the engine.
        volumeNode: the CT.
        options: fields of the engine's CompareOptions.
        onEvent, onLog, onEnd: see EngineJob.
        onRow: called with the row of each codec that is done, while its files exist.

    Attributes:
        grid: where the results must lie.
    """

    OUTPUTS = ("comparison",)
    EXIT_CODES = (0, 1)  # 1: some codecs failed

    def __init__(
        self,
        interpreter,
        volumeNode,
        options: Mapping[str, Any],
        onEvent: Callable[[dict[str, Any]], None],
        onLog: Callable[[str], None],
        onRow: Callable[[dict[str, Any]], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self._volumeNode = volumeNode

        def hear(event: dict[str, Any]) -> None:
            if event["event"] == "row":
                onRow(event["row"])
            onEvent(event)

        request = {"task": "compare", "input": INPUT, "output": COMPARISON, "options": dict(options)}
        super().__init__(interpreter, request, hear, onLog, onEnd)

    def _writeInputs(self) -> None:
        self.grid = geometry.exportVolume(self._volumeNode, self.path(INPUT))

    def read(self, name: str):
        """A volume that the engine wrote, detached, and its record as text.

        Raises:
            GeometryError: it cannot be read, or does not lie where the CT lies.
        """
        path = self.path(os.path.basename(name))
        suffix = next((each for each in SUFFIXES if path.endswith(each)), "")
        try:
            with open(path.removesuffix(suffix) + ".json", encoding="utf-8") as file:
                record = file.read()
        except OSError as error:
            raise geometry.GeometryError(_("The engine's record cannot be read: {error}").format(error=error)) from None
        return geometry.readVolume(path, self.grid), record


class Comparison:
    """What a comparison has found so far. Codecs go into the scene one by one: a later failure takes nothing away.

    Args:
        parameters: the parameter node; its ``comparison`` becomes the table when the first codec is there.
        options: fields of the engine's CompareOptions.

    Attributes:
        table: the table node; None until a codec is done.
        rows: the engine's, in the order of their coming; with ``error`` where a volume could not be added.
    """

    def __init__(self, parameters, options: Mapping[str, Any]) -> None:
        self._parameters, self._input = parameters, parameters.inputVolume
        self._window = options["window"]
        self._folder: RunFolder | None = None
        self.table = None
        self.rows: list[dict[str, Any]] = []

    @property
    def done(self) -> list[str]:
        """Codecs that worked."""
        return [row["codec"] for row in self.rows if not row["error"]]

    @property
    def failed(self) -> list[str]:
        """Codecs that did not."""
        return [row["codec"] for row in self.rows if row["error"]]

    def add(self, row: Mapping[str, Any], job: ComparisonJob) -> None:
        """Add the row of a codec, and its volumes to the scene.

        Args:
            row: the engine's.
            job: whose files still exist.
        """
        row = dict(row)
        self.rows.append(row)
        volumes = ()
        if not row["error"]:
            try:
                volumes = job.read(row["volume"]), job.read(row["difference"])
            except geometry.GeometryError as error:
                row["error"] = str(error)
        if row["error"]:
            job.log(f"{row['codec']}: {row['error']}")
        if not self.done:
            return
        if self.table is None or not result.isInScene(self.table):
            self._begin()
        if volumes:
            self._addVolumes(row["codec"], *volumes)
        table.fill(self.table, self.rows)
        table.setScale(self.table, max(table.scale(self.table), errormap.scale(table.differences(self.table))))

    def _begin(self) -> None:
        title = _("Codecs on {name}").format(name=self._input.GetName())
        there = result.isInScene(self._input)
        self._folder = RunFolder(title, self._input if there else None)
        self.table = table.make(self._window)
        self._folder.add(self.table, title)
        if there:
            self.table.SetNodeReferenceID(result.SOURCE_REFERENCE, self._input.GetID())
        self._parameters.comparison = self.table

    def _addVolumes(self, codec: str, output: tuple[Any, str], difference: tuple[Any, str]) -> None:
        for node, _record in (output, difference):
            result.moveWith(node, self._input)
        name = f"{self._input.GetName()} {codec}"
        source = self._input.GetDisplayNode()
        window = (source.GetWindow(), source.GetLevel()) if source is not None else WINDOW
        self._folder.addVolume(output[0], name, output[1], window)
        self._folder.addDifferenceVolume(difference[0], _("{name} difference").format(name=name), difference[1])
        table.setVolumes(self.table, codec, output[0], difference[0])
