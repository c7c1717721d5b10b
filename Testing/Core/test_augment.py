"""Augmentation of a data set: files, grids, names, folds, the same bytes again, and nothing half done."""

from __future__ import annotations

import csv
import dataclasses
import gc
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813  (its documentation's own name)
from augmenting import GRAIN, GRID, ct, labels, mixed, nnunet, options, pairs, run, tree
from ctgencore import io
from ctgencore.errors import Cancelled, InputError
from ctgencore.geometry import Geometry
from ctgencore.jobs import Models
from ctgencore.provenance import RunRecord, verify
from ctgencore.tasks.augment.case import CaseWork, augment_case, plan_cases
from ctgencore.tasks.augment.estimate import estimate
from ctgencore.tasks.augment.model import Case, Problem
from ctgencore.tasks.augment.sources import read_dataset
from ctgencore.tasks.augment.splits import make_splits
from ctgencore.tasks.common import ProgressEvent
from ctgencore.volume import LabelMap, Volume
from processes import environment


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Every reconstruction collects garbage before it measures memory: let it pass over the libraries."""
    gc.freeze()
    yield
    gc.unfreeze()


# --- nnU-Net ---------------------------------------------------------------------------------------------------------


def test_an_nnunet_data_set_gets_views_beside_its_cases(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "Dataset001_Small")
    before = tree(source)
    output = tmp_path / "Dataset501_Small"
    done = run(source, output, options("dct16", GRAIN, patient_pattern="([pt].)", folds=2))
    assert tree(source) == before
    assert (done["cases"], done["views"]) == (5, 8)
    names = [f"p{n // 2}_{n}" for n in range(4)]
    every = [f"{name}{view}" for name in names for view in ("", "__dct16", "__grain")]
    files = tree(output)
    assert sorted(name for name in files if name.endswith(".nii.gz")) == sorted(
        [f"imagesTr/{name}_0000.nii.gz" for name in every]
        + [f"labelsTr/{name}.nii.gz" for name in every]
        + ["imagesTs/t4_0000.nii.gz"]
    )
    for name in names:
        for kind in ("images", "labels"):
            end = "_0000.nii.gz" if kind == "images" else ".nii.gz"
            assert (output / f"{kind}Tr/{name}{end}").samefile(source / f"{kind}Tr/{name}{end}"), "a hard link"
        assert (output / f"labelsTr/{name}__dct16.nii.gz").samefile(source / f"labelsTr/{name}.nii.gz")
        original, view = (io.read(output / f"imagesTr/{name}{which}_0000.nii.gz") for which in ("", "__dct16"))
        assert view.geometry == original.geometry
        assert 0 < np.abs(view.voxels - np.clip(original.voxels, -1000, 1000)).mean() < 200
        assert verify(output / f"imagesTr/{name}__grain_0000.nii.gz").voxels_match_record
    content = json.loads(files["dataset.json"])
    assert (content["numTraining"], content["file_ending"], content["licence"]) == (12, ".nii.gz", "CC0")
    assert content["channel_names"] == {"0": "CT"}
    assert content["labels"] == {"background": 0, "organ": 1, "tumor": 2}
    assert [view["name"] for view in content["ctgen"]["views"]] == ["dct16", "grain"]
    folds = json.loads(files["splits_final.json"])
    assert len(folds) == 2
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(every)
        assert not {name[:2] for name in fold["train"]} & {name[:2] for name in fold["val"]}, "a patient on both sides"
    assert sorted(name for fold in folds for name in fold["val"]) == sorted(every), "each name is validated on once"
    assert read_dataset(output).kind == "nnunet"


def test_the_record_says_what_was_drawn_and_nothing_of_when_and_where(tmp_path: Path) -> None:
    output = tmp_path / "Dataset501_Small"
    chosen = options(GRAIN, seed=3)
    run(nnunet(tmp_path / "Dataset001_Small", 2), output, chosen)
    record = RunRecord.from_json((output / "imagesTr/p0_1__grain_0000.json").read_text())
    choice = chosen.plan()[0].draw(3, "p0_1")
    assert record.options == {
        "case": "p0_1",
        "view": "grain",
        "channel": 0,
        "reconstruct": dataclasses.asdict(dataclasses.replace(chosen.of(choice), device="auto", threads=None)),
    }
    assert (record.task, record.codec, record.created_utc, record.device) == ("augment", choice.codec, "", "")
    assert record.timings_s == {}
    assert "peak_bytes" not in record.results
    assert set(record.versions) == {"torch", "numpy"}
    everything = b"\n".join(tree(output).values())
    assert str(tmp_path).encode() not in everything, "no paths of this machine"
    facts = json.loads((output / "ctgen.json").read_text())
    assert facts["cases"][1]["entries"][1]["choice"] == dataclasses.asdict(choice)
    assert facts["cases"][1]["sources"] == ["p0_1_0000.nii.gz"]


def test_all_bytes_are_the_same_again_and_on_another_machine(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "a" / "Dataset001_Small", 2)
    shutil.copytree(source, tmp_path / "b" / "Dataset001_Small")
    for place in "ab":
        home = tmp_path / place
        run(home / "Dataset001_Small", home / "Dataset501_Small", options("net=embedded,noise=0.1", GRAIN))
    assert tree(tmp_path / "a" / "Dataset501_Small") == tree(tmp_path / "b" / "Dataset501_Small")
    again = tmp_path / "a" / "Dataset501_Small"
    before = tree(again)
    run(source, again, options("net=embedded,noise=0.1", GRAIN))
    assert tree(again) == before
    assert not [name for name in tree(again, hidden=True) if "/.ctgen-" in f"/{name}"], "a temporary file is left"


def test_the_original_can_be_left_out_but_never_a_test_case(tmp_path: Path) -> None:
    output = tmp_path / "Dataset501_Small"
    done = run(nnunet(tmp_path / "Dataset001_Small", 2), output, options(mode="replace"))
    images = [name for name in tree(output) if name.startswith("images") and name.endswith(".gz")]
    assert images == ["imagesTr/p0_0__dct16_0000.nii.gz", "imagesTr/p0_1__dct16_0000.nii.gz", "imagesTs/t2_0000.nii.gz"]
    assert json.loads((output / "dataset.json").read_text())["numTraining"] == 2
    assert any("originals" in note for note in done["notes"])


def test_other_channels_come_along_and_ct_channels_share_a_choice(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "Dataset001_Small", 1, channels=("CT", "PET"))
    output = tmp_path / "Dataset501_Small"
    run(source, output, options("dct16,noise=0.1"))
    for name in ("p0_0", "p0_0__dct16"):
        assert (output / f"imagesTr/{name}_0001.nii.gz").samefile(source / "imagesTr/p0_0_0001.nii.gz")
    two = pairs(
        source,
        [Case(name="a", patient="a", images=(source / "imagesTr/p0_0_0000.nii.gz",) * 2, label=None)],
        channels=("CT", "CT late"),
    )
    run(two, tmp_path / "Dataset502_Two", options("dct16,noise=0.1"))
    images = [tmp_path / f"Dataset502_Two/imagesTr/a__dct16_{n:04d}.nii.gz" for n in (0, 1)]
    np.testing.assert_array_equal(io.read(images[0]).voxels, io.read(images[1]).voxels)


def test_a_hard_link_that_the_disk_refuses_becomes_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    source, output = nnunet(tmp_path / "Dataset001_Small", 1), tmp_path / "Dataset501_Small"
    monkeypatch.setattr(os, "link", refuse)
    run(source, output, options())
    copy, original = output / "labelsTr/p0_0.nii.gz", source / "labelsTr/p0_0.nii.gz"
    assert copy.read_bytes() == original.read_bytes()
    assert not copy.samefile(original)


# --- formats ---------------------------------------------------------------------------------------------------------


def test_mixed_formats_become_one_where_the_layout_wants_one(tmp_path: Path) -> None:
    dataset = mixed(tmp_path / "mixed")
    output = tmp_path / "Dataset501_Mixed"
    run(dataset, output, options())
    assert {"".join(Path(name).suffixes) for name in tree(output) if not name.endswith("json")} == {".nii.gz"}
    assert (output / "imagesTr/a_0000.nii.gz").samefile(tmp_path / "mixed/a.nii.gz")
    converted = sitk.ReadImage(str(output / "imagesTr/b_0000.nii.gz"))
    assert converted.GetPixelID() == sitk.sitkFloat32
    np.testing.assert_array_equal(sitk.GetArrayFromImage(converted), ct(1).voxels + np.float32(0.25))
    assert converted.GetSpacing() == GRID.spacing_mm
    for name in ("a", "a__dct16"):
        label = io.read_labels(output / f"labelsTr/{name}.nii.gz")
        np.testing.assert_array_equal(label.voxels, labels(0).voxels)
        assert label.voxels.dtype == np.uint8
    assert b"Jane" not in b"".join(tree(output).values())
    facts = json.loads((output / "ctgen.json").read_text())
    assert facts["cases"][0]["notes"] == ["The label a_seg.nrrd was converted to .nii.gz."]
    assert "The label b_seg.nrrd was converted to .nii.gz." in facts["cases"][1]["notes"]
    assert "b.nrrd was converted to .nii.gz." in facts["cases"][1]["notes"]


def test_flat_keeps_every_format_and_lists_all_files(tmp_path: Path) -> None:
    dataset = mixed(tmp_path / "mixed")
    output = tmp_path / "flat"
    run(dataset, output, options(layout="flat"))
    assert (output / "images/b.nrrd").samefile(tmp_path / "mixed/b.nrrd")
    assert (output / "labels/a__dct16.nrrd").samefile(tmp_path / "mixed/a_seg.nrrd")
    with (output / "cases.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["view"], row["patient"], row["split"]) for row in rows] == [
        ("a", "", "a", "train"),
        ("a__dct16", "dct16", "a", "train"),
        ("b", "", "b", "train"),
        ("b__dct16", "dct16", "b", "train"),
    ]
    for row in rows:
        assert io.read_labels(output / row["label"]).geometry == io.read(output / row["image"]).geometry
    assert len(json.loads((output / "splits_final.json").read_text())) == 2


def test_msd_layout(tmp_path: Path) -> None:
    output = tmp_path / "Task06_Small"
    run(nnunet(tmp_path / "Dataset001_Small", 2), output, options(layout="msd"))
    content = json.loads((output / "dataset.json").read_text())
    assert content["labels"] == {"0": "background", "1": "organ", "2": "tumor"}
    assert (content["numTraining"], content["numTest"], content["modality"]) == (4, 1, {"0": "CT"})
    for entry in content["training"]:
        assert (output / entry["image"]).is_file()
        assert (output / entry["label"]).is_file()
    assert content["test"] == ["./imagesTs/t2.nii.gz"]
    again = read_dataset(output)
    assert (again.kind, len(again.cases)) == ("msd", 5)


# --- folds, labels, patients -----------------------------------------------------------------------------------------


def test_folds_are_even_and_depend_on_the_seed() -> None:
    names = {f"c{n}": [f"c{n}", f"c{n}__v"] for n in range(23)}
    patients = {f"c{n}": f"p{n // 2}" for n in range(23)}
    folds = make_splits(names, patients, 5, 0)
    assert folds == make_splits(dict(reversed(names.items())), patients, 5, 0)
    assert folds != make_splits(names, patients, 5, 1)
    assert sorted(len(fold["val"]) for fold in folds) in ([8, 8, 8, 10, 12], [8, 8, 10, 10, 10])
    where = {patients[name.split("__")[0]]: n for n, fold in enumerate(folds) for name in fold["val"]}
    for n, fold in enumerate(folds):
        assert all(where[patients[name.split("__")[0]]] == n for name in fold["val"])
    assert len(make_splits(names, dict.fromkeys(names, "one") | {"c3": "two"}, 5, 0)) == 2
    assert make_splits(names, dict.fromkeys(names, "one"), 5, 0) == []


def test_the_sources_own_folds_are_carried_over(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "Dataset001_Small", 4, tests=0)
    folds = [{"train": ["p0_0", "p1_2"], "val": ["p0_1"]}, {"train": ["p0_0", "p0_1"], "val": ["p1_2"]}]
    (source / "splits_final.json").write_text(json.dumps(folds))
    output = tmp_path / "Dataset501_Small"
    done = run(source, output, options(patient_pattern="(p.)_"))
    carried = json.loads((output / "splits_final.json").read_text())
    assert carried[1] == {"train": ["p0_0", "p0_0__dct16", "p0_1", "p0_1__dct16"], "val": ["p1_2", "p1_2__dct16"]}
    text = " ".join(done["notes"])
    assert "Fold 0 of the source has patients on both sides" in text
    assert "no fold has them: p1_3" in text


def test_few_patients_make_few_folds(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "Dataset001_Small", 2, tests=0)
    done = run(source, tmp_path / "Dataset501_Small", options())
    assert "5 folds were asked for; of 2 patients 2 can be made." in done["notes"]
    done = run(source, tmp_path / "Dataset502_Small", options(patient_pattern="(p.)_"))
    assert "5 folds were asked for; of 1 patients none can be made." in done["notes"]
    assert not (tmp_path / "Dataset502_Small/splits_final.json").exists()


def test_values_without_a_name_get_one(tmp_path: Path) -> None:
    ct(0).save(tmp_path / "a.nii.gz")
    voxels = labels(0).voxels.copy()
    voxels[0, 0, 0] = 4
    LabelMap(voxels, GRID).save(tmp_path / "l.nii.gz")
    case = Case(name="a", patient="secret-id", images=(tmp_path / "a.nii.gz",), label=tmp_path / "l.nii.gz")
    dataset = pairs(tmp_path / "elsewhere", [case], labels={"background": 0, "organ": 1})
    output = tmp_path / "Dataset501_A"
    done = run(dataset, output, options())
    content = json.loads((output / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "organ": 1, "label_2": 2, "label_4": 4, "unused_3": 3}
    assert any("1 values that no case has" in note for note in done["notes"])
    assert "Label values without a name were called label_N: 2, 4 (in a)." in done["notes"]
    assert b"secret-id" not in b"".join(tree(output, hidden=True).values()), "an identity that only a header has"
    assert json.loads((output / "ctgen.json").read_text())["cases"][0]["patient"] == "patient_0001"


# --- what cannot be --------------------------------------------------------------------------------------------------


def test_folders_that_are_refused(tmp_path: Path) -> None:
    source = nnunet(tmp_path / "Dataset001_Small", 1)
    dataset = read_dataset(source)
    for output, message in (
        (tmp_path / "out", r"Call it Dataset501_out, for example"),
        (tmp_path / "Dataset5_x", r"Call it Dataset501_x, for example"),
        (source, "cannot go into the data set"),
        (source / "Dataset501_Small", "cannot go into the data set"),
    ):
        with pytest.raises(InputError, match=message):
            plan_cases(dataset, options(), output)
    output = tmp_path / "Dataset501_Small"
    assert plan_cases(dataset, options(), output)
    assert not output.exists(), "a plan writes nothing"
    run(dataset, output, options())
    plan_cases(dataset, options(folds=3, patient_pattern="(.)"), output)  # what no volume depends on may change
    with pytest.raises(InputError, match="made otherwise: seed 0 instead of 1"):
        plan_cases(dataset, options(seed=1), output)


def test_data_sets_that_are_refused(tmp_path: Path) -> None:
    dataset = read_dataset(nnunet(tmp_path / "Dataset001_Small", 2))
    output = tmp_path / "Dataset501_Small"
    broken = dataclasses.replace(dataset, problems=(Problem(case="", message="no good"),))
    with pytest.raises(InputError, match="no good"):
        plan_cases(broken, options(), output)
    with pytest.raises(InputError, match="None of the channels T1, T2 is CT"):
        plan_cases(dataclasses.replace(dataset, channels=("T1", "T2")), options(), output)
    two = dataclasses.replace(dataset, channels=("CT", "PET"))
    with pytest.raises(InputError, match="share one file"):
        plan_cases(two, options(layout="msd"), output)
    regions = dataclasses.replace(dataset, labels={"background": 0, "whole": [1, 2], "tumor": 2})
    with pytest.raises(InputError, match="no regions"):
        plan_cases(regions, options(layout="msd"), output)
    one = dataclasses.replace(dataset, problems=(Problem(case="p0_1", message="no label"),))
    assert [work.name for work in plan_cases(one, options(), output)] == ["p0_0", "t2"]


def test_another_grid_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    ct(0).save(tmp_path / "a.nii.gz")
    moved = Geometry(GRID.size_xyz, GRID.spacing_mm, (-10.0, 4.0, 7.6))
    LabelMap(labels(0).voxels, moved).save(tmp_path / "l.nii.gz")
    Volume(ct(0).voxels, moved).save(tmp_path / "b.nii.gz")
    labels(0).save(tmp_path / "fits.nii.gz")
    for case, channels, message in (
        (
            Case(name="a", patient="a", images=(tmp_path / "a.nii.gz",), label=tmp_path / "l.nii.gz"),
            ("CT",),
            "its label",
        ),
        (
            Case(
                name="a",
                patient="a",
                images=(tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"),
                label=tmp_path / "fits.nii.gz",
            ),
            ("CT", "PET"),
            r"a\.nii\.gz and b\.nii\.gz",
        ),
    ):
        dataset = pairs(tmp_path / "elsewhere", [case], channels=channels)
        output = tmp_path / f"Dataset50{len(channels)}_A"
        [work] = plan_cases(dataset, options(), output)
        with pytest.raises(InputError, match=message):
            augment_case(work, Models().codec)
        assert tree(output) == {}


def test_cancel_leaves_no_file_of_the_case(tmp_path: Path) -> None:
    dataset = read_dataset(nnunet(tmp_path / "Dataset001_Small", 1, tests=0))
    [work] = plan_cases(dataset, options("dct16", "identity"), tmp_path / "Dataset501_Small")
    seen: list[ProgressEvent] = []
    with pytest.raises(Cancelled):
        augment_case(
            work, Models().codec, progress=seen.append, cancel=lambda: any(e.stage == "identity" for e in seen)
        )
    assert tree(tmp_path / "Dataset501_Small") == {}
    seen.clear()
    augment_case(work, Models().codec, progress=seen.append)
    assert {(event.stage, event.before, event.total) for event in seen} == {("dct16", 0, 16), ("identity", 8, 16)}
    assert [event.done for event in seen] == sorted(event.done for event in seen)
    assert seen[-1].done == 16


def test_files_of_unfinished_cases_are_told(tmp_path: Path) -> None:
    source, output = nnunet(tmp_path / "Dataset001_Small", 1), tmp_path / "Dataset501_Small"
    run(source, output, options())
    shutil.copy(output / "imagesTr/p0_0_0000.nii.gz", output / "imagesTr/stray_0000.nii.gz")
    done = run(source, output, options())
    assert any("imagesTr/stray_0000.nii.gz" in note for note in done["notes"])


def test_work_is_plain_data(tmp_path: Path) -> None:
    dataset = read_dataset(nnunet(tmp_path / "Dataset001_Small", 1))
    for work in plan_cases(dataset, options(GRAIN), tmp_path / "Dataset501_Small"):
        assert CaseWork.from_payload(json.loads(json.dumps(work.to_payload()))) == work
        assert all(path.is_file() for path in work.inputs)


# --- how much --------------------------------------------------------------------------------------------------------


def test_the_estimate_counts_volumes(tmp_path: Path) -> None:
    dataset = read_dataset(nnunet(tmp_path / "Dataset001_Small", 3))
    voxels = int(np.prod(GRID.size_xyz))
    one, two = (estimate(dataset, options(*views)) for views in (("dct16",), ("dct16", "b=dct16")))
    assert one["bytes"] == round(3 * voxels * 4 / 3), "originals are links"
    assert two["bytes"] == 2 * one["bytes"]
    assert one["seconds"] > 0


# --- nnU-Net's own word ----------------------------------------------------------------------------------------------

NNUNET = (  # nnU-Net and what its integrity check imports
    *("nnunetv2", "acvl_utils", "batchgenerators", "batchgeneratorsv2", "dynamic_network_architectures"),
    *("pandas", "blosc2", "numexpr", "ndindex", "httpx"),
)
VERIFY = """
import sys
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
if __name__ == "__main__":
    for folder in sys.argv[1:]:
        verify_dataset_integrity(folder, 1)
"""


@pytest.mark.heavy
def test_nnunet_accepts_the_result(tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    (Path(packages) / "seen_from_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")  # torch, SimpleITK, ...
    missing = [name for name in NNUNET if not find_spec(name)]  # not what it says it needs: that has a torch of its own
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", *missing]
    installed = subprocess.run([str(word) for word in install], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"nnunetv2 cannot be installed here: {installed.stderr.strip().splitlines()[-1]}")
    made = [tmp_path / "Dataset501_Small", tmp_path / "Dataset502_Mixed", tmp_path / "Dataset503_Replaced"]
    source = nnunet(tmp_path / "Dataset001_Small", 4, channels=("CT", "PET"))
    run(source, made[0], options("dct16", GRAIN))
    run(mixed(tmp_path / "mixed"), made[1], options())
    run(source, made[2], options("embedded", mode="replace"))
    (tmp_path / "verify.py").write_text(VERIFY)
    homes = {name: str(tmp_path) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    checked = subprocess.run(
        [python, tmp_path / "verify.py", *made], capture_output=True, text=True, env=environment() | homes
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("verify_dataset_integrity Done") == 3
    assert "Error" not in checked.stdout
    assert "mismatch" not in checked.stdout.lower()
