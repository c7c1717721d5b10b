"""Measure volumes against references, masks and reports: one pair, or many in one pass over the data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from .. import __version__, hub
from ..codecs.base import Cancel
from ..errors import CTGenError, InputError, WeightsError
from ..intensity import Window
from ..metrics.base import Case, Context, Metric, Value
from ..metrics.presets import expand
from ..metrics.table import EXTRACTORS, METRICS
from ..provenance import fingerprint
from ..runtime import resolve_device
from ..volume import LabelMap, Volume
from ..zoo import find
from .common import ProgressEvent, Report, cpu_threads, versions
from .evaluate_cache import Features, Measured, Plan, load_function
from .evaluate_cases import by_function, checked, measure, measure_case
from .evaluate_files import CaseFiles, Failure
from .evaluate_pool import measure_all
from .evaluate_results import SETS, Evaluation, Row, rows_of

CHOICES = {
    "segmenter": ("threshold", "totalsegmentator", "lungmask"),
    "clip_pad": ("air", "vlm3d"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateOptions:
    """Everything that shapes an evaluation. The same fields serve Python, command line, worker, record and Slicer.

    Attributes:
        metrics: names of metrics and presets. What is named must work; what a preset cannot do here becomes a note.
        window: HU range of metrics whose name states none: ``wide`` [-1000, 1000], ``soft``, ``lung``, or ``"LO HI"``.
        tolerance_mm: of the normalised surface Dice.
        segmenter: of metrics that segment themselves: ``threshold``, ``totalsegmentator`` or ``lungmask``.
        scheme: numbering of organ labels, as in :class:`ctgencore.tasks.generate.GenerateOptions`.
        clip_pad: what CT-CLIP's input is padded with: ``air`` (-1000 HU), or ``vlm3d`` as that challenge's code has it.
        allow_small: compute Frechet distances though there are fewer volumes than they need.
        unpaired: the folders are two sets; only metrics of sets apply.
        batch: slices or patches that a network sees at once.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        threads: CPU threads; None keeps torch's choice. Each of several worker processes takes 1.
        workers: processes that share the cases.
        seed: of every random choice.
    """

    metrics: tuple[str, ...] = ("reconstruction",)
    window: str = "wide"
    tolerance_mm: float = 2.0
    segmenter: str = "threshold"
    scheme: str = "ctgen"
    clip_pad: str = "air"
    allow_small: bool = False
    unpaired: bool = False
    batch: int = 8
    device: str = "auto"
    threads: int | None = None
    workers: int = 1
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot run.

        Raises:
            InputError: unknown metric, window or choice, or a number out of range.
            WeightsError: a metric that is named (not by a preset) needs weights that are not here.
        """
        Window.parse(self.window)
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is one of {', '.join(allowed)}; got '{getattr(self, name)}'.")
        if not self.tolerance_mm > 0:
            raise InputError(f"The tolerance is above 0 mm; got {self.tolerance_mm}.")
        for name in ("batch", "workers"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1; got {getattr(self, name)}.")
        if not self.metrics:
            raise InputError("There is nothing to measure: name a metric or a preset.")
        for metric, named in expand(self.metrics).items():
            missing = why_missing(metric)
            if named and missing:
                raise WeightsError(f"{metric} cannot be computed. {missing}")


def why_missing(metric: str) -> str:
    """Which weights a metric lacks and how to get them; empty when there is nothing amiss."""
    extractor = EXTRACTORS[METRICS[metric].extractor] if METRICS[metric].extractor else None
    return hub.why_unavailable(find(extractor.weights)) if extractor is not None and extractor.weights else ""


def evaluate(
    test: Volume,
    reference: Volume | None = None,
    labels: LabelMap | None = None,
    test_labels: LabelMap | None = None,
    diseases: LabelMap | None = None,
    twin: Volume | None = None,
    report: str = "",
    findings: Iterable[str] | None = None,
    *,
    metrics: Sequence[str] | None = None,
    options: EvaluateOptions | None = None,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Evaluation:
    """Measure one volume.

    Args:
        test: the volume under test.
        reference: what it should be like.
        labels: organ ids of the reference, or the mask that the volume was generated from.
        test_labels: organ ids of a segmentation of the volume under test.
        diseases: disease classes 150 to 162.
        twin: the volume of the same seed without the diseases.
        report: text.
        findings: names of the findings that are there; None when nobody knows.
        metrics: names of metrics and presets; None takes those of ``options``.
        options: see :class:`EvaluateOptions`.
        progress: receives a :class:`ProgressEvent` after each group of metrics.
        cancel: asked between them; answer True to stop.

    Returns:
        Rows, summary and failures; metrics that fail do not stop the others.

    Raises:
        InputError: the parts do not fit together or cannot be CT, or the options cannot run.
        WeightsError: a metric that is named needs weights that are not here.
        Cancelled: ``cancel`` answered True.
    """
    options = options or EvaluateOptions()
    options = replace(options, metrics=tuple(metrics)) if metrics is not None else options
    if options.unpaired:
        raise InputError("unpaired compares sets; here is one volume. Use evaluate_set.")
    options.check()
    name = test.source.name if test.source else "test"
    known = frozenset(findings) if findings is not None else None
    case = Case(
        name=name,
        test=test,
        reference=reference,
        labels=labels,
        test_labels=test_labels,
        diseases=diseases,
        twin=twin,
        report=report,
        findings=known,
    )
    case = checked(case, options.scheme)
    with (
        _temporary_folder() as folder,
        cpu_threads(options.threads),
    ):
        plan, notes = make_plan(options, Path(folder))
        parts = {"test": case.test, "reference": case.reference, "twin": case.twin}
        inputs = {part: fingerprint(volume) for part, volume in parts.items() if volume is not None}
        result = Measured(name=name, inputs=inputs, findings=known)
        ticks = _Ticks(progress, 1, len(by_function(plan.metrics)))
        measure_case(case, plan, result, cancel or _never, ticks)
        return _gather([result], [], plan, options, notes, [], ticks)


def evaluate_set(
    cases: Iterable[CaseFiles],
    options: EvaluateOptions | None = None,
    folder: str | Path | None = None,
    *,
    references: Sequence[Path] = (),
    failures: Sequence[Failure] = (),
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Evaluation:
    """Measure many cases in one pass over the data: each volume is read once, whatever is asked.

    Args:
        cases: see :class:`CaseFiles`; :func:`ctgencore.tasks.evaluate_files.plan_cases` finds them.
        options: see :class:`EvaluateOptions`. More than one worker starts processes, so that a script must keep its
            own work under ``if __name__ == "__main__":``.
        folder: keeps what was computed, so that another run computes only what is missing; None keeps nothing.
        references: volumes that belong to the reference set only.
        failures: what could not become a case, to be listed with the others.
        progress: receives a :class:`ProgressEvent` after each group of metrics.
        cancel: asked between them; answer True to stop.

    Returns:
        Rows, summary and failures. A case that fails does not stop the others.

    Raises:
        InputError: no cases, two of one name, or options that cannot run.
        WeightsError: a metric that is named needs weights that are not here.
        Cancelled: ``cancel`` answered True; what was finished is kept in ``folder``.
        OutOfMemory: a worker process died.
    """
    options = options or EvaluateOptions()
    options.check()
    todo = list(cases)
    names = [case.name for case in todo]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InputError(f"Every case needs its own name; these come twice: {', '.join(twice[:5])}.")
    if not todo:
        raise InputError("There are no cases to measure. Check the folders or the manifest.")
    with _temporary_folder() as temporary:
        plan, notes = make_plan(options, Path(folder or temporary).resolve())
        alone = replace(plan, metrics={})  # of a volume that is a reference only, features are all we want
        work = [(case, plan) for case in todo]
        work += [(CaseFiles(name=str(path), test=path), alone) for path in references]
        ticks = _Ticks(progress, len(work), len(by_function(plan.metrics)))
        if options.workers > 1 and len(work) > 1:
            found = measure_all(work, options.workers, cancel or _never, ticks.finished)
        else:
            with cpu_threads(options.threads):
                found = []
                for number, (case, each) in enumerate(work):
                    found.append(measure(case, each, cancel or _never, ticks))
                    ticks.finished(number)
        with cpu_threads(options.threads):
            ticks.stage("sets", len(by_function(plan.sets)))
            done, others = found[: len(todo)], found[len(todo) :]
            return _gather(done, others, plan, options, notes, list(failures), ticks)


def make_plan(options: EvaluateOptions, folder: Path) -> tuple[Plan, list[str]]:
    """What to compute for each case, and notes on what presets leave out."""
    notes, names = [], {}
    for name, named in expand(options.metrics).items():
        missing = why_missing(name)
        if missing:
            notes.append(f"{name} is left out. {missing}")
        elif options.unpaired and METRICS[name].kind == "case":
            if named:
                raise InputError(f"{name} compares pairs, and --unpaired has none. Leave it out, or pair the volumes.")
        else:
            names[name] = named
    sets = [name for name in names if METRICS[name].kind == "set"]
    if options.unpaired and not sets:
        raise InputError("--unpaired compares sets: name a metric of sets, such as those of the preset generation.")
    plan = Plan(
        metrics={name: named for name, named in names.items() if METRICS[name].kind == "case"},
        sets={name: named for name, named in names.items() if METRICS[name].kind == "set"},
        extractors=tuple(dict.fromkeys(METRICS[name].extractor for name in sets)),
        options=asdict(options),
        device=str(resolve_device(options.device)),
        folder=folder,
    )
    return plan, notes


def _gather(
    done: Sequence[Measured],
    references: Sequence[Measured],
    plan: Plan,
    options: EvaluateOptions,
    notes: Sequence[str],
    failures: Sequence[Failure],
    ticks: _Ticks,
) -> Evaluation:
    """Rows of all cases, then those of the sets."""
    rows = [row for case in done for name in plan.metrics for row in rows_of(case.name, case.values.get(name, []))]
    said = [*notes]
    for name in plan.metrics:
        lacking = [case.missing[name] for case in done if name in case.missing]
        if lacking:
            said.append(f"{name} is left out of {len(lacking)} of {len(done)} cases, which have no {lacking[0]}.")
    failed = [*failures, *(failure for case in (*done, *references) for failure in case.failures)]
    sets: dict[str, int] = {}
    if plan.sets:
        set_rows, set_notes, set_failures, sets = _measure_sets(done, references, plan, ticks)
        rows, said, failed = rows + set_rows, said + set_notes, failed + set_failures
    return Evaluation(
        rows=rows,
        failures=failed,
        notes=said,
        options=asdict(options),
        inputs={case.name: case.inputs for case in done if case.inputs},
        sets=sets,
        versions={"ctgencore": __version__, **versions()},
        traces="".join(case.trace for case in (*done, *references)),
    )


def _measure_sets(
    done: Sequence[Measured], references: Sequence[Measured], plan: Plan, ticks: _Ticks
) -> tuple[list[Row], list[str], list[Failure], dict[str, int]]:
    """Metrics of the set under test against the reference set, in which each volume counts once."""
    context = Context(options=plan.options, features=Features(plan), device=plan.device, seed=int(plan.options["seed"]))
    rows: list[Row] = []
    notes: list[str] = []
    failures: list[Failure] = []
    sets: dict[str, int] = {}
    for names in by_function(plan.sets):
        try:
            tests, others = _set_arrays(METRICS[names[0]], done, references)
            sets = {"test": len(tests), "reference": len(others)}
            values: list[Value] = load_function(METRICS[names[0]].function)(tests, others, frozenset(names), context)
            rows += [row for name in names for row in rows_of(SETS, [each for each in values if each.metric == name])]
        except Exception as error:
            for name in names:
                if plan.sets[name] or not isinstance(error, InputError | WeightsError):
                    code = error.code if isinstance(error, CTGenError) else "internal"
                    failures.append(Failure("", name, code, str(error) or type(error).__name__))
                else:
                    notes.append(f"{name} is left out: {error}")
        ticks()
    return rows, notes, failures, sets


def _set_arrays(
    row: Metric, done: Sequence[Measured], references: Sequence[Measured]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """What a set metric compares: features of both sets, or features and what is known of the findings."""
    if "findings" in row.needs:
        known = [case for case in done if case.findings is not None and _paths([case], "test", row.extractor)]
        if not known:
            raise InputError("It needs cases whose findings are known: the column 'findings' of a manifest.")
        truth = load_function("semantics:truth")
        return _loaded(_paths(known, "test", row.extractor)), [truth(case.findings) for case in known]
    done = [case for case in done if all(row.extractor in files for files in case.features.values())]  # whole pairs
    others = _paths(done, "reference", row.extractor) + _paths(references, "test", row.extractor)
    if "reference" in row.needs and not others:
        raise InputError("It needs a set of references, and there is none.")
    return _loaded(_paths(done, "test", row.extractor)), _loaded(dict.fromkeys(others))


def _loaded(paths: Iterable[Path]) -> list[np.ndarray]:
    return [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]


def _paths(cases: Sequence[Measured], part: str, extractor: str) -> list[Path]:
    found = (case.features.get(part, {}).get(extractor) for case in cases)
    return [path for path in found if path is not None]


class _Ticks:
    """Progress in groups of metrics, of all cases; cases may end in any order."""

    def __init__(self, progress: Report | None, cases: int, groups: int) -> None:
        self.progress, self.groups = progress, max(1, groups)
        self.name, self.cases, self.done, self.total = "evaluate", 0, 0, cases * self.groups

    def stage(self, name: str, total: int) -> None:
        """Begin another stage."""
        self.name, self.done, self.total = name, 0, total

    def __call__(self) -> None:
        """A group is done."""
        self._tell(self.done + 1)

    def finished(self, number: int) -> None:
        """A case is done, with all groups that it had."""
        self.cases += 1
        self._tell(self.cases * self.groups)

    def _tell(self, done: int) -> None:
        if self.progress is not None and done > self.done:
            self.progress(ProgressEvent(self.name, done, self.total, "metrics"))
        self.done = done


def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="ctgen-", ignore_cleanup_errors=True)  # mapped files resist on Windows


def _never() -> bool:
    return False
