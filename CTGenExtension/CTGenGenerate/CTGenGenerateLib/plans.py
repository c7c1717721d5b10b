"""What a run will do: the files it needs, one request per job, and how its results are called."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from CTGenLib import geometry, segments
from CTGenLib.geometry import GeometryError, Grid
from CTGenLib.labels import DISEASE, ORGAN
from CTGenLib.rows import FIRST_DISEASE, MAP_OFFSET, Row
from CTGenLib.runfolder import MaskData
from slicer.i18n import tr as _

ORGANS, DISEASES, GRID, REGION, CT = "organs.nrrd", "diseases.nrrd", "grid.nrrd", "region.nrrd", "ct.nrrd"
OUTPUT, DIFFERENCE = "output.nrrd", "difference.nrrd"
AIR = -1000
REGION_VALUE = 1
SEED = "{seed}"  # in names of volumes: the seed that was used, which the engine may choose among several
FACTORS = ("report", "diseases")
TITLE_WORDS = 6


@dataclass
class Plan:
    """A run.

    Attributes:
        kind: ``generate``, ``edit`` or ``whatif``.
        requests: one per job; see EngineJob.
        names: of the volumes that the jobs make; SEED in them stands for the seed.
        title: of the folder.
        grid: where results lie; None: where the model wants.
        coarse: results are previews, in other voxels.
        masks: what each volume was made from, or None.
        beside: node beside which the folder goes, or None.
        report: text that was asked for.
        first: node that the results are shown beside (the CT that was edited), or None.
        focus: what to look at, (r, a, s) mm: the middle of the diseases or of the region; None: nothing special.
    """

    kind: str
    requests: list[dict[str, Any]]
    names: list[str]
    title: str
    grid: Grid | None = None
    coarse: bool = False
    masks: list[MaskData | None] = field(default_factory=list)
    beside: Any = None
    report: str = ""
    first: Any = None
    focus: tuple[float, float, float] | None = None


def options(parameters, task: str) -> dict[str, Any]:
    """The parameters that both tasks share, as the engine's options."""
    shared = {
        "model": parameters.model,
        "report": parameters.report.strip(),
        "seed": parameters.seed,
        "steps": parameters.steps,
        "solver": parameters.solver,
        "guidance": parameters.guidance,
        "device": parameters.device,
    }
    if task == "edit":
        return shared | {"strength": parameters.strength, "feather_mm": parameters.feather}
    return shared | {"tries": parameters.tries, "draft": parameters.draft}


def targetGrid(parameters) -> Grid | None:
    """The grid of a generated CT; None: the model's own.

    Raises:
        GeometryError: the grid cannot be used.
    """
    if parameters.referenceVolume is not None:
        grid = geometry.checkExportable(parameters.referenceVolume)
    elif parameters.segmentation is not None:
        grid = segments.ownGrid(parameters.segmentation)
        geometry.checkSendable(grid, parameters.segmentation.GetName())
    else:
        return None
    spacing = (parameters.spacingIn, parameters.spacingIn, parameters.spacingBetween)
    return grid.resampled(spacing) if any(spacing) else grid


class MaskFiles:
    """The conditions of a run as files.

    Args:
        folder: where to write them.
        segmentation: vtkMRMLSegmentationNode or None.
        rows: segments that are used, lowest layer first.
        grid: where they lie; None: there are none.

    Attributes:
        files: the request's ``mask``, ``disease`` and ``input``.
        data: the labels for the scene, or None.
        focus: middle of the diseases, (r, a, s) mm, or None.

    Raises:
        GeometryError: see segments.labelArray; or no segment lies on the grid.
    """

    def __init__(self, folder: str, segmentation, rows: Sequence[Row], grid: Grid | None) -> None:
        self._folder, self._grid = folder, grid
        self.data: MaskData | None = None
        self.focus: tuple[float, float, float] | None = None
        self.files: dict[str, str | None] = {"mask": None, "disease": None, "input": None}
        if grid is None:
            return
        if not rows:
            self._sendGrid()
            return
        layers = [(row.segmentId, row.label.id) for row in rows if row.label.kind == ORGAN]
        lesions = [(row.segmentId, row.label.id) for row in rows if row.label.kind == DISEASE]
        diseases = segments.labelArray(segmentation, lesions, grid)
        self.focus = middle(diseases, grid)
        self._organs = segments.labelArray(segmentation, layers, grid)
        if layers:
            self._organs = segments.fillUnder(self._organs, diseases > 0, grid)
        if not (self._organs.any() or diseases.any()):
            raise GeometryError(_("No segment lies on the grid of the new CT. Choose another grid."))
        for key, name, labels in (("mask", ORGANS, self._organs), ("disease", DISEASES, diseases)):
            if labels.any():
                self.files[key] = self._write(labels, name)
        self.data = MaskData(
            np.where(diseases > 0, diseases.astype(np.int16) + MAP_OFFSET, self._organs),
            grid,
            {row.label.id + MAP_OFFSET * (row.label.kind == DISEASE): (row.label.name, row.color) for row in rows},
        )

    def healthy(self) -> MaskFiles:
        """The same without the diseases; what they hide is filled as it is with them."""
        twin = copy.copy(self)
        twin.files = self.files | {"disease": None}
        if self.files["mask"] is None:
            twin._sendGrid()
        names = {label: text for label, text in self.data.names.items() if label < MAP_OFFSET + FIRST_DISEASE}
        twin.data = MaskData(self._organs.astype(np.int16), self._grid, names)
        return twin

    def _sendGrid(self) -> None:
        """Without masks the grid needs a file of its own."""
        self.files["input"] = self._write(np.full(self._grid.size[::-1], AIR, np.int16), GRID)

    def _write(self, voxels: np.ndarray, name: str) -> str:
        path = os.path.join(self._folder, name)
        geometry.exportArray(voxels, self._grid, path)
        return path


