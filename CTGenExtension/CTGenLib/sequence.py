"""Several jobs, one after the other, that look like one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .geometry import GeometryError
from .job import EngineJob, Outcome


class JobSequence:
    """Runs requests in order; the first that fails or is cancelled ends the sequence.

    Args:
        interpreter: how to start the engine.
        requests: see EngineJob.
        onEvent, onLog: see EngineJob.
        onDone: called after each job that is done with (number from 0, job, outcome), while its files exist. May raise
            GeometryError: then the job has failed.
        onEnd: called once with the last Outcome, unless stopNow() was called.

    Raises:
        OSError: the first job cannot be started.

    Attributes:
        number: of the job that runs, from 0.
        count: how many there are.
        failedFolder: folder of the job that failed (no images in it), else empty.
    """

    def __init__(
        self,
        interpreter,
        requests: Sequence[dict[str, Any]],
        onEvent: Callable[[dict[str, Any]], None],
        onLog: Callable[[str], None],
        onDone: Callable[[int, EngineJob, Outcome], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self._interpreter, self._requests = interpreter, list(requests)
        self._onEvent, self._onLog, self._onDone, self._onEnd = onEvent, onLog, onDone, onEnd
        self.number, self.count = 0, len(self._requests)
        self.failedFolder = ""
        self.running = True
        self._start()

    @property
    def cancelling(self) -> bool:
        """Whether the user has asked to stop."""
        return self._job.cancelling

    @property
    def pid(self) -> int:
        """Process of the job that runs."""
        return self._job.pid

    @property
    def folder(self) -> str:
        """Folder of the job that runs."""
        return self._job.folder

    def cancel(self) -> None:
        """See EngineJob; jobs that are done stay done."""
        self._job.cancel()

    def stopNow(self) -> None:
        """End the process before returning; onEnd is not called."""
        self.running = False
        self._job.stopNow()
        self.removeFolder()

    def removeFolder(self) -> None:
        """Remove what a failed job left."""
        if self.failedFolder:
            self._job.removeFolder()
            self.failedFolder = ""

    def log(self, text: str) -> None:
        """Add a line to the log."""
        self._job.log(text)

    def _start(self) -> None:
        request = self._requests[self.number]
        self._job = EngineJob(self._interpreter, request, self._onEvent, self._onLog, self._ended)

    def _ended(self, outcome: Outcome) -> None:
        if outcome.kind == "done":
            try:
                self._onDone(self.number, self._job, outcome)
            except GeometryError as error:
                outcome = Outcome("failed", str(error))
                self._job.log(outcome.message)
        if outcome.kind == "failed":
            self._job.removeVolumes()
            self.failedFolder = self._job.folder
        else:
            self._job.removeFolder()
        if outcome.kind == "done" and self.number + 1 < self.count:
            self.number += 1
            try:
                self._start()
                return
            except OSError as error:
                outcome = Outcome("failed", str(error))
                self._onLog(outcome.message)
        self.running = False
        self._onEnd(outcome)
