"""Augmentation from and to DICOM, and a view again from its record."""

from __future__ import annotations

import csv
import gc
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from augmenting import GRAIN, ct, labels, nnunet, options, run, tree
from ctgencore import io
from ctgencore.errors import Cancelled, InputError
from ctgencore.intensity import Window
from ctgencore.jobs import Models
from ctgencore.provenance import verify
from ctgencore.tasks.augment import remake as remaking
from ctgencore.tasks.augment.case import augment_case, plan_cases
from ctgencore.tasks.augment.model import DataSet
from ctgencore.tasks.augment.remake import remake
from ctgencore.tasks.augment.sources import read_dataset
from ctgencore.tasks.common import ProgressEvent
from ctgencore.volume import LabelMap, Volume
from dicom_sources import SECRET, nasty_series


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Every reconstruction collects garbage before it measures memory: let it pass over the libraries."""
    gc.freeze()
    yield
    gc.unfreeze()


# --- DICOM -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def scans(tmp_path: Path) -> DataSet:
    """A DICOM series with a DICOM segmentation, whose headers tell who it is, and a NIfTI case."""
    series = nasty_series(tmp_path / "scans/one/ct", count=8)
    grid = io.read(series).geometry
    voxels = np.zeros(grid.shape_zyx, np.uint8)
    voxels[2:5, 4:9, 3:8], voxels[6, 10:12, 3:8] = 1, 2
    io.write_seg(LabelMap(voxels, grid), {1: "organ", 2: "tumor"}, tmp_path / "scans/one/seg.dcm", series)
    (tmp_path / "scans/two").mkdir()
    ct(0).save(tmp_path / "scans/two/ct.nii.gz")
    labels(0).save(tmp_path / "scans/two/seg.nii.gz")
    (tmp_path / "scans/two/labels.json").write_text('{"1": "organ", "2": "tumor"}')
    return read_dataset(tmp_path / "scans")


def test_dicom_goes_in_and_its_patient_does_not_come_out(scans: DataSet, tmp_path: Path) -> None:
    assert [problem for problem in scans.problems if problem.fatal] == []
    output = tmp_path / "Dataset501_Scans"
    run(scans, output, options())
    one, two = (io.read(output / f"imagesTr/{name}_0000.nii.gz") for name in ("one", "one__dct16"))
    source = io.read(tmp_path / "scans/one/ct")
    np.testing.assert_array_equal(one.voxels, source.voxels)
    assert two.geometry == one.geometry
    assert one.geometry.max_corner_distance_mm(source.geometry) < 1e-4
    label = io.read_labels(output / "labelsTr/one__dct16.nii.gz")
    np.testing.assert_array_equal(label.voxels, io.read_seg(tmp_path / "scans/one/seg.dcm", source.geometry).voxels)
    assert label.geometry == one.geometry
    assert (output / "imagesTr/two_0000.nii.gz").samefile(tmp_path / "scans/two/ct.nii.gz")
    content = json.loads((output / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "organ": 1, "tumor": 2}
    facts = json.loads((output / "ctgen.json").read_text())
    assert [case["patient"] for case in facts["cases"]] == ["patient_0001", "two"]
    everything = b"".join(tree(output, hidden=True).values())
    assert SECRET.encode() not in everything


def test_dicom_comes_out(scans: DataSet, tmp_path: Path) -> None:
    output, again = tmp_path / "out", tmp_path / "again"
    for folder in (output, again):
        run(scans, folder, options(GRAIN, layout="dicom"))
    files = tree(output)
    assert files == tree(again)
    assert SECRET.encode() not in b"".join(files.values())
    plain = tmp_path / "Dataset501_Scans"
    run(scans, plain, options(GRAIN))
    for name in ("one", "two"):
        original, view = (io.read(output / f"{name}{end}/image") for end in ("", "__grain"))
        wanted = io.read(plain / f"imagesTr/{name}__grain_0000.nii.gz")
        np.testing.assert_array_equal(view.voxels, wanted.voxels)
        np.testing.assert_array_equal(original.voxels, io.read(scans.cases[name == "two"].images[0]).voxels)
        for end, grid in (("", original.geometry), ("__grain", view.geometry)):
            seg = io.read_seg(output / f"{name}{end}/seg.dcm", grid)
            np.testing.assert_array_equal(seg.voxels, io.read_labels(plain / f"labelsTr/{name}.nii.gz").voxels)
            assert seg.names == {1: "organ", 2: "tumor"}
        verdict = verify(output / f"{name}__grain/image")
        assert (verdict.verdict, verdict.voxels_match_record) == ("processed", True)
    with (output / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["image"], row["label"]) for row in rows][1] == (
        "one__grain",
        "one__grain/image",
        "one__grain/seg.dcm",
    )
    before = tree(output / "one__grain")
    for path in (output / "one__grain/image").iterdir():
        path.unlink()
    assert remake(output / "one__grain/image.json") == output / "one__grain/image"
    assert tree(output / "one__grain") == before


def test_dicom_is_for_ct_alone_and_a_failed_case_leaves_nothing(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "Dataset001_Small", 1, channels=("CT", "PET"), tests=0)
    with pytest.raises(InputError, match="CT series only"):
        plan_cases(read_dataset(source), options(layout="dicom"), tmp_path / "out")
    one = read_dataset(nnunet(tmp_path / "Dataset002_Small", 1, tests=0))
    [work] = plan_cases(one, options("dct16", "identity", layout="dicom"), tmp_path / "out")
    seen: list[ProgressEvent] = []
    with pytest.raises(Cancelled):
        augment_case(
            work, Models().codec, progress=seen.append, cancel=lambda: any(e.stage == "identity" for e in seen)
        )
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".ctgen"]


# --- again from the record -------------------------------------------------------------------------------------------


def test_a_view_is_made_again_from_its_record(tmp_path: Path) -> None:
    source, output = nnunet(tmp_path / "Dataset001_Small", 2), tmp_path / "Dataset501_Small"
    run(source, output, options(GRAIN, "embedded"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for view in ("p0_0__grain_0000", "p0_1__embedded_0000"):
        volume, record = (output / f"imagesTr/{view}{suffix}" for suffix in (".nii.gz", ".json"))
        before = volume.read_bytes(), record.read_bytes()
        volume.unlink()
        assert remake(record, device="cpu", threads=1) == volume  # as it was made
        assert (volume.read_bytes(), record.read_bytes()) == before
        again = remake(record, output=elsewhere, device="cpu", threads=1)
        assert (again.read_bytes(), again.with_name(record.name).read_bytes()) == before


def test_the_source_is_found_beside_the_view_or_asked_for(tmp_path: Path) -> None:
    source, output = nnunet(tmp_path / "Dataset001_Small", 2), tmp_path / "Dataset501_Small"
    run(source, output, options())
    record = output / "imagesTr/p0_0__dct16_0000.json"
    before = record.with_suffix("").with_suffix(".nii.gz").read_bytes()
    shutil.rmtree(source)  # of hard links the other name stays
    assert remake(record).read_bytes() == before
    original = output / "imagesTr/p0_0_0000.nii.gz"
    original.rename(tmp_path / "away.nii.gz")
    with pytest.raises(InputError, match=r"is not where it was: p0_0_0000\.nii\.gz\. Give it with --input"):
        remake(record)
    with pytest.raises(InputError, match="is not what this view was made from"):
        remake(record, output / "imagesTr/p0_1_0000.nii.gz")
    assert remake(record, tmp_path / "away.nii.gz").read_bytes() == before


def test_what_cannot_be_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, output = nnunet(tmp_path / "Dataset001_Small", 1), tmp_path / "Dataset501_Small"
    run(source, output, options())
    record = output / "imagesTr/p0_0__dct16_0000.json"
    with pytest.raises(InputError, match="Not a CTGen record"):
        remake(output / "dataset.json")
    with pytest.raises(InputError, match="cannot be read"):
        remake(output / "nothing.json")
    with pytest.raises(InputError, match="is no folder"):
        remake(record, output=output / "dataset.json")
    made = remaking.reconstruct(ct(5), "identity")
    made.save(tmp_path / "other.nii.gz")
    with pytest.raises(InputError, match="the record of 'reconstruct'"):
        remake(tmp_path / "other.json")
    volume = record.with_suffix("").with_name("p0_0__dct16_0000.nii.gz")
    before = volume.read_bytes()

    def rounds_otherwise(*arguments: Any, **more: Any) -> Volume:
        result = reconstruct_as_it_is(*arguments, **more)
        result.voxels[0, 0, 0] += 1
        return result

    reconstruct_as_it_is = remaking.reconstruct
    monkeypatch.setattr(remaking, "reconstruct", rounds_otherwise)
    with pytest.raises(InputError, match=r"other voxels than its record tells.*torch"):
        remake(record)
    assert volume.read_bytes() == before


def test_views_are_those_of_reconstruct(tmp_path: Path) -> None:
    source, output = nnunet(tmp_path / "Dataset001_Small", 1), tmp_path / "Dataset501_Small"
    run(source, output, options("identity,window=soft"))
    view = io.read(output / "imagesTr/p0_0__identity_0000.nii.gz")
    window = Window.parse("soft")
    np.testing.assert_array_equal(view.voxels, np.clip(ct(0).voxels.round(), window.lo, window.hi).round())
