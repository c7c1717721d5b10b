"""One view of a volume, and the same bytes again from its record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ... import io
from ...codecs.base import Cancel, Codec
from ...errors import InputError
from ...io.transfer import ending_of, is_volume_file
from ...provenance import RunRecord, fingerprint
from ...volume import Volume
from ..common import Report
from ..evaluate_cache import written
from ..reconstruct import ReconstructOptions, load_codec, reconstruct, resolve_precision
from .layout import HIDDEN, sources_path, view_name

Load = Callable[[ReconstructOptions], Codec]
TASK = "augment"  # in records


def make_view(
    volume: Volume,
    options: ReconstructOptions,
    facts: Mapping[str, Any],
    load: Load,
    *,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Volume:
    """Reconstruct a volume; its record has nothing of when, where and how fast, so that equal work gives equal bytes.

    Args:
        volume: a CT channel of a case.
        options: what was drawn.
        facts: ``case``, ``view`` and ``channel``, for the record.
        load: gives the codec.
        progress: receives an event after each slab.
        cancel: asked between slabs.

    Raises:
        CTGenError: as :func:`ctgencore.tasks.reconstruct.reconstruct`.
    """
    options = replace(options, dtype=resolve_precision(options, volume.shape))
    result = reconstruct(volume, load(options), options, progress=progress, cancel=cancel)
    record = result.record
    assert record is not None
    result.record = replace(
        record,
        task=TASK,
        options={**facts, "reconstruct": asdict(replace(options, device="auto", threads=None))},
        device="",
        timings_s={},
        created_utc="",
        results={name: value for name, value in record.results.items() if name != "peak_bytes"},
        versions={name: record.versions[name] for name in ("torch", "numpy")},
    )
    return result


def write_view(view: Volume, target: Path, source: Path) -> list[Path]:
    """Write a view and beside it its record.

    Args:
        view: what :func:`make_view` made.
        target: volume file, or the folder of a DICOM series.
        source: what it was made from, whose study a series joins.

    Returns:
        All files.

    Raises:
        InputError: as :func:`ctgencore.io.write` and :func:`ctgencore.io.write_series`.
    """
    record, sidecar = view.record, io.sidecar_path(target)
    assert record is not None
    if ending_of(target):
        return [io.write(view, target), sidecar]
    files = io.write_series(view, target, like=series_of(source), description=record.options["view"])
    with written(sidecar) as temporary:
        record = record.with_output(target.name, view.voxels, view.geometry)
        temporary.write_text(record.to_json(), encoding="utf-8")
    return [*files, sidecar]


def series_of(source: Path) -> Path | None:
    """The source where it is DICOM, for what a series takes over from it."""
    return None if is_volume_file(source) else source


def remake(
    record: Path,
    source: Path | None = None,
    output: Path | None = None,
    *,
    device: str = "auto",
    threads: int | None = None,
    load: Load = load_codec,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Path:
    """A view again, from the record beside it: the same file, byte by byte.

    Args:
        record: the view's JSON file.
        source: the volume that it was made from; None looks where the run found it, and beside the view.
        output: folder to write to, made if it is not there; None is the record's own.
        device, threads: where to compute, which no record holds.
        load: gives the codec.
        progress: receives an event after each slab.
        cancel: asked between slabs.

    Returns:
        The volume's file.

    Raises:
        InputError: not the record of a view, the source is not found or is another one, or other voxels come out.
        CTGenError: as :func:`ctgencore.tasks.reconstruct.reconstruct`.
    """
    known = _read(record)
    volume = _source(known, record, source)
    options = replace(ReconstructOptions(**known.options["reconstruct"]), device=device, threads=threads)
    options.check()
    result = make_view(volume, options, {}, load, progress=progress, cancel=cancel)
    if fingerprint(result)["sha256"] != known.output["sha256"]:
        made = {**known.versions, "ctgencore": known.ctgencore_version}
        raise InputError(
            f"{known.output['name']} came out with other voxels than its record tells, so nothing was written. It was "
            f"made with {', '.join(f'{name} {version}' for name, version in made.items())}; other versions, another "
            "number of threads (--threads), or another kind of device, round otherwise."
        )
    folder = output if output is not None else record.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} is no folder ({error}). A view keeps the name that its record tells.") from error
    result.record = replace(known, output={})
    assert volume.source is not None
    write_view(result, folder / known.output["name"], volume.source)
    return folder / known.output["name"]


def _read(path: Path) -> RunRecord:
    try:
        record = RunRecord.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}). Give the JSON file beside a view.") from None
    if record.task != TASK:
        raise InputError(f"{path.name} is the record of '{record.task}', not of a view that augment made.")
    return record


def _source(record: RunRecord, path: Path, given: Path | None) -> Volume:
    """The volume that the view was made from.

    Raises:
        InputError: it is not found, or is another one.
    """
    wanted = record.inputs[0]["sha256"]
    for candidate in [given] if given is not None else _candidates(record, path):
        if given is None and not candidate.exists():
            continue
        volume = io.read(candidate)
        if fingerprint(volume)["sha256"] == wanted:
            return volume
        if given is not None:
            raise InputError(
                f"{given.name} is not what this view was made from, {record.inputs[0]['name']}: its voxels differ."
            )
    raise InputError(
        f"The volume that {record.output['name']} was made from is not where it was: {record.inputs[0]['name']}. "
        "Give it with --input."
    )


def _candidates(record: RunRecord, path: Path) -> Iterator[Path]:
    """Where the run found the source, and where mode ``add`` puts it: beside the view, under the case's own name."""
    case, channel = record.options["case"], record.options["channel"]
    home = path.resolve().parent
    for folder in home.parents:
        if (folder / HIDDEN).is_dir():
            kept = sources_path(folder, case)
            if kept.is_file():
                yield Path(json.loads(kept.read_text(encoding="utf-8"))[channel])
            break
    name = record.output["name"]
    if ending_of(Path(name)):  # a series' headers are its source's, which the series beside it does not have
        yield home / name.replace(view_name(case, record.options["view"]), case, 1)