def planGenerate(parameters, rows: Sequence[Row], folder: str, preview: bool) -> Plan:
    """One CT per variant.

    Raises:
        GeometryError: the inputs cannot be sent.
    """
    plan, masks = _begin(parameters, "generate", rows, folder, preview)
    for seed in range(parameters.seed, parameters.seed + parameters.variants):
        _add(plan, parameters, masks, {"seed": seed}, _name(parameters.model, preview))
    return plan


def planWhatIf(parameters, rows: Sequence[Row], folder: str, preview: bool) -> Plan:
    """Two CTs of one seed that differ in one thing.

    Raises:
        GeometryError: the inputs cannot be sent.
    """
    plan, masks = _begin(parameters, "whatif", rows, folder, preview)
    if parameters.factor == "report":
        _add(plan, parameters, masks, {}, _name(_("A"), preview))
        _add(plan, parameters, masks, {"report": parameters.otherReport.strip()}, _name(_("B"), preview))
    else:
        _add(plan, parameters, masks.healthy(), {"draft": False}, _name(_("A without diseases"), preview))
        _add(plan, parameters, masks, {}, _name(_("B with diseases"), preview))
    return plan


def planEdit(parameters, rows: Sequence[Row], folder: str) -> Plan:
    """A CT with a region drawn anew, once per variant. A region that stands for a disease is drawn as that disease.

    Raises:
        GeometryError: the CT cannot be sent, or the region lies outside.
    """
    volume = parameters.editVolume
    path = os.path.join(folder, CT)
    grid = geometry.exportVolume(volume, path)
    row = next(row for row in rows if row.segmentId == parameters.editSegment)
    value = row.label.id if row.label is not None and row.label.kind == DISEASE else REGION_VALUE
    region = segments.labelArray(parameters.editRegion, [(parameters.editSegment, value)], grid)
    if not region.any():
        raise GeometryError(_("The region lies outside the CT, or is empty."))
    mask = os.path.join(folder, REGION)
    geometry.exportArray(region, grid, mask)
    data = MaskData(region.astype(np.int16), grid, {value: (row.name, row.color)})
    plan = Plan(
        "edit",
        [],
        [],
        _("CTGen edit of {name}").format(name=volume.GetName()),
        grid,
        beside=volume,
        report=parameters.report.strip(),
        first=volume,
        focus=middle(region, grid),
    )
    for seed in range(parameters.seed, parameters.seed + parameters.variants):
        request = {
            "task": "edit",
            "input": path,
            "mask": mask,
            "output": OUTPUT,
            "difference": DIFFERENCE if parameters.editDifference else None,
            "options": options(parameters, "edit") | {"seed": seed},
        }
        plan.requests.append(request)
        plan.names.append(_("{name} edited seed {seed}").format(name=volume.GetName(), seed=SEED))
        plan.masks.append(data)
    return plan


def _begin(parameters, kind: str, rows: Sequence[Row], folder: str, preview: bool) -> tuple[Plan, MaskFiles]:
    grid = targetGrid(parameters)
    masks = MaskFiles(folder, parameters.segmentation, rows, grid)
    title = " ".join(parameters.report.split()[:TITLE_WORDS]) or _("no report")
    beside = parameters.segmentation or parameters.referenceVolume
    return Plan(
        kind,
        [],
        [],
        _("CTGen: {title}").format(title=title),
        grid,
        preview,
        beside=beside,
        report=parameters.report.strip(),
        focus=masks.focus,
    ), masks


def middle(labels: np.ndarray, grid: Grid) -> tuple[float, float, float] | None:
    """The world position of the labelled voxel that is nearest to the middle of all; None: there are none."""
    index = np.argwhere(labels)[:, ::-1]
    if not len(index):
        return None
    inside = index[np.abs(index - index.mean(axis=0)).sum(axis=1).argmin()]
    return tuple(float(x) for x in grid.ijkToWorld[:3, :3] @ inside + grid.ijkToWorld[:3, 3])


def _name(what: str, preview: bool) -> str:
    text = _("Preview {what} seed {seed}") if preview else _("Synthetic {what} seed {seed}")
    return text.format(what=what, seed=SEED)


def _add(plan: Plan, parameters, masks: MaskFiles, changes: dict[str, Any], name: str) -> None:
    chosen = options(parameters, "generate") | {"preview": plan.coarse} | changes
    plan.requests.append({"task": "generate", **masks.files, "output": OUTPUT, "options": chosen})
    plan.names.append(name)
    plan.masks.append(masks.data)
