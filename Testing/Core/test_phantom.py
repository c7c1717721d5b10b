"""The chest phantom: repeatable, plausible CT."""

from __future__ import annotations

import numpy as np
import pytest
from ctgencore import phantom
from ctgencore.errors import InputError
from ctgencore.volume import LabelMap, Volume


@pytest.fixture(scope="module")
def chest() -> tuple[Volume, LabelMap]:
    return phantom.chest()


def test_same_seed_same_chest() -> None:
    one, two, other = (phantom.chest((24, 96, 96), seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one[0].voxels, two[0].voxels)
    np.testing.assert_array_equal(one[1].voxels, two[1].voxels)
    assert (one[1].voxels != other[1].voxels).mean() > 0.01


def test_it_passes_for_ct(chest: tuple[Volume, LabelMap]) -> None:
    volume, labels = chest
    assert volume.check_ct() == []
    assert volume.shape == (64, 256, 256)
    volume.geometry.assert_equal(labels.geometry)


def test_organs_have_their_hu_and_size(chest: tuple[Volume, LabelMap]) -> None:
    volume, labels = chest
    number = {name: value for value, name in labels.names.items()}
    litre = np.prod(volume.geometry.spacing_mm) / 1e6
    expected = {  # median HU, litres
        "lung_left": (-950, -750, 1.0, 3.0),
        "lung_right": (-950, -750, 1.0, 3.0),
        "heart": (60, 200, 0.2, 0.7),
        "liver": (80, 130, 0.3, 1.8),
        "aorta": (150, 230, 0.05, 0.4),
        "airway": (-1024, -850, 0.01, 0.15),
        "lung_vessels": (-100, 150, 0.03, 0.6),
    }
    for name, (lo, hi, smallest, largest) in expected.items():
        organ = labels.voxels == number[name]
        assert lo < np.median(volume.voxels[organ]) < hi, name
        assert smallest < organ.sum() * litre < largest, name
    bone = np.isin(labels.voxels, [number["spine"], number["ribs_and_sternum"]])
    assert np.percentile(volume.voxels[bone], 90) > 400


def test_left_is_left_and_up_is_up(chest: tuple[Volume, LabelMap]) -> None:
    volume, labels = chest
    number = {name: value for value, name in labels.names.items()}

    def center_lps(name: str) -> np.ndarray:
        index = np.argwhere(labels.voxels == number[name]).mean(0)[::-1]
        return (volume.geometry.affine_lps() @ [*index, 1])[:3]

    assert center_lps("lung_left")[0] > 30 > -30 > center_lps("lung_right")[0]
    assert center_lps("heart")[0] > 5
    assert center_lps("liver")[0] < -20
    assert center_lps("liver")[2] < center_lps("lung_right")[2]
    assert center_lps("spine")[1] > 40 > -10 > center_lps("heart")[1]


def test_noise_is_mild_and_correlated(chest: tuple[Volume, LabelMap]) -> None:
    volume, labels = chest
    liver = labels.voxels == 9
    inner = liver & np.roll(liver, 1, 2) & np.roll(liver, 1, 1) & np.roll(liver, -1, 1)
    values = volume.voxels[inner] - volume.voxels[inner].mean()
    beside = np.roll(volume.voxels, 1, 2)[inner]
    assert 5 < values.std() < 20
    assert 0.3 < np.corrcoef(values, beside)[0, 1] < 0.9


def test_any_shape_and_spacing() -> None:
    volume, _ = phantom.chest((9, 40, 56), spacing_mm=(6.0, 7.0, 20.0))
    assert volume.geometry.spacing_mm == (6.0, 7.0, 20.0)
    assert volume.shape == (9, 40, 56)
    with pytest.raises(InputError, match="at least 8 voxels"):
        phantom.chest((4, 64, 64))
