"""Does a volume show what its mask asks for, and nothing else? Its segmentation and its healthy twin tell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..labels import BODY, DISEASES, ORGANS, VESSEL, body_from_ct, name_of, paint
from ..labels.body import BODY_HU, has_envelope
from ..volume import LabelMap, Volume
from .base import Case, Context, Metric, Value
from .overlap import count, mean_value
from .segmenters import BONES, LUNG_HU, LUNGS, SEGMENTERS, dense, eps_phi, segment

AROUND_MM = 8.0  # a disease may move its surroundings this far away
NEAR_MM = 15.0
VOXELS = 16_000_000  # agreement is measured on at most so many voxels, every second or third in plane otherwise

_GAS = (11, 12, 13, 19, 62)  # esophagus to colon may hold gas or contrast
_BRIGHT = tuple(  # may hold contrast or calcification above 200 HU, beside the bowel
    [o.index for o in ORGANS.values() if o.group in ("vessel", "heart", "kidney", "lung_vessel")] + [15, 114]
)


def threshold_agreement(
    hu: np.ndarray, combined: np.ndarray, geometry: Geometry
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Set body, lungs and bones by threshold beside those of a mask, where density can tell them.

    Lungs and bones are compared up to 15 mm from their labels, for masks seldom label every bone and every loop of
    bowel. Left out are diseases and lung vessels with their rim (they hide lung), gas and contrast in bowel, and
    contrast in vessels, heart and kidneys.

    Args:
        hu: (Z, Y, X).
        combined: (Z, Y, X) organ ids with diseases painted as 250..262, and the body (200) behind them.
        geometry: of both.

    Yields:
        ``body``, ``lungs`` or ``bones``; where the volume has it and where the mask has it, (Z, Y', X') bool.
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
    yield "body", body, inside
    core = ndimage.binary_erosion(inside, border_value=1)
    core &= ~ndimage.binary_dilation((combined > BODY) | (combined == VESSEL))
    core &= ~np.isin(combined, _GAS)
    lungs = np.isin(combined, LUNGS)
    compared = core & near(lungs)
    yield "lungs", (hu < LUNG_HU) & compared, lungs & compared
    bones = np.isin(combined, BONES)
    compared = core & ~np.isin(combined, _BRIGHT) & near(bones)
    yield "bones", dense(hu) & compared, bones & compared


def off_target_change(
    hu: np.ndarray, twin_hu: np.ndarray, combined: np.ndarray, geometry: Geometry
) -> tuple[float, int | None]:
    """Mean absolute change against the healthy twin, in the body, more than 8 mm away from the diseases.

    Args:
        hu, twin_hu: (Z, Y, X).
        combined: (Z, Y, X) organ ids with diseases painted as 250..262.
        geometry: of all.

    Returns:
        HU (nan when nothing lies that far away), and the slice where the change is largest.
    """
    from scipy import ndimage

    ill = combined > BODY
    far = ndimage.distance_transform_edt(~ill, sampling=geometry.spacing_zyx) > AROUND_MM if ill.any() else ~ill
    outside = far & (combined > 0)
    voxels = outside.sum((1, 2))
    if not voxels.any():
        return float("nan"), None
    change = np.array([np.abs(a[w] - b[w]).sum(dtype=np.float64) for a, b, w in zip(hu, twin_hu, outside, strict=True)])
    return float(change.sum() / voxels.sum()), int((change / np.maximum(voxels, 1)).argmax())


# --- metrics ---------------------------------------------------------------------------------------------------------


def mask_overlap(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """Dice and Jaccard of a segmentation of the volume against the mask that it was made from."""
    assert case.labels is not None
    segmenter = str(context.options["segmenter"])
    if segmenter == "threshold":
        rows = _agreement_counts(case)
    else:
        known = SEGMENTERS[segmenter].labels
        asked = np.where(np.isin(case.labels.voxels, known), case.labels.voxels, 0)
        test = segment(case.test, segmenter, context.device)
        found = count(LabelMap(asked, case.labels.geometry), test)
        sums = zip(found.reference.sum(1), found.test.sum(1), found.both.sum(1), strict=True)
        rows = [
            (name_of(int(label)), int(a), int(b), int(both), worst)
            for label, (a, b, both), worst in zip(found.labels, sums, found.worst_slices, strict=True)
            if a  # organs that the mask does not have may well be there
        ]
    values = []
    for name in sorted(names):
        each = [
            Value(name, 2 * both / (a + b) if name == "mask_dice" else both / (a + b - both), region, worst)
            for region, a, b, both, worst in rows
        ]
        total = mean_value(name, each, float("nan"))
        note = f"by {segmenter}" if each else f"the mask has nothing that {segmenter} segments"
        values += [*each, replace(total, note=note)]
    return values


def _agreement_counts(case: Case) -> list[tuple[str, int, int, int, int | None]]:
    """Region, voxels in mask, in volume and in both, worst slice: of :func:`threshold_agreement`."""
    assert case.labels is not None
    rows = []
    combined = _combined(case)
    for region, found, wanted in threshold_agreement(case.test.voxels, combined, case.test.geometry):
        if not wanted.any() or (region == "body" and not has_envelope(case.labels)):
            continue
        wrong = (found ^ wanted).sum((1, 2))
        a, b, both = (int(np.count_nonzero(mask)) for mask in (wanted, found, found & wanted))
        rows.append((region, a, b, both, int(wrong.argmax()) if wrong.any() else None))
    return rows


def stability(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """Instability of segmentations between a volume and its reference, by region and as their mean."""
    assert case.reference is not None
    segmenter = str(context.options["segmenter"])
    tolerance = float(cast(float, context.options["tolerance_mm"]))
    original, other = (segment(volume, segmenter, context.device) for volume in (case.reference, case.test))
    regions = {**original.names, **other.names}
    values = [
        Value("eps_phi", value, regions.get(label) or name_of(label))
        for label, value in eps_phi(original, other, tolerance).items()
    ]
    total = mean_value("eps_phi", values, float("nan"))
    note = f"by {segmenter}, tolerance {tolerance:g} mm" if values else f"{segmenter} finds nothing in either"
    return [*values, replace(total, note=note)]


def against_twin(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """What the diseases changed, inside their masks and far away from them."""
    assert case.diseases is not None
    assert case.twin is not None
    values = []
    if "hallucination_hu" in names:
        change, worst = off_target_change(case.test.voxels, case.twin.voxels, _combined(case), case.test.geometry)
        note = f"nothing lies more than {AROUND_MM:g} mm from the diseases" if np.isnan(change) else ""
        values.append(Value("hallucination_hu", change, slice=worst, note=note))
    if "effect_hu" in names:
        values += _effects(case.test, case.twin, case.diseases)
    return values


def _effects(test: Volume, twin: Volume, diseases: LabelMap) -> list[Value]:
    values, total, voxels = [], 0.0, 0
    for index, disease in DISEASES.items():
        mask = diseases.voxels == index
        if not mask.any():
            continue
        shift = float((test.voxels[mask] - twin.voxels[mask]).mean(dtype=np.float64))
        note = "" if disease.direction else "may go either way: absolute value"
        shift = shift * disease.direction if disease.direction else abs(shift)
        values.append(Value("effect_hu", shift, disease.name, int(mask.sum((1, 2)).argmax()), note))
        total, voxels = total + shift * int(mask.sum()), voxels + int(mask.sum())
    whole = Value("effect_hu", total / voxels) if voxels else Value("effect_hu", float("nan"), note="no disease")
    return [*values, whole]


def _combined(case: Case) -> np.ndarray:
    """Organ ids with diseases painted as 250..262, (Z, Y, X)."""
    assert case.labels is not None
    return paint(case.labels, case.diseases) if case.diseases is not None else case.labels.voxels


_MASK = (
    "Foundation VAE, Table 3 (there by VISTA3D and TotalSegmentator), of the mask's organs that the "
    "option segmenter knows. By threshold: body, lungs and bones as the quality gate of generation compares them."
)
METRICS = (
    Metric(
        name="mask_dice",
        title="Dice with the mask",
        better="higher",
        needs=("labels",),
        function="adherence:mask_overlap",
        source=_MASK,
    ),
    Metric(
        name="mask_iou",
        title="IoU with the mask",
        better="higher",
        needs=("labels",),
        function="adherence:mask_overlap",
        source=_MASK,
    ),
    Metric(
        name="eps_phi",
        title="Instability of segmentation",
        better="lower",
        needs=("reference",),
        function="adherence:stability",
        source=(
            "Foundation VAE, appendix B.1, eq. 23 to 26: 1 - (Dice + NSD) / 2 between the option segmenter's answers; "
            "the mean over cases is eps_phi. NSD is that of the metric nsd (both surfaces, by area), not eq. 25's "
            "share of one surface. A region in one answer only: 1."
        ),
    ),
    Metric(
        name="hallucination_hu",
        title="Change away from the disease",
        unit="HU",
        better="lower",
        needs=("labels", "diseases", "twin"),
        function="adherence:against_twin",
        source=(
            "CTGen: mean absolute difference to the healthy twin of the same seed, in the body, more than "
            f"{AROUND_MM:g} mm from the disease masks; the quality gate's number."
        ),
    ),
    Metric(
        name="effect_hu",
        title="Effect of the disease",
        unit="HU",
        better="higher",
        needs=("diseases", "twin"),
        function="adherence:against_twin",
        source=(
            "CTGen: mean difference to the healthy twin in each disease mask, positive where it goes the way that the "
            "disease goes (denser, or less dense for emphysema and pneumothorax); all: mean over diseased voxels."
        ),
    ),
)
