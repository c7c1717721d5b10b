"""Reconstruction metrics against independent implementations."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.metrics.base import Case, Context, Value
from ctgencore.metrics.voxel import METRICS, dice, measure, reconstruction_metrics
from ctgencore.volume import LabelMap, Volume
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import SSIMMetric
from scipy.ndimage import gaussian_filter
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

NAMES = frozenset(row.name for row in METRICS)
SSIM = {"data_range": 2000, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}


def no_features(extractor: str, volume: Volume) -> np.ndarray:
    raise AssertionError("voxel metrics need no features")


def volume(hu: np.ndarray, spacing_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    return Volume(hu, Geometry(hu.shape[::-1], spacing_zyx[::-1]))


def pair(shape: tuple[int, int, int] = (6, 40, 48)) -> tuple[Volume, Volume]:
    """Pictures with structure, some of it beyond the window, and what noise and an offset make of them."""
    rng = np.random.default_rng(0)
    hu = 900 * gaussian_filter(rng.normal(0, 8, shape), 1.5) + rng.uniform(-300, 300, shape)
    return volume(hu + rng.normal(10, 60, shape)), volume(hu)


def score(test: Volume, reference: Volume, labels: LabelMap | None = None, **options: object) -> dict[tuple, Value]:
    case = Case(name="case", test=test, reference=reference, labels=labels)
    values = measure(case, NAMES, Context(options=options, features=no_features))
    assert len({(v.metric, v.region) for v in values}) == len(values)
    return {(v.metric, v.region): v for v in values}


def overall(*arguments: Volume) -> dict[str, float]:
    return {metric: value.value for (metric, region), value in score(*arguments).items() if region == "all"}


def test_against_scikit_image() -> None:
    output, reference = pair()
    x, y = (np.clip(v.voxels, -1000, 1000).astype(np.float64) for v in (reference, output))
    scores = reconstruction_metrics(output, reference)
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(x, y, data_range=2000), abs=1e-4)
    eight_bit = [(v + 1000) * 255 / 2000 for v in (x, y)]
    assert scores["mse_255"] == pytest.approx(mean_squared_error(*eight_bit), rel=1e-5)
    assert 10 * np.log10(255**2 / scores["mse_255"]) == pytest.approx(scores["psnr"], abs=1e-4)
    theirs = np.mean([structural_similarity(a, b, **SSIM)[1].mean() for a, b in zip(x, y, strict=True)])
    assert 0.3 < theirs < 0.99
    assert scores["ssim"] == pytest.approx(theirs, abs=1e-6)
    assert scores["mae_hu"] == pytest.approx(np.abs(y - x).mean(), rel=1e-5)
    assert scores["bias_hu"] == pytest.approx((y - x).mean(), rel=1e-4)


def test_rows_say_the_same() -> None:
    output, reference = pair((13, 40, 48))
    rows, scores = overall(output, reference), reconstruction_metrics(output, reference)
    names = {"psnr_255_w2000": "psnr", "mse_255_w2000": "mse_255", "ssim_slices_w2000": "ssim"}
    for row, name in {**names, "mae_hu": "mae_hu", "bias_hu": "bias_hu"}.items():
        assert rows[row] == pytest.approx(scores[name], rel=1e-12), row
    assert set(rows) == NAMES


def test_solid_ssim_against_monai_and_scikit_image() -> None:
    output, reference = pair((16, 40, 48))
    x, y = (np.clip(v.voxels, -1000, 1000).astype(np.float64) for v in (reference, output))
    ours = overall(output, reference)["ssim3d_w2000"]
    assert ours == pytest.approx(structural_similarity(x, y, **SSIM)[0], abs=1e-9)
    monai = SSIMMetric(spatial_dims=3, data_range=2000)(
        torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None]
    )
    assert ours == pytest.approx(float(monai), abs=1e-5)
    assert abs(ours - overall(output, reference)["ssim_slices_w2000"]) > 1e-3


def test_thin_volumes_have_no_solid_ssim() -> None:
    value = score(*pair())["ssim3d_w2000", "all"]
    assert math.isnan(value.value)
    assert "11 voxels" in value.note


def test_equal_volumes_are_perfect() -> None:
    _, reference = pair((12, 16, 16))
    scores = reconstruction_metrics(reference, reference)
    assert scores == {
        **dict.fromkeys(("mse_255", "mae_hu", "bias_hu"), 0.0),
        **dict.fromkeys(("dice_lung", "dice_bone"), 1.0),
        "psnr": float("inf"),
        "ssim": pytest.approx(1.0),
    }
    rows = score(reference, reference)
    assert rows["psnr_255_w2000", "all"].value == math.inf
    assert "equal" in rows["psnr_255_w2000", "all"].note
    assert rows["ssim3d_w2000", "all"].value == pytest.approx(1.0, abs=1e-9)
    assert rows["mse_255_w2000", "all"].slice is None, "no slice is worse than another"


@settings(max_examples=20, deadline=None)
@given(offset=st.floats(-200, 200), amplitude=st.floats(0, 300), seed=st.integers(0, 9))
def test_symmetry_spacing_and_closed_form(offset: float, amplitude: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hu = rng.uniform(-400, 400, (11, 12, 13)).astype(np.float32)
    sign = rng.choice([-1.0, 1.0], hu.shape)
    other = volume(hu + np.float32(offset) + (amplitude * sign).astype(np.float32))
    there, back = overall(other, volume(hu)), overall(volume(hu), other)
    error = offset + amplitude * sign
    assert there["bias_hu"] == pytest.approx(error.mean(), abs=1e-3)
    assert there["mae_hu"] == pytest.approx(np.abs(error).mean(), abs=1e-3)
    assert there["mse_255_w2000"] == pytest.approx(np.square(error * 255 / 2000).mean(), rel=1e-4, abs=1e-8)
    assert there.pop("bias_hu") == pytest.approx(-back.pop("bias_hu"), abs=1e-9)
    assert there == pytest.approx(back, abs=1e-9)
    coarse = overall(volume(other.voxels, (5.0, 0.7, 0.9)), volume(hu, (5.0, 0.7, 0.9)))
    coarse.pop("bias_hu")
    assert coarse == there


def test_worst_slice_is_found() -> None:
    _, reference = pair((20, 24, 24))
    broken = reference.voxels.copy()
    broken[13] = -broken[13]
    values = score(volume(broken), reference)
    for metric in ("psnr_255_w2000", "mse_255_w2000", "ssim_slices_w2000", "ssim3d_w2000", "mae_hu"):
        assert values[metric, "all"].slice == 13, metric


def test_organs_have_rows_of_their_own() -> None:
    output, reference = pair((8, 24, 24))
    labels = np.zeros(output.shape, np.uint8)
    labels[2:5, 4:12], labels[5:, 12:20], labels[1] = 1, 3, 0
    output.voxels[4, 4:12] += 500
    values = score(output, reference, LabelMap(labels, output.geometry))
    x, y = (np.clip(v.voxels, -1000, 1000).astype(np.float64) for v in (reference, output))
    for label, name in ((1, "liver"), (3, "spleen")):
        error = (y - x)[labels == label]
        assert values["mae_hu", name].value == pytest.approx(np.abs(error).mean())
        assert values["bias_hu", name].value == pytest.approx(error.mean())
    assert values["mae_hu", "liver"].slice == 4
    assert {region for metric, region in values if metric == "mae_hu"} == {"all", "liver", "spleen"}
    empty = score(output, reference, LabelMap(np.zeros_like(labels), output.geometry))
    assert {region for _, region in empty} == {"all"}


def test_errors_in_hu_follow_the_window_asked_for() -> None:
    output, reference = pair()
    value = score(output, reference, window="lung")["mae_hu", "all"]
    x, y = (np.clip(v.voxels, -1350, 150) for v in (reference, output))
    assert value.value == pytest.approx(np.abs(y - x).mean(), rel=1e-5)
    assert "-1350 to 150" in value.note
    assert (
        score(output, reference)["psnr_255_w2000", "all"]
        == score(output, reference, window="lung")["psnr_255_w2000", "all"]
    )


def test_only_what_is_asked_for_is_answered() -> None:
    output, reference = pair()
    case = Case(name="case", test=output, reference=reference)
    for name in NAMES:
        [value] = measure(case, frozenset([name]), Context(features=no_features))
        assert value.metric == name


def test_memory_is_a_few_slices() -> None:
    shape = (160, 96, 96)
    output, reference = volume(np.zeros(shape)), volume(np.full(shape, 50.0))
    labels = LabelMap(np.ones(shape, np.uint8), output.geometry)
    tracemalloc.start()
    score(output, reference, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * 96 * 96 * 8, "55 slices are in the ring; never a copy of the 160"


def test_nan_is_an_error() -> None:
    output, reference = pair()
    output.voxels[3, 5, 5] = np.nan
    with pytest.raises(InputError, match=r"slices \[3\] hold NaN"):
        score(output, reference)


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
