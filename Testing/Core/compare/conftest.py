"""A CT to compare codecs on."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ctgencore import phantom
from ctgencore.geometry import Geometry
from ctgencore.volume import Volume


@pytest.fixture(scope="module", autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def frozen() -> None:
    """What torch and others keep is not looked through again for garbage, which is done around every codec."""
    gc.freeze()


@pytest.fixture(scope="module")
def chest() -> Volume:
    """A chest of a few centimeters, whole HU within the wide window."""
    ct = phantom.chest((12, 48, 48)).ct
    return Volume(np.rint(ct.voxels.clip(-1000, 1000)), Geometry((48, 48, 12), (2.0, 2.0, 2.0)))


@pytest.fixture(scope="module")
def small(chest: Volume) -> Volume:
    """Of a few millimeters: no body, so that no time goes into edges."""
    return Volume(chest.voxels[:, ::2, ::2], Geometry((24, 24, 12), (0.2, 0.2, 0.2)))


@pytest.fixture
def ct(tmp_path: Path, small: Volume) -> Path:
    return Volume(small.voxels, small.geometry).save(tmp_path / "ct.nii.gz")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder
