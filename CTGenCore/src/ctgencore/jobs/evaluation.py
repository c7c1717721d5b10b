"""Run an evaluation job: find the cases, measure them, write the tables and the error map."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, CasesFailed, InputError
from .events import Emit, ProgressEvents
from .job import Job, parse_options

if TYPE_CHECKING:
    from ..tasks.evaluate import EvaluateOptions
    from ..tasks.evaluate_files import Planned
    from ..tasks.evaluate_results import Evaluation

OUTPUT = "evaluation.json"


def run_evaluation(
    job: Job,
    emit: Emit,
    *,
    cancel: Callable[[], bool] | None = None,
    traces: Callable[[str], object] = lambda text: None,
) -> int:
    """Run a job whose task is ``evaluate``.

    Args:
        job: see :class:`Job`; its output is called ``evaluation.json``.
        emit: receives started, stage, progress, warning and result events.
        cancel: asked between metrics.
        traces: receives the tracebacks of unexpected errors of single cases.

    Returns:
        The exit code: 0, or 1 when some cases failed, which the result event lists.

    Raises:
        CTGenError: the job cannot run, or its only pair failed; nothing was written then.
    """
    from ..tasks.evaluate import evaluate_set
    from ..tasks.evaluate_files import plan_cases

    started = time.perf_counter()
    emit({"event": "started", "id": job.id, "task": job.task})
    assert job.input is not None
    options: EvaluateOptions = parse_options(job.options, job.task)
    _check_outputs(job)
    emit({"event": "stage", "id": job.id, "stage": "read"})
    planned = plan_cases(job.input, job.reference, job.mask, job.disease, job.test_mask, unpaired=options.unpaired)
    if job.difference is not None and not (planned.is_pair and job.reference is not None):
        raise InputError("The difference is that of one pair: give a test volume and a reference volume.")
    found = evaluate_set(
        planned.cases,
        options,
        job.output.parent,
        references=planned.references,
        failures=planned.failures,
        progress=ProgressEvents(job.id, emit),
        cancel=cancel,
    )
    if found.traces:
        traces(found.traces)
    whole = [failure for failure in found.failures if not failure.metric]
    if planned.is_pair and whole:
        raise InputError(whole[0].message) if whole[0].code == "input" else CasesFailed(whole[0].message)
    for failure in found.failures:
        name = " ".join(part for part in (failure.case, failure.metric) if part)
        emit({"event": "warning", "id": job.id, "message": f"{name}: {failure.message}"})
    if cancel is not None and cancel():
        raise Cancelled("Cancelled; finished cases are kept.")
    emit({"event": "stage", "id": job.id, "stage": "write"})
    emit(
        {
            "event": "result",
            "id": job.id,
            "task": job.task,
            "outputs": _write(job, found, planned),
            "seconds": round(time.perf_counter() - started, 3),
            "metrics": _metrics(found),
        }
    )
    return CasesFailed.exit_code if found.failures else 0


def _check_outputs(job: Job) -> None:
    from .runner import check_output

    if job.output.name != OUTPUT:
        raise InputError(f"The output of an evaluation is called {OUTPUT}; got '{job.output.name}'.")
    if not job.output.parent.is_dir():
        raise InputError(f"Cannot write {job.output}: the folder {job.output.parent} does not exist. Make it first.")
    if job.difference is not None:
        check_output(job.difference, *job.sources)


def _write(job: Job, found: Evaluation, planned: Planned) -> dict[str, str]:
    outputs = {"evaluation": found.save(job.output.parent)}
    outputs |= {name: job.output.with_name(f"{name}.csv") for name in ("rows", "summary")}
    if job.difference is not None:
        outputs["difference"] = write_difference(
            planned.cases[0].test, planned.cases[0].files["reference"], job.difference
        )
    return {name: str(path.resolve()) for name, path in outputs.items()}


def write_difference(test: Path, reference: Path, target: Path) -> Path:
    """Write test minus reference in HU, on the test volume's grid, with a record of where it comes from."""
    from .. import __version__, io
    from ..provenance import RunRecord, fingerprint

    one, two = io.read(test), io.read(reference)
    record = RunRecord(
        task="evaluate",
        synthetic=one.is_synthetic,
        inputs=[fingerprint(one), fingerprint(two)],
        notes=["test minus reference, HU"],
        ctgencore_version=__version__,
    )
    return io.write(one.with_voxels(one.voxels - two.voxels, record=record), target)


def _metrics(found: Evaluation) -> dict[str, Any]:
    data = found.to_dict()
    titles = {name: {"title": row["title"], "unit": row["unit"]} for name, row in data["metrics"].items()}
    return {
        "cases": len(found.inputs),
        "failed": len({failure.case for failure in found.failures}),
        "summary": data["summary"],
        "verdicts": [{**each, **titles.get(each["metric"], {})} for each in data["verdicts"]],
        "failures": data["failures"],
        "notes": data["notes"],
    }
