"""The quality gate: does a generated CT look like CT, and like the masks it was made from?

Limits are ours, set on procedural chests and real CT with their masks (see `docs/labels.md` and BENCHMARKS.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..labels import BODY, DISEASES, LUNG_LOBES, MAP_OFFSET, ORGANS, name_of
from ..metrics.adherence import AROUND_MM, off_target_change, threshold_agreement
from ..metrics.segmenters import BONE_HU, LUNG_HU

LEAST_VOXELS = 200  # an organ smaller than this has no trustworthy median
LEAST_DISEASE = 20
ORGANS_OUT = 0.1  # share of organs, by number and by volume, whose median may miss its range
LUNG_DICE = 0.9  # 0.98 on procedural chests, 0.90 to 0.95 on real ones
BONE_DICE = 0.6  # 0.87 on procedural chests; 0.68 to 0.78 on real ones, whose marrow is often below 200 HU
BODY_DICE = 0.95
JUMP = 8.0  # robust z: 1 to 5 on procedural chests, 2 to 7 on real CT, 12 and more at a seam of 40 HU or 2 pixels
CHANGE_HU = 15.0
EFFECT = 0.25  # least shift of a disease against healthy lung, as a share of the typical one


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the gate.

    Attributes:
        name: a stable word for programs.
        value: what was measured.
        limit: what it is compared with.
        passed: whether it is good enough.
        message: both in words.
    """

    name: str
    value: float
    limit: float
    passed: bool
    message: str


@dataclass(frozen=True, slots=True)
class Quality:
    """What the gate found.

    Attributes:
        checks: those that could be made.
        passed: all of them passed.
        score: 0 (bad) to 1, for choosing among several draws: the mean of Dice values as they are and of the others
            as value / (value + limit), turned round where less is better.
    """

    checks: tuple[Check, ...]
    passed: bool
    score: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "passed": self.passed,
            "score": round(self.score, 4),
            "checks": [asdict(check) for check in self.checks],
        }


def assess(
    hu: np.ndarray, combined: np.ndarray | None, geometry: Geometry, *, twin_hu: np.ndarray | None = None
) -> Quality:
    """Judge a generated volume.

    Args:
        hu: (Z, Y, X).
        combined: (Z, Y, X) organ ids with diseases painted as 250..262, or None when there was no mask.
        geometry: of both.
        twin_hu: (Z, Y, X) the volume of the same seed without the diseases, if there is one.

    Returns:
        The checks that apply. Without a mask that is the slice jump alone.

    Raises:
        InputError: the mask has another shape than the volume.
    """
    checks = [_jump(hu)]
    if combined is not None:
        if combined.shape != hu.shape:
            raise InputError(
                f"Volume and mask lie on one grid; got {hu.shape} and {combined.shape} (Z, Y, X). Resample one."
            )
        checks += _organ_hu(hu, combined)
        checks += _agreement(hu, combined, geometry)
        if twin_hu is not None:
            checks += _hallucination(hu, twin_hu, combined, geometry)
    found = tuple(check for check in checks if check is not None)
    score = float(np.mean([_score(check) for check in found])) if found else 1.0
    return Quality(found, all(check.passed for check in found), score)


def _score(check: Check) -> float:
    if check.name.endswith("-agreement"):
        return check.value
    high = max(check.value, 0.0) / (max(check.value, 0.0) + check.limit)
    return high if check.name.startswith("disease-") else 1 - high


def _jump(hu: np.ndarray) -> Check | None:
    """Largest step between neighboring slices against the steps around it, as a robust z."""
    steps = np.array([np.abs(hu[k + 1] - hu[k]).mean(dtype=np.float64) for k in range(len(hu) - 1)])
    if len(steps) < 5 or not steps.any():
        return None
    around = np.array([np.median(np.delete(steps[max(0, k - 4) : k + 5], min(k, 4))) for k in range(len(steps))])
    ratio = steps / np.maximum(around, 0.1 * np.median(steps) + 1e-6)
    spread = max(1.4826 * float(np.median(np.abs(ratio - np.median(ratio)))), 0.04)
    z = (ratio - np.median(ratio)) / spread
    worst = int(z.argmax())
    times = f"{ratio[worst]:.2f} times those around it, a robust z of {z[worst]:.1f}"
    text = f"The step from slice {worst} to {worst + 1} is {times}"
    return _at_most("slice-jump", float(z[worst]), JUMP, text)


