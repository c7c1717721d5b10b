"""Generate a CT from organ masks, disease masks and a report, on the mask's grid."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from .. import __version__, hub, labels, phantom
from ..codecs.base import Cancel
from ..diffusion.guidance import check_guidance
from ..errors import InputError
from ..generators.base import Generator, Inputs, Sampling
from ..geometry import AxisPlan, Geometry
from ..labels import Problem
from ..provenance import RunRecord, fingerprint
from ..resample import resample, with_spacing
from ..runtime import parse_memory
from ..text.consistency import check_report
from ..volume import LabelMap, Volume
from ..zoo import GENERATORS, lookup
from .common import ProgressEvent, Report, cpu_threads, versions
from .draft import Draft, draft_diseases
from .quality import Quality, assess

PREVIEW_ZYX = (64, 128, 128)  # a preview has at most so many voxels along each axis
DEFAULT_SHAPE_ZYX, DEFAULT_FIELD_MM = (64, 128, 128), (360.0, 360.0, 260.0)  # (x, y, z) of a chest, without any mask


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerateOptions:
    """Everything that shapes a generated CT. The same fields serve Python, command line, worker, record and Slicer.

    Attributes:
        model: name in ``ctgencore info``.
        report: radiology report, free text; empty for none.
        draft: draft a disease mask from the report where none is given, for models that follow masks better than words
            (``foundation-embedded``); False leaves the words to the network.
        seed: of all noise; a further try takes the next one.
        steps: network passes of the solver.
        solver: ``ddim`` (as published), or ``dpm++`` or ``unipc``, which want fewer steps.
        guidance: how strongly to follow report and disease mask; 1 is without classifier-free guidance.
        tries: draw again, with the next seed, up to so many volumes until one passes the quality gate; the best stays.
        twin: also draw the healthy twin (same seed, no disease mask, no report) and check what the disease changed
            elsewhere; twice the time.
        preview: a coarse draft: at most 64x128x128 voxels over the same field.
        spacing_mm: voxel size (x, y, z) of the result; None keeps the mask's grid.
        scheme: numbering of the mask: ``ctgen``, ``totalsegmentator``, ``vista3d``, ``btcv``, ``names``, or a CSV file.
        faithful: exactly as the released code of the paper, its faults included (published models only).
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        dtype: precision of the denoiser; HU arithmetic is float32 whatever it is.
        memory: bytes for activations, such as ``8GiB``; None takes most of what is free.
        threads: CPU threads; None keeps torch's choice.
    """

    model: str = "foundation-embedded"
    report: str = ""
    draft: bool = True
    seed: int = 0
    steps: int = 20
    solver: str = "ddim"
    guidance: float = 1.0
    tries: int = 1
    twin: bool = False
    preview: bool = False
    spacing_mm: tuple[float, float, float] | None = None
    scheme: str = "ctgen"
    faithful: bool = False
    device: str = "auto"
    dtype: str = "float32"
    memory: str | None = None
    threads: int | None = None

    def check(self, *, loaded: bool = False) -> None:
        """Refuse what cannot run; ``loaded``: the model is at hand, so that nobody asks for its files.

        Raises:
            InputError: unknown model or solver, or a number out of range.
            WeightsError: the model's weights are not here.
        """
        check_model(self.model, self.solver, self.steps, self.guidance, loaded=loaded)
        if not 1 <= self.tries <= 20:
            raise InputError(f"tries must be 1 to 20; got {self.tries}.")
        if self.spacing_mm is not None and (min(self.spacing_mm) < 0.3 or max(self.spacing_mm) > 10):
            raise InputError(f"spacing_mm must be three numbers of 0.3 to 10 mm; got {self.spacing_mm}.")
        if self.preview and self.spacing_mm is not None:
            raise InputError("A preview chooses its own voxel size: give spacing_mm or preview, not both.")
        if self.faithful and (self.tries > 1 or self.twin or self.preview or self.spacing_mm is not None):
            raise InputError(
                "faithful repeats the released code, which has no tries, twin, preview or spacing. Drop those."
            )


def check_model(model: str, solver: str, steps: int, guidance: float, *, loaded: bool) -> None:
    """Refuse a model, solver or number that cannot run.

    Raises:
        InputError: one of them is unknown or out of range.
        WeightsError: the model's weights are not here.
    """
    row = lookup(GENERATORS, model, "generator")
    if solver not in ("ddim", "dpm++", "unipc"):
        raise InputError(f"There is no solver called '{solver}'. Known: ddim, dpm++, unipc.")
    if not 1 <= steps <= 999:
        raise InputError(f"steps must be 1 to 999; got {steps}. Usual: 20.")
    check_guidance(guidance, model, trained_with_dropout=row.trained_with_dropout)
    if not loaded:
        hub.locate(model)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """The masks as they will be used.

    Attributes:
        geometry: of the result.
        organs, diseases: on that grid, in the model's numbering; None where there are none.
        problems: what a person should know before the run.
        draft: how the diseases were drafted, None where they were not.
    """

    geometry: Geometry
    organs: LabelMap | None
    diseases: LabelMap | None
    problems: tuple[Problem, ...] = ()
    draft: Draft | None = None

    @property
    def combined(self) -> np.ndarray | None:
        """Organs with diseases painted over them, (Z, Y, X), or None without organs."""
        if self.organs is None:
            return None
        return self.organs.voxels if self.diseases is None else labels.paint(self.organs, self.diseases)


def generate(
    mask: LabelMap | None = None,
    disease: LabelMap | None = None,
    *,
    reference: Volume | None = None,
    generator: Generator | None = None,
    options: GenerateOptions | None = None,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Volume:
    """Draw a CT that follows masks and a report. All conditions are optional and can be combined.

    Args:
        mask: organs, numbered as ``options.scheme`` says; diseases may be painted in (class id + 100). None: the
            anatomy of the procedural chest of that seed.
        disease: disease classes 150..162 (see :data:`ctgencore.labels.DISEASES`); empty is healthy mode, and so is None
            unless one is drafted from the report, see :class:`GenerateOptions`.
        reference: a volume whose grid the result gets; None for the mask's grid.
        generator: a loaded one; None loads the one that ``options`` names.
        options: see :class:`GenerateOptions`.
        progress: receives a :class:`ctgencore.tasks.common.ProgressEvent` after each network evaluation.
        cancel: asked between them; answer True to stop.

    Returns:
        A volume of whole HU, marked synthetic, with its record; ``record.results`` holds the quality gate, and what was
        drafted from the report.

    Raises:
        InputError: masks on different grids, unknown labels, or options that contradict each other.
        WeightsError: the model's weights are missing.
        OutOfMemory: nothing fits the memory budget.
        Cancelled: ``cancel`` answered True.
    """
    options = options or GenerateOptions()
    options.check(loaded=generator is not None)
    conditions = prepare(mask, disease, reference=reference, options=options)
    errors = [str(problem) for problem in conditions.problems if problem.severity == "error"]
    if errors:
        raise InputError(" ".join(errors))
    started = time.perf_counter()
    generator = generator or Generator.from_pretrained(
        options.model, dtype=options.dtype, device=options.device, grey=not options.faithful
    )
    loaded = time.perf_counter()
    plan = AxisPlan.to_lps(conditions.geometry) if generator.reorients else AxisPlan((0, 1, 2), (False,) * 3)
    inputs = _inputs(conditions, plan, options.report)

    drawn: list[tuple[Quality, int, np.ndarray]] = []
    with cpu_threads(options.threads):
        for attempt in range(options.tries):
            seed = options.seed + attempt
            many = options.tries > 1
            report = _reporter(progress, f"try {attempt + 1} of at most {options.tries}" if many else "generate")
            if options.faithful:
                hu = np.trunc(generator.sample_as_published(inputs, seed, progress=report, cancel=cancel))
            else:
                hu = np.rint(generator.sample(inputs, _sampling(options, seed), progress=report, cancel=cancel))
            twin = None
            if options.twin and inputs.diseases is not None:
                healthy = replace(inputs, diseases=None, report="")
                told = _reporter(progress, "healthy twin")
                twin = plan.undo(generator.sample(healthy, _sampling(options, seed), progress=told, cancel=cancel))
            hu = plan.undo(hu)
            quality = assess(hu, conditions.combined, conditions.geometry, twin_hu=twin)
            drawn.append((quality, seed, hu))
            if quality.passed:
                break
    quality, seed, hu = max(drawn, key=lambda item: (item[0].passed, item[0].score))
    told = [problem for problem in conditions.problems if problem.severity != "info" or problem.code == "drafted"]
    notes = [str(problem).strip() for problem in told]
    if len(drawn) > 1:
        notes.append(_why_this_one(drawn, seed))
    notes += [check.message for check in quality.checks if not check.passed]

    record = RunRecord(
        task="generate",
        synthetic=True,
        codec=f"{options.model}/{generator.codec.row.name}",
        weights=[*generator.weights, *generator.codec.weights],
        options=asdict(options),
        seed=seed,
        inputs=[_fingerprint(item) for item in (mask, disease) if item is not None],
        device=str(generator.device),
        timings_s={"load": round(loaded - started, 3), "run": round(time.perf_counter() - loaded, 3)},
        results={"quality": quality.as_dict(), **_drafted(conditions.draft)},
        notes=notes,
        versions=versions(),
        ctgencore_version=__version__,
    )
    return Volume(hu, conditions.geometry, record=record)


def prepare(
    mask: LabelMap | None, disease: LabelMap | None, *, reference: Volume | None = None, options: GenerateOptions
) -> Conditions:
    """Bring the masks to the model's numbering and the result's grid, and look for trouble before the run.

    Raises:
        InputError: masks on different grids, or labels without any counterpart.
    """
    problems: list[Problem] = []
    organs = diseases = None
    if mask is not None:
        found = labels.convert(mask, options.scheme)
        organs, diseases = (
            item if item is not None and item.voxels.any() else None for item in (found.labels, found.diseases)
        )
        problems += _conversion_problems(found)
    if disease is not None:
        if mask is not None:
            disease.geometry.assert_equal(mask.geometry, 1e-2, "organ mask and disease mask")
        own = labels.convert(disease, "ctgen")
        diseases = own.diseases if diseases is None else _over(diseases, own.diseases)
    grid = next((item.geometry for item in (reference, mask, disease) if item is not None), None) or _default_grid()
    organs, diseases = (_onto(item, grid) for item in (organs, diseases))
    if options.spacing_mm is not None:
        grid = with_spacing(grid, options.spacing_mm)
    elif options.preview:
        grid = _preview_grid(grid)
    if organs is not None and reference is not None:
        organs = labels.with_body(organs, reference)
    organs, diseases = (_onto(item, grid) for item in (organs, diseases))
    given = organs is not None
    if organs is None:
        organs = _procedural_organs(grid, options.seed)
        message = f"There is no organ mask: the anatomy is that of procedural chest {options.seed}."
        problems.append(Problem("anatomy", "warning", message, "Give an organ mask to choose it."))
    else:
        organs = labels.with_body(organs)  # adds nothing where the body is there already
    draft = None
    if options.draft and disease is None and diseases is None and lookup(GENERATORS, options.model, "generator").drafts:
        draft = draft_diseases(organs, options.report, options.seed)
        diseases = draft.diseases
        problems += _draft_problems(draft)
    if given:
        problems += labels.check(organs, diseases, latent_mm=_latent_mm(grid))
    if options.report:
        notices = check_report(options.report, organs, diseases)
        # a draft contradicts its report only where the grid is too coarse for it: nothing that a person could mend
        notices = [notice for notice in notices if draft is None or notice.severity == "info"]
        problems += [Problem(notice.code, notice.severity, notice.message, "") for notice in notices]
    return Conditions(geometry=grid, organs=organs, diseases=diseases, problems=tuple(problems), draft=draft)


def _draft_problems(draft: Draft) -> list[Problem]:
    found = []
    if draft.drawn:
        message = f"No disease mask: drafted from the report: {draft}."
        found.append(Problem("drafted", "info", message, "Give a mask to choose its place."))
    if draft.left:
        found.append(Problem("not-drafted", "info", f"Left to the words of the report: {'; '.join(draft.left)}.", ""))
    return found


def _drafted(draft: Draft | None) -> dict[str, Any]:
    """What the record says of a draft."""
    if draft is None or not (draft.drawn or draft.left):
        return {}
    drawn = [
        {"finding": fact.finding, "class": fact.disease, "side": fact.side, "lobe": fact.lobe, "size_mm": fact.size_mm}
        for fact in draft.drawn
    ]
    return {"drafted": drawn, "not_drafted": list(draft.left)}


def _procedural_organs(grid: Geometry, seed: int) -> LabelMap:
    """Organs of a healthy procedural chest in the middle of the grid."""
    plan = AxisPlan.to_lps(grid)
    size_z, size_y, size_x = (grid.shape_zyx[axis] for axis in plan.axes)
    z, y, x = plan.reorder(grid.spacing_zyx)
    drawn = phantom.chest((size_z, size_y, size_x), (x, y, z), seed)
    return LabelMap(np.ascontiguousarray(plan.undo(drawn.organs.voxels)), grid, drawn.organs.names)


def _latent_mm(grid: Geometry) -> tuple[float, float, float]:
    """Size (z, y, x) of a latent cell, 4 x 8 x 8 voxels in every generator's codec."""
    z, y, x = AxisPlan.to_lps(grid).reorder(grid.spacing_zyx)
    return (4 * z, 8 * y, 8 * x)


