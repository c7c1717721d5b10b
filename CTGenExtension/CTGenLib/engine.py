"""Finds a Python that can run the engine, and asks it what it can do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from . import settings
from .ask import EngineQuestion

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
        generators: rows of ``info --json``.
        cache: folder of the weights.
    """

    interpreter: Interpreter
    version: str
    torch: str | None
    devices: list[dict[str, Any]] = field(default_factory=list)
    codecs: list[dict[str, Any]] = field(default_factory=list)
    generators: list[dict[str, Any]] = field(default_factory=list)
    cache: str = ""

    def codec(self, name: str) -> dict[str, Any] | None:
        """A codec's row."""
        return next((row for row in self.codecs if row["name"] == name), None)

    def generator(self, name: str) -> dict[str, Any] | None:
        """A generator's row."""
        return next((row for row in self.generators if row["name"] == name), None)


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
        self._question: EngineQuestion | None = None
        if not self._waiting:
            self._problems.append(_("PythonSlicer was not found."))
        self._next()

    def stop(self) -> None:
        """Forget about it."""
        if self._question:
            self._question.stop()

    def _next(self) -> None:
        if not self._waiting:
            qt.QTimer.singleShot(0, lambda: self._onDone(None, self._problems))
            return
        self._interpreter = self._waiting.pop(0)
        self._ask("env", self._hearEnvironment)

    def _ask(self, command: str, onAnswer: Callable[[dict[str, Any]], None]) -> None:
        def hear(answer: dict[str, Any] | None, problem: str) -> None:
            if answer is not None and "version" not in answer:
                problem = _("answered nothing that CTGen understands")
            if problem:
                self._failed(problem)
            else:
                onAnswer(answer)

        try:
            self._question = EngineQuestion(self._interpreter, [command, "--json"], CHECK_SECONDS, hear)
        except OSError as error:
            self._waiting = [other for other in self._waiting if other.executable != self._interpreter.executable]
            self._failed(_("cannot be started ({error})").format(error=error))

    def _hearEnvironment(self, answer: dict[str, Any]) -> None:
        if answer.get("protocol") != PROTOCOL:
            self._failed(
                _("speaks protocol {theirs}; this extension needs {ours}").format(
                    theirs=answer.get("protocol"), ours=PROTOCOL
                )
            )
            return
        self._environment = answer
        self._ask("info", self._hearInfo)

    def _hearInfo(self, info: dict[str, Any]) -> None:
        environment = self._environment
        engine = Engine(
            self._interpreter,
            environment["version"],
            environment.get("torch"),
            environment.get("devices", []),
            info.get("codecs", []),
            info.get("generators", []),
            info.get("cache", ""),
        )
        self._onDone(engine, self._problems)

    def _failed(self, reason: str) -> None:
        self._problems.append(f"{self._interpreter.describe()}: {reason}")
        self._next()
