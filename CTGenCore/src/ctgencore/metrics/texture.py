"""What smoothing does to a CT: its noise texture, and where the borders of organs lie."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ..labels import BODY, body_from_ct, name_of
from ..volume import LabelMap, Volume
from .base import Case, Context, Metric, Value
from .voxel import BONE_ABOVE_HU, LUNG_BELOW_HU, worst_slice

PATCH_MM, LEAST_PIXELS, LEAST_PATCHES = 16.0, 12, 10
SMOOTH_MM = 2.0  # what varies more slowly is anatomy when patches are chosen
TISSUES = {  # HU of the smoothed reference, and how much it may vary (standard deviation) within a patch
    "soft tissue": (-150.0, 200.0, 10.0),
    "lung": (-960.0, -600.0, 30.0),  # small vessels and parenchyma count as texture
}
ROUNDING_HU2 = 1 / 12  # variance that rounding to whole HU adds

POINTS = 2000  # per organ at most
NORMAL_MM = 2.0  # sigma of the Gaussian whose gradient is the border's normal
HALF_MM = 2.0  # an edge is sought this far from the label's border; coarse voxels stretch it
STEPS = 49  # samples of a profile, which reaches three times as far
CONTRAST_HU = 100.0  # a border with less is no edge; a test with less than half of the reference's has lost it
LEAST_BORDERS = 20  # for an organ to count


# --- noise power spectrum --------------------------------------------------------------------------------------------


def noise_power(patches: np.ndarray, spacing_yx: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Noise power spectrum of patches (ICRU Report 87), each less its plane and under a Hann window.

    Args:
        patches: (n, height, width) HU.
        spacing_yx: mm.

    Returns:
        Frequencies (height, width) in cycles/mm, distance from zero; power (height, width) in HU^2 mm^2. White noise of
        variance v has v times the pixel's area everywhere.
    """
    height, width = patches.shape[1:]
    rest = patches - patches.mean((1, 2), keepdims=True)
    for axis, n in ((1, height), (2, width)):
        ramp = np.expand_dims(np.arange(n) - (n - 1) / 2, 2 - axis)
        slope = (rest * ramp).sum((1, 2), keepdims=True) / np.broadcast_to(ramp**2, (height, width)).sum()
        rest = rest - slope * ramp
    taper = np.outer(*(np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (height, width)))
    power = np.square(np.abs(np.fft.fft2(rest * taper))).mean(0) * math.prod(spacing_yx) / np.square(taper).sum()
    return np.hypot(*np.meshgrid(*map(np.fft.fftfreq, (height, width), spacing_yx), indexing="ij")), power


