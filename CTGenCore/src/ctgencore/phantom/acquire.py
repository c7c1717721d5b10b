"""What a scanner makes of a scene: blur, noise, the limits of its scale."""

from __future__ import annotations

import numpy as np

from .scene import Scene

LOW_HU, HIGH_HU = -1024.0, 3071.0
REFERENCE_MM3 = 1.0  # voxel for which a patient's noise is given; larger voxels average more photons
REFERENCE_MM2 = 65_000.0  # cross-section of a body for which it is given


def acquire(scene: Scene) -> np.ndarray:
    """Blur by the reconstruction kernel, add dose noise and clip.

    Noise is correlated within slices and weak at low frequencies, as filtered back-projection leaves it; it grows with
    the cross-section of the body. It depends on the patient and the grid only, never on what a finding changed.

    Returns:
        (Z, Y, X) float32 HU in [-1024, 3071].
    """
    from scipy.ndimage import correlate1d

    patient, (sz, sy, sx) = scene.patient, scene.geometry.spacing_zyx
    blur = [_gauss(patient.kernel_mm / s) for s in (sy, sx)]
    grain = [_band(max(1.6 * patient.kernel_mm / s, 0.5)) for s in (sy, sx)]
    sigma = patient.noise_hu * float(np.clip((sx * sy * sz / REFERENCE_MM3) ** -0.25, 0.35, 1.15))
    sigma /= float(np.prod([np.sqrt((kernel**2).sum()) for kernel in grain]))
    rng = np.random.default_rng((patient.seed, 90))
    out = np.empty(scene.hu.shape, np.float32)
    for k, plane in enumerate(scene.hu):
        noise = rng.standard_normal(plane.shape, dtype=np.float32)
        for axis in (0, 1):
            noise = correlate1d(noise, grain[axis], axis, mode="wrap")
            if len(blur[axis]) > 1:
                plane = correlate1d(plane, blur[axis], axis, mode="nearest")
        area = np.count_nonzero(scene.organs[k]) * sx * sy
        noise *= sigma * float(np.clip(np.sqrt(area / REFERENCE_MM2), 0.75, 1.3))
        np.clip(plane + noise, LOW_HU, HIGH_HU, out=out[k])
    return out


def _gauss(sigma: float) -> np.ndarray:
    """A Gaussian of ``sigma`` voxels that sums to 1; a single 1 where it is too narrow to matter."""
    reach = int(np.ceil(3 * sigma)) if sigma > 0.3 else 0
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2)
    return kernel / kernel.sum()


def _band(sigma: float) -> np.ndarray:
    """A Gaussian less a wider one: passes the middle frequencies."""
    wide = _gauss(2.5 * sigma)
    narrow = _gauss(sigma)
    kernel = -0.35 * wide
    middle = len(wide) // 2
    reach = len(narrow) // 2
    kernel[middle - reach : middle + reach + 1] += narrow
    return kernel
