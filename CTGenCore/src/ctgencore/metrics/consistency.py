"""Do the slices of a volume belong together (VBench's rows for CT), and are the volumes of a set different ones?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..geometry import Geometry
from ..intensity import WINDOWS, Window
from ..labels import body_from_ct
from ..volume import Volume
from .base import Case, Context, Metric, Value
from .voxel import GREY, worst_slice

EDGE = 256  # pixels; TRACE measures at 256x256
AIR_HU = -1000.0
LEAST_OUTSIDE = 0.01  # share of the field; less is no background

LEAST_LEVEL = 16  # pixels of the coarsest level of the flow's pyramid
ROUNDS = 3  # per level
AROUND = 9  # pixels that are taken to move alike
NOISE = 2.0  # grey levels per pixel: gradients below it move nothing

REFERENCE = "reference"  # region of the same number of real CT
QUANTILE = 0.05
LISTED = 10


# --- slices ----------------------------------------------------------------------------------------------------------


def frames(volume: Volume, window: Window, keep: np.ndarray | None = None) -> np.ndarray:
    """Slices in HU, clipped to the window, averaged over blocks of pixels so that no side is longer than 256.

    Args:
        volume: of any size.
        window: HU.
        keep: (Z, Y, X) bool; everything else becomes air.

    Returns:
        (Z, y, x) float32.
    """
    n = block(volume)
    rows, columns = (size // n for size in volume.shape[1:])
    result = np.empty((volume.shape[0], rows, columns), np.float32)
    for z, hu in enumerate(volume.voxels):
        hu = (hu if keep is None else np.where(keep[z], hu, AIR_HU)).clip(window.lo, window.hi)
        result[z] = hu[: rows * n, : columns * n].reshape(rows, n, columns, n).mean((1, 3))
    return result


def block(volume: Volume) -> int:
    """Width in pixels of the blocks that :func:`frames` averages."""
    return math.ceil(max(volume.shape[1:]) / EDGE)


def flicker(grey: np.ndarray) -> np.ndarray:
    """Mean absolute difference between each slice (Z, Y, X) and the one before, (Z - 1,)."""
    return np.array([np.abs(after - before).mean() for before, after in pairwise(grey)])


def interpolation_errors(grey: np.ndarray) -> np.ndarray:
    """Mean absolute error with which the slices 1, 3, 5, ... are foretold from their neighbors.

    Args:
        grey: (Z, Y, X), 0..255.

    Returns:
        One number per odd slice that has two neighbors.
    """
    errors = []
    for z in range(1, len(grey) - 1, 2):
        motion = flow(grey[z - 1], grey[z + 1])
        foretold = (_moved(grey[z - 1], -motion / 2) + _moved(grey[z + 1], motion / 2)) / 2
        errors.append(np.abs(foretold - grey[z]).mean())
    return np.array(errors)


def flow(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Optical flow by Lucas and Kanade's method, coarse to fine and symmetric: ``before(x - v/2) = after(x + v/2)``.

    Covariances within 9x9 pixels take the place of their products, so that a neighborhood that brightens as a whole
    does not seem to move.

    Args:
        before, after: (Y, X), 0..255.

    Returns:
        v in pixels, (2, Y, X) along y and x.
    """
    levels = [(before, after)]
    while min(levels[-1][0].shape) >= 2 * LEAST_LEVEL:
        levels.append(tuple(ndimage.gaussian_filter(image, 1.0)[::2, ::2] for image in levels[-1]))
    v = np.zeros((2, *levels[-1][0].shape), np.float32)
    for one, other in reversed(levels):
        if v.shape[1:] != one.shape:
            at = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) / 2 for n in one.shape), indexing="ij"))
            v = 2 * np.stack([ndimage.map_coordinates(side, at, order=1, mode="nearest") for side in v])
        for _ in range(ROUNDS):
            v += _step(_moved(one, -v / 2), _moved(other, v / 2))
            v = ndimage.uniform_filter(v, (0, 3, 3))
    return v


