"""Volumes as networks see them, made once and kept on disk: originals, reconstructions, synthetic ones."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...codecs.base import Cancel, Codec
from ...diffusion.conditions import AIR_HU
from ...errors import Cancelled, InputError
from ...generators.base import Generator
from ...geometry import AxisPlan, Geometry
from ...intensity import round_hu
from ...labels import DISEASES, FINDINGS, ORGANS
from ...resample import resample, with_spacing
from ...volume import LabelMap, Volume
from ...zoo import lookup
from ..common import ProgressEvent, Report
from ..evaluate_cache import digest, written
from ..generate import GenerateOptions, generate
from ..reconstruct import ReconstructOptions, load_codec, reconstruct
from .data import Cases, StudySample
from .options import ClassifyOptions, SegmentOptions

FORMAT = 1  # of the files; counts up when their content would change
DEFAULT_TARGETS = ("lung", "heart", "liver", "Pleural effusion or thickening")

_GROUPS: dict[str, list[int]] = {}
for _organ in ORGANS.values():
    _GROUPS.setdefault(_organ.group, []).append(_organ.index)
_ORGANS = _GROUPS | {organ.name: [organ.index] for organ in ORGANS.values()}
_DISEASES = {"lesion": list(DISEASES)} | {disease.name: [disease.class_id] for disease in DISEASES.values()}


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """A volume on the study's grid.

    Attributes:
        name: of its case.
        patient: whose it is.
        view: ``original``, ``reconstructed`` or ``synthetic``.
        path: NumPy file, int16 (C, Z, Y, X): HU, and the target classes in studies of segmentation.
        sha256: of its HU.
        findings: 0 or 1 for each of :data:`ctgencore.labels.FINDINGS`, in studies of classification.
        targets: names of the classes from 1 on, in studies of segmentation.
        native: NumPy file, uint8 (Z, Y, X): the target classes on the case's own grid, of test cases.
        native_mm: (z, y, x) of that grid.
        notes: what a person should know about it.
    """

    name: str
    patient: str
    view: str
    path: Path
    sha256: str
    findings: tuple[int, ...] = ()
    targets: tuple[str, ...] = ()
    native: Path | None = None
    native_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    notes: tuple[str, ...] = ()

    def array(self) -> np.ndarray:
        """The file's content, read when it is used."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)


