"""The body envelope, names that come with files, and labels of real patients."""

from __future__ import annotations

import gzip
import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from ctgencore import io, labels, phantom
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.phantom import Phantom
from ctgencore.volume import LabelMap, Volume


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return phantom.chest((48, 96, 96))


def codes(problems: list[labels.Problem]) -> set[str]:
    return {problem.code for problem in problems}


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & two) / (np.count_nonzero(one) + np.count_nonzero(two))


def without(organs: LabelMap, gone: np.ndarray) -> LabelMap:
    return LabelMap(np.where(gone, 0, organs.voxels), organs.geometry)


def with_table(chest: Phantom, gap: int) -> tuple[Volume, np.ndarray]:
    """The phantom on a table: a curved shell of 80 HU behind the back, ``gap`` voxels away from it."""
    hu = chest.ct.voxels.copy()
    body = chest.organs.voxels > 0
    back = int(np.flatnonzero(body.any((0, 2))).max())
    top = min(back + 1 + gap, hu.shape[1] - 5)
    table = np.zeros(body.shape, bool)
    table[:, top : top + 2, 6:-6] = True
    table[:, top : top + 5, [6, 7, -8, -7]] = True
    table &= ~body
    hu[table] = 80
    return chest.ct.with_voxels(hu), table


@pytest.mark.parametrize("gap", [0, 2])
@pytest.mark.parametrize("turned", [False, True])
def test_the_table_goes_and_the_body_stays(chest: Phantom, gap: int, turned: bool) -> None:
    ct, table = with_table(chest, gap)
    truth = chest.organs.voxels > 0
    if turned:  # the same patient stored with two axes reversed
        grid = replace(ct.geometry, direction=(1, 0, 0, 0, -1, 0, 0, 0, -1))
        ct = Volume(ct.voxels[::-1, ::-1], grid)
        truth, table = truth[::-1, ::-1], table[::-1, ::-1]
    found = labels.body_from_ct(ct)
    assert found.shape == ct.shape
    assert dice(found, truth) > 0.98
    assert found[table].mean() < 0.05 if gap else 0.35
    assert found[np.isin(chest.organs.voxels, labels.LUNG_LOBES)[::-1, ::-1] if turned else slice(None)].any()


def test_a_lung_cut_open_by_the_field_is_closed(chest: Phantom) -> None:
    left = chest.organs.voxels == 28
    middle = int(np.argwhere(left)[:, 2].mean())
    cut = Volume(chest.ct.voxels[:, :, :middle], replace(chest.ct.geometry, size_xyz=(middle, 96, 48)))
    truth = chest.organs.voxels[:, :, :middle] > 0
    assert dice(labels.body_from_ct(cut), truth) > 0.97


def test_body_from_labels(chest: Phantom) -> None:
    truth = chest.organs.voxels > 0
    naked = without(chest.organs, chest.organs.voxels == 200)
    assert dice(labels.body_from_labels(naked), truth) > 0.88
    lungs = without(chest.organs, ~np.isin(chest.organs.voxels, labels.LUNG_LOBES))
    assert dice(labels.body_from_labels(lungs), truth) > 0.75
    np.testing.assert_array_equal(labels.body_from_labels(chest.organs), truth)
    with pytest.raises(InputError, match="at least one organ"):
        labels.body_from_labels(without(chest.organs, chest.organs.voxels > 0))
    with pytest.raises(InputError, match="this CT has none"):
        labels.body_from_ct(Volume(np.full((4, 9, 9), -1000), Geometry((9, 9, 4))))


def test_with_body(chest: Phantom) -> None:
    naked = without(chest.organs, chest.organs.voxels == 200)
    for ct in (chest.ct, None):
        whole = labels.with_body(naked, ct)
        np.testing.assert_array_equal(whole.voxels[naked.voxels > 0], naked.voxels[naked.voxels > 0])
        assert whole.names[200] == "body"
        assert "no-body" not in codes(labels.check(whole))
    assert labels.with_body(chest.organs) is chest.organs
    with pytest.raises(InputError, match="grids"):
        labels.with_body(naked, Volume(np.zeros((9, 9, 9)), Geometry((9, 9, 9))))


# ---- files


