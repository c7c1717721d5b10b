"""Run a comparison job: one codec after the other, each with its files and its row."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ..errors import CasesFailed, InputError
from .events import Emit, ProgressEvents
from .job import Job, parse_options

if TYPE_CHECKING:
    from ..tasks.compare import CompareOptions, Row
    from .runner import Models

OUTPUT = "comparison.json"


def run_comparison(
    job: Job,
    emit: Emit,
    *,
    cancel: Callable[[], bool] | None = None,
    traces: Callable[[str], object] = lambda text: None,
    models: Models | None = None,
    resume: bool = True,
) -> int:
    """Run a job whose task is ``compare``.

    Args:
        job: see :class:`Job`; its output is called ``comparison.json``.
        emit: receives started, stage, progress, warning, row and result events.
        cancel: asked between slabs.
        traces: receives the tracebacks of unexpected errors of single codecs.
        models: are unloaded first, so that memory is free and is measured alike for every codec.
        resume: keep what an earlier run finished in that folder, see :class:`ctgencore.tasks.compare_files.Folder`.

    Returns:
        The exit code: 0, or 1 when some codecs failed, which their rows tell.

    Raises:
        CTGenError: the job cannot run, or every codec failed; nothing was written then.
    """
    from .. import io
    from ..tasks.compare import compare_each, no_codec_left
    from ..tasks.compare_files import Folder

    started = time.perf_counter()
    emit({"event": "started", "id": job.id, "task": job.task})
    assert job.input is not None
    options: CompareOptions = parse_options(job.options, job.task)
    _check_output(job)
    if models is not None:
        models.clear()
    emit({"event": "stage", "id": job.id, "stage": "read"})
    source = io.read(job.input)
    folder = Folder(job.output.parent, source, options, resume=resume)

    def tell(row: Row) -> None:
        emit({"event": "row", "id": job.id, "row": asdict(row)})

    for codec in (codec for codec in options.codecs if codec in folder.rows):
        tell(folder.rows[codec])
    missing = replace(options, codecs=tuple(codec for codec in options.codecs if codec not in folder.rows))
    failed = []
    told: set[str] = set()
    for each in compare_each(source, missing, progress=ProgressEvents(job.id, emit), cancel=cancel):
        if each.volume is None:
            failed.append(each)
            if each.trace:
                traces(each.trace)
        elif each.volume.record is not None:
            for note in set(each.volume.record.notes) - told:
                told.add(note)
                emit({"event": "warning", "id": job.id, "message": note})
        tell(folder.add(each.row, each.volume))
        del each  # its volume need not be there while the next codec works
    if len(failed) == len(options.codecs):
        raise no_codec_left(failed)
    folder.write_tables()
    rows = [asdict(folder.rows[codec]) for codec in options.codecs]
    emit(
        {
            "event": "result",
            "id": job.id,
            "task": job.task,
            "outputs": {"comparison": str(folder.path.resolve())},
            "seconds": round(time.perf_counter() - started, 3),
            "metrics": {"rows": rows},
        }
    )
    return CasesFailed.exit_code if failed else 0


def _check_output(job: Job) -> None:
    if job.output.name != OUTPUT:
        raise InputError(f"The output of a comparison is called {OUTPUT}; got '{job.output.name}'.")
    if not job.output.parent.is_dir():
        raise InputError(f"Cannot write {job.output}: the folder {job.output.parent} does not exist. Make it first.")
    if job.difference is not None:
        raise InputError("A comparison always writes its differences, beside its output. Leave 'difference' out.")
