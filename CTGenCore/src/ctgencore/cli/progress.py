"""Events of a job shown to a person: a progress bar on stderr, results on stdout."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from .common import stderr, talk, talk_error


class Bar(Progress):
    """A bar on stderr that vanishes at the end, and is not there where nobody watches.

    Args:
        facts: format of what stands behind the bar.
        quiet: no bar.
    """

    def __init__(self, facts: str, *, quiet: bool) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn(facts),
            console=stderr,
            disable=quiet or not stderr.is_terminal,
            redirect_stdout=False,
            transient=True,
        )


class Display:
    """Receives a job's events. Use as a context manager; as an event receiver it is called with each event.

    Args:
        quiet: no bar and no talk; results are printed all the same.
        total: how many jobs there will be.
    """

    def __init__(self, *, quiet: bool, total: int) -> None:
        self.quiet, self.total, self.number = quiet, total, 0
        self._bar = Bar("{task.fields[facts]}", quiet=quiet)
        self._task = self._bar.add_task("", total=None, facts="")

    def __enter__(self) -> Display:
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
        if kind == "started":
            self.number += 1
        elif kind == "stage":
            self._bar.update(self._task, description=self._label(event["stage"]), total=None, completed=0, facts="")
        elif kind == "progress":
            left = _clock(event["eta_s"])
            facts = f"{event['done']}/{event['total']} {event['unit']}  {event['rate']:.1f}/s  {left} left"
            self._bar.update(
                self._task,
                description=self._label(event["stage"]),
                completed=event["done"],
                total=event["total"],
                facts=facts,
            )
        elif kind == "result":
            print(event["outputs"]["volume"], flush=True)
            if not self.quiet:
                talk(f"{_SUMMARIES[event['task']](event['metrics'])}, {event['seconds']:.1f} s")
        elif kind == "error":
            talk_error(event)
        elif not self.quiet:  # a warning or a log line
            talk(event["message"], style="yellow" if kind == "warning" else "")

    def _label(self, stage: str) -> str:
        which = f"[{self.number}/{self.total}] " if self.total > 1 else ""
        return escape(f"{which}{stage}")


def reconstruction(metrics: dict[str, Any]) -> str:
    """How close a reconstruction is, in words."""
    psnr = "inf" if metrics["psnr"] is None else f"{metrics['psnr']:.2f}"
    return f"PSNR {psnr} dB, MAE {metrics['mae_hu']:.2f} HU"


def _generation(metrics: dict[str, Any]) -> str:
    checks = metrics["quality"]["checks"]
    passed = sum(check["passed"] for check in checks)
    return f"SYNTHETIC; quality gate: {passed} of {len(checks)} checks passed"


def _edit(metrics: dict[str, Any]) -> str:
    changed = metrics["changed"]
    return f"SYNTHETIC; {changed['region_ml']:.3g} ml changed by {changed['mean_change_hu']:+.1f} HU on average"


_SUMMARIES = {"reconstruct": reconstruction, "generate": _generation, "edit": _edit}


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
