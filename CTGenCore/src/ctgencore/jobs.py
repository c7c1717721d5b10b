"""Jobs: a task with its files and options as plain data, run with events. Command line, worker and job file share it.

Events are dictionaries, one per line of JSON where they leave the process; :data:`PROTOCOL` is their version.
"""

from __future__ import annotations

import difflib
import math
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from . import hub
from .errors import Cancelled, CTGenError, InputError, OutOfMemory, WeightsError
from .intensity import Window

if TYPE_CHECKING:
    from .codecs.base import Codec
    from .tasks.reconstruct import ReconstructOptions
    from .volume import Volume

PROTOCOL = 1
TASKS = ("reconstruct",)
PROGRESS_PERIOD_S = 0.1  # ten progress events a second at most: more only floods a pipe
CODECS_KEPT = 2  # a third large codec would not fit beside two on most GPUs

Emit = Callable[[dict[str, Any]], None]
Cancel = Callable[[], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to do with which files.

    Attributes:
        id: given back in every event.
        task: one of :data:`TASKS`.
        input: volume file or DICOM folder.
        output: volume file to write; an existing one is replaced.
        difference: where to write output minus input in HU, or None.
        options: fields of the task's options dataclass.
    """

    id: str
    task: str = "reconstruct"
    input: Path
    output: Path
    difference: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def from_request(request: Mapping[str, Any], base: Path | None = None) -> Job:
        """Read a request ``{"op": "run", "id", "task", "input", "output", "difference", "options"}``.

        Args:
            request: the parsed JSON object.
            base: relative paths start here (None: the working folder).

        Raises:
            InputError: a key is unknown, missing or of the wrong type.
        """
        known = [item.name for item in fields(Job)]
        for key in request:
            if key not in (*known, "op"):
                raise InputError(f"A job has no field '{key}'.{_near(key, known)} Known: {', '.join(known)}.")
        for key in ("id", "input", "output"):
            if not isinstance(request.get(key), str) or not request[key]:
                raise InputError(f"A job needs '{key}' as text; got {request.get(key)!r}.")
        task, options, difference = (request.get(key) for key in ("task", "options", "difference"))
        if task not in TASKS:
            raise InputError(f"There is no task {task!r}.{_near(str(task), TASKS)} Known: {', '.join(TASKS)}.")
        if options is not None and not isinstance(options, Mapping):
            raise InputError(f"A job's 'options' are an object of option names and values; got {options!r}.")
        if difference is not None and not isinstance(difference, str):
            raise InputError(f"A job's 'difference' is a path or null; got {difference!r}.")
        base = base or Path()
        return Job(
            id=request["id"],
            task=task,
            input=base / request["input"],
            output=base / request["output"],
            difference=base / difference if difference else None,
            options=dict(options or {}),
        )


def parse_options(options: Mapping[str, Any]) -> ReconstructOptions:
    """The options dataclass from plain data, refused before any work when it cannot run.

    Raises:
        InputError: unknown option, a value of another type than the field declares, unknown codec or window.
        WeightsError: the codec's weights are not here.
    """
    from .tasks.reconstruct import ReconstructOptions

    types = get_type_hints(ReconstructOptions)
    for name, value in options.items():
        if name not in types:
            raise InputError(f"reconstruct has no option '{name}'.{_near(name, types)} Known: {', '.join(types)}.")
        allowed = get_args(types[name]) or (types[name],)
        if type(value) not in allowed:
            wanted = " or ".join("null" if kind is type(None) else kind.__name__ for kind in allowed)
            raise InputError(f"Option '{name}' must be {wanted}; got {value!r}.")
    chosen = ReconstructOptions(**options)
    Window.parse(chosen.window)
    hub.locate(chosen.codec)
    return chosen


class Codecs:
    """Codecs that stay loaded between jobs, the most recently used ones first to stay."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[tuple[str, str, str, bool], Codec] = OrderedDict()

    def get(self, options: ReconstructOptions) -> Codec:
        """The codec that the options ask for, loaded now if it is not yet."""
        from .tasks.reconstruct import load_codec

        key = (options.codec, options.dtype, options.device, options.faithful)
        if key not in self._loaded:
            while len(self._loaded) >= CODECS_KEPT:
                self._loaded.popitem(last=False)
            self._loaded[key] = load_codec(options)
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def clear(self) -> None:
        """Forget them all, so that their memory can be used."""
        self._loaded.clear()


def run(job: Job, emit: Emit, *, cancel: Cancel | None = None, codecs: Codecs | None = None) -> tuple[Volume, Volume]:
    """Run a job: read, load, compute, write.

    Args:
        job: see :class:`Job`.
        emit: receives started, stage, progress, warning and result events.
        cancel: asked between slabs and before writing.
        codecs: loaded codecs to use and add to.

    Returns:
        ``(input, output)``; the output as written, with its record.

    Raises:
        CTGenError: as the task does; nothing was written then.
    """
    from . import io
    from .tasks.reconstruct import reconstruct

    started = time.perf_counter()
    codecs = codecs or Codecs()
    emit({"event": "started", "id": job.id, "task": job.task})
    options = parse_options(job.options)
    check_output(job.output, job.input)
    if job.difference is not None:
        check_output(job.difference, job.input)
        if job.difference.resolve() == job.output.resolve():
            raise InputError(f"Output and difference are both {job.output}. Give them different names.")

    emit({"event": "stage", "id": job.id, "stage": "read"})
    volume = io.read(job.input)
    if volume.geometry.is_sheared() and job.output.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError(
            f"{job.output.name}: NIfTI cannot hold this volume's sheared grid. Write .nrrd or .mha instead."
        )
    _stop_if(cancel)
    emit({"event": "stage", "id": job.id, "stage": "load"})
    try:
        codec = codecs.get(options)
        _stop_if(cancel)
        result = reconstruct(volume, codec, options, progress=_Progress(job.id, emit), cancel=cancel)
    except OutOfMemory:
        codecs.clear()
        raise
    record = result.record
    assert record is not None
    for note in record.notes:
        emit({"event": "warning", "id": job.id, "message": note})
    _stop_if(cancel)

    emit({"event": "stage", "id": job.id, "stage": "write"})
    outputs = _write(job, volume, result)
    emit(
        {
            "event": "result",
            "id": job.id,
            "task": job.task,
            "outputs": outputs,
            "seconds": round(time.perf_counter() - started, 3),
            "metrics": _metrics(result, volume, options),
        }
    )
    return volume, result


def run_reporting(
    job: Job, emit: Emit, *, cancel: Cancel | None = None, codecs: Codecs | None = None, traces: Callable[[str], object]
) -> int:
    """As :func:`run`, but failures become an error event.

    Args:
        traces: receives the traceback of anything that is not a deliberate error.

    Returns:
        The exit code: 0, or that of the error.
    """
    try:
        run(job, emit, cancel=cancel, codecs=codecs)
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(error, CTGenError | KeyboardInterrupt):
            traces(traceback.format_exc())
        emit(error_event(error, job.id))
        return exit_code(error)
    return 0


def error_event(error: BaseException, job_id: str | None = None) -> dict[str, Any]:
    """The error as an event."""
    if isinstance(error, KeyboardInterrupt):
        error = Cancelled("Interrupted; the running case wrote nothing.")
    code, message = "internal", f"{type(error).__name__}: {error}"
    if isinstance(error, CTGenError):
        code, message = error.code, str(error)
    return {
        "event": "error",
        **({"id": job_id} if job_id is not None else {}),
        "code": code,
        "exit_code": exit_code(error),
        "message": message,
        "next": _next_step(error),
    }


def exit_code(error: BaseException) -> int:
    """What the process exits with after this error."""
    if isinstance(error, KeyboardInterrupt):
        return Cancelled.exit_code
    return error.exit_code if isinstance(error, CTGenError) else 1


def check_output(path: Path, source: Path) -> None:
    """Refuse, before any work, an output that could not be written or would replace its own input.

    Raises:
        InputError: the format is not writable, the folder is missing, or output and input are one file.
    """
    from . import io

    formats = [suffix for suffix in io.FORMATS if suffix not in (".nhdr", ".mhd")]  # those two are pairs of files
    if not path.name.lower().endswith(tuple(formats)):
        raise InputError(f"Cannot write '{path.name}': the name must end in one of {', '.join(formats)}.")
    if not path.parent.is_dir():
        raise InputError(f"Cannot write {path}: the folder {path.parent} does not exist. Make it first.")
    if path.exists() and source.exists() and path.samefile(source):
        raise InputError(f"Output and input are the same file, {path}. Choose another output.")


def _write(job: Job, volume: Volume, result: Volume) -> dict[str, str]:
    """Write all files of a job or none; returns what the result event calls outputs."""
    from . import io

    volumes = {"volume": (job.output, result)}
    if job.difference is not None:
        assert result.record is not None
        record = replace(result.record, notes=[*result.record.notes, "output minus input, HU"])
        volumes["difference"] = (job.difference, volume.with_voxels(result.voxels - volume.voxels, record=record))
    written: list[Path] = []
    try:
        for path, each in volumes.values():
            written.append(io.write(each, path))
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
            io.sidecar_path(path).unlink(missing_ok=True)
        raise
    outputs = {name: str(path.resolve()) for name, (path, _) in volumes.items()}
    return {**outputs, "record": str(io.sidecar_path(job.output).resolve())}


class _Progress:
    """Turns a task's progress into events: throttled, with rate and time left."""

    def __init__(self, job_id: str, emit: Emit) -> None:
        self.id, self.emit = job_id, emit
        self.began = time.perf_counter()
        self.last = -math.inf
        self.stage = ""

    def __call__(self, event: Any) -> None:
        if event.stage != self.stage:
            self.stage = event.stage
            self.emit({"event": "stage", "id": self.id, "stage": event.stage})
        now = time.perf_counter()
        if now - self.last < PROGRESS_PERIOD_S and event.done < event.total:
            return
        self.last = now
        rate = event.done / max(now - self.began, 1e-9)
        self.emit(
            {
                "event": "progress",
                "id": self.id,
                "stage": event.stage,
                "done": event.done,
                "total": event.total,
                "unit": event.unit,
                "rate": round(rate, 2),
                "eta_s": round((event.total - event.done) / max(rate, 1e-9), 1),
            }
        )


def _metrics(output: Volume, source: Volume, options: ReconstructOptions) -> dict[str, float | None]:
    """PSNR and mean absolute error inside the window, slice by slice so that no copy of the volume is made."""
    import numpy as np

    window = Window.parse(options.window)
    squared = absolute = 0.0
    for x, y in zip(source.voxels, output.voxels, strict=True):
        error = np.clip(y, window.lo, window.hi) - np.clip(x, window.lo, window.hi)
        squared += float(np.square(error, dtype=np.float64).sum())
        absolute += float(np.abs(error).sum(dtype=np.float64))
    mse, mae = squared / source.voxels.size, absolute / source.voxels.size
    psnr = 10 * math.log10((window.hi - window.lo) ** 2 / mse) if mse else None  # equal: infinite, which JSON lacks
    return {"psnr": psnr, "mae_hu": mae}


def _stop_if(cancel: Cancel | None) -> None:
    if cancel is not None and cancel():
        raise Cancelled("Cancelled; nothing was written.")


def _near(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""


def _next_step(error: BaseException) -> str:
    if isinstance(error, InputError):
        return "Correct the input or the options as the message says."
    if isinstance(error, WeightsError):
        return "Download or import the weights (ctgencore download CODEC), or use --codec embedded."
    if isinstance(error, OutOfMemory):
        return "Set a smaller --memory, or use --device cpu or --codec embedded."
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return "Run the job again."
    return "Report this with the text on stderr."
