"""What an evaluation keeps on disk: values and features of each case, under hashes of all that they depend on.

A case's state is a JSON file that is replaced after each group of metrics: a kill loses at most the group that was
running. Features lie beside it, one file per volume and extractor. Needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import secrets
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .. import hub
from ..errors import CTGenError, InputError
from ..metrics.base import Context, Extractor, Metric, Value
from ..metrics.table import EXTRACTORS, METRICS
from ..volume import Volume
from .evaluate_files import CaseFiles, Failure

IDLE = ("metrics", "device", "batch", "threads", "workers", "unpaired", "allow_small")  # change no number of a case
FEATURE_OPTIONS = ("clip_pad", "window", "seed")  # what features may depend on


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What to compute, as plain data that a worker process can be sent.

    Attributes:
        metrics: names of case metrics in the order asked for; True where the user named it, False from a preset.
        sets: the same of set metrics.
        extractors: whose features the set metrics will need.
        options: fields of :class:`ctgencore.tasks.evaluate.EvaluateOptions`.
        device: where networks run.
        folder: for states and features.
    """

    metrics: Mapping[str, bool]
    sets: Mapping[str, bool]
    extractors: tuple[str, ...]
    options: Mapping[str, Any]
    device: str
    folder: Path

    @property
    def option_key(self) -> str:
        """Hash of the options that change numbers of a case."""
        return digest({name: value for name, value in self.options.items() if name not in IDLE})


@dataclass(kw_only=True, slots=True)
class Measured:
    """What is known of a case.

    Attributes:
        name: of the case.
        inputs: part to :func:`ctgencore.provenance.fingerprint`.
        values: metric to values.
        features: part (``test``, ``reference``) to extractor to file.
        findings: of the case, or None.
        missing: metrics of presets that were left out -> what the case lacks.
        failures: see :class:`Failure`.
        trace: tracebacks of failures that are no one's deliberate error.
    """

    name: str
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    values: dict[str, list[Value]] = field(default_factory=dict)
    features: dict[str, dict[str, Path]] = field(default_factory=dict)
    findings: frozenset[str] | None = None
    missing: dict[str, str] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    trace: str = ""

    def failed(self, error: Exception, metric: str = "") -> None:
        """Note an error; only deliberate ones need no traceback."""
        message = str(error)
        if not isinstance(error, CTGenError):
            message = f"{type(error).__name__}: {message}"
            self.trace += traceback.format_exc()
        self.failures.append(Failure(self.name, metric, getattr(error, "code", "internal"), message))


