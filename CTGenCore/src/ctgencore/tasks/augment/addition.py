"""Adds one CT and its labels to an nnU-Net v2 raw data set, which is made when it is not there."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ... import io
from ...errors import InputError
from ...io.transfer import convert, is_volume_file
from ...labels.filenames import names_of_file
from ...provenance import GRID_TOLERANCE_MM
from ...volume import LabelMap, Volume
from .described import read_described
from .found import why_not_name
from .sources import check_channels

_NEW: dict[str, Any] = {"channel_names": {"0": "CT"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseOptions:
    """What is to be said about a case that is added.

    Attributes:
        name: what it is called; unique in the data set.
        patient: whose it is, so that cases of one patient stay in one fold; empty: the case is a patient of its own.
        labels: label's name to its value in the label file; empty takes the names that come with the file.
        overwrite: replace the case of this name.
    """

    name: str
    patient: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)
    overwrite: bool = False

    def check(self) -> None:
        """Refuse a name that no file can have.

        Raises:
            InputError: it is one.
        """
        reason = why_not_name(self.name)
        if reason:
            raise InputError(f"{reason} Choose another name.")


def add_case(folder: Path, ct: Path, labels: Path | None, options: CaseOptions) -> dict[str, Any]:
    """Add a case, all of it or nothing; one process at a time.

    Labels get the values that the data set has for their names (large or small letters are the same); new names get the
    next values. Killed at any moment, the data set has the cases that it had: a hidden folder may be left, a label file
    without image, and names and a count in ``dataset.json`` that adding the case again sets right.

    Args:
        folder: the data set, ``DatasetNNN_Name``; it is made when it is not there.
        ct: volume file or DICOM series.
        labels: label file on the CT's grid, or a DICOM SEG; None adds a test case.
        options: see :class:`CaseOptions`.

    Returns:
        ``image``, ``label`` (paths as text, or None), ``cases`` (number of training cases), ``labels`` (names to values
        of the whole data set) and ``notes``.

    Raises:
        InputError: not a CT, another grid, a label without a name, the name is taken, or a data set that one CT does
            not fit.
    """
    folder = Path(folder).absolute()
    options.check()
    content = _describe(folder)
    ending = content["file_ending"]
    part = "Ts" if labels is None else "Tr"
    image = folder / f"images{part}" / f"{options.name}_0000{ending}"
    _check_free(folder, image, options)
    volume = io.read(ct)
    notes = volume.check_ct()
    targets: dict[Path, Path] = {}
    with _staging(folder, *(("imagesTs",) if labels is None else ("imagesTr", "labelsTr"))) as stage:
        if labels is not None:
            label = folder / "labelsTr" / f"{options.name}{ending}"
            content["labels"] = _write_labels(labels, volume, options, content["labels"], stage / f"label{ending}")
            targets[label] = stage / f"label{ending}"
        others = {path.name for path in (folder / "imagesTr").glob(f"*_0000{ending}")} - {image.name}
        content["numTraining"] = len(others) + (labels is not None)
        content["ctgen"] = _patients(content.get("ctgen", {}), options)
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (stage / "dataset.json").write_text(text, encoding="utf-8")
        targets[folder / "dataset.json"] = stage / "dataset.json"
        if is_volume_file(ct):
            convert(ct, stage / f"image{ending}")  # in its own number type
        else:
            io.write(volume, stage / f"image{ending}")
        targets[image] = stage / f"image{ending}"  # last: a case is there when its image is
        _put(targets, stage)
    return {
        "image": str(image),
        "label": None if labels is None else str(label),
        "cases": content["numTraining"],
        "labels": content["labels"],
        "notes": notes,
    }


def _describe(folder: Path) -> dict[str, Any]:
    """Content of ``dataset.json``, or of that of a new data set."""
    path = folder / "dataset.json"
    if not path.exists():
        if not re.fullmatch(r"Dataset\d{3}_[A-Za-z0-9_-]+", folder.name):
            raise InputError(
                f"nnU-Net's data sets lie in folders called DatasetNNN_Name; got '{folder.name}'. Call a new one "
                "Dataset501_MyCases, for example."
            )
        return copy.deepcopy(_NEW)
    found = read_described(folder)
    if found is None or found.kind != "nnunet":
        raise InputError(f"{path} is not that of an nnU-Net v2 data set. Choose another folder.")
    check_channels(found)
    fatal = [problem.message for problem in found.problems if problem.fatal]
    if fatal:
        raise InputError(f"{fatal[0]} Then add the case.")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8-sig"))
    if len(found.channels) > 1:
        raise InputError(f"{folder.name} has the channels {', '.join(found.channels)}; a CT alone does not fit.")
    if "dataset" in content:
        raise InputError(f"{path} lists files that lie elsewhere; CTGen adds to data sets with imagesTr only.")
    return content


def _check_free(folder: Path, image: Path, options: CaseOptions) -> None:
    there = [path for path in (folder / f"images{part}" / image.name for part in ("Tr", "Ts")) if path.exists()]
    if there and not options.overwrite:
        raise InputError(f"{folder.name} has a case '{options.name}'. Choose another name, or overwrite it.")
    if any(path != image for path in there):
        raise InputError(
            f"'{options.name}' lies in {there[0].parent.name} and would now go to {image.parent.name}. Remove it first."
        )


def _write_labels(
    path: Path, volume: Volume, options: CaseOptions, known: Mapping[str, Any], target: Path
) -> dict[str, Any]:
    """Write the labels with the data set's values; returns its labels, new ones included."""
    labels = io.read_seg(path, volume.geometry) if not is_volume_file(path) else io.read_labels(path)
    volume.geometry.assert_equal(labels.geometry, GRID_TOLERANCE_MM, "the CT and the labels")
    names = {value: name for name, value in options.labels.items()} or labels.names or _names(path)
    if len(names) < len(options.labels):
        raise InputError(f"Two labels share a value: {dict(options.labels)}. Give each its own.")
    values = np.unique(labels.voxels)
    present = {int(value): names.get(int(value), "").strip() for value in values if value}
    nameless = [value for value, name in present.items() if not name]
    if nameless:
        raise InputError(
            f"The labels {nameless} of {path.name} have no names. Name them, for example with a labels.json beside the "
            'file: {"1": "tumor"}.'
        )
    merged = _merge(known, list(present.values()))
    by_name = {name.casefold(): value for name, value in merged.items()}
    numbers = [by_name[present[int(value)].casefold()] if value else 0 for value in values]
    table = np.array(numbers, np.min_scalar_type(max(numbers)))
    io.write(LabelMap(table[np.searchsorted(values, labels.voxels)], volume.geometry), target)
    return merged


