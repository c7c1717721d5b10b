"""Folders of ``ctgencore evaluate`` as runs of a page, and the images that were measured, found again by content."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import io
from ..errors import InputError
from ..intensity import Window
from ..provenance import fingerprint, verify
from ..volume import LabelMap, Volume
from .page import Case

SCHEMA = "ctgen-evaluation/1"
MOST_CASES = 24  # with images on one page: more would leave too few slices of each


def read_runs(folders: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Name to content of every folder's ``evaluation.json``; of several runs, cases are called ``run: case``.

    Raises:
        InputError: a file is missing or is not such a file.
    """
    runs = {}
    for folder in folders:
        content = _read(folder)
        name = folder.resolve().name
        if name in runs:
            name = "/".join(folder.resolve().parts[-2:])
        if len(folders) > 1:
            for row in (*content["rows"], *content["failures"]):
                row["case"] = row["case"] and f"{name}: {row['case']}"
            for line in content["summary"]:
                line["worst"] = line["worst"] and f"{name}: {line['worst']}"
            content["inputs"] = {f"{name}: {case}": parts for case, parts in content["inputs"].items()}
        runs[name] = content
    return runs


def choose(content: Mapping[str, Any], most: int) -> list[str]:
    """The cases whose images a page shows: all, or of more than ``most`` the worst of every metric first."""
    wanted = [line["worst"] for line in content["summary"] if line["region"] == "all" and line["worst"]]
    chosen = set([case for case in dict.fromkeys([*wanted, *content["inputs"]]) if case in content["inputs"]][:most])
    return [case for case in content["inputs"] if case in chosen]


def find_case(content: Mapping[str, Any], case: str, folders: Sequence[Path]) -> Case:
    """A case of an evaluation with its images, which must hold the very voxels that were measured.

    Args:
        content: of ``evaluation.json``.
        case: its name.
        folders: to look for files of the names that were measured, up to two folders down.

    Raises:
        InputError: the volume under test or its reference is not there.
    """
    parts = content["inputs"][case]
    volumes, origins = {}, {}
    for part in ("reference", "test"):
        if part in parts:
            path, volumes[part] = _find(case, parts[part], folders)
            found = verify(path)
            volumes[part].record, origins[part] = found.record, found.message
    labels = None
    if "labels" in parts:
        labels = next((each for _, each in _matching(parts["labels"], folders, io.read_labels)), None)
    window = Window.parse(content["options"]["window"])
    return Case(title=case, volumes=volumes, labels=labels, window=window, origins=origins)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / "evaluation.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = content["schema"]
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no evaluation.json. Give a folder that `ctgencore evaluate -o FOLDER` wrote, or --pair."
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a CTGen evaluation: it needs JSON with 'schema'. Evaluate again.") from None
    if schema != SCHEMA:
        raise InputError(f"{path} is of schema {schema!r}; {SCHEMA!r} is needed. Evaluate again.")
    return content


def _find(case: str, facts: Mapping[str, Any], folders: Sequence[Path]) -> tuple[Path, Volume]:
    for found in _matching(facts, folders, io.read):
        return found
    where = ", ".join(map(str, folders))
    raise InputError(
        f"{case} is shown without images: no {facts['name']} with the voxels that were measured is below {where}. "
        "Name its folder with --images."
    )


def _matching(facts: Mapping[str, Any], folders: Sequence[Path], read: Any) -> Iterator[tuple[Path, Any]]:
    """The files below the folders of that name and with those voxels on that grid."""
    name = glob.escape(facts["name"])
    patterns = (name, f"*/{name}", f"*/*/{name}")
    found = (path for folder in folders for pattern in patterns for path in sorted(folder.glob(pattern)))
    for path in dict.fromkeys(path.resolve() for path in found):
        try:
            volume: Volume | LabelMap = read(path)
        except InputError:  # of that name, yet not an image
            continue
        if fingerprint(volume)["sha256"] == facts["sha256"]:  # type: ignore[arg-type]  # of labels it takes voxels and grid
            yield path, volume
