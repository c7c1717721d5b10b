"""One validator for label maps: every problem comes with its fix."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..geometry import AxisPlan, Geometry
from ..volume import LabelMap
from .body import has_envelope
from .tables import AIRWAY, BODY, DISEASES, LUNG_LOBES, MAP_OFFSET, ORGANS, TRACHEA, VESSEL, name_of, opposite

FIELD_MM = (200.0, 600.0)  # in-plane field of view of chest CT
LENGTH_MM = (100.0, 600.0)
PIXEL_MM = (0.3, 4.0)
SLICE_MM = (0.3, 6.0)
TILT_DEGREES = 15.0
NODULE = 161  # each is a finding of its own
CRUMBS = 0.05  # share of a wider disease that may lie in small pieces
CHEST = (*LUNG_LOBES, TRACHEA, AIRWAY, VESSEL)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something about a label map that a person should know.

    Attributes:
        code: a stable word for programs.
        severity: ``error`` (the result would be useless) or ``warning``.
        message: what is wrong, with numbers.
        fix: what to do.
    """

    code: str
    severity: str
    message: str
    fix: str

    def __str__(self) -> str:
        """Message and fix on one line."""
        return f"{self.message} {self.fix}"


def check(
    organs: LabelMap, diseases: LabelMap | None = None, *, latent_mm: tuple[float, float, float] | None = None
) -> list[Problem]:
    """Look for whatever would spoil a generated CT.

    Args:
        organs: organ ids.
        diseases: disease classes 150..162 on the same grid.
        latent_mm: size (Z, Y, X) of the codec's latent cell on this grid; lesions are measured against it.

    Returns:
        Problems, errors first.

    Raises:
        InputError: the grids differ.
    """
    if diseases is not None:
        diseases.geometry.assert_equal(organs.geometry, 1e-2, "the organ and the disease labels")
    found = _unknown(organs, diseases)
    found += _field(organs.geometry)
    if not np.any(organs.voxels):
        found.append(
            Problem("empty", "error", "The organ map is empty.", "Segment organs, or generate from a report alone.")
        )
    else:
        found += _body(organs)
        found += _sides(organs)
    if diseases is not None and np.any(diseases.voxels):
        found += _lesions(organs, diseases, latent_mm)
    return sorted(found, key=lambda problem: problem.severity)  # "error" < "warning"


def _unknown(organs: LabelMap, diseases: LabelMap | None) -> list[Problem]:
    found = []
    for value in np.unique(organs.voxels).tolist():
        if value == 0 or value in ORGANS:
            continue
        if value in DISEASES or value - MAP_OFFSET in DISEASES:
            fix = "Move it to the disease map (split() takes a combined map apart)."
        else:
            fix = "Convert the map from its own numbering (totalsegmentator, vista3d, btcv or a CSV file)."
        count = np.count_nonzero(organs.voxels == value)
        found.append(
            Problem("unknown-label", "error", f"Label {value} ({count} voxels) is no organ of the model.", fix)
        )
    for value in np.unique(diseases.voxels).tolist() if diseases is not None else []:
        if value and value not in DISEASES:
            found.append(
                Problem(
                    "unknown-disease",
                    "error",
                    f"Label {value} is no disease class; they are 150 to 162.",
                    "Give the segment a disease class in the label table.",
                )
            )
    return found


def _body(organs: LabelMap) -> list[Problem]:
    if has_envelope(organs):
        return []
    lacks = "is only a scrap" if np.any(organs.voxels == BODY) else "is missing"
    return [
        Problem(
            "no-body",
            "error",
            f"The body envelope (200) {lacks}: everything between the organs would become air.",
            "It is added by itself before a run; give the CT as reference for an exact one.",
        )
    ]


def _sides(organs: LabelMap) -> list[Problem]:
    """Compare centroids along L: of pairs, and of liver and spleen or heart."""
    plan = AxisPlan.to_lps(organs.geometry)
    step_mm = plan.reorder(organs.geometry.spacing_zyx)[2]
    labels = plan.apply(np.where(np.isin(organs.voxels, list(ORGANS)), organs.voxels, 0).astype(np.uint8))
    counts = np.zeros(256)
    sums = np.zeros(256)
    for column in range(labels.shape[2]):
        here = np.bincount(labels[:, :, column].ravel(), minlength=256)
        counts += here
        sums += here * column
    center = {value: sums[value] / counts[value] * step_mm for value in np.flatnonzero(counts).tolist()}
    swapped = []
    for left in (organ.index for organ in ORGANS.values() if organ.side == "left"):
        right = opposite(left)
        if right in center and left in center and center[left] < center[right] - 5:
            swapped.append(left)
    lobes = [(a, b) for a in (28, 29) for b in (30, 31, 32) if a in center and b in center]
    if lobes and all(center[a] < center[b] - 5 for a, b in lobes):
        swapped.append(28)
    found = []
    if swapped:
        names = ", ".join(name_of(value).removeprefix("left ") for value in swapped[:5])
        found.append(
            Problem(
                "swapped-sides",
                "error",
                f"Left lies right of right in {len(swapped)} pair(s): {names}.",
                "The labels or the image axes are mirrored: swap the labels, or correct the file's orientation.",
            )
        )
    elif 1 in center and any(other in center and center[1] > center[other] + 5 for other in (3, 12, 115)):
        found.append(
            Problem(
                "mirrored",
                "warning",
                "The liver lies left of the spleen, stomach or heart.",
                "Unless the patient has situs inversus, correct the file's orientation.",
            )
        )
    return found


