"""CTGenEvaluate driven as a user drives it: real module, real MRML scene, real engine processes."""

from __future__ import annotations

import csv
import dataclasses
import html
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import slicer
import vtk
from conftest import EVALUATE, add_volume, oblique
from driving import Picture, alive, assert_same_grid, choose, finish, use_python, volumes
from evaluating import (
    NAMES_OF_ENGINE,
    array,
    assert_voxel_plane,
    center_of,
    check_chart,
    check_colors,
    click_row,
    column,
    contents,
    ijk,
    load_scene,
    measured,
    row_of,
    save_to,
    value,
    write,
)
from segmenting import add_segmentation, load_segmentation

NAMES = {28: "left upper lobe", 30: "right upper lobe", 6: "Aorta", 1: "Liver", 200: "Body", 41: "T9"}
SHAPE = (16, 64, 64)
PATIENCE = 300  # seconds for something that takes five: the machine may be busy


@pytest.fixture(scope="module")
def panel(host: Any) -> Iterator[Any]:
    """One panel for the whole file: it has to survive a closed scene after every test."""
    widget = host.open_module(EVALUATE)
    host.wait(lambda: not widget.engineSection.checking and not widget.metricTables.waiting, PATIENCE)
    assert widget.engine is not None, widget.engineSection.problems
    assert not widget.metricTables.problem
    yield widget
    host.close_module(widget)


@pytest.fixture(scope="module")
def drawn() -> Any:
    """A phantom and what the embedded codec makes of it, as int16 (k, j, i)."""
    import ctgencore as ctg
    from ctgencore import phantom

    chest = phantom.chest(SHAPE, seed=3)
    recon = ctg.reconstruct(chest.ct, "embedded")
    voxels = [np.rint(volume.voxels).astype(np.int16) for volume in (chest.ct, recon)]
    return SimpleNamespace(reference=voxels[0], test=voxels[1], organs=chest.organs.voxels)


@pytest.fixture
def scene(host: Any, panel: Any, drawn: Any) -> Any:
    """Both in the scene, oblique, with organs; chosen in the panel."""
    grid = oblique((5.6, 5.6, 16.0))
    reference = add_volume(drawn.reference, grid, "Chest CT")
    test = add_volume(drawn.test, grid, "Chest CT embedded")
    organs = add_segmentation(drawn.organs, reference, NAMES, "Organs")
    panel.ui.tabs.setCurrentIndex(0)
    panel.ui.testSelector.setCurrentNode(test)
    panel.ui.referenceSelector.setCurrentNode(reference)
    choose(panel.ui.presetBox, "reconstruction")
    return SimpleNamespace(test=test, reference=reference, organs=organs)


def use_organs(host: Any, panel: Any, node: Any) -> None:
    panel.ui.organsSelector.setCurrentNode(node)
    host.wait(lambda: panel.labelTables.labels and not panel.labelTables.waiting, PATIENCE)


def run(host: Any, panel: Any, seconds: float = PATIENCE) -> Any:
    """Evaluate; returns the table node."""
    assert panel.ui.applyButton.enabled, panel.ui.hintLabel.text
    panel.ui.applyButton.click()
    assert panel.logic.running, panel.ui.statusLabel.text
    finish(host, panel, seconds)
    assert "Done" in panel.ui.statusLabel.text, panel.ui.statusLabel.text
    return panel._parameterNode.resultTable


# What the panel says before anything runs


def test_what_is_missing_is_said(panel: Any, drawn: Any, picture: Picture) -> None:
    panel.ui.tabs.setCurrentIndex(0)
    assert "Choose the CT" in panel.ui.hintLabel.text
    titles = [panel.ui.presetBox.itemText(row) for row in range(panel.ui.presetBox.count)]
    assert titles[:4] == ["Reconstruction", "Segmentation", "Generation", "Is this safe for my task?"]
    grid = np.diag([-5.6, -5.6, 16.0, 1.0])
    test, reference = add_volume(drawn.test, grid, "Test"), add_volume(drawn.reference, grid, "Reference")
    panel.ui.testSelector.setCurrentNode(test)
    choose(panel.ui.presetBox, "reconstruction")
    assert set(measured(panel).values()) == {"needs a reference"}
    assert "None of these metrics can be measured" in panel.ui.hintLabel.text
    picture(panel, "30-evaluate-nothing-to-measure")
    panel.ui.referenceSelector.setCurrentNode(test)
    assert "must not be the CT to test" in panel.ui.hintLabel.text
    panel.ui.referenceSelector.setCurrentNode(reference)
    assert panel.ui.applyButton.enabled, panel.ui.hintLabel.text
    assert "yes" in measured(panel).values()
    choose(panel.ui.presetBox, "segmentation")
    assert "needs organs" in measured(panel)["Dice"]
    assert not panel.ui.applyButton.enabled
    choose(panel.ui.presetBox, "generation")
    assert "needs folders" in measured(panel).values()
    panel.ui.testSelector.setCurrentNode(add_volume(drawn.test[:1], grid, "Slice"))
    assert "single slice" in panel.ui.hintLabel.text