def homogeneous_patches(test: Volume, reference: Volume) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Patches of slices, 16 mm wide (12 pixels at least), where the reference is soft tissue or lung of even density.

    Returns:
        Tissue to patches of test and reference, both (n, height, width) float32.

    Raises:
        InputError: nothing in the reference is a body.
    """
    spacing = reference.geometry.spacing_zyx[1:]
    body = body_from_ct(reference)
    size = [max(round(PATCH_MM / mm), LEAST_PIXELS) for mm in spacing]
    found: dict[str, list[list[np.ndarray]]] = {tissue: [[], []] for tissue in TISSUES}
    for z, hu in enumerate(reference.voxels):
        if not body[z].any():
            continue
        smooth = _tiles(ndimage.gaussian_filter(hu, [SMOOTH_MM / mm for mm in spacing]), size)
        inside = _tiles(body[z], size).all((1, 2))
        low, high, spread = smooth.min((1, 2)), smooth.max((1, 2)), smooth.std((1, 2))
        for tissue, (lo, hi, limit) in TISSUES.items():
            picks = inside & (low > lo) & (high < hi) & (spread < limit)
            for side, voxels in zip(found[tissue], (test.voxels[z], hu), strict=True):
                side.append(_tiles(voxels, size)[picks])
    return {
        tissue: (np.concatenate(ours), np.concatenate(theirs))
        for tissue, (ours, theirs) in found.items()
        if sum(map(len, theirs)) >= LEAST_PATCHES
    }


def _tiles(image: np.ndarray, size: list[int]) -> np.ndarray:
    """(n, height, width) of those that fit into the image, edge to edge."""
    rows, columns = (n // step for n, step in zip(image.shape, size, strict=True))
    cut = image[: rows * size[0], : columns * size[1]]
    return cut.reshape(rows, size[0], columns, size[1]).swapaxes(1, 2).reshape(-1, *size)


def measure_noise(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """``nps_ratio``: headline, then high and low band of each tissue that has patches."""
    assert case.reference is not None
    metric, (dy, dx) = "nps_ratio", case.reference.geometry.spacing_zyx[1:]
    nyquist = 0.5 / max(dy, dx)
    values = []
    high = []
    for tissue, sides in homogeneous_patches(case.test, case.reference).items():
        frequency, ours = noise_power(sides[0], (dy, dx))
        _, theirs = noise_power(sides[1], (dy, dx))
        height, width = ours.shape
        low_end = 2 / min(height * dy, width * dx)
        for band, lo, hi in (("high", nyquist / 2, nyquist), ("low", low_end, nyquist / 2)):
            where = (frequency >= lo) & (frequency <= hi)
            mine, base = float(ours[where].mean()), float(theirs[where].mean())
            note = f"{lo:.2f} to {hi:.2f} cycles/mm, {len(sides[0])} patches"
            if base < ROUNDING_HU2 * dy * dx:
                note, ratio = f"{note}; the reference has no noise there beyond rounding", math.nan
            else:
                ratio = mine / base
            values.append(Value(metric, ratio, region=f"{tissue}, {band} band", note=note))
            if band == "high" and not math.isnan(ratio):
                high.append(ratio)
    note = "" if high else "no patch of even density with noise in soft tissue or lung of the reference"
    headline = math.prod(high) ** (1 / len(high)) if high else math.nan
    return [Value(metric, headline, note=note), *values]


# --- edge shift ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Region:
    """Where ``array == value``; the box holds all of it."""

    name: str
    array: np.ndarray
    value: int
    box: tuple[slice, ...]

    @staticmethod
    def of(name: str, mask: np.ndarray) -> Region:
        """From a mask (Z, Y, X) bool; an empty one is a region without borders."""
        boxes = ndimage.find_objects(mask.view(np.uint8))
        return Region(name, mask, 1, boxes[0] if boxes else (slice(0, 0),) * 3)


@dataclass(frozen=True, slots=True)
class Shifts:
    """How borders moved.

    Attributes:
        mm: (n,), positive where the region has grown.
        slices: (n,), index along Z of each.
        lost: borders of the reference that the test does not have.
    """

    mm: np.ndarray
    slices: np.ndarray
    lost: int


def label_regions(labels: LabelMap) -> Iterator[Region]:
    """Organs of a label map; the body is everything that has a label."""
    for index, box in enumerate(ndimage.find_objects(labels.voxels), start=1):
        if box is not None and index == BODY:
            yield Region.of(name_of(BODY), labels.voxels > 0)
        elif box is not None:
            yield Region(name_of(index), labels.voxels, index, box)


def threshold_regions(reference: Volume) -> Iterator[Region]:
    """Body, lung (and other gas inside the body) and bone by their HU.

    Raises:
        InputError: nothing in it is a body.
    """
    body = body_from_ct(reference)
    yield Region.of("body", body)
    yield Region.of("lung", body & (reference.voxels < LUNG_BELOW_HU))
    yield Region.of("bone", body & (reference.voxels > BONE_ABOVE_HU))


def edge_shifts(test: Volume, reference: Volume, region: Region, seed: int = 0) -> Shifts:
    """Move of a region's borders along their normals, from where profiles cross the middle between their two ends.

    Each volume's own ends are used, so neither an offset nor a gain in HU is taken for a shift.

    Args:
        test, reference: of equal grid.
        region: on that grid.
        seed: picks the borders when there are more than 2000.
    """
    spacing = np.array(reference.geometry.spacing_zyx)
    points = _border(region, seed)
    normals = _normals(region, points, spacing)
    half = np.maximum(HALF_MM, np.abs(normals) @ spacing)  # mm
    u = np.linspace(-3, 3, STEPS)
    at = points[:, None] + (u[:, None] * half[:, None, None]) * (normals / spacing)[:, None]
    inside = ((at >= 0) & (at <= np.array(reference.shape) - 1)).all((1, 2))  # false where the normal is nan
    at, half, points = at[inside].reshape(-1, 3).T, half[inside], points[inside]
    hu, other = (
        ndimage.map_coordinates(v.voxels, at, np.float64, order=1).reshape(-1, STEPS) for v in (reference, test)
    )
    near, step = _edge(hu, u, np.zeros(len(hu)), np.zeros(len(hu)))
    (here, contrast), (there, left) = (_edge(side, u, near, np.sign(step)) for side in (hu, other))  # alike
    edge = (np.abs(contrast) >= CONTRAST_HU) & (np.abs(here) <= 1)
    kept = edge & (left * np.sign(contrast) >= np.abs(contrast) / 2) & (np.abs(there - here) <= 1)
    return Shifts(((there - here) * half)[kept], points[kept, 0], int(edge.sum() - kept.sum()))


def _edge(hu: np.ndarray, u: np.ndarray, near: np.ndarray, sign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Position along profiles (n, steps) of the edge nearest to ``near``, nan without one; step inward minus outward.

    The two ends are 1 to 2 units from the edge, so they are found again whenever the edge has moved. The step's sign
    is as given, or (0) that of the profile.
    """
    at = near
    for _ in range(3):
        distance = u - np.clip(np.nan_to_num(at), -1.5, 1.5)[:, None]
        inner, outer = (np.mean(hu, 1, where=(side >= 1) & (side <= 2)) for side in (-distance, distance))
        step = inner - outer
        fall = (hu - (inner + outer)[:, None] / 2) * np.where(sign == 0, np.sign(step), sign)[:, None]
        at = _crossing(fall, u, near)
    return at, step