def _field(geometry: Geometry) -> list[Problem]:
    plan = AxisPlan.to_lps(geometry)
    found = []
    strongest = np.abs(geometry.direction_matrix).max(axis=0).min()
    tilt = float(np.degrees(np.arccos(np.clip(strongest, 0, 1))))
    if tilt > TILT_DEGREES:
        found.append(
            Problem(
                "tilted",
                "warning",
                f"The grid is tilted by {tilt:.0f} degrees against the patient's axes; training data is not.",
                "Resample the labels to straight axial slices.",
            )
        )
    spacing = plan.reorder(geometry.spacing_zyx)
    size = [n * mm for n, mm in zip(plan.reorder(geometry.shape_zyx), spacing, strict=True)]
    for what, value, (low, high), fix in (
        ("in-plane field of view", min(size[1:]), FIELD_MM, "Pad or crop the map to a chest's field, 300 to 450 mm."),
        ("in-plane field of view", max(size[1:]), FIELD_MM, "Pad or crop the map to a chest's field, 300 to 450 mm."),
        ("length along the slices", size[0], LENGTH_MM, "Crop or extend the map to a chest, 250 to 400 mm."),
        ("pixel size", min(spacing[1:]), PIXEL_MM, "Resample to 0.6 to 3 mm pixels."),
        ("slice spacing", spacing[0], SLICE_MM, "Resample to 1 to 5 mm slices."),
    ):
        if not low <= value <= high and not (found and found[-1].message.startswith(f"The {what}")):
            found.append(
                Problem(
                    "field-of-view",
                    "warning",
                    f"The {what} is {value:.4g} mm; training data has {low:g} to {high:g} mm.",
                    fix,
                )
            )
    return found


def _lesions(organs: LabelMap, diseases: LabelMap, latent_mm: tuple[float, float, float] | None) -> list[Problem]:
    from scipy import ndimage

    found = []
    voxel = float(np.prod(organs.geometry.spacing_zyx))
    cell = float(np.prod(latent_mm)) if latent_mm else 0.0
    for value in [int(v) for v in np.unique(diseases.voxels) if v in DISEASES]:
        mask = diseases.voxels == value
        regions, count = ndimage.label(mask, np.ones((3, 3, 3)))
        sizes = np.bincount(regions.ravel())[1:] * voxel
        small = sizes[sizes < 2 * cell]
        if small.size and (value == NODULE or small.sum() > CRUMBS * sizes.sum()):
            found.append(
                Problem(
                    "small-lesion",
                    "warning",
                    f"{name_of(value)}: {small.size} of {count} region(s) are smaller than two latent cells "
                    f"({2 * cell:.0f} mm3; the smallest has {small.min():.0f} mm3) and may not appear.",
                    f"Enlarge them to {np.cbrt(12 * cell / np.pi):.0f} mm across, or generate at a finer spacing.",
                )
            )
        found += _place(organs, mask, value)
    return found


def _place(organs: LabelMap, mask: np.ndarray, value: int) -> list[Problem]:
    """Whether a disease lies where it can be."""
    from scipy import ndimage

    under = organs.voxels[mask]
    if not np.any(organs.voxels):
        return []
    air = float(np.mean(under == 0))
    if air > 0.2:
        return [
            Problem(
                "lesion-outside-body",
                "error",
                f"{name_of(value)}: {air:.0%} of it lies outside the body.",
                "Move the segment into the lung, or add a body segment (200).",
            )
        ]
    lungs = np.isin(organs.voxels, CHEST)
    if not lungs.any():
        return []
    reach = [max(1, round(10 / mm)) for mm in organs.geometry.spacing_zyx]  # pleura and hilum belong to it
    box = tuple(
        slice(max(0, int(w.min()) - r), int(w.max()) + r + 1) for w, r in zip(np.nonzero(mask), reach, strict=True)
    )
    near = (
        ndimage.distance_transform_edt(~lungs[box], sampling=organs.geometry.spacing_zyx) <= 10
        if lungs[box].any()
        else lungs[box]
    )
    outside = float(np.mean(~near[mask[box]]))
    if outside <= 0.5:
        return []
    return [
        Problem(
            "lesion-outside-lung",
            "warning",
            f"{name_of(value)}: {outside:.0%} of it lies more than 10 mm outside the lungs.",
            "The disease classes are of lung and pleura: move the segment, or give it an organ label.",
        )
    ]
