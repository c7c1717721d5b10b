"""Data sets without a description: pairs of an image and its labels, DICOM trees, BIDS."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import InputError
from ...io.dicom import is_segmentation
from ...io.inspect import first_image, inspect, inspect_seg
from .found import Found, is_volume, stem_of, visible
from .model import Case

_SUFFIX = re.compile(r"[._-](?:seg|segmentation|label|mask)s?$", re.IGNORECASE)
_PREFIX = re.compile(r"(?:seg|label|mask)", re.IGNORECASE)
_ENTITIES = re.compile(r"_(?:dseg|mask)$")


def read_pairs(root: Path) -> Found:
    """``images/`` and ``labels/``; or ``NAME.ext`` and ``NAME_seg.ext``; or a subfolder for each case, or patient, with
    one volume file or DICOM series, and a file ``seg*``, ``label*`` or ``mask*`` (also DICOM SEG).
    """
    found = Found(kind="pairs")
    if (root / "images").is_dir() and (root / "labels").is_dir():
        _two_folders(root, found)
        return found
    if _is_case(root):
        _case_folder(root, found)
        return found
    _flat(root, found)
    for folder in visible(root):
        if folder.is_dir():
            _case_folder(folder, found)
    return found


def _is_case(root: Path) -> bool:
    """Whether this is the folder of a single case: with DICOM slices, or a label file that is named after no image."""
    files = [path for path in visible(root) if path.is_file()]
    names = [_dicom_stem(path) for path in files if _may_be_label(path)]
    labels = any(_PREFIX.match(name) for name in names) and not any(_SUFFIX.search(name) for name in names)
    return labels or first_image(path for path in files if not is_volume(path)) is not None


def _two_folders(root: Path, found: Found) -> None:
    labels = {_bare(path): path for path in visible(root / "labels") if path.is_file() and _may_be_label(path)}
    for image in visible(root / "images"):
        if image.is_dir() or is_volume(image):
            name = stem_of(image)
            found.cases.append(Case(name=name, patient="", images=(image,), label=labels.pop(name, None)))
    _left_over(labels.values(), found)


def _flat(root: Path, found: Found) -> None:
    volumes = [path for path in visible(root) if path.is_file() and is_volume(path)]
    labels = {_bare(path): path for path in volumes if _SUFFIX.search(stem_of(path))}
    for image in volumes:
        if not _SUFFIX.search(name := stem_of(image)):
            found.cases.append(Case(name=name, patient="", images=(image,), label=labels.pop(name, None)))
    _left_over(labels.values(), found)


def _left_over(labels: Iterable[Path], found: Found) -> None:
    for path in labels:
        found.problem("", f"{path.name} has no image of its name; it is left out.", fatal=False)


def _case_folder(folder: Path, found: Found) -> None:
    """The cases of one folder: one, or one for each DICOM series below it."""
    files = [path for path in visible(folder) if path.is_file() and _may_be_label(path)]
    labels = [path for path in files if _PREFIX.match(path.name) or _SUFFIX.search(_dicom_stem(path))]
    images = [path for path in files if is_volume(path) and path not in labels]
    if not images:
        series, segmentations = _series_below(folder, found)
        images, labels = series, sorted({*labels, *segmentations})
    if not images:
        found.problem("", f"The folder {folder.name} holds neither a volume nor a DICOM series.", fatal=False)
    elif len(images) == 1:
        name = folder.resolve().name
        if len(labels) > 1:
            listing = ", ".join(path.name for path in labels)
            found.problem(name, f"One label file is wanted; there are {listing}. Keep one, or write a manifest.")
        label = labels[0] if len(labels) == 1 else None
        found.cases.append(Case(name=name, patient="", images=(images[0],), label=label))
    elif images[0].is_dir():
        _several_series(folder, images, labels, found)
    else:
        listing = ", ".join(path.name for path in images)
        found.problem(
            folder.name,
            f"One volume is wanted in a case's folder; there are {listing}. Give each its own folder, or write a "
            "manifest.",
        )


def _several_series(folder: Path, series: list[Path], labels: list[Path], found: Found) -> None:
    """A patient's folder: every series a case; a DICOM SEG names its own, other labels cannot be told apart."""
    name = folder.resolve().name
    labeled: dict[int, Path] = {}
    for path in labels:
        try:
            numbers = {inspect(folder).series: number for number, folder in enumerate(series)}
            number = None if is_volume(path) else numbers.get(inspect_seg(path).series)
        except InputError as error:
            found.problem("", str(error))
            continue
        if number is None or number in labeled:
            found.problem(
                "", f"{name}/{path.name}: it is unclear which of {len(series)} series it labels. Write a manifest."
            )
        else:
            labeled[number] = path
    for number, path in enumerate(series):
        found.cases.append(Case(name=f"{name}_{number + 1}", patient="", images=(path,), label=labeled.get(number)))


