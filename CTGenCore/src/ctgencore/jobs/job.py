"""A job as plain data, and its options as the dataclass of its task."""

from __future__ import annotations

import difflib
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import InputError

TASKS = {  # task -> its options dataclass and the files it cannot do without
    "reconstruct": ("tasks.reconstruct:ReconstructOptions", ("input",)),
    "generate": ("tasks.generate:GenerateOptions", ()),
    "edit": ("tasks.edit:EditOptions", ("input", "mask")),
    "evaluate": ("tasks.evaluate:EvaluateOptions", ("input",)),
    "compare": ("tasks.compare:CompareOptions", ("input",)),
    "augment": ("tasks.augment.options:AugmentOptions", ("input",)),
    "case": ("tasks.augment.addition:CaseOptions", ("input",)),
}
_FILES = ("input", "reference", "mask", "test_mask", "disease", "difference")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What to do with which files.

    Attributes:
        id: given back in every event.
        task: one of :data:`TASKS`.
        output: volume file to write, an existing one is replaced; of ``evaluate`` its ``evaluation.json``, of
            ``compare`` its ``comparison.json``, whose folder keeps what was finished; of ``augment`` and
            ``case`` the folder of a data set.
        input: volume file or DICOM folder: the CT to work on; for ``generate``, a volume whose grid to use; for
            ``evaluate``, also a folder of volumes or a manifest; for ``augment``, a data set.
        reference: what ``evaluate`` compares with: a volume, or a folder of volumes.
        mask: label file: organs (``generate``, ``evaluate``), the region to change (``edit``), or what ``case`` adds.
        test_mask: label file: organs of a segmentation of the volume under test (``evaluate``).
        disease: label file with disease classes.
        difference: where to write output minus input in HU (``evaluate``: test minus reference), or None.
        options: fields of the task's options dataclass.
    """

    id: str
    output: Path
    task: str = "reconstruct"
    input: Path | None = None
    reference: Path | None = None
    mask: Path | None = None
    test_mask: Path | None = None
    disease: Path | None = None
    difference: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sources(self) -> tuple[Path, ...]:
        """The files it reads."""
        files = (self.input, self.reference, self.mask, self.test_mask, self.disease)
        return tuple(path for path in files if path is not None)

    @staticmethod
    def from_request(request: Mapping[str, Any], base: Path | None = None) -> Job:
        """Read a request ``{"op": "run", "id", "task", "input", ..., "output", "options"}``.

        Args:
            request: the parsed JSON object.
            base: relative paths start here (None: the working folder).

        Raises:
            InputError: a key is unknown, missing or of the wrong type.
        """
        known = [item.name for item in fields(Job)]
        for key in request:
            if key not in (*known, "op"):
                raise InputError(f"A job has no field '{key}'.{_near(key, known)} Known: {', '.join(known)}.")
        task, options = (request.get(key) for key in ("task", "options"))
        needed = TASKS[task][1] if task in TASKS else ()
        for key in ("id", *needed, "output"):
            if not isinstance(request.get(key), str) or not request[key]:
                raise InputError(f"A job needs '{key}' as text; got {request.get(key)!r}.")
        if task not in TASKS:
            raise InputError(f"There is no task {task!r}.{_near(str(task), TASKS)} Known: {', '.join(TASKS)}.")
        if options is not None and not isinstance(options, Mapping):
            raise InputError(f"A job's 'options' are an object of option names and values; got {options!r}.")
        base = base or Path()
        paths = {}
        for key in _FILES:
            value = request.get(key)
            if value is not None and not isinstance(value, str):
                raise InputError(f"A job's '{key}' is a path or null; got {value!r}.")
            paths[key] = base / value if value else None
        return Job(id=request["id"], task=task, output=base / request["output"], options=dict(options or {}), **paths)


def parse_options(options: Mapping[str, Any], task: str = "reconstruct") -> Any:
    """The task's options dataclass from plain data, refused before any work when it cannot run.

    Raises:
        InputError: unknown option, a value of another type than the field declares, or one that the task refuses.
        WeightsError: the weights of the codec or model are not here.
    """
    module, _, name = TASKS[task][0].partition(":")
    cls = getattr(import_module(f"ctgencore.{module}"), name)
    declared = get_type_hints(cls)
    values = {}
    for key, value in options.items():
        if key not in declared:
            raise InputError(f"{task} has no option '{key}'.{_near(key, declared)} Known: {', '.join(declared)}.")
        values[key] = _typed(key, value, declared[key])
    chosen = cls(**values)
    chosen.check()
    return chosen


def _typed(name: str, value: Any, declared: Any) -> Any:
    """The value as the field's type; whole numbers count as real ones, JSON lists as tuples, objects as
    mappings.

    Raises:
        InputError: it is of another type.
    """
    union = get_origin(declared) in (types.UnionType,)
    allowed = get_args(declared) if union else (declared,)
    for kind in allowed:
        if get_origin(kind) is tuple:
            parts = get_args(kind)
            if isinstance(value, list | tuple) and parts[-1] is Ellipsis:
                return tuple(_typed(name, item, parts[0]) for item in value)
            if isinstance(value, list | tuple) and len(value) == len(parts):
                return tuple(_typed(name, item, part) for item, part in zip(value, parts, strict=True))
        elif get_origin(kind) is Mapping:
            if isinstance(value, Mapping):
                return {
                    _typed(name, k, get_args(kind)[0]): _typed(name, v, get_args(kind)[1]) for k, v in value.items()
                }
        elif type(value) is kind:
            return value
        elif kind is float and type(value) is int:
            return float(value)
    wanted = " or ".join("null" if kind is type(None) else getattr(kind, "__name__", str(kind)) for kind in allowed)
    raise InputError(f"Option '{name}' must be {wanted}; got {value!r}.")


def _near(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
