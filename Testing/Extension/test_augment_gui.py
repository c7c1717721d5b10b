"""The Augment tab of CTGenReconstruct driven as a user drives it: real module, real scene, real engine processes."""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qt
import SimpleITK as sitk
import slicer
from augmenting import (
    CODEC,
    GRAIN_FROM,
    GRAIN_TO,
    NAME,
    NOISE_TO,
    PATIENCE,
    WINDOW,
    assert_same_files,
    begin,
    cell,
    files,
    images,
    labels_of,
    look,
    make_data_set,
    problems,
    select,
    views,
)
from conftest import MODULE, add_volume, oblique
from driving import Picture, finish
from evaluating import array, load_scene
from segmenting import add_segmentation, segment_id


@pytest.fixture(scope="module")
def panel(host: Any) -> Iterator[Any]:
    """One panel for the whole file: it has to survive a closed scene after every test."""
    widget = host.open_module(MODULE)
    host.wait(lambda: not widget.engineSection.checking, PATIENCE)
    assert widget.engine is not None, widget.engineSection.problems
    widget.ui.tabs.setCurrentIndex(2)
    yield widget
    host.close_module(widget)


@pytest.fixture
def fresh(host: Any, panel: Any) -> Any:
    """The panel in an empty scene."""
    slicer.mrmlScene.Clear(0)
    host.process_events()
    panel.ui.tabs.setCurrentIndex(2)
    host.enter(panel)
    panel.runSection.say("")
    panel.ui.logText.clear()
    return panel


@pytest.fixture
def cases(tmp_path: Path, chest: np.ndarray) -> Path:
    """An nnU-Net data set of three small cases of three patients, and one test case."""
    return make_data_set(
        tmp_path / "raw" / "Dataset021_Lungs", {f"case_{n:03d}": chest + n for n in range(1, 4)}, chest
    )


def test_a_view_as_text(panel: Any) -> None:
    from CTGenReconstructLib.augmentViews import View

    for view, text in (
        (View(), "embedded"),
        (View("dct16", "soft"), "dct16,window=soft"),
        (View("a|b", "wide|-150 250", (0.0, 0.2), (0.5, 0.5), "grain"),
         "grain=a|b,window=wide|-150 250,noise=0..0.2,residual=0.5"),
    ):  # fmt: skip
        assert view.text() == text
        assert View.parse(text) == view
    assert View.parse("a,b=c,noise=x").text() == "a,b=c,noise=x", "the engine says what is wrong with it"


def test_what_a_plan_says(panel: Any) -> None:
    from CTGenReconstructLib import augmentPlan

    plan = {
        "kind": "msd", "channels": ["CT", "PET"], "labels": {"background": 0, **{f"part {n}": n for n in range(1, 10)}},
        "cases": [{"name": f"c{n}", "patient": f"p{n // 2}", "label": n > 0, "split": "test" if n == 5 else "train"}
                  for n in range(6)],
        "problems": [{"case": "c1", "message": "odd", "fatal": True}], "seconds": None, "bytes": 2.34e12,
        "free_bytes": 5e11, "done": 2,
    }  # fmt: skip
    text = augmentPlan.recognizedText(plan)
    assert "5 cases of 3 patients, 1 of them cannot be used, 1 without labels." in text
    assert "CT, PET" in text
    assert "part 6 and 3 more" in text
    assert "Test cases, which stay as they are: 1." in text
    assert "2 are done" in text
    text = augmentPlan.estimateText(plan)
    assert "Time not known" in text
    assert "2.34 TB on disk; 500 GB are free" in text
    assert "disk is too small" in text
    assert "too small" not in augmentPlan.estimateText(plan | {"bytes": 999.4, "seconds": 100})
    assert "About 1 min 40 s, 999 B" in augmentPlan.estimateText(plan | {"bytes": 999.4, "seconds": 100})
    assert augmentPlan.blocking(plan) == ""
    spoiled = [{"case": f"c{n}", "message": "odd", "fatal": True} for n in range(5)]
    assert "no case" in augmentPlan.blocking(plan | {"problems": spoiled})
    assert augmentPlan.blocking(plan | {"problems": [{"case": "", "message": "bad", "fatal": True}]}) == "bad"


