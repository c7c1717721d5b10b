"""Derived DICOM series: the same voxels in the same place, honest about their making, silent about the patient."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import ctgencore
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from ctgencore import io, provenance
from ctgencore.cli import app
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.io import dicom_export
from ctgencore.volume import Volume
from dicom_sources import DATES, SECRET, checker_errors, identifying_values, nasty_series
from pydicom.uid import UID, generate_uid
from test_volume import rotation
from typer.testing import CliRunner

AXES = {
    "axial": np.eye(3),
    "coronal": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]]),
    "oblique": rotation(1.2, -0.4, 2.9, mirrored=False),
    "other oblique": rotation(-0.31, 0.77, 0.123456, mirrored=False),
}
TELLING = {"report": f"{SECRET} nodule", "case": f"{SECRET}_case", "scheme": f"/home/{SECRET}/table.csv", "steps": 2}
REAL = ["LIDC-IDRI-0001", "LUNG1-002", "CRLM-CT-1004", "TotalSegmentator_example_ct_dicom"]


def ct(axes: np.ndarray = AXES["axial"], seed: int = 0, shape: tuple[int, int, int] = (5, 24, 32)) -> Volume:
    """Noise: no voxel can be taken for another."""
    voxels = np.random.default_rng(seed).uniform(-1500, 3000, shape)
    z, y, x = shape
    grid = Geometry((x, y, z), (0.7031251, 0.9, 2.5000003), (-123.4567891, 87.6543219, 1 / 3), tuple(axes.ravel()))
    return Volume(voxels, grid)


def processed(volume: Volume) -> Volume:
    return ctgencore.reconstruct(volume, "identity")


def generated(volume: Volume) -> Volume:
    record = provenance.RunRecord(task="generate", synthetic=True, codec="model/codec", options=TELLING)
    return volume.with_voxels(volume.voxels, record=record)


def headers(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted(folder.iterdir())]


def content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_round_trip_keeps_voxels_and_grid(tmp_path: Path, axes: np.ndarray) -> None:
    volume = ct(axes)
    files = io.write_series(volume, tmp_path / "s")
    back = io.read(tmp_path / "s")
    back.geometry.assert_equal(volume.geometry, tol_mm=1e-6)
    np.testing.assert_array_equal(back.voxels, np.rint(volume.voxels))
    assert back.warnings == ()

    for number, (file, header) in enumerate(zip(files, headers(tmp_path / "s"), strict=True)):  # without our reader
        hu = header.pixel_array * header.RescaleSlope + header.RescaleIntercept
        np.testing.assert_array_equal(hu, np.rint(volume.voxels[number]), strict=False)
        row, column = np.reshape(header.ImageOrientationPatient, (2, 3)).astype(float)
        dy, dx = map(float, header.PixelSpacing)
        corner = np.array(header.ImagePositionPatient, float) + 31 * dx * row + 23 * dy * column
        np.testing.assert_allclose(corner, (volume.geometry.affine_lps() @ [31, 23, number, 1])[:3], atol=1e-6)
        assert file.name == f"{number + 1:04d}.dcm"
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "s")))
    image = reader.Execute()
    np.testing.assert_array_equal(sitk.GetArrayViewFromImage(image), np.rint(volume.voxels))


def test_left_handed_grid_comes_back_in_ascending_order_in_the_same_place(tmp_path: Path) -> None:
    volume = ct(rotation(0.3, 0.2, 0.1, mirrored=True))
    io.write_series(volume, tmp_path / "s")
    back = io.read(tmp_path / "s")
    np.testing.assert_array_equal(back.voxels[::-1], np.rint(volume.voxels))
    first, last = back.geometry.affine_lps() @ [0, 0, 4, 1], volume.geometry.affine_lps() @ [0, 0, 0, 1]
    np.testing.assert_allclose(first, last, atol=1e-6)


def test_the_same_input_gives_the_same_bytes_and_another_input_other_uids(tmp_path: Path) -> None:
    volume = processed(ct())
    folders = [tmp_path / name for name in ("one", "two", "voxels", "description", "burned")]
    io.write_series(volume, folders[0])
    io.write_series(volume, folders[1])
    assert content(folders[0]) == content(folders[1])
    changed = volume.with_voxels(volume.voxels + 1, record=volume.record)
    io.write_series(changed, folders[2])
    io.write_series(volume, folders[3], description="other words")
    io.write_series(processed(ct(shape=(5, 32, 64))), folders[4], burn_in=True)
    found = [headers(folder) for folder in folders]
    assert len({items[0].SeriesInstanceUID for items in found}) == 4  # the first two are one series
    own = {item.SOPInstanceUID for items in found for item in items}
    assert len(own) == 4 * 5
    uids = [*own, *(items[0][name].value for items in found for name in ("StudyInstanceUID", "FrameOfReferenceUID"))]
    assert all(UID(uid).is_valid and uid.startswith("2.25.") for uid in uids)


def test_views_and_their_scan_are_one_patient_and_study_without_any_header(tmp_path: Path) -> None:
    scan = ct()
    view = processed(scan)
    view.voxels += 3
    for name, volume in {"scan": scan, "view": view, "made": generated(view), "other": ct(seed=1)}.items():
        io.write_series(volume, tmp_path / name)
    names = ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID")
    found = {
        name: [headers(tmp_path / name)[0][key].value for key in names] for name in ("scan", "view", "made", "other")
    }
    assert found["scan"] == found["view"]
    assert not set(found["scan"]) & {*found["made"], *found["other"]}


def test_what_a_series_says_of_itself(tmp_path: Path) -> None:
    for name, volume in {"made": generated(ct()), "view": processed(ct()), "plain": ct()}.items():
        io.write_series(volume, tmp_path / name, description="" if name != "view" else "half the grain")
    made, view, plain = (headers(tmp_path / name)[0] for name in ("made", "view", "plain"))
    assert made.SeriesDescription == "SYNTHETIC generate model/codec"
    assert view.SeriesDescription == "SYNTHETIC PROCESSED half the grain"
    assert plain.SeriesDescription == "CONVERTED by CTGen"
    assert [item.get("SyntheticData") for item in (made, view, plain)] == ["YES", "YES", None]
    for item in (made, view, plain):
        assert item.ImageType[:2] == ["DERIVED", "SECONDARY"]
        assert item.BurnedInAnnotation == "NO"
        assert item.SoftwareVersions == ctgencore.__version__
        assert item.SOPClassUID.name == "CT Image Storage"
    assert made.DerivationDescription.startswith("CTGen SYNTHETIC generate model/codec ")
    assert [item.DerivationCodeSequence[0].CodeValue for item in (made, view)] == ["GENERATE", "RECONSTRUCT"]
    assert made.ContributingEquipmentSequence[-1].PurposeOfReferenceCodeSequence[0].CodeValue == "109100"
    record = json.loads(view.private_block(0x0077, "CTGen")[1].value)
    assert record["task"] == "reconstruct"
    assert view.DerivationDescription.endswith(record["record_id"][:8])


def test_verify_knows_a_series_and_notices_a_change(tmp_path: Path) -> None:
    io.write_series(generated(ct()), tmp_path / "made")
    io.write_series(processed(ct()), tmp_path / "view")
    io.write_series(ct(), tmp_path / "plain")
    found = {name: provenance.verify(tmp_path / name) for name in ("made", "view", "plain")}
    assert [item.verdict for item in found.values()] == ["synthetic", "processed", "unmarked"]
    assert [item.voxels_match_record for item in found.values()] == [True, True, None]
    assert io.read(tmp_path / "made").is_synthetic
    again = io.read(tmp_path / "made")  # written once more from DICOM alone, the mark stays
    io.write_series(again, tmp_path / "again")
    assert provenance.verify(tmp_path / "again").verdict == "synthetic"

    path = tmp_path / "view" / "0003.dcm"
    spoiled = pydicom.dcmread(path)
    pixels = bytearray(spoiled.PixelData)
    pixels[100] ^= 1
    spoiled.PixelData = bytes(pixels)
    spoiled.save_as(path)
    assert provenance.verify(tmp_path / "view").voxels_match_record is False


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nasty_series(tmp_path_factory.mktemp("source") / f"{SECRET}_folder" / "ct")


def test_nothing_identifying_is_left_of_an_invented_patient(source: Path, tmp_path: Path) -> None:
    values = identifying_values(source)
    assert sum(SECRET.encode() in value for value in values) > 15  # the search finds them, nested and private too
    volume = io.read(source)
    volume.source = source.parent  # its name would name the patient
    view = processed(volume)
    assert view.record is not None
    assert view.record.inputs[0]["name"] == f"{SECRET}_folder"
    view.record = replace(view.record, notes=[f"{SECRET}_folder: a single slice"])
    io.write_series(view, tmp_path / "s", like=source)
    io.write_series(generated(volume), tmp_path / "made", like=source)
    for path in [*(tmp_path / "s").iterdir(), *(tmp_path / "made").iterdir()]:
        written = path.read_bytes()
        assert [value for value in values if value in written] == []
        assert SECRET.encode() not in written
    kept = json.loads(headers(tmp_path / "made")[0].private_block(0x0077, "CTGen")[1].value)["options"]
    assert kept == {"report": "", "case": "", "scheme": "", "steps": 2}
    header = headers(tmp_path / "s")[0]
    assert header.PatientIdentityRemoved == "YES"
    assert header.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    assert (header.StudyDate, header.PatientBirthDate, header.PatientSex) == ("", "", "")
    assert (header.KVP, header.ConvolutionKernel, header.PatientPosition) == (120, "B31f", "HFS")
    scanner = header.ContributingEquipmentSequence[0]
    assert (scanner.Manufacturer, scanner.ManufacturerModelName) == ("ACME", "Spiral 9")


@pytest.mark.parametrize("case", REAL)
def test_real_source_leaves_nothing_identifying_and_no_error(ct_data: Path, tmp_path: Path, case: str) -> None:
    folder = ct_data / case / "dicom"
    values = identifying_values(folder)
    assert len(values) > 10
    io.write_series(processed(ct(shape=(2, 24, 32))), tmp_path / "s", like=folder)
    for path in (tmp_path / "s").iterdir():
        written = path.read_bytes()
        assert [value for value in values if value in written] == []
        assert checker_errors(path) == []
    io.write_series(ct(shape=(1, 24, 32)), tmp_path / "kept", like=folder, keep_patient=True)
    assert checker_errors(tmp_path / "kept" / "0001.dcm") == []


def test_series_of_one_patient_stay_together(source: Path, tmp_path: Path) -> None:
    study = headers(source)[0].StudyInstanceUID
    sources = {
        "same study": nasty_series(tmp_path / "a", study=study),
        "other study": nasty_series(tmp_path / "b"),
        "other patient": nasty_series(tmp_path / "c", patient="Secret-0815"),
    }
    found = {}
    for name, folder in {"first": source, **sources}.items():
        io.write_series(ct(), tmp_path / name, like=folder)
        header = headers(tmp_path / name)[0]
        found[name] = (header.PatientID, str(header.PatientName), header.StudyInstanceUID)
    assert found["first"] == found["same study"]
    assert found["first"][:2] == found["other study"][:2]
    assert found["first"][2] != found["other study"][2]
    assert found["first"][0] != found["other patient"][0]


def test_patient_and_study_can_be_kept(source: Path, tmp_path: Path) -> None:
    io.write_series(io.read(source), tmp_path / "s", like=source, keep_patient=True)
    old, new = headers(source)[0], headers(tmp_path / "s")[0]
    for name in ("PatientID", "PatientBirthDate", "StudyInstanceUID", "FrameOfReferenceUID", "StudyDate", "StudyID"):
        assert new[name].value == old[name].value
    assert str(new.PatientName) == str(old.PatientName) == f"{SECRET}^M\xfcller"  # Latin-1 there, UTF-8 here
    assert "PatientIdentityRemoved" not in new
    assert new.SeriesInstanceUID != old.SeriesInstanceUID
    assert str(new.StudyDate) == DATES[1]
    with pytest.raises(InputError, match="none is given"):
        io.write_series(ct(), tmp_path / "t", keep_patient=True)


def test_slices_refer_to_the_slices_they_come_from(source: Path, tmp_path: Path) -> None:
    volume = io.read(source)
    io.write_series(volume, tmp_path / "kept", like=source, keep_patient=True)
    io.write_series(volume, tmp_path / "hidden", like=source)
    io.write_series(ct(), tmp_path / "elsewhere", like=source)
    originals = {float(item.ImagePositionPatient[2]): item.SOPInstanceUID for item in headers(source)}
    seen = set()
    for kept, hidden in zip(headers(tmp_path / "kept"), headers(tmp_path / "hidden"), strict=True):
        [item], [other] = kept.SourceImageSequence, hidden.SourceImageSequence
        assert item.ReferencedSOPInstanceUID == originals[float(kept.ImagePositionPatient[2])]
        assert item.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        seen.add(other.ReferencedSOPInstanceUID)
    assert len(seen) == len(originals)
    assert not seen & set(originals.values())
    assert all("SourceImageSequence" not in item for item in headers(tmp_path / "elsewhere"))


def test_source_folder_with_two_series(source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "both"))
    series = generate_uid()
    for item in headers(source):
        item.SeriesInstanceUID, item.ConvolutionKernel = series, "B70f"
        item.SOPInstanceUID = generate_uid()
        item.save_as(folder / f"b{item.InstanceNumber}.dcm", enforce_file_format=True)
    with pytest.raises(InputError, match="this folder holds 2"):
        io.write_series(ct(), tmp_path / "s", like=folder)
    io.write_series(ct(), tmp_path / "s", like=folder / "b1.dcm")
    assert headers(tmp_path / "s")[0].ConvolutionKernel == "B70f"


def test_burned_in_text(tmp_path: Path) -> None:
    volume = processed(ct(shape=(3, 96, 256)))
    io.write_series(volume, tmp_path / "s", burn_in=True)
    back = io.read(tmp_path / "s").voxels
    box = np.isin(back, (dicom_export._INK, dicom_export._PAPER)).all(axis=0)
    rows, columns = np.flatnonzero(box.sum(1) > 60), np.flatnonzero(box.sum(0) > 8)
    height, width = rows[-1] + 1, columns[-1] + 1
    assert box[:height, :width].all()
    np.testing.assert_array_equal(back[:, height:], np.rint(volume.voxels[:, height:]))
    np.testing.assert_array_equal(back[:, :, width:], np.rint(volume.voxels[:, :, width:]))
    ink = (back[0, :height, :width] == dicom_export._INK).any(axis=0)
    assert np.count_nonzero(np.diff(ink.astype(int)) == 1) == len("SYNTHETIC")  # letters with gaps between
    assert headers(tmp_path / "s")[0].BurnedInAnnotation == "YES"
    assert provenance.verify(tmp_path / "s").voxels_match_record is True  # the record is that of the written pixels
    with pytest.raises(InputError, match="Text needs slices of 9x43 pixels"):
        io.write_series(ct(), tmp_path / "t", burn_in=True)


def test_text_burned_into_the_source_is_not_passed_on_unseen(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "burned"
    folder.mkdir()
    for number, item in enumerate(headers(source)):
        item.BurnedInAnnotation = "YES"
        item.save_as(folder / f"{number}.dcm")
    with pytest.raises(InputError, match="text is burned into its pixels"):
        io.write_series(ct(), tmp_path / "s", like=folder)
    io.write_series(ct(), tmp_path / "s", like=folder, keep_patient=True)
    assert headers(tmp_path / "s")[0].BurnedInAnnotation == "YES"


def test_what_cannot_be_written(tmp_path: Path) -> None:
    tilted = (1, 0, 0.1, 0, 1, 0, 0, 0, 0.99498743711)
    sheared = Volume(np.zeros((2, 8, 8)), Geometry((8, 8, 2), direction=tilted))
    nan = ct()
    nan.voxels[1, 2, 3] = np.nan
    cases = [(sheared, "", "sheared"), (nan, "", "finite"), (ct(), "x" * 60, "at most 64"), (ct(), "a\\b", "backslash")]
    for volume, description, text in cases:
        with pytest.raises(InputError, match=text):
            io.write_series(volume, tmp_path / "s", description=description)
    with pytest.raises(InputError, match="nowhere does not exist"):
        io.write_series(ct(), tmp_path / "nowhere" / "s")
    assert list(tmp_path.iterdir()) == []


def test_folder_appears_whole_and_replaces_only_its_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "s"
    io.write_series(ct(), folder)
    before = content(folder)
    real, calls = dicom_export.save, []

    def full_disk(dataset: pydicom.Dataset, path: Path) -> None:
        assert content(folder) == before  # the old series is whole while the new one is written
        calls.append(path)
        if len(calls) == 4:
            raise OSError("No space left on device")
        real(dataset, path)

    with monkeypatch.context() as patch:
        patch.setattr(dicom_export, "save", full_disk)
        with pytest.raises(InputError, match="No space left on device"):
            io.write_series(ct(seed=1), folder)
    assert content(folder) == before
    assert os.listdir(tmp_path) == ["s"]
    io.write_series(ct(seed=1, shape=(3, 24, 32)), folder)
    assert len(content(folder)) == 3
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="refusing to replace it"):
        io.write_series(ct(), folder)
    assert (folder / "notes.txt").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(source: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.dcm"
    item = headers(source)[0]
    del item.PixelSpacing
    item.save_as(broken)
    assert checker_errors(broken) != []  # the search for errors finds some
    io.write_series(generated(ct(AXES["oblique"])), tmp_path / "made")
    io.write_series(processed(io.read(source)), tmp_path / "view", like=source)
    io.write_series(io.read(source), tmp_path / "kept", like=source, keep_patient=True)
    for name in ("made", "view", "kept"):
        assert checker_errors(tmp_path / name / "0002.dcm") == [], name


def test_real_series_in_and_out(ct_data: Path, tmp_path: Path) -> None:
    folder = ct_data / "CRLM-CT-1004" / "dicom"
    volume = io.read(folder)
    io.write_series(volume, tmp_path / "s", like=folder)
    back = io.read(tmp_path / "s")
    back.geometry.assert_equal(volume.geometry, tol_mm=1e-6)
    np.testing.assert_array_equal(back.voxels, volume.voxels)
    assert len(headers(tmp_path / "s")[7].SourceImageSequence) == 1
    assert checker_errors(tmp_path / "s" / "0008.dcm") == []


def test_command(source: Path, tmp_path: Path) -> None:
    processed(io.read(source)).save(tmp_path / "view.nrrd")
    line = ["dicom", "export", str(tmp_path / "view.nrrd"), "-o", str(tmp_path / "s"), "--like", str(source)]
    done = CliRunner().invoke(app, [*line, "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert (result["slices"], result["verdict"]) == (6, "processed")
    assert provenance.verify(tmp_path / "s").voxels_match_record is True
    assert CliRunner().invoke(app, line).exit_code == 2
    assert CliRunner().invoke(app, [*line, "--overwrite", "--keep-patient", "--description", "kept"]).exit_code == 0
    assert headers(tmp_path / "s")[0].SeriesDescription == "SYNTHETIC PROCESSED kept"
