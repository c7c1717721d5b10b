"""Data sets that a file describes: nnU-Net v2 and MSD by their ``dataset.json``, any other by a manifest."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...io import FORMATS
from .found import Found, stem_of, visible
from .model import Case

MANIFEST_COLUMNS = ("case", "patient", "image", "label", "split")
_OWN = (  # entries of dataset.json that are about this folder's files, or that a new data set states anew
    *("channel_names", "modality", "labels", "numTraining", "numTest", "file_ending", "training", "test", "dataset"),
    "ctgen",
)
_CHANNEL = re.compile(r"image_(\d{4})")


def read_described(root: Path) -> Found | None:
    """A folder with ``dataset.json``: nnU-Net v2 raw, or a task of MSD; None without one of these.

    Raises:
        InputError: ``dataset.json`` cannot be read, or its entries are not what they should be.
    """
    path = root / "dataset.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error}). Correct it, or remove it.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}; a data set is described by an object.")
    if "channel_names" in content:
        reader, channels = _nnunet, content["channel_names"]
    elif "modality" in content and "training" in content:
        reader, channels = _msd, content["modality"]
    else:
        return None
    labels = content.get("labels")
    if not isinstance(channels, dict) or not isinstance(labels, dict) or not all(str(n).isdigit() for n in channels):
        raise InputError(
            f'{path}: channels and labels are objects such as {{"0": "CT"}} and {{"background": 0, "tumor": 1}}; got '
            f"{channels!r} and {labels!r}. Correct the file."
        )
    facts = {key: value for key, value in content.items() if key not in _OWN}
    names = tuple(str(channels[key]) for key in sorted(channels, key=int))
    try:
        return reader(root, content, names, facts)
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: an entry is not what it should be ({error}). Correct the file.") from None


def _nnunet(root: Path, content: dict[str, Any], channels: tuple[str, ...], facts: dict[str, Any]) -> Found:
    labels = content["labels"]
    if not all(
        isinstance(n, int) for value in labels.values() for n in (value if isinstance(value, list) else [value])
    ):
        raise ValueError(f"the labels' values are whole numbers, or lists of them for regions; got {labels}")
    found = Found(kind="nnunet", channels=channels, labels=dict(labels), facts=facts)
    ending = content.get("file_ending", "")
    if ending not in FORMATS:
        found.problem("", f"dataset.json: file_ending is {ending!r}; CTGen reads {', '.join(FORMATS)}.")
    if labels.get("background") != 0:
        found.problem("", 'dataset.json: nnU-Net wants the label "background" with the value 0. Add it.')
    if "dataset" in content:  # files may lie anywhere
        for name, files in content["dataset"].items():
            images = tuple(root / image for image in files["images"])
            found.cases.append(Case(name=name, patient="", images=images, label=root / files["label"]))
    else:
        found.cases += _nnunet_cases(root, "Tr", ending, found)
    found.cases += _nnunet_cases(root, "Ts", ending, found)
    own = content.get("ctgen", {}).get("patients", {})  # of cases that were added one by one
    found.cases = [replace(case, patient=str(own.get(case.name, ""))) for case in found.cases]
    count = sum(case.split == "train" for case in found.cases)
    if content.get("numTraining", count) != count:
        message = f"dataset.json counts {content['numTraining']} training cases; there are {count}."
        found.problem("", f"{message} Is the copy complete?", fatal=False)
    return found


def _nnunet_cases(root: Path, part: str, ending: str, found: Found) -> list[Case]:
    """Cases of ``imagesTr`` or ``imagesTs``, with all the channels that they should have."""
    split = "train" if part == "Tr" else "test"
    pattern = re.compile(r"(.+)_\d{4}" + re.escape(ending))
    images, labels = root / f"images{part}", root / f"labels{part}"
    names = sorted({match[1] for path in visible(images) if (match := pattern.fullmatch(path.name))})
    for path in visible(labels):
        if path.name.endswith(ending) and path.name[: -len(ending)] not in names:
            found.problem("", f"{labels.name}/{path.name} has no image; it is left out.", fatal=False)
    cases = []
    for name in names:
        label = labels / f"{name}{ending}"
        cases.append(
            Case(
                name=name,
                patient="",
                images=tuple(images / f"{name}_{n:04d}{ending}" for n in range(len(found.channels))),
                label=label if split == "train" or label.is_file() else None,
                split=split,
            )
        )
    return cases


def _msd(root: Path, content: dict[str, Any], channels: tuple[str, ...], facts: dict[str, Any]) -> Found:
    labels = {str(name): int(value) for value, name in content["labels"].items()}
    found = Found(kind="msd", channels=channels, labels=labels, facts=facts)
    if len(channels) > 1:
        found.problem(
            "",
            f"MSD keeps the channels {', '.join(channels)} in one file with 4 dimensions, which CTGen does not read. "
            "Convert the task to nnU-Net's layout first (nnUNetv2_convert_MSD_dataset).",
        )
    for entry in content["training"]:
        image = root / entry["image"]
        found.cases.append(Case(name=stem_of(image), patient="", images=(image,), label=root / entry["label"]))
    for entry in content.get("test", []):
        image = root / (entry["image"] if isinstance(entry, dict) else entry)
        found.cases.append(Case(name=stem_of(image), patient="", images=(image,), split="test"))
    return found


def read_manifest(path: Path) -> Found:
    """Cases of a CSV file with the columns case and image (or image_0000, image_0001, ...); patient, label and split
    may be there. Paths are relative to the file.

    Raises:
        InputError: not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            table = csv.DictReader(stream)
            columns = [name.strip() for name in table.fieldnames or []]
            rows = [{(k or "").strip(): (v or "").strip() for k, v in row.items() if k} for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path.name} is not a readable CSV file ({error}). Save it as UTF-8.") from None
    numbered = sorted(name for name in columns if _CHANNEL.fullmatch(name))
    pictures = numbered or ["image"]
    if "case" not in columns or not set(pictures) <= set(columns):
        raise InputError(
            f"{path.name}: a manifest has the columns case and image (or image_0000, image_0001, ...), and may have "
            f"patient, label and split; this one has {', '.join(columns) or 'none'}. Rename its columns."
        )
    found = Found(kind="manifest")
    if numbered:
        found.channels = ("CT", *(f"channel_{int(name[-4:])}" for name in numbered[1:]))
    unknown = [name for name in columns if name not in (*MANIFEST_COLUMNS, *numbered)]
    if unknown:
        found.problem("", f"{path.name}: the columns {', '.join(unknown)} are not used.", fatal=False)
    root = path.parent
    for number, row in enumerate(rows, 2):
        name, split = row["case"], row.get("split") or "train"
        missing = [column for column in ("case", *pictures) if not row[column]]
        if missing:
            found.problem(name, f"{path.name}, line {number}: {', '.join(missing)} is empty. Fill it in.")
            continue
        if split not in ("train", "test"):
            found.problem(name, f"{path.name}, line {number}: split is train or test; got {split!r}. Correct it.")
            continue
        images = tuple(root / row[column] for column in pictures)
        label = root / row["label"] if row.get("label") else None
        found.cases.append(Case(name=name, patient=row.get("patient", ""), images=images, label=label, split=split))
    return found