def test_what_is_recognized_and_what_blocks_a_run(
    host: Any, fresh: Any, cases: Path, tmp_path: Path, picture: Picture
) -> None:
    panel, ui = fresh, fresh.ui
    assert not ui.inputsButton.visible, "the data set is the input"
    assert ui.deviceBox.visible
    assert not ui.windowBox.visible
    assert ui.hintLabel.text == "Choose the folder of a data set."
    picture(panel, "60-augment-empty")
    (cases / "labelsTr" / "case_002.nii.gz").unlink()
    ui.dataSetEdit.currentPath = str(cases)
    output = Path(panel._parameterNode.augmentOutput)
    assert output == cases.parent / "Dataset500_LungsViews", "an output is suggested"
    assert ui.recognizedLabel.text == "Looking at the data set..."
    assert "Waiting" in ui.hintLabel.text
    look(host, panel)
    assert "nnU-Net data set: 3 cases of 3 patients, 1 of them cannot be used." in ui.recognizedLabel.text
    assert "Labels: lung, bone." in ui.recognizedLabel.text
    assert "stay as they are: 1." in ui.recognizedLabel.text
    assert [case for case, _message in problems(panel)] == ["case_002"]
    assert "on disk" in ui.estimateLabel.text
    assert ui.applyButton.enabled, ui.hintLabel.text
    assert not output.exists(), "to look changes nothing"

    ui.addViewButton.click()
    assert views(panel) == ["embedded", "embedded-2=embedded"]
    cell(panel, 1, CODEC).setEditText("dct16|embedded")
    cell(panel, 1, WINDOW).setEditText("wide|-150 250")
    cell(panel, 1, NOISE_TO).value = 0.2
    cell(panel, 1, GRAIN_FROM).value = 0.5
    assert cell(panel, 1, GRAIN_TO).value == 0.5, "the end goes along"
    cell(panel, 1, NAME).setText("grain")
    assert views(panel) == ["embedded", "grain=dct16|embedded,window=wide|-150 250,noise=0..0.2,residual=0.5"]
    look(host, panel)
    assert ui.applyButton.enabled, ui.hintLabel.text
    picture(panel, "61-augment-recognized")

    def refused(part: str) -> None:
        look(host, panel)
        assert not ui.applyButton.enabled
        assert part in ui.hintLabel.text

    cell(panel, 1, CODEC).setEditText("leanvae")
    refused("leanvae")
    picture(panel, "62-augment-refused")
    for _view in range(2):
        ui.viewTable.selectRow(0)
        ui.removeViewButton.click()
    refused("Add a view")
    ui.addViewButton.click()
    assert views(panel) == ["embedded"]
    for wrong, part in (("", "Choose a folder"), (str(cases / "imagesTr"), "neither that of the data set"),
                        (str(cases / "dataset.json"), "is a file")):  # fmt: skip
        ui.augmentOutputEdit.currentPath = wrong
        refused(part)
    ui.augmentOutputEdit.currentPath = str(tmp_path / "anything")
    refused("Dataset")  # nnU-Net wants a name of its form
    (tmp_path / "nothing").mkdir()
    ui.dataSetEdit.currentPath = str(tmp_path / "nothing")
    refused("nothing")
    ui.dataSetEdit.currentPath = str(tmp_path / "not there")
    refused("There is nothing at")