def test_folders_are_checked_before_running(panel: Any, tmp_path: Path) -> None:
    ui = panel.ui
    ui.tabs.setCurrentIndex(1)
    choose(ui.presetBox, "reconstruction")
    assert "folder of the CTs" in ui.hintLabel.text
    ui.testFolderEdit.currentPath = str(tmp_path / "nowhere")
    assert "There is nothing at" in ui.hintLabel.text
    (tmp_path / "a").mkdir()
    ui.testFolderEdit.currentPath = ui.referenceFolderEdit.currentPath = str(tmp_path / "a")
    assert "folder for the results" in ui.hintLabel.text
    ui.resultsFolderEdit.currentPath = str(tmp_path / "a")
    assert "must be another one" in ui.hintLabel.text
    ui.resultsFolderEdit.currentPath = str(tmp_path / "results")
    assert ui.applyButton.enabled, ui.hintLabel.text
    assert not (tmp_path / "results").exists()


# A pair


def test_pair(
    host: Any, panel: Any, scene: Any, drawn: Any, picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_organs(host, panel, scene.organs)
    assert panel.ui.organsInfoLabel.text.startswith("6 known: body, ")
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Cancel"
    assert not panel.ui.tabs.enabled
    picture(panel, "31-evaluate-running")
    finish(host, panel, PATIENCE)
    assert "Done" in panel.ui.statusLabel.text, panel.ui.statusLabel.text
    assert not os.path.exists(panel.logic.job.folder), "patient data was left behind"
    node = panel._parameterNode.resultTable
    picture(panel, "32-evaluate-pair")

    seen, wanted = (each.clip(-1000, 1000).astype(float) for each in (drawn.test, drawn.reference))
    assert value(node, "mae_hu") == pytest.approx(np.abs(seen - wanted).mean(), rel=1e-3)
    liver = drawn.organs == 1
    assert value(node, "bias_hu", "liver") == pytest.approx((seen - wanted)[liver].mean(), rel=1e-3, abs=1e-3)
    assert set(NAMES_OF_ENGINE) <= set(column(node, "Region"))

    errors = node.GetNodeReference("CTGen.ErrorMap")
    assert_same_grid(errors, scene.test)
    np.testing.assert_array_equal(array(errors), array(scene.test).astype(int) - array(scene.reference))
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(errors)
    assert legend.GetVisibility()
    assert errors.GetDisplayNode().GetLevel() == 0
    check_colors(errors)
    assert contents(node) == [
        "Evaluation of Chest CT embedded",
        "Evaluation of Chest CT embedded details",
        "Chest CT embedded error",
        "Evaluation of Chest CT embedded chart",
    ]

    views = slicer.app.layoutManager().shown_views()
    assert views == ["CTGen1", "CTGen2", "CTGen3"]
    (plot,) = slicer.app.layoutManager().shown_plots()
    check_chart(node, plot.chart(), "mae_hu", sign=-1)
    choose(panel.ui.plotBox, "bias_hu")
    panel.ui.plotBox.activated.emit(panel.ui.plotBox.currentIndex)
    check_chart(node, plot.chart(), "bias_hu", sign=None)
    assert not scene.organs.GetDisplayNode().GetVisibility2DFill(), "it would hide the errors"

    per_slice = [((one - other) ** 2).mean() for one, other in zip(seen, wanted, strict=True)]
    assert column(node, "WorstSlice")[row_of(node, "psnr_255_w2000")] == str(int(np.argmax(per_slice)))
    for row in (row_of(node, "psnr_255_w2000"), row_of(node, "mae_hu", "liver")):
        slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, 0, 0, 0)
        click_row(panel, row)
        k = int(column(node, "WorstSlice")[row])
        for view in views:
            np.testing.assert_allclose(ijk(scene.test, center_of(view))[2], k, atol=1e-6)
            assert_voxel_plane(scene.test, view)
        assert f"Slice {k} of" in panel.ui.statusLabel.text
    i, j, k = (int(column(node, name)[row]) for name in "ijk")
    assert liver[k, j, i], "an organ's row leads to the organ"
    picture(panel, "33-evaluate-worst-slice")

    save_to(monkeypatch, tmp_path / "numbers")
    panel.ui.csvButton.click()
    with open(tmp_path / "numbers.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == node.GetNumberOfRows()
    assert {each["case"] for each in rows} == {"Chest CT embedded"}
    exact = next(each for each in rows if (each["metric"], each["region"]) == ("mae_hu", "all"))
    assert float(exact["value"]) == pytest.approx(np.abs(seen - wanted).mean(), rel=1e-6)

    save_to(monkeypatch, tmp_path / "page.html")
    panel.ui.pageButton.click()
    assert not panel.ui.pageButton.enabled
    host.wait(lambda: panel.resultSection.page is None, PATIENCE)
    assert "Wrote" in panel.ui.statusLabel.text, panel.ui.statusLabel.text
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Chest CT embedded" in page
    assert "without images" not in page, "the volumes of the scene are those that were measured"
    assert panel.ui.pageButton.enabled

    panel.ui.restoreButton.click()
    assert slicer.app.layoutManager().shown_views() == ["Red", "Green", "Yellow"]
    assert scene.organs.GetDisplayNode().GetVisibility2DFill()


def test_organs_of_both_and_a_label_map(host: Any, panel: Any, scene: Any, drawn: Any, picture: Picture) -> None:
    """A label map moved by a voxel, with the values of another program, against a segmentation."""
    moved = np.roll(drawn.organs, 1, axis=2)
    values = {1: 7, 6: 3, 200: 900}  # what its colors call liver, aorta and nothing that is known
    labels = np.zeros(SHAPE, np.int16)
    for organ, number in values.items():
        labels[moved == organ] = number
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "Other labels")
    slicer.util.updateVolumeFromArray(node, labels)
    node.CopyOrientation(scene.test)
    colors = slicer.vtkMRMLColorTableNode()
    colors.SetTypeToUser()
    colors.SetNumberOfColors(901)
    for number, name in ((7, "Liver"), (3, "aorta"), (900, "Blorb")):
        colors.SetColor(number, name, 0.2, 0.4, 0.6, 1.0)
    slicer.mrmlScene.AddNode(colors)
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAndObserveColorNodeID(colors.GetID())
    use_organs(host, panel, scene.organs)
    panel.ui.testOrgansSelector.setCurrentNode(node)
    host.wait(lambda: not panel.labelTables.waiting and "Blorb" in panel.ui.organsInfoLabel.text, PATIENCE)
    assert "left out, as the engine does not know them: Blorb" in panel.ui.organsInfoLabel.text
    choose(panel.ui.presetBox, "segmentation")
    result = run(host, panel)
    for organ, name in ((1, "liver"), (6, "aorta")):
        one, other = drawn.organs == organ, moved == organ
        assert value(result, "dice", name) == pytest.approx(
            2 * (one & other).sum() / (one.sum() + other.sum()), rel=1e-3
        )
    picture(panel, "34-evaluate-segmentation")


