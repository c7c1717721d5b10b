"""A manifest: one job a row, as CSV or as JSON lines. All that is wrong with it is told before any work."""

from __future__ import annotations

import csv
import json
import types
from collections.abc import Iterator, Mapping
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import CTGenError, InputError, WeightsError
from ..jobs import TASKS as JOBS
from ..jobs import Job, check_output, parse_options
from .work import Unit

TASKS = ("reconstruct", "generate", "edit")
FILES = ("input", "mask", "disease", "output", "difference")
_LISTED = 20  # bad rows in a message


def read_manifest(path: Path, task: str, constant: Mapping[str, str]) -> list[Unit]:
    """The units of a manifest.

    Args:
        path: ``.csv`` with a header, or ``.jsonl`` with an object per line. Columns: ``name`` (else that of the
            output), ``input``, ``mask``, ``disease``, ``output``, ``difference`` (relative to the manifest), and any
            option of the task. An empty cell is not given.
        task: one of :data:`TASKS`.
        constant: options of all rows, as text; a row's own go first.

    Raises:
        InputError: unreadable, empty, or some rows are wrong, all of which are listed.
        WeightsError: the only trouble is that weights are not here.
    """
    if task not in TASKS:
        raise InputError(f"A batch can {', '.join(TASKS)}; got '{task}'.")
    base = path.resolve().parent
    shared = options_from_text(constant, task)
    units: list[Unit] = []
    problems: list[tuple[str, CTGenError]] = []
    taken: dict[Path, str] = {}
    for where, row in _rows(path):
        try:
            unit = _unit(row, task, shared, base)
            _claim(unit, where, taken)
            units.append(unit)
        except CTGenError as error:
            problems.append((where, error))
    sources = {path: unit.name for unit in units for path in unit.inputs}
    for target in taken.keys() & sources.keys():
        problems.append((taken[target], InputError(f"{target} is also an input, of {sources[target]}.")))
    if problems:
        lines = [f"{where}: {error}" for where, error in problems[:_LISTED]]
        lines += [f"and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        kind = WeightsError if all(isinstance(error, WeightsError) for _, error in problems) else InputError
        raise kind(f"{path.name}: {len(problems)} rows cannot be done:\n  " + "\n  ".join(lines))
    if not units:
        raise InputError(f"{path.name} has no rows. It needs a header with 'output' and one line per job.")
    return units


def options_from_text(texts: Mapping[str, Any], task: str) -> dict[str, Any]:
    """Options given as text, as the types that the task's options declare; what is no text stays as it is.

    Raises:
        InputError: a text that stands for no value of the declared type.
    """
    module, _, name = JOBS[task][0].partition(":")
    declared = get_type_hints(getattr(import_module(f"ctgencore.{module}"), name))
    return {key: _value(key, value, declared[key]) if key in declared else value for key, value in texts.items()}


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and what it gives."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read the manifest {path} ({error}). Give a .csv or .jsonl file.") from None
    if path.suffix.lower() == ".csv":
        table = csv.DictReader(StringIO(text, newline=""))
        for row in table:
            if None in row or None in row.values():
                raise InputError(f"{path.name}, line {table.line_num}: as many cells as the header has are needed.")
            yield f"line {table.line_num}", {key.strip(): cell.strip() for key, cell in row.items() if cell.strip()}
    elif path.suffix.lower() == ".jsonl":
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError:
                    row = None
                if not isinstance(row, dict):
                    raise InputError(f"{path.name}, line {number}: one JSON object is needed; got {line[:60]!r}.")
                yield f"line {number}", {key: value for key, value in row.items() if value is not None}
    else:
        raise InputError(f"A manifest is a .csv or .jsonl file; got {path.name}.")


def _unit(row: dict[str, Any], task: str, shared: dict[str, Any], base: Path) -> Unit:
    own = {key: value for key, value in row.items() if key not in (*FILES, "name")}
    options = shared | options_from_text(own, task)
    files = {key: str(base / row[key]) if isinstance(row[key], str) else row[key] for key in FILES if key in row}
    request = {"id": "row", "task": task, **files, "options": options}
    job = Job.from_request(request)
    parse_options(options, task)
    for source in job.sources:
        if not source.exists():
            raise InputError(f"There is nothing at {source}.")
    for target in (job.output, job.difference):
        if target is not None:
            there = next(folder for folder in target.parents if folder.is_dir())  # those below it are made later
            check_output(there / target.name, *(job.sources if there == target.parent else ()))
    name = str(row.get("name") or job.output.name)
    del request["id"]
    return Unit(name=name, call="job", payload=request, inputs=job.sources)


def _claim(unit: Unit, where: str, taken: dict[Path, str]) -> None:
    """Refuse what another row writes too; records lie beside volumes, under the same name."""
    from .. import io

    targets = [Path(unit.payload[key]) for key in ("output", "difference") if key in unit.payload]
    for target in [*targets, *map(io.sidecar_path, targets)]:
        if target in taken:
            raise InputError(f"{target} is also written by {taken[target]}.")
        taken[target] = where


def _value(name: str, value: Any, declared: Any) -> Any:
    """A text as the type that an option declares."""
    if not isinstance(value, str):
        return value
    kinds = get_args(declared) if get_origin(declared) is types.UnionType else (declared,)
    if type(None) in kinds and value.lower() == "none":
        return None
    for kind in kinds:
        if kind is str:
            return value
        if kind is bool and value.lower() in ("true", "false"):
            return value.lower() == "true"
        try:
            if kind in (int, float):
                return kind(value)
            if get_origin(kind) is tuple:
                return tuple(get_args(kind)[0](part) for part in value.replace(",", " ").split())
        except ValueError:
            continue
    wanted = " or ".join("none" if kind is type(None) else getattr(kind, "__name__", str(kind)) for kind in kinds)
    raise InputError(f"Option '{name}' must be {wanted}; got '{value}'.")
