"""The packaged generator on a chest that it has never seen: it follows its masks, and diseases stay where they are.

The floors are modest, for one volume; the targets are measured by `Testing/bench/embedded_generator.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import ctgencore as ctg
import numpy as np
import pytest
from ctgencore import labels, phantom
from ctgencore.phantom.scene import Phantom
from ctgencore.tasks.quality import assess

SHAPE_ZYX = (64, 128, 128)
SEED = 900_501
DISEASED = {"Consolidation": 150, "Emphysema": 153, "Pleural effusion": 159}
STEPS = 12


@dataclass(frozen=True)
class Case:
    """A phantom with three diseases, generated with them and as its healthy twin."""

    drawn: Phantom
    ill: ctg.Volume
    twin: ctg.Volume

    @property
    def change(self) -> np.ndarray:
        return self.ill.voxels.astype(np.float32) - self.twin.voxels


@pytest.fixture(scope="module")
def generator() -> ctg.Generator:
    return ctg.Generator.from_pretrained("foundation-embedded", device="cpu")


@pytest.fixture(scope="module")
def case(generator: ctg.Generator) -> Case:
    drawn = phantom.chest(SHAPE_ZYX, seed=SEED, findings=tuple(DISEASED))
    ill = generator(drawn.organs, drawn.diseases, drawn.report.text, seed=3, steps=STEPS)
    twin = generator(drawn.organs, seed=3, steps=STEPS)
    return Case(drawn, ill, twin)


def test_the_masks_are_followed(case: Case, record_property: pytest.RecordProperty) -> None:
    for volume, diseases in ((case.ill, case.drawn.diseases), (case.twin, None)):
        combined = case.drawn.organs.voxels if diseases is None else labels.paint(case.drawn.organs, diseases)
        value = {check.name: check.value for check in assess(volume.voxels, combined, volume.geometry).checks}
        assert value["lung-agreement"] > 0.93
        assert value["body-agreement"] > 0.95
        assert value["bone-agreement"] > 0.65
        assert value["organ-hu"] <= 0.15
    record_property("seconds", case.ill.record.timings_s["run"])


@pytest.mark.parametrize(("name", "class_id"), DISEASED.items())
def test_a_disease_changes_its_mask_the_right_way(case: Case, name: str, class_id: int) -> None:
    inside = case.drawn.diseases.voxels == class_id
    assert inside.sum() >= 20, f"the phantom should show {name}"
    shift = labels.DISEASES[class_id].direction * case.change[inside].mean()
    assert shift > {150: 200, 153: 5, 159: 200}[class_id]


def test_a_disease_changes_little_elsewhere(case: Case) -> None:
    combined = labels.paint(case.drawn.organs, case.drawn.diseases)
    checks = assess(case.ill.voxels, combined, case.ill.geometry, twin_hu=case.twin.voxels).checks
    [outside] = [check.value for check in checks if check.name == "hallucination"]
    assert outside < 15
