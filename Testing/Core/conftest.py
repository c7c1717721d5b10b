"""What the tests of the engine share: small CTs, an own cache, and the command as a real process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ctgencore import phantom
from ctgencore.geometry import Geometry
from ctgencore.volume import Volume
from processes import Command, environment


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty weight cache of this test's own, for this process and those it starts."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("CTGEN_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def small_volume() -> Volume:
    return phantom.chest((10, 24, 32)).ct


@pytest.fixture
def small_ct(tmp_path: Path, small_volume: Volume) -> Path:
    """A small phantom in a file."""
    return small_volume.save(tmp_path / "small.nii.gz")


@pytest.fixture(scope="session")
def slow_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume that keeps ``dct16`` busy for seconds: time enough to cancel."""
    voxels = np.tile(phantom.chest((20, 256, 256)).ct.voxels, (24, 1, 1))
    return Volume(voxels, Geometry((256, 256, 480))).save(tmp_path_factory.mktemp("slow") / "slow.nrrd")


@pytest.fixture
def command() -> Command:
    """Run ``python -m ctgencore ARGUMENTS`` and wait for it."""

    def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "ctgencore", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, cwd=cwd, timeout=300, env=environment())

    return run
