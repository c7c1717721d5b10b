"""Noise power and edge shift against closed forms: filtered white noise, balls that move and grow."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from ctgencore import io, phantom
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.labels import BODY
from ctgencore.metrics.base import Case, Context, Value
from ctgencore.metrics.texture import (
    Region,
    edge_shifts,
    label_regions,
    measure_edges,
    measure_noise,
    noise_power,
)
from ctgencore.volume import LabelMap, Volume
from scipy import ndimage
from scipy.special import erf

Triple = tuple[float, float, float]
EDGES = frozenset({"edge_shift_mm", "edge_bias_mm"})
SPACINGS = [(2.0, 1.0, 1.0), (2.5, 0.7, 0.9), (1.0, 1.0, 3.0)]


def no_features(extractor: str, volume: Volume) -> np.ndarray:
    raise AssertionError("texture needs no features")


def noise(test: Volume, reference: Volume) -> dict[str, Value]:
    case = Case(name="case", test=test, reference=reference)
    return {v.region: v for v in measure_noise(case, frozenset({"nps_ratio"}), Context(features=no_features))}


def edges(test: Volume, reference: Volume, labels: LabelMap | None = None) -> dict[tuple[str, str], Value]:
    case = Case(name="case", test=test, reference=reference, labels=labels)
    return {(v.metric, v.region): v for v in measure_edges(case, EDGES, Context(features=no_features))}


# --- noise power spectrum --------------------------------------------------------------------------------------------


def slab(sigma_hu: float, spacing_yx: tuple[float, float], blur_mm: float = 0.0, lung: bool = True) -> Volume:
    """Soft tissue with lung inside, in air; white noise everywhere, then a Gaussian in the Fourier domain."""
    shape = (12, round(200 / spacing_yx[0]), round(200 / spacing_yx[1]))
    hu = np.full(shape, -1000.0)
    mm = [np.arange(n) * s for n, s in zip(shape[1:], spacing_yx, strict=True)]
    inside = [(c > 20) & (c < 180) for c in mm]
    hu[:, np.outer(*inside)] = 40.0
    if lung:
        hu[:, np.outer((mm[0] > 45) & (mm[0] < 115), (mm[1] > 45) & (mm[1] < 155))] = -850.0
    hu += np.random.default_rng(3).normal(0, sigma_hu, shape)
    if blur_mm:
        frequency = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, shape[1:], spacing_yx), indexing="ij"))
        hu = np.fft.ifft2(np.fft.fft2(hu) * np.exp(-2 * (math.pi * blur_mm * frequency) ** 2)).real
    return Volume(hu, Geometry(shape[::-1], (spacing_yx[1], spacing_yx[0], 3.0)))


def expected(blur_mm: float, lo: float, hi: float) -> float:
    """Power that a Gaussian filter leaves of white noise, mean over a ring of frequencies."""
    k = (2 * math.pi * blur_mm) ** 2
    return (math.exp(-k * lo**2) - math.exp(-k * hi**2)) / (k * (hi**2 - lo**2))


@pytest.mark.parametrize("spacing", [(0.7, 0.7), (1.0, 0.6)])
def test_white_noise_has_its_variance_everywhere(spacing: tuple[float, float]) -> None:
    patches = np.random.default_rng(0).normal(0, 15, (2000, 20, 24)) + 40
    patches += np.linspace(0, 300, 24)  # a slope is not noise
    frequency, power = noise_power(patches, spacing)
    inside = frequency > 0.2
    np.testing.assert_allclose(power[inside], 15**2 * spacing[0] * spacing[1], rtol=0.15)
    assert power[inside].mean() == pytest.approx(15**2 * spacing[0] * spacing[1], rel=0.01)
    assert frequency.max() == pytest.approx(math.hypot(0.5 / spacing[0], 0.5 / spacing[1]))


def test_sine_sits_at_its_frequency() -> None:
    x = np.arange(40) * 0.8
    frequency, power = noise_power(np.tile(20 * np.sin(2 * np.pi * 0.25 * x), (3, 40, 1)), (0.8, 0.8))
    assert frequency.ravel()[power.argmax()] == pytest.approx(0.25, abs=1e-9)


@pytest.mark.parametrize("spacing", [(0.8, 0.8), (1.0, 0.7), (1.5, 1.5)])
def test_filtered_noise_has_the_known_ratio(spacing: tuple[float, float]) -> None:
    blur = 0.4 * max(spacing)
    rows = noise(slab(20, spacing, blur), slab(20, spacing))
    nyquist = 0.5 / max(spacing)
    for tissue in ("soft tissue", "lung"):
        assert rows[f"{tissue}, high band"].value == pytest.approx(expected(blur, nyquist / 2, nyquist), rel=0.05)
        low = float(rows[f"{tissue}, low band"].note.split()[0])
        assert 1.5 / 16 < low < 2.5 / 16
        assert rows[f"{tissue}, low band"].value == pytest.approx(expected(blur, low, nyquist / 2), rel=0.05)
    high = [rows[f"{tissue}, high band"].value for tissue in ("soft tissue", "lung")]
    assert rows["all"].value == pytest.approx(math.sqrt(high[0] * high[1]))
    assert rows["all"].value < rows["soft tissue, low band"].value < 1
    assert f"to {nyquist:.2f} cycles/mm" in rows["lung, high band"].note


def test_bands_follow_the_spacing() -> None:
    """Bands end at Nyquist, so equal blur per pixel gives equal ratios; small patches resolve frequencies less well."""
    fine, coarse = (noise(slab(20, (s, s), 0.5 * s), slab(20, (s, s)))["all"].value for s in (0.7, 1.4))
    assert fine == pytest.approx(coarse, rel=0.1)
    assert fine == pytest.approx(expected(0.5, 0.25, 0.5), rel=0.1)


def test_amplitude_identity_and_reciprocity() -> None:
    quiet, loud = slab(10, (0.9, 0.9)), slab(30, (0.9, 0.9))
    same = noise(quiet, quiet)
    assert {row.value for row in same.values()} == {1.0}
    assert set(same) == {"all", *(f"{t}, {b} band" for t in ("soft tissue", "lung") for b in ("high", "low"))}
    assert noise(loud, quiet)["all"].value == pytest.approx(9, rel=1e-3)
    assert noise(quiet, loud)["all"].value == pytest.approx(1 / 9, rel=1e-3)
    shifted = quiet.with_voxels(quiet.voxels + 300)
    assert noise(shifted, quiet)["all"].value == pytest.approx(1, rel=1e-3), "an offset is not noise"


def test_no_noise_is_said() -> None:
    clean, noisy = slab(0, (0.9, 0.9)), slab(20, (0.9, 0.9))
    rows = noise(noisy, clean)
    assert math.isnan(rows["all"].value)
    assert math.isnan(rows["lung, low band"].value)
    assert "rounding" in rows["lung, low band"].note
    assert noise(clean, noisy)["all"].value == pytest.approx(0, abs=1e-9)
    tissue_only = noise(slab(20, (0.9, 0.9), 0.9, lung=False), slab(20, (0.9, 0.9), lung=False))
    assert not any("lung" in region for region in tissue_only)
    assert tissue_only["all"].value == tissue_only["soft tissue, high band"].value
    structured = slab(20, (0.9, 0.9))
    structured.voxels[:, ::20] += 500
    structured.voxels[:, :, ::20] += 500
    rows = noise(structured, structured)
    assert list(rows) == ["all"]
    assert "even density" in rows["all"].note


def test_air_has_no_texture() -> None:
    air = Volume(np.full((4, 64, 64), -1000.0), Geometry((64, 64, 4)))
    with pytest.raises(InputError, match="body"):
        noise(air, air)


# --- edge shift ------------------------------------------------------------------------------------------------------


def ball(
    center_mm: Triple = (0, 0, 0),
    spacing: Triple = (2.0, 1.0, 1.0),
    radius: float = 16.0,
    levels: tuple[float, float] = (50.0, -100.0),
    psf_mm: float = 0.6,
) -> tuple[Volume, np.ndarray]:
    """A blurred ball on voxels that average what they hold, and the mask of its better halves."""
    shape = tuple(round(60 / s) for s in spacing)
    fine = [
        ((np.arange(3 * n) - (3 * n - 1) / 2) * s / 3).astype(np.float32) for n, s in zip(shape, spacing, strict=True)
    ]
    z, y, x = np.meshgrid(*fine, indexing="ij", sparse=True)
    distance = np.sqrt((z - center_mm[0]) ** 2 + (y - center_mm[1]) ** 2 + (x - center_mm[2]) ** 2) - radius
    filled = 0.5 * (1 - erf(distance / (math.sqrt(2) * psf_mm)))
    share = filled.reshape(shape[0], 3, shape[1], 3, shape[2], 3).mean((1, 3, 5))
    hu = levels[1] + (levels[0] - levels[1]) * share
    return Volume(hu, Geometry(shape[::-1], spacing[::-1])), share > 0.5


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("grown", [-0.6, 0.25, 0.5])
def test_growth_is_the_shift(spacing: Triple, grown: float) -> None:
    reference, mask = ball(spacing=spacing)
    shifts = edge_shifts(ball(spacing=spacing, radius=16 + grown)[0], reference, Region.of("ball", mask))
    assert len(shifts.mm) > 500
    assert shifts.lost == 0
    assert shifts.mm.mean() == pytest.approx(grown, abs=0.05)
    assert shifts.mm.std() < 0.15


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_moved_ball_moves_as_far_as_its_normals_say(spacing: Triple, axis: int) -> None:
    move = 0.45
    center = tuple(move if a == axis else 0.0 for a in range(3))
    reference, mask = ball(spacing=spacing)
    shifts = edge_shifts(ball(center, spacing)[0], reference, Region.of("ball", mask))
    assert shifts.mm.mean() == pytest.approx(0, abs=0.05)
    assert np.abs(shifts.mm).mean() == pytest.approx(move / 2, abs=0.06), "mean of |cos| over a ball is a half"
    assert np.quantile(shifts.mm, [0.02, 0.98]) == pytest.approx([-move, move], abs=0.2)


@pytest.mark.parametrize(
    ("spacing", "axis"), [((2.0, 0.8, 0.8), 2), ((2.0, 0.8, 0.8), 1), ((2.0, 0.8, 0.8), 0), ((1.0, 2.0, 1.5), 2)]
)
def test_a_shifted_wall_gives_the_shift(spacing: Triple, axis: int) -> None:
    """A flat wall across the field, moved by less than a voxel along one axis: exactly that, at any spacing."""
    shape = (24, 28, 32)
    at = (np.arange(shape[axis]) - 12.3) * spacing[axis]
    geometry = Geometry(shape[::-1], spacing[::-1])

    def wall(move: float) -> Volume:
        profile = 400 * erf((at - move) / (1.2 * spacing[axis]))
        return Volume(np.broadcast_to(np.expand_dims(profile, [a for a in range(3) if a != axis]), shape), geometry)

    mask = wall(0).voxels < 0
    for voxels in (0.3, -0.5):
        move = voxels * spacing[axis]
        shifts = edge_shifts(wall(move), wall(0), Region.of("wall", mask))
        assert len(shifts.mm) > 100
        np.testing.assert_allclose(shifts.mm, move, atol=0.07 * spacing[axis])


def test_identity_offset_gain_and_blur_are_no_shift() -> None:
    reference, mask = ball()
    region = Region.of("ball", mask)
    assert (edge_shifts(reference, reference, region).mm == 0).all()
    changed = reference.with_voxels(0.8 * reference.voxels - 60)
    np.testing.assert_allclose(edge_shifts(changed, reference, region).mm, 0, atol=1e-4)
    blurred = edge_shifts(ball(psf_mm=1.2)[0], reference, region).mm
    assert abs(blurred.mean()) < 0.06
    assert np.abs(blurred).mean() < 0.08


def test_swapping_the_volumes_turns_the_sign() -> None:
    (small, mask), (large, _) = ball(), ball(radius=16.4)
    region = Region.of("ball", mask)
    there, back = edge_shifts(large, small, region).mm, edge_shifts(small, large, region).mm
    assert there.mean() == pytest.approx(-back.mean(), abs=0.02)


def test_dark_regions_count_the_same() -> None:
    reference, mask = ball(levels=(-900, 0))
    test, _ = ball(levels=(-900, 0), radius=16.5)
    assert edge_shifts(test, reference, Region.of("lung", mask)).mm.mean() == pytest.approx(0.5, abs=0.05)


def test_borders_that_fade_are_lost() -> None:
    reference, mask = ball()
    region = Region.of("ball", mask)
    half_gone = reference.voxels.copy()
    half_gone[:, :, 30:] = -100
    shifts = edge_shifts(reference.with_voxels(half_gone), reference, region)
    assert shifts.lost == pytest.approx((shifts.lost + len(shifts.mm)) / 2, rel=0.15)
    flat = edge_shifts(reference.with_voxels(np.zeros(reference.shape)), reference, region)
    assert len(flat.mm) == 0
    assert flat.lost > 500


def labeled() -> tuple[Volume, LabelMap]:
    reference, mask = ball()
    labels = np.where(mask, 1, 0).astype(np.uint8)
    labels[:4, :8, :8] = 3  # in the uniform surroundings
    return reference, LabelMap(labels, reference.geometry)


def test_rows_per_organ() -> None:
    reference, labels = labeled()
    rows = edges(ball(radius=16.3)[0], reference, labels)
    assert set(rows) == {(metric, region) for metric in EDGES for region in ("liver", "all")}
    assert rows["edge_bias_mm", "liver"].value == pytest.approx(0.3, abs=0.05)
    assert rows["edge_bias_mm", "all"].value == rows["edge_bias_mm", "liver"].value
    assert rows["edge_shift_mm", "liver"].value >= rows["edge_bias_mm", "liver"].value
    assert "spleen" in rows["edge_shift_mm", "all"].note
    assert rows["edge_shift_mm", "liver"].slice is not None


def test_worst_slice_of_an_organ() -> None:
    reference, labels = labeled()
    moved = reference.voxels.copy()
    moved[9] = np.roll(moved[9], 1, axis=1)
    assert edges(reference.with_voxels(moved), reference, labels)["edge_shift_mm", "liver"].slice == 9


def test_nothing_to_measure_is_said() -> None:
    reference, labels = labeled()
    flat = edges(reference.with_voxels(np.zeros(reference.shape)), reference, labels)
    for region in ("liver", "all"):
        assert math.isnan(flat["edge_shift_mm", region].value)
    count = flat["edge_shift_mm", "liver"].note.split()[0]
    assert flat["edge_shift_mm", "liver"].note == f"{count} borders, {count} of them lost"
    none = edges(reference, reference, LabelMap(np.zeros(reference.shape, np.uint8), reference.geometry))
    assert math.isnan(none["edge_shift_mm", "all"].value)
    assert none["edge_shift_mm", "all"].note == "no labels"


def test_body_label_is_its_envelope() -> None:
    reference, labels = labeled()
    inner = labels.voxels.copy()
    inner[12:18, 20:40, 20:40] = 1
    inner[(labels.voxels == 1) & (inner == 1)] = BODY
    inner[12:18, 25:35, 25:35] = 3
    [spleen, body] = label_regions(LabelMap(inner, reference.geometry))
    assert (spleen.name, body.name) == ("spleen", "body")
    np.testing.assert_array_equal(body.array == body.value, inner > 0)


def test_phantom_without_labels_is_split_by_thresholds() -> None:
    drawn = phantom.chest((32, 96, 96), (3.5, 3.5, 8)).ct
    same = edges(drawn, drawn)
    assert {region for _, region in same} == {"all", "body", "lung", "bone"}
    assert {value.value for value in same.values()} == {0.0}


def test_regions_that_are_not_there_are_named() -> None:
    tissue = slab(0, (2.0, 2.0), lung=False)
    rows = edges(tissue, tissue)
    assert {region for _, region in rows} == {"all", "body"}
    assert "lung, bone" in rows["edge_shift_mm", "all"].note


# --- real CT ---------------------------------------------------------------------------------------------------------


def test_real_ct_smoothed(ct_data: Path) -> None:
    ct = io.read(ct_data / "IBSI_PAT2" / "ct.nii.gz")
    smooth = ct.with_voxels(ndimage.gaussian_filter(ct.voxels, [1 / s for s in ct.geometry.spacing_zyx]))
    ratio = noise(smooth, ct)
    assert ratio["all"].value < 0.2 * ratio["soft tissue, low band"].value < 0.2
    shift = edges(smooth, ct)
    assert 0 < shift["edge_shift_mm", "all"].value < 0.5
    assert abs(shift["edge_bias_mm", "all"].value) < 0.15
