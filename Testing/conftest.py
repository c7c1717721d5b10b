"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its documentation's own name)

_ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def ct_data() -> Path:
    """Folder of the real CT set: ``data/ct`` below CTGEN_DATA, or below ``../shared`` beside the repository."""
    base = Path(os.environ.get("CTGEN_DATA", _ROOT.parent / "shared"))
    for folder in (base / "data" / "ct", base / "ct", base):
        if (folder / "LIDC-IDRI-0001").is_dir():
            return folder
    pytest.skip(f"real CT not found below {base}; set CTGEN_DATA to the folder that holds data/ct")


@pytest.fixture
def real_pairs(ct_data: Path, tmp_path: Path) -> Path:
    """A data set of real patients, DICOM and NIfTI mixed: all with a mask, whose labels are made one."""
    pairs = tmp_path / "patients"
    for mask in sorted(ct_data.glob("*/seg.nii.gz")):
        case = pairs / mask.parent.name
        case.mkdir(parents=True)
        dicom = mask.parent / "dicom"
        source = dicom if dicom.is_dir() else mask.parent / "ct.nii.gz"
        (case / source.name).symlink_to(source)
        image = sitk.ReadImage(str(mask))
        label = sitk.GetImageFromArray((sitk.GetArrayFromImage(image) > 0).astype(np.uint8))
        label.CopyInformation(image)
        sitk.WriteImage(label, str(case / "seg.nii.gz"))
    return pairs
