"""What a job says while it runs: progress and errors as plain data."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from ..errors import Cancelled, CTGenError, InputError, OutOfMemory, WeightsError

PROTOCOL = 1
PROGRESS_PERIOD_S = 0.1  # ten progress events a second at most: more only floods a pipe

Emit = Callable[[dict[str, Any]], None]


class ProgressEvents:
    """Turns a task's progress into events: throttled, with rate and time left."""

    def __init__(self, job_id: str, emit: Emit) -> None:
        self.id, self.emit = job_id, emit
        self.began = self.heard = time.perf_counter()
        self.last = -math.inf
        self.stage = ""

    def __call__(self, event: Any) -> None:
        """Take a :class:`ctgencore.tasks.common.ProgressEvent`; one with nothing done says that work begins now."""
        now = time.perf_counter()
        if event.stage != self.stage:  # its first step began when the one before was heard of
            self.stage = event.stage
            self.began = self.heard
            self.emit({"event": "stage", "id": self.id, "stage": event.stage})
        self.heard = now
        if event.done == event.before:
            self.began = now
            return
        if now - self.last < PROGRESS_PERIOD_S and event.done < event.total:
            return
        self.last = now
        rate = (event.done - event.before) / max(now - self.began, 1e-9)
        self.emit(
            {
                "event": "progress",
                "id": self.id,
                "stage": event.stage,
                "done": event.done,
                "total": event.total,
                "unit": event.unit,
                "rate": round(rate, 2),
                "eta_s": round((event.total - event.done) / max(rate, 1e-9), 1),
            }
        )


def error_event(error: BaseException, job_id: str | None = None) -> dict[str, Any]:
    """The error as an event."""
    if isinstance(error, KeyboardInterrupt):
        error = Cancelled("Interrupted; the running case wrote nothing.")
    code, message = "internal", f"{type(error).__name__}: {error}"
    if isinstance(error, CTGenError):
        code, message = error.code, str(error)
    return {
        "event": "error",
        **({"id": job_id} if job_id is not None else {}),
        "code": code,
        "exit_code": exit_code(error),
        "message": message,
        "next": _next_step(error),
    }


def exit_code(error: BaseException) -> int:
    """What the process exits with after this error."""
    if isinstance(error, KeyboardInterrupt):
        return Cancelled.exit_code
    return error.exit_code if isinstance(error, CTGenError) else 1


def _next_step(error: BaseException) -> str:
    if isinstance(error, InputError):
        return "Correct the input or the options as the message says."
    if isinstance(error, WeightsError):
        return "Download or import the weights (ctgencore download NAME), or use an embedded model."
    if isinstance(error, OutOfMemory):
        return "Set a smaller --memory, or use --device cpu or an embedded model."
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return "Run the job again."
    return "Report this with the text on stderr."
