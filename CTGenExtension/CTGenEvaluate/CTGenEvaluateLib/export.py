"""Results as files: a table (CSV), and a page that needs nothing but a browser (HTML)."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Sequence

import slicer
from CTGenLib import geometry
from CTGenLib.process import EngineProcess
from CTGenLib.rows import Row, labelArrays
from slicer.i18n import tr as _

from . import results
from .job import EVALUATION, ORGANS, REFERENCE, TEST

COLUMNS = ("case", "metric", "region", "value", "unit", "slice", "note")  # those of the engine's rows.csv
ROWS = "rows.csv"


class ExportError(ValueError):
    """There is nothing to export; the message says why."""


def writeCsv(node, path: str) -> None:
    """Write every number of every case, with all digits.

    Args:
        node: the result table.
        path: file to write.

    Raises:
        ExportError: the details are gone.
        OSError: the file cannot be written.
    """
    folder = node.GetAttribute(results.FOLDER)
    if folder:
        source = os.path.join(folder, ROWS)
        if not os.path.isfile(source):
            raise ExportError(_("{path} is not there any more. Run the evaluation again.").format(path=source))
        shutil.copyfile(source, path)
        return
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        for row in _details(node)["rows"]:
            value = "nan" if row["value"] is None else row["value"]
            table.writerow(row | {"value": value, "slice": "" if row["slice"] is None else row["slice"]})


def _details(node) -> dict:
    details = node.GetNodeReference(results.DETAILS)
    try:
        return json.loads(details.GetText() if details is not None else "")
    except ValueError:
        raise ExportError(
            _("The text '{name} details' is not in the scene any more. Run the evaluation again.").format(
                name=node.GetName()
            )
        ) from None


class PageExport:
    """A running export of a page (``ctgencore report``).

    Args:
        interpreter: how to start the engine.
        node: the result table.
        organs: rows of the label source of a pair, or nothing; see CTGenLib.rows.readRows.
        path: file to write; an existing one is replaced.
        onLog: called with every line of text.
        onEnd: called once with a message for the user and whether the page was written; not after stop().

    Raises:
        ExportError: the details are gone.
        GeometryError: a volume cannot be sent.
        OSError: the engine cannot be started, or the disk is full.
    """

    def __init__(
        self,
        interpreter,
        node,
        organs: Sequence[Row],
        path: str,
        onLog: Callable[[str], None],
        onEnd: Callable[[str, bool], None],
    ) -> None:
        self._path, self._onLog, self._onEnd = path, onLog, onEnd
        self._errors: list[str] = []
        self._temporary = ""
        try:
            folder, images = node.GetAttribute(results.FOLDER), node.GetAttribute(results.IMAGES)
            places = json.loads(images) if images else []
            if not folder:
                folder, places = self._write(node, organs)
            options = [word for place in places for word in ("--images", place)]
            command = interpreter.command("report", folder, "-o", path, "--overwrite", *options)
            self._process = EngineProcess(command, interpreter.environment(), None, self._hear, self._ended)
        except Exception:
            self._clean()
            raise

    def stop(self) -> None:
        """Forget about it."""
        self._process.stopNow()
        self._clean()

    def _write(self, node, organs: Sequence[Row]) -> tuple[str, list[str]]:
        """A pair as the engine saw it; the page finds its images by their content.

        Returns:
            The folder of the evaluation, and those of the images.
        """
        details = _details(node)
        self._temporary = slicer.util.tempDirectory("CTGen-report-")
        folder, images = (os.path.join(self._temporary, name) for name in ("evaluation", "images"))
        os.makedirs(folder)
        os.makedirs(images)
        with open(os.path.join(folder, EVALUATION), "w", encoding="utf-8") as file:
            json.dump(details, file)
        for role, name in ((results.TEST, TEST), (results.REFERENCE, REFERENCE)):
            volume = node.GetNodeReference(role)
            if volume is not None:
                geometry.exportVolume(volume, os.path.join(images, name))
        source, test = node.GetNodeReference(results.ORGANS), node.GetNodeReference(results.TEST)
        if organs and source is not None and test is not None:
            grid = geometry.worldGrid(test)
            labels, _diseases = labelArrays(source, [row for row in organs if row.used], grid)
            geometry.exportArray(labels, grid, os.path.join(images, ORGANS))
        return folder, [images]

    def _hear(self, stream: str, text: str) -> None:
        if text.strip():
            self._onLog(text)
            if stream == "stderr":
                self._errors = [*self._errors[-3:], text.strip()]

    def _ended(self, code: int) -> None:
        self._clean()
        if code == 0 and os.path.isfile(self._path):
            self._onEnd(_("Wrote {path}.").format(path=self._path), True)
        else:
            reason = " ".join(self._errors) or _("The engine ended with exit code {code}.").format(code=code)
            self._onEnd(reason, False)

    def _clean(self) -> None:
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = ""