def test_is_it_safe(host: Any, panel: Any, scene: Any, picture: Picture) -> None:
    use_organs(host, panel, scene.organs)
    choose(panel.ui.presetBox, "safe-for-my-task")
    node = run(host, panel)
    verdicts = json.loads(node.GetAttribute("CTGen.Evaluation"))["verdicts"]
    assert {each["metric"] for each in verdicts} >= {"bias_hu", "edge_shift_mm", "nps_ratio", "eps_phi"}
    text = panel.ui.verdictLabel.text
    for each in verdicts:
        assert html.escape(each["limit"]) in text
    assert "No: at least one limit is exceeded" in text, "a codec of this size does not keep the noise of a phantom"
    assert "for research" in text
    picture(panel, "35-evaluate-safe")
    panel.ui.resultSelector.setCurrentNode(None)
    assert not panel.ui.verdictLabel.visible
    assert not panel.ui.csvButton.enabled


def test_other_grid(host: Any, panel: Any, scene: Any, drawn: Any, picture: Picture) -> None:
    elsewhere = add_volume(drawn.reference, oblique((5.6, 5.6, 15.0)), "Other grid")
    panel.ui.referenceSelector.setCurrentNode(elsewhere)
    panel.ui.applyButton.click()
    finish(host, panel, PATIENCE)
    text = panel.ui.statusLabel.text
    assert "grid" in text
    assert "Resample" in text or "resample" in text, "the next step is missing"
    assert panel._parameterNode.resultTable is None
    assert set(os.listdir(panel.logic.failedFolder)) <= {"job.json", "log.txt"}, "patient data was left behind"
    assert panel.ui.openFolderButton.enabled
    picture(panel, "36-evaluate-other-grid")