def test_a_run_makes_what_the_command_line_makes(
    host: Any, fresh: Any, cases: Path, tmp_path: Path, picture: Picture
) -> None:
    panel, ui = fresh, fresh.ui
    output = cases.parent / "Dataset501_Views"
    select(host, panel, cases, output)
    ui.addViewButton.click()
    cell(panel, 1, CODEC).setEditText("dct16")
    cell(panel, 1, NAME).setText("grain")
    cell(panel, 1, NOISE_TO).value = 0.2
    cell(panel, 1, GRAIN_FROM).value = 0.5
    ui.augmentSeedBox.value = 7
    look(host, panel)
    begin(panel)
    assert not ui.tabs.enabled
    folder = panel.logic.job.folder
    host.wait(lambda: "of 4 cases" in ui.progressBar.format, PATIENCE)
    picture(panel, "63-augment-running")
    finish(host, panel, PATIENCE)
    assert ui.statusLabel.text.startswith("Done in"), ui.statusLabel.text + ui.logText.plainText
    assert "4 cases, 6 views" in ui.statusLabel.text
    assert not os.path.exists(folder)
    look(host, panel)
    assert "All are done already" in ui.recognizedLabel.text
    assert not ui.resumeFrame.visible, "nothing is left to do"
    picture(panel, "64-augment-done")

    assert len(images(output)) == 9
    assert "imagesTs/case_900_0000.nii.gz" in files(output)
    for name in ("case_001__embedded", "case_001__grain", "case_001"):
        assert filecmp.cmp(
            output / "labelsTr" / f"{name}.nii.gz", cases / "labelsTr" / "case_001.nii.gz", shallow=False
        )
    content = json.loads((output / "dataset.json").read_text())
    assert (content["numTraining"], content["labels"]) == (9, {"background": 0, "lung": 1, "bone": 2})
    for fold in json.loads((output / "splits_final.json").read_text()):
        patients = [{name.partition("__")[0] for name in fold[part]} for part in ("train", "val")]
        assert not patients[0] & patients[1], "views of a patient are on both sides"

    opened = []
    qt.QDesktopServices.openUrl, before = (lambda url: opened.append(url.toLocalFile())), qt.QDesktopServices.openUrl
    ui.openResultButton.click()
    qt.QDesktopServices.openUrl = before
    assert opened == [str(output)]

    other = tmp_path / "cli" / "Dataset501_Views"
    words = ["--view", "embedded", "--view", "grain=dct16,noise=0..0.2,residual=0.5", "--seed", "7"]
    command = [sys.executable, "-m", "ctgencore", "augment", "-i", str(cases), "-o", str(other), *words]
    subprocess.run(command, check=True, capture_output=True)
    assert_same_files(output, other)


@pytest.mark.heavy
def test_real_patients(host: Any, fresh: Any, real_pairs: Path, tmp_path: Path) -> None:
    output, other = tmp_path / "Dataset501_Real", tmp_path / "cli" / "Dataset501_Real"
    select(host, fresh, real_pairs, output)
    begin(fresh)
    finish(host, fresh, 3600)
    assert fresh.ui.statusLabel.text.startswith("Done in"), fresh.ui.statusLabel.text + fresh.ui.logText.plainText
    command = [sys.executable, "-m", "ctgencore", "augment", "-i", str(real_pairs), "-o", str(other)]
    subprocess.run(command, check=True, capture_output=True)
    assert_same_files(output, other)


