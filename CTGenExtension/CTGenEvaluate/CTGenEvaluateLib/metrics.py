"""The engine's metrics and presets, asked for once, and what each of them needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from CTGenLib.ask import EngineQuestion
from slicer.i18n import tr as _

ANSWER_SECONDS = 120


@dataclass(frozen=True)
class Metric:
    """A recipe of the engine.

    Attributes:
        name: the recipe's.
        title, unit, better: for people; see the engine's table.
        ofSets: it compares many volumes with many.
        needs: parts of a case that it cannot do without.
        source: paper or code that it follows.
        missing: which weights are not there and how to get them; empty: none.
    """

    name: str
    title: str
    unit: str
    better: str
    ofSets: bool
    needs: tuple[str, ...]
    source: str
    missing: str


class MetricTables:
    """Metrics and presets, from an engine process.

    Args:
        onChange: called when the answer has come.

    Attributes:
        metrics: name -> Metric; empty until the engine has answered.
        presets: name -> names of metrics.
        problem: why there is no answer; empty: there is one, or it is still to come.
    """

    def __init__(self, onChange: Callable[[], None]) -> None:
        self._onChange = onChange
        self.metrics: dict[str, Metric] = {}
        self.presets: dict[str, tuple[str, ...]] = {}
        self.problem = ""
        self._interpreter = None
        self._question: EngineQuestion | None = None

    @property
    def waiting(self) -> bool:
        """Whether the answer is still to come."""
        return self._question is not None

    def of(self, preset: str) -> list[Metric]:
        """The metrics of a preset."""
        return [self.metrics[name] for name in self.presets.get(preset, ()) if name in self.metrics]

    def setInterpreter(self, interpreter) -> None:
        """Ask this engine; None: there is no engine."""
        if interpreter == self._interpreter:
            return
        self.stop()
        self._interpreter = interpreter
        self.metrics, self.presets, self.problem = {}, {}, ""
        if interpreter is None:
            return
        try:
            self._question = EngineQuestion(interpreter, ["evaluate", "--list", "--json"], ANSWER_SECONDS, self._hear)
        except OSError as error:
            self.problem = str(error)

    def stop(self) -> None:
        """Forget what was asked."""
        if self._question is not None:
            self._question.stop()
            self._question = None

    def _hear(self, answer: dict[str, Any] | None, problem: str) -> None:
        self._question = None
        try:
            if answer is None:
                raise ValueError(problem)
            self.metrics = {name: _metric(name, row) for name, row in answer["metrics"].items()}
            self.presets = {name: tuple(names) for name, names in answer["presets"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.problem = _("The engine's metrics are not known: {reason}").format(reason=error)
        self._onChange()


def _metric(name: str, row: dict[str, Any]) -> Metric:
    return Metric(
        name, row["title"], row["unit"], row["better"], row["kind"] == "set", tuple(row["needs"]), row["source"],
        row["why"],
    )  # fmt: skip


def lacking(metric: Metric, given: frozenset[str], folders: bool) -> str:
    """What stands in the way of a metric, in a few words; empty: nothing.

    Args:
        metric: the metric.
        given: parts of a case that are there, beside the volume under test.
        folders: whether many volumes are measured.
    """
    words = {
        "reference": _("a reference"),
        "labels": _("organs"),
        "test_labels": _("organs in the test CT"),
        "diseases": _("diseases"),
        "twin": _("a healthy twin"),
        "report": _("a report"),
        "findings": _("findings"),
    }
    if metric.missing:
        return _("needs weights")
    if metric.ofSets and not folders:
        return _("needs folders")
    wanted = [words.get(need, need) for need in metric.needs if need not in given]
    return _("needs {parts}").format(parts=", ".join(wanted)) if wanted else ""