def _border(region: Region, seed: int) -> np.ndarray:
    """Voxels of the region with a neighbor outside it, at most 2000 of them, (n, 3)."""
    box = tuple(slice(max(side.start - 1, 0), side.stop + 1) for side in region.box)
    mask = region.array[box] == region.value
    border = np.zeros_like(mask)
    for axis in range(3):
        this, following = [slice(None)] * 3, [slice(None)] * 3
        this[axis], following[axis] = slice(-1), slice(1, None)
        differs = mask[tuple(this)] != mask[tuple(following)]
        border[tuple(this)] |= differs
        border[tuple(following)] |= differs
    found = np.flatnonzero(border & mask)
    if len(found) > POINTS:
        found = np.sort(np.random.default_rng(seed).choice(found, POINTS, replace=False))
    return np.stack(np.unravel_index(found, mask.shape), 1) + [side.start for side in box]


def _normals(region: Region, points: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Unit vectors (n, 3) in mm that point outward: minus the mask's gradient under a Gaussian; nan where it is 0."""
    sigma = max(NORMAL_MM, 0.75 * spacing.max())
    step = np.maximum(1, (sigma / 2 // spacing).astype(int))
    reach = (2 * sigma // (spacing * step)).astype(int)
    grid = np.stack(np.meshgrid(*(np.arange(-r, r + 1) * s for r, s in zip(reach, step, strict=True))), -1)
    offsets = grid.reshape(-1, 3)
    mm = offsets * spacing
    weights = np.exp(-0.5 * np.square(mm).sum(1) / sigma**2)
    at = np.clip(points[:, None] + offsets, 0, np.array(region.array.shape) - 1)
    inside = region.array[tuple(np.moveaxis(at, -1, 0))] == region.value
    normals = -(inside @ (weights[:, None] * mm))
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    return np.divide(normals, length, out=np.full_like(normals, np.nan), where=length > 1e-6)


def _crossing(profiles: np.ndarray, u: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Where each profile (n, steps) falls through 0, the place nearest to ``near``; nan where it does not."""
    left, right = profiles[:, :-1], profiles[:, 1:]
    falls = (left > 0) & (right <= 0)
    at = u[:-1] + np.diff(u) * np.divide(left, left - right, out=np.zeros_like(left), where=falls)
    distance = np.where(falls, np.abs(at - near[:, None]), np.inf)
    best = distance.argmin(1)[:, None]
    found = np.take_along_axis(at, best, 1)[:, 0]
    return np.where(np.isfinite(np.take_along_axis(distance, best, 1)[:, 0]), found, np.nan)


def measure_edges(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """``edge_shift_mm`` and ``edge_bias_mm`` of every region whose borders are edges, and the mean of all regions."""
    assert case.reference is not None
    regions = label_regions(case.labels) if case.labels is not None else threshold_regions(case.reference)
    values = edge_values(case.test, case.reference, regions, context.seed)
    return [value for value in values if value.metric in names]


def edge_values(test: Volume, reference: Volume, regions: Iterable[Region], seed: int = 0) -> list[Value]:
    """``edge_shift_mm`` and ``edge_bias_mm`` of all regions (their mean), then of each; see :func:`edge_shifts`."""
    values, rows, skipped = [], [], []
    for region in regions:
        shifts = edge_shifts(test, reference, region, seed)
        count = len(shifts.mm) + shifts.lost
        if count < LEAST_BORDERS:
            skipped.append(region.name)
            continue
        sizes = np.abs(shifts.mm)
        means = (float(sizes.mean()), float(shifts.mm.mean())) if len(sizes) else (math.nan, math.nan)
        if len(sizes):
            rows.append(means)
        worst = worst_slice(np.bincount(shifts.slices, sizes))
        note = f"{count} borders" + (f", {shifts.lost} of them lost" if shifts.lost else "")
        values += [Value(name, mean, region.name, worst, note) for name, mean in zip(_EDGES, means, strict=True)]
    note = f"no edge of {CONTRAST_HU:g} HU: {', '.join(skipped)}" if skipped else "" if rows else "no labels"
    overall = np.mean(rows, axis=0).tolist() if rows else (math.nan, math.nan)
    return [*(Value(name, mean, note=note) for name, mean in zip(_EDGES, overall, strict=True)), *values]


_EDGES = ("edge_shift_mm", "edge_bias_mm")
_EDGE = (
    "Ours: HU along the normal of up to 2000 borders of each organ of the labels, or of body, lung and bone by "
    "threshold; an edge lies where it crosses the middle between the levels on both sides, each volume's own. A border "
    "of less than 100 HU is no edge; one that fades below half of that of the reference, or moves by more than 2 mm (a "
    "voxel if that is more), is lost: counted, not averaged. 'all' is the mean of the organs."
)
METRICS = (
    Metric(
        name="nps_ratio",
        title="Noise power, test over reference",
        needs=("reference",),
        function="texture:measure_noise",
        source="Ours, after ICRU Report 87: power spectra of patches of slices, 16 mm wide (12 pixels at least), where "
        "the reference is soft tissue or lung of even density; ratio of their radial means from half the Nyquist "
        "frequency to all of it (high band), and from two periods per patch to half of it (low band). 1 keeps the "
        "texture, less is smoothing. 'all' is the geometric mean of both tissues' high bands.",
    ),
    Metric(
        name="edge_shift_mm",
        title="Edge shift",
        unit="mm",
        better="lower",
        needs=("reference",),
        function="texture:measure_edges",
        source=f"{_EDGE} Mean size of the shift; noise alone adds to it.",
    ),
    Metric(
        name="edge_bias_mm",
        title="Edge shift outward",
        unit="mm",
        better="zero",
        needs=("reference",),
        function="texture:measure_edges",
        source=f"{_EDGE} Mean of the shift, positive where the organ has grown.",
    ),
)