def test_pause_and_continue(host: Any, fresh: Any, cases: Path, picture: Picture) -> None:
    panel, ui = fresh, fresh.ui
    output = cases.parent / "Dataset502_Views"
    select(host, panel, cases, output, "identity")
    assert not ui.pauseButton.enabled
    begin(panel)
    ui.pauseButton.click()
    assert ui.pauseButton.text == "Continue"
    assert ui.statusLabel.text.startswith("Pausing")
    host.wait(lambda: ui.statusLabel.text.startswith("Paused"), PATIENCE)
    before = images(output)
    assert len(before) < 6
    assert ui.progressBar.format.startswith(("0 of 4", "1 of 4"))
    picture(panel, "65-augment-paused")
    end = time.monotonic() + 2.5
    host.wait(lambda: time.monotonic() > end)
    assert images(output) == before, "a case began"
    assert ui.statusLabel.text.startswith("Paused"), "the clock has its own idea"
    ui.pauseButton.click()
    assert ui.pauseButton.text == "Pause"
    finish(host, panel, PATIENCE)
    assert "4 cases" in ui.statusLabel.text, ui.statusLabel.text
    assert len(images(output)) == 6

    output = cases.parent / "Dataset503_Views"
    ui.augmentOutputEdit.currentPath = str(output)
    look(host, panel)
    begin(panel)
    ui.pauseButton.click()
    host.wait(lambda: ui.statusLabel.text.startswith("Paused"), PATIENCE)
    ui.applyButton.click()
    finish(host, panel, 20)
    assert ui.statusLabel.text.startswith("Cancelled."), "a paused run can be cancelled"
    assert not (output / ".ctgen" / "pause").exists()


