"""A CT and its labels become a case of an nnU-Net data set: values, names, refusals, all or nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from ctgencore import io, phantom
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.tasks.augment import addition
from ctgencore.tasks.augment.addition import CaseOptions, add_case
from ctgencore.tasks.augment.sources import read_dataset
from ctgencore.volume import LabelMap, Volume
from processes import environment
from test_sources import segmentation, series

GRID = Geometry((12, 10, 6), (0.9, 0.8, 2.0), (5.0, -7.0, 100.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))


def ct(path: Path, seed: int = 0) -> Path:
    voxels = np.random.default_rng(seed).integers(-1000, 1000, GRID.shape_zyx)
    return Volume(voxels.astype(np.float32), GRID).save(path)


def label_file(path: Path, *values: int, grid: Geometry = GRID) -> Path:
    """Slice n holds the n-th value; the last slices are background."""
    voxels = np.zeros(grid.shape_zyx, np.int16)
    for n, value in enumerate(values):
        voxels[n] = value
    return LabelMap(voxels, grid).save(path)


def described(folder: Path) -> dict[str, object]:
    content: dict[str, object] = json.loads((folder / "dataset.json").read_text())
    return content


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_cases_one_after_the_other(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset501_Mine"
    one, seg = ct(tmp_path / "one.nrrd"), label_file(tmp_path / "one_seg.nrrd", 7, 3)
    done = add_case(folder, one, seg, CaseOptions(name="one", patient="p", labels={"tumor": 7, "Lung": 3, "absent": 9}))
    assert done["labels"] == {"background": 0, "Lung": 1, "tumor": 2}
    assert (done["cases"], done["image"]) == (1, str(folder / "imagesTr" / "one_0000.nii.gz"))
    two, seg = ct(tmp_path / "two.nii.gz", 1), label_file(tmp_path / "two_seg.mha", 1, 2, 300)
    labels = {"lung": 2, "liver": 1, "Tumor": 300}
    done = add_case(folder, two, seg, CaseOptions(name="two", patient="p", labels=labels))
    assert done["labels"] == {"background": 0, "Lung": 1, "tumor": 2, "liver": 3}
    written = nib.load(done["label"])
    assert written.get_data_dtype() == np.uint8
    assert [int(np.unique(written.dataobj[..., n])[0]) for n in range(4)] == [3, 1, 2, 0]
    np.testing.assert_allclose(written.affine, GRID.affine_ras(), atol=1e-4)
    np.testing.assert_array_equal(nib.load(done["image"]).get_fdata().T, io.read(two).voxels)
    found = read_dataset(folder)
    assert found.problems == ()
    assert [(case.name, case.patient) for case in found.cases] == [("one", "p"), ("two", "p")]
    assert found.labels == done["labels"]
    done = add_case(folder, two, None, CaseOptions(name="three"))
    assert (done["label"], done["cases"]) == (None, 2)
    assert [(case.name, case.split) for case in read_dataset(folder).cases][-1] == ("two", "train")
    assert sorted(path.name for path in folder.iterdir()) == ["dataset.json", "imagesTr", "imagesTs", "labelsTr"]


def test_dicom_with_a_seg(tmp_path: Path) -> None:
    source = series(tmp_path / "dicom")
    for n, item in enumerate(source):
        item.PixelData = (np.arange(72, dtype=np.int16) * 10 + n).tobytes()
        item.save_as(tmp_path / "dicom" / f"{n:04d}.dcm", enforce_file_format=True)
    segmentation(tmp_path / "seg.dcm", source, ("lung",))
    done = add_case(tmp_path / "Dataset501_D", tmp_path / "dicom", tmp_path / "seg.dcm", CaseOptions(name="d"))
    assert done["labels"] == {"background": 0, "lung": 1}
    assert (nib.load(done["label"]).get_fdata() == 1).all()
    assert nib.load(done["image"]).get_fdata()[:, :, 1].ravel("F") == pytest.approx(np.arange(72) * 10 + 1 - 1024)
    assert read_dataset(tmp_path / "Dataset501_D").problems == ()


def test_names_that_come_with_the_file_and_marks_that_stay(tmp_path: Path) -> None:
    made = phantom.chest((9, 24, 24)).ct.save(tmp_path / "synthetic.nrrd")
    labels = phantom.chest((9, 24, 24)).organs.save(tmp_path / "organs.nrrd")
    values = [int(value) for value in np.unique(io.read_labels(labels).voxels) if value]
    with pytest.raises(InputError, match=r"have no names.*labels\.json"):
        add_case(tmp_path / "Dataset502_P", made, labels, CaseOptions(name="p"))
    assert not (tmp_path / "Dataset502_P").exists()
    (tmp_path / "labels.json").write_text(json.dumps({str(value): f"organ {value}" for value in values}))
    done = add_case(tmp_path / "Dataset502_P", made, labels, CaseOptions(name="p"))
    assert done["labels"] == {"background": 0, **{f"organ {value}": n for n, value in enumerate(values, 1)}}
    assert io.read(done["image"]).is_synthetic == io.read(made).is_synthetic


def test_overwriting_is_asked_for(tmp_path: Path) -> None:
    folder = tmp_path / "Dataset501_Mine"
    seg = label_file(tmp_path / "seg.nrrd", 1)
    add_case(folder, ct(tmp_path / "a.nrrd"), seg, CaseOptions(name="a", patient="p", labels={"tumor": 1}))
    before = files(folder)
    new = ct(tmp_path / "b.nrrd", 5)
    with pytest.raises(InputError, match=r"has a case 'a'\. Choose another name, or overwrite it"):
        add_case(folder, new, seg, CaseOptions(name="a", labels={"tumor": 1}))
    with pytest.raises(InputError, match=r"lies in imagesTr and would now go to imagesTs\. Remove it first"):
        add_case(folder, new, None, CaseOptions(name="a", overwrite=True))
    assert files(folder) == before
    done = add_case(folder, new, seg, CaseOptions(name="a", labels={"tumor": 1}, overwrite=True))
    assert done["cases"] == 1
    np.testing.assert_array_equal(io.read(done["image"]).voxels, io.read(new).voxels)
    assert [case.patient for case in read_dataset(folder).cases] == ["a"]


REGIONS = {"background": 0, "whole": [1, 2], "core": 2}


@pytest.mark.parametrize(
    ("change", "options", "what"),
    [
        ({}, {"name": "a__b"}, "two underscores"),
        ({}, {"name": "a/b"}, "not fit for a file"),
        ({}, {"name": ""}, "not fit for a file"),
        ({}, {"labels": {"x": 2}}, r"labels \[1\] of seg.nrrd have no names"),
        ({}, {"labels": {"x": 1, "y": 1}}, "share a value"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, {}, "a CT alone does not fit"),
        ({"channel_names": {"0": "MRI"}}, {}, "the channels are MRI"),
        ({"labels": REGIONS}, {"labels": {"whole": 1}}, "whole is a region"),
        ({"labels": REGIONS}, {"labels": {"new": 1}}, "new are new to this data set"),
        ({"labels": {"background": 0, "ignore": 1}}, {"labels": {"new": 1}}, "has background, ignore"),
        ({"file_ending": ".png"}, {}, "file_ending is '.png'"),
        ({"dataset": {}}, {}, "lists files that lie elsewhere"),
        ({"labels": 5}, {}, "Correct the file"),
    ],
)
def test_refusals_change_nothing(
    tmp_path: Path, change: dict[str, object], options: dict[str, object], what: str
) -> None:
    folder = tmp_path / "Dataset501_Mine"
    seg = label_file(tmp_path / "seg.nrrd", 1)
    image = ct(tmp_path / "ct.nrrd")
    add_case(folder, image, seg, CaseOptions(name="old", labels={"tumor": 1}))
    (folder / "dataset.json").write_text(json.dumps(described(folder) | change))
    before = files(folder)
    with pytest.raises(InputError, match=what):
        add_case(folder, image, seg, CaseOptions(**{"name": "new", "labels": {"tumor": 1}, **options}))  # type: ignore[arg-type]
    assert files(folder) == before


def test_other_grids_and_folders_are_refused(tmp_path: Path) -> None:
    image = ct(tmp_path / "ct.nrrd")
    moved = Geometry(GRID.size_xyz, GRID.spacing_mm, (5.0, -7.0, 100.1), GRID.direction)
    options = CaseOptions(name="a", labels={"tumor": 1})
    folder = tmp_path / "Dataset501_Mine"
    with pytest.raises(InputError, match=r"0\.1 mm apart"):
        add_case(folder, image, label_file(tmp_path / "seg.nrrd", 1, grid=moved), options)
    assert not folder.exists()
    seg = label_file(tmp_path / "seg.nrrd", 1)
    with pytest.raises(InputError, match="Call a new one Dataset501_MyCases"):
        add_case(tmp_path / "mine", image, seg, options)
    (tmp_path / "msd").mkdir()
    entries = {"modality": {"0": "CT"}, "training": [], "labels": {"0": "background"}}
    (tmp_path / "msd" / "dataset.json").write_text(json.dumps(entries))
    with pytest.raises(InputError, match="not that of an nnU-Net v2 data set"):
        add_case(tmp_path / "msd", image, seg, options)
    with pytest.raises(InputError, match="Several labels are called Tumor, tumor"):
        add_case(
            folder,
            image,
            label_file(tmp_path / "s2.nrrd", 1, 2),
            CaseOptions(name="a", labels={"tumor": 1, "Tumor": 2}),
        )


@pytest.mark.parametrize("fails_at", [0, 1, 2])
@pytest.mark.parametrize("overwrite", [False, True])
def test_when_the_disk_refuses_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int, overwrite: bool
) -> None:
    folder = tmp_path / "Dataset501_Mine"
    seg = label_file(tmp_path / "seg.nrrd", 1)
    add_case(folder, ct(tmp_path / "a.nrrd"), seg, CaseOptions(name="a", labels={"tumor": 1}))
    before = files(folder)
    real, moved = os.replace, []

    def replace(source: Path, target: Path) -> None:
        if Path(target).parent.name in ("labelsTr", "imagesTr", folder.name) and "old-" not in Path(source).name:
            if len(moved) == fails_at:
                raise OSError("No space left on device")
            moved.append(target)
        real(source, target)

    monkeypatch.setattr(addition.os, "replace", replace)
    options = CaseOptions(name="a" if overwrite else "b", labels={"tumor": 1}, overwrite=overwrite)
    with pytest.raises(InputError, match="No space left"):
        add_case(folder, ct(tmp_path / "b.nrrd", 3), seg, options)
    assert len(moved) == fails_at
    assert files(folder) == before
    assert not [path for path in folder.rglob(".*")]


KILLED = """
import os, sys
from pathlib import Path
from ctgencore.tasks.augment.addition import CaseOptions, add_case
real, left = os.replace, int(sys.argv[1])
def replace(source, target):
    global left
    if Path(target).name in ("b.nii.gz", "dataset.json", "b_0000.nii.gz"):
        if left == 0:
            os._exit(9)
        left -= 1
    real(source, target)
os.replace = replace
add_case(Path(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4]), CaseOptions(name="b", labels={"new": 1}))
"""


@pytest.mark.parametrize("moment", [0, 1, 2])
def test_killed_the_cases_are_those_before(tmp_path: Path, moment: int) -> None:
    folder = tmp_path / "Dataset501_Mine"
    image, seg = ct(tmp_path / "ct.nrrd"), label_file(tmp_path / "seg.nrrd", 1)
    add_case(folder, image, seg, CaseOptions(name="a", labels={"tumor": 1}))
    line = [sys.executable, "-c", KILLED, str(moment), str(folder), str(image), str(seg)]
    assert subprocess.run(line, env=environment(), timeout=300).returncode == 9
    found = read_dataset(folder)
    assert [case.name for case in found.cases] == ["a"]
    assert not [problem for problem in found.problems if problem.fatal]
    done = add_case(folder, image, seg, CaseOptions(name="b", labels={"new": 1}))
    assert (done["cases"], done["labels"]) == (2, {"background": 0, "tumor": 1, "new": 2})
    assert read_dataset(folder).problems == ()
