"""Results of an evaluation: rows, their summary, verdicts; as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from ..metrics.base import Metric, Value
from ..metrics.presets import SAFETY, Limit
from ..metrics.table import METRICS
from .evaluate_cache import to_json, written
from .evaluate_files import Failure

SCHEMA = "ctgen-evaluation/1"
SETS = "(sets)"  # the case of rows about whole sets
FILES = ("evaluation.json", "rows.csv", "summary.csv")


@dataclass(frozen=True, slots=True)
class Row:
    """One number of one case.

    Attributes:
        case: its name; :data:`SETS` for metrics of sets.
        metric, region, value, slice, note: see :class:`ctgencore.metrics.base.Value`.
        unit: of the metric.
    """

    case: str
    metric: str
    region: str
    value: float
    unit: str
    slice: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    """A metric in a region over all cases.

    Attributes:
        metric, region: what it is about.
        n: values that are defined.
        mean, sd, median, min, max: of those; sd (n - 1 in the denominator) is nan for one value.
        ci95: 95 % confidence interval of the mean (Student's t); nan for one value.
        worst: the worst case, empty where neither side is better.
        slice: the slice where that case is worst, or None.
        note: remarks on the values, each once.
    """

    metric: str
    region: str
    n: int
    mean: float
    sd: float
    median: float
    min: float
    max: float
    ci95: tuple[float, float]
    worst: str = ""
    slice: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer to "is this safe for my task?", by limits that are CTGen's own proposal.

    Attributes:
        metric, region: what was judged.
        value: the worst mean found.
        verdict: ``OK``, ``caution``, ``no``, or ``not judged``.
        limit: the limits as text.
    """

    metric: str
    region: str
    value: float
    verdict: str
    limit: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        rows: every number, in the order of cases and of metrics asked for.
        failures: what could not be measured.
        notes: what was left out and why, remarks on sets.
        options: of the run, as a mapping.
        inputs: case to part to :func:`ctgencore.provenance.fingerprint`.
        sets: sizes of both sets, where set metrics were measured.
        versions: of the software.
        traces: tracebacks of unexpected errors, for bug reports.
    """

    rows: list[Row]
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sets: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    traces: str = ""

    @property
    def summary(self) -> list[Summary]:
        """Rows over cases, metrics in the order asked for, whole volumes before their regions."""
        groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            groups.setdefault((row.metric, row.region), []).append(row)
        order = {metric: place for place, metric in enumerate(dict.fromkeys(row.metric for row in self.rows))}
        keys = sorted(groups, key=lambda key: (order[key[0]], key[1] != "all"))
        return [summarize(groups[key]) for key in keys]

    @property
    def verdicts(self) -> list[Verdict]:
        """Answers of the preset ``safe-for-my-task``; empty when it was not asked for."""
        if "safe-for-my-task" not in self.options.get("metrics", ()):
            return []
        summary = self.summary
        return [
            judge(metric, limit, [line for line in summary if line.metric == metric])
            for metric, limit in SAFETY.items()
        ]

    def value(self, metric: str, region: str = "all") -> float:
        """Mean of a metric over cases; nan when it was not measured."""
        return next((line.mean for line in self.summary if (line.metric, line.region) == (metric, region)), math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data that JSON can hold."""
        asked = dict.fromkeys(row.metric for row in self.rows)
        return {
            "schema": SCHEMA,
            "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "versions": dict(self.versions),
            "options": dict(self.options),
            "seed": self.options.get("seed", 0),
            "metrics": {name: _facts(METRICS[name]) for name in asked},
            "cases": len(self.inputs),
            "sets": dict(self.sets),
            "inputs": {case: dict(parts) for case, parts in self.inputs.items()},
            "summary": self.summary_as_data(),
            "verdicts": [{**asdict(each), "value": to_json(each.value)} for each in self.verdicts],
            "rows": [{**asdict(row), "value": to_json(row.value)} for row in self.rows],
            "failures": [asdict(failure) for failure in self.failures],
            "notes": list(self.notes),
        }

    def summary_as_data(self) -> list[dict[str, Any]]:
        """The summary as plain data, with title, unit and direction of each metric."""
        lines = []
        for line in self.summary:
            metric = METRICS[line.metric]
            numbers = {name: to_json(getattr(line, name)) for name in ("mean", "sd", "median", "min", "max")}
            facts = {"title": metric.title, "unit": metric.unit, "better": metric.better}
            lines.append({**asdict(line), **facts, **numbers, "ci95": [to_json(value) for value in line.ci95]})
        return lines

    def save(self, folder: str | Path) -> Path:
        """Write ``evaluation.json``, ``rows.csv`` and ``summary.csv``, each whole or not at all.

        Returns:
            The path of ``evaluation.json``.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        columns = ("case", "metric", "region", "value", "unit", "slice", "note")
        rows = [{name: getattr(row, name) for name in columns} for row in self.rows]
        lines = self.summary_as_data()
        for line in lines:
            line["ci95_low"], line["ci95_high"] = line.pop("ci95")
        texts = {
            "rows.csv": to_csv(columns, rows),
            "summary.csv": to_csv(SUMMARY_COLUMNS, lines),
            "evaluation.json": json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n",
        }
        for name, text in texts.items():
            with written(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="")
        return folder / "evaluation.json"


SUMMARY_COLUMNS = (
    *("metric", "title", "region", "n", "mean", "sd", "median", "min", "max", "ci95_low", "ci95_high"),
    *("unit", "better", "worst", "slice", "note"),
)


def rows_of(case: str, values: Iterable[Value]) -> list[Row]:
    """Values as rows of a case."""
    return [
        Row(case, value.metric, value.region, value.value, METRICS[value.metric].unit, value.slice, value.note)
        for value in values
    ]


def summarize(rows: Sequence[Row]) -> Summary:
    """The rows of one metric and region over cases; undefined values (nan) are left out and counted in the note."""
    metric, region = rows[0].metric, rows[0].region
    defined = [row for row in rows if not math.isnan(row.value)]
    notes = dict.fromkeys(row.note for row in rows if row.note)
    if len(rows) > 1 and len(defined) < len(rows):
        notes[f"{len(rows) - len(defined)} of {len(rows)} cases undefined"] = None
    values = np.array([row.value for row in defined] or [math.nan], dtype=np.float64)
    spread = len(defined) > 1 and bool(np.isfinite(values).all())
    sd = float(values.std(ddof=1)) if spread else math.nan
    mean = float(values.mean())
    worst = _worst(defined, METRICS[metric].better)
    slices = [worst.slice] if worst is not None else [row.slice for row in rows] if len(rows) == 1 else [None]
    return Summary(
        metric,
        region,
        len(defined),
        mean,
        sd,
        float(np.median(values)),
        float(values.min()),
        float(values.max()),
        confidence(mean, sd, len(defined)),
        worst=worst.case if worst is not None else "",
        slice=slices[0],
        note="; ".join(notes),
    )


def confidence(mean: float, sd: float, n: int) -> tuple[float, float]:
    """95 % confidence interval of a mean by Student's t; nan without a spread."""
    if n < 2 or math.isnan(sd):
        return math.nan, math.nan
    from scipy import special

    reach = float(special.stdtrit(n - 1, 0.975)) * sd / math.sqrt(n)
    return mean - reach, mean + reach


def judge(metric: str, limit: Limit, lines: Sequence[Summary]) -> Verdict:
    """Hold the worst region's mean against the limits."""
    found = [(limit.distance(line.mean), line) for line in lines if not math.isnan(line.mean)]
    if not found:
        return Verdict(metric, "", math.nan, "not judged", limit.text)
    distance, worst = max(found, key=lambda each: each[0])
    verdict = "OK" if distance <= limit.ok else "caution" if distance <= limit.caution else "no"
    return Verdict(metric, worst.region, worst.mean, verdict, limit.text)


def _worst(rows: Sequence[Row], better: str) -> Row | None:
    if not better or not rows or rows[0].case == SETS:
        return None
    badness = {"higher": lambda row: -row.value, "lower": lambda row: row.value, "zero": lambda row: abs(row.value)}
    return max(rows, key=badness[better])


def _facts(metric: Metric) -> dict[str, Any]:
    names = ("title", "unit", "better", "kind", "extractor", "source", "version")
    return {name: getattr(metric, name) for name in names}


def to_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table as CSV; None is an empty field."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows({name: "" if value is None else value for name, value in row.items()} for row in rows)
    return text.getvalue()
