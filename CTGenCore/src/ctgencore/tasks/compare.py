"""Compare codecs on one CT: each reconstructs it, and a row of numbers says how well, how fast and at what cost."""

from __future__ import annotations

import gc
import math
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from .. import hub
from ..codecs.base import Cancel
from ..errors import Cancelled, CasesFailed, CTGenError, InputError
from ..intensity import Window
from ..metrics.texture import Region, edge_values, threshold_regions
from ..metrics.voxel import psnr, slice_errors
from ..runtime import parse_memory, resolve_device, resolve_dtype
from ..volume import Volume
from ..zoo import CODECS, lookup
from .common import CodecOptions, ProgressEvent, Report
from .reconstruct import ReconstructOptions, load_codec, reconstruct, resolve_precision


@dataclass(frozen=True, kw_only=True, slots=True)
class CompareOptions(CodecOptions):
    """Everything that shapes a comparison; the other fields are those of :class:`CodecOptions`, alike for all codecs.

    Attributes:
        codecs: names in ``ctgencore info``, at least two, in the order of the rows.
    """

    codecs: tuple[str, ...]

    def check(self) -> None:
        """Refuse what cannot run; a codec whose weights are missing does not stop the others.

        Raises:
            InputError: fewer than two codecs, one named twice, an unknown one, or an unknown window.
        """
        Window.parse(self.window)
        if self.memory:
            parse_memory(self.memory)
        for name in self.codecs:
            lookup(CODECS, name, "codec")
            if self.codecs.count(name) > 1:
                raise InputError(f"Codec '{name}' is named {self.codecs.count(name)} times. Name each codec once.")
        if len(self.codecs) < 2:
            raise InputError(f"A comparison needs at least two codecs; got {', '.join(self.codecs) or 'none'}.")

    def of(self, codec: str) -> ReconstructOptions:
        """What one codec is run with."""
        return ReconstructOptions(codec=codec, **{item.name: getattr(self, item.name) for item in fields(CodecOptions)})


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What one codec did; numbers are None where it failed.

    Attributes:
        codec: its name.
        psnr: dB inside the window, with the window as peak; None also where output and input are equal.
        mae_hu: mean absolute error inside the window.
        edge_shift_mm: mean move of the borders of body, lung and bone; None where the CT has none of them.
        seconds: of the reconstruction, without loading.
        peak_bytes: most memory that it took, see :class:`ctgencore.runtime.PeakMemory`.
        seam_hu: by how much tiles disagree where they overlap; None where none were blended.
        license: of the weights.
        weights: ``packaged`` (also codecs that need none), ``installed`` or ``missing``.
        volume, difference: files with output, and output minus input in HU, relative to the comparison's folder.
        error: why it failed.
    """

    codec: str
    psnr: float | None = None
    mae_hu: float | None = None
    edge_shift_mm: float | None = None
    seconds: float | None = None
    peak_bytes: int | None = None
    seam_hu: float | None = None
    license: str = ""
    weights: str = "packaged"
    volume: str | None = None
    difference: str | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Compared:
    """A row with what it is about.

    Attributes:
        row: without files.
        volume: the reconstruction with its record, or None where the codec failed.
        failure: class of the error.
        trace: traceback of an unexpected error.
    """

    row: Row
    volume: Volume | None = None
    failure: type[CTGenError] | None = None
    trace: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What a comparison found.

    Attributes:
        source: the CT.
        options: it was run with.
        rows: one per codec, in the order asked for.
        volumes: codec to reconstruction with its record.
    """

    source: Volume
    options: CompareOptions
    rows: list[Row]
    volumes: dict[str, Volume] = field(default_factory=dict)

    def row(self, codec: str) -> Row:
        """The row of a codec.

        Raises:
            InputError: it is not in this comparison.
        """
        row: Row = lookup({row.codec: row for row in self.rows}, codec, "codec in this comparison")
        return row

    def to_dict(self) -> dict[str, Any]:
        """Window and rows as plain data that JSON can hold."""
        return as_data(self.source, self.options, self.rows)

    def save(self, folder: str | Path) -> Path:
        """Write reconstructions, differences (with records) and both tables; files that are there are replaced.

        Returns:
            The path of ``comparison.json``.
        """
        from .compare_files import Folder

        store = Folder(Path(folder), self.source, self.options, resume=False)
        for row in self.rows:
            store.add(row, self.volumes.get(row.codec))
        return store.path


