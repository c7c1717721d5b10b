"""Run jobs on data sets: make one with views (recognize it, do its cases, describe the result), or add a case."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CasesFailed, InputError
from .events import Emit
from .job import Job, parse_options

if TYPE_CHECKING:
    from ..cluster.execute import Executor
    from ..cluster.work import Unit
    from ..tasks.augment.model import DataSet
    from ..tasks.augment.options import AugmentOptions

STATE = ".ctgen"  # folder of the result that keeps what is done; no part of the data set


def _recognize(job: Job) -> tuple[DataSet, AugmentOptions]:
    from ..tasks.augment.sources import read_dataset

    assert job.input is not None
    for name in ("reference", "mask", "test_mask", "disease", "difference"):
        if getattr(job, name) is not None:
            raise InputError(f"An augmentation works on a data set and has no '{name}'. Leave it out.")
    options: AugmentOptions = parse_options(job.options, job.task)
    return read_dataset(job.input, patient_pattern=options.patient_pattern), options


def _units(dataset: DataSet, options: AugmentOptions, output: Path) -> list[Unit]:
    """The cases that can be used, as units of work; nothing is written."""
    from ..cluster.work import Unit
    from ..tasks.augment.case import plan_cases

    work = plan_cases(dataset, options, output)
    return [Unit(name=each.name, call="augment", payload=each.to_payload(), inputs=each.inputs) for each in work]


def describe(job: Job) -> dict[str, Any]:
    """What a job would do, as an event: cases, problems, views, time and disk. Runs a trial of each codec.

    Raises:
        CTGenError: the job cannot run; what is amiss with the data set as a whole is among the problems, however.
    """
    from ..cluster.markers import State
    from ..tasks.augment.estimate import estimate
    from ..tasks.augment.layout import usable_cases

    dataset, options = _recognize(job)
    whole = not any(problem.fatal and not problem.case for problem in dataset.problems)
    can_run = whole and any(case.split == "train" for case in usable_cases(dataset))
    units = _units(dataset, options, job.output) if can_run else []
    state = State(job.output / STATE) if (job.output / STATE).is_dir() else None  # which would make it otherwise
    done = {unit.name for unit in units if state is not None and state.result(unit) is not None}
    place = job.output.absolute()
    while not place.exists():
        place = place.parent
    cases = [
        {
            "name": case.name,
            "patient": case.patient,
            "channels": len(case.images),
            "label": case.label is not None,
            "split": case.split,
            "done": case.name in done,
        }
        for case in dataset.cases
    ]
    return {
        "event": "plan",
        "kind": dataset.kind,
        "cases": cases,
        "channels": list(dataset.channels),
        "labels": dataset.labels,
        "problems": [asdict(problem) for problem in dataset.problems],
        "views": [view.to_dict() for view in options.plan()],
        **estimate(dataset, options, job.output),
        "free_bytes": shutil.disk_usage(place).free,
        "done": len(done),
        "output": str(job.output.absolute()),
    }


def run_augmentation(
    job: Job,
    emit: Emit,
    *,
    cancel: Callable[[], bool] | None = None,
    executor: Executor | None = None,
    attempts: int = 3,
) -> int:
    """Run a job whose task is ``augment``; what an earlier run finished in that folder is kept.

    Args:
        job: see :class:`Job`; its input is a data set, its output a folder.
        emit: receives started, stage, case, progress, warning and result events.
        cancel: asked between slabs.
        executor: who does the cases; None: this process.
        attempts: how often a case is tried where that may help.

    Returns:
        The exit code: 0, or 1 when some cases failed, which the result event lists.

    Raises:
        CTGenError: the job cannot run, or was cancelled; finished cases stay.
    """
    from ..cluster.execute import Executor, execute
    from ..tasks.augment.finish import finish

    started = time.perf_counter()
    emit({"event": "started", "id": job.id, "task": job.task})

    def tell(event: dict[str, Any]) -> None:
        emit({"id": job.id, **event})  # what a case's work says has the case's name as its id

    emit({"event": "stage", "id": job.id, "stage": "read"})
    dataset, options = _recognize(job)
    units = _units(dataset, options, job.output)
    failed = []
    for problem in dataset.problems:
        if problem.fatal:
            failed.append({"name": problem.case, "message": problem.message})
        else:
            words = f"{problem.case}: {problem.message}" if problem.case else problem.message
            emit({"event": "warning", "id": job.id, "message": words})
    emit({"event": "stage", "id": job.id, "stage": "augment"})
    summary = execute(
        units,
        state=job.output / STATE,
        executor=executor or Executor(),
        emit=tell,
        cancel=cancel,
        attempts=attempts,
    )
    failed += [{"name": each.unit.name, "message": each.message} for each in summary.failed]
    results = [summary.results[unit.key] for unit in summary.done]
    found: dict[str, Any] = {"cases": len(results), "views": 0, "notes": []}
    if summary.left:
        words = f"{len(summary.left)} cases are left to other shards; the last one to end describes the data set."
        found["notes"] = [words]
    elif results:
        emit({"event": "stage", "id": job.id, "stage": "describe"})
        found = finish(dataset, options, job.output, results)
    emit(
        {
            "event": "result",
            "id": job.id,
            "task": job.task,
            "outputs": {"dataset": str(Path(job.output).resolve())},
            "seconds": round(time.perf_counter() - started, 3),
            "metrics": {**found, "skipped": summary.skipped, "left": len(summary.left), "failed": failed},
        }
    )
    return CasesFailed.exit_code if failed else 0


def augment(
    dataset: str | Path,
    output: str | Path,
    options: AugmentOptions | None = None,
    *,
    emit: Emit = lambda event: None,
    cancel: Callable[[], bool] | None = None,
    executor: Executor | None = None,
) -> dict[str, Any]:
    """Write a data set again with reconstructed views, labels untouched (Foundation VAE, section 2).

    Args:
        dataset: folder in the layout of nnU-Net v2, MSD or BIDS, folder of pairs, or a manifest (CSV).
        output: folder of the result; what an earlier call with the same options finished there is kept.
        options: see :class:`ctgencore.tasks.augment.options.AugmentOptions`.
        emit: receives events, see docs/protocol.md.
        cancel: asked between slabs; answer True to stop.
        executor: who does the cases; None: this process.

    Returns:
        ``cases``, ``views``, ``skipped``, ``left``, ``failed`` (``name`` and ``message`` of cases that are not in it)
        and ``notes``.

    Raises:
        CTGenError: it cannot run at all, or was cancelled; finished cases stay.
    """
    from ..tasks.augment.options import AugmentOptions

    metrics: dict[str, Any] = {}

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "result":
            metrics.update(event["metrics"])
        emit(event)

    chosen = asdict(options or AugmentOptions())
    job = Job(id="augment", task="augment", input=Path(dataset), output=Path(output), options=chosen)
    run_augmentation(job, hear, cancel=cancel, executor=executor)
    return metrics


def run_case(job: Job, emit: Emit) -> int:
    """Run a job whose task is ``case``: add one CT, with its labels, to the data set that is its output.

    Args:
        job: see :class:`Job`.
        emit: receives started, stage, warning and result events.

    Returns:
        The exit code, 0.

    Raises:
        InputError: see :func:`ctgencore.tasks.augment.addition.add_case`; the data set is as it was.
    """
    from ..tasks.augment.addition import add_case

    started = time.perf_counter()
    emit({"event": "started", "id": job.id, "task": job.task})
    assert job.input is not None
    options = parse_options(job.options, job.task)
    emit({"event": "stage", "id": job.id, "stage": "write"})
    added = add_case(job.output, job.input, job.mask, options)
    for note in added["notes"]:
        emit({"event": "warning", "id": job.id, "message": note})
    emit(
        {
            "event": "result",
            "id": job.id,
            "task": job.task,
            "outputs": {name: added[name] for name in ("image", "label") if added[name] is not None},
            "seconds": round(time.perf_counter() - started, 3),
            "metrics": {name: added[name] for name in ("cases", "labels")},
        }
    )
    return 0
