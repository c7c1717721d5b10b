"""Small data sets to study, for tests: bodies with or without a ball."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ctgencore.geometry import Geometry
from ctgencore.labels import FINDINGS
from ctgencore.tasks.downstream import ClassifyOptions, SegmentOptions
from ctgencore.volume import LabelMap, Volume

SHAPE = (16, 24, 24)
GRID = Geometry(SHAPE[::-1], (4.0, 4.0, 4.0))
NAMES = [finding.name for finding in FINDINGS]
SHOWN = NAMES.index("Consolidation")

TINY = SegmentOptions(
    seeds=(0, 1),
    steps=40,
    rate=1e-2,
    spacing_mm=(4.0, 4.0, 4.0),
    patch_zyx=SHAPE,
    channels=(8, 16),
    codec="identity",
    held_out=0.4,
    draws=200,
    device="cpu",
    threads=1,
)
TINY_CLASSES = ClassifyOptions(
    seeds=(0, 1), steps=24, spacing_mm=(4.0, 4.0, 4.0), shape_zyx=SHAPE, draws=200, device="cpu", threads=1
)


def draw(seed: int, *, ball: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A body with a dense ball somewhere in it, and the ball's mask."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    hu = np.full(SHAPE, -1000.0) + rng.normal(0, 20, SHAPE)
    hu[:, 3:21, 3:21] += 1040
    at = rng.uniform((5, 8, 8), (11, 16, 16))
    mask = ((z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 <= 16) & ball
    return np.where(mask, hu + 500, hu), mask


def write_msd(folder: Path, seeds: range, *, suffix: str = "", labels: dict[str, Any] | None = None) -> Path:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for seed in seeds:
        hu, mask = draw(seed)
        Volume(hu, GRID).save(folder / "imagesTr" / f"ball_{seed:03d}{suffix}.nii.gz")
        LabelMap(mask.astype(np.uint8), GRID).save(folder / "labelsTr" / f"ball_{seed:03d}.nii.gz")
    facts = {"labels": labels or {"0": "background", "1": "ball"}}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def write_pairs(folder: Path, seeds: range, name: str = "case_{}") -> Path:
    """Every second volume has the ball, which the table calls a consolidation."""
    (folder / "ct").mkdir(parents=True)
    rows = [["name", *NAMES]]
    for seed in seeds:
        Volume(draw(seed, ball=seed % 2 == 0)[0], GRID).save(folder / "ct" / f"{name.format(seed)}.nii.gz")
        rows.append([name.format(seed), *(str(int(i == SHOWN and seed % 2 == 0)) for i in range(len(NAMES)))])
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


def classify_options(pairs: dict[str, Path]) -> ClassifyOptions:
    paths = {"data": (pairs["train"],), "test": (pairs["test"],), "synthetic": (pairs["synthetic"],)}
    return replace(TINY_CLASSES, **paths)


def numbers(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open() as stream:
        return list(csv.DictReader(stream))
