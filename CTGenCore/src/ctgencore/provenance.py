"""How a volume was made: the record beside it, the tag in its header, and the question whether a file is synthetic."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError
from .geometry import Geometry
from .intensity import round_hu
from .io import read, sidecar_path
from .io.dicom import embedded_record
from .volume import Volume

SCHEMA = "ctgen-record/1"
GRID_TOLERANCE_MM = 1e-3  # NIfTI stores the grid in float32: at 1 m from the origin a corner moves by up to 1e-4 mm


@dataclass(frozen=True)
class RunRecord:
    """Everything needed to tell, and with the same input to repeat, how a volume was made.

    Attributes:
        task: reconstruct, generate, ...
        synthetic: True when the anatomy is invented; False when a real scan was processed.
        codec: name in the zoo.
        weights: one ``{name, sha256, license}`` per file.
        options: the task's options dataclass as a dict.
        seed: of every random choice.
        inputs: one :func:`fingerprint` per input.
        output: :func:`fingerprint` of the written voxels; filled in by ``io.write``.
        timings_s: stage to seconds.
        results: what was found on the way (calibration gain and offset, quality gate, ...).
        device: cpu, cuda:0, ...
        versions: python, torch, ...
        notes: warnings and decisions a reader should know.
        ctgencore_version: of the package.
        created_utc: ISO 8601.
        schema: of this record.
    """

    task: str
    synthetic: bool = False
    codec: str = ""
    weights: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    inputs: list[dict[str, Any]] = field(default_factory=list)
    output: dict[str, Any] = field(default_factory=dict)
    timings_s: dict[str, float] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    device: str = "cpu"
    versions: dict[str, str] = field(default_factory=lambda: {"python": sys.version.split()[0]})
    notes: list[str] = field(default_factory=list)
    ctgencore_version: str = ""
    created_utc: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    schema: str = SCHEMA

    @property
    def record_id(self) -> str:
        """sha256 (64 hex digits) of the record as canonical JSON."""
        canonical = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def tag(self) -> str:
        """Header tag, ASCII, at most 79: ``CTGen [SYNTHETIC] reconstruct embedded 1a2b3c4d`` (end of it: record id)."""
        words = ["CTGen", *(["SYNTHETIC"] if self.synthetic else []), self.task, self.codec]
        text = " ".join("".join(" ".join(words).encode("ascii", "replace").decode()).split())
        return f"{text[:70]} {self.record_id[:8]}"

    def to_json(self) -> str:
        """The record and its id, readable."""
        return json.dumps({"record_id": self.record_id, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunRecord:
        """Read a record back.

        Raises:
            InputError: not a record of this schema, or changed by hand (its id no longer fits).
        """
        try:
            content = json.loads(text)
            found = content.pop("record_id")
            schema = content["schema"]
        except (ValueError, KeyError, TypeError, AttributeError):
            raise InputError("Not a CTGen record: it needs JSON with 'schema' and 'record_id'.") from None
        names = {item.name for item in fields(cls)}
        if schema != SCHEMA or set(content) != names:
            raise InputError(
                f"A record of schema {SCHEMA} is needed; got {schema!r} with {sorted(set(content) ^ names)} amiss."
            )
        record = cls(**content)
        if record.record_id != found:
            raise InputError("The record was changed after it was written: its id no longer fits its content.")
        return record

    def with_output(self, name: str, voxels: np.ndarray, geometry: Geometry) -> RunRecord:
        """The same record, for these voxels written to the file ``name``."""
        return replace(self, output={"name": name, **_hashes(voxels, geometry)})


@dataclass(frozen=True)
class Verification:
    """Answer of :func:`verify`.

    Attributes:
        path: the file.
        verdict: ``synthetic``, ``processed`` or ``unmarked``.
        how: what the verdict rests on.
        by: task and codec, as far as known.
        tag: header tag, or None.
        sidecar: the record's file, or None.
        record: the record, or None.
        voxels_match_record: whether voxels and grid are those of the record; None without a record.
        message: all of this for a person.
    """

    path: Path
    verdict: str
    how: str
    by: str
    tag: str | None
    sidecar: Path | None
    record: RunRecord | None
    voxels_match_record: bool | None
    message: str

    @property
    def sidecar_found(self) -> bool:
        """Whether the record was found."""
        return self.sidecar is not None


def fingerprint(volume: Volume) -> dict[str, Any]:
    """File name (no folders), sha256 of the voxels rounded to int16 (C order, little-endian), and the grid."""
    return {"name": volume.source.name if volume.source else "", **_hashes(volume.voxels, volume.geometry)}


def verify(path: str | Path) -> Verification:
    """Tell from a file whether CTGen made it, and whether it is still as written.

    Uses the header tag, the sidecar under the file's name and, when that is not there, any record in the same folder
    that fits the tag or the voxels (renamed files), and the record inside a DICOM series that CTGen wrote.

    Raises:
        InputError: the file cannot be read.
    """
    path = Path(path)
    volume = read(path)
    tag = volume.meta.get("ctgen_tag")
    hashes = _hashes(volume.voxels, volume.geometry)
    found = _find_record(path, tag, hashes["sha256"])
    if found is not None:
        sidecar, record = found
        match = _same_output(record.output, hashes, volume.geometry)
        verdict = "synthetic" if record.synthetic else "processed"
        by = f"{record.task} {record.codec}".strip()
        how = "header tag and record" if tag else "record only (the header tag is gone)"
        state = "Voxels and grid are as written." if match else "CHANGED since: voxels or grid differ from the record."
        message = f"{path.name} is {_WORDS[verdict]}: {by}, {record.created_utc}, record {sidecar.name}. {state}"
        return Verification(path, verdict, how, by, tag, sidecar, record, match, message)
    if tag:
        words = tag.split()[1:-1]
        verdict = "synthetic" if words[:1] == ["SYNTHETIC"] else "processed"
        by = " ".join(word for word in words if word != "SYNTHETIC")
        message = (
            f"{path.name} is {_WORDS[verdict]}: {by} (header tag {tag!r}). Its record is not beside it, so whether "
            "the voxels "
            "changed afterwards cannot be told."
        )
        return Verification(path, verdict, "header tag only", by, tag, None, None, None, message)
    message = (
        f"{path.name} is unmarked: no CTGen tag and no record. The absence of a mark proves nothing: marks can be "
        "removed."
    )
    return Verification(path, "unmarked", "no tag, no record", "", None, None, None, None, message)


_WORDS = {"synthetic": "SYNTHETIC (made by CTGen)", "processed": "a real scan PROCESSED by CTGen"}


def _hashes(voxels: np.ndarray, geometry: Geometry) -> dict[str, Any]:
    digest = hashlib.sha256()
    for plane in voxels:  # one after the other: no copy of a large volume
        digest.update(np.ascontiguousarray(round_hu(plane), dtype="<i2").data)
    return {"sha256": digest.hexdigest(), "geometry": geometry.to_dict()}


def _same_output(output: dict[str, Any], hashes: dict[str, Any], geometry: Geometry) -> bool:
    if output.get("sha256") != hashes["sha256"]:
        return False
    written = Geometry(**output["geometry"])
    return written.size_xyz == geometry.size_xyz and written.max_corner_distance_mm(geometry) <= GRID_TOLERANCE_MM


def _find_record(path: Path, tag: str | None, sha256: str) -> tuple[Path, RunRecord] | None:
    """The record that made the file: by the tag's id, the voxels' hash or, when untagged, the name written to."""
    beside = sidecar_path(path)
    for candidate, text in _texts(path, beside):
        try:
            record = RunRecord.from_json(text)
        except InputError:
            continue
        by_tag = tag is not None and tag.endswith(" " + record.record_id[:8])
        by_name = tag is None and candidate == beside and record.output.get("name") == path.name
        if by_tag or by_name or record.output.get("sha256") == sha256:
            return candidate, record
    return None


def _texts(path: Path, beside: Path) -> Iterator[tuple[Path, str]]:
    """Every file that may hold the record, the likeliest first, with its text."""
    folder = path if path.is_dir() else path.parent
    for candidate in [beside, *sorted(set(folder.glob("*.json")) - {beside})]:
        try:
            yield candidate, candidate.read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
    embedded = embedded_record(path)
    if embedded is not None:
        yield embedded
