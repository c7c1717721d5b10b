"""One case of a data set with its views: read once, every file whole or not there at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ... import io
from ...codecs.base import Cancel
from ...errors import Cancelled, InputError
from ...geometry import Geometry
from ...io.dicom_header import require
from ...io.inspect import inspect, series_grid
from ...io.transfer import convert, ending, ending_of, is_volume_file, keep
from ...provenance import GRID_TOLERANCE_MM
from ...volume import LabelMap, Volume
from ..common import ProgressEvent, Report
from ..evaluate_cache import written
from .layout import (
    USUAL,
    check_folder,
    claim,
    common_ending,
    image_path,
    label_path,
    sources_path,
    usable_cases,
    view_name,
)
from .model import DataSet
from .options import AugmentOptions
from .remake import Load, make_view, series_of, write_view
from .views import Choice


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseWork:
    """All that is to be done for a case.

    Attributes:
        name: of the case.
        split: ``train`` or ``test``.
        images: one volume file or DICOM folder for each channel.
        label: label file, or None.
        ct_channels: numbers of the channels that are reconstructed.
        ending: of all files; empty where each keeps its own.
        names: label to name, in layouts whose label files have names.
        options: see :class:`AugmentOptions`.
        output: folder of the result.
    """

    name: str
    split: str
    images: tuple[Path, ...]
    label: Path | None
    ct_channels: tuple[int, ...]
    ending: str
    names: dict[int, str]
    options: AugmentOptions
    output: Path

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files and folders that it reads."""
        return (*self.images, *([self.label] if self.label is not None else []))

    def to_payload(self) -> dict[str, Any]:
        """As JSON has it."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        return {
            **content,
            "images": [str(path) for path in self.images],
            "label": str(self.label) if self.label is not None else None,
            "ct_channels": list(self.ct_channels),
            "names": {str(value): name for value, name in self.names.items()},
            "options": {**asdict(self.options), "views": list(self.options.views)},
            "output": str(self.output),
        }

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> CaseWork:
        """Inverse of :meth:`to_payload`."""
        label = payload["label"]
        return cls(
            **{
                **payload,
                "images": tuple(Path(path) for path in payload["images"]),
                "label": Path(label) if label is not None else None,
                "ct_channels": tuple(payload["ct_channels"]),
                "names": {int(value): name for value, name in payload["names"].items()},
                "options": AugmentOptions.from_dict(payload["options"]),
                "output": Path(payload["output"]),
            }
        )


def plan_cases(dataset: DataSet, options: AugmentOptions, output: Path) -> list[CaseWork]:
    """What is to be done, one piece for each case that can be used; nothing is written.

    Args:
        dataset: what was recognized; cases with a fatal problem are left out.
        options: see :class:`AugmentOptions`.
        output: folder of the result.

    Raises:
        InputError: the data set, or the folder, cannot be used.
    """
    for problem in dataset.problems:
        if problem.fatal and not problem.case:
            raise InputError(problem.message)
    if not dataset.ct_channels:
        raise InputError(
            f"None of the channels {', '.join(dataset.channels)} is CT by its name, so nothing can be reconstructed. "
            "Name it in dataset.json (channel_names)."
        )
    if options.layout == "msd" and len(dataset.channels) > 1:
        raise InputError("In the msd layout several channels would share one file. Choose the layout nnunet or flat.")
    if options.layout == "msd" and any(isinstance(value, list) for value in dataset.labels.values()):
        raise InputError("MSD has no regions of several labels, as this data set does. Choose the layout nnunet.")
    if options.layout == "dicom":
        require("pydicom", "highdicom")
        if len(dataset.ct_channels) < len(dataset.channels):
            raise InputError("The dicom layout has CT series only, and this data set other channels. Choose another.")
    cases = usable_cases(dataset)
    if not any(case.split == "train" for case in cases):
        raise InputError(f"{dataset.root} holds no training case that can be used. See its list of problems.")
    check_folder(output, dataset.root, options)
    suffix = common_ending(cases, options.layout)
    names = {value: name for name, value in dataset.labels.items() if isinstance(value, int) and value}
    names = names if options.layout == "dicom" else {}
    return [
        CaseWork(
            name=case.name,
            split=case.split,
            images=tuple(path.absolute() for path in case.images),
            label=case.label.absolute() if case.label is not None else None,
            ct_channels=dataset.ct_channels,
            ending=suffix,
            names=names,
            options=options.of_cases(),
            output=output.absolute(),
        )
        for case in cases
    ]


def run_payload(
    payload: Mapping[str, Any], load: Load, progress: Report | None = None, cancel: Cancel | None = None
) -> dict[str, Any]:
    """:func:`augment_case` for plain data."""
    return augment_case(CaseWork.from_payload(payload), load, progress=progress, cancel=cancel)


def augment_case(
    work: CaseWork, load: Load, *, progress: Report | None = None, cancel: Cancel | None = None
) -> dict[str, Any]:
    """Make all files of a case; when that fails, none of them stays.

    Args:
        work: the case.
        load: gives the codec that options ask for.
        progress: receives an event after each slab; the stage is the view's name.
        cancel: asked between slabs and files.

    Returns:
        As JSON has it: ``name``, ``split``, ``outputs`` (paths below the output folder), ``entries`` (one for the
        original, where it is kept, and one for each view: its name, files and choice), ``sources`` (file names),
        ``values`` (of the label map), ``notes``.

    Raises:
        InputError: a file cannot be read, or channels and label lie on different grids.
        Cancelled: ``cancel`` answered True.
    """
    claim(work.output, work.options)
    run = _Run(work, load, progress, cancel)
    try:
        run.channels()
        _remember_sources(work)
    except BaseException:
        run.undo()
        raise
    return {
        "name": work.name,
        "split": work.split,
        "outputs": run.made,
        "entries": run.entries,
        "sources": [path.name for path in work.images],
        "values": run.values,
        "notes": list(dict.fromkeys(run.notes)),
    }


class _Run:
    """A case under way."""

    def __init__(self, work: CaseWork, load: Load, progress: Report | None, cancel: Cancel | None) -> None:
        self.work, self.load, self.progress, self.cancel = work, load, progress, cancel
        self.layout, self.dicom = work.options.layout, work.options.layout == "dicom"
        self.made: list[str] = []  # below the output folder
        self.notes: list[str] = []
        self.values: list[int] = []
        self.views = work.options.plan() if work.split == "train" else ()
        self.entries: list[dict[str, Any]] = []
        if work.split == "test" or work.options.mode == "add":
            self.entries.append({"name": work.name, "view": "", "images": [], "label": None, "choice": None})
        for view in self.views:
            choice = asdict(view.draw(work.options.seed, work.name))
            name = view_name(work.name, view.name)
            self.entries.append({"name": name, "view": view.name, "images": [], "label": None, "choice": choice})

    def channels(self) -> None:
        """One channel after the other, so that one volume is held at a time; the first one's grid is that of all."""
        first: Geometry | None = None
        labels: LabelMap | None = None
        for number, source in enumerate(self.work.images):
            self.stop_if_cancelled()
            is_ct = number in self.work.ct_channels
            read = is_ct and (self.views or self.dicom or not is_volume_file(source))
            volume = io.read(source) if read else None
            grid = volume.geometry if volume is not None else inspect(source).grid or series_grid(source)
            if first is None:
                first, labels = grid, self.read_labels(grid)
            first.assert_equal(grid, GRID_TOLERANCE_MM, f"{self.work.images[0].name} and {source.name}")
            suffix = self.work.ending or ending(source) or USUAL
            shared = source
            for entry in self.entries:
                name = image_path(self.layout, self.work.split, entry["name"], number, len(self.work.images), suffix)
                entry["images"].append(name)
                if is_ct and entry["view"]:
                    assert volume is not None
                    self.view(volume, number, entry, self.target(name))
                else:
                    shared = self.original(shared, volume, self.target(name))
            if number == 0 and labels is not None:
                self.labels(labels)

    def original(self, source: Path, volume: Volume | None, target: Path) -> Path:
        """The channel as it came; returns what further entries can link to."""
        if self.dicom:
            assert volume is not None
            self.add(*io.write_series(volume, target, like=series_of(source), description="original"))
            return source
        self.add(target)
        if ending(source) == ending_of(target):
            keep(source, target)
            return target
        self.notes.append(f"{source.name} was converted to {ending_of(target)}.")
        if is_volume_file(source):
            convert(source, target)
        elif volume is not None:
            io.write(volume, target)
        else:
            raise InputError(f"{source.name}: of DICOM only CT is read. Convert this channel to NIfTI first.")
        return target

    def read_labels(self, grid: Geometry) -> LabelMap | None:
        """The label map, on the case's grid."""
        source = self.work.label
        if source is None:
            return None
        labels = io.read_labels(source) if is_volume_file(source) else io.read_seg(source, grid)
        grid.assert_equal(labels.geometry, GRID_TOLERANCE_MM, f"{self.work.images[0].name} and its label {source.name}")
        self.values = [int(value) for value in np.unique(labels.voxels)]
        return labels

    def labels(self, labels: LabelMap) -> None:
        """The label map for every entry, never rewritten where its format can be kept."""
        source = self.work.label
        assert source is not None
        suffix = self.work.ending or ending(source) or USUAL
        if self.dicom and not any(self.values):
            self.notes.append("A DICOM segmentation needs a segment: this label map has none, so there is none.")
            return
        shared = source
        for entry in self.entries:
            name = entry["label"] = label_path(self.layout, self.work.split, entry["name"], suffix)
            target = self.target(name)
            self.add(target)
            if self.dicom:
                io.write_seg(labels, labels.names or self.work.names, target, self.work.output / entry["images"][0])
            elif ending(shared) == suffix:
                keep(shared, target)
            else:
                self.notes.append(f"The label {source.name} was converted to {suffix}.")
                shared = io.write(labels, target)

    def view(self, volume: Volume, channel: int, entry: dict[str, Any], target: Path) -> None:
        """A view of a CT channel, with its record beside it."""
        number = [view.name for view in self.views].index(entry["view"])
        size = volume.shape[0]
        before = size * (self.work.ct_channels.index(channel) * len(self.views) + number)
        total = size * len(self.work.ct_channels) * len(self.views)
        progress = self.progress

        def report(event: ProgressEvent) -> None:
            if progress is not None:
                progress(ProgressEvent(entry["view"], before + event.done, total, before=before))

        options = self.work.options.of(Choice(**entry["choice"]))
        facts = {"case": self.work.name, "view": entry["view"], "channel": channel}
        result = make_view(volume, options, facts, self.load, progress=report, cancel=self.cancel)
        assert result.record is not None
        self.notes += result.record.notes
        self.stop_if_cancelled()
        self.add(*write_view(result, target, self.work.images[channel]))

    def target(self, name: str) -> Path:
        """Where to write; the folder is there."""
        target = self.work.output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def add(self, *paths: Path) -> None:
        """These files are the case's."""
        self.made += [path.relative_to(self.work.output).as_posix() for path in paths]

    def undo(self) -> None:
        """Remove what was made."""
        for name in self.made:
            (self.work.output / name).unlink(missing_ok=True)
        if self.dicom:  # whose folders are this case's alone
            for entry in self.entries:
                for folder in (
                    *(self.work.output / name for name in entry["images"]),
                    self.work.output / entry["name"],
                ):
                    if folder.is_dir() and not any(folder.iterdir()):
                        folder.rmdir()

    def stop_if_cancelled(self) -> None:
        if self.cancel is not None and self.cancel():
            raise Cancelled(f"Cancelled in case {self.work.name}; finished cases are kept.")


def _remember_sources(work: CaseWork) -> None:
    """Where the case came from, for :func:`ctgencore.tasks.augment.remake.remake` on this machine."""
    path = sources_path(work.output, work.name)
    path.parent.mkdir(exist_ok=True)
    with written(path) as temporary:
        temporary.write_text(json.dumps([str(image) for image in work.images], indent=1) + "\n", encoding="utf-8")
