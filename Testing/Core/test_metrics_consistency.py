"""Slice consistency and sets: closed forms, an independent optical flow, and what must make the numbers worse."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from ctgencore import io, phantom
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.intensity import WINDOWS
from ctgencore.metrics import extractors
from ctgencore.metrics.base import Case, Context, Value
from ctgencore.metrics.consistency import (
    distances,
    flicker,
    flow,
    frames,
    interpolation_errors,
    measure_diversity,
    measure_duplicates,
    measure_features,
    measure_motion,
    similarities,
)
from ctgencore.volume import Volume
from scipy import ndimage
from skimage.registration import optical_flow_ilk

MOTION = frozenset({"temporal_flicker", "motion_smoothness"})
COSINES = frozenset({"subject_consistency", "background_consistency"})
Rows = dict[tuple[str, str], Value]


def real_features(extractor: str, volume: Volume) -> np.ndarray:
    assert extractor == "embedded_slices"
    return extractors.embedded_slices(volume, Context(features=real_features))


def volume(hu: np.ndarray, spacing_zyx: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Volume:
    return Volume(hu, Geometry(hu.shape[::-1], spacing_zyx[::-1]))


def motion(test: Volume, reference: Volume | None = None, **options: object) -> Rows:
    case = Case(name="case", test=test, reference=reference)
    values = measure_motion(case, MOTION, Context(options=options, features=real_features))
    return {(v.metric, v.region): v for v in values}


def cosines(test: Volume, reference: Volume | None = None) -> Rows:
    case = Case(name="case", test=test, reference=reference)
    return {(v.metric, v.region): v for v in measure_features(case, COSINES, Context(features=real_features))}


def scores(rows: Rows) -> dict[str, float]:
    return {metric: value.value for (metric, region), value in rows.items() if region == "all"}


def texture(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, shape), 3)
    return 300 * smooth / smooth.std()


@pytest.fixture(scope="module")
def chest() -> Volume:
    return phantom.chest((14, 80, 80), (4.0, 4.0, 4.0)).ct


# --- slices ----------------------------------------------------------------------------------------------------------


def test_drift_and_flicker_have_closed_forms() -> None:
    still = np.zeros((9, 24, 24))
    step = np.arange(9.0)[:, None, None]
    drift, swing = volume(still + 20 * step), volume(still + 15 * (-1) ** step)
    assert scores(motion(volume(still))) == {"temporal_flicker": 100, "motion_smoothness": 100}
    assert scores(motion(drift)) == pytest.approx({"temporal_flicker": 100 - 1, "motion_smoothness": 100})
    assert scores(motion(swing)) == pytest.approx({"temporal_flicker": 100 - 1.5, "motion_smoothness": 100 - 1.5})


def test_ramps_are_perfectly_smooth() -> None:
    z, y, x = np.meshgrid(np.arange(7), np.arange(40), np.arange(40), indexing="ij")
    assert scores(motion(volume(10.0 * z + 8.0 * y - 5.0 * x)))["motion_smoothness"] == pytest.approx(100, abs=1e-4)
    brighter = volume(texture((40, 40))[None] * np.ones((7, 1, 1)) + 10.0 * z)
    assert scores(motion(brighter))["motion_smoothness"] == pytest.approx(100, abs=1e-4)


def test_repeated_slices_halve_the_flicker() -> None:
    hu = np.cumsum(np.random.default_rng(0).uniform(-30, 30, (10, 16, 16)), axis=0)
    once, twice = (flicker(array).sum() for array in (hu, hu.repeat(2, axis=0)))
    assert once == pytest.approx(twice)
    loss = 100 - scores(motion(volume(hu)))["temporal_flicker"]
    doubled = 100 - scores(motion(volume(hu.repeat(2, axis=0))))["temporal_flicker"]
    assert doubled == pytest.approx(loss * 9 / 19, rel=1e-5)


def test_steady_motion_is_smooth_and_halting_motion_is_not() -> None:
    picture = ndimage.spline_filter(texture((96, 96)))

    def moving(places: list[float]) -> Volume:
        return volume(np.stack([ndimage.shift(picture, (0, at), prefilter=False)[16:80, 16:80] for at in places]))

    steady, halting = moving([1.5 * k for k in range(7)]), moving([0, 0, 3, 3, 6, 6, 9])
    ours, theirs = scores(motion(steady)), scores(motion(halting))
    plain = 100 * np.abs((steady.voxels[:-2:2] + steady.voxels[2::2]) / 2 - steady.voxels[1:-1:2]).mean() / 2000
    assert 100 - ours["motion_smoothness"] < plain / 3, "flow foretells better than the plain average"
    assert 100 - theirs["motion_smoothness"] > 3 * (100 - ours["motion_smoothness"])


def test_flow_against_truth_and_scikit_image() -> None:
    y, x = np.meshgrid(np.arange(96.0), np.arange(96.0), indexing="ij")
    truth = np.stack([1.5 * np.sin(x / 30), 2 * np.cos(y / 30)])
    picture = ndimage.spline_filter(127 + 0.15 * texture((128, 128)))

    def at(share: float) -> np.ndarray:
        return ndimage.map_coordinates(picture, np.stack([y, x]) + 16 - share * truth, prefilter=False)

    before, after = at(-0.5).astype(np.float32), at(0.5).astype(np.float32)
    inner = (slice(None), slice(10, -10), slice(10, -10))
    ours, theirs = flow(before, after)[inner], optical_flow_ilk(before, after)[inner]
    assert np.abs(ours - truth[inner]).mean() < 0.03
    assert np.abs(ours - theirs).mean() < 0.15
    np.testing.assert_allclose(flow(after, before)[inner], -ours, atol=0.02)
    assert np.abs(flow(before, before)).max() == 0


def test_flow_follows_far_moves() -> None:
    picture = 127 + 0.15 * texture((160, 160))
    before, after = picture[20:148, 20:148], picture[20:148, 12:140]  # by 8 pixels
    assert np.median(flow(before, after)[1]) == pytest.approx(8, abs=0.1)


def test_shuffled_and_jumping_slices_are_worse(chest: Volume) -> None:
    order = np.random.default_rng(1).permutation(len(chest.voxels))
    jumps = chest.voxels + 60 * np.random.default_rng(2).normal(size=(len(chest.voxels), 1, 1))
    good = scores(motion(chest))
    for broken in (chest.voxels[order], jumps):
        bad = scores(motion(chest.with_voxels(broken)))
        assert all(bad[name] < good[name] - 0.2 for name in MOTION)
    shuffled = scores(cosines(chest.with_voxels(chest.voxels[order])))
    assert shuffled["subject_consistency"] < scores(cosines(chest))["subject_consistency"]


def test_direction_and_in_plane_axes_do_not_matter(chest: Volume) -> None:
    hu = chest.voxels[:13]
    good = scores(motion(volume(hu)))
    assert scores(motion(volume(hu[::-1]))) == pytest.approx(good, rel=1e-4)
    assert scores(motion(volume(hu.swapaxes(1, 2)))) == pytest.approx(good, rel=1e-4)
    apart = motion(volume(hu, (7.0, 0.5, 0.5)))
    assert scores(apart) == good, "spacing is told, not corrected for"
    assert "7 mm" in apart["temporal_flicker", "all"].note


def test_reference_is_measured_beside_it(chest: Volume) -> None:
    worse = chest.with_voxels(chest.voxels + 40 * (-1.0) ** np.arange(14)[:, None, None])
    rows = motion(worse, chest) | cosines(worse, chest)
    alone = motion(chest) | cosines(chest)
    assert set(rows) == {(metric, region) for metric in MOTION | COSINES for region in ("all", "reference")}
    for metric in MOTION | COSINES:
        assert rows[metric, "reference"].value == alone[metric, "all"].value
    assert rows["temporal_flicker", "all"].value < rows["temporal_flicker", "reference"].value - 0.5


def test_worst_slices() -> None:
    hu = np.zeros((11, 20, 20))
    hu[5] = 100
    rows = motion(volume(hu))
    assert rows["temporal_flicker", "all"].slice == 5
    assert rows["motion_smoothness", "all"].slice == 5
    assert motion(volume(0 * hu))["temporal_flicker", "all"].slice is None


def test_few_slices_are_said() -> None:
    one, two = motion(volume(np.zeros((1, 16, 16)))), motion(volume(np.zeros((2, 16, 16))))
    assert math.isnan(one["temporal_flicker", "all"].value)
    assert "2 slices" in one["temporal_flicker", "all"].note
    assert two["temporal_flicker", "all"].value == 100
    assert "3 slices" in two["motion_smoothness", "all"].note


def test_window_of_the_greys() -> None:
    hu = np.zeros((4, 16, 16))
    hu[1::2] = 50
    assert scores(motion(volume(hu), window="-100 100"))["temporal_flicker"] == pytest.approx(75)


def test_every_second_slice_is_foretold() -> None:
    for slices, count in ((2, 0), (3, 1), (4, 1), (5, 2), (8, 3)):
        assert len(interpolation_errors(np.zeros((slices, 16, 16), np.float32))) == count


def test_frames_are_block_means() -> None:
    hu = np.random.default_rng(0).uniform(-1500, 1500, (2, 300, 515))
    small = frames(volume(hu), WINDOWS["wide"])
    assert small.shape == (2, 100, 171)
    assert small[1, 3, 4] == pytest.approx(hu.clip(-1000, 1000)[1, 9:12, 12:15].mean(), rel=1e-4)
    keep = np.zeros(hu.shape, bool)
    keep[:, :90] = True
    assert (frames(volume(hu), WINDOWS["wide"], keep)[:, 30:] == -1000).all()


def test_similarities_follow_vbench() -> None:
    angles = np.deg2rad([0, 30, 90, 180])
    features = 7 * np.stack([np.cos(angles), np.sin(angles)], 1)
    c30, c60 = math.cos(math.pi / 6), 0.5
    np.testing.assert_allclose(similarities(features), [c30, (0 + c60) / 2, 0], atol=1e-12)
    np.testing.assert_allclose(similarities(np.ones((5, 3))), 1)


def test_subject_and_background_see_their_own_part(chest: Volume) -> None:
    """A plate that comes and goes in front of the body disturbs the background only; metal inside, the subject."""
    beside, inside = chest.voxels.copy(), chest.voxels.copy()
    beside[::2, 2:5, 20:60] = 600
    assert (chest.voxels[:, :6] < -900).all(), "there is room in front of the body"
    inside[::2, 34:46, 20:60] = 3000
    clean, plate, metal = (scores(cosines(volume(hu, (4, 4, 4)))) for hu in (chest.voxels, beside, inside))
    assert plate["background_consistency"] < clean["background_consistency"] - 0.01
    assert plate["subject_consistency"] == pytest.approx(clean["subject_consistency"], abs=1e-3)
    assert metal["subject_consistency"] < clean["subject_consistency"] - 0.02
    assert metal["background_consistency"] == pytest.approx(clean["background_consistency"], abs=1e-3)


def test_no_body_and_no_background_are_said(chest: Volume) -> None:
    air = cosines(volume(np.full((4, 40, 40), -1000.0)))
    assert {math.isnan(value.value) for value in air.values()} == {True}
    assert "body" in air["subject_consistency", "all"].note
    inner = cosines(volume(np.full((4, 40, 40), 40.0), (4, 4, 4)))
    assert math.isnan(inner["background_consistency", "all"].value)
    assert "fills the field" in inner["background_consistency", "all"].note
    assert inner["subject_consistency", "all"].value == pytest.approx(100, abs=1e-4)


def test_real_ct_is_smoother_than_shuffled(ct_data: Path) -> None:
    ct = io.read(ct_data / "IBSI_PAT2" / "ct.nii.gz")
    good = scores(motion(ct))
    bad = scores(motion(ct.with_voxels(np.random.default_rng(0).permutation(ct.voxels))))
    assert all(bad[name] < good[name] - 1 for name in MOTION)
    assert good["motion_smoothness"] > good["temporal_flicker"]


# --- sets ------------------------------------------------------------------------------------------------------------


def draw(count: int, seed: int, spread: float = 1.0) -> list[np.ndarray]:
    """Features as of ``embedded_planes``: what all share, and what each has of its own."""
    own = np.random.default_rng(seed).normal(0, spread, (count, 3, 8, 16))
    return list((5 + own).astype(np.float32))


def sets(test: list[np.ndarray], reference: list[np.ndarray]) -> Rows:
    context = Context(features=real_features)
    values = measure_duplicates(test, reference, frozenset({"near_duplicate", "nearest_reference"}), context)
    return {(v.metric, v.region): v for v in values}


def diversity(test: list[np.ndarray], reference: list[np.ndarray]) -> dict[str, Value]:
    values = measure_diversity(test, reference, frozenset({"diversity"}), Context(features=real_features))
    return {v.region: v for v in values}


def test_distances_are_cosines() -> None:
    axes = [np.eye(4)[i].reshape(2, 2) for i in range(4)]
    np.testing.assert_allclose(distances(axes, axes), 1 - np.eye(4), atol=1e-12)
    assert distances([3 * axes[0]], [-axes[0]])[0, 0] == pytest.approx(2)


def test_diversity_closed_forms() -> None:
    axes = [np.eye(3)[i][None] for i in range(3)]
    assert diversity(axes, [])["all"].value == pytest.approx(1)
    assert diversity([axes[0]] * 4, axes)["all"].value == pytest.approx(0, abs=1e-12)
    assert diversity([axes[0]] * 4, axes)["reference"].value == pytest.approx(1)
    assert diversity([axes[0], axes[0], axes[1]], [])["all"].value == pytest.approx(2 / 3)
    assert math.isnan(diversity(axes[:1], [])["all"].value)
    wide, narrow = draw(8, 0), draw(8, 0, 0.2)
    assert diversity(wide, [])["all"].value > 5 * diversity(narrow, [])["all"].value
    assert diversity(wide[::-1], [])["all"].value == pytest.approx(diversity(wide, [])["all"].value)


def test_new_volumes_are_no_duplicates() -> None:
    rows = sets(draw(200, 1), draw(100, 2))
    assert rows["near_duplicate", "all"].value < 15, "5 % expected"
    assert rows["near_duplicate", "identical"].value == 0
    assert rows["nearest_reference", "all"].value == pytest.approx(
        rows["nearest_reference", "reference"].value, rel=0.05
    )


def test_copies_are_found() -> None:
    reference = draw(40, 3)
    same = sets(reference, reference)
    assert same["near_duplicate", "all"].value == same["near_duplicate", "identical"].value == 100
    assert same["nearest_reference", "all"].value == pytest.approx(0, abs=1e-9)
    test = draw(10, 4)
    test[7] = reference[31].copy()
    test[2] = reference[5] + np.float32(0.05) * test[2]
    rows = sets(test, reference)
    assert rows["near_duplicate", "identical"].value == 10
    assert "test 7 is like reference 31" in rows["near_duplicate", "identical"].note
    assert rows["near_duplicate", "all"].value >= 20
    assert "test 2 is like reference 5" in rows["near_duplicate", "all"].note


def test_small_and_empty_sets() -> None:
    one = sets(draw(3, 0), draw(1, 0))
    assert math.isnan(one["near_duplicate", "all"].value)
    assert "two references" in one["near_duplicate", "all"].note
    assert one["near_duplicate", "identical"].value == pytest.approx(100 / 3)
    with pytest.raises(InputError, match="both sets; got 2 and 0"):
        sets(draw(2, 0), [])


def test_sets_of_real_features() -> None:
    """The row's own extractor: other phantoms are no copies, the same one is."""

    def features(seed: int) -> np.ndarray:
        drawn = phantom.chest((12, 40, 40), (8.0, 8.0, 20.0), seed=seed).ct
        return extractors.embedded_planes(drawn, Context(features=real_features))

    reference = [features(seed) for seed in range(2)]
    rows = sets([features(1), features(7)], reference)
    assert rows["near_duplicate", "identical"].value == 50
    assert diversity(reference, [])["all"].value > 0
