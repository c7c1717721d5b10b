"""A long-lived worker: requests as JSON lines on stdin, events as JSON lines on stdout, text on stderr.

``run`` jobs are done one after the other; codecs stay loaded between them. A thread reads stdin, so that ``cancel``
reaches a running job. ``shutdown`` cancels what runs or waits; the end of stdin finishes it first.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from . import __version__, jobs
from .errors import Cancelled, InputError
from .jobs import PROTOCOL, Job, Models

OPERATIONS = ("run", "cancel", "info", "env", "shutdown")
CANCEL_FILE = "cancel"


class EventWriter:
    """Writes events to the real stdout; from now on all else that is printed goes to stderr, C libraries included."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._stream: IO[str] = os.fdopen(os.dup(1), "w", encoding="utf-8", newline="\n")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def __call__(self, event: dict[str, Any]) -> None:
        """Write one line. When nobody reads any more, the process ends: its results have no taker."""
        line = json.dumps(event, allow_nan=False) + "\n"
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (BrokenPipeError, ValueError):
                os._exit(1)


class Worker:
    """One worker; :meth:`serve` runs until shutdown or the end of its requests."""

    def __init__(self, emit: jobs.Emit, env: Callable[[], dict[str, Any]], info: Callable[[], dict[str, Any]]) -> None:
        self.emit, self.env, self.info = emit, env, info
        self.models = Models()
        self._waiting: queue.Queue[Callable[[], object] | None] = queue.Queue()
        self._open: dict[str, threading.Event] = {}  # jobs that run or wait; their event is set to cancel them
        self._lock = threading.Lock()

    def serve(self, requests: IO[str]) -> None:
        """Answer requests until there are no more."""
        self.emit(
            {
                "event": "hello",
                "protocol": PROTOCOL,
                "version": __version__,
                "pid": os.getpid(),
                "python": sys.version.split()[0],
            }
        )
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()
        while (step := self._waiting.get()) is not None:
            try:
                step()
            except Exception as error:
                self.emit(jobs.error_event(error))
        self.emit({"event": "bye"})

    def _read(self, requests: IO[str]) -> None:
        for line in requests:
            if not line.strip():
                continue
            try:
                if self._take(line) == "shutdown":
                    break
            except Exception as error:  # whatever a line holds, the worker lives on
                self.emit(jobs.error_event(error))
        self._waiting.put(None)

    def _take(self, line: str) -> str:
        try:
            request = json.loads(line)
        except ValueError as error:
            raise InputError(f"A request is one line of JSON; this one is not ({error}).") from None
        operation = request.get("op") if isinstance(request, Mapping) else None
        if operation not in OPERATIONS:
            raise InputError(f"A request's 'op' is one of {', '.join(OPERATIONS)}; got {operation!r}.")
        if operation == "run":
            self._accept(request)
        elif operation == "cancel":
            self._cancel(request.get("id"))
        elif operation == "info":
            self.emit({"event": "info", **self.info()})
        elif operation == "env":
            self._waiting.put(lambda: self.emit({"event": "env", **self.env()}))
        else:
            with self._lock:
                for cancelled in self._open.values():
                    cancelled.set()
        return str(operation)

    def _accept(self, request: Mapping[str, Any]) -> None:
        try:
            job = Job.from_request(request)
        except InputError as error:
            job_id = request.get("id")
            self.emit(jobs.error_event(error, job_id if isinstance(job_id, str) else None))
            return
        with self._lock:
            if job.id in self._open:  # told without the id: the open job is well
                raise InputError(f"Job '{job.id}' is still open; every open job needs its own id.")
            self._open[job.id] = threading.Event()
        self._waiting.put(lambda: self._run(job))

    def _run(self, job: Job) -> None:
        cancelled = self._open[job.id]

        def emit(event: dict[str, Any]) -> None:
            if event["event"] in ("result", "error"):  # closed before anyone knows, so that the id can be used again
                with self._lock:
                    del self._open[job.id]
            self.emit(event)

        code = jobs.run_reporting(job, emit, cancel=cancelled.is_set, models=self.models, traces=sys.stderr.write)
        if code == Cancelled.exit_code and not cancelled.is_set():
            raise KeyboardInterrupt  # a signal, not a request: it means the worker, not the job alone

    def _cancel(self, job_id: Any) -> None:
        with self._lock:
            cancelled = self._open.get(job_id)
            if cancelled is not None:
                cancelled.set()
        if cancelled is None:
            self.emit({"event": "log", "id": job_id, "message": f"There is no open job {job_id!r} to cancel."})


def run_file(path: Path, emit: jobs.Emit) -> int:
    """Run the job in a file; a file called ``cancel`` beside it cancels.

    Args:
        path: JSON, as a worker's ``run`` request; relative paths start at its folder.
        emit: receives the events.

    Returns:
        The exit code.
    """
    try:
        try:
            request = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a readable JSON file ({error}).") from None
        if not isinstance(request, Mapping):
            raise InputError(f"{path} must hold one JSON object, as a worker's run request; got {request!r}.")
        job = Job.from_request({"id": path.stem, **request}, path.parent)
    except InputError as error:
        emit(jobs.error_event(error))
        return error.exit_code
    cancel = path.parent / CANCEL_FILE
    return jobs.run_reporting(job, emit, cancel=cancel.exists, traces=sys.stderr.write)
