"""What the engine recognizes at a path, and what a run would make, cost and find amiss. Asked without blocking."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
from CTGenLib.ask import EngineQuestion
from CTGenLib.sections import duration
from slicer.i18n import tr as _

ANSWER_SECONDS = 300  # headers of some thousand cases on a slow network disk
PAUSE_MS = 400  # after the last change: a word is typed letter by letter
NAMED = 6  # labels that are listed before "and more"
UNITS = ("B", "kB", "MB", "GB", "TB")


def command(request: Mapping[str, Any]) -> list[str]:
    """The engine's command that plans what a request asks for.

    Args:
        request: see augmentJob.request.
    """
    options = request["options"]
    views = [word for text in options["views"] for word in ("--view", text)]
    others = [word for key in ("mode", "layout", "seed", "device") for word in (f"--{key}", str(options[key]))]
    return ["augment", "-i", request["input"], "-o", request["output"], *views, *others, "--dry-run", "--json"]


class PlanQuestion:
    """The plan of what is chosen now.

    Args:
        onChange: called when the answer has come.

    Attributes:
        plan: the engine's answer; None: there is none, or it is still to come.
        problem: why there is no plan; empty: there is one, or it is still to come.
    """

    def __init__(self, onChange: Callable[[], None]) -> None:
        self._onChange = onChange
        self.plan: dict[str, Any] | None = None
        self.problem = ""
        self._interpreter = None
        self._wanted: list[str] = []
        self._question: EngineQuestion | None = None
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(PAUSE_MS)
        self._timer.connect("timeout()", self._ask)

    @property
    def waiting(self) -> bool:
        """Whether an answer is still to come."""
        return self._timer.active or self._question is not None

    def ask(self, interpreter, words: list[str]) -> None:
        """Ask, unless that was asked last.

        Args:
            interpreter: how to start the engine; None: there is none.
            words: see command(); none: nothing can be asked now.
        """
        if (interpreter, words) == (self._interpreter, self._wanted):
            return
        self.forget()
        self._interpreter, self._wanted = interpreter, words
        if interpreter is not None and words:
            self._timer.start()

    def forget(self) -> None:
        """What is on disk has changed, or the panel goes away: ask anew next time."""
        self._timer.stop()
        if self._question is not None:
            self._question.stop()
        self._question, self.plan, self.problem, self._wanted = None, None, "", []

    def _ask(self) -> None:
        def hear(answer: dict[str, Any] | None, problem: str) -> None:
            self._question = None
            if answer is not None and answer.get("event") != "plan":
                answer, problem = None, _("The engine answered nothing that CTGen understands.")
            self.plan, self.problem = answer, problem
            self._onChange()

        try:
            self._question = EngineQuestion(self._interpreter, self._wanted, ANSWER_SECONDS, hear)
        except OSError as error:
            hear(None, str(error))


def recognizedText(plan: Mapping[str, Any]) -> str:
    """What was recognized, in a sentence or two."""
    kinds = {
        "nnunet": _("nnU-Net data set"),
        "msd": _("Decathlon task"),
        "manifest": _("Manifest"),
        "bids": _("BIDS folder"),
        "pairs": _("Folder of cases"),
    }
    cases = [case for case in plan["cases"] if case["split"] != "test"]
    text = _("{kind}: {cases} cases of {patients} patients").format(
        kind=kinds.get(plan["kind"], plan["kind"]),
        cases=len(cases),
        patients=len({case["patient"] for case in cases}),
    )
    good = [case for case in usable(plan) if case["split"] != "test"]
    left, bare = len(cases) - len(good), sum(not case["label"] for case in good)
    text += _(", {count} of them cannot be used").format(count=left) if left else ""
    text += _(", {count} without labels").format(count=bare) if bare else ""
    text += ". " + _("Channels: {channels}.").format(channels=", ".join(plan["channels"]))
    names = [name for name in plan["labels"] if name != "background"]
    if names:
        more = len(names) - NAMED
        text += " " + _("Labels: {names}").format(names=", ".join(names[:NAMED]))
        text += (_(" and {count} more").format(count=more) if more > 0 else "") + "."
    tests = len(plan["cases"]) - len(cases)
    if tests:
        text += " " + _("Test cases, which stay as they are: {count}.").format(count=tests)
    if plan["done"] and plan["done"] == len(usable(plan)):
        text += " " + _("All are done already.")
    elif plan["done"]:
        text += " " + _("{count} are done already.").format(count=plan["done"])
    return text


def estimateText(plan: Mapping[str, Any]) -> str:
    """Time and disk that a run takes."""
    seconds = plan["seconds"]
    time = (
        _("Time not known on this device")
        if seconds is None
        else _("About {time}").format(time=duration(max(seconds, 1.0)))
    )
    text = _("{time}, {size} on disk; {free} are free.").format(
        time=time, size=sizeText(plan["bytes"]), free=sizeText(plan["free_bytes"])
    )
    return text + (" " + _("The disk is too small: choose another output folder.") if tooLarge(plan) else "")


def tooLarge(plan: Mapping[str, Any]) -> bool:
    """Whether the result does not fit the disk."""
    return plan["bytes"] > plan["free_bytes"]


def blocking(plan: Mapping[str, Any]) -> str:
    """Why nothing can be made of this data set; empty: something can."""
    whole = [each["message"] for each in plan["problems"] if each["fatal"] and not each["case"]]
    if whole:
        return whole[0]
    good = [case for case in usable(plan) if case["split"] != "test"]
    return "" if good else _("There is no case here that could be used.")


def usable(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cases that a run would work on; test cases are copied."""
    spoiled = {each["case"] for each in plan["problems"] if each["fatal"]}
    return [case for case in plan["cases"] if case["name"] not in spoiled]


def problemRows(plan: Mapping[str, Any] | None, failed: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bool]]:
    """(case, what, whether it is serious) of what failed and of what is amiss."""
    rows = [(str(each["name"]), str(each["message"]), True) for each in failed]
    found = [(each["case"], each["message"], bool(each["fatal"])) for each in (plan or {}).get("problems", [])]
    return list(dict.fromkeys([*rows, *found]))  # a case that cannot be used has failed with the same words


def sizeText(count: float) -> str:
    """Bytes for people."""
    unit = 0
    while count >= 999.5 and unit < len(UNITS) - 1:
        count, unit = count / 1000, unit + 1
    return f"{count:.3g} {UNITS[unit]}"
