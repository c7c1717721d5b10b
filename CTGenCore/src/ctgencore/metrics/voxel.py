"""Voxel metrics of a volume against its reference, on equal grids; one slice is in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..intensity import WINDOWS, Window
from ..labels import name_of
from ..volume import LabelMap, Volume
from .base import Case, Context, Metric, Value

LUNG_BELOW_HU, BONE_ABOVE_HU = -400.0, 250.0
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5  # an 11-voxel Gaussian, as Wang et al. 2004
GREY = 255.0  # the papers' scale of a window


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two masks; 1.0 when both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


def worst_slice(badness: np.ndarray) -> int | None:
    """Index of the largest value, None when all are equal (then no slice is worse than another)."""
    return None if badness.size == 0 or badness.max() == badness.min() else int(badness.argmax())


# --- errors ----------------------------------------------------------------------------------------------------------


def slice_errors(test: Volume, reference: Volume, window: Window) -> np.ndarray:
    """Errors (test minus reference) of each slice, both volumes clipped to the window.

    Returns:
        (3, Z) float64: mean square in HU^2, mean absolute and mean in HU.

    Raises:
        InputError: a voxel is NaN.
    """
    rows = []
    for x, y in _pairs(test, reference, window):
        error = x - y
        rows.append((np.square(error).mean(), np.abs(error).mean(), error.mean()))
    errors = np.array(rows).T
    if np.isnan(errors).any():
        bad = np.flatnonzero(np.isnan(errors).any(0))
        raise InputError(f"Voxels must be numbers; slices {bad[:5].tolist()} hold NaN in one of the two. Repair them.")
    return errors


def organ_errors(
    test: Volume, reference: Volume, labels: LabelMap, window: Window
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors (test minus reference) summed over each label of each slice, both volumes clipped to the window.

    Returns:
        Labels that occur (K,), background left out; voxels (K, Z); sums (2, K, Z) in HU of the absolute error and of
        the error.
    """
    size = int(labels.voxels.max()) + 1
    counts = np.zeros((size, len(labels.voxels)))
    sums = np.zeros((2, *counts.shape))
    for z, (x, y) in enumerate(_pairs(test, reference, window)):
        ids, error = labels.voxels[z].ravel(), (x - y).ravel()
        counts[:, z] = np.bincount(ids, minlength=size)
        sums[0, :, z] = np.bincount(ids, np.abs(error), size)
        sums[1, :, z] = np.bincount(ids, error, size)
    found = np.flatnonzero(counts.sum(1))
    found = found[found > 0]
    return found, counts[found], sums[:, found]


def psnr(mse: float, peak: float) -> float:
    """Peak signal-to-noise ratio in dB; infinite when the mean squared error is 0."""
    return math.inf if mse == 0 else 10 * math.log10(peak**2 / mse)


