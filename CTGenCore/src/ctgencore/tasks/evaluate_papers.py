"""Fill a paper's table: measure folders laid out as its recipe says, and put our rows beside the published ones."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import io
from ..codecs.base import Cancel
from ..errors import InputError
from ..labels import FINDINGS
from ..metrics.papers import RECIPES, REFERENCE, Cell, Column, Part, Published, Recipe, published
from ..metrics.table import EXTRACTORS, METRICS
from ..zoo import lookup
from .common import Report
from .evaluate import EvaluateOptions, evaluate_set, why_missing
from .evaluate_cache import written
from .evaluate_files import RECONSTRUCTED, CaseFiles, Failure, pair_folders, parse_findings
from .evaluate_results import Evaluation, Summary

FINDINGS_FILE, REPORTS = "findings.csv", "reports"


@dataclass(frozen=True, slots=True)
class Line:
    """One row.

    Attributes:
        name: as published, or the name of the folder.
        ours: whether it was measured here.
        cells: in the order of columns; a text says what is needed.
    """

    name: str
    ours: bool
    cells: tuple[Cell | str, ...]


@dataclass(frozen=True, kw_only=True)
class PaperTable:
    """A table with the published rows and ours.

    Attributes:
        name: of the recipe.
        title: what it is about.
        paper, where: source of the published rows.
        columns: their keys.
        lines: ours right below the published row of that name, the others at the end.
        choices: question -> answer that was taken.
        notes: choices explained, doubts about published numbers, what was left out and why.
        failures: cases that could not be measured.
        evaluations: part and row -> all that was found.
    """

    name: str
    title: str
    paper: str
    where: str
    columns: tuple[str, ...]
    lines: list[Line]
    choices: Mapping[str, str]
    notes: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The table as plain data that JSON can hold."""
        names = ("name", "title", "paper", "where", "columns", "choices", "notes")
        return {
            **{name: getattr(self, name) for name in names},
            "lines": [{"name": line.name, "ours": line.ours, "cells": line.cells} for line in self.lines],
            "failures": [asdict(failure) for failure in self.failures],
        }

    def save(self, folder: Path) -> Path:
        """Write ``table.csv``, ``table.json``, and ``rows.csv``, ``summary.csv``, ``evaluation.json`` of each row.

        Returns:
            The path of ``table.csv``.
        """
        for name, found in self.evaluations.items():
            found.save(folder / name)
        folder.mkdir(parents=True, exist_ok=True)
        with written(folder / "table.json") as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        with written(folder / "table.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream, lineterminator="\n")
            table.writerow(("row", "source", *self.columns))
            for line in self.lines:
                table.writerow((line.name, "here" if line.ours else "published", *map(cell_text, line.cells)))
        return folder / "table.csv"


def cell_text(cell: Cell | str) -> str:
    """A cell for people: empty, a text, a number, or mean +- standard deviation."""
    if cell is None or isinstance(cell, str):
        return cell or ""
    return f"{cell[0]:.4g} ± {cell[1]:.3g}" if isinstance(cell, tuple) else f"{cell:.4g}"


def paper_table(
    name: str,
    root: Path | None = None,
    folder: Path | None = None,
    options: EvaluateOptions | None = None,
    *,
    choices: Mapping[str, str] | None = None,
    study: Path | None = None,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> PaperTable:
    """The table of a recipe.

    Args:
        name: one of :data:`ctgencore.metrics.papers.RECIPES`.
        root: folder laid out as the recipe says; None gives the published rows alone.
        folder: keeps what was computed, for another run.
        options: the recipe sets their metrics.
        choices: answers to what the paper leaves open; missing ones take their defaults.
        study: ``summary.csv`` of a downstream study, for tables of trained networks.
        progress, cancel: as in :func:`ctgencore.tasks.evaluate.evaluate_set`.

    Raises:
        InputError: unknown recipe or choice, or a folder that holds nothing for it.
    """
    recipe: Recipe = lookup(RECIPES, name, "recipe")
    known = published(name)
    chosen = recipe.chosen(choices or {})
    answers = {question: choice.values[chosen[question]] for question, choice in recipe.choices.items()}
    columns = [replace(column, metric=column.metric.format(**answers)) for column in recipe.columns]
    notes = [f"{question} = {chosen[question]}. {recipe.choices[question].about}" for question in chosen]
    notes += known.doubts
    filled = _Filled(notes=notes)
    if recipe.study:
        if root is not None:
            raise InputError(
                f"{name} compares trained networks. Run `{recipe.study}`, then give --study its summary.csv."
            )
        if study is None:
            filled.notes.append(f"Rows of ours come from `{recipe.study}`: give --study the summary.csv in its folder.")
        else:
            filled.rows = _study_rows(study, columns)
    elif study is not None:
        raise InputError(f"{name} is measured on volumes; leave out --study and give the folder.")
    elif root is not None:
        _measure(recipe, columns, root, folder, options or EvaluateOptions(), filled, progress, cancel)
    return PaperTable(
        name=name,
        title=recipe.title,
        paper=known.paper,
        where=known.where,
        columns=known.columns,
        lines=_merged(known, filled.rows, recipe.real),
        choices=chosen,
        notes=filled.notes,
        failures=filled.failures,
        evaluations=filled.evaluations,
    )


@dataclass(kw_only=True, slots=True)
class _Filled:
    """What is known of our rows."""

    rows: dict[str, tuple[Cell | str, ...]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    evaluations: dict[str, Evaluation] = field(default_factory=dict)


def _measure(
    recipe: Recipe,
    columns: Sequence[Column],
    root: Path,
    folder: Path | None,
    options: EvaluateOptions,
    filled: _Filled,
    progress: Report | None,
    cancel: Cancel | None,
) -> None:
    rows = _rows(recipe, root)
    if not rows:
        raise InputError(f"{root} holds nothing for this table. Folders it looks for: {layout(recipe)}.")
    cells: dict[tuple[str, str], Cell | str] = {}  # of a line and a column
    for row in rows:
        for name, part in recipe.parts.items():
            mine = [column for column in columns if column.part == name]
            lines = recipe.regions or dict.fromkeys([row])
            place = root / part.folder
            test = place / part.test.format(row=row)
            if not test.is_dir():
                cells |= {(line, each.key): f"needs {test.relative_to(root)}" for line in lines for each in mine}
                continue
            try:
                cases, failures = _cases(part, place, row)
            except InputError as error:  # no name fits; the other rows go on
                cases, failures = [], [Failure(row, "", error.code, str(error))]
            filled.failures += failures
            lacking = {column.key: _lacking(column, part, row, cases) for column in mine}
            metrics = tuple(dict.fromkeys(column.metric for column in mine if lacking[column.key] == ""))
            found = Evaluation(rows=[])
            if metrics:
                chosen = replace(options, metrics=metrics)
                found = evaluate_set(cases, chosen, folder, progress=progress, cancel=cancel)
                filled.evaluations["-".join(word for word in (name, row) if word)] = found
            refused = {failure.metric: failure.message for failure in found.failures if not failure.case}
            filled.notes += [f"{row}: {message}" for message in dict.fromkeys(refused.values())]
            filled.failures += [failure for failure in found.failures if failure.case]
            summary = {(line.metric, line.region): line for line in found.summary}
            for column in mine:
                for line, region in lines.items():
                    why = lacking[column.key]
                    value = summary.get((column.metric, region or column.region))
                    cells[line, column.key] = _cell(value, column, refused) if why == "" else why
    names = recipe.regions or rows
    filled.rows = {name: tuple(cells.get((name, column.key)) for column in columns) for name in names}


def _rows(recipe: Recipe, root: Path) -> list[str]:
    """Names of the folders of volumes; the real ones count where the table has a row for them."""
    if recipe.regions:
        tests = {part.test for part in recipe.parts.values()}
        return [test for test in sorted(tests) if (root / test).is_dir()]
    found: dict[str, None] = {}
    for part in recipe.parts.values():
        place = root / part.folder
        for path in sorted(place.iterdir()) if place.is_dir() else ():
            hidden = path.name.startswith(".") or path.name.endswith(".labels") or path.name in ("labels", REPORTS)
            if path.is_dir() and not hidden and (path.name != REFERENCE or recipe.real) and io.list_volumes(path):
                found[path.name] = None
    return list(found)


def _cases(part: Part, place: Path, row: str) -> tuple[list[CaseFiles], list[Failure]]:
    """The cases of a row, with reports and findings."""
    folders = {"labels": place / part.labels, "test_labels": place / part.test_labels.format(row=row)}
    given = {name: path for name, path in folders.items() if path.is_dir()}
    reference = place / REFERENCE
    planned = pair_folders(place / part.test.format(row=row), reference if reference.is_dir() else None, **given)
    findings = _findings(place / FINDINGS_FILE)
    cases = []
    for case in planned.cases:
        name = case.name.removesuffix(RECONSTRUCTED)
        text = place / REPORTS / f"{name}.txt"
        more = {
            "reference": None if row == REFERENCE else case.reference,
            "report": text.read_text(encoding="utf-8").strip() if text.is_file() else "",
            "findings": findings.get(name),
        }
        cases.append(replace(case, name=f"{row}/{case.name}", renumber=part.renumber, **more))  # type: ignore[arg-type]
    return cases, [replace(failure, case=f"{row}/{failure.case}") for failure in planned.failures]


def _findings(path: Path) -> dict[str, frozenset[str] | None]:
    """Name to findings, from a table with a column of names and one of findings, or of 18 columns of 0 and 1."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    found: dict[str, frozenset[str] | None] = {}
    for row in rows:
        name = row.get("name") or row.get("VolumeName") or ""
        name = name[: -len(_suffix(name))] if _suffix(name) else name
        if "findings" in row:
            found[name] = parse_findings(row["findings"])
        else:
            found[name] = frozenset(each.name for each in FINDINGS if row.get(each.name) in ("1", "1.0"))
    return found


def _suffix(name: str) -> str:
    return next((suffix for suffix in io.FORMATS if name.lower().endswith(suffix)), "")


def _lacking(column: Column, part: Part, row: str, cases: Sequence[CaseFiles]) -> str | None:
    """What a column needs and does not have here; empty when it can be filled, None where there is nothing to fill."""
    if column.why:
        return f"needs {column.why}"
    if not cases:
        return "needs pairs of equal names"
    metric = METRICS[column.metric]
    if row == REFERENCE and "reference" in metric.needs:
        return None  # real volumes beside themselves
    if why_missing(column.metric):
        return f"needs weights {EXTRACTORS[metric.extractor].weights}"
    where = {
        "labels": part.labels,
        "test_labels": part.test_labels.format(row=row),
        "report": REPORTS,
        "findings": FINDINGS_FILE,
    }
    for need in metric.needs:
        if all(getattr(case, need) in (None, "") for case in cases):
            return f"needs {where.get(need, need)}"
    return ""


def _cell(line: Summary | None, column: Column, failed: Mapping[str, str]) -> Cell | str:
    """The mean with its spread over cases; of sets the number alone."""
    if line is None or math.isnan(line.mean):
        return "needs more volumes" if column.metric in failed else "not defined"
    if math.isinf(line.mean):
        return str(line.mean)
    mean = column.scale * line.mean
    return mean if math.isnan(line.sd) else (mean, column.scale * line.sd)


def _study_rows(path: Path, columns: Sequence[Column]) -> dict[str, tuple[Cell | str, ...]]:
    """Rows of a downstream study: its arms, with the mean over seeds and its spread."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            lines = [line for line in csv.DictReader(stream) if not line["against"]]
        values = {(line["arm"], line["metric"], line["region"]): line for line in lines}
    except (OSError, UnicodeDecodeError, KeyError) as error:
        raise InputError(f"{path} is not the summary.csv of `ctgencore study` ({error}).") from None

    def cell(arm: str, column: Column) -> Cell | str:
        line = values.get((arm, column.metric, column.region))
        if line is None or not line["value"]:
            return f"needs {column.why}" if column.why else "not defined"
        mean, spread = (column.scale * float(line[name] or "nan") for name in ("value", "sd_seeds"))
        return mean if math.isnan(spread) else (mean, spread)

    arms = dict.fromkeys(line["arm"] for line in lines)
    return {arm: tuple(cell(arm, column) for column in columns) for arm in arms}


def _merged(known: Published, ours: Mapping[str, tuple[Cell | str, ...]], real: str) -> list[Line]:
    """Published rows, each with ours of that name below it, then the rest of ours."""
    rest = dict(ours)
    lines = []
    for row, cells in known.rows.items():
        lines.append(Line(row, False, cells))
        same = [name for name in rest if _plain(name) == _plain(row) or (name == REFERENCE and row == real)]
        lines += [Line(name, True, rest.pop(name)) for name in same]
    return lines + [Line(name, True, cells) for name, cells in rest.items()]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def layout(recipe: Recipe) -> str:
    """The folders that a recipe looks for, as text."""
    if recipe.study:
        return f"none: the numbers come from `{recipe.study}`."
    texts = []
    for part in recipe.parts.values():
        names = [REFERENCE, part.labels, part.test.format(row="ROW"), part.test_labels.format(row="ROW")]
        texts += [f"{part.folder}/{name}".lstrip("/") for name in (*names, REPORTS, FINDINGS_FILE)]
    return ", ".join(dict.fromkeys(texts))