def _names(path: Path) -> dict[int, str]:
    return {value: name for value, (name, _) in names_of_file(path).items()}


def _merge(known: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """The data set's labels and, behind them, the new ones."""
    folded = [name.casefold() for name in names]
    twice = sorted({name for name in names if folded.count(name.casefold()) > 1})
    if twice:
        raise InputError(f"Several labels are called {', '.join(twice)}. Give each its own name, or merge them first.")
    have = {name.casefold(): value for name, value in known.items()}
    regions = [name for name in names if isinstance(have.get(name.casefold()), list)]
    new = [name for name in names if name.casefold() not in have]
    if regions:
        raise InputError(f"In this data set {', '.join(regions)} is a region of several labels. Name single labels.")
    if new and ("ignore" in have or any(isinstance(value, list) for value in known.values())):
        raise InputError(
            f"The labels {', '.join(new)} are new to this data set, whose regions or label to ignore fix the values. "
            f"It has {', '.join(known)}."
        )
    start = max([0, *(value for value in known.values() if isinstance(value, int))]) + 1
    return {**known, **{name: start + n for n, name in enumerate(new)}}


def _patients(facts: Mapping[str, Any], options: CaseOptions) -> dict[str, Any]:
    """Our entry of ``dataset.json``, which nnU-Net does not look at, with the case's patient."""
    patients = {name: patient for name, patient in facts.get("patients", {}).items() if name != options.name}
    if options.patient:
        patients[options.name] = options.patient
    return {**facts, "patients": patients}


@contextmanager
def _staging(folder: Path, *subfolders: str) -> Iterator[Path]:
    """A hidden folder in the data set, removed at the end; folders that were made for nothing go as well."""
    made: list[Path] = []
    try:
        for path in (folder, *(folder / name for name in subfolders)):
            if not path.is_dir():
                path.mkdir(parents=True)
                made.append(path)
        stage = Path(tempfile.mkdtemp(prefix=f".ctgen-{os.getpid()}-", dir=folder))
    except OSError as error:
        raise InputError(f"Cannot write to {folder}: {error}. Choose another folder.") from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        for path in reversed(made):
            if not any(path.iterdir()):
                path.rmdir()


def _put(targets: Mapping[Path, Path], stage: Path) -> None:
    """Move new files to their places, in this order; when one fails, those before it are as they were."""
    done: list[tuple[Path, Path | None]] = []
    try:
        for target, new in targets.items():
            old = None
            if target.exists():
                old = stage / f"old-{target.name}"
                shutil.copy2(target, old)
            os.replace(new, target)
            done.append((target, old))
    except BaseException as error:
        for target, old in reversed(done):
            if old is None:
                target.unlink()
            else:
                os.replace(old, target)
        if not isinstance(error, OSError):
            raise
        raise InputError(
            f"Cannot write to {stage.parent}: {error}. Choose another place or free some space."
        ) from error
