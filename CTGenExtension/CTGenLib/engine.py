"""Finds a Python that can run the engine, and asks it what it can do."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from . import settings
from .process import EngineProcess

PROTOCOL = 1
CHECK_SECONDS = 180  # a first import of torch from a cold or networked disk takes more than a minute


@dataclass(frozen=True)
class Interpreter:
    """A Python and the way to the engine from it.

    Attributes:
        executable: path of the interpreter.
        source: folder to put on PYTHONPATH; empty: the engine is installed there.
        foreign: not Slicer's own, so it must not see Slicer's libraries.
    """

    executable: str
    source: str = ""
    foreign: bool = False

    def command(self, *arguments: str) -> list[str]:
        """The command line of an engine command."""
        return [self.executable, "-m", "ctgencore", *arguments]

    def environment(self) -> dict[str, str]:
        """All variables for the process."""
        variables = dict(slicer.util.startupEnvironment() if self.foreign else os.environ)
        variables["PYTHONUTF8"] = "1"
        if self.source:
            others = variables.get("PYTHONPATH", "")
            variables["PYTHONPATH"] = os.pathsep.join([self.source, others] if others else [self.source])
        return variables

    def describe(self) -> str:
        """For the user."""
        return (
            _("{python} (engine bundled with CTGen)").format(python=self.executable) if self.source else self.executable
        )


@dataclass(frozen=True)
class Engine:
    """An engine that answered.

    Attributes:
        interpreter: how to start it.
        version: of ctgencore.
        torch: version of PyTorch; None when it is missing.
        devices: rows of ``env --json``.
        codecs: rows of ``info --json``.
        cache: folder of the weights.
    """

    interpreter: Interpreter
    version: str
    torch: str | None
    devices: list[dict[str, Any]] = field(default_factory=list)
    codecs: list[dict[str, Any]] = field(default_factory=list)
    cache: str = ""

    def codec(self, name: str) -> dict[str, Any] | None:
        """A codec's row."""
        return next((row for row in self.codecs if row["name"] == name), None)


def bundledSource() -> str:
    """Folder that holds the package ctgencore: in the installed extension, else in the source tree; empty: neither."""
    here = os.path.dirname(os.path.abspath(__file__))
    root = os.path.dirname(os.path.dirname(here))
    for folder in (os.path.join(here, "engine"), os.path.join(root, "CTGenCore", "src")):
        if os.path.isfile(os.path.join(folder, "ctgencore", "__init__.py")):
            return folder
    return ""


def interpreters() -> list[Interpreter]:
    """What to try, in order: the user's Python, else Slicer's; each with its own engine, then the bundled one."""
    chosen = settings.pythonPath()
    executable = chosen or shutil.which("PythonSlicer")
    if not executable:
        return []
    found = [Interpreter(executable, foreign=bool(chosen))]
    source = bundledSource()
    if source:
        found.append(Interpreter(executable, source, foreign=bool(chosen)))
    return found


class EngineCheck:
    """Asks one interpreter after the other, without blocking.

    Args:
        onDone: called once with the engine, or None, and the reasons of those that failed; not after stop().
    """

    def __init__(self, onDone: Callable[[Engine | None, list[str]], None]) -> None:
        self._onDone = onDone
        self._waiting = interpreters()
        self._problems: list[str] = []
        self._process: EngineProcess | None = None
        self._timeout = qt.QTimer()
        self._timeout.setSingleShot(True)
        self._timeout.connect("timeout()", self._tooLong)
        if not self._waiting:
            self._problems.append(_("PythonSlicer was not found."))
        self._next()

    def stop(self) -> None:
        """Forget about it."""
        self._timeout.stop()
        if self._process:
            self._process.stopNow()

    def _next(self) -> None:
        if not self._waiting:
            qt.QTimer.singleShot(0, lambda: self._onDone(None, self._problems))
            return
        self._interpreter = self._waiting.pop(0)
        self._answers: dict[str, dict[str, Any]] = {}
        self._ask("env")

    def _ask(self, question: str) -> None:
        self._question, self._stdout, self._stderr = question, "", ""
        try:
            self._process = EngineProcess(
                self._interpreter.command(question, "--json"),
                self._interpreter.environment(),
                None,
                self._hear,
                self._ended,
            )
        except OSError as error:
            self._waiting = [other for other in self._waiting if other.executable != self._interpreter.executable]
            self._failed(_("cannot be started ({error})").format(error=error))
            return
        self._timeout.start(CHECK_SECONDS * 1000)

    def _hear(self, stream: str, text: str) -> None:
        if stream == "stdout":
            self._stdout += text + "\n"
        elif text.strip():
            self._stderr = text.strip()  # the last line of a traceback says what is wrong

    def _tooLong(self) -> None:
        self._process.stopNow()
        self._failed(_("did not answer within {seconds} seconds").format(seconds=CHECK_SECONDS))

    def _ended(self, code: int) -> None:
        self._timeout.stop()
        try:
            answer = json.loads(self._stdout)
        except ValueError:
            answer = None
        if code != 0 or not isinstance(answer, dict) or "version" not in answer:
            reason = self._stderr or _("answered nothing that CTGen understands")
            self._failed(_("{reason} (exit code {code})").format(reason=reason, code=code))
            return
        self._answers[self._question] = answer
        if self._question == "env":
            if answer.get("protocol") != PROTOCOL:
                self._failed(
                    _("speaks protocol {theirs}; this extension needs {ours}").format(
                        theirs=answer.get("protocol"), ours=PROTOCOL
                    )
                )
                return
            self._ask("info")
            return
        environment, info = self._answers["env"], answer
        engine = Engine(
            self._interpreter,
            environment["version"],
            environment.get("torch"),
            environment.get("devices", []),
            info.get("codecs", []),
            info.get("cache", ""),
        )
        self._onDone(engine, self._problems)

    def _failed(self, reason: str) -> None:
        self._problems.append(f"{self._interpreter.describe()}: {reason}")
        self._next()
