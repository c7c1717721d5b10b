"""The engine's label tables, asked for once, and its suggestions for segment names."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import slicer
from slicer.i18n import tr as _

from .ask import EngineQuestion

ANSWER_SECONDS = 60
ORGAN, DISEASE = "organ", "disease"


@dataclass(frozen=True)
class Label:
    """What a segment can stand for.

    Attributes:
        id: the value in a label map.
        name: the engine's.
        kind: ``organ`` or ``disease``.
    """

    id: int
    name: str
    kind: str


@dataclass(frozen=True)
class Suggestion:
    """What the engine takes a segment for.

    Attributes:
        id: a label's.
        confidence: 0 to 1.
        why: what it was recognized by.
    """

    id: int
    confidence: float
    why: str


class LabelTables:
    """Labels, findings and suggestions, from an engine process; every question is asked once.

    Args:
        onChange: called when an answer has come.

    Attributes:
        labels: id -> Label; empty until the engine has answered.
        findings: (name, template sentence) rows.
        problem: why there is no answer; empty: there is one, or it is still to come.
    """

    def __init__(self, onChange: Callable[[], None]) -> None:
        self._onChange = onChange
        self.labels: dict[int, Label] = {}
        self.findings: list[tuple[str, str]] = []
        self.problem = ""
        self._interpreter = None
        self._question: EngineQuestion | None = None
        self._folder = ""
        self._wanted: list[tuple[str, str]] = []
        self._known: dict[tuple[str, str], Suggestion | None] = {}

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return self._question is not None

    def setInterpreter(self, interpreter) -> None:
        """Ask this engine from now on; None: there is no engine."""
        if interpreter == self._interpreter:
            return
        self.stop()
        self._interpreter = interpreter
        self.labels, self.findings, self.problem, self._known = {}, [], "", {}

    def find(self, text: str) -> Label | None:
        """The label with this name or number, if there is exactly one; case does not matter."""
        wanted = text.strip().lower()
        found = [label for label in self.labels.values() if wanted in (label.name.lower(), str(label.id))]
        return found[0] if len(found) == 1 else None

    def suggestion(self, name: str, terminology: str) -> Suggestion | None:
        """What the engine said about a segment; None: nothing, or not yet."""
        return self._known.get((name, terminology))

    def asked(self, name: str, terminology: str) -> bool:
        """Whether the engine has answered for this segment."""
        return (name, terminology) in self._known

    def ask(self, segments: list[tuple[str, str]]) -> None:
        """Ask for the tables and for suggestions, unless they are known.

        Args:
            segments: (name, serialized terminology) of each.
        """
        self._wanted = segments
        if self._interpreter is None or self.waiting or self.problem:
            return
        if not self.labels:
            self._start([], self._hearTables)
            return
        asked = [pair for pair in dict.fromkeys(segments) if pair not in self._known]
        if asked:
            self._folder = slicer.util.tempDirectory("CTGen-labels-")
            path = os.path.join(self._folder, "segments.json")
            with open(path, "w", encoding="utf-8") as file:
                json.dump([{"name": name, "terminology": terminology} for name, terminology in asked], file)
            self._start(["--suggest", path], lambda answer: self._hearSuggestions(asked, answer))

    def stop(self) -> None:
        """Forget what was asked."""
        if self._question is not None:
            self._question.stop()
            self._forget()

    def _start(self, arguments: list[str], onAnswer: Callable[[dict[str, Any]], None]) -> None:
        def hear(answer: dict[str, Any] | None, problem: str) -> None:
            self._forget()
            try:
                if answer is None:
                    raise ValueError(problem)
                onAnswer(answer)
            except (ValueError, KeyError, TypeError) as error:
                self.problem = _("The engine's labels are not known: {reason}").format(reason=error)
            else:
                self.ask(self._wanted)
            self._onChange()

        try:
            self._question = EngineQuestion(self._interpreter, ["labels", "--json", *arguments], ANSWER_SECONDS, hear)
        except OSError as error:
            hear(None, str(error))

    def _forget(self) -> None:
        self._question = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""

    def _hearTables(self, answer: dict[str, Any]) -> None:
        labels = {}
        for kind, rows in ((ORGAN, answer["organs"]), (DISEASE, answer["diseases"])):
            for row in rows:
                labels[row["id"]] = Label(row["id"], row["name"], kind)
        self.findings = [(row["name"], row["template"]) for row in answer["findings"]]
        self.labels = labels

    def _hearSuggestions(self, asked: list[tuple[str, str]], answer: dict[str, Any]) -> None:
        for pair, row in zip(asked, answer["suggestions"], strict=True):
            self._known[pair] = Suggestion(row["id"], row["confidence"], row["why"]) if row else None
