"""Set metrics: distances against independent implementations and closed forms, recipes on phantoms."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from ctgencore import phantom
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.metrics import extractors
from ctgencore.metrics import frechet as distances
from ctgencore.metrics.base import Context, Value
from ctgencore.metrics.frechet import Gaussian
from ctgencore.metrics.table import EXTRACTORS, METRICS
from ctgencore.tasks.evaluate_cache import load_function
from ctgencore.volume import Volume
from monai.metrics import FIDMetric
from scipy import linalg, ndimage
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

SETS = [name for name, row in METRICS.items() if row.function.startswith("realism:")]


def context(seed: int = 0, **options: object) -> Context:
    return Context(options=options, features=lambda name, volume: np.empty(0), seed=seed)


def rows(n: int, d: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(d, d)) / np.sqrt(d)
    return (shift + scale * rng.normal(size=(n, d)) @ mixing).astype(np.float32)


def measure(
    name: str, test: list[np.ndarray], reference: list[np.ndarray], seed: int = 0, **options: object
) -> list[Value]:
    values = load_function(METRICS[name].function)(test, reference, frozenset({name}), context(seed, **options))
    assert {value.metric for value in values} == {name}
    return values


def numbers(values: list[Value]) -> dict[str, float]:
    assert len({value.region for value in values}) == len(values)
    return {value.region: value.value for value in values}


# --- Fréchet ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "m"), [(40, 50), (9, 50), (40, 11), (5, 7), (17, 17)])
def test_frechet_against_monai_torchmetrics_and_sqrtm(n: int, m: int) -> None:
    """With 16 features: full rank, one or both sets with fewer rows than features, and just enough."""
    x, y = rows(n, 16, 1), rows(m, 16, 2, shift=0.2, scale=1.3)
    ours = distances.frechet([x], [y])
    a, b = (torch.from_numpy(v).double() for v in (x, y))
    tolerance = {"rel": 1e-8} if min(n, m) > 16 else {"rel": 1e-4}  # theirs lose digits where covariances are singular
    assert ours == pytest.approx(_compute_fid(a.mean(0), a.T.cov(), b.mean(0), b.T.cov()).item(), **tolerance)
    assert ours == pytest.approx(FIDMetric()(a, b).item(), **tolerance)
    roots = [linalg.sqrtm(np.cov(v.astype(np.float64).T) + 1e-14 * np.eye(16)).real for v in (x, y)]
    middle = linalg.svdvals(roots[0] @ roots[1]).sum()
    shift = np.square(x.astype(np.float64).mean(0) - y.astype(np.float64).mean(0)).sum()
    spread = np.square(roots[0]).sum() + np.square(roots[1]).sum()
    assert ours == pytest.approx(shift + spread - 2 * middle, rel=1e-5)


def test_frechet_of_known_gaussians() -> None:
    """Commuting covariances: the sum of squared differences of the deviations along the axes they share."""
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    one, two = rng.uniform(0.1, 3, (2, 5))
    shift = rng.normal(size=5)
    found = distances.distance(Gaussian(np.zeros(5), one[:, None] * axes), Gaussian(shift, two[:, None] * axes))
    assert found == pytest.approx(np.square(shift).sum() + np.square(one - two).sum(), rel=1e-12)


@pytest.mark.parametrize("n", [6, 30])
def test_frechet_properties(n: int) -> None:
    x, y = rows(n, 12, 1), rows(25, 12, 2, shift=0.5)
    found = distances.frechet([x], [y])
    assert distances.frechet([x], [x]) == pytest.approx(0, abs=1e-6)
    assert distances.frechet([y], [x]) == pytest.approx(found, rel=1e-9)
    assert distances.frechet([x[:2], x[2:]], [y[::-1]]) == pytest.approx(found, rel=1e-6)
    assert distances.frechet([x + 7], [y + 7]) == pytest.approx(found, rel=1e-4)
    assert distances.frechet([3 * x], [3 * y]) == pytest.approx(9 * found, rel=1e-5)
    moved = distances.frechet([x + np.float32(2)], [x])
    assert moved == pytest.approx(12 * 4, rel=1e-5)


def test_frechet_stays_exact_where_sqrtm_does_not() -> None:
    """Few rows of many nearly equal features: the padding slices of a short scan."""
    x = np.repeat(rows(3, 300, 4), 100, axis=0)
    assert distances.frechet([x], [x]) == pytest.approx(0, abs=1e-6)
    assert distances.frechet([x], [x + np.float32(0.1)]) == pytest.approx(300 * 0.01, rel=1e-4)


def test_small_samples_are_biased_upwards() -> None:
    """The reason for the refusal: equal distributions, and a distance that only N makes."""
    means = [
        np.mean([distances.frechet([rows(n, 64, 2 * i)], [rows(n, 64, 2 * i + 1)]) for i in range(5)])
        for n in (16, 64, 1024)
    ]
    assert means[0] > 2 * means[1] > 4 * means[2]


def test_chunks_are_the_challenges() -> None:
    x, y = ([rows(1, 24, i + 50 * k, shift=0.3 * k) for i in range(10)] for k in (0, 1))
    parts = []
    for start in (0, 4, 8):  # scipy's root of the product, its real part: as the published script has it
        a, b = (np.concatenate(s[start : start + 4]).astype(np.float64) for s in (x, y))
        middle = linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real.trace()
        parts.append(np.square(a.mean(0) - b.mean(0)).sum() + np.trace(np.cov(a.T) + np.cov(b.T)) - 2 * middle)
    assert distances.frechet_chunks(x, y) == pytest.approx(np.mean(parts), rel=1e-3)
    assert distances.frechet_chunks(x[:9], y[:9]) == distances.frechet_chunks(x[:8], y[:8])  # the ninth has no spread
    assert distances.frechet_chunks(x, y) > 1.5 * distances.frechet(x, y)
    with pytest.raises(InputError, match="10 volumes under test and 9"):
        distances.frechet_chunks(x, y[:9])


@pytest.mark.parametrize(("bad", "says"), [(rows(1, 4, 0), "two rows"), (np.full((3, 4), np.nan), "finite")])
def test_frechet_refuses(bad: np.ndarray, says: str) -> None:
    with pytest.raises(InputError, match=says):
        distances.frechet([bad], [rows(9, 4, 0)])


# --- maximum mean discrepancy ----------------------------------------------------------------------------------------


def naive_mmd(x: np.ndarray, y: np.ndarray, kernel) -> float:
    pairs = [[kernel(a, b) for i, a in enumerate(s) for j, b in enumerate(s) if i != j] for s in (x, y)]
    return float(np.mean(pairs[0]) + np.mean(pairs[1]) - 2 * np.mean([kernel(a, b) for a in x for b in y]))


def test_mmd_against_the_definition_and_torchmetrics() -> None:
    x, y = (v.astype(np.float64) for v in (rows(12, 6, 1), rows(9, 6, 2, shift=0.4)))
    cubic = distances.mmd(x, y, distances.polynomial_kernel)
    assert cubic == pytest.approx(naive_mmd(x, y, lambda a, b: (a @ b / 6 + 1) ** 3), rel=1e-10)
    bell = distances.mmd(x, y, distances.gaussian_kernel(1.7))
    assert bell == pytest.approx(naive_mmd(x, y, lambda a, b: np.exp(-np.sum((a - b) ** 2) / 2 / 1.7**2)), rel=1e-10)
    a, b = torch.from_numpy(x[:9]), torch.from_numpy(y)
    assert distances.mmd(x[:9], y, distances.polynomial_kernel) == pytest.approx(poly_mmd(a, b).item(), rel=1e-10)
    gaps = [np.linalg.norm(p - q) for i, p in enumerate(x) for q in x[i + 1 :]]
    assert distances.median_distance(x) == pytest.approx(np.median(gaps), rel=1e-9)
    with pytest.raises(InputError, match="two rows"):
        distances.mmd(x[:1], y, distances.polynomial_kernel)


def test_mmd_is_unbiased_and_its_subsets_tell_its_error() -> None:
    found, spreads = [], []
    for seed in range(60):
        x, y = rows(24, 8, 2 * seed), rows(24, 8, 2 * seed + 1, shift=0.6)
        value, spread, size = distances.mmd_subsets([x[:10], x[10:]], [y], distances.polynomial_kernel, seed)
        assert size == 12
        assert value == pytest.approx(distances.mmd(x, y, distances.polynomial_kernel), rel=1e-9)
        found.append(value)
        spreads.append(spread)
    assert np.mean(spreads) == pytest.approx(np.std(found), rel=0.35)
    null = [distances.mmd(rows(24, 8, 2 * s), rows(24, 8, 2 * s + 1), distances.polynomial_kernel) for s in range(60)]
    assert abs(np.mean(null)) < 3 * np.std(null) / np.sqrt(60)
    assert min(null) < 0
    assert np.mean(found) > 5 * np.std(null)


def test_mmd_of_large_sets_is_a_mean_over_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (distances.KID_ROWS, distances.KID_SUBSETS) == (1000, 100)
    monkeypatch.setattr(distances, "KID_ROWS", 200)
    x, y = rows(260, 8, 1), rows(220, 8, 2, shift=0.6)
    found = distances.mmd_subsets([x[:90], x[90:]], [y], distances.polynomial_kernel, 0)
    assert found == distances.mmd_subsets([x], [y], distances.polynomial_kernel, 0)
    value, spread, size = found
    assert size == 200
    assert value == pytest.approx(distances.mmd(x, y, distances.polynomial_kernel), rel=0.05)
    assert 0 < spread < 0.3 * value


def test_rows_are_drawn_without_joining() -> None:
    arrays = [np.arange(0, 5)[:, None], np.arange(5, 6)[:, None], np.arange(6, 20)[:, None]]
    drawn = distances.draw_rows(arrays, 7, np.random.default_rng(0))[:, 0]
    assert len(set(drawn.tolist())) == 7
    assert drawn.tolist() != distances.draw_rows(arrays, 7, np.random.default_rng(1))[:, 0].tolist()
    assert distances.draw_rows(arrays, 99, np.random.default_rng(1))[:, 0].tolist() == list(range(20))


# --- recipes ---------------------------------------------------------------------------------------------------------


def test_every_recipe_is_listed_and_honest() -> None:
    assert set(SETS) == {
        *("fid25d_maisi_v1", "fid_windowed_medsyn2", "fvd_ctclip", "fvd_i3d", "fvd_ctnet_full", "fvd_ctnet_chunk4"),
        *("kid_radimagenet", "kid_embedded", "mmd_embedded", "fid25d_embedded", "fd_embedded"),
    }
    for name in SETS:
        row = METRICS[name]
        assert (row.kind, row.needs, row.better) == ("set", ("reference",), "lower")
        assert row.extractor in EXTRACTORS
        assert len(row.source) > 40


def test_planes_and_windows_are_named_and_averaged() -> None:
    test, reference = ([rows(12 * 6, 5, i + k).reshape(12, 6, 5) for i in range(4)] for k in (0, 10))
    found = numbers(measure("fid_windowed_medsyn2", test, reference))
    windows = ("lung", "vessel", "soft", "bone")
    regions = [f"{window} {plane}" for window in windows for plane in ("xy", "yz", "zx")]
    means = [f"{window} average" for window in windows]
    assert set(found) == {*regions, *means, "average", "real vs real"}
    for i, region in enumerate(regions):
        expected = distances.frechet([a[i] for a in test], [a[i] for a in reference])
        assert found[region] == pytest.approx(expected, rel=1e-9)
    assert found["vessel average"] == pytest.approx(np.mean([found[region] for region in regions[3:6]]))
    assert found["average"] == pytest.approx(np.mean([found[region] for region in regions]))
    three = numbers(measure("fid25d_maisi_v1", [a[3:6] for a in test], [a[3:6] for a in reference]))
    assert set(three) == {"xy", "yz", "zx", "average", "real vs real"}
    assert three["average"] == pytest.approx(found["vessel average"])


def test_real_against_real_is_two_halves_by_the_seed() -> None:
    reference = [rows(1, 3, i) for i in range(9)]
    test = [rows(1, 3, i + 100, shift=3) for i in range(9)]
    found = numbers(measure("fd_embedded", test, reference, seed=5))
    order = np.random.default_rng(5).permutation(9)
    halves = ([reference[i] for i in order[:4]], [reference[i] for i in order[4:8]])
    assert found["real vs real"] == pytest.approx(distances.frechet(*halves))
    assert found["real vs real"] < 0.2 * found["all"]
    assert numbers(measure("fd_embedded", test, reference, seed=6))["real vs real"] != found["real vs real"]
    few = measure("fd_embedded", test, reference[:3], allow_small=True)[-1]
    assert few.region == "real vs real"
    assert np.isnan(few.value)
    assert "too few" in few.note


def test_too_few_volumes_are_refused_unless_asked() -> None:
    test, reference = ([rows(1, 10, i + k, shift=k / 50) for i in range(12)] for k in (0, 50))
    value, baseline = measure("fvd_ctclip", test, reference)
    assert "biased" not in value.note
    assert "N = 12 and 12 volumes" in value.note
    assert "biased upwards" in baseline.note  # six against six
    with pytest.raises(InputError, match=r"at least 10 rows.*got 9 .*and 12 .*kid_embedded.*--allow-small"):
        measure("fvd_ctclip", test[:9], reference)
    value, _ = measure("fvd_ctclip", test[:9], reference, allow_small=True)
    assert value.value == pytest.approx(distances.frechet(test[:9], reference))
    assert "biased upwards" in value.note
    with pytest.raises(InputError, match="one set has none"):
        measure("fvd_ctclip", [], reference)
    chunks, _ = measure("fvd_ctnet_chunk4", test[:9], reference[:9])  # what it does with few is its definition
    assert chunks.value == distances.frechet_chunks(test[:8], reference[:8])
    assert "rank 3" in chunks.note
    assert "left out" in chunks.note


def test_kid_and_mmd_take_small_sets() -> None:
    test, reference = ([rows(1, 64, i + k, shift=k / 100) for i in range(6)] for k in (0, 50))
    x, y = np.concatenate(test), np.concatenate(reference)
    found = numbers(measure("kid_embedded", test, reference))
    assert set(found) == {"all", "sd", "real vs real"}
    assert found["all"] == pytest.approx(distances.mmd(x, y, distances.polynomial_kernel))
    assert found["sd"] > 0
    found = numbers(measure("mmd_embedded", test, reference))
    assert found["all"] == pytest.approx(distances.mmd(x, y, distances.gaussian_kernel(distances.median_distance(y))))
    assert found["all"] > abs(found["real vs real"])
    with pytest.raises(InputError, match="median distance"):
        measure("mmd_embedded", test, [reference[0]] * 3)


# --- embedded extractors on phantoms ---------------------------------------------------------------------------------


@cache
def patient(seed: int, spacing: float = 3.0) -> Volume:
    return phantom.chest((16, 48, 48), spacing_mm=(spacing, spacing, 6.0), seed=seed).ct


def turned(volume: Volume) -> Volume:
    """The same patient stored along other axes."""
    (x, y, z), (dx, dy, dz) = volume.geometry.size_xyz, volume.geometry.spacing_mm
    origin = (volume.geometry.affine_lps() @ [0, y - 1, 0, 1])[:3]
    direction = (0, 1, 0, 0, 0, -1, 1, 0, 0)  # array axes i, j, k run along S, L and to A
    return Volume(
        volume.voxels[:, ::-1].transpose(1, 2, 0), Geometry((z, x, y), (dz, dx, dy), tuple(origin), direction)
    )


@pytest.mark.parametrize("name", ["embedded", "embedded_planes"])
def test_embedded_features_do_not_depend_on_the_grid(name: str) -> None:
    extract = load_function(EXTRACTORS[name].function)
    volume = patient(0, 1.5)
    features = extract(volume, context())
    assert features.dtype == np.float32
    assert features.shape == ((1, 64) if name == "embedded" else (3, 48, 32))
    assert features.shape[-1] == EXTRACTORS[name].size
    np.testing.assert_array_equal(features, extract(volume, context()))
    np.testing.assert_allclose(extract(turned(volume), context()), features, atol=1e-4)
    origin, (dx, dy, dz), (x, y, z) = np.array(volume.geometry.origin_mm), (1.5, 1.5, 6.0), volume.geometry.size_xyz
    fine = Geometry((2 * x, 2 * y, z), (dx / 2, dy / 2, dz), tuple(origin - (dx / 4, dy / 4, 0)))
    same = Volume(volume.voxels.repeat(2, 1).repeat(2, 2), fine)
    other = np.abs(extract(patient(1, 1.5), context()) - features).mean()
    assert np.abs(extract(same, context()) - features).mean() < 0.35 * other


def test_embedded_slices_see_one_slice_each() -> None:
    volume = patient(0)
    features = extractors.embedded_slices(volume, context())
    assert features.shape == (16, 32)
    np.testing.assert_allclose(
        extractors.embedded_slices(volume.with_voxels(volume.voxels[::-1]), context()), features[::-1], atol=1e-5
    )
    voxels = volume.voxels.copy()
    voxels[5] = -1000
    changed = np.abs(extractors.embedded_slices(volume.with_voxels(voxels), context()) - features).max(1)
    assert np.flatnonzero(changed > 1e-5).tolist() == [5]


def test_embedded_distances_rank_phantoms() -> None:
    """Other phantoms are closer to phantoms than their blurred copies are, by every offline recipe."""
    reference, others = ([patient(seed) for seed in range(start, start + 4)] for start in (0, 4))
    blurred = [volume.with_voxels(ndimage.gaussian_filter(volume.voxels, (0.5, 1.5, 1.5))) for volume in others]
    for name in ("fid25d_embedded", "kid_embedded", "mmd_embedded", "fd_embedded"):
        extract = load_function(EXTRACTORS[METRICS[name].extractor].function)
        features = [[extract(volume, context()) for volume in each] for each in (others, blurred, reference)]
        near, far, same = (numbers(measure(name, each, features[2], allow_small=True)) for each in features)
        region = "average" if "average" in near else "all"
        assert far[region] > 1.5 * max(near[region], 0), name
        assert same[region] < min(near[region], 1e-3), name
        assert far[region] > near["real vs real"], name