def compare(
    volume: Volume,
    options: CompareOptions,
    *,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Comparison:
    """Reconstruct a CT with several codecs. All results are kept in memory; :func:`compare_each` keeps none.

    Args:
        volume: the CT, any size and orientation.
        options: see :class:`CompareOptions`.
        progress: receives a :class:`ProgressEvent` after each slab; its stage is the codec, it counts over all codecs.
        cancel: asked between slabs; answer True to stop.

    Returns:
        Rows and reconstructions. A codec that fails has a row with its error; the others go on.

    Raises:
        InputError: the volume cannot be CT, or the options cannot run.
        CTGenError: no codec could do it; of the class of their errors where that is one.
        Cancelled: ``cancel`` answered True.
    """
    options.check()
    found = list(compare_each(volume, options, progress=progress, cancel=cancel))
    if all(each.volume is None for each in found):
        raise no_codec_left(found)
    volumes = {each.row.codec: each.volume for each in found if each.volume is not None}
    return Comparison(source=volume, options=options, rows=[each.row for each in found], volumes=volumes)


def compare_each(
    volume: Volume, options: CompareOptions, *, progress: Report | None = None, cancel: Cancel | None = None
) -> Iterator[Compared]:
    """As :func:`compare`, one codec at a time; a codec's memory is free before the next one is loaded.

    Raises:
        InputError: the volume cannot be CT, or device and dtype do not fit.
        Cancelled: ``cancel`` answered True.
    """
    volume.check_ct()
    device = resolve_device(options.device)
    if options.dtype != "auto":
        resolve_dtype(options.dtype, device)
    regions: list[Region] | None = None
    for number, name in enumerate(options.codecs):
        row = Row(codec=name, license=CODECS[name].license, weights=hub.presence(CODECS[name]))
        failed = None
        try:
            result = _reconstruct(volume, options.of(name), _Steps(progress, name, number, options, volume), cancel)
        except Cancelled:
            raise Cancelled(f"Cancelled in codec '{name}', which wrote nothing; finished codecs are kept.") from None
        except Exception as error:  # whatever one codec does, the others go on
            if isinstance(error, CTGenError):
                failed = Compared(row=replace(row, error=str(error)), failure=type(error))
            else:
                text = f"{type(error).__name__}: {error}"
                failed = Compared(row=replace(row, error=text), failure=CTGenError, trace=traceback.format_exc())
        _release()
        if failed is not None:
            yield failed
            continue
        if regions is None:
            regions = _regions(volume)
        yield Compared(row=replace(row, **_measure(result, volume, options, regions)), volume=result)
        del result


def no_codec_left(found: Sequence[Compared]) -> CTGenError:
    """The error of a comparison in which every codec failed."""
    kinds = {each.failure for each in found if each.failure is not None}
    kind = kinds.pop() if len(kinds) == 1 else CasesFailed
    lines = [f"{each.row.codec}: {each.row.error}" for each in found]
    return kind("No codec could reconstruct this CT.\n  " + "\n  ".join(lines))


def as_data(source: Volume, options: CompareOptions, rows: Sequence[Row]) -> dict[str, Any]:
    """The content of ``comparison.json``."""
    path = str(source.source.resolve()) if source.source else ""
    return {"version": 1, "input": path, "window": options.window, "rows": [asdict(row) for row in rows]}


class _Steps:
    """Progress of one codec, as slices of all codecs."""

    def __init__(
        self, progress: Report | None, codec: str, number: int, options: CompareOptions, volume: Volume
    ) -> None:
        size = volume.shape[0]
        self.progress, self.codec = progress, codec
        self.before, self.total = number * size, len(options.codecs) * size

    def __call__(self, event: ProgressEvent | None = None) -> None:
        """So many slices of this codec are done; without an event: it begins."""
        if self.progress is not None:
            done = self.before + (event.done if event is not None else 0)
            self.progress(ProgressEvent(self.codec, done, self.total, before=self.before))


def _reconstruct(volume: Volume, options: ReconstructOptions, step: _Steps, cancel: Cancel | None) -> Volume:
    if cancel is not None and cancel():
        raise Cancelled("Cancelled.")
    step()
    options = replace(options, dtype=resolve_precision(options, volume.shape))
    codec = load_codec(options)
    step()  # so that loading does not count as slow slices
    return reconstruct(volume, codec, options, progress=step, cancel=cancel)


def _release() -> None:
    """Give back what the codec held: reference cycles, and blocks that the GPU's allocator keeps."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _regions(volume: Volume) -> list[Region]:
    """Where edges are sought; empty where nothing is a body."""
    try:
        return list(threshold_regions(volume))
    except InputError:
        return []


def _measure(result: Volume, volume: Volume, options: CompareOptions, regions: list[Region]) -> dict[str, Any]:
    assert result.record is not None
    window = Window.parse(options.window)
    mse, mae, _ = slice_errors(result, volume, window).mean(1).tolist()
    shift = edge_values(result, volume, regions)[0].value
    return {
        "psnr": psnr(mse, window.hi - window.lo) if mse else None,
        "mae_hu": mae,
        "edge_shift_mm": None if math.isnan(shift) else shift,
        "seconds": result.record.timings_s["run"],
        "peak_bytes": result.record.results.get("peak_bytes"),
        "seam_hu": result.record.results.get("seam_hu"),
    }
