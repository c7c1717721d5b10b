"""Run a job: read, load, compute, write all of its files or none."""

from __future__ import annotations

import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import Cancelled, CTGenError, InputError, OutOfMemory
from ..intensity import Window
from .augmentation import run_augmentation, run_case
from .comparison import run_comparison
from .evaluation import run_evaluation
from .events import Emit, ProgressEvents, error_event, exit_code
from .job import Job, parse_options

if TYPE_CHECKING:
    from ..codecs.base import Codec
    from ..generators.base import Generator
    from ..tasks.reconstruct import ReconstructOptions
    from ..volume import Volume

MODELS_KEPT = 2  # a third large model would not fit beside two on most GPUs

Cancel = Callable[[], bool]


class Models:
    """Codecs and generators that stay loaded between jobs, the most recently used ones first to stay."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[tuple[object, ...], Any] = OrderedDict()

    def codec(self, options: ReconstructOptions) -> Codec:
        """The codec that the options ask for, loaded now if it is not yet."""
        from ..tasks.reconstruct import load_codec

        key = ("codec", options.codec, options.dtype, options.device, options.faithful)
        return self._get(key, lambda: load_codec(options))

    def generator(self, options: Any) -> Generator:
        """The generator that the options (of ``generate`` or ``edit``) ask for, loaded now if it is not yet."""
        from ..generators.base import Generator

        grey = not getattr(options, "faithful", False)
        key = ("generator", options.model, options.dtype, options.device, grey)

        def load() -> Generator:
            return Generator.from_pretrained(options.model, dtype=options.dtype, device=options.device, grey=grey)

        return self._get(key, load)

    def _get(self, key: tuple[object, ...], load: Callable[[], Any]) -> Any:
        if key not in self._loaded:
            while len(self._loaded) >= MODELS_KEPT:
                self._loaded.popitem(last=False)
            self._loaded[key] = load()
        self._loaded.move_to_end(key)
        return self._loaded[key]

    def clear(self) -> None:
        """Forget them all, so that their memory can be used."""
        self._loaded.clear()


@dataclass
class _Run:
    """A job with what its task function needs."""

    job: Job
    options: Any
    models: Models
    emit: Emit
    cancel: Cancel | None

    def stage(self, name: str) -> None:
        self.stop_if_cancelled()
        self.emit({"event": "stage", "id": self.job.id, "stage": name})

    def stop_if_cancelled(self) -> None:
        if self.cancel is not None and self.cancel():
            raise Cancelled("Cancelled; nothing was written.")

    @property
    def reporting(self) -> dict[str, Any]:
        """The keyword arguments by which every task tells and asks."""
        return {"progress": ProgressEvents(self.job.id, self.emit), "cancel": self.cancel}


def run(
    job: Job, emit: Emit, *, cancel: Cancel | None = None, models: Models | None = None
) -> tuple[Volume | None, Volume]:
    """Run a job that makes a volume: read, load, compute, write.

    Args:
        job: see :class:`Job`; those that make a folder of results have :func:`ctgencore.jobs.run_evaluation` and
            :func:`ctgencore.jobs.run_comparison`.
        emit: receives started, stage, progress, warning and result events.
        cancel: asked between steps and before writing.
        models: loaded codecs and generators to use and add to.

    Returns:
        ``(input, output)``: the CT that was worked on (None when there was none) and the output as written, with its
        record.

    Raises:
        CTGenError: as the task does; nothing was written then.
    """
    started = time.perf_counter()
    models = models or Models()
    emit({"event": "started", "id": job.id, "task": job.task})
    options = parse_options(job.options, job.task)
    for path in (job.output, job.difference):
        if path is not None:
            check_output(path, *job.sources)
    if job.difference is not None and job.difference.resolve() == job.output.resolve():
        raise InputError(f"Output and difference are both {job.output}. Give them different names.")

    this = _Run(job, options, models, emit, cancel)
    this.stage("read")
    try:
        source, result, metrics = _TASKS[job.task](this)
    except OutOfMemory:
        models.clear()
        raise
    assert result.record is not None
    for note in result.record.notes:
        emit({"event": "warning", "id": job.id, "message": note})

    this.stage("write")
    outputs = _write(job, source, result)
    emit(
        {
            "event": "result",
            "id": job.id,
            "task": job.task,
            "outputs": outputs,
            "seconds": round(time.perf_counter() - started, 3),
            "metrics": metrics,
        }
    )
    return source, result


def _reconstruct(this: _Run) -> tuple[Volume, Volume, dict[str, Any]]:
    from .. import io
    from ..tasks.reconstruct import reconstruct, resolve_precision

    job = this.job
    assert job.input is not None
    volume = io.read(job.input)
    _check_shear(job, volume)
    this.stage("load")
    codec = this.models.codec(replace(this.options, dtype=resolve_precision(this.options, volume.shape)))
    this.stop_if_cancelled()
    result = reconstruct(volume, codec, this.options, **this.reporting)
    return volume, result, _metrics(result, volume, this.options)


def _generate(this: _Run) -> tuple[Volume | None, Volume, dict[str, Any]]:
    from .. import io
    from ..tasks.generate import generate

    job = this.job
    reference = io.read(job.input) if job.input is not None else None
    mask, disease = (io.read_labels(path) if path is not None else None for path in (job.mask, job.disease))
    for grid in (reference, mask, disease):
        if grid is not None:
            _check_shear(job, grid)
    this.stage("load")
    generator = this.models.generator(this.options)
    result = generate(mask, disease, reference=reference, generator=generator, options=this.options, **this.reporting)
    assert result.record is not None
    return None, result, {"quality": result.record.results.get("quality")}


def _edit(this: _Run) -> tuple[Volume, Volume, dict[str, Any]]:
    from .. import io
    from ..tasks.edit import edit

    job = this.job
    assert job.input is not None
    assert job.mask is not None
    volume, region = io.read(job.input), io.read_labels(job.mask)
    _check_shear(job, volume)
    this.stage("load")
    generator = this.models.generator(this.options)
    result = edit(volume, region, generator=generator, options=this.options, **this.reporting)
    assert result.record is not None
    return volume, result, {"changed": result.record.results}


_TASKS: dict[str, Callable[[_Run], tuple[Any, Any, dict[str, Any]]]] = {
    "reconstruct": _reconstruct,
    "generate": _generate,
    "edit": _edit,
}


def run_reporting(
    job: Job, emit: Emit, *, cancel: Cancel | None = None, models: Models | None = None, traces: Callable[[str], object]
) -> int:
    """As :func:`run`, but failures become an error event.

    Args:
        traces: receives the traceback of anything that is not a deliberate error.

    Returns:
        The exit code: 0, or that of the error.
    """
    try:
        if job.task == "evaluate":
            return run_evaluation(job, emit, cancel=cancel, traces=traces)
        if job.task == "augment":
            if models is not None:
                models.clear()  # every case's work keeps its own
            return run_augmentation(job, emit, cancel=cancel)
        if job.task == "case":
            return run_case(job, emit)
        if job.task == "compare":
            return run_comparison(job, emit, cancel=cancel, traces=traces, models=models)
        run(job, emit, cancel=cancel, models=models)
    except (Exception, KeyboardInterrupt) as error:
        if not isinstance(error, CTGenError | KeyboardInterrupt):
            traces(traceback.format_exc())
        emit(error_event(error, job.id))
        return exit_code(error)
    return 0


def check_output(path: Path, *sources: Path) -> None:
    """Refuse, before any work, an output that could not be written or would replace its own input.

    Raises:
        InputError: the format is not writable, the folder is missing, or output and input are one file.
    """
    from .. import io

    formats = [suffix for suffix in io.FORMATS if suffix not in (".nhdr", ".mhd")]  # those two are pairs of files
    if not path.name.lower().endswith(tuple(formats)):
        raise InputError(f"Cannot write '{path.name}': the name must end in one of {', '.join(formats)}.")
    if not path.parent.is_dir():
        raise InputError(f"Cannot write {path}: the folder {path.parent} does not exist. Make it first.")
    for source in sources:
        if path.exists() and source.exists() and path.samefile(source):
            raise InputError(f"Output and input are the same file, {path}. Choose another output.")


def _check_shear(job: Job, volume: Any) -> None:
    if volume.geometry.is_sheared() and job.output.name.lower().endswith((".nii", ".nii.gz")):
        raise InputError(
            f"{job.output.name}: NIfTI cannot hold this volume's sheared grid. Write .nrrd or .mha instead."
        )


def _write(job: Job, source: Volume | None, result: Volume) -> dict[str, str]:
    """Write all files of a job or none; returns what the result event calls outputs."""
    from .. import io

    volumes, outputs = {job.output: result}, {"volume": job.output}
    if job.difference is not None:
        from ..tasks.common import difference_of

        if source is None:
            raise InputError("A difference needs an input CT to compare with; this job has none. Leave it out.")
        volumes[job.difference], outputs["difference"] = difference_of(result, source), job.difference
    io.write_all(volumes)
    outputs["record"] = io.sidecar_path(job.output)
    return {name: str(path.resolve()) for name, path in outputs.items()}


def _metrics(output: Volume, source: Volume, options: ReconstructOptions) -> dict[str, float | None]:
    """PSNR and mean absolute error inside the window."""
    from ..metrics.voxel import psnr, slice_errors

    window = Window.parse(options.window)
    mse, mae, _ = slice_errors(output, source, window).mean(1).tolist()
    return {"psnr": psnr(mse, window.hi - window.lo) if mse else None, "mae_hu": mae}  # infinite, which JSON lacks
