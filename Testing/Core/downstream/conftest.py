"""Data sets that the tests of a module share."""

from __future__ import annotations

from pathlib import Path

import pytest
from studying import write_msd, write_pairs


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msd(tmp_path_factory.mktemp("msd") / "Task99_Ball", range(10))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    return {
        "train": write_pairs(folder / "train", range(8)),
        "test": write_pairs(folder / "test", range(100, 110)),
        "synthetic": write_pairs(folder / "synthetic", range(200, 208), "drawn_{}"),
    }
