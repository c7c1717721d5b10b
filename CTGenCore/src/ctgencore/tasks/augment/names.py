"""Names of labels that lie beside label files or in them, brought together for a whole data set."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...errors import InputError
from ...io.inspect import inspect_seg
from ...labels.filenames import names_of_file
from .found import Found, is_volume, stem_of
from .model import Case

_SHOWN = 5  # disagreements that are spelled out


def label_names(root: Path, cases: Iterable[Case], found: Found) -> dict[str, int]:
    """Names of all cases' labels, ``background`` first; cases that disagree become a fatal problem.

    Looked for in this order: the label file (3D Slicer, TotalSegmentator, DICOM SEG), ``labels.json`` beside it or in
    ``root``, BIDS's ``dseg.tsv`` beside it or in a folder above it up to ``root``.
    """
    names: dict[int, str] = {}
    first: dict[int, str] = {}  # value -> case that named it
    values: dict[str, int] = {}
    clashes: list[str] = []
    for case in cases:
        if case.label is None or not case.label.is_file():
            continue
        try:
            own = _names_of(case.label, root)
        except InputError as error:
            found.problem(case.name, str(error))
            continue
        for value, name in sorted(own.items()):
            if value == 0:
                continue
            if names.setdefault(value, name) != name:
                clashes.append(f"{value} is {names[value]!r} in {first[value]} and {name!r} in {case.name}")
            elif values.setdefault(name, value) != value:
                clashes.append(f"{name!r} is {values[name]} in {first[values[name]]} and {value} in {case.name}")
            first.setdefault(value, case.name)
    if clashes:
        more = f"; and {len(clashes) - _SHOWN} more" if len(clashes) > _SHOWN else ""
        found.problem(
            "",
            f"The cases' labels mean different things: {'; '.join(clashes[:_SHOWN])}{more}. Give every case the same "
            "numbers and names.",
        )
    if not names and any(case.label for case in cases):
        found.problem(
            "",
            "Nothing names the labels; one label with the value 1 is assumed. Name them in a labels.json beside the "
            'label files, such as {"1": "tumor"}.',
            fatal=False,
        )
        names = {1: "label_1"}
    return {"background": 0} | {names[value]: value for value in sorted(names) if names[value] != "background"}


def _names_of(path: Path, root: Path) -> dict[int, str]:
    if not is_volume(path):
        return inspect_seg(path).names
    named = names_of_file(path) or names_of_file(root / "labels")  # the second: labels.json of the whole data set
    if named:
        return {value: name for value, (name, _) in named.items()}
    return next((table for table in map(_dseg_table, _tables(path, root)) if table), {})


def _tables(path: Path, root: Path) -> Iterator[Path]:
    """Where BIDS has the names of a label file, nearest first."""
    yield path.with_name(f"{stem_of(path)}.tsv")
    yield from (folder / "dseg.tsv" for folder in path.parents if folder.is_relative_to(root))


def _dseg_table(path: Path) -> dict[int, str]:
    """BIDS's table with the columns index and name; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return {int(row["index"]): row["name"].strip() for row in csv.DictReader(stream, delimiter="\t")}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise InputError(f"{path.name}: not a table with the columns index and name ({error!r}). Correct it.") from None