def _conversion_problems(found: labels.Conversion) -> list[Problem]:
    problems = [
        Problem("dropped", "warning", f"Label {value} is not used: {why}.", "It counts as body.")
        for value, why in found.dropped.items()
    ]
    problems += [
        Problem(
            "guessed", "warning", f"Label {value} is taken for {guess.name} ({guess.why}).", "Map it in a CSV file."
        )
        for value, guess in found.guessed.items()
    ]
    return problems


def _over(below: LabelMap, above: LabelMap | None) -> LabelMap:
    if above is None:
        return below
    return LabelMap(np.where(above.voxels > 0, above.voxels, below.voxels), below.geometry, below.names | above.names)


def _onto(item: LabelMap | None, grid: Geometry) -> LabelMap | None:
    """The label map on the result's grid, by nearest neighbours."""
    if item is None:
        return None
    if item.geometry.size_xyz == grid.size_xyz and item.geometry.max_corner_distance_mm(grid) < 1e-2:
        return item
    voxels = resample(item.voxels, item.geometry, grid, order=0)
    if not voxels.any():
        raise InputError(
            "The mask and the reference volume do not overlap anywhere. Check that they are of one patient."
        )
    return LabelMap(voxels, grid, item.names, item.source)


def _default_grid() -> Geometry:
    size = DEFAULT_SHAPE_ZYX[::-1]
    spacing = tuple(field / n for field, n in zip(DEFAULT_FIELD_MM, size, strict=True))
    origin = tuple(-(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True))
    return Geometry(size, spacing, origin)  # type: ignore[arg-type]


