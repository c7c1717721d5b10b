"""Real CT from file to file: every case through the command line, and a run that was interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from ctgencore import io, phantom
from processes import Command, environment


def source(case: Path) -> Path:
    return case / "dicom" if (case / "dicom").is_dir() else case / "ct.nii.gz"


def read_with_simpleitk(path: Path) -> sitk.Image:
    """Without our own reader."""
    if path.is_file():
        return sitk.ReadImage(str(path))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(path)))
    return reader.Execute()


def assert_same_grid(path: Path, reference: Path, tolerance_mm: float) -> None:
    """The file opens in SimpleITK as int16, and its corners lie where those of the input lie."""
    image, expected = sitk.ReadImage(str(path)), read_with_simpleitk(reference)
    assert image.GetPixelID() == sitk.sitkInt16
    assert image.GetSize() == expected.GetSize()
    for corner in np.ndindex(2, 2, 2):
        index = [int(c * (n - 1)) for c, n in zip(corner, image.GetSize(), strict=True)]
        there, here = image.TransformIndexToPhysicalPoint(index), expected.TransformIndexToPhysicalPoint(index)
        assert np.linalg.norm(np.subtract(there, here)) <= tolerance_mm


@pytest.mark.heavy
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_every_case_through_the_command_line(command: Command, ct_data: Path, tmp_path: Path, suffix: str) -> None:
    for case in sorted(path for path in ct_data.iterdir() if path.is_dir()):
        target = tmp_path / f"{case.name}{suffix}"
        done = command("reconstruct", "-i", source(case), "-o", target, "--codec", "embedded", "-q")
        assert done.returncode == 0, f"{case.name}: {done.stderr}"
        assert_same_grid(target, source(case), 1e-6 if suffix == ".nrrd" else 1e-3)
        error = np.abs(io.read(target).voxels - io.read(source(case)).voxels.clip(-1000, 1000))
        assert 0 < error.mean() < 100, case.name
        target.unlink()


@pytest.mark.parametrize("case", ["IBSI_PAT3", "TotalSegmentator_example_ct"])
def test_small_cases_through_the_command_line(command: Command, ct_data: Path, tmp_path: Path, case: str) -> None:
    target = tmp_path / "out.nrrd"
    done = command("reconstruct", "-i", source(ct_data / case), "-o", target, "-q")
    assert done.returncode == 0, done.stderr
    assert_same_grid(target, source(ct_data / case), 1e-6)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_an_interrupted_folder_run_taken_up_again_equals_a_straight_one(command: Command, tmp_path: Path) -> None:
    inputs = tmp_path / "in"
    inputs.mkdir()
    for seed in range(4):
        phantom.chest((24, 96, 96), seed=seed).ct.save(inputs / f"{seed}.nii.gz")
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert command("reconstruct", "-i", inputs, "-o", straight, "--codec", "embedded").returncode == 0

    line = [sys.executable, "-m", "ctgencore", "reconstruct", "-i", str(inputs), "-o", str(broken)]
    process = subprocess.Popen(
        [*line, "--codec", "embedded"], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not list(broken.glob("[0-9]_recon.nii.gz")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)  # no time to tidy up
    process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in broken.glob("[0-9]_recon.nii.gz")}
    assert 1 <= len(finished) < 4

    assert command("reconstruct", "-i", inputs, "-o", broken, "--codec", "embedded", "--skip-existing").returncode == 0
    for path in sorted(straight.glob("*.nii.gz")):
        np.testing.assert_array_equal(io.read(broken / path.name).voxels, io.read(path).voxels)
        if path.name in finished and (broken / path.name.replace(".nii.gz", ".json")).exists():
            assert (broken / path.name).stat().st_mtime_ns == finished[path.name], "done work was done again"