def test_a_case_that_fails_leaves_the_others(host: Any, fresh: Any, cases: Path, picture: Picture) -> None:
    panel, ui = fresh, fresh.ui
    good = (cases / "imagesTr" / "case_002_0000.nii.gz").read_bytes()
    (cases / "imagesTr" / "case_002_0000.nii.gz").write_bytes(good[: len(good) // 2])  # its header can be read
    output = cases.parent / "Dataset505_Views"
    select(host, panel, cases, output, "identity")
    begin(panel)
    finish(host, panel, PATIENCE)
    assert "1 failed" in ui.statusLabel.text, ui.statusLabel.text
    assert not panel.logic.failedFolder
    look(host, panel)
    assert problems(panel)[0][0] == "case_002"
    assert problems(panel)[0][1]
    assert "case_002: " in ui.logText.plainText
    assert not any("case_002" in name for name in files(output) if name.startswith("imagesTr"))
    picture(panel, "68-augment-one-failed")
    assert ui.resumeFrame.visible
    (cases / "imagesTr" / "case_002_0000.nii.gz").write_bytes(good)
    ui.resumeButton.click()
    finish(host, panel, PATIENCE)
    assert "3 were done before" in ui.statusLabel.text, ui.statusLabel.text
    assert len(images(output)) == 6
    look(host, panel)
    assert problems(panel) == []
    assert not ui.resumeFrame.visible


def test_a_run_goes_on_without_scene_and_panel(host: Any, fresh: Any, cases: Path, tmp_path: Path) -> None:
    """It works on files. What was chosen is saved with the scene."""
    panel = fresh
    output = cases.parent / "Dataset506_Views"
    select(host, panel, cases, output, "identity")
    panel.ui.addViewButton.click()
    cell(panel, 1, GRAIN_TO).value = 0.4
    look(host, panel)
    chosen = views(panel)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    begin(panel)
    host.leave(panel)
    slicer.mrmlScene.Clear(0)
    host.process_events()
    assert panel.logic.running
    host.enter(panel)
    assert panel.ui.applyButton.text == "Cancel"
    finish(host, panel, PATIENCE)
    assert "4 cases, 6 views" in panel.ui.statusLabel.text, panel.ui.statusLabel.text
    assert panel._parameterNode.dataSet == ""
    load_scene(tmp_path / "scene.mrb")
    host.process_events()
    host.enter(panel)
    assert (panel.ui.dataSetEdit.currentPath, panel.ui.augmentOutputEdit.currentPath) == (str(cases), str(output))
    assert views(panel) == chosen == ["identity", "identity-2=identity,residual=0..0.4"]
    assert cell(panel, 1, GRAIN_TO).value == 0.4
    look(host, panel)
    assert "All are done already" in panel.ui.recognizedLabel.text


def test_a_case_from_the_scene(host: Any, fresh: Any, chest: np.ndarray, tmp_path: Path, picture: Picture) -> None:
    panel, ui = fresh, fresh.ui
    ui.caseButton.collapsed = False
    assert ui.caseHintLabel.text == "Choose a CT and its segmentation."
    volume = add_volume(chest, oblique((5.6, 5.6, 8.0)), "Müller: CT 3")
    labels = labels_of(chest)
    node = add_segmentation(labels, volume, {2: "bone", 1: "lung"})
    host.leave(panel)
    host.enter(panel)
    assert ui.caseVolumeSelector.currentNode() is volume, "what is loaded is chosen"
    assert ui.caseSegmentationSelector.currentNode() is node
    assert "Choose the folder of the data set" in ui.caseHintLabel.text
    folder = tmp_path / "Dataset031_Own"
    ui.dataSetEdit.currentPath = str(folder)
    assert ui.caseNameEdit.placeholderText == "M_ller_CT_3"
    assert ui.addCaseButton.enabled, ui.caseHintLabel.text
    ui.caseNameEdit.text = "a__b"
    assert "Name the case" in ui.caseHintLabel.text
    ui.caseNameEdit.text = ""
    node.GetSegmentation().GetSegment(segment_id(node, "bone")).SetName("lung")
    panel.updateGui()
    assert "'lung'" in ui.caseHintLabel.text
    node.GetSegmentation().GetNthSegment(0).SetName("bone")
    panel.updateGui()
    picture(panel, "69-augment-case")
    ui.addCaseButton.click()
    assert panel.logic.running, ui.statusLabel.text
    job = panel.logic.job.folder
    finish(host, panel, PATIENCE)
    assert "the data set has 1 case" in ui.statusLabel.text, ui.statusLabel.text + ui.logText.plainText
    assert "bone (1), lung (2)" in ui.statusLabel.text
    assert not os.path.exists(job), "patient data was left behind"

    def read(name: str) -> tuple[np.ndarray, Any]:
        image = sitk.ReadImage(str(folder / name))
        return sitk.GetArrayFromImage(image), image

    voxels, image = read("imagesTr/M_ller_CT_3_0000.nii.gz")
    map_, label = read("labelsTr/M_ller_CT_3.nii.gz")
    np.testing.assert_array_equal(voxels, array(volume))
    np.testing.assert_array_equal(map_, np.choose(labels, [0, 2, 1]))
    corner = [size - 1 for size in image.GetSize()]
    world = oblique((5.6, 5.6, 8.0)) @ [*corner, 1.0] * [-1, -1, 1, 1]
    for each in (image, label):
        np.testing.assert_allclose(each.TransformIndexToPhysicalPoint(corner), world[:3], atol=1e-3)

    ui.addCaseButton.click()
    finish(host, panel, PATIENCE)
    assert "M_ller_CT_3" in ui.statusLabel.text, "it is there already"
    assert panel.logic.failedFolder
    ui.caseNameEdit.text = "second"
    ui.casePatientEdit.text = "P7"
    node.GetSegmentation().RemoveSegment(segment_id(node, "bone"))
    host.process_events()
    ui.addCaseButton.click()
    finish(host, panel, PATIENCE)
    assert "the data set has 2 cases" in ui.statusLabel.text, ui.statusLabel.text
    np.testing.assert_array_equal(read("labelsTr/second.nii.gz")[0], np.where(labels == 1, 2, 0))
    content = json.loads((folder / "dataset.json").read_text())
    assert content["labels"] == {"background": 0, "bone": 1, "lung": 2}
    look(host, panel)
    assert "2 cases of 2 patients." in ui.recognizedLabel.text, ui.recognizedLabel.text
    picture(panel, "70-augment-case-added")

    away = add_volume(chest, np.diag([5.6, 5.6, 8.0, 1.0]) + np.eye(4, k=3) * 5000, "Elsewhere")
    ui.caseVolumeSelector.setCurrentNode(away)
    ui.caseNameEdit.text = "third"
    ui.addCaseButton.click()
    assert not panel.logic.running
    assert "No segment" in ui.statusLabel.text
    shutil.rmtree(folder)
