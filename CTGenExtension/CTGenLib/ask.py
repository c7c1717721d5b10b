"""Asks the engine something that takes it seconds, without blocking Slicer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import qt
from slicer.i18n import tr as _

from .process import EngineProcess


class EngineQuestion:
    """A short command of the engine that answers with one JSON object on stdout.

    Args:
        interpreter: how to start the engine.
        arguments: the command and its arguments.
        seconds: how long to wait for the answer.
        onAnswer: called once, on the GUI thread, with the object and an empty text, or with None and what went wrong;
            not after stop().

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(
        self, interpreter, arguments: list[str], seconds: int, onAnswer: Callable[[dict[str, Any] | None, str], None]
    ) -> None:
        self._seconds, self._onAnswer = seconds, onAnswer
        self._stdout: list[str] = []
        self._stderr = ""
        self._timeout = qt.QTimer()
        self._timeout.setSingleShot(True)
        self._timeout.connect("timeout()", self._tooLong)
        self._process = EngineProcess(
            interpreter.command(*arguments), interpreter.environment(), None, self._hear, self._ended
        )
        self._timeout.start(seconds * 1000)

    @property
    def running(self) -> bool:
        """Whether the answer is still to come."""
        return self._process.running

    def stop(self) -> None:
        """Forget about it."""
        self._timeout.stop()
        self._process.stopNow()

    def _hear(self, stream: str, text: str) -> None:
        if stream == "stdout":
            self._stdout.append(text)
        elif text.strip():
            self._stderr = text.strip()  # the last line of a traceback says what is wrong

    def _tooLong(self) -> None:
        self._process.stopNow()
        self._onAnswer(None, _("did not answer within {seconds} seconds").format(seconds=self._seconds))

    def _ended(self, code: int) -> None:
        self._timeout.stop()
        try:
            answer = json.loads("\n".join(self._stdout))
        except ValueError:
            answer = None
        if code == 0 and isinstance(answer, dict):
            self._onAnswer(answer, "")
            return
        said = answer.get("message") if isinstance(answer, dict) else ""
        reason = said or self._stderr or _("answered nothing that CTGen understands")
        self._onAnswer(None, _("{reason} (exit code {code})").format(reason=reason, code=code))
