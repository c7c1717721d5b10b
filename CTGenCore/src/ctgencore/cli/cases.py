"""Many cases shown to a person: a bar on stderr with rate, time left and failures; finished cases on stdout."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.markup import escape

from ..errors import InputError
from .common import talk
from .progress import Bar


class CasesDisplay:
    """Receives the events of :func:`ctgencore.cluster.execute.execute`. Use as a context manager.

    Args:
        quiet: no bar and no talk; names of finished cases are printed all the same.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self._bar = Bar("{task.fields[facts]}", quiet=quiet)
        self._task = self._bar.add_task("", total=None, facts="")

    def __enter__(self) -> CasesDisplay:
        """Start drawing."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._bar.stop()

    def __call__(self, event: dict[str, Any]) -> None:
        """Show one event."""
        kind = event["event"]
        if kind == "case":
            self._case(event)
        elif kind in ("stage", "progress"):
            self._bar.update(self._task, description=escape(f"{event['id']} {event['stage']}"))
        elif kind in ("paused", "resumed"):
            self._bar.update(self._task, description=kind)
            self._say(f"{kind}.")
        elif kind == "warning":
            self._say(f"{event['id']}: {event['message']}" if "id" in event else event["message"], style="yellow")

    def _case(self, event: dict[str, Any]) -> None:
        ended = event["done"] + event["failed"] + event["skipped"]
        facts = f"{ended}/{event['total']} cases" + (f"  {event['failed']} failed" if event["failed"] else "")
        if event["per_minute"] is not None:
            facts += f"  {event['per_minute']:.1f}/min  {_clock(event['eta_s'])} left"
        self._bar.update(self._task, completed=ended, total=event["total"], facts=facts)
        if event["state"] == "done":
            print(event["name"], flush=True)
        elif event["state"] == "retry":
            self._say(f"{event['name']}: {event['message']} It is tried again.", style="yellow")
        elif event["state"] == "failed":
            self._say(f"{event['name']}: {event['message']}", style="red")

    def _say(self, message: str, *, style: str = "") -> None:
        if not self.quiet:
            talk(message, style=style)


def parse_shard(text: str | None) -> tuple[int, int] | None:
    """``"3/16"`` -> (3, 16).

    Raises:
        InputError: something else.
    """
    if text is None:
        return None
    parts = text.split("/")
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        raise InputError(f"A shard is i/n, such as 3/16 for the third of sixteen; got '{text}'.")
    return int(parts[0]), int(parts[1])


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
