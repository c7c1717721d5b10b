"""DICOM segmentations: labels out and in again, with their names, codes and places."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from ctgencore import io
from ctgencore.cli import app
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.labels.filenames import names_of_file
from ctgencore.labels.terminology import PRIVATE_SCHEME
from ctgencore.volume import LabelMap, Volume
from dicom_sources import checker_errors, nasty_series
from pydicom.sr.codedict import codes
from test_volume import rotation
from typer.testing import CliRunner

NAMES = {3: "liver", 5: "right kidney", 40: "Groundglass opacity", 116: "left kidney cyst", 300: "Zaphod's second head"}
AXES = {"axial": np.eye(3), "oblique": rotation(0.3, -0.6, 0.2, mirrored=False)}


def geometry(axes: np.ndarray) -> Geometry:
    return Geometry((32, 24, 7), (0.7, 0.9, 2.5), (-20.5, 10.25, 33.3), tuple(axes.ravel()))


def labels_on(grid: Geometry) -> LabelMap:
    """Blocks of the labels of NAMES, none of them in the first two slices or the last."""
    voxels = np.zeros(grid.shape_zyx, np.int16)
    for number, value in enumerate(NAMES):
        voxels[2 + number % 3 : 5 + number % 2, 2 + 3 * number : 9 + 3 * number, 3 * number : 3 * number + 7] = value
    return LabelMap(voxels, grid)


@pytest.fixture(params=AXES.values(), ids=AXES)
def series(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    grid = geometry(request.param)
    volume = Volume(np.random.default_rng(0).uniform(-1000, 500, grid.shape_zyx), grid)
    io.write_series(volume, tmp_path / "ct")
    return tmp_path / "ct"


def test_round_trip(series: Path, tmp_path: Path) -> None:
    grid = io.read(series).geometry
    labels = labels_on(grid)
    path = io.write_seg(labels, NAMES, tmp_path / "seg.dcm", series)
    placed = io.read_seg(path, grid)
    np.testing.assert_array_equal(placed.voxels, labels.voxels)
    assert placed.geometry == grid
    assert placed.names == NAMES
    own = io.read_labels(path)
    first = grid.affine_lps() @ [0, 0, 2, 1]
    np.testing.assert_allclose(own.geometry.origin_mm, first[:3], atol=1e-6)  # only the slices that hold something
    np.testing.assert_array_equal(own.voxels, labels.voxels[2 : 2 + len(own.voxels)])
    np.testing.assert_allclose(own.geometry.direction, grid.direction, atol=1e-9)
    again = io.write_seg(labels, NAMES, tmp_path / "again.dcm", series)
    assert again.read_bytes() == path.read_bytes()


def test_pydicom_alone_finds_masks_codes_and_places(series: Path, tmp_path: Path) -> None:
    labels = labels_on(io.read(series).geometry)
    seg = pydicom.dcmread(io.write_seg(labels, NAMES, tmp_path / "seg.dcm", series))
    source = pydicom.dcmread(next(series.iterdir()))
    assert seg.SOPClassUID.name == "Segmentation Storage"
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert seg[name].value == source[name].value
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    values = {item.SegmentNumber: value for item, value in zip(seg.SegmentSequence, sorted(NAMES), strict=True)}
    assert [item.SegmentLabel for item in seg.SegmentSequence] == [NAMES[value] for value in sorted(NAMES)]
    found = np.zeros_like(labels.voxels)
    for frame, groups in zip(seg.pixel_array, seg.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        index = np.linalg.inv(labels.geometry.affine_lps()) @ [*position, 1]
        np.testing.assert_allclose(index[:2], 0, atol=1e-6)
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        found[round(index[2])][frame > 0] = values[segment]
    np.testing.assert_array_equal(found, labels.voxels)

    liver, kidney, opacity, cyst, unknown = seg.SegmentSequence
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.SCT.Liver.value
    assert liver.SegmentedPropertyCategoryCodeSequence[0].CodeValue == codes.cid7150.AnatomicalStructure.value
    assert kidney.SegmentedPropertyTypeCodeSequence[0].CodeValue == codes.SCT.Kidney.value
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert side.CodeValue == codes.SCT.Right.value
    assert opacity.SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == PRIVATE_SCHEME
    assert cyst.AnatomicRegionSequence[0].CodeValue == codes.SCT.Kidney.value
    assert cyst.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeValue == codes.SCT.Left.value
    assert unknown.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"


def test_labels_on_the_same_voxels_with_turned_axes(series: Path, tmp_path: Path) -> None:
    grid = io.read(series).geometry
    labels = labels_on(grid)
    affine = grid.affine_lps()
    turned = Geometry(  # i runs along the CT's -j, j along k, k along -i
        (24, 7, 32),
        (0.9, 2.5, 0.7),
        tuple((affine @ [31, 23, 0, 1])[:3]),
        tuple((grid.direction_matrix[:, [1, 2, 0]] * [-1, 1, -1]).ravel()),
    )
    voxels = labels.voxels.transpose(2, 0, 1)[::-1, :, ::-1]
    plain = io.write_seg(labels, NAMES, tmp_path / "plain.dcm", series)
    other = io.write_seg(LabelMap(voxels, turned), NAMES, tmp_path / "turned.dcm", series)
    assert other.read_bytes() == plain.read_bytes()
    np.testing.assert_array_equal(io.read_seg(plain, turned).voxels, voxels)


def test_another_grid_is_refused(series: Path, tmp_path: Path) -> None:
    grid = io.read(series).geometry
    labels = labels_on(grid)
    shifted = Geometry(grid.size_xyz, grid.spacing_mm, tuple(np.add(grid.origin_mm, 0.2)), grid.direction)
    finer = Geometry(grid.size_xyz, (0.35, 0.9, 2.5), grid.origin_mm, grid.direction)
    for wrong in (shifted, finer):
        with pytest.raises(InputError, match="another grid"):
            io.write_seg(LabelMap(labels.voxels, wrong), NAMES, tmp_path / "seg.dcm", series)
    longer = Geometry((32, 24, 9), grid.spacing_mm, grid.origin_mm, grid.direction)
    voxels = np.concatenate([labels.voxels, labels.voxels[3:5]])
    with pytest.raises(InputError, match="reaches beyond the series"):
        io.write_seg(LabelMap(voxels, longer), NAMES, tmp_path / "seg.dcm", series)
    with pytest.raises(InputError, match="has labels from 1 to 65535"):
        io.write_seg(LabelMap(np.zeros(grid.shape_zyx, int), grid), {}, tmp_path / "seg.dcm", series)
    assert not (tmp_path / "seg.dcm").exists()
    path = io.write_seg(labels, NAMES, tmp_path / "seg.dcm", series)
    with pytest.raises(InputError, match="another grid"):
        io.read_seg(path, finer)
    far = Geometry(grid.size_xyz, grid.spacing_mm, tuple(grid.affine_lps()[:3] @ [0, 0, 100, 1]), grid.direction)
    with pytest.raises(InputError, match="lie elsewhere"):
        io.read_seg(path, far)


def foreign(series: Path, path: Path, **kind: object) -> Path:
    """A SEG as another program writes it: two segments with a common voxel, and no numbers of ours."""
    sources = sorted((pydicom.dcmread(file) for file in series.iterdir()), key=lambda item: item.InstanceNumber)
    masks = np.zeros((len(sources), 24, 32, 2), np.float32 if kind else np.uint8)
    masks[1:4, 2:9, 2:9, 0] = 1
    masks[3:5, 8:15, 8:20, 1] = 1
    described = [
        hd.seg.SegmentDescription(n, name, codes.SCT.Organ, codes.SCT.Liver, hd.seg.SegmentAlgorithmTypeValues.MANUAL)
        for n, name in enumerate(("upper part", "lower part"), 1)
    ]
    described[0].SegmentDescription = "CTGen label 77"  # the other has none: no reason to believe it
    common = ("1.2.3.4", 7, "1.2.3.5", 1, "ACME", "Painter", "1", "1")
    hd.seg.Segmentation(sources, masks, *([*kind.values()] or ["BINARY"]), described, *common).save_as(path)
    return path


def test_segmentation_of_another_program_with_an_overlap(series: Path, tmp_path: Path) -> None:
    path = foreign(series, tmp_path / "seg.dcm")
    with pytest.raises(InputError, match="these segments overlap: 'upper part' and 'lower part'"):
        io.read_seg(path)
    edited = pydicom.dcmread(path)
    frames = edited.pixel_array.copy()
    for frame, groups in zip(frames, edited.PerFrameFunctionalGroupsSequence, strict=True):
        if groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 1:
            frame[8, 8] = 0
    edited.PixelData = np.packbits(frames.ravel(), bitorder="little").tobytes()
    edited.save_as(path)
    labels = io.read_seg(path, io.read(series).geometry)
    assert labels.names == {1: "upper part", 2: "lower part"}
    assert np.bincount(labels.voxels.ravel()).tolist() == [labels.voxels.size - 144 - 168, 144, 168]
    assert (labels.voxels[3, 8, 8], labels.voxels[3, 8, 9]) == (2, 2)


def test_what_is_no_label_map(series: Path, tmp_path: Path) -> None:
    path = foreign(series, tmp_path / "seg.dcm", kind="FRACTIONAL")
    with pytest.raises(InputError, match="FRACTIONAL"):
        io.read_seg(path)
    with pytest.raises(InputError, match="is not a DICOM segmentation"):
        io.read_seg(series / "0001.dcm")
    with pytest.raises(InputError, match="or a DICOM segmentation file"):
        io.read_labels(series / "0001.dcm")
    with pytest.raises(InputError, match="is a DICOM segmentation, not a CT"):
        io.read(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError):
        io.read_seg(path)


def test_segmentation_beside_its_slices_is_passed_over(series: Path) -> None:
    before = io.read(series)
    io.write_seg(labels_on(before.geometry), NAMES, series / "seg.dcm", series)
    after = io.read(series)
    np.testing.assert_array_equal(after.voxels, before.voxels)
    assert io.list_volumes(series.parent) == [series]
    io.write_series(before, series)  # all of it ours: replaced
    assert not (series / "seg.dcm").exists()


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (dicom3tools) is not installed")
def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    source = nasty_series(tmp_path / "source")
    volume = io.read(source)
    io.write_series(volume, tmp_path / "ct", like=source)
    voxels = np.zeros(volume.shape, np.uint8)
    voxels[2:4, 3:9, 3:9], voxels[3:5, 12:15, 3:9] = 1, 2
    labels = LabelMap(voxels, volume.geometry)
    for name, series in {"hidden": tmp_path / "ct", "kept": source}.items():
        path = io.write_seg(labels, {1: "left lung upper lobe", 2: "tumor"}, tmp_path / f"{name}.dcm", series)
        assert checker_errors(path) == []
    assert b"Secret" not in (tmp_path / "hidden.dcm").read_bytes()
    assert pydicom.dcmread(tmp_path / "hidden.dcm").PatientIdentityRemoved == "YES"


def test_real_labels(ct_data: Path, tmp_path: Path) -> None:
    case = ct_data / "LIDC-IDRI-0001"
    labels = io.read_labels(case / "seg.nii.gz")
    names = {value: name for value, (name, _) in names_of_file(case / "seg.nii.gz").items()}
    path = io.write_seg(labels, names, tmp_path / "seg.dcm", case / "dicom")
    back = io.read_seg(path, labels.geometry)
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    assert back.names == {int(value): names[int(value)] for value in np.unique(labels.voxels) if value}
    assert checker_errors(path) == []


def test_series_without_identifiers_is_refused(ct_data: Path, tmp_path: Path) -> None:
    case = ct_data / "TotalSegmentator_example_ct_dicom"
    with pytest.raises(InputError, match="which has no StudyInstanceUID"):
        io.write_seg(io.read_labels(case / "seg.nii.gz"), {}, tmp_path / "seg.dcm", case / "dicom")


def test_commands(series: Path, tmp_path: Path) -> None:
    labels = labels_on(io.read(series).geometry)
    labels.save(tmp_path / "organs.nii.gz")
    (tmp_path / "organs.json").write_text(json.dumps({str(value): name for value, name in NAMES.items()}))
    seg, out = tmp_path / "seg.dcm", tmp_path / "back.nii.gz"
    line = ["dicom", "seg", str(tmp_path / "organs.nii.gz"), "--series", str(series), "-o", str(seg)]
    done = CliRunner().invoke(app, [*line, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["labels"] == {str(value): name for value, name in NAMES.items()}
    assert CliRunner().invoke(app, line).exit_code == 2
    done = CliRunner().invoke(app, ["dicom", "labels", str(seg), "-o", str(out), "--like", str(series)])
    assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(io.read_labels(out).voxels, labels.voxels)
    assert {value: name for value, (name, _) in names_of_file(out).items()} == NAMES