def _series_below(folder: Path, found: Found) -> tuple[list[Path], list[Path]]:
    """Folders of DICOM CT series, and DICOM SEG files; other modalities are told and left out."""
    series: list[Path] = []
    segmentations: list[Path] = []
    seen: set[str] = set()  # links to folders are followed, but none twice: they may lead in a circle
    for here, subfolders, names in os.walk(folder, followlinks=True):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        if (real := os.path.realpath(here)) in seen:
            subfolders.clear()
            continue
        seen.add(real)
        files = [Path(here) / name for name in sorted(names) if not name.startswith(".")]
        files = [path for path in files if not is_volume(path)]
        segmentations += [path for path in files if is_segmentation(path)]
        first = first_image(files)
        if first is None:
            continue
        if first.modality == "CT":
            series.append(Path(here))
        else:
            where = Path(here).relative_to(folder.parent)
            found.problem("", f"{where}: a DICOM series of modality {first.modality} is left out.", fatal=False)
    return series, segmentations


def _may_be_label(path: Path) -> bool:
    return is_volume(path) or is_segmentation(path)


def _dicom_stem(path: Path) -> str:
    return stem_of(path) if is_volume(path) else path.stem


def _bare(path: Path) -> str:
    """A label's name without what says that it is one."""
    return _SUFFIX.sub("", _dicom_stem(path))


def read_bids(root: Path) -> Found:
    """``sub-XX[/ses-YY]/{ct,anat}/*_ct.nii.gz``, labels ``derivatives/*/sub-XX/**/*_dseg.nii.gz``, else ``_mask``."""
    found = Found(kind="bids")
    for subject in visible(root):
        if not subject.is_dir() or not subject.name.startswith("sub-"):
            continue
        images = [*subject.glob("ct/*_ct.nii*"), *subject.glob("anat/*_ct.nii*")]
        images += [*subject.glob("ses-*/ct/*_ct.nii*"), *subject.glob("ses-*/anat/*_ct.nii*")]
        labels = sorted(path for path in root.glob(f"derivatives/*/{subject.name}/**/*.nii*") if _is_bids_label(path))
        for image in sorted(path for path in images if is_volume(path)):
            name = stem_of(image).removesuffix("_ct")
            own = [path for path in labels if path.name.startswith(f"{name}_")]
            own = [path for path in own if stem_of(path).endswith("_dseg")] or own
            if len(own) > 1:
                listing = ", ".join(str(path.relative_to(root / "derivatives")) for path in own)
                found.problem(name, f"One label file is wanted; there are {listing}. Keep one, or write a manifest.")
            label = own[0] if len(own) == 1 else None
            found.cases.append(Case(name=name, patient=subject.name, images=(image,), label=label))
    return found


def _is_bids_label(path: Path) -> bool:
    return is_volume(path) and not path.name.startswith(".") and bool(_ENTITIES.search(stem_of(path)))