def _pairs(test: Volume, reference: Volume, window: Window) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Slices of both, clipped to the window, float64."""
    for x, y in zip(test.voxels, reference.voxels, strict=True):
        yield x.clip(window.lo, window.hi).astype(np.float64), y.clip(window.lo, window.hi).astype(np.float64)


# --- structural similarity -------------------------------------------------------------------------------------------


def ssim(test: Volume, reference: Volume, window: Window, *, solid: bool) -> tuple[np.ndarray, np.ndarray]:
    """Structural similarity (Wang et al. 2004), K1 0.01, K2 0.03, Gaussian window of sigma 1.5 and 11 voxels.

    Args:
        test, reference: of equal size.
        window: both are clipped to it; its width is the peak.
        solid: also use an 11x11x11 window. Its voxels nearer than 5 to a side of the volume are left out.

    Returns:
        Mean over each slice with an 11x11 window, (Z,), sides mirrored; with the 11x11x11 window, (Z - 10,), empty if
        not asked for or if the volume has no inside.
    """
    peak, margin, length = window.hi - window.lo, SSIM_RADIUS, 2 * SSIM_RADIUS + 1
    inside = (slice(None), slice(margin, -margin), slice(margin, -margin))
    solid = solid and min(test.shape) >= length
    taps = np.exp(-0.5 * (np.arange(-margin, margin + 1) / SSIM_SIGMA) ** 2)
    taps /= taps.sum()
    ring = np.empty((length, 5, test.shape[1] - 2 * margin, test.shape[2] - 2 * margin)) if solid else np.empty(0)
    flat, thick = [], []
    for z, (x, y) in enumerate(_pairs(test, reference, window)):
        moments = np.stack([x, y, x * x, y * y, x * y])
        for axis in (1, 2):
            moments = ndimage.gaussian_filter1d(moments, SSIM_SIGMA, axis, radius=margin)
        flat.append(_similarity(moments, peak))
        if solid:
            ring[z % length] = moments[inside]
            if z >= length - 1:  # the oldest slice is next in the ring
                thick.append(_similarity(np.tensordot(np.roll(taps, z + 1), ring, 1), peak))
    return np.array(flat), np.array(thick)


def _similarity(moments: np.ndarray, peak: float) -> float:
    """Mean similarity from the weighted means of x, y, xx, yy, xy."""
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    x, y, xx, yy, xy = moments
    product, squares = x * y, x * x + y * y
    return float(((2 * product + c1) * (2 * (xy - product) + c2) / ((squares + c1) * (xx + yy - squares + c2))).mean())


# --- all together ----------------------------------------------------------------------------------------------------


def reconstruction_metrics(
    output: Volume, reference: Volume, lo: float = -1000.0, hi: float = 1000.0
) -> dict[str, float]:
    """How far a reconstruction is from its input, both clipped to ``[lo, hi]`` HU.

    Returns:
        ``psnr`` in dB with the window as peak; ``mse_255``, squared error on the papers' 0..255 scale of that window;
        ``ssim`` over axial slices; ``mae_hu`` and ``bias_hu`` (output minus reference); ``dice_lung`` of voxels
        below -400 HU and ``dice_bone`` of voxels above 250 HU.

    Raises:
        InputError: the grids differ (nothing is resampled in silence), or a voxel is NaN.
    """
    output.geometry.assert_equal(reference.geometry, what="output and reference")
    window = Window.parse((lo, hi))
    mse, mae, bias = slice_errors(output, reference, window).mean(1).tolist()
    x, y = output.voxels, reference.voxels
    return {
        "psnr": psnr(mse, hi - lo),
        "mse_255": mse * (GREY / (hi - lo)) ** 2,
        "ssim": float(ssim(output, reference, window, solid=False)[0].mean()),
        "mae_hu": mae,
        "bias_hu": bias,
        "dice_lung": dice(x < LUNG_BELOW_HU, y < LUNG_BELOW_HU),
        "dice_bone": dice(x > BONE_ABOVE_HU, y > BONE_ABOVE_HU),
    }


def measure(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """The rows of this module; with labels, ``mae_hu`` and ``bias_hu`` of each organ too."""
    assert case.reference is not None
    test, reference, wide = case.test, case.reference, WINDOWS["wide"]
    window = Window.parse(context.options.get("window", "wide"))  # type: ignore[arg-type]
    values = []
    if names & {"psnr_255_w2000", "mse_255_w2000"}:
        squares = slice_errors(test, reference, wide)[0] * (GREY / (wide.hi - wide.lo)) ** 2
        mse, worst = float(squares.mean()), worst_slice(squares)
        note = "" if mse else "equal within the window"
        values.append(Value("psnr_255_w2000", psnr(mse, GREY), slice=worst, note=note))
        values.append(Value("mse_255_w2000", mse, slice=worst))
    if names & {"ssim_slices_w2000", "ssim3d_w2000"}:
        flat, thick = ssim(test, reference, wide, solid="ssim3d_w2000" in names)
        values.append(Value("ssim_slices_w2000", float(flat.mean()), slice=worst_slice(-flat)))
        if thick.size:
            worst = worst_slice(-thick)
            where = None if worst is None else worst + SSIM_RADIUS
            values.append(Value("ssim3d_w2000", float(thick.mean()), slice=where))
        else:
            note = f"needs 11 voxels along each axis; got {test.shape} (ZYX)"
            values.append(Value("ssim3d_w2000", math.nan, note=note))
    if names & {"mae_hu", "bias_hu"}:
        values += _in_hu(case, test, reference, window)
    return [value for value in values if value.metric in names]


def _in_hu(case: Case, test: Volume, reference: Volume, window: Window) -> Iterator[Value]:
    note = "" if window == WINDOWS["wide"] else f"within {window.lo:g} to {window.hi:g} HU"
    _, mae, bias = slice_errors(test, reference, window)
    yield Value("mae_hu", float(mae.mean()), slice=worst_slice(mae), note=note)
    yield Value("bias_hu", float(bias.mean()), slice=worst_slice(np.abs(bias)), note=note)
    if case.labels is None:
        return
    found, counts, sums = organ_errors(test, reference, case.labels, window)
    for row, label in enumerate(found.tolist()):
        voxels = counts[row].sum()
        for name, total in zip(("mae_hu", "bias_hu"), sums[:, row], strict=True):
            value = float(total.sum() / voxels)
            yield Value(name, value, region=name_of(label), slice=worst_slice(np.abs(total)), note=note)


_FUNCTION = "voxel:measure"
_SCALE = "Table 1 of Foundation VAE: HU [-1000, 1000] become 0..255 (not rounded to 8 bits)."
METRICS = (
    Metric(
        name="psnr_255_w2000",
        title="PSNR",
        unit="dB",
        better="higher",
        needs=("reference",),
        function=_FUNCTION,
        source=f"{_SCALE} One mean squared error over all voxels of a volume; infinite for equal volumes.",
    ),
    Metric(
        name="mse_255_w2000",
        title="Mean squared error, 0..255",
        better="lower",
        needs=("reference",),
        function=_FUNCTION,
        source=f"{_SCALE} Mean over all voxels of a volume.",
    ),
    Metric(
        name="ssim3d_w2000",
        title="SSIM (3D)",
        better="higher",
        needs=("reference",),
        function=_FUNCTION,
        source="Wang et al. 2004, Gaussian 11x11x11 voxels, sigma 1.5, peak 2000 HU; equals MONAI's SSIMMetric, and "
        "scikit-image without sample covariance: voxels nearer than 5 to a side are left out.",
    ),
    Metric(
        name="ssim_slices_w2000",
        title="SSIM (slices)",
        better="higher",
        needs=("reference",),
        function=_FUNCTION,
        source="Wang et al. 2004, Gaussian 11x11 pixels, sigma 1.5, peak 2000 HU; mean over all pixels of all slices, "
        "sides mirrored.",
    ),
    Metric(
        name="mae_hu",
        title="Mean absolute error",
        unit="HU",
        better="lower",
        needs=("reference",),
        function=_FUNCTION,
        source="Ours: mean over all voxels, and over each organ, inside the window asked for; an organ's worst slice "
        "holds the most of its error, and the body is what no organ has.",
    ),
    Metric(
        name="bias_hu",
        title="Mean error",
        unit="HU",
        better="zero",
        needs=("reference",),
        function=_FUNCTION,
        source="Ours: test minus reference, mean over all voxels, and over each organ, inside the window asked for.",
    ),
)
