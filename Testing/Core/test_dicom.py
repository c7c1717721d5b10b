"""DICOM series: real ones against independent readers, and real slices spoiled in every usual way."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from ctgencore import io
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from test_volume import rotation

REAL = ["LIDC-IDRI-0001", "LUNG1-002", "CRLM-CT-1004", "TotalSegmentator_example_ct_dicom"]
Slices = list[Dataset]


@pytest.mark.parametrize("case", REAL)
def test_real_series_against_pydicom_headers_and_masks(ct_data: Path, case: str) -> None:
    folder = ct_data / case / "dicom"
    volume = io.read(folder)
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.iterdir()]
    headers.sort(key=lambda header: float(header.ImagePositionPatient[2]))
    first, last = headers[0], headers[-1]
    step = (float(last.ImagePositionPatient[2]) - float(first.ImagePositionPatient[2])) / (len(headers) - 1)
    expected = Geometry(
        (first.Columns, first.Rows, len(headers)),
        (float(first.PixelSpacing[1]), float(first.PixelSpacing[0]), step),
        tuple(float(v) for v in first.ImagePositionPatient),
    )
    volume.geometry.assert_equal(expected)
    assert volume.meta["modality"] == "CT"
    assert volume.meta["manufacturer"] == str(first.Manufacturer)
    assert not {"patient", "uid", "date"} & set("_".join(volume.meta).split("_"))
    assert volume.check_ct() == []
    air = volume.voxels[:, :40, 200:300]  # above the patient, inside the reconstruction circle
    assert np.median(air[air > -1100]) == pytest.approx(-990, abs=35)  # intercept applied once: not 0, not -2048
    if case == "LUNG1-002":
        lungs = np.isin(nib.load(ct_data / case / "seg.nii.gz").get_fdata().T, (1, 2))
        assert -900 < np.median(volume.voxels[lungs]) < -600  # slices in the right order, axes not swapped
        assert io.read_labels(ct_data / case / "seg.nii.gz").geometry.max_corner_distance_mm(volume.geometry) < 1e-2


def test_real_series_equals_itks_reader(ct_data: Path) -> None:
    folder = ct_data / "CRLM-CT-1004" / "dicom"
    syntax = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True).file_meta.TransferSyntaxUID
    assert syntax.name.startswith("JPEG-LS")  # otherwise this file no longer tests what it should
    volume = io.read(folder)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    volume.geometry.assert_equal(Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()))
    np.testing.assert_array_equal(volume.voxels, sitk.GetArrayViewFromImage(image))


@pytest.fixture(scope="session")
def real_slices(ct_data: Path) -> Slices:
    """Eight neighbouring slices of a real scan, cropped to 40 x 32 and uncompressed; pixels decoded by pydicom."""
    folder = ct_data / "TotalSegmentator_example_ct_dicom" / "dicom"
    slices = sorted(
        (pydicom.dcmread(path) for path in folder.iterdir()), key=lambda item: float(item.ImagePositionPatient[2])
    )[:8]
    series = generate_uid()
    for item in slices:
        pixels = item.pixel_array[200:240, 240:272]
        item.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item.PixelData = np.ascontiguousarray(pixels).tobytes()
        item["PixelData"].VR = "OW"
        item["PixelData"].is_undefined_length = False
        item.Rows, item.Columns = pixels.shape
        item.SeriesInstanceUID, item.SeriesDescription = series, "thorax 2 mm"
        item.SOPInstanceUID = item.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    return slices


@pytest.fixture
def slices(real_slices: Slices) -> Slices:
    """A copy that a test may spoil."""
    return [pydicom.dcmread(_bytes(item)) for item in real_slices]


def _bytes(item: Dataset):
    from io import BytesIO

    buffer = BytesIO()
    item.save_as(buffer, enforce_file_format=True)
    buffer.seek(0)
    return buffer


def save(slices: Slices, folder: Path, prefix: str = "i") -> Path:
    folder.mkdir(exist_ok=True)
    order = np.random.default_rng(0).permutation(len(slices))  # file names say nothing about position
    for number, item in zip(order, slices, strict=True):
        item.save_as(folder / f"{prefix}{number:03d}.dcm", enforce_file_format=True)
    return folder


def hu(slices: Slices) -> np.ndarray:
    return np.stack([item.pixel_array * float(item.RescaleSlope) + float(item.RescaleIntercept) for item in slices])


def test_pixels_equal_pydicoms(slices: Slices, tmp_path: Path) -> None:
    folder = save(slices, tmp_path / "s")
    volume = io.read(folder)
    np.testing.assert_array_equal(volume.voxels, hu(slices))
    assert volume.warnings == ()
    one_file = io.read(next(folder.iterdir()))
    np.testing.assert_array_equal(one_file.voxels, volume.voxels)
    assert one_file.geometry == volume.geometry


def test_rescale_is_each_slices_own_and_may_be_fractional(slices: Slices, tmp_path: Path) -> None:
    for i, item in enumerate(slices):
        item.RescaleSlope, item.RescaleIntercept = 0.5 + 0.25 * i, -1000 - i
    np.testing.assert_array_equal(io.read(save(slices, tmp_path / "s")).voxels, hu(slices))


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), (1.2, -0.4, 2.9), (np.pi, np.pi / 2, 0.0)])
def test_any_orientation(slices: Slices, tmp_path: Path, angles: tuple[float, float, float]) -> None:
    axes = rotation(*angles, mirrored=False)
    for k, item in enumerate(slices):
        item.ImageOrientationPatient = [f"{v:.10f}" for v in axes[:, :2].T.ravel()]
        item.ImagePositionPatient = [f"{v:.8f}" for v in np.array([10, -20, 30]) + axes[:, 2] * 2.5 * k]
        item.PixelSpacing = ["0.9", "0.7"]  # between rows (y), between columns (x)
    volume = io.read(save(slices, tmp_path / "s"))
    volume.geometry.assert_equal(
        Geometry((32, 40, 8), (0.7, 0.9, 2.5), (10, -20, 30), tuple(axes.ravel())), tol_mm=1e-5
    )
    np.testing.assert_array_equal(volume.voxels, hu(slices))


def test_several_series_are_listed_and_one_is_picked(slices: Slices, tmp_path: Path) -> None:
    folder = save(slices, tmp_path / "s")
    first = slices[0].SeriesInstanceUID
    other = generate_uid()
    for item in slices[:5]:
        item.SeriesInstanceUID, item.SeriesDescription, item.RescaleIntercept = other, "bone kernel", -24
    save(slices[:5], folder, "other")
    with pytest.raises(InputError, match="one series is read at a time; this folder holds 2") as caught:
        io.read(folder)
    text = str(caught.value)
    assert f"{first}: CT, thorax 2 mm, 8 slices" in text
    assert f"{other}: CT, bone kernel, 5 slices" in text
    assert "read(path, series=UID)" in text
    np.testing.assert_array_equal(io.read(folder, series=other).voxels, hu(slices[:5]))
    assert io.read(folder / "other000.dcm").shape == (5, 40, 32)
    with pytest.raises(InputError, match=r"no series 1\.2\.3\. There is:"):
        io.read(folder, series="1.2.3")


def test_rtstruct_beside_the_slices_is_passed_over(ct_data: Path, slices: Slices, tmp_path: Path) -> None:
    folder = save(slices, tmp_path / "s")
    shutil.copy(ct_data / "LUNG1-002" / "RTSTRUCT.dcm", folder)
    (folder / "notes.txt").write_text("DICM")
    np.testing.assert_array_equal(io.read(folder).voxels, hu(slices))
    assert io.list_volumes(tmp_path) == [folder]
    with pytest.raises(InputError, match=r"RTSTRUCT\.dcm is DICOM but holds no image"):
        io.read(folder / "RTSTRUCT.dcm")
    with pytest.raises(InputError, match="no DICOM image in this folder"):
        io.read(ct_data / "LUNG1-002")


def test_missing_slices_are_counted(slices: Slices, tmp_path: Path) -> None:
    z = [float(item.ImagePositionPatient[2]) for item in slices]
    text = rf"about 2 slices are missing \(spacing 2 mm, gaps at {z[2]:g} to {z[5]:g} mm\)"
    with pytest.raises(InputError, match=text):
        io.read(save(slices[:3] + slices[5:], tmp_path / "s"))


def test_uneven_spacing(slices: Slices, tmp_path: Path) -> None:
    start = float(slices[0].ImagePositionPatient[2])
    for k, item in enumerate(slices):
        item.ImagePositionPatient[2] = f"{start + 2 * k + 0.02 * (k % 2):.6f}"
    (warning,) = io.read(save(slices, tmp_path / "a")).warnings
    assert "deviate by up to 0.0" in warning
    for k, item in enumerate(slices):
        item.ImagePositionPatient[2] = f"{start + 2 * k + 0.05 * k * k:.6f}"
    with pytest.raises(InputError, match=r"evenly spaced; distances run from 2\.05 to 2\.65 mm"):
        io.read(save(slices, tmp_path / "b"))


def test_two_slices_at_one_place(slices: Slices, tmp_path: Path) -> None:
    slices[3].ImagePositionPatient = slices[4].ImagePositionPatient
    with pytest.raises(InputError, match="share a position"):
        io.read(save(slices, tmp_path / "s"))


def test_gantry_tilt(slices: Slices, tmp_path: Path) -> None:
    for k, item in enumerate(slices):
        item.ImagePositionPatient[1] = f"{float(item.ImagePositionPatient[1]) + 2 * k * np.tan(np.radians(12)):.6f}"
    with pytest.raises(InputError, match=r"gantry tilt of 12\.00 degrees.*sheared"):
        io.read(save(slices, tmp_path / "s"))


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda s: [setattr(item, "Modality", "MR") for item in s], r"works on CT; this series is MR"),
        (lambda s: s[2].__delattr__("ImagePositionPatient"), "lacks its position, orientation or pixel spacing"),
        (lambda s: setattr(s[5], "PixelSpacing", ["0.5", "0.5"]), r"differs from most \(1 of 8 slices do"),
        (lambda s: setattr(s[5], "ImageOrientationPatient", [0, 1, 0, 0, 0, -1]), "slices of a volume share"),
    ],
)
def test_what_is_not_one_ct_volume(slices: Slices, tmp_path: Path, spoil, text: str) -> None:
    spoil(slices)
    with pytest.raises(InputError, match=text):
        io.read(save(slices, tmp_path / "s"))


@pytest.mark.parametrize("keep", [0.97, 0.5, 0.1])
def test_cut_off_slice(slices: Slices, tmp_path: Path, keep: float) -> None:
    folder = save(slices, tmp_path / "s")
    for victim in sorted(folder.iterdir()):  # the first and the last slice as well
        whole = victim.read_bytes()
        victim.write_bytes(whole[: int(keep * len(whole))])
        with pytest.raises(InputError, match=r"pixels cannot be read|CT slices are damaged|lacks its position"):
            io.read(folder)
        victim.write_bytes(whole)
    assert io.read(folder).shape == (8, 40, 32)


def test_cut_off_jpeg_ls_slice(ct_data: Path, tmp_path: Path) -> None:
    paths = sorted((ct_data / "CRLM-CT-1004" / "dicom").iterdir())[:6]
    paths.sort(key=lambda path: float(pydicom.dcmread(path, stop_before_pixels=True).ImagePositionPatient[2]))
    for path in paths:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    victim = tmp_path / paths[2].name
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    with pytest.raises(InputError):
        io.read(tmp_path)


def test_one_slice_has_its_thickness_as_spacing(slices: Slices, tmp_path: Path) -> None:
    volume = io.read(save(slices[:1], tmp_path / "s"))
    assert volume.geometry.spacing_mm[2] == float(slices[0].SliceThickness)
    assert "a single slice" in volume.warnings[0]
