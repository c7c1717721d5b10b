"""Recognizes a data set for segmentation from its folder or manifest, and says what is amiss; reads headers only."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io.inspect import Header, inspect, inspect_seg, series_grid
from ...provenance import GRID_TOLERANCE_MM
from .described import read_described, read_manifest
from .folders import read_bids, read_pairs
from .found import Found, is_volume, why_not_name
from .model import Case, DataSet
from .names import label_names

LAYOUTS = """\
  nnU-Net v2 raw: dataset.json with channel_names, imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz
  MSD task: dataset.json with modality and training
  pairs: a subfolder for each case with a volume file or DICOM series and a file seg*, label* or mask*;
    or NAME.nii.gz and NAME_seg.nii.gz; or images/ and labels/
  manifest: a CSV file with the columns case, image (or image_0000, image_0001, ...), label, patient, split
  BIDS: sub-XX/ct/*_ct.nii.gz and derivatives/*/sub-XX/**/*_dseg.nii.gz"""
_NOT_CT = frozenset(("MR", "MRI", "T1", "T1W", "T2", "T2W", "FLAIR", "ADC", "DWI", "PET", "PT", "SPECT", "NM", "US"))


def read_dataset(path: Path, *, patient_pattern: str | None = None) -> DataSet:
    """Recognize a data set.

    Args:
        path: a folder of one of the layouts, or a manifest.
        patient_pattern: regular expression with one group, searched for in a case's name: the patient. Without it the
            patient is what the layout or DICOM's PatientID says, else the case itself.

    Returns:
        Cases, channels, labels, and problems: of single cases, or of the whole data set. Label values are not looked
        at: that takes voxels.

    Raises:
        InputError: nothing is recognizable here, or the pattern is not one with one group.
    """
    pattern = compile_pattern(patient_pattern)
    path = Path(path).absolute()
    found = _recognize(path)
    cases = _unique(found)
    headers = {case.name: _check_case(case, found) for case in cases}
    check_channels(found)
    cases = _with_patients(cases, headers, pattern, found)
    root = path if path.is_dir() else path.parent
    labels: dict[str, Any] = label_names(root, cases, found) if found.labels is None else found.labels
    _check_values(labels, found)
    return DataSet(
        root=root,
        kind=found.kind,
        cases=tuple(cases),
        channels=found.channels,
        labels=labels,
        facts=found.facts,
        problems=tuple(sorted(dict.fromkeys(found.problems), key=lambda problem: (problem.case, not problem.fatal))),
    )


def compile_pattern(text: str | None) -> re.Pattern[str] | None:
    """The regular expression that finds a patient in a case's name.

    Raises:
        InputError: it is none, or has not exactly one group.
    """
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise InputError(f"The patient pattern {text!r} is not a regular expression: {error}. Correct it.") from None
    if pattern.groups != 1:
        raise InputError(
            f"The patient pattern {text!r} has {pattern.groups} groups; put exactly one part in brackets, such as "
            "'(.+)_scan[0-9]+'."
        )
    return pattern


def _recognize(path: Path) -> Found:
    if not path.exists():
        raise InputError(f"{path} does not exist. Check the path.")
    if path.is_file():
        if path.suffix.lower() != ".csv":
            raise InputError(f"{path.name} is not a data set. Give a folder or a CSV file:\n{LAYOUTS}")
        found = read_manifest(path)
    else:
        found = read_described(path) or read_bids(path)
        if not found.cases and found.kind == "bids":
            found = read_pairs(path)
    if not found.cases:
        reasons = "".join(f" {problem.message}" for problem in found.problems[:3])
        raise InputError(f"{path.name}: no case of any layout found here.{reasons} CTGen recognizes:\n{LAYOUTS}")
    return found


def _unique(found: Found) -> list[Case]:
    """Cases by name, each name once; names that cannot be used are told."""
    kept: dict[str, Case] = {}
    for case in found.cases:
        other = kept.setdefault(case.name, case)
        if other is not case:
            message = "Two cases have this name; only the first is kept."
            if other.patient != case.patient:
                message = f"One case cannot be of two patients, {other.patient!r} and {case.patient!r}."
            found.problem(case.name, f"{message} Rename one.")
        elif reason := why_not_name(case.name):
            found.problem(case.name, f"{reason} Rename it.")
    return [kept[name] for name in sorted(kept)]


def _check_case(case: Case, found: Found) -> Header | None:
    """Compare a case's headers; returns that of the first channel that can be read."""
    headers: list[tuple[str, Path, Header]] = []
    if len(case.images) != len(found.channels):
        wanted = f"{len(found.channels)} channels ({', '.join(found.channels)})"
        found.problem(case.name, f"{wanted} are wanted; {len(case.images)} files are given.")
    for number, (channel, path) in enumerate(zip(found.channels, case.images, strict=False)):
        header = _header(case, f"channel {channel}", path, found)
        if header is None:
            continue
        headers.append((f"channel {channel}", path, header))
        if number in _ct_channels(found) and header.modality.upper() not in ("", "CT"):
            found.problem(case.name, f"{path.name} is {header.modality}, not CT. Leave it out or name its channel.")
    if case.label is not None:
        label = _header(case, "label", case.label, found)
        if label is not None:
            headers.append(("label", case.label, label))
    elif case.split == "train" and not any(problem.case == case.name for problem in found.problems):
        found.problem(case.name, "A case to train on has a label; this one has none. Add it, or leave the case out.")
    for what, path, header in headers[1:]:
        try:
            _check_grids(headers[0][1:], (path, header), what)
        except InputError as error:
            found.problem(case.name, str(error))
    return headers[0][2] if headers else None


