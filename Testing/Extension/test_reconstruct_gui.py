"""CTGenReconstruct driven as a user drives it: real module, real MRML scene, real engine process."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qt
import SimpleITK as sitk
import slicer
from conftest import MODULE, add_volume, oblique
from driving import Picture, alive, assert_same_grid, choose, finish, start, volumes, wait_for_progress

# What the panel says before anything runs


def test_setup_starts_nothing_and_asks_for_a_volume(host: Any, panel: Any, picture: Picture) -> None:
    assert not panel.ui.applyButton.enabled
    assert "Waiting" in panel.ui.hintLabel.text
    picture(panel, "01-looking-for-engine")
    host.wait(lambda: not panel.engineSection.checking, 120)
    assert "Choose a CT" in panel.ui.hintLabel.text
    assert panel.engine.torch
    assert panel.ui.engineLabel.text.startswith("Ready")
    picture(panel, "02-no-volume")


def test_every_codec_is_listed_with_licence_and_availability(ready: Any, volume: Any, picture: Picture) -> None:
    ready.ui.inputSelector.setCurrentNode(volume)
    names = [ready.ui.codecBox.itemData(row) for row in range(ready.ui.codecBox.count)]
    assert names[0] == "embedded"
    assert {"leanvae", "taef2", "wan2.1", "wan2.2", "identity"} <= set(names)
    for row in ready.engine.codecs:
        choose(ready.ui.codecBox, row["name"])
        assert row["license"] in ready.ui.codecInfoLabel.text
        assert ready.ui.applyButton.enabled == row["available"]
        if not row["available"]:
            assert "not installed" in ready.ui.codecBox.currentText
            assert row["why"] in ready.ui.codecInfoLabel.text
    choose(ready.ui.codecBox, "wan2.1")
    picture(ready, "03-codec-not-installed")


def test_window_and_triplanar(ready: Any, volume: Any, picture: Picture) -> None:
    ready.ui.inputSelector.setCurrentNode(volume)
    assert not ready.ui.customRange.visible
    choose(ready.ui.windowBox, "custom")
    assert ready.ui.customRange.visible
    ready.ui.customLowBox.setValue(500)
    ready.ui.customHighBox.setValue(400)
    assert "below its upper end" in ready.ui.hintLabel.text
    assert not ready.ui.applyButton.enabled
    picture(ready, "04-window-upside-down")
    ready.ui.customLowBox.setValue(-200)
    assert ready.logic.options(ready._parameterNode)["window"] == "-200 400"
    assert ready.ui.applyButton.enabled
    assert not ready.ui.triplanarBox.enabled  # embedded is 3D
    choose(ready.ui.codecBox, "taef2")
    assert ready.ui.triplanarBox.enabled
    ready.ui.triplanarBox.setChecked(True)
    choose(ready.ui.codecBox, "embedded")
    assert "Triplanar works with 2D codecs" in ready.ui.hintLabel.text
    assert ready.ui.triplanarBox.enabled, "the user must be able to take it back"


def test_unusable_volumes_are_refused_before_running(ready: Any, chest: np.ndarray) -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    cases = {
        "not perpendicular": add_volume(chest, sheared),
        "single slice": add_volume(chest[:1], np.eye(4)),
        "no voxels": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"),
    }
    for words, node in cases.items():
        ready.ui.inputSelector.setCurrentNode(node)
        assert words in ready.ui.hintLabel.text
        assert not ready.ui.applyButton.enabled


# Runs


def test_run_on_an_oblique_volume(host: Any, ready: Any, volume: Any, chest: np.ndarray, picture: Picture) -> None:
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevel(1400, -500)
    ready.ui.differenceBox.setChecked(True)
    start(host, ready, volume)
    assert not ready.ui.inputsButton.enabled
    picture(ready, "05-running")
    beats = []
    timer = qt.QTimer()
    timer.setInterval(50)
    timer.connect("timeout()", lambda: beats.append(time.monotonic()))
    timer.start()
    finish(host, ready)
    timer.stop()
    assert max(np.diff(beats)) < 3.0, "the GUI thread was blocked"  # the run takes longer
    assert "Done" in ready.ui.statusLabel.text, ready.ui.statusLabel.text
    assert "HU" in ready.ui.statusLabel.text
    picture(ready, "06-done")

    output, difference = volumes()[1:]
    assert output.GetName() == "Chest CT embedded"
    voxels = slicer.util.arrayFromVolume(output)
    assert voxels.shape == chest.shape
    assert voxels.dtype == np.int16
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(difference), voxels - chest)
    assert_same_grid(output, volume)

    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    for node in (output, difference):
        item = hierarchy.GetItemByDataNode(node)
        assert hierarchy.GetItemDataNode(hierarchy.GetItemParent(item)) is volume
        assert json.loads(node.GetAttribute("CTGen.Record"))["codec"] == "embedded"
        assert node.GetNodeReference("CTGen.SourceVolume") is volume
    assert output.GetDisplayNode().GetWindow() == 1400
    assert output.GetDisplayNode().GetLevel() == -500
    assert difference.GetDisplayNode().GetLevel() == 0
    assert not os.path.exists(ready.logic.job.folder), "patient data was left behind"


def test_a_second_run_adds_a_second_volume(host: Any, ready: Any, volume: Any) -> None:
    for _ in range(2):
        start(host, ready, volume, "identity")
        finish(host, ready)
    assert [node.GetName() for node in volumes()] == ["Chest CT", "Chest CT identity", "Chest CT identity_1"]


def test_a_chosen_output_is_filled(host: Any, ready: Any, volume: Any, chest: np.ndarray) -> None:
    target = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "Mine")
    ready.ui.outputSelector.setCurrentNode(target)
    start(host, ready, volume, "identity")
    finish(host, ready)
    assert len(volumes()) == 2
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(target), chest.clip(-1000, 1000))
    ready.ui.outputSelector.setCurrentNode(volume)
    assert "must not be the input" in ready.ui.hintLabel.text


@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("moved", [False, True])
def test_grid_and_voxel_order_survive(host: Any, ready: Any, chest: np.ndarray, left_handed: bool, moved: bool) -> None:
    node = add_volume(chest, oblique((0.7, 0.9, 3.0), left_handed))
    if moved:
        transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]], [10, -20, 30]
        transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
        node.SetAndObserveTransformNodeID(transform.GetID())
    start(host, ready, node, "identity")
    finish(host, ready)
    output = volumes()[-1]
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(output), chest.clip(-1000, 1000))
    assert_same_grid(output, node)
    assert output.GetTransformNodeID() == node.GetTransformNodeID()
    bounds = [[0.0] * 6, [0.0] * 6]
    node.GetRASBounds(bounds[0])
    output.GetRASBounds(bounds[1])
    np.testing.assert_allclose(bounds[0], bounds[1], atol=1e-6)


def test_record_tells_what_the_world_geometry_was(host: Any, ready: Any, volume: Any) -> None:
    start(host, ready, volume, "identity")
    finish(host, ready)
    record = json.loads(volumes()[-1].GetAttribute("CTGen.Record"))
    assert record["task"] == "reconstruct"
    assert record["options"]["codec"] == "identity"
    assert volumes()[-1].GetAttribute("CTGen.Synthetic") == "false"


# Life cycle


def test_leaving_and_coming_back_keeps_the_job_and_the_choices(
    host: Any, ready: Any, big: Any, picture: Picture
) -> None:
    start(host, ready, big, "dct16")
    host.leave(ready)
    host.process_events()
    assert ready.logic.running
    host.enter(ready)
    assert ready.ui.applyButton.text == "Cancel"
    assert ready._parameterNode.codec == "dct16"
    assert ready.ui.inputSelector.currentNode() is big
    ready.ui.applyButton.click()
    finish(host, ready, 20)


def test_closing_the_scene_stops_the_job(host: Any, ready: Any, big: Any, picture: Picture) -> None:
    start(host, ready, big, "dct16")
    wait_for_progress(host, ready)
    pid, folder = ready.logic.job.pid, ready.logic.job.folder
    slicer.mrmlScene.Clear(0)
    host.process_events()
    assert not ready.logic.running
    assert not alive(pid)
    assert not os.path.exists(folder)
    assert "scene was closed" in ready.ui.statusLabel.text
    assert ready.ui.inputSelector.currentNode() is None
    assert ready._parameterNode.codec == "embedded"
    picture(ready, "12-scene-closed")


def test_deleting_the_input_while_it_runs(host: Any, ready: Any, volume: Any) -> None:
    start(host, ready, volume)
    slicer.mrmlScene.RemoveNode(volume)
    finish(host, ready)
    assert "Done" in ready.ui.statusLabel.text
    assert len(volumes()) == 1


def test_closing_slicer_ends_the_engine(host: Any, big: Any) -> None:
    panel = host.open_module(MODULE)
    host.wait(lambda: not panel.engineSection.checking, 120)
    start(host, panel, big, "dct16")
    pid = panel.logic.job.pid
    host.close_module(panel)
    assert not alive(pid)


def test_choices_are_saved_with_the_scene(host: Any, ready: Any, volume: Any, tmp_path: Path) -> None:
    ready.ui.inputSelector.setCurrentNode(volume)
    choose(ready.ui.codecBox, "identity")
    choose(ready.ui.windowBox, "lung")
    path = str(tmp_path / "scene.mrml")
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(0)
    assert ready._parameterNode.codec == "embedded"
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.Import()
    host.process_events()
    host.enter(ready)
    assert ready.ui.codecBox.itemData(ready.ui.codecBox.currentIndex) == "identity"
    assert ready.ui.windowBox.itemData(ready.ui.windowBox.currentIndex) == "lung"
    host.problems.take()  # the volume's voxels were not saved: MRML says so


def test_copy_log(host: Any, ready: Any, volume: Any) -> None:
    start(host, ready, volume, "identity")
    finish(host, ready)
    ready.ui.copyLogButton.click()
    assert "Done" in slicer.app.clipboard().text()


def test_module_self_test(host: Any, ready: Any) -> None:
    """The test that Slicer itself would run."""
    import CTGenReconstruct

    CTGenReconstruct.CTGenReconstructTest().runTest()


def test_example_of_the_documentation(host: Any, ready: Any, chest: np.ndarray, capsys: Any) -> None:
    add_volume(chest, np.eye(4), "CTChest")
    text = (MODULE.parents[2] / "CTGenCore" / "docs" / "slicer.md").read_text(encoding="utf-8")
    example = text.split("```python\n")[1].split("```")[0]
    exec(compile(example, "slicer.md", "exec"), {"slicer": slicer})
    host.wait(lambda: len(volumes()) == 2, 120)
    assert capsys.readouterr().out.startswith("done")


# Real CT


def test_real_ct(host: Any, ready: Any, ct_data: Path, picture: Picture) -> None:
    node = slicer.util.loadVolume(str(ct_data / "IBSI_PAT2" / "ct.nii.gz"))
    node.SetName("IBSI_PAT2")
    ready.ui.differenceBox.setChecked(True)
    start(host, ready, node)
    finish(host, ready, 300)
    assert "Done" in ready.ui.statusLabel.text, ready.ui.statusLabel.text
    difference = volumes()[2]
    error = np.abs(slicer.util.arrayFromVolume(difference))
    assert 0 < error.mean() < 60
    picture(ready, "13-real-ct")
    slicer.util.setSliceViewerLayers(background=difference, foreground=None)
    picture(ready, "14-real-ct-difference")


def load_case(case: Path) -> Any:
    """A file as Slicer loads it; a series in the order of its positions, as Slicer's DICOM plugin hands it to MRML."""
    if not (case / "dicom").is_dir():
        return slicer.util.loadVolume(str(case / "ct.nii.gz"))
    storage = slicer.vtkMRMLVolumeArchetypeStorageNode()
    for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(case / "dicom")):
        storage.AddFileName(name)
    storage.SetFileName(storage.GetNthFileName(0))
    storage.SetSingleFile(0)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", case.name)
    assert storage.ReadData(node)
    node.CreateDefaultDisplayNodes()
    return node


@pytest.mark.heavy
def test_every_real_ct(host: Any, ready: Any, ct_data: Path) -> None:
    for case in sorted(path for path in ct_data.iterdir() if path.is_dir()):
        node = load_case(case)
        start(host, ready, node)
        finish(host, ready, 900)
        assert "Done" in ready.ui.statusLabel.text, f"{case.name}: {ready.ui.statusLabel.text}"
        output = volumes()[-1]
        assert_same_grid(output, node)
        error = slicer.util.arrayFromVolume(output) - slicer.util.arrayFromVolume(node).clip(-1000, 1000)
        assert 0 < np.abs(error).mean() < 100, case.name
        slicer.mrmlScene.Clear(0)
        host.process_events()