def test_cancel_and_closing_the_scene(host: Any, panel: Any, scene: Any, picture: Picture) -> None:
    for how in ("cancel", "close"):
        panel.ui.applyButton.click()
        pid, folder = panel.logic.job.pid, panel.logic.job.folder
        host.leave(panel)
        assert panel.logic.running, "a job goes on when the user leaves"
        host.enter(panel)
        if how == "cancel":
            panel.ui.applyButton.click()
            assert panel.ui.applyButton.text == "Stop now"
            panel.ui.applyButton.click()
            finish(host, panel, 20)
            assert "Cancelled" in panel.ui.statusLabel.text
            picture(panel, "37-evaluate-cancelled")
        else:
            slicer.mrmlScene.Clear(0)
            host.process_events()
            assert "scene was closed" in panel.ui.statusLabel.text
        assert not panel.logic.running
        assert not alive(pid)
        assert not os.path.exists(folder)
        assert panel._parameterNode.resultTable is None
    assert panel.ui.testSelector.currentNode() is None


def test_results_are_saved_with_the_scene(
    host: Any, panel: Any, scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_organs(host, panel, scene.organs)
    choose(panel.ui.presetBox, "reconstruction")
    node = run(host, panel)
    mae = value(node, "mae_hu", "liver")
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    assert panel.ui.resultSelector.currentNode() is None
    assert not panel.ui.resultView.visible
    load_scene(tmp_path / "scene.mrb")
    host.process_events()
    host.enter(panel)
    node = panel._parameterNode.resultTable
    assert node.GetName() == "Evaluation of Chest CT embedded"
    assert value(node, "mae_hu", "liver") == mae
    assert panel.ui.plotBox.itemData(panel.ui.plotBox.currentIndex) == "mae_hu"
    row = row_of(node, "mae_hu", "liver")
    click_row(panel, row)
    assert f"Slice {column(node, 'WorstSlice')[row]} of" in panel.ui.statusLabel.text
    panel.ui.compareButton.click()
    assert slicer.app.layoutManager().shown_views() == ["CTGen1", "CTGen2", "CTGen3"]
    save_to(monkeypatch, tmp_path / "again.csv")
    panel.ui.csvButton.click()
    assert len((tmp_path / "again.csv").read_text().splitlines()) == node.GetNumberOfRows() + 1
    slicer.mrmlScene.RemoveNode(node.GetNodeReference("CTGen.Details"))
    panel.ui.csvButton.click()
    assert "not in the scene any more" in panel.ui.statusLabel.text
    panel.ui.restoreButton.click()


# Folders


def test_folders(
    host: Any, panel: Any, drawn: Any, picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three pairs, one of them on another grid and one without a partner."""
    tests, references, results = (tmp_path / name for name in ("recon", "ct", "results"))
    for number, name in enumerate(("one", "two", "three", "four")):
        write(drawn.test + number * 5, tests / f"{name}.nrrd", 15.0 if name == "three" else 16.0)
        if name != "four":
            write(drawn.reference, references / f"{name}.nrrd", 16.0)
    ui = panel.ui
    ui.tabs.setCurrentIndex(1)
    ui.testFolderEdit.currentPath, ui.referenceFolderEdit.currentPath = str(tests), str(references)
    ui.resultsFolderEdit.currentPath = str(results)
    choose(ui.presetBox, "reconstruction")
    node = run(host, panel)
    assert "2 cases failed" in ui.statusLabel.text
    picture(panel, "39-evaluate-folders")
    for name in ("three", "four"):
        assert f"{name}: " in ui.remarksLabel.text
        assert name in ui.logText.plainText
    assert column(node, "Cases")[row_of(node, "bias_hu")] == "2"
    biases = [
        (drawn.test + shift).clip(-1000, 1000).mean() - drawn.reference.clip(-1000, 1000).mean() for shift in (0, 5)
    ]
    assert value(node, "bias_hu") == pytest.approx(np.mean(biases), rel=1e-3)
    assert column(node, "WorstCase")[row_of(node, "bias_hu")] == ("one", "two")[int(np.argmax(np.abs(biases)))]
    assert volumes() == [], "volumes of a folder stay on the disk"
    click_row(panel, 0)
    assert "folder" in ui.statusLabel.text
    assert (results / "evaluation.json").is_file()
    save_to(monkeypatch, tmp_path / "rows.csv")
    ui.csvButton.click()
    assert (tmp_path / "rows.csv").read_bytes() == (results / "rows.csv").read_bytes()
    assert panel._parameterNode.resultTable is node


# The rest


def test_defaults_are_those_of_the_engine(panel: Any) -> None:
    from ctgencore.tasks.evaluate import CHOICES, EvaluateOptions
    from CTGenEvaluateLib import panel as words

    defaults = dataclasses.asdict(EvaluateOptions())
    for name, chosen in panel.logic.options(panel._parameterNode).items():
        assert chosen == (list(defaults[name]) if isinstance(defaults[name], tuple) else defaults[name]), name
    assert CHOICES["segmenter"] == words.SEGMENTERS
    assert set(words.PRESETS) == set(panel.metricTables.presets)


@pytest.mark.heavy
def test_module_self_test(host: Any, panel: Any) -> None:
    """The test that Slicer itself would run."""
    import CTGenEvaluate

    CTGenEvaluate.CTGenEvaluateTest().runTest()


def test_example_of_the_documentation(host: Any, panel: Any, scene: Any, capsys: Any) -> None:
    text = (EVALUATE.parents[2] / "CTGenCore" / "docs" / "slicer.md").read_text(encoding="utf-8")
    example = text.split("```python\n")[3].split("```")[0]
    exec(compile(example, "slicer.md", "exec"), {"slicer": slicer})
    said: list[str] = []
    host.wait(lambda: said.append(capsys.readouterr().out) or "".join(said), PATIENCE)
    assert "".join(said).startswith("done Evaluation of Chest CT embedded")


def test_real_ct(host: Any, panel: Any, ct_data: Path, picture: Picture) -> None:
    """A CT with TotalSegmentator's masks against itself with a soft kernel."""
    from scipy import ndimage

    case = ct_data / "TotalSegmentator_example_ct"
    if not (case / "seg.nii.gz").is_file():
        pytest.skip(f"no masks in {case}")
    reference, organs = load_segmentation(case)
    voxels = array(reference)
    soft = np.rint(ndimage.gaussian_filter(voxels.astype(np.float32), 0.7)).astype(np.int16)
    matrix = vtk.vtkMatrix4x4()
    reference.GetIJKToRASMatrix(matrix)
    test = slicer.util.addVolumeFromArray(soft, slicer.util.arrayFromVTKMatrix(matrix), "Soft kernel")
    reference.GetDisplayNode().AutoWindowLevelOff()
    reference.GetDisplayNode().SetWindowLevel(400, 40)
    test.GetDisplayNode().AutoWindowLevelOff()
    test.GetDisplayNode().SetWindowLevel(400, 40)
    panel.ui.tabs.setCurrentIndex(0)
    panel.ui.testSelector.setCurrentNode(test)
    panel.ui.referenceSelector.setCurrentNode(reference)
    choose(panel.ui.presetBox, "reconstruction")
    use_organs(host, panel, organs)
    node = run(host, panel)
    shift = soft.clip(-1000, 1000).astype(float) - voxels.clip(-1000, 1000)
    assert value(node, "mae_hu") == pytest.approx(np.abs(shift).mean(), rel=1e-3)
    click_row(panel, row_of(node, "mae_hu", "liver"))
    picture(panel, "40-evaluate-real-ct")


def test_no_engine(host: Any, panel: Any, scene: Any, picture: Picture) -> None:
    python = panel.ui.pythonPathEdit.currentPath
    use_python(host, panel, "/nowhere/python")
    assert "engine is not ready" in panel.ui.hintLabel.text
    assert not panel.ui.applyButton.enabled
    assert panel.ui.metricTable.rowCount == 0
    picture(panel, "38-evaluate-no-engine")
    use_python(host, panel, python)
    host.wait(lambda: not panel.metricTables.waiting, PATIENCE)
    assert panel.ui.applyButton.enabled, panel.ui.hintLabel.text