def _organ_hu(hu: np.ndarray, combined: np.ndarray) -> list[Check]:
    """Median HU of every organ, and the mean of every disease against healthy lung."""
    bins = np.zeros((MAP_OFFSET + max(DISEASES) + 1, 4096), np.int64)
    for labels_YX, hu_YX in zip(combined, hu, strict=True):
        index = labels_YX.astype(np.int64) * 4096 + np.clip(np.rint(hu_YX) + 1024, 0, 4095).astype(np.int64)
        bins += np.bincount(index.ravel(), minlength=bins.size).reshape(bins.shape)
    counts = bins.sum(1)
    medians = (bins.cumsum(1) * 2 >= counts[:, None]).argmax(1) - 1024
    measured = [index for index in ORGANS if counts[index] >= LEAST_VOXELS]
    checks = []
    if measured:
        outside = [index for index in measured if not ORGANS[index].hu[0] <= medians[index] <= ORGANS[index].hu[2]]
        outside.sort(key=lambda index: -counts[index])
        listed = "; ".join(
            f"{name_of(i)} {medians[i]} HU instead of {ORGANS[i].hu[0]} to {ORGANS[i].hu[2]}" for i in outside[:4]
        )
        solid = max(1, sum(int(counts[index]) for index in measured if index != BODY))
        volume = sum(int(counts[index]) for index in outside if index != BODY) / solid
        share = max(len(outside) / len(measured), volume)
        text = f"{len(outside)} of {len(measured)} organs, {volume:.0%} by volume, have a median HU outside their range"
        checks.append(_at_most("organ-hu", share, ORGANS_OUT, text + (f": {listed}" if listed else "")))
    healthy = bins[list(LUNG_LOBES)].sum(0)
    if healthy.sum() < LEAST_VOXELS:
        return checks
    values = np.arange(4096) - 1024
    lung = float(healthy @ values) / float(healthy.sum())
    for disease in DISEASES.values():
        row = bins[disease.map_value]
        if disease.direction and row.sum() >= LEAST_DISEASE:
            least = EFFECT * abs(disease.typical_hu - ORGANS[LUNG_LOBES[0]].hu[1])
            shift = disease.direction * (float(row @ values) / float(row.sum()) - lung)
            word = "above" if disease.direction > 0 else "below"
            text = f"{disease.name} is {shift:.0f} HU {word} healthy lung, at least {least:.0f}."
            checks.append(Check(f"disease-{disease.class_id}", round(shift, 1), least, shift >= least, text))
    return checks


def _agreement(hu: np.ndarray, combined: np.ndarray, geometry: Geometry) -> list[Check]:
    """Dice of lung, bone and body by threshold against their labels."""
    rows = {
        "body": ("body-agreement", BODY_DICE, "the body without its table"),
        "lungs": ("lung-agreement", LUNG_DICE, f"lung (HU < {LUNG_HU:g})"),
        "bones": ("bone-agreement", BONE_DICE, f"bone (HU > {BONE_HU:g})"),
    }
    checks = []
    for region, found, wanted in threshold_agreement(hu, combined, geometry):
        name, limit, what = rows[region]
        wanted_count = int(np.count_nonzero(wanted))
        if wanted_count >= LEAST_VOXELS:
            value = 2 * int(np.count_nonzero(found & wanted)) / (int(np.count_nonzero(found)) + wanted_count)
            text = f"Dice of {what} against the mask is {value:.3f}, at least {limit:g}."
            checks.append(Check(name, round(value, 4), limit, value >= limit, text))
    return checks


def _hallucination(hu: np.ndarray, twin_hu: np.ndarray, combined: np.ndarray, geometry: Geometry) -> list[Check]:
    """Mean absolute change against the healthy twin, in the body, away from the diseases."""
    change, _ = off_target_change(hu, twin_hu, combined, geometry)
    if np.isnan(change):
        return []
    text = f"More than {AROUND_MM:g} mm from the diseases the mean change against the healthy twin is {change:.1f} HU"
    return [_at_most("hallucination", change, CHANGE_HU, text)]


def _at_most(name: str, value: float, limit: float, text: str) -> Check:
    return Check(name, round(value, 4), limit, value <= limit, f"{text} (at most {limit:g}).")
