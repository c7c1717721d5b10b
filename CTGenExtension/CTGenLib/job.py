"""One job: a folder with job.json and its inputs, an engine process in it, and what the engine says."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import slicer
from slicer.i18n import tr as _

from . import geometry
from .engine import Interpreter
from .process import EngineProcess

ID = "job"  # in every event that is about the whole job
JOB, CANCEL, LOG = "job.json", "cancel", "log.txt"
INPUT, OUTPUT, DIFFERENCE = "input.nrrd", "output.nrrd", "difference.nrrd"
LAST_LINES = 8  # of stderr, shown when the engine ends without a reason


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Attributes:
        kind: ``done``, ``cancelled`` or ``failed``.
        message: what happened, for the user.
        result: the engine's result event when done.
        record: the run record as text when done; of an evaluation, all it found.
        code: the engine's error code when failed ("input", "weights", "memory", ...), else empty.
    """

    kind: str
    message: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    record: str = ""
    code: str = ""


class EngineJob:
    """A running job.

    The inputs are written before this returns; everything after that happens without blocking. A job is done only when
    the engine has sent a result event *and* ended with an exit code that fits *and* its files exist.

    Args:
        interpreter: how to start the engine.
        request: the job file's object without ``op`` and ``id``; paths are relative to the job's folder.
        onEvent: called with every event (a dict) of the engine.
        onLog: called with every line of text for the log.
        onEnd: called once with the Outcome, unless stopNow() was called.

    Raises:
        geometry.GeometryError: an input cannot be sent.
        OSError: the job folder cannot be written or the engine cannot be started.
    """

    OUTPUTS: tuple[str, ...] = ("volume", "record")  # what a result names and must be there
    HAS_RECORD = True  # the last of them is the record, JSON
    EXIT_CODES: tuple[int, ...] = (0,)  # with a result

    def __init__(
        self,
        interpreter: Interpreter,
        request: Mapping[str, Any],
        onEvent: Callable[[dict[str, Any]], None],
        onLog: Callable[[str], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self._onEvent, self._onLog, self._onEnd = onEvent, onLog, onEnd
        self.request = dict(request)
        self.options = dict(request["options"])
        self.cancelling = False
        self._result: dict[str, Any] | None = None
        self._error: dict[str, Any] | None = None
        self._stderr: list[str] = []
        self.folder = slicer.util.tempDirectory("CTGen-job-")
        try:
            self._writeInputs()
            with open(self.path(JOB), "w", encoding="utf-8") as file:
                json.dump({"op": "run", "id": ID, **self.request}, file, indent=2)
            self._process = EngineProcess(
                interpreter.command("run", self.path(JOB)),
                interpreter.environment(),
                self.folder,
                self._hear,
                self._ended,
            )
        except Exception:
            self.removeFolder()
            raise
        self.pid = self._process.pid

    def _writeInputs(self) -> None:
        """Write into the job's folder what the request names there."""

    def path(self, name: str) -> str:
        """A file of the job's folder."""
        return os.path.join(self.folder, name)

    @property
    def running(self) -> bool:
        """Whether onEnd is still to come."""
        return self._process.running

    def cancel(self) -> None:
        """Ask the engine to stop; after a grace end its process group. Asked again: end it at once."""
        if self.cancelling:
            self._process.requestEnd(0.0)
            return
        self.cancelling = True
        with contextlib.suppress(OSError), open(self.path(CANCEL), "w", encoding="utf-8"):
            pass
        self._process.requestEnd()

    def stopNow(self) -> None:
        """End the process and remove the folder before returning; onEnd is not called."""
        self._process.stopNow()
        self.removeFolder()

    def removeVolumes(self) -> None:
        """Keep only what helps to find a fault: job.json and the log, no patient data."""
        for name in os.listdir(self.folder) if os.path.isdir(self.folder) else ():
            if name in (JOB, LOG):
                continue
            if os.path.isdir(self.path(name)):
                shutil.rmtree(self.path(name), ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.remove(self.path(name))

    def removeFolder(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self, text: str) -> None:
        """Add a line to the log, the one on disk and the one that the user sees."""
        with contextlib.suppress(OSError), open(self.path(LOG), "a", encoding="utf-8") as file:
            file.write(text + "\n")
        self._onLog(text)

    def _hear(self, stream: str, text: str) -> None:
        if stream == "stderr":
            if text.strip():
                self._stderr = [*self._stderr[1 - LAST_LINES :], text]
                self.log(text)
            return
        try:
            event = json.loads(text)
        except ValueError:
            event = None
        if not isinstance(event, dict) or not isinstance(event.get("event"), str):
            if text.strip():
                self.log(_("unexpected output: {text}").format(text=text[:500]))
            return
        kind = event["event"]
        if kind == "result":
            self._result = event
        elif kind == "error":
            self._error = event
        elif kind in ("warning", "log"):
            self.log(str(event.get("message", "")))
        self._onEvent(event)

    def _ended(self, code: int) -> None:
        outcome = self._outcome(code)
        if outcome.kind == "failed":
            self.log(outcome.message)
        self._onEnd(outcome)

    def _outcome(self, code: int) -> Outcome:
        if self.cancelling:
            return Outcome("cancelled", _("Cancelled."))
        if self._error is not None:
            text = " ".join(str(self._error.get(key, "")) for key in ("message", "next")).strip()
            return Outcome("failed", text or _("The engine failed."), code=str(self._error.get("code", "")))
        if code < 0:
            text = _(
                "The engine was ended from outside (signal {signal}). Systems do that when memory runs out: close "
                "other programs, or choose a smaller volume or codec."
            )
            return Outcome("failed", text.format(signal=-code))
        if code not in self.EXIT_CODES or (code and self._result is None):
            lines = "\n".join(self._stderr) or _("It said nothing.")
            return Outcome(
                "failed", _("The engine ended with exit code {code}. {lines}").format(code=code, lines=lines)
            )
        if self._result is None:
            return Outcome("failed", _("The engine ended without a result. See the log."))
        outputs = self._result.get("outputs")
        wanted = (*self.OUTPUTS, "difference") if self.request.get("difference") else self.OUTPUTS
        if not isinstance(outputs, dict) or not all(os.path.exists(str(outputs.get(key, ""))) for key in wanted):
            return Outcome("failed", _("The engine reported a result, but its files are missing. See the log."))
        if not self.HAS_RECORD:
            return Outcome("done", result=self._result)
        try:
            with open(outputs[self.OUTPUTS[-1]], encoding="utf-8") as file:
                record = file.read()
            json.loads(record)
        except (OSError, ValueError):
            return Outcome("failed", _("The engine's record cannot be read. See the log."))
        return Outcome("done", result=self._result, record=record)


class ReconstructionJob(EngineJob):
    """A running reconstruction of a volume.

    Args:
        interpreter: how to start the engine.
        volumeNode: the CT.
        options: fields of the engine's ReconstructOptions.
        difference: also make output minus input.
        onEvent, onLog, onEnd: see EngineJob.

    Attributes:
        grid: where the result must lie.
    """

    def __init__(
        self,
        interpreter: Interpreter,
        volumeNode,
        options: Mapping[str, Any],
        difference: bool,
        onEvent: Callable[[dict[str, Any]], None],
        onLog: Callable[[str], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self._volumeNode = volumeNode
        request = {
            "task": "reconstruct",
            "input": INPUT,
            "output": OUTPUT,
            "difference": DIFFERENCE if difference else None,
            "options": dict(options),
        }
        super().__init__(interpreter, request, onEvent, onLog, onEnd)

    def _writeInputs(self) -> None:
        self.grid = geometry.exportVolume(self._volumeNode, self.path(INPUT))
