"""Do a unit of work in this process, with models that stay loaded, and leave its marker."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Cancelled, OutOfMemory
from ..jobs import Emit, Job, Models, ProgressEvents, error_event, run
from .markers import State, fingerprints
from .work import Unit

Cancel = Callable[[], bool]
Call = Callable[[Unit, Models, Emit, Cancel], tuple[dict[str, Any], list[Path]]]  # what it returns, its files


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How one try of a unit ended.

    Attributes:
        seconds: that it took.
        result: what the call returned; None when it failed.
        code: of the error, as in error events; also ``io`` (disk or network) and ``worker`` (its process died).
        message: for people.
        again: whether another try may help.
        trace: of an error that nobody foresaw.
    """

    seconds: float = 0.0
    result: dict[str, Any] | None = None
    code: str = ""
    message: str = ""
    again: bool = False
    trace: str = ""


class Performer:
    """Does units one after the other; codecs and generators stay loaded between them.

    Args:
        state: where markers go.
    """

    def __init__(self, state: State) -> None:
        self.state, self.models = state, Models()

    def attempt(self, unit: Unit, emit: Emit, cancel: Cancel) -> Outcome:
        """Do a unit and write its marker.

        Args:
            unit: what to do.
            emit: receives the stage, progress and warning events of the task; their id is the unit's name.
            cancel: asked on the way.

        Raises:
            Cancelled, KeyboardInterrupt: nothing of this unit was written but whole files without a marker.
        """
        began = time.perf_counter()
        try:
            inputs = fingerprints(unit.inputs)
            result, files = CALLS[unit.call](unit, self.models, emit, cancel)
            self.state.finish(unit, inputs, files, result)
            return Outcome(seconds=time.perf_counter() - began, result=result)
        except Cancelled:
            raise
        except Exception as error:
            if isinstance(error, OutOfMemory | MemoryError):
                self.models.clear()
            event = error_event(error)
            code, message = ("io", str(error)) if isinstance(error, OSError) else (event["code"], event["message"])
            return Outcome(
                seconds=time.perf_counter() - began,
                code=code,
                message=message,
                again=isinstance(error, OSError | OutOfMemory | MemoryError),
                trace=traceback.format_exc() if code == "internal" else "",
            )


def _job(unit: Unit, models: Models, emit: Emit, cancel: Cancel) -> tuple[dict[str, Any], list[Path]]:
    """A :class:`ctgencore.jobs.Job` that makes a volume; the payload is its request."""
    from .. import io

    ended: dict[str, Any] = {}

    def tell(event: dict[str, Any]) -> None:
        if event["event"] == "result":
            ended.update(event)
        elif event["event"] != "started":
            emit(event)

    job = Job.from_request({**unit.payload, "id": unit.name})
    run(job, tell, cancel=cancel, models=models)
    files = [Path(path) for path in ended["outputs"].values()]
    if job.difference is not None:
        files.append(io.sidecar_path(job.difference).resolve())
    return {"outputs": ended["outputs"], "metrics": ended["metrics"]}, files


def _augment(unit: Unit, models: Models, emit: Emit, cancel: Cancel) -> tuple[dict[str, Any], list[Path]]:
    """A case of an augmented data set; the payload is its :class:`ctgencore.tasks.augment.case.CaseWork`."""
    from ..tasks.augment.case import run_payload

    result = run_payload(unit.payload, models.codec, ProgressEvents(unit.name, emit), cancel)
    folder = Path(unit.payload["output"]).resolve()
    return result, [folder / path for path in result["outputs"]]


CALLS: dict[str, Call] = {"job": _job, "augment": _augment}


def places(units: Iterable[Unit]) -> tuple[set[Path], set[Path]]:
    """Where units write: folders (of a job's files), and folders with all below them (augmented data sets)."""
    folders: set[Path] = set()
    trees: set[Path] = set()
    for unit in units:
        if unit.call == "job":
            files = (unit.payload.get(key) for key in ("output", "difference"))
            folders.update(Path(path).parent for path in files if path)
        else:
            trees.add(Path(unit.payload["output"]))
    return folders, trees


def option(unit: Unit, name: str) -> Any:
    """An option of the unit's task; None where it is left to its default."""
    return unit.payload.get("options", {}).get(name)
