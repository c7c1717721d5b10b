"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def ct_data() -> Path:
    """Folder of the real CT set: ``data/ct`` below CTGEN_DATA, or below ``../shared`` beside the repository."""
    base = Path(os.environ.get("CTGEN_DATA", _ROOT.parent / "shared"))
    for folder in (base / "data" / "ct", base / "ct", base):
        if (folder / "LIDC-IDRI-0001").is_dir():
            return folder
    pytest.skip(f"real CT not found below {base}; set CTGEN_DATA to the folder that holds data/ct")
