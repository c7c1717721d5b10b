"""The quality gate: good volumes pass, and each fault fails the check that is there for it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from ctgencore import labels, phantom
from ctgencore.errors import InputError
from ctgencore.phantom import Phantom
from ctgencore.tasks.quality import Quality, assess

ILL = ("Pleural effusion", "Emphysema", "Consolidation")


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return phantom.chest((40, 80, 80), seed=3)


@pytest.fixture(scope="module")
def ill() -> Phantom:
    return phantom.chest((40, 80, 80), seed=3, findings=ILL)


def judged(chest: Phantom, hu: np.ndarray | None = None, organs: np.ndarray | None = None) -> Quality:
    combined = labels.paint(chest.organs.voxels if organs is None else organs, chest.diseases)
    return assess(chest.ct.voxels if hu is None else hu, combined, chest.ct.geometry)


def failed(quality: Quality) -> set[str]:
    assert quality.passed == all(check.passed for check in quality.checks)
    return {check.name for check in quality.checks if not check.passed}


@pytest.mark.parametrize("seed", [4, 5])
def test_procedural_chests_pass(seed: int) -> None:
    made = phantom.chest((48, 96, 96), seed=seed, findings=ILL)
    quality = judged(made)
    assert failed(quality) == set()
    names = {check.name for check in quality.checks}
    common = {"slice-jump", "organ-hu", "body-agreement", "lung-agreement", "bone-agreement"}
    assert common | {"disease-150", "disease-153", "disease-159"} == names
    assert quality.score > 0.8


def test_answers_are_plain_json(ill: Phantom) -> None:
    answer = json.loads(json.dumps(judged(ill).as_dict()))
    assert set(answer) == {"passed", "score", "checks"}
    assert answer["passed"] is True
    for check in answer["checks"]:
        assert set(check) == {"name", "value", "limit", "passed", "message"}
        assert check["message"].endswith(".")


def test_without_a_mask_only_the_slices_are_compared(chest: Phantom) -> None:
    quality = assess(chest.ct.voxels, None, chest.ct.geometry)
    assert [check.name for check in quality.checks] == ["slice-jump"]
    assert quality.passed
    short = assess(chest.ct.voxels[:3], None, chest.ct.geometry)
    assert short.checks == ()
    assert short.passed


def test_swapped_labels(chest: Phantom) -> None:
    organs = chest.organs.voxels.copy()
    lungs, liver = np.isin(chest.organs.voxels, [30, 31, 32]), chest.organs.voxels == 1
    organs[lungs], organs[liver] = 1, 32
    quality = judged(chest, organs=organs)
    assert failed(quality) >= {"lung-agreement", "organ-hu"}
    [check] = [check for check in quality.checks if check.name == "organ-hu"] if len(quality.checks) else []
    assert "liver -" in check.message


@pytest.mark.parametrize("fault", ["brightness", "shift", "repeat"])
def test_a_seam(chest: Phantom, fault: str) -> None:
    hu = chest.ct.voxels.copy()
    middle = len(hu) // 2
    if fault == "brightness":
        hu[middle:] += 60
    elif fault == "shift":
        hu[middle:] = np.roll(hu[middle:], 3, 2)
    else:  # a window that was put in one slice too late, as when slices are dropped
        hu[middle:-4] = chest.ct.voxels[middle + 4 :]
    found = judged(chest, hu)
    assert "slice-jump" in failed(found)
    [check] = [check for check in found.checks if check.name == "slice-jump"]
    assert f"slice {middle - 1} to {middle} " in check.message


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shifted_mask(chest: Phantom, axis: int) -> None:
    organs = np.roll(chest.organs.voxels, 6 if axis else 8, axis)
    assert "lung-agreement" in failed(judged(chest, organs=organs))


def test_a_missing_body_and_missing_bone(chest: Phantom) -> None:
    nothing = np.full(chest.ct.shape, -1000, np.float32)
    assert failed(judged(chest, nothing)) >= {"body-agreement", "bone-agreement", "organ-hu"}
    hu = chest.ct.voxels.copy()
    hu[:, :, 40:] = np.where(hu[:, :, 40:] > 120, 40, hu[:, :, 40:])  # one half without bone
    assert failed(judged(chest, hu)) >= {"bone-agreement"}


def test_wrong_hu(chest: Phantom) -> None:
    hu = np.where(chest.ct.voxels > -200, chest.ct.voxels * 3 + 300, chest.ct.voxels)
    found = judged(chest, hu)
    assert "organ-hu" in failed(found)
    [check] = [check for check in found.checks if check.name == "organ-hu"]
    assert "HU instead of" in check.message
    assert check.value > 0.3


def test_a_disease_that_was_not_drawn(chest: Phantom, ill: Phantom) -> None:
    combined = labels.paint(ill.organs, ill.diseases)
    found = assess(chest.ct.voxels, combined, chest.ct.geometry)
    assert failed(found) >= {"disease-150", "disease-153"}


def test_changes_far_from_the_disease(chest: Phantom, ill: Phantom) -> None:
    combined = labels.paint(ill.organs, ill.diseases)

    def change(hu: np.ndarray) -> Quality:
        return assess(hu, combined, ill.ct.geometry, twin_hu=chest.ct.voxels)

    quiet = change(np.where(ill.diseases.voxels > 0, ill.ct.voxels, chest.ct.voxels))
    assert quiet.passed
    assert next(check.value for check in quiet.checks if check.name == "hallucination") == 0
    noisy = change(ill.ct.voxels + np.where(chest.organs.voxels == 1, 400, 0))
    assert "hallucination" in failed(noisy)


def test_a_better_volume_has_the_better_score(chest: Phantom) -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(chest.ct.shape, np.float32)
    scores = [judged(chest, chest.ct.voxels + sigma * noise).score for sigma in (0, 150, 600)]
    assert scores[0] > scores[1] > scores[2]


def test_grids_must_match(chest: Phantom) -> None:
    with pytest.raises(InputError, match="one grid"):
        assess(chest.ct.voxels, chest.organs.voxels[1:], chest.ct.geometry)