def _step(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """One step of the flow, at most a pixel."""

    def mean(image: np.ndarray) -> np.ndarray:
        return ndimage.uniform_filter(image, AROUND)

    change = other - one
    dy, dx = np.gradient((one + other) / 2)
    my, mx, mc = mean(dy), mean(dx), mean(change)
    yy, xx, xy = mean(dy * dy) - my * my + NOISE**2, mean(dx * dx) - mx * mx + NOISE**2, mean(dy * dx) - my * mx
    yc, xc = mean(dy * change) - my * mc, mean(dx * change) - mx * mc
    determinant = yy * xx - xy * xy
    step = np.stack([xy * xc - xx * yc, xy * yc - yy * xc]) / determinant
    return step.clip(-1, 1)


def _moved(image: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The image at x + v."""
    at = np.indices(image.shape, np.float32) + v
    return ndimage.map_coordinates(image, at, order=1, mode="nearest")


def _sides(case: Case) -> list[tuple[str, Volume]]:
    return [("all", case.test)] + ([(REFERENCE, case.reference)] if case.reference is not None else [])


def _score(name: str, losses: np.ndarray, slices: np.ndarray, region: str, note: str, least: int) -> Value:
    """100 % less the mean loss; ``least`` slices are needed."""
    if not len(losses):
        return Value(name, math.nan, region, note=f"needs {least} slices")
    worst = worst_slice(losses)
    return Value(name, 100 * (1 - float(losses.mean())), region, None if worst is None else int(slices[worst]), note)


def measure_motion(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """``temporal_flicker`` and ``motion_smoothness`` of the test, and of the reference if there is one."""
    window = Window.parse(context.options.get("window", "wide"))  # type: ignore[arg-type]
    values = []
    for region, volume in _sides(case):
        grey = (frames(volume, window) - np.float32(window.lo)) * np.float32(GREY / (window.hi - window.lo))
        note = f"slices {volume.geometry.spacing_zyx[0]:g} mm apart"
        z = np.arange(volume.shape[0])
        if "temporal_flicker" in names:
            values.append(_score("temporal_flicker", flicker(grey) / GREY, z[1:], region, note, 2))
        if "motion_smoothness" in names:
            losses = interpolation_errors(grey) / GREY
            values.append(_score("motion_smoothness", losses, z[1:-1:2], region, note, 3))
    return values


def similarities(features: np.ndarray) -> np.ndarray:
    """Mean of the cosines to the first slice and to the one before, negative ones as 0.

    Args:
        features: (Z, size).

    Returns:
        (Z - 1,), of the slices 1, 2, ...
    """
    unit = _unit(features)
    to_first, to_last = unit[1:] @ unit[0], (unit[1:] * unit[:-1]).sum(1)
    return (np.maximum(to_first, 0) + np.maximum(to_last, 0)) / 2


def measure_features(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """``subject_consistency`` and ``background_consistency`` of the test, and of the reference if there is one."""
    values = []
    for region, volume in _sides(case):
        try:
            body = body_from_ct(volume)
        except InputError as error:
            values += [Value(name, math.nan, region, note=str(error)) for name in sorted(names)]
            continue
        outside = 1 - float(body.mean())
        for name in sorted(names):
            subject = name == "subject_consistency"
            if not subject and outside < LEAST_OUTSIDE:
                values.append(Value(name, math.nan, region, note="the body fills the field: there is no background"))
                continue
            losses = 1 - similarities(context.features("embedded_slices", _masked(volume, body if subject else ~body)))
            note = f"the body is {1 - outside:.0%} of the field"
            values.append(_score(name, losses, np.arange(1, volume.shape[0]), region, note, 2))
    return values


def _masked(volume: Volume, keep: np.ndarray) -> Volume:
    """The volume's frames with air elsewhere."""
    hu, n = frames(volume, WINDOWS["wide"], keep), block(volume)
    dx, dy, dz = volume.geometry.spacing_mm
    return Volume(hu, Geometry(hu.shape[::-1], (dx * n, dy * n, dz)))


# --- sets ------------------------------------------------------------------------------------------------------------


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows of length 1, float64."""
    rows = np.asarray(rows, np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def distances(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> np.ndarray:
    """1 - cosine between the features of all pairs of volumes, (len(one), len(other))."""
    a, b = (_unit(np.stack([np.ravel(array) for array in side])) for side in (one, other))
    return 1 - a @ b.T


def measure_diversity(
    test: list[np.ndarray], reference: list[np.ndarray], names: frozenset[str], context: Context
) -> list[Value]:
    """``diversity`` of the test set, and of the reference set if there is one."""
    values = []
    for region, volumes in (("all", test), (REFERENCE, reference)):
        if len(volumes) > 1:
            apart = distances(volumes, volumes)[np.triu_indices(len(volumes), 1)]
            values.append(Value("diversity", float(apart.mean()), region, note=f"{len(volumes)} volumes"))
        elif region == "all":
            values.append(Value("diversity", math.nan, region, note="needs two volumes"))
    return values


def measure_duplicates(
    test: list[np.ndarray], reference: list[np.ndarray], names: frozenset[str], context: Context
) -> list[Value]:
    """``near_duplicate`` and ``nearest_reference``.

    Raises:
        InputError: one of the sets is empty.
    """
    if not test or not reference:
        raise InputError(f"Near duplicates need volumes in both sets; got {len(test)} and {len(reference)}. Give both.")
    between = distances(test, reference)
    nearest, which = between.min(1), between.argmin(1)
    known = {_digest(array) for array in reference}
    same = np.array([_digest(array) in known for array in test])
    note = f"{len(test)} volumes against {len(reference)}"
    values = [
        Value("near_duplicate", 100 * float(same.mean()), "identical", note=_listed(same, which, nearest)),
        Value("nearest_reference", float(np.median(nearest)), note=note),
    ]
    if len(reference) < 2:
        return [Value("near_duplicate", math.nan, note="needs two references, to know how far they are apart"), *values]
    within = distances(reference, reference)
    np.fill_diagonal(within, np.inf)
    threshold = float(np.quantile(within.min(1), QUANTILE))
    near = same | (nearest < threshold)
    note = f"nearer than {threshold:.3g}, as {QUANTILE:.0%} of the references are to another"
    pairs = _listed(near, which, nearest)
    return [
        Value("near_duplicate", 100 * float(near.mean()), note=f"{note}; {pairs}" if pairs else note),
        *values,
        Value("nearest_reference", float(np.median(within.min(1))), REFERENCE, note="each against all others"),
    ]


def _digest(array: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()


def _listed(found: np.ndarray, which: np.ndarray, nearest: np.ndarray) -> str:
    """The first few pairs, counted from 0 in the order of the sets."""
    picks = np.flatnonzero(found)
    pairs = [f"test {i} is like reference {which[i]} ({nearest[i]:.2g})" for i in picks[:LISTED].tolist()]
    return ", ".join(pairs) + (", ..." if len(picks) > LISTED else "")


# --- rows ------------------------------------------------------------------------------------------------------------

_FRAMES = (
    "[-1000, 1000] HU (or the window asked for) as 0..255, blocks of pixels averaged so that no side exceeds 256, as "
    "TRACE's slices. Depends on the slice spacing: compare with the reference's own number (region 'reference'). "
)
_COSINES = (
    "VBench's formula, TRACE's table 1: per slice the mean of the cosines to the first and to the previous one, "
    "negative ones as 0. Features are the packaged codec's, where VBench has {network}; "
)
_DISTANCE = "1 - cosine between the embedded_planes features (xy, yz and zx, 48 slices each, in order) of two volumes. "


def _slices(name: str, title: str, function: Callable[..., list[Value]], source: str) -> Metric:
    return Metric(
        name=name,
        title=title,
        unit="%",
        better="higher",
        function=f"consistency:{function.__name__}",
        extractor="embedded_slices" if function is measure_features else "",
        source=source,
    )


METRICS = (
    _slices(
        "temporal_flicker",
        "Temporal flicker",
        measure_motion,
        "VBench's temporal flickering, TRACE's table 1: 100 % less the mean absolute difference of neighboring slices. "
        f"{_FRAMES}Repeated slices score 100.",
    ),
    _slices(
        "motion_smoothness",
        "Motion smoothness",
        measure_motion,
        "VBench's motion smoothness, TRACE's table 1: 100 % less the mean absolute error with which every second slice "
        "is foretold from its two neighbors. Where VBench has a network for that (AMT), ours averages both, each moved "
        f"half of their optical flow (Lucas and Kanade, symmetric, in a pyramid). {_FRAMES}",
    ),
    _slices(
        "subject_consistency",
        "Subject consistency",
        measure_features,
        _COSINES.format(network="DINO") + "the subject is the body, with air around it.",
    ),
    _slices(
        "background_consistency",
        "Background consistency",
        measure_features,
        _COSINES.format(network="CLIP") + "the background is table, clothes and air, with air in place of the body.",
    ),
    Metric(
        name="diversity",
        title="Diversity",
        better="higher",
        kind="set",
        function="consistency:measure_diversity",
        extractor="embedded_planes",
        source=f"Ours: mean over all pairs of the set of {_DISTANCE}0 when all are the same; compare with the "
        "reference's own number.",
    ),
    Metric(
        name="near_duplicate",
        title="Near duplicates of the reference set",
        unit="%",
        better="lower",
        kind="set",
        needs=("reference",),
        function="consistency:measure_duplicates",
        extractor="embedded_planes",
        source=f"Ours: share of volumes nearer to a reference than the 5 % quantile of the references' distances to "
        f"their own nearest; about 5 % is what new real CT would have. {_DISTANCE}'identical': equal features.",
    ),
    Metric(
        name="nearest_reference",
        title="Distance to the nearest reference",
        kind="set",
        needs=("reference",),
        function="consistency:measure_duplicates",
        extractor="embedded_planes",
        source=f"Ours: median over the volumes of {_DISTANCE}A set far below the references' own number repeats them.",
    ),
)
