"""Change a region of a real CT: draw it anew inside, keep every voxel outside."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .. import __version__, labels
from ..codecs.base import Cancel
from ..errors import InputError
from ..generators.base import Generator, Inputs, Sampling, Start
from ..geometry import AxisPlan
from ..provenance import RunRecord, fingerprint
from ..runtime import parse_memory
from ..text.consistency import mentions
from ..volume import LabelMap, Volume
from .common import ProgressEvent, Report, cpu_threads, versions
from .generate import check_model

SKETCH_HU = ((-1100, -950, -1000), (-950, -500, -850), (-500, -30, -100), (-30, 200, 60), (200, 4000, 400))
MARGIN_MM = 60.0  # of CT around the region that the model sees


@dataclass(frozen=True, kw_only=True, slots=True)
class EditOptions:
    """Everything that shapes an edit. The same fields serve Python, command line, worker, record and Slicer.

    Attributes:
        model: name in ``ctgencore info``.
        report: what the region shall show, such as ``8 mm solid nodule``; empty for healthy tissue.
        seed: of all noise.
        steps, solver, guidance: as in :class:`ctgencore.tasks.generate.GenerateOptions`.
        strength: share of the way from noise that is drawn anew, above 0 (no change) to 1 (nothing of the old is left).
        feather_mm: width of the soft border around the region, over which new and old mix.
        device, dtype, memory, threads: as in :class:`ctgencore.tasks.generate.GenerateOptions`.
    """

    model: str = "foundation-embedded"
    report: str = ""
    seed: int = 0
    steps: int = 20
    solver: str = "ddim"
    guidance: float = 1.0
    strength: float = 0.8
    feather_mm: float = 4.0
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
        if not 0 < self.strength <= 1:
            raise InputError(f"strength must be above 0 and at most 1; got {self.strength}.")
        if not 0 <= self.feather_mm <= 50:
            raise InputError(f"feather_mm must be 0 to 50 mm; got {self.feather_mm}.")


def edit(
    ct: Volume,
    region: LabelMap,
    *,
    generator: Generator | None = None,
    options: EditOptions | None = None,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Volume:
    """Draw a region of a CT anew (SDEdit with the surroundings put back at every step).

    The disease class of the region is that of its labels (150..162 or 250..262), else the first finding with a mask
    class that the report mentions, else none.

    Args:
        ct: HU.
        region: on the same grid; voxels that are not 0 may change.
        generator: a loaded one; None loads the one that ``options`` names.
        options: see :class:`EditOptions`.
        progress: receives a :class:`ctgencore.tasks.common.ProgressEvent` after each network evaluation.
        cancel: asked between them; answer True to stop.

    Returns:
        A volume on the same grid, marked synthetic. Voxels farther than ``feather_mm`` from the region
        equal the input bit for bit.

    Raises:
        InputError: other grid, empty region, or options out of range.
        WeightsError: the model's weights are missing.
        OutOfMemory: nothing fits the memory budget.
        Cancelled: ``cancel`` answered True.
    """
    options = options or EditOptions()
    options.check(loaded=generator is not None)
    notes = ct.check_ct()
    region.geometry.assert_equal(ct.geometry, 1e-2, "CT and region")
    inside = region.voxels > 0
    if not inside.any():
        raise InputError("The region is empty: paint at least one voxel of what shall change.")
    started = time.perf_counter()
    generator = generator or Generator.from_pretrained(options.model, dtype=options.dtype, device=options.device)
    loaded = time.perf_counter()
    disease = _disease_of(region, options.report)

    box = _box(inside, ct.geometry.spacing_zyx)
    plan = AxisPlan.to_lps(ct.geometry) if generator.reorients else AxisPlan((0, 1, 2), (False,) * 3)
    hu, part = (np.ascontiguousarray(plan.apply(array[box])) for array in (ct.voxels, inside))
    inputs = Inputs(
        shape_zyx=hu.shape,
        spacing_zyx=plan.reorder(ct.geometry.spacing_zyx),
        diseases=np.where(part, disease, 0).astype(np.uint8) if disease else None,
        report=options.report,
        sketch_hu=_sketch(hu, part, disease),
    )
    sampling = Sampling(
        seed=options.seed,
        steps=options.steps,
        solver=options.solver,
        eta=1.0 if options.solver == "ddim" else 0.0,
        guidance=options.guidance,
        memory=parse_memory(options.memory) if options.memory else None,
    )
    with cpu_threads(options.threads):
        drawn = generator.sample(
            inputs, sampling, start=Start(hu=hu, region=part, strength=options.strength),
            progress=_reporter(progress), cancel=cancel,
        )  # fmt: skip
    weight = _feather(inside[box], ct.geometry.spacing_zyx, options.feather_mm)
    old = ct.voxels[box]
    voxels = ct.voxels.copy()
    mixed = np.rint(old + weight * (plan.undo(drawn) - old))
    voxels[box] = np.where(weight > 0, mixed, old)

    change = voxels[inside] - ct.voxels[inside]
    record = RunRecord(
        task="edit",
        synthetic=True,
        codec=f"{options.model}/{generator.codec.row.name}",
        weights=[*generator.weights, *generator.codec.weights],
        options=asdict(options),
        seed=options.seed,
        inputs=[fingerprint(ct), fingerprint(Volume(region.voxels, region.geometry, source=region.source))],
        device=str(generator.device),
        timings_s={"load": round(loaded - started, 3), "run": round(time.perf_counter() - loaded, 3)},
        results={
            "region_ml": round(float(inside.sum()) * float(np.prod(ct.geometry.spacing_mm)) / 1000, 3),
            "disease_class": disease,
            "mean_change_hu": round(float(change.mean()), 2),
            "mean_absolute_change_hu": round(float(np.abs(change).mean()), 2),
        },
        notes=notes,
        versions=versions(),
        ctgencore_version=__version__,
    )
    return ct.with_voxels(voxels, record=record)


def _disease_of(region: LabelMap, report: str) -> int:
    """Disease class of the region, 0 for none."""
    for value in np.unique(region.voxels):
        for class_id, disease in labels.DISEASES.items():
            if value in (class_id, disease.map_value):
                return class_id
    classes = {finding.name: finding.disease for finding in labels.FINDINGS}
    for mention in mentions(report):
        if not mention.negated and classes.get(mention.finding):
            return int(classes[mention.finding] or 0)
    return 0


def _sketch(hu_ZYX: np.ndarray, region: np.ndarray, disease: int) -> np.ndarray:
    """The CT reduced to typical HU of its tissues, the region to that of its disease: what labels would draw."""
    sketch = np.empty_like(hu_ZYX)
    for low, high, typical in SKETCH_HU:
        sketch[(hu_ZYX >= low) & (hu_ZYX < high)] = typical
    sketch[hu_ZYX < SKETCH_HU[0][0]] = SKETCH_HU[0][2]
    if disease:
        sketch[region] = labels.DISEASES[disease].typical_hu
    return sketch


def _box(inside: np.ndarray, spacing_zyx: tuple[float, float, float]) -> tuple[slice, ...]:
    """Array slices around the region with a margin, so that a nodule does not cost a whole scan."""
    box = []
    for axis in range(3):
        where = np.nonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))[0]
        margin = int(np.ceil(MARGIN_MM / spacing_zyx[axis]))
        box.append(slice(max(0, int(where[0]) - margin), int(where[-1]) + 1 + margin))
    return tuple(box)


def _feather(inside: np.ndarray, spacing_zyx: tuple[float, float, float], width_mm: float) -> np.ndarray:
    """1 in the region, falling to 0 over ``width_mm`` around it."""
    from scipy import ndimage

    if width_mm == 0:
        return inside.astype(np.float32)
    distance = ndimage.distance_transform_edt(~inside, sampling=spacing_zyx)
    return np.clip(1 - distance / width_mm, 0, 1).astype(np.float32)


def _reporter(progress: Report | None) -> Any:
    if progress is None:
        return None
    return lambda done, total: progress(ProgressEvent("edit", done, total, "network passes"))
