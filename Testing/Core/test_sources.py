"""Recognition of data sets: every layout, every problem, patients, names of labels, and how long it takes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
from ctgencore.errors import InputError
from ctgencore.io.inspect import inspect, series_grid
from ctgencore.tasks.augment.model import DataSet
from ctgencore.tasks.augment.sources import read_dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SIZE = (8, 9, 4)


def volume(path: Path, *, size: tuple[int, ...] = SIZE, shift_mm: float = 0.0, kind: int = sitk.sitkInt16) -> Path:
    """A small file with a grid of its own kind; what is in the voxels does not matter here."""
    image = sitk.Image(size, kind)
    image.SetSpacing((0.7, 0.8, 2.5)[: len(size)] + (1.0,) * (len(size) - 3))
    image.SetOrigin((-10.0 + shift_mm, 20.0, 300.0)[: len(size)] + (0.0,) * (len(size) - 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def labels(path: Path, **options: Any) -> Path:
    return volume(path, kind=sitk.sitkUInt8, **options)


def series(
    folder: Path, *, patient: str = "P1", study: str | None = None, modality: str = "CT", slices: int = SIZE[2]
) -> list[pydicom.Dataset]:
    """A DICOM series on the grid of :func:`volume`."""
    folder.mkdir(parents=True, exist_ok=True)
    study, series_uid, frame = study or generate_uid(), generate_uid(), generate_uid()
    written = []
    for n in range(slices):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        item = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        item.SOPClassUID, item.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        item.PatientID, item.PatientName, item.PatientBirthDate, item.PatientSex = patient, "A^B", "", ""
        item.StudyInstanceUID, item.SeriesInstanceUID, item.FrameOfReferenceUID = study, series_uid, frame
        item.StudyID, item.StudyDate, item.StudyTime, item.AccessionNumber = "1", "", "", ""
        item.ReferringPhysicianName, item.SeriesNumber, item.InstanceNumber = "", 1, n + 1
        item.Modality, item.Rows, item.Columns = modality, SIZE[1], SIZE[0]
        item.PixelSpacing, item.SliceThickness = [0.8, 0.7], 2.5
        item.ImagePositionPatient, item.ImageOrientationPatient = [-10, 20, 300 + 2.5 * n], [1, 0, 0, 0, 1, 0]
        item.BitsAllocated = item.BitsStored = 16
        item.HighBit, item.PixelRepresentation, item.SamplesPerPixel = 15, 1, 1
        item.PhotometricInterpretation, item.RescaleSlope, item.RescaleIntercept = "MONOCHROME2", 1, -1024
        item.PixelData = np.zeros((SIZE[1], SIZE[0]), np.int16).tobytes()
        item.save_as(folder / f"{n:04d}.dcm", enforce_file_format=True)
        written.append(item)
    return written


def segmentation(path: Path, source: list[pydicom.Dataset], names: tuple[str, ...]) -> None:
    """A DICOM SEG of a series by highdicom."""
    device = {
        "manufacturer": "x",
        "manufacturer_model_name": "x",
        "software_versions": "1",
        "device_serial_number": "1",
    }
    described = [
        hd.seg.SegmentDescription(
            segment_number=n,
            segment_label=name,
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Lung,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for n, name in enumerate(names, 1)
    ]
    pixels = np.ones((len(source), SIZE[1], SIZE[0]), np.uint8)
    made = hd.seg.Segmentation(
        source_images=source,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        series_instance_uid=generate_uid(),
        series_number=2,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        **device,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path)


def described(root: Path, **content: Any) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content))


def nnunet(root: Path, cases: tuple[str, ...] = ("a", "b"), channels: tuple[str, ...] = ("CT",)) -> Path:
    for name in cases:
        for n in range(len(channels)):
            volume(root / "imagesTr" / f"{name}_{n:04d}.nii.gz")
        labels(root / "labelsTr" / f"{name}.nii.gz")
    described(
        root,
        channel_names={str(n): name for n, name in enumerate(channels)},
        labels={"background": 0, "organ": [1, 2], "tumor": 2},
        regions_class_order=[1, 2],
        numTraining=len(cases),
        file_ending=".nii.gz",
        licence="CC BY 4.0",
    )
    return root


def problems(dataset: DataSet) -> dict[str, str]:
    """Case to what is wrong with it; exactly one fatal problem each."""
    fatal = [problem for problem in dataset.problems if problem.fatal]
    assert len({problem.case for problem in fatal}) == len(fatal), fatal
    return {problem.case: problem.message for problem in fatal}


def notes(dataset: DataSet) -> str:
    return "\n".join(problem.message for problem in dataset.problems if not problem.fatal)


# --- layouts ---------------------------------------------------------------------------------------------------------


def test_nnunet_with_channels_and_test_cases(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "Dataset001_X", channels=("PET", "CT"))
    for n in range(2):
        volume(root / "imagesTs" / f"t_{n:04d}.nii.gz")
    volume(root / "imagesTr" / "._a_0000.nii.gz").write_bytes(b"not a volume")
    found = read_dataset(root)
    assert (found.kind, found.channels, found.ct_channels) == ("nnunet", ("PET", "CT"), (1,))
    assert [(case.name, case.patient, case.split) for case in found.cases] == [
        ("a", "a", "train"),
        ("b", "b", "train"),
        ("t", "t", "test"),
    ]
    assert [path.name for path in found.cases[0].images] == ["a_0000.nii.gz", "a_0001.nii.gz"]
    assert found.cases[0].label == root / "labelsTr" / "a.nii.gz"
    assert found.cases[2].label is None
    assert found.labels == {"background": 0, "organ": [1, 2], "tumor": 2}
    assert found.facts == {"regions_class_order": [1, 2], "licence": "CC BY 4.0"}
    assert found.problems == ()
    labels(root / "labelsTs" / "t.nii.gz")
    assert read_dataset(root).cases[2].label == root / "labelsTs" / "t.nii.gz"


def test_nnunet_whose_files_lie_elsewhere(tmp_path: Path) -> None:
    volume(tmp_path / "far" / "ct.nrrd")
    labels(tmp_path / "far" / "seg.nrrd")
    root = tmp_path / "Dataset002_Y"
    described(
        root,
        channel_names={"0": "CT"},
        labels={"background": 0, "tumor": 1},
        file_ending=".nrrd",
        dataset={"a": {"images": ["../far/ct.nrrd"], "label": str(tmp_path / "far" / "seg.nrrd")}},
    )
    [case] = read_dataset(root).cases
    assert case.images[0].resolve() == tmp_path / "far" / "ct.nrrd"
    assert read_dataset(root).problems == ()


def test_msd(tmp_path: Path) -> None:
    volume(tmp_path / "imagesTr" / "lung_001.nii.gz")
    labels(tmp_path / "labelsTr" / "lung_001.nii.gz")
    volume(tmp_path / "imagesTs" / "lung_002.nii.gz")
    entries = [{"image": "./imagesTr/lung_001.nii.gz", "label": "./labelsTr/lung_001.nii.gz"}]
    common: dict[str, Any] = {"labels": {"0": "background", "1": "cancer"}, "training": entries, "licence": "x"}
    described(tmp_path, modality={"0": "CT"}, test=["./imagesTs/lung_002.nii.gz"], **common)
    found = read_dataset(tmp_path)
    assert (found.kind, found.channels, found.labels) == ("msd", ("CT",), {"background": 0, "cancer": 1})
    assert [(case.name, case.split) for case in found.cases] == [("lung_001", "train"), ("lung_002", "test")]
    assert found.facts == {"licence": "x"}
    assert found.problems == ()
    described(tmp_path, modality={"0": "T2", "1": "ADC"}, **common)
    messages = [problem.message for problem in read_dataset(tmp_path).problems if problem.case == ""]
    assert any("4 dimensions" in message for message in messages)
    assert any("works on CT" in message for message in messages)


def test_pairs_in_subfolders_dicom_and_files_mixed(tmp_path: Path) -> None:
    volume(tmp_path / "one" / "scan.nrrd")
    labels(tmp_path / "one" / "Segmentation.nrrd")
    source = series(tmp_path / "two" / "dicom", patient="P7")
    segmentation(tmp_path / "two" / "seg.dcm", source, ("lung", "tumor"))
    series(tmp_path / "three", patient="")
    labels(tmp_path / "four" / "labels.nii.gz")
    volume(tmp_path / "four" / "ct.nii.gz")
    (tmp_path / "notes").mkdir()
    (tmp_path / ".ctgen").mkdir()
    for name in ("one", "two", "four"):  # a case on its own
        [case] = read_dataset(tmp_path / name).cases
        assert (case.name, case.label is None) == (name, False)
    found = read_dataset(tmp_path)
    assert found.kind == "pairs"
    got = {case.name: (case.patient, case.images[0].name, case.label and case.label.name) for case in found.cases}
    assert got == {
        "one": ("one", "scan.nrrd", "Segmentation.nrrd"),
        "two": ("P7", "dicom", "seg.dcm"),
        "three": ("three", "three", None),
        "four": ("four", "ct.nii.gz", "labels.nii.gz"),
    }
    assert found.labels == {"background": 0, "lung": 1, "tumor": 2}
    assert problems(found).keys() == {"three"}
    assert "The folder notes holds neither" in notes(found)


def test_pairs_side_by_side_and_in_two_folders(tmp_path: Path) -> None:
    for suffix in ("_seg", "-label", ".mask", ".seg"):
        root = tmp_path / f"beside{suffix}"
        volume(root / "a.b.nrrd")
        labels(root / f"a.b{suffix}.nrrd")
        [case] = read_dataset(root).cases
        assert (case.name, case.label) == ("a.b", root / f"a.b{suffix}.nrrd")
    root = tmp_path / "two"
    volume(root / "images" / "a.nii.gz")
    series(root / "images" / "b")
    labels(root / "labels" / "a_seg.mha")
    labels(root / "labels" / "b.nii.gz")
    labels(root / "labels" / "c.nii.gz")
    found = read_dataset(root)
    assert [(case.name, case.label and case.label.name) for case in found.cases] == [
        ("a", "a_seg.mha"),
        ("b", "b.nii.gz"),
    ]
    assert "c.nii.gz has no image of its name" in notes(found)
    assert problems(found) == {}
    [single] = read_dataset(root / "images" / "b").cases  # a series on its own
    assert single.images == (root / "images" / "b",)


def test_links_to_series_are_followed_but_not_in_a_circle(tmp_path: Path) -> None:
    series(tmp_path / "archive" / "1", patient="A")
    case = tmp_path / "set" / "one"
    labels(case / "seg.nii.gz")
    (case / "dicom").symlink_to(tmp_path / "archive" / "1")
    (case / "again").symlink_to(case)
    found = read_dataset(tmp_path / "set")
    assert [(each.name, each.patient, each.images) for each in found.cases] == [("one", "A", (case / "dicom",))]
    assert not [problem for problem in found.problems if problem.fatal]


def test_a_patient_with_several_series(tmp_path: Path) -> None:
    """As archives have them: patient, study, series; a SEG finds its series by reference."""
    study = generate_uid()
    series(tmp_path / "PAT" / study / "1", patient="P1", study=study)
    source = series(
        tmp_path / "PAT" / study / "2", patient="P2", study=study
    )  # a study is one patient's, whatever it says
    series(tmp_path / "PAT" / study / "3", modality="MR")
    series(tmp_path / "later", patient="P2")
    segmentation(tmp_path / "PAT" / study / "4" / "x.dcm", source, ("tumor",))
    found = read_dataset(tmp_path)
    got = [(case.name, case.patient, case.label and case.label.name) for case in found.cases]
    assert got == [("PAT_1", "P1", None), ("PAT_2", "P1", "x.dcm"), ("later", "P1", None)]
    assert "modality MR is left out" in notes(found)
    labels(tmp_path / "PAT" / "seg.nii.gz")
    assert "unclear which of 2 series" in problems(read_dataset(tmp_path))[""]


def test_manifest(tmp_path: Path) -> None:
    volume(tmp_path / "x" / "1.nii.gz")
    volume(tmp_path / "x" / "2.nii.gz")
    labels(tmp_path / "x" / "3.nii.gz")
    table = tmp_path / "list.csv"
    table.write_text(
        "\ufeffcase,patient,image_0000,image_0001,label,split,age\n"
        "a,P,x/1.nii.gz,x/2.nii.gz,x/3.nii.gz,,50\n"
        f"b,P,{tmp_path}/x/1.nii.gz,x/2.nii.gz,,test,\n"
        "c,Q,x/1.nii.gz,,x/3.nii.gz,train,\n"
        "d,Q,x/1.nii.gz,x/2.nii.gz,x/3.nii.gz,valid,\n"
        "a,Q,x/1.nii.gz,x/2.nii.gz,x/3.nii.gz,train,\n",
        encoding="utf-8",
    )
    found = read_dataset(table)
    assert (found.kind, found.root, found.channels) == ("manifest", tmp_path, ("CT", "channel_1"))
    assert [(case.name, case.patient, case.split) for case in found.cases] == [("a", "P", "train"), ("b", "P", "test")]
    assert found.cases[1].images == (tmp_path / "x" / "1.nii.gz", tmp_path / "x" / "2.nii.gz")
    assert "columns age are not used" in notes(found)
    told = problems(found)
    assert "two patients, 'P' and 'Q'" in told["a"]
    assert "line 4: image_0001 is empty" in told["c"]
    assert "line 5: split is train or test; got 'valid'" in told["d"]
    table.write_text("name,image\na,x/1.nii.gz\n")
    with pytest.raises(InputError, match="has name, image"):
        read_dataset(table)


def test_bids(tmp_path: Path) -> None:
    volume(tmp_path / "sub-01" / "ses-1" / "ct" / "sub-01_ses-1_ct.nii.gz")
    volume(tmp_path / "sub-01" / "ses-10" / "ct" / "sub-01_ses-10_ct.nii.gz")
    volume(tmp_path / "sub-02" / "anat" / "sub-02_ct.nii.gz")
    volume(tmp_path / "sub-02" / "anat" / "sub-02_T1w.nii.gz")
    masks = tmp_path / "derivatives" / "manual"
    labels(masks / "sub-01" / "ses-1" / "sub-01_ses-1_desc-x_dseg.nii.gz")
    labels(masks / "sub-01" / "ses-1" / "sub-01_ses-1_label-L_mask.nii.gz")
    labels(masks / "sub-01" / "ses-10" / "sub-01_ses-10_desc-x_dseg.nii.gz")
    labels(masks / "sub-02" / "anat" / "sub-02_label-L_mask.nii.gz")
    (masks / "dseg.tsv").write_text("index\tname\tabbreviation\n1\tliver\tL\n2\ttumor\tT\n")
    found = read_dataset(tmp_path)
    assert found.kind == "bids"
    assert [(case.name, case.patient, case.label and case.label.name) for case in found.cases] == [
        ("sub-01_ses-1", "sub-01", "sub-01_ses-1_desc-x_dseg.nii.gz"),
        ("sub-01_ses-10", "sub-01", "sub-01_ses-10_desc-x_dseg.nii.gz"),
        ("sub-02", "sub-02", "sub-02_label-L_mask.nii.gz"),
    ]
    assert found.labels == {"background": 0, "liver": 1, "tumor": 2}
    assert found.problems == ()
    labels(masks / "sub-02" / "anat" / "sub-02_label-R_mask.nii.gz")
    assert "One label file is wanted" in problems(read_dataset(tmp_path))["sub-02"]


# --- problems --------------------------------------------------------------------------------------------------------


def test_every_problem_of_a_case(tmp_path: Path) -> None:
    names = ("bad__name", "cut", "grid", "good", "many", "nochannel", "nolabel", "size")
    root = nnunet(tmp_path / "Dataset003_Z", names, ("CT", "PET"))
    (root / "imagesTr" / "nochannel_0001.nii.gz").unlink()
    (root / "labelsTr" / "nolabel.nii.gz").unlink()
    (root / "imagesTr" / "cut_0000.nii.gz").write_bytes(b"\x1f\x8b cut off")
    labels(root / "labelsTr" / "grid.nii.gz", shift_mm=0.5)
    labels(root / "labelsTr" / "size.nii.gz", size=(8, 9, 5))
    volume(root / "imagesTr" / "many_0000.nii.gz", size=(8, 9, 4, 2))
    labels(root / "labelsTr" / "orphan.nii.gz")
    found = read_dataset(root)
    told = problems(found)
    assert told.keys() == set(names) - {"good"}
    assert "two underscores" in told["bad__name"]
    assert "header cannot be read" in told["cut"]
    assert "0.5 mm apart" in told["grid"]
    assert "sizes (8, 9, 4, 2)" in told["many"]
    assert "The channel PET is missing: there is no nochannel_0001.nii.gz" in told["nochannel"]
    assert "The label is missing: there is no nolabel.nii.gz" in told["nolabel"]
    assert "(8, 9, 4) and (8, 9, 5)" in told["size"]
    assert "orphan.nii.gz has no image" in notes(found)
    assert [case.name for case in found.cases] == sorted(names), "a person sees them all"


def test_problems_of_dicom(tmp_path: Path) -> None:
    series(tmp_path / "short" / "dicom", slices=3)
    labels(tmp_path / "short" / "seg.nii.gz")
    first = series(tmp_path / "mixed" / "dicom")
    series(tmp_path / "mixed" / "other")
    for path in (tmp_path / "mixed" / "other").iterdir():
        path.rename(tmp_path / "mixed" / "dicom" / f"z{path.name}")
    (tmp_path / "mixed" / "other").rmdir()
    labels(tmp_path / "mixed" / "seg.nii.gz")
    series(tmp_path / "extra" / "dicom")
    labels(tmp_path / "extra" / "seg.nii.gz")
    meta = pydicom.dcmread(tmp_path / "extra" / "dicom" / "0000.dcm")
    del meta.PixelData
    meta.SOPClassUID = meta.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.481.3"  # as an RTSTRUCT
    meta.save_as(tmp_path / "extra" / "dicom" / "RS.dcm")
    series(tmp_path / "contours" / "dicom")
    meta.save_as(tmp_path / "contours" / "label.dcm")
    told = problems(read_dataset(tmp_path))
    assert told.keys() == {"short", "mixed", "contours"}
    assert "this one has none" in told["contours"]
    table = tmp_path / "list.csv"
    table.write_text("case,image,label\nx,contours/dicom,contours/label.dcm\n")
    assert "labels as DICOM are SEG files" in problems(read_dataset(table))["x"]
    assert "sizes (x, y, z) are (8, 9, 3) and (8, 9, 4)" in told["short"]
    assert "several DICOM series" in told["mixed"]
    grid = series_grid(tmp_path / "extra" / "dicom")
    assert grid.size_xyz == SIZE
    assert grid.spacing_mm == pytest.approx((0.7, 0.8, 2.5))
    header = inspect(tmp_path / "mixed" / "dicom" / "0000.dcm")
    assert (header.patient, header.series) == ("P1", first[0].SeriesInstanceUID)


def test_labels_that_disagree_or_have_no_names(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        volume(tmp_path / name / "ct.nii.gz")
        labels(tmp_path / name / "seg.nii.gz")
    found = read_dataset(tmp_path)
    assert found.labels == {"background": 0, "label_1": 1}
    assert "Nothing names the labels" in notes(found)
    (tmp_path / "labels.json").write_text('{"1": "liver", "3": "tumor"}')
    found = read_dataset(tmp_path)
    assert found.labels == {"background": 0, "liver": 1, "tumor": 3}
    assert "without gaps" in notes(found)
    (tmp_path / "a" / "labels.json").write_text('{"1": "liver", "2": "tumor"}')
    (tmp_path / "b" / "labels.json").write_text('{"1": "spleen"}')
    told = problems(read_dataset(tmp_path))
    assert "1 is 'liver' in a and 'spleen' in b; 'tumor' is 2 in a and 3 in c" in told[""]
    (tmp_path / "b" / "labels.json").write_text("{")
    assert "not a readable JSON table" in problems(read_dataset(tmp_path))["b"]


def test_wrong_descriptions(tmp_path: Path) -> None:
    root = nnunet(tmp_path / "set")
    content = json.loads((root / "dataset.json").read_text())
    described(root, **content | {"channel_names": {"0": "MRI"}, "numTraining": 7})
    assert "works on CT; the channels are MRI" in problems(read_dataset(root))[""]
    assert "counts 7 training cases; there are 2" in notes(read_dataset(root))
    for change in ({"labels": {"tumor": "one"}}, {"labels": []}, {"channel_names": ["CT"]}):
        described(root, **content | change)
        with pytest.raises(InputError, match="Correct the file"):
            read_dataset(root)
    (root / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="not readable JSON"):
        read_dataset(root)


def test_nothing_to_recognize_lists_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path, tmp_path / "empty", volume(tmp_path / "empty" / "x_seg.nii.gz")):
        with pytest.raises(InputError, match=r"(?s)nnU-Net.*MSD.*pairs.*manifest.*BIDS"):
            read_dataset(path)
    with pytest.raises(InputError, match="does not exist"):
        read_dataset(tmp_path / "nowhere")


# --- patients --------------------------------------------------------------------------------------------------------


def test_patients_by_a_pattern(tmp_path: Path) -> None:
    root = nnunet(tmp_path, ("p1_scan1", "p1_scan2", "p2_scan1", "other"))
    found = read_dataset(root, patient_pattern=r"^(p\d+)_scan")
    assert [case.patient for case in found.cases] == ["other", "p1", "p1", "p2"]
    assert problems(found).keys() == {"other"}
    for pattern, what in ((r"p\d+", "0 groups"), ("(a)(b)", "2 groups"), ("(", "not a regular expression")):
        with pytest.raises(InputError, match=what):
            read_dataset(root, patient_pattern=pattern)


def test_a_pattern_that_parts_a_patient_is_told(tmp_path: Path) -> None:
    for name in ("x1", "x2"):
        series(tmp_path / name / "dicom", patient="SAME")
    assert {case.patient for case in read_dataset(tmp_path).cases} == {"SAME"}
    found = read_dataset(tmp_path, patient_pattern="(.+)")
    assert [case.patient for case in found.cases] == ["x1", "x2"]
    assert "x1, x2 are of one patient, not of x1, x2" in notes(found)


# --- real data, and speed --------------------------------------------------------------------------------------------


def test_real_data_are_pairs(ct_data: Path) -> None:
    found = read_dataset(ct_data)
    folders = sorted(path.name for path in ct_data.iterdir() if path.is_dir())
    assert (found.kind, [case.name for case in found.cases]) == ("pairs", folders)
    without = {case.name for case in found.cases if case.label is None}
    assert without == {name for name in folders if not (ct_data / name / "seg.nii.gz").exists()}
    assert {problem.case for problem in found.problems if problem.fatal} == {"", *without}
    assert "mean different things" in next(p.message for p in found.problems if not p.case)
    by_name = {case.name: case for case in found.cases}
    assert by_name["LIDC-IDRI-0001"].images == (ct_data / "LIDC-IDRI-0001" / "dicom",)
    assert by_name["LUNG1-002"].patient == "LUNG1-002"


def test_thousand_cases_take_seconds_and_no_torch(tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    root = nnunet(tmp_path / "set", ("c0000",))
    for n in range(1, 1000):
        for path in (root / "imagesTr" / "c0000_0000.nii.gz", root / "labelsTr" / "c0000.nii.gz"):
            path.with_name(path.name.replace("c0000", f"c{n:04d}", 1)).hardlink_to(path)
    started = time.process_time()  # whatever else runs
    found = read_dataset(root)
    seconds = time.process_time() - started
    record_property("seconds", round(seconds, 2))
    assert len(found.cases) == 1000
    assert seconds < 10  # 2.6 s measured
    code = "import sys; import ctgencore.tasks.augment.sources; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
