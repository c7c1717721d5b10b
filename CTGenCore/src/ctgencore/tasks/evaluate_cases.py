"""Measure one case: read each volume once, check it, compute what is missing. Runs in worker processes; no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from .. import io
from ..errors import Cancelled, InputError
from ..geometry import Geometry
from ..labels import convert
from ..metrics.base import Case, Context, Value
from ..metrics.table import METRICS
from ..provenance import GRID_TOLERANCE_MM, fingerprint
from ..volume import LabelMap, Volume
from .evaluate_cache import Features, Measured, Plan, State, load_function
from .evaluate_files import LABELS, CaseFiles


def measure(files: CaseFiles, plan: Plan, stop: Callable[[], bool], step: Callable[[], None]) -> Measured:
    """Measure a case in files; whatever goes wrong with it is told in the result.

    Args:
        files: of the case.
        plan: what to compute.
        stop: answers True to stop, asked before each group of metrics.
        step: called after each group of metrics.

    Raises:
        Cancelled: ``stop`` answered True; what was finished is kept.
    """
    result = Measured(name=files.name, findings=files.findings)
    try:
        state = State(files, plan)
        if not state.todo:
            state.fill(result)
            return result
        case, labels = read_case(files, str(plan.options["scheme"]))
    except Exception as error:  # whatever a file holds, the batch goes on
        result.failed(error)
        return result
    state.inputs = {
        part: fingerprint(volume)  # type: ignore[arg-type]  # of a label map it takes voxels and grid just the same
        for part, volume in {"test": case.test, "reference": case.reference, "twin": case.twin, **labels}.items()
        if volume is not None
    }
    measure_case(case, plan, result, stop, step, state)
    state.fill(result)
    return result


def measure_case(
    case: Case,
    plan: Plan,
    result: Measured,
    stop: Callable[[], bool],
    step: Callable[[], None],
    state: State | None = None,
) -> None:
    """Compute what ``state`` lacks (without one: everything) for a case in memory; fills ``result``."""
    features = Features(plan)
    context = Context(options=plan.options, features=features, device=plan.device, seed=int(plan.options["seed"]))
    wanted = list(plan.metrics) if state is None else state.missing_metrics
    able = []
    for name in wanted:
        lacking = [need for need in METRICS[name].needs if _absent(getattr(case, need))]
        if not lacking:
            able.append(name)
        elif plan.metrics[name]:
            error = InputError(f"{name} needs {' and '.join(lacking)}, which this case does not have.")
            result.failed(error, name)
        else:
            result.missing[name] = " and ".join(lacking)
    for names in by_function(able):
        if stop():
            raise Cancelled("Cancelled; finished cases are kept.")
        try:
            values = load_function(METRICS[names[0]].function)(case, frozenset(names), context)
        except Exception as error:  # one metric's fault must not cost the others
            for name in names:
                result.failed(error, name)
        else:
            found = {name: [value for value in values if value.metric == name] for name in names}
            result.values |= {
                name: each or [Value(name, float("nan"), note="nothing of this case can be measured so")]
                for name, each in found.items()
            }
            if state is not None:
                state.keep(result, names)
        step()
    for part, volume in (("test", case.test), ("reference", case.reference)):
        for name in plan.extractors if volume is not None else ():
            if stop():
                raise Cancelled("Cancelled; finished cases are kept.")
            try:
                result.features.setdefault(part, {})[name] = features.file(name, volume)  # type: ignore[arg-type]
            except Exception as error:
                result.failed(error, name)
    if state is not None:
        state.keep(result, [])


def read_case(files: CaseFiles, scheme: str = "ctgen") -> tuple[Case, dict[str, LabelMap]]:
    """Read and check the parts of a case; all get the grid of the volume under test.

    Returns:
        ``(case, labels)``: the case, and its label maps by part, as they were read.

    Raises:
        InputError: a file is missing, unreadable, not CT, a single slice, an empty mask, or on another grid.
    """
    volumes = {part: io.read(path) for part, path in files.files.items() if part not in LABELS}
    labels = {part: io.read_labels(path) for part, path in files.files.items() if part in LABELS}
    case = Case(name=files.name, **volumes, **labels, report=files.report, findings=files.findings)  # type: ignore[arg-type]
    return checked(case, scheme, files.renumber), labels


def checked(case: Case, scheme: str = "ctgen", renumber: Mapping[int, int] | None = None) -> Case:
    """The case with labels in CTGen's numbers and one grid for all parts.

    Raises:
        InputError: see :func:`read_case`.
    """
    grid = case.test.geometry
    parts: dict[str, Any] = {}
    for part in ("test", "reference", "twin"):
        volume: Volume | None = getattr(case, part)
        if volume is None:
            continue
        if volume.shape[0] < 2:
            raise InputError(f"The {part} volume is one slice; volumes of at least 2 slices are measured.")
        volume.check_ct()
        _same_grid(volume.geometry, grid, part)
        parts[part] = Volume(volume.voxels, grid, volume.record, volume.source, volume.meta)
    for part in LABELS:
        labels: LabelMap | None = getattr(case, part)
        if labels is None:
            continue
        _same_grid(labels.geometry, grid, part.replace("_", " "))
        if part != "diseases":
            if not labels.voxels.any():
                raise InputError(f"The {part.replace('_', ' ')} are empty: every voxel is 0. Check the segmentation.")
            if renumber:
                labels = _renumbered(labels, renumber, part)
            elif scheme != "ctgen":
                labels = convert(labels, scheme).labels
        parts[part] = LabelMap(labels.voxels, grid, labels.names, labels.source)
    return Case(name=case.name, **parts, report=case.report, findings=case.findings)


def by_function(names: Iterable[str]) -> list[list[str]]:
    """Metrics that share function and extractor (those of sets: also their needs), together, in the order asked for."""
    groups: dict[tuple[object, ...], list[str]] = {}
    for name in names:
        row = METRICS[name]
        key = (row.function, row.extractor, row.needs if row.kind == "set" else ())
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _absent(part: Any) -> bool:
    return part is None or part == ""


def _same_grid(grid: Geometry, test: Geometry, part: str) -> None:
    try:
        test.assert_equal(grid, GRID_TOLERANCE_MM, what=f"the test volume and the {part}")
    except InputError as error:
        one, two = (" x ".join(f"{length:.4g}" for length in each.spacing_mm) for each in (test, grid))
        raise InputError(f"{error}{f' The spacings are {one} and {two} mm.' if one != two else ''}") from None


def _renumbered(labels: LabelMap, table: Mapping[int, int], part: str) -> LabelMap:
    voxels = np.zeros(labels.shape, np.int32)
    for label, new in table.items():
        voxels[labels.voxels == label] = new
    if not voxels.any():
        raise InputError(f"The {part.replace('_', ' ')} hold none of the labels {sorted(table)}. Check the file.")
    return LabelMap(voxels, labels.geometry, source=labels.source)
