"""Reconstruction metrics against independent implementations."""

from __future__ import annotations

import numpy as np
import pytest
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.metrics.voxel import dice, reconstruction_metrics
from ctgencore.volume import Volume
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity


def pair() -> tuple[Volume, Volume]:
    rng = np.random.default_rng(0)
    hu = rng.uniform(-1200, 1200, (6, 40, 48)).astype(np.float32)
    geometry = Geometry((48, 40, 6))
    return Volume(hu + rng.normal(10, 60, hu.shape).astype(np.float32), geometry), Volume(hu, geometry)


def test_against_scikit_image() -> None:
    output, reference = pair()
    x, y = (np.clip(v.voxels, -1000, 1000).astype(np.float64) for v in (reference, output))
    scores = reconstruction_metrics(output, reference)
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(x, y, data_range=2000), abs=1e-4)
    eight_bit = [(v + 1000) * 255 / 2000 for v in (x, y)]
    assert scores["mse_255"] == pytest.approx(mean_squared_error(*eight_bit), rel=1e-5)
    assert 10 * np.log10(255**2 / scores["mse_255"]) == pytest.approx(scores["psnr"], abs=1e-4)
    options = {"data_range": 2000, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    theirs = np.mean([structural_similarity(a, b, **options)[1].mean() for a, b in zip(x, y, strict=True)])
    assert scores["ssim"] == pytest.approx(theirs, abs=1e-6)
    assert scores["mae_hu"] == pytest.approx(np.abs(y - x).mean(), rel=1e-5)
    assert scores["bias_hu"] == pytest.approx((y - x).mean(), rel=1e-4)


def test_equal_volumes_are_perfect() -> None:
    _, reference = pair()
    scores = reconstruction_metrics(reference, reference)
    assert scores == {
        **dict.fromkeys(("mse_255", "mae_hu", "bias_hu"), 0.0),
        **dict.fromkeys(("dice_lung", "dice_bone"), 1.0),
        "psnr": float("inf"),
        "ssim": pytest.approx(1.0),
    }


def test_dice() -> None:
    a = np.array([1, 1, 0, 0], dtype=bool)
    assert dice(a, np.array([1, 0, 0, 0], dtype=bool)) == pytest.approx(2 / 3)
    assert dice(a, ~a) == 0.0
    assert dice(np.zeros(3, dtype=bool), np.zeros(3, dtype=bool)) == 1.0


def test_other_grids_are_refused() -> None:
    output, reference = pair()
    moved = Volume(output.voxels, Geometry((48, 40, 6), origin_mm=(0.0, 0.0, 0.01)))
    with pytest.raises(InputError, match="mm"):
        reconstruction_metrics(moved, reference)