def _header(case: Case, what: str, path: Path, found: Found) -> Header | None:
    if not path.exists():
        found.problem(case.name, f"The {what} is missing: there is no {path.name}. Add it, or leave the case out.")
        return None
    try:
        if what == "label" and path.is_file() and not is_volume(path):
            inspect_seg(path)  # whose frames are put on the image's grid when it is read
            return None
        return inspect(path)
    except InputError as error:
        found.problem(case.name, str(error))
        return None


def _check_grids(first: tuple[Path, Header], second: tuple[Path, Header], what: str) -> None:
    """Grids of two headers; that of a DICOM series is worked out only where the sizes differ (all slices are read)."""
    (path, one), (other_path, two) = first, second
    if (one.grid is None or two.grid is None) and one.size_xyz == two.size_xyz:
        return
    grids = [header.grid or series_grid(where) for where, header in (first, second)]
    grids[0].assert_equal(grids[1], GRID_TOLERANCE_MM, what=f"{path.name} and the {what} {other_path.name}")


def _ct_channels(found: Found) -> tuple[int, ...]:
    return DataSet(root=Path(), kind=found.kind, cases=(), channels=found.channels).ct_channels


def check_channels(found: Found) -> None:
    """Take down that no channel is CT."""
    words = {word for name in found.channels for word in re.split(r"[\W_]+", name.upper())}
    if not _ct_channels(found) or (len(found.channels) == 1 and "CT" not in words and words & _NOT_CT):
        found.problem(
            "", f"CTGen works on CT; the channels are {', '.join(found.channels)}. Give a data set with a channel CT."
        )


def _with_patients(
    cases: list[Case], headers: dict[str, Header | None], pattern: re.Pattern[str] | None, found: Found
) -> list[Case]:
    """Cases with their patients: the layout's, by the pattern, or DICOM's, where a study is one patient's."""
    known: dict[str, str] = {}
    for case in cases:
        known[case.name] = case.patient
        if not case.patient and pattern is not None:
            match = pattern.search(case.name)
            known[case.name] = (match[1] or "") if match else ""
            if not known[case.name]:
                found.problem(case.name, f"The patient pattern {pattern.pattern!r} finds no patient in the name.")
    patients: dict[str, str] = {}
    for members in _groups(cases, headers):
        said = sorted({known[name] for name in members} - {""})
        ids = sorted({header.patient for name in members if (header := headers[name])} - {""})
        if len(said) > 1:
            message = f"By its DICOM headers {', '.join(members)} are of one patient, not of {', '.join(said)}."
            found.problem(members[0], f"{message} Check that nobody is in two folds.", fatal=False)
        patients |= {name: known[name] or (said or ids or members)[0] for name in members}
    return [replace(case, patient=patients[case.name]) for case in cases]


def _groups(cases: list[Case], headers: dict[str, Header | None]) -> list[list[str]]:
    """Names of cases that share a DICOM patient or study, directly or through others."""
    above = list(range(len(cases)))
    first: dict[tuple[str, str], int] = {}

    def top(n: int) -> int:
        while above[n] != n:
            n = above[n]
        return n

    for n, case in enumerate(cases):
        header = headers[case.name]
        keys = (("patient", header.patient), ("study", header.study)) if header else ()
        for key in keys:
            if key[1]:
                low, high = sorted((top(n), top(first.setdefault(key, n))))
                above[high] = low
    groups: dict[int, list[str]] = {}
    for n, case in enumerate(cases):
        groups.setdefault(top(n), []).append(case.name)
    return list(groups.values())


def _check_values(labels: dict[str, Any], found: Found) -> None:
    """nnU-Net trains on values 0, 1, 2, ... without gaps."""
    values = sorted({v for value in labels.values() for v in (value if isinstance(value, list) else [value])})
    if values != list(range(len(values))):
        found.problem(
            "",
            f"nnU-Net wants label values without gaps; here {len(values)} values, the background among them, run up to "
            f"{values[-1]}. Renumber them before training.",
            fatal=False,
        )
