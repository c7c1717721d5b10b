"""Names of labels that come with a file: in 3D Slicer's and TotalSegmentator's headers, or as JSON beside it."""

from __future__ import annotations

import gzip
import json
import re
import struct
import zlib
from pathlib import Path
from xml.sax.saxutils import unescape

from ..errors import InputError

HEADER_BYTES = 4 << 20  # a header with the names of 117 labels has 20 kB


def names_of_file(path: Path) -> dict[int, tuple[str, str]]:
    """Find what a label file says about its labels.

    Args:
        path: `.seg.nrrd` (3D Slicer's segment names and terminology), NIfTI with TotalSegmentator's label table, or any
            label file with `labels.json` or its own name with `.json` beside it: ``{"1": "liver", ...}``.

    Returns:
        Label to name and serialized terminology entry (empty where there is none); empty when nothing is known.

    Raises:
        InputError: a JSON table beside the file is damaged.
    """
    name = path.name.lower()
    if name.endswith(".nrrd"):
        found = _slicer(path)
    elif name.endswith((".nii", ".nii.gz")):
        found = _totalsegmentator(path)
    else:
        found = {}
    stem = re.sub(r"(\.nii\.gz|\.seg\.nrrd|\.[^.]+)$", "", path.name, flags=re.IGNORECASE)
    for beside in (path.with_name(f"{stem}.json"), path.with_name("labels.json")):
        if not found and beside.is_file():
            found = _table(beside)
    return found


def _slicer(path: Path) -> dict[int, tuple[str, str]]:
    """Segment names of an NRRD header, which ends at the first empty line."""
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES).split(b"\n\n", 1)[0].split(b"\r\n\r\n", 1)[0].decode("utf-8", "replace")
    fields = dict(re.findall(r"^(Segment\d+_\w+):=(.*?)\r?$", header, re.MULTILINE))
    found = {}
    for key, value in fields.items():
        segment, _, what = key.partition("_")
        if what == "LabelValue" and value.strip().isdigit():
            entry = re.search(r"TerminologyEntry:([^|]*)", fields.get(f"{segment}_Tags", ""))
            found[int(value)] = (fields.get(f"{segment}_Name", segment), entry[1] if entry else "")
    return found


def _totalsegmentator(path: Path) -> dict[int, tuple[str, str]]:
    """The label table (XML) in a NIfTI header extension, which lies between the header and the voxels."""
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            head = file.read(352)
            if len(head) < 352 or not head[348]:
                return {}
            order = "<" if head[:4] == b"\x5c\x01\x00\x00" else ">"
            end = int(struct.unpack_from(f"{order}f", head, 108)[0])
            text = file.read(max(0, min(end - 352, HEADER_BYTES))).decode("utf-8", "replace")
    except (OSError, EOFError, ValueError, zlib.error):
        return {}  # reading the voxels has the better message
    labels = re.findall(r'<Label\b[^>]*\bKey="(\d+)"[^>]*>(.*?)</Label>', text, re.DOTALL)
    return {int(key): (unescape(re.sub(r"<!\[CDATA\[|\]\]>", "", name)).strip(), "") for key, name in labels}


def _table(path: Path) -> dict[int, tuple[str, str]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path.name}: not a readable JSON table of label names ({error}). Correct or remove it."
        ) from None
    if not isinstance(content, dict) or not all(key.isdigit() and isinstance(v, str) for key, v in content.items()):
        return {}  # another kind of file, such as a record
    return {int(key): (name, "") for key, name in content.items()}