def _preview_grid(grid: Geometry) -> Geometry:
    """A coarser grid over the same field, one that a preview's size can hold."""
    plan = AxisPlan.to_lps(grid)
    limit = [0, 0, 0]
    for axis, most in zip(plan.axes, PREVIEW_ZYX, strict=True):
        limit[axis] = most
    factor = [max(1.0, n / most) for n, most in zip(grid.shape_zyx, limit, strict=True)]
    z, y, x = (spacing * f for spacing, f in zip(grid.spacing_zyx, factor, strict=True))
    return with_spacing(grid, (x, y, z))


def _inputs(conditions: Conditions, plan: AxisPlan, report: str) -> Inputs:
    def turned(item: LabelMap | None) -> np.ndarray | None:
        return None if item is None else np.ascontiguousarray(plan.apply(item.voxels))

    size_z, size_y, size_x = (conditions.geometry.shape_zyx[axis] for axis in plan.axes)
    return Inputs(
        shape_zyx=(size_z, size_y, size_x),
        spacing_zyx=plan.reorder(conditions.geometry.spacing_zyx),
        organs=turned(conditions.organs),
        diseases=turned(conditions.diseases),
        report=report,
    )


def _sampling(options: GenerateOptions, seed: int) -> Sampling:
    return Sampling(
        seed=seed,
        steps=options.steps,
        solver=options.solver,
        eta=1.0 if options.solver == "ddim" else 0.0,
        guidance=options.guidance,
        memory=parse_memory(options.memory) if options.memory else None,
    )


def _reporter(progress: Report | None, stage: str) -> Any:
    if progress is None:
        return None
    return lambda done, total: progress(ProgressEvent(stage, done, total, "network passes"))


def _why_this_one(drawn: list[tuple[Quality, int, np.ndarray]], seed: int) -> str:
    scores = ", ".join(
        f"seed {each}: {'passed' if quality.passed else 'failed'} ({quality.score:.3f})" for quality, each, _ in drawn
    )
    return f"Seed {seed} was kept out of {len(drawn)} tries, the best by the quality gate: {scores}."


def _fingerprint(item: LabelMap) -> dict[str, Any]:
    return fingerprint(Volume(item.voxels, item.geometry, source=item.source))
