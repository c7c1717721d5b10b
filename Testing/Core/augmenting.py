"""Small data sets to augment."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documentation's own name)
from ctgencore import phantom
from ctgencore.geometry import Geometry
from ctgencore.volume import LabelMap, Volume

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
