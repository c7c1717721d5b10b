"""Where the files of a result lie, in each of its layouts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from ...errors import InputError
from ...io.transfer import ending
from ..evaluate_cache import written
from .model import Case, DataSet
from .options import AugmentOptions

HIDDEN = ".ctgen"  # what a run keeps for itself: no part of the data set
USUAL = ".nii.gz"
_READ_BY_NNUNET = (".nii.gz", ".nrrd", ".mha")
_FOLDERS = {"nnunet": ("imagesTr", "labelsTr", "imagesTs", "labelsTs"), "flat": ("images", "labels") * 2}
_FOLDERS["msd"] = _FOLDERS["nnunet"]


def view_name(case: str, view: str) -> str:
    """What a view of a case is called."""
    return f"{case}__{view}"


def usable_cases(dataset: DataSet) -> list[Case]:
    """Cases without a fatal problem."""
    bad = {problem.case for problem in dataset.problems if problem.fatal}
    return [case for case in dataset.cases if case.name not in bad]


def common_ending(cases: Iterable[Case], layout: str) -> str:
    """The one ending of all files in layouts that have one; empty where each file keeps its own."""
    if layout in ("flat", "dicom"):
        return ""
    files = [path for case in cases for path in (*case.images, case.label) if path is not None]
    found = {ending(path) for path in files}
    return found.pop() if layout == "nnunet" and len(found) == 1 and found <= {*_READ_BY_NNUNET} else USUAL


def image_path(layout: str, split: str, name: str, channel: int, channels: int, suffix: str) -> str:
    """A channel's file, or in DICOM its series' folder, below the data set's folder."""
    if layout == "dicom":
        return f"{name}/image" + (f"_{channel:04d}" if channels > 1 else "")
    folder = _FOLDERS[layout][0 if split == "train" else 2]
    number = f"_{channel:04d}" if layout == "nnunet" or channels > 1 else ""
    return f"{folder}/{name}{number}{suffix}"


def label_path(layout: str, split: str, name: str, suffix: str) -> str:
    """The label file, below the data set's folder."""
    if layout == "dicom":
        return f"{name}/seg.dcm"
    return f"{_FOLDERS[layout][1 if split == 'train' else 3]}/{name}{suffix}"


def sources_path(output: Path, case: str) -> Path:
    """Where it is kept which files a case came from."""
    return output / HIDDEN / "sources" / f"{case}.json"


def check_folder(output: Path, root: Path, options: AugmentOptions) -> None:
    """Refuse a folder that the result cannot go to; nothing is written.

    Args:
        output: where to.
        root: of the data set that is augmented.
        options: see :class:`AugmentOptions`.

    Raises:
        InputError: inside the data set itself, not named as nnU-Net wants it, or with another augmentation's files.
    """
    inside, source = output.resolve(), root.resolve()
    if inside == source or source in inside.parents:
        raise InputError(f"The result cannot go into the data set that it is made from, {root}. Choose another folder.")
    if options.layout == "nnunet" and not re.fullmatch(r"Dataset\d{3}_[A-Za-z0-9_-]+", output.name):
        words = re.sub(r"[^A-Za-z0-9_-]+", "", re.sub(r"^Dataset\d*_?", "", output.name)) or "Augmented"
        raise InputError(
            f"nnU-Net's data sets lie in folders called DatasetNNN_Name; got '{output.name}'. "
            f"Call it Dataset501_{words}, for example."
        )
    _compare(output, options)


def claim(output: Path, options: AugmentOptions) -> None:
    """Make the folder, and note what goes into it; of several processes that do so at once each finds the same.

    Raises:
        InputError: it holds files of another augmentation, or cannot be made.
    """
    _compare(output, options)
    note = output / HIDDEN / "augment.json"
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        if not note.exists():
            with written(note) as temporary:
                temporary.write_text(json.dumps(asdict(options.of_volumes()), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"Cannot write to {output}: {error}. Choose another folder.") from error


def _compare(output: Path, options: AugmentOptions) -> None:
    try:
        found = json.loads((output / HIDDEN / "augment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    wanted = json.loads(json.dumps(asdict(options.of_volumes())))
    differ = [name for name in wanted if found.get(name) != wanted[name]]
    if differ:
        was = ", ".join(f"{name} {found.get(name)!r} instead of {wanted[name]!r}" for name in differ)
        raise InputError(
            f"{output} holds an augmentation that was made otherwise: {was}. Choose another folder, or remove that one."
        )
