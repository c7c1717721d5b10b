"""Voxel metrics of a reconstruction against its input, on equal grids."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from ..errors import InputError
from ..volume import Volume

LUNG_BELOW_HU, BONE_ABOVE_HU = -400.0, 250.0
SSIM_SIGMA, SSIM_TRUNCATE = 1.5, 3.5  # an 11-voxel Gaussian, as Wang et al. 2004


def ssim_slices(x: np.ndarray, y: np.ndarray, peak: float) -> float:
    """Mean structural similarity of axial slices (Wang et al. 2004; Gaussian window, sigma 1.5, 11 pixels)."""
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = []
    for a, b in zip(x.astype(np.float64), y.astype(np.float64), strict=True):
        ma, mb, aa, bb, ab = (
            ndimage.gaussian_filter(image, SSIM_SIGMA, truncate=SSIM_TRUNCATE) for image in (a, b, a * a, b * b, a * b)
        )
        va, vb, cov = aa - ma * ma, bb - mb * mb, ab - ma * mb
        values.append(((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())
    return float(np.mean(values))


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two masks; 1.0 when both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 1.0 if total == 0 else 2.0 * int((a & b).sum()) / total


def reconstruction_metrics(
    output: Volume, reference: Volume, lo: float = -1000.0, hi: float = 1000.0
) -> dict[str, float]:
    """How far a reconstruction is from its input, both clipped to ``[lo, hi]`` HU.

    Returns:
        ``psnr`` in dB with the window as peak; ``mse_255``, squared error on the papers' 0..255 scale of that window;
        ``ssim`` over axial slices; ``mae_hu`` and ``bias_hu`` (output minus reference); ``dice_lung`` of voxels
        below -400 HU and ``dice_bone`` of voxels above 250 HU.

    Raises:
        InputError: the grids differ (nothing is resampled in silence).
    """
    output.geometry.assert_equal(reference.geometry, what="output and reference")
    if output.voxels.shape != reference.voxels.shape:
        raise InputError(f"Sizes differ: {output.voxels.shape} and {reference.voxels.shape}.")
    x, y = (np.clip(v.voxels, lo, hi) for v in (reference, output))
    error = y - x
    mse = float(np.mean(np.square(error, dtype=np.float64)))
    peak = hi - lo
    return {
        "psnr": float("inf") if mse == 0 else 10 * float(np.log10(peak**2 / mse)),
        "mse_255": mse * (255 / peak) ** 2,
        "ssim": ssim_slices(x, y, peak),
        "mae_hu": float(np.mean(np.abs(error), dtype=np.float64)),
        "bias_hu": float(np.mean(error, dtype=np.float64)),
        "dice_lung": dice(x < LUNG_BELOW_HU, y < LUNG_BELOW_HU),
        "dice_bone": dice(x > BONE_ABOVE_HU, y > BONE_ABOVE_HU),
    }