def test_names_that_come_with_a_file(tmp_path: Path) -> None:
    plain = LabelMap(np.array([[[0, 1, 2]]], np.uint8), Geometry((3, 1, 1)))
    path = plain.save(tmp_path / "plain.nii.gz")
    (tmp_path / "plain.json").write_text('{"1": "liver", "2": "GGO"}')
    done = labels.convert(io.read_labels(path), "names")
    assert done.labels.names == {1: "liver", 200: "body"}
    (tmp_path / "plain.json").write_text("{")
    with pytest.raises(InputError, match="not a readable JSON table"):
        labels.convert(io.read_labels(path), "names")

    image = sitk.GetImageFromArray(plain.voxels)
    for key, value in {
        "Segment0_LabelValue": "2",
        "Segment0_Name": "Segment_1",
        "Segment0_Tags": f"Segmentation.Status:inprogress|TerminologyEntry:{labels.terminology_for(14)}|",
        "Segment1_LabelValue": "1",
        "Segment1_Name": "Milz (spleen)",
    }.items():
        image.SetMetaData(key, value)
    sitk.WriteImage(image, str(tmp_path / "slicer.seg.nrrd"))
    done = labels.convert(io.read_labels(tmp_path / "slicer.seg.nrrd"), "names")
    assert done.labels.voxels.ravel().tolist() == [0, 200, 14]
    assert "Milz" in done.dropped[1]

    table = b'<LabelTable><Label Key="2" Red="1"><![CDATA[kidney_left]]></Label></LabelTable>'
    raw = bytearray(gzip.decompress(path.read_bytes()))
    size = -(-(8 + len(table)) // 16) * 16
    struct.pack_into("<f", raw, 108, 352 + size)
    raw[348] = 1
    extension = struct.pack("<ii", size, 0) + table.ljust(size - 8, b"\0")
    (tmp_path / "total.nii").write_bytes(bytes(raw[:352]) + extension + bytes(raw[352:]))
    done = labels.convert(io.read_labels(tmp_path / "total.nii"), "names")
    assert done.labels.names == {14: "left kidney", 200: "body"}


# ---- real CT


def real(ct_data: Path, case: str) -> LabelMap:
    found = io.read_labels(ct_data / case / "seg.nii.gz")
    names = json.loads((ct_data / case / "labels.json").read_text())
    found.names = {int(number): name for number, name in names.items()}
    return found


def test_real_segmentation_by_number_and_by_name(ct_data: Path) -> None:
    source = real(ct_data, "TotalSegmentator_example_ct")
    by_number, by_name = labels.convert(source, "totalsegmentator"), labels.convert(source, "names")
    np.testing.assert_array_equal(by_number.labels.voxels, by_name.labels.voxels)
    assert by_number.dropped == by_name.dropped == by_name.guessed == {}
    assert len(by_name.labels.names) == 61
    assert codes(labels.check(by_name.labels)) == {"no-body"}
    bodied = labels.with_body(by_name.labels, io.read(ct_data / "TotalSegmentator_example_ct" / "ct.nii.gz"))
    assert labels.check(bodied) == []
    assert dice(labels.body_from_labels(by_name.labels), bodied.voxels > 0) > 0.93


def test_real_names_of_others(ct_data: Path) -> None:
    done = labels.convert(real(ct_data, "CCTH-A01_half"), "names")
    assert set(done.labels.names) == {1, 15, 19, 28, 29, 30, 31, 32, 93, 94}
    assert done.dropped == {}
    done = labels.convert(real(ct_data, "TotalSegmentator_pulmonary"), "names")
    assert "body (200) covers it" in done.dropped[2]


@pytest.mark.parametrize(
    ("case", "table_yx", "share"),
    [  # rows and columns of the table, clear of the patient; share of the volume that the body takes
        ("LIDC-IDRI-0001/dicom", (slice(450, 470), slice(200, 320)), (0.43, 0.46)),
        ("CCTH-A01_half/ct.nii.gz", (slice(222, 240), slice(90, 160)), (0.26, 0.30)),
        ("TotalSegmentator_example_ct/ct.nii.gz", (slice(0, 3), slice(16, 22)), (0.62, 0.66)),
    ],
)
def test_real_tables_go(ct_data: Path, case: str, table_yx: tuple[slice, slice], share: tuple[float, float]) -> None:
    ct = io.read(ct_data / case)
    body = labels.body_from_ct(ct)
    assert share[0] < body.mean() < share[1]
    rows, columns = table_yx
    assert (ct.voxels[:, rows, columns] > -500).any()
    assert not body[:, rows, columns].any()
