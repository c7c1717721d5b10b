"""The quality gate: does a generated CT look like CT, and like the masks it was made from?

Limits are ours, set on procedural chests and real CT with their masks (see `docs/labels.md` and BENCHMARKS.md).
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..labels import AIRWAY, BODY, DISEASES, LUNG_LOBES, MAP_OFFSET, ORGANS, TRACHEA, VESSEL, name_of
from ..labels.body import BODY_HU, body_from_ct
from ..volume import Volume

LEAST_VOXELS = 200  # an organ smaller than this has no trustworthy median
LEAST_DISEASE = 20
ORGANS_OUT = 0.1  # share of organs, by number and by volume, whose median may miss its range
LUNG_DICE = 0.9  # 0.98 on procedural chests, 0.90 to 0.95 on real ones
BONE_DICE = 0.6  # 0.87 on procedural chests; 0.68 to 0.78 on real ones, whose marrow is often below 200 HU
BODY_DICE = 0.95
JUMP = 8.0  # robust z: 1 to 5 on procedural chests, 2 to 7 on real CT, 12 and more at a seam of 40 HU or 2 pixels
CHANGE_HU = 15.0
AROUND_MM = 8.0  # a disease may move its surroundings this far away
EFFECT = 0.25  # least shift of a disease against healthy lung, as a share of the typical one
NEAR_MM = 15.0
LUNG_HU, BONE_HU = -500.0, 200.0
VOXELS = 16_000_000  # agreement is measured on at most so many voxels, every second or third in plane otherwise

_BONES = tuple(o.index for o in ORGANS.values() if o.group in ("spine", "rib", "bone_cartilage") and o.index != 114)
_GAS = (11, 12, 13, 19, 62)  # esophagus to colon may hold gas or contrast
_BRIGHT = tuple(  # may hold contrast or calcification above 200 HU, beside the bowel
    [o.index for o in ORGANS.values() if o.group in ("vessel", "heart", "kidney", "lung_vessel")] + [15, 114]
)
_LUNG = (*LUNG_LOBES, AIRWAY, TRACHEA)


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


def _agreement(hu: np.ndarray, combined: np.ndarray, geometry: Geometry) -> list[Check | None]:
    """Dice of lung, bone and body by threshold against their labels.

    Lung and bone are compared up to 15 mm from their labels, for masks seldom label every bone and every loop of bowel.
    Left out are diseases and lung vessels with their rim (they hide lung), gas and contrast in bowel, and contrast in
    vessels, heart and kidneys.
    """
    from scipy import ndimage

    step = max(1, int(np.ceil(np.sqrt(hu.size / VOXELS))))
    hu, combined = hu[:, ::step, ::step], combined[:, ::step, ::step]
    x, y, z = geometry.spacing_mm
    geometry = replace(geometry, size_xyz=hu.shape[::-1], spacing_mm=(x * step, y * step, z))
    reach = [max(1, round(NEAR_MM / mm)) for mm in geometry.spacing_zyx]

    def near(mask: np.ndarray) -> np.ndarray:
        wide = mask.view(np.uint8)
        for axis, n in enumerate(reach):
            wide = ndimage.maximum_filter1d(wide, 2 * n + 1, axis, mode="constant")
        return wide.view(bool)

    inside = combined > 0
    body = inside & (hu > BODY_HU)  # arms that the mask has, apart from the trunk
    with contextlib.suppress(InputError):  # no tissue at all
        body |= body_from_ct(Volume(hu, geometry))
    checks = [_dice("body-agreement", body, inside, np.ones_like(inside), BODY_DICE, "the body without its table")]
    core = ndimage.binary_erosion(inside, border_value=1)
    hidden = ndimage.binary_dilation((combined > BODY) | (combined == VESSEL))
    lung = np.isin(combined, _LUNG)
    compared = core & ~hidden & ~np.isin(combined, _GAS) & near(lung)
    checks.append(_dice("lung-agreement", hu < LUNG_HU, lung, compared, LUNG_DICE, f"lung (HU < {LUNG_HU:g})"))
    bones = np.isin(combined, _BONES)
    dense = np.stack([ndimage.binary_fill_holes(slice_YX) for slice_YX in hu > BONE_HU])
    compared = core & ~hidden & ~np.isin(combined, (*_GAS, *_BRIGHT)) & near(bones)
    checks.append(_dice("bone-agreement", dense, bones, compared, BONE_DICE, f"bone (HU > {BONE_HU:g})"))
    return checks


def _dice(
    name: str, found: np.ndarray, wanted: np.ndarray, compared: np.ndarray, limit: float, what: str
) -> Check | None:
    found, wanted = found & compared, wanted & compared
    wanted_count = int(np.count_nonzero(wanted))
    if wanted_count < LEAST_VOXELS:
        return None
    value = 2 * int(np.count_nonzero(found & wanted)) / (int(np.count_nonzero(found)) + wanted_count)
    text = f"Dice of {what} against the mask is {value:.3f}, at least {limit:g}."
    return Check(name, round(value, 4), limit, value >= limit, text)


def _hallucination(hu: np.ndarray, twin_hu: np.ndarray, combined: np.ndarray, geometry: Geometry) -> list[Check]:
    """Mean absolute change against the healthy twin, in the body, away from the diseases."""
    from scipy import ndimage

    ill = combined > BODY
    far = ndimage.distance_transform_edt(~ill, sampling=geometry.spacing_zyx) > AROUND_MM if ill.any() else ~ill
    outside = far & (combined > 0)
    if not outside.any():
        return []
    change = float(np.abs(hu[outside] - twin_hu[outside]).mean(dtype=np.float64))
    text = f"More than {AROUND_MM:g} mm from the diseases the mean change against the healthy twin is {change:.1f} HU"
    return [_at_most("hallucination", change, CHANGE_HU, text)]


def _at_most(name: str, value: float, limit: float, text: str) -> Check:
    return Check(name, round(value, 4), limit, value <= limit, f"{text} (at most {limit:g}).")
