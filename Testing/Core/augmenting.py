"""Small data sets to augment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documentation's own name)
from ctgencore import phantom
from ctgencore.geometry import Geometry
from ctgencore.jobs import Models
from ctgencore.tasks.augment.case import plan_cases, run_payload
from ctgencore.tasks.augment.finish import finish
from ctgencore.tasks.augment.model import Case, DataSet
from ctgencore.tasks.augment.options import AugmentOptions
from ctgencore.tasks.augment.sources import read_dataset
from ctgencore.volume import LabelMap, Volume

GRAIN = "grain=dct16|identity,window=wide|soft,noise=0.05..0.2,residual=0..0.5"
GRID = Geometry((24, 24, 8), (1.5, 1.5, 3.0), (-10.0, 4.0, 7.5))


@cache
def _chest() -> np.ndarray:
    return phantom.chest((8, 24, 24)).ct.voxels  # seconds at any size: drawn once


def ct(seed: int) -> Volume:
    """A CT, another one for each seed."""
    return Volume(np.roll(_chest(), seed, axis=2) + np.float32(seed), GRID)


def labels(seed: int, values: int = 2) -> LabelMap:
    """Random labels 0 ... ``values``."""
    voxels = np.random.default_rng(seed).integers(0, values + 1, GRID.shape_zyx).astype(np.uint8)
    return LabelMap(voxels, GRID)


def nnunet(root: Path, cases: int = 4, *, channels: tuple[str, ...] = ("CT",), tests: int = 1) -> Path:
    """An nnU-Net v2 raw data set; its second channel, if any, is float and no CT."""
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        (root / name).mkdir(parents=True)
    for n in range(cases + tests):
        name, part = (f"p{n // 2}_{n}", "Tr") if n < cases else (f"t{n}", "Ts")
        ct(n).save(root / f"images{part}" / f"{name}_0000.nii.gz")
        for channel in range(1, len(channels)):
            voxels = np.random.default_rng(n).random(GRID.shape_zyx).astype(np.float32)
            image = sitk.GetImageFromArray(voxels)
            image.SetSpacing(GRID.spacing_mm)
            image.SetOrigin(GRID.origin_mm)
            sitk.WriteImage(image, str(root / f"images{part}" / f"{name}_{channel:04d}.nii.gz"))
        if part == "Tr":
            labels(n).save(root / "labelsTr" / f"{name}.nii.gz")
    content = {
        "name": "Small",
        "licence": "CC0",
        "channel_names": {str(n): channel for n, channel in enumerate(channels)},
        "labels": {"background": 0, "organ": 1, "tumor": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def mixed(root: Path) -> DataSet:
    """A NIfTI case with an NRRD label, and an NRRD case; float voxels that no int16 holds."""
    root.mkdir()
    ct(0).save(root / "a.nii.gz")
    labels(0).save(root / "a_seg.nrrd")
    image = sitk.GetImageFromArray(ct(1).voxels + np.float32(0.25))
    image.SetSpacing(GRID.spacing_mm)
    image.SetOrigin(GRID.origin_mm)
    image.SetMetaData("PatientName", "Jane Roe")
    sitk.WriteImage(image, str(root / "b.nrrd"))
    labels(1).save(root / "b_seg.nrrd")
    return read_dataset(root)


def options(*views: str, **more: Any) -> AugmentOptions:
    return AugmentOptions(views=views or ("dct16",), device="cpu", threads=1, **more)


def run(source: Path | DataSet, output: Path, chosen: AugmentOptions, **more: Any) -> dict[str, Any]:
    """All cases, in reverse order, as plain data, and what describes them."""
    pattern = chosen.patient_pattern
    dataset = source if isinstance(source, DataSet) else read_dataset(source, patient_pattern=pattern)
    load = Models().codec
    payloads = [json.loads(json.dumps(work.to_payload())) for work in plan_cases(dataset, chosen, output)]
    results = [json.loads(json.dumps(run_payload(payload, load, **more))) for payload in reversed(payloads)]
    return finish(dataset, chosen, output, results)


def tree(folder: Path, *, hidden: bool = False) -> dict[str, bytes]:
    """File to content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (hidden or ".ctgen" not in path.parts)
    }


def pairs(root: Path, cases: Sequence[Case], **more: Any) -> DataSet:
    return DataSet(root=root, kind="pairs", cases=tuple(cases), **more)