class Features:
    """Features of volumes, each computed once and kept in a file; what metrics know as ``context.features``."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._hashes: dict[int, tuple[Volume, str]] = {}

    def __call__(self, name: str, volume: Volume) -> np.ndarray:
        """Features of the volume."""
        return np.load(self.file(name, volume), allow_pickle=False)

    def file(self, name: str, volume: Volume) -> Path:
        """The file that holds them, made now if it is not there."""
        row = EXTRACTORS[name]
        path = self.plan.folder / "features" / f"{name}-{feature_key(row, self.plan)}" / f"{self._hash(volume)}.npy"
        if not path.is_file():
            context = Context(
                options=self.plan.options, features=self, device=self.plan.device, seed=int(self.plan.options["seed"])
            )
            array = np.asarray(load_function(row.function)(volume, context), dtype=np.float32)
            path.parent.mkdir(parents=True, exist_ok=True)
            with written(path) as temporary, temporary.open("wb") as stream:
                np.save(stream, array)
        return path

    def _hash(self, volume: Volume) -> str:
        if id(volume) not in self._hashes:  # the volume is kept, so that its id is not used again
            content = hashlib.sha256(json.dumps(volume.geometry.to_dict()).encode())
            content.update(volume.voxels.data)
            self._hashes[id(volume)] = (volume, content.hexdigest()[:32])
        return self._hashes[id(volume)][1]


class State:
    """What was computed for a case before, on disk; valid while files, options and versions are the same."""

    def __init__(self, files: CaseFiles, plan: Plan) -> None:
        for part, path in files.files.items():
            if not path.exists():
                raise InputError(f"The {part.replace('_', ' ')} file {path} does not exist. Check the path.")
        hashes = {part: file_hash(path) for part, path in files.files.items()}
        findings = None if files.findings is None else sorted(files.findings)
        key = digest([files.name, hashes, files.report, findings, sorted(files.renumber.items())])
        slug = re.sub(r"[^A-Za-z0-9._-]+", "_", files.name)[:60]
        self.path = plan.folder / "cases" / f"{slug}-{key[:16]}.json"
        self.plan, self.parts = plan, set(hashes) & {"test", "reference"}
        try:
            self.known: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self.known = {"inputs": {}, "metrics": {}, "features": {}}

    @property
    def inputs(self) -> dict[str, Any]:
        """Fingerprints of the parts."""
        return dict(self.known["inputs"])

    @inputs.setter
    def inputs(self, inputs: dict[str, Any]) -> None:
        self.known["inputs"] = inputs

    @property
    def missing_metrics(self) -> list[str]:
        """Metrics that were not computed yet, or with other options or an older version."""
        return [name for name in self.plan.metrics if self._entry(name) is None]

    @property
    def todo(self) -> bool:
        """Whether anything must be computed."""
        return bool(self.missing_metrics) or any(
            self._feature(part, name) is None for part in self.parts for name in self.plan.extractors
        )

    def keep(self, result: Measured, names: Iterable[str]) -> None:
        """Write the values of these metrics, and all features, to disk."""
        for name in names:
            values = [{**asdict(value), "value": to_json(value.value)} for value in result.values[name]]
            self.known["metrics"][name] = {"key": self._key(METRICS[name]), "values": values}
        for part, files in result.features.items():
            for name, path in files.items():
                entry = {"key": feature_key(EXTRACTORS[name], self.plan), "file": path.name}
                self.known["features"].setdefault(part, {})[name] = entry
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written(self.path) as temporary:
            temporary.write_text(json.dumps(self.known) + "\n", encoding="utf-8")

    def fill(self, result: Measured) -> None:
        """Put what is known into ``result``."""
        result.inputs = self.inputs
        for name in self.plan.metrics:
            entry = self._entry(name)
            if entry is not None:
                values = [Value(**{**value, "value": from_json(value["value"])}) for value in entry["values"]]
                result.values[name] = values
        for part in self.parts:
            for name in self.plan.extractors:
                path = self._feature(part, name)
                if path is not None:
                    result.features.setdefault(part, {})[name] = path

    def _entry(self, name: str) -> dict[str, Any] | None:
        entry = self.known["metrics"].get(name)
        return entry if entry is not None and entry["key"] == self._key(METRICS[name]) else None

    def _feature(self, part: str, name: str) -> Path | None:
        entry = self.known["features"].get(part, {}).get(name)
        key = feature_key(EXTRACTORS[name], self.plan)
        if entry is None or entry["key"] != key:
            return None
        path = self.plan.folder / "features" / f"{name}-{key}" / entry["file"]
        return path if path.is_file() else None

    def _key(self, metric: Metric) -> str:
        extractor = feature_key(EXTRACTORS[metric.extractor], self.plan) if metric.extractor else ""
        return digest([metric.version, self.plan.option_key, extractor])[:16]


def feature_key(row: Extractor, plan: Plan) -> str:
    """Hash of all that features depend on beside the volume: version, options, the weights' checksums."""
    options = {name: plan.options[name] for name in FEATURE_OPTIONS}
    return digest([row.version, options, weights_hash(row.weights)])[:12]


def weights_hash(name: str) -> str:
    """Hash of the index that holds the checksums of imported weights; empty for weights that ship with CTGen."""
    folder = hub.installed(name) if name else None
    index = folder / "index.json" if folder is not None else None
    return hashlib.sha256(index.read_bytes()).hexdigest() if index is not None and index.is_file() else ""


def load_function(path: str) -> Callable[..., Any]:
    """The function at ``module:function`` below :mod:`ctgencore.metrics`."""
    module, _, function = path.partition(":")
    return getattr(import_module(f"ctgencore.metrics.{module}"), function)


def file_hash(path: Path) -> str:
    """sha256 of a file, or of the names and contents of a folder's files."""
    if path.is_file():
        return hub.sha256(path)
    return digest([[item.name, hub.sha256(item)] for item in sorted(path.iterdir()) if item.is_file()])


def digest(content: Any) -> str:
    """sha256 of plain data as canonical JSON."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def to_json(value: float) -> float | str | None:
    """A number as JSON can hold it: null where undefined, ``inf`` and ``-inf`` as text."""
    if math.isnan(value):
        return None
    return str(float(value)) if math.isinf(value) else float(value)


def from_json(value: float | str | None) -> float:
    """The inverse of :func:`to_json`."""
    return float("nan") if value is None else float(value)


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """A hidden name beside ``path``; what is written there takes its place at the end, whole or not at all."""
    temporary = path.with_name(f".ctgen-{os.getpid()}-{secrets.token_hex(4)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