class Preparer:
    """Makes views of cases, and keeps them in a folder.

    Args:
        options: of the study.
        folder: receives the files.
        progress: receives an event after each case.
        cancel: asked between cases.
    """

    def __init__(
        self,
        options: ClassifyOptions | SegmentOptions,
        folder: Path,
        progress: Report | None = None,
        cancel: Cancel | None = None,
    ) -> None:
        self.options, self.folder = options, folder
        self.progress, self.cancel = progress, cancel
        self.kind = "classify" if isinstance(options, ClassifyOptions) else "segment"

    def __call__(self, cases: Cases, views: Sequence[str], stage: str, *, native: bool = False) -> list[Prepared]:
        """Views of all cases: those of the first, then those of the second, and so on.

        Args:
            cases: whose.
            views: ``original``, ``reconstructed``, ``synthetic``.
            stage: name for progress.
            native: keep the targets on the case's own grid too.

        Raises:
            InputError: a case that cannot be read, or lacks what the study predicts.
            Cancelled: ``cancel`` answered True.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        done: list[Prepared] = []
        for index in range(len(cases)):
            if self.cancel is not None and self.cancel():
                raise Cancelled("Cancelled while preparing volumes; those that are done are kept.")
            done += self._views(cases, index, views, native=native)
            if self.progress is not None:
                self.progress(ProgressEvent(stage, index + 1, len(cases), "cases"))
        return done

    def _views(self, cases: Cases, index: int, views: Sequence[str], *, native: bool) -> list[Prepared]:
        found: list[Prepared] = []
        sample: StudySample | None = None
        for view in views:
            facts = [FORMAT, self.kind, cases.fingerprint(index), self._grid_facts(), self._view_facts(view), native]
            slug = re.sub(r"[^A-Za-z0-9._-]+", "_", cases.name(index))[:60]
            path = self.folder / f"{slug}.{view}.{digest(facts)[:16]}.npy"
            if not path.with_suffix(".json").is_file():
                sample = sample or cases.load(index)
                self._make(sample, view, path, native=native)
            facts_of = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
            kept: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in facts_of.items()
            }
            own = path.with_suffix(".native.npy") if native else None
            found.append(
                Prepared(name=cases.name(index), patient=cases.patient(index), view=view, path=path, native=own, **kept)
            )
        return found

    def _make(self, sample: StudySample, view: str, path: Path, *, native: bool) -> None:
        """Write a view: the arrays first, the facts last, so that what has facts is whole."""
        ct = sample.ct
        notes: list[str] = []
        if view == "reconstructed":
            ct = reconstruct(ct, self.codec, self.reconstruction, cancel=self.cancel)
        elif view == "synthetic":
            ct, notes = self._draw(sample)
        plan = AxisPlan.to_lps(ct.geometry)
        hu = _onto(ct.voxels, ct.geometry, plan, self.options.spacing_mm, order=1)
        facts: dict[str, Any] = {"notes": notes}
        channels = [hu]
        if isinstance(self.options, ClassifyOptions):
            facts["findings"] = _findings_of(sample)
            channels = [center(hu, self.options.shape_zyx)]
        else:
            classes, facts["targets"] = target_classes(sample, self.options.targets)
            channels.append(_onto(classes, ct.geometry, plan, self.options.spacing_mm, order=0))
            if native:
                _save(path.with_suffix(".native.npy"), np.ascontiguousarray(plan.apply(classes)))
                facts["native_mm"] = plan.reorder(ct.geometry.spacing_zyx)
        array = np.stack([round_hu(channel) for channel in channels]).astype("<i2")
        facts["sha256"] = hashlib.sha256(array[0].tobytes()).hexdigest()
        _save(path, array)
        with written(path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(facts) + "\n", encoding="utf-8")

    def _draw(self, sample: StudySample) -> tuple[Volume, list[str]]:
        if sample.organs is None:
            raise InputError(
                f"{sample.name} has no organ mask to draw a synthetic volume from. Give masks with the data, or "
                "volumes that were drawn beforehand with synthetic."
            )
        drawn = generate(
            sample.organs,
            sample.diseases,
            reference=sample.ct,
            generator=self.generator,
            options=replace(self.generation, report=sample.report, seed=zlib.crc32(sample.name.encode())),
            cancel=self.cancel,
        )
        assert drawn.record is not None
        passed = drawn.record.results["quality"]["passed"]
        return drawn, [] if passed else ["it did not pass the quality gate"]

    @cached_property
    def codec(self) -> Codec:
        """What reconstructs."""
        return load_codec(self.reconstruction)

    @cached_property
    def generator(self) -> Generator:
        """What draws."""
        assert isinstance(self.options, ClassifyOptions)
        return Generator.from_pretrained(self.options.generator, device=self.options.device)

    @property
    def generation(self) -> GenerateOptions:
        """How synthetic views are made; each case has its own report, and a seed from its name."""
        assert isinstance(self.options, ClassifyOptions)
        return GenerateOptions(
            model=self.options.generator,
            steps=self.options.sampling_steps,
            solver=self.options.solver,
            device=self.options.device,
        )

    @property
    def reconstruction(self) -> ReconstructOptions:
        """How reconstructed views are made."""
        assert isinstance(self.options, SegmentOptions)
        return ReconstructOptions(codec=self.options.codec, device=self.options.device)

    def _grid_facts(self) -> list[Any]:
        if isinstance(self.options, ClassifyOptions):
            return [self.options.spacing_mm, self.options.shape_zyx]
        return [self.options.spacing_mm, self.options.targets]

    def _view_facts(self, view: str) -> list[Any]:
        if view == "reconstructed":
            return [asdict(self.reconstruction) | {"device": ""}, self.codec.weights]
        if view == "synthetic":
            return [asdict(self.generation) | {"device": ""}, self.generator.weights, self.generator.codec.weights]
        return []


def check_leaks(training: Sequence[Prepared], test: Sequence[Prepared]) -> None:
    """Demand that no test volume is a training volume of another name.

    Raises:
        InputError: two are equal voxel by voxel.
    """
    known = {item.sha256: item.name for item in training}
    for item in test:
        if item.sha256 in known:
            raise InputError(
                f"Test case {item.name} and training case {known[item.sha256]} are the same volume. Take it out of one "
                "of the lists."
            )


# --- grids -----------------------------------------------------------------------------------------------------------


def _onto(
    array_ZYX: np.ndarray, geometry: Geometry, plan: AxisPlan, spacing_mm: tuple[float, float, float], *, order: int
) -> np.ndarray:
    """The array turned to LPS and resampled over the same field."""
    turned = plan.apply(array_ZYX)
    z, y, x = plan.reorder(geometry.spacing_zyx)
    grid = Geometry(turned.shape[::-1], (x, y, z))
    return resample(np.ascontiguousarray(turned), grid, with_spacing(grid, spacing_mm), order=order)


def center(hu_ZYX: np.ndarray, shape_zyx: tuple[int, int, int]) -> np.ndarray:
    """The middle of a volume, filled up with air where it is smaller."""
    out = np.full(shape_zyx, AIR_HU, dtype=hu_ZYX.dtype)
    take, put = [], []
    for have, want in zip(hu_ZYX.shape, shape_zyx, strict=True):
        size = min(have, want)
        take.append(slice((have - size) // 2, (have - size) // 2 + size))
        put.append(slice((want - size) // 2, (want - size) // 2 + size))
    out[tuple(put)] = hu_ZYX[tuple(take)]
    return out


def _save(path: Path, array: np.ndarray) -> None:
    with written(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, array)


# --- what is predicted -----------------------------------------------------------------------------------------------


def _findings_of(sample: StudySample) -> list[int]:
    if sample.findings is None:
        raise InputError(
            f"Nobody knows the findings of {sample.name}. Give a table with the column VolumeName and one for each of "
            "the 18 findings: labels, or labels.csv in the folder of pairs."
        )
    return [int(finding.name in sample.findings) for finding in FINDINGS]


def target_classes(sample: StudySample, targets: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """What to segment, as classes from 1 on, and their names.

    Args:
        sample: a case.
        targets: names, see :class:`ctgencore.tasks.downstream.options.SegmentOptions`.

    Returns:
        (Z, Y, X) uint8, and the names of the classes 1, 2, ...

    Raises:
        InputError: an unknown name, or no mask that could hold it.
    """
    layers: list[tuple[LabelMap | None, list[int]]] = []
    if sample.targets is not None:
        values = {name: value for value, name in sample.targets.names.items()}
        names = list(targets or values)
        layers = [(sample.targets, [lookup(values, name, "label in dataset.json")]) for name in names]
    else:
        names = list(targets or DEFAULT_TARGETS)
        for name in names:
            if name in _DISEASES:
                layers.append((sample.diseases, _DISEASES[name]))
                continue
            if name not in _ORGANS:
                near = difflib.get_close_matches(name, [*_ORGANS, *_DISEASES], n=1)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                raise InputError(
                    f"There is no target called '{name}'.{hint} Known: lesion, {', '.join(_GROUPS)}, and the names of "
                    "single organs and diseases in docs/labels.md."
                )
            if sample.organs is None:
                raise InputError(f"{sample.name} has no organ mask, so nobody knows where its {name} is. Add the mask.")
            layers.append((sample.organs, _ORGANS[name]))
    classes = np.zeros(sample.ct.shape, dtype=np.uint8)
    for number, (mask, ids) in enumerate(layers, 1):
        if mask is not None:
            classes[np.isin(mask.voxels, ids)] = number
    return classes, names
