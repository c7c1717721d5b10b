"""CTGenGenerate driven as a user drives it: real module, real MRML scene, real engine processes."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import qt
import slicer
from conftest import GENERATE, add_volume, oblique
from driving import Picture, alive, assert_same_grid, choose, finish, volumes
from segmenting import add_segmentation, load_segmentation, segment_id

NAMES = {  # label -> a name as people write it
    200: "Body",
    28: "lung_upper_lobe_left",
    29: "Left lower lobe",
    30: "lung_upper_lobe_right",
    31: "right lung middle lobe",
    32: "RLL",
    6: "Aorta",
    1: "Liver",
    41: "vertebrae_T9",
    159: "Pleural effusion",
}
SHAPE = (16, 64, 64)
PATIENCE = 300  # seconds for something that takes five: the machine may be busy


@pytest.fixture(scope="module")
def panel(host: Any) -> Iterator[Any]:
    """One panel for the whole file: it has to survive a closed scene after every test."""
    widget = host.open_module(GENERATE)
    host.wait(lambda: not widget.engineSection.checking, PATIENCE)
    assert widget.engine is not None, widget.engineSection.problems
    yield widget
    host.close_module(widget)


@pytest.fixture(scope="module")
def drawn() -> Any:
    """A phantom with an effusion."""
    from ctgencore import phantom

    return phantom.chest(SHAPE, seed=3, findings=("Pleural effusion",))


@pytest.fixture
def scene(host: Any, panel: Any, drawn: Any) -> Any:
    """The phantom in the scene, oblique: CT and segmentation, chosen in the panel, labels known."""
    volume = add_volume(np.rint(drawn.ct.voxels).astype(np.int16), oblique((5.6, 5.6, 16.0)))
    labels = np.where(drawn.diseases.voxels > 0, drawn.diseases.voxels.astype(np.int16), drawn.organs.voxels)
    segmentation = add_segmentation(labels, volume, NAMES)
    panel.ui.tabs.setCurrentIndex(0)
    panel.ui.segmentationSelector.setCurrentNode(segmentation)
    panel.ui.editRegionSelector.setCurrentNode(segmentation)
    panel.ui.editVolumeSelector.setCurrentNode(volume)
    panel.ui.stepsBox.setValue(2)
    wait_for_labels(host, panel)
    return SimpleNamespace(volume=volume, segmentation=segmentation, labels=labels)


def wait_for_labels(host: Any, panel: Any) -> None:
    host.wait(lambda: panel.labelTables.labels and not panel.labelTables.waiting, PATIENCE)


def cell(panel: Any, row: int, column: int) -> str:
    return panel.ui.segmentTable.item(row, column).text()


def names(panel: Any) -> list[str]:
    return [cell(panel, row, 0) for row in range(panel.ui.segmentTable.rowCount)]


def row_of(panel: Any, name: str) -> int:
    return names(panel).index(name)


def select(panel: Any, *names: str) -> None:
    table = panel.ui.segmentTable
    table.clearSelection()
    for name in names:
        for column in range(3):
            table.item(row_of(panel, name), column).setSelected(True)


def type_report(panel: Any, text: str) -> None:
    panel.ui.reportText.setPlainText(text)


def run(host: Any, panel: Any, seconds: float = PATIENCE) -> None:
    assert panel.ui.applyButton.enabled, panel.ui.hintLabel.text
    panel.ui.applyButton.click()
    assert panel.logic.running, panel.ui.statusLabel.text
    finish(host, panel, seconds)
    assert "Done" in panel.ui.statusLabel.text, panel.ui.statusLabel.text


def hierarchy() -> Any:
    return slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)


def contents(node: Any) -> list[str]:
    """Names of everything in the folder that holds a node."""
    tree = hierarchy()
    ids: list[int] = []
    tree.GetItemChildren(tree.GetItemParent(tree.GetItemByDataNode(node)), ids)
    return [tree.GetItemName(item) for item in ids]


def array(node: Any) -> np.ndarray:
    return slicer.util.arrayFromVolume(node)


# The table


def test_segments_are_recognized_and_layered(panel: Any, scene: Any, picture: Picture) -> None:
    shown = {cell(panel, row, 0): cell(panel, row, 1) for row in range(panel.ui.segmentTable.rowCount)}
    for label, name in NAMES.items():
        assert shown[name].endswith(f"({label})"), f"{name}: {shown[name]}"
    assert cell(panel, 0, 0) == "Body", "the body must lie below all"
    assert cell(panel, len(NAMES) - 1, 0) == "Pleural effusion", "diseases must lie on top"
    assert "64 x 64 x 16 voxels" in panel.ui.gridInfoLabel.text
    assert panel.ui.applyButton.enabled, panel.ui.hintLabel.text
    picture(panel, "20-generate-table")


def test_unknown_segments_must_be_named_or_left_out(host: Any, panel: Any, scene: Any, picture: Picture) -> None:
    segmentation = scene.segmentation.GetSegmentation()
    segmentation.AddEmptySegment("mystery", "Blorb")
    host.wait(lambda: panel.ui.segmentTable.rowCount == len(NAMES) + 1)
    host.wait(lambda: not panel.labelTables.waiting)
    row = row_of(panel, "Blorb")
    assert cell(panel, row, 2) == "unknown"
    assert not panel.ui.segmentTable.item(row, 2).icon().isNull()
    assert "Blorb" in panel.ui.hintLabel.text
    assert not panel.ui.applyButton.enabled
    select(panel, "Blorb")
    panel.ui.segmentTable.scrollToBottom()
    picture(panel, "21-generate-unknown-segment")

    panel.ui.segmentTable.item(row, 0).setCheckState(qt.Qt.Unchecked)
    assert panel.ui.applyButton.enabled
    panel.ui.segmentTable.item(row_of(panel, "Blorb"), 0).setCheckState(qt.Qt.Checked)
    panel.ui.labelBox.setEditText("Spleen")
    panel.ui.labelBox.lineEdit().returnPressed.emit()
    assert cell(panel, row_of(panel, "Blorb"), 1) == "spleen (3)"
    assert cell(panel, row_of(panel, "Blorb"), 2) == "chosen"
    assert panel.ui.applyButton.enabled
    panel.ui.suggestButton.click()
    assert cell(panel, row_of(panel, "Blorb"), 2) == "unknown"
    segmentation.GetSegment("mystery").SetName("spleen")
    host.wait(lambda: "spleen" in names(panel) and cell(panel, row_of(panel, "spleen"), 1) == "spleen (3)")


def test_several_segments_get_one_label_and_keep_it_with_the_segmentation(panel: Any, scene: Any) -> None:
    select(panel, "Left lower lobe", "RLL")
    row = panel.ui.labelBox.findData(161)
    panel.ui.labelBox.setCurrentIndex(row)
    panel.ui.labelBox.activated.emit(row)
    copy = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Copy")
    copy.Copy(scene.segmentation)
    for node in (scene.segmentation, copy):
        panel.ui.segmentationSelector.setCurrentNode(node)
        for name in ("Left lower lobe", "RLL"):
            assert cell(panel, row_of(panel, name), 1) == "Pulmonary nodules/masses (161)"
        assert names(panel)[-3:] == ["Left lower lobe", "RLL", "Pleural effusion"]


def test_order_of_rows_is_the_order_of_painting(panel: Any, scene: Any) -> None:
    from CTGenLib import segments

    def seen() -> int:
        values = [(row.segmentId, row.label.id) for row in panel.table.used() if row.rank == 1]
        return int((segments.labelArray(scene.segmentation, values, segments.ownGrid(scene.segmentation)) == 6).sum())

    liver = segment_id(scene.segmentation, "Liver")
    slicer.util.updateSegmentBinaryLabelmapFromArray(np.ones(SHAPE, np.uint8), scene.segmentation, liver, scene.volume)
    panel.table.update()
    for button, count in ((panel.ui.downButton, (scene.labels == 6).sum()), (panel.ui.upButton, 0)):
        select(panel, "Aorta")
        button.click()
        assert seen() == count
    select(panel, "Body")
    assert not panel.ui.downButton.enabled, "the body would hide everything"


# The report


def test_findings_history_and_ctrl_enter(host: Any, panel: Any, scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    actions = panel.ui.templatesButton.menu().actions()
    assert len(actions) == 18
    type_report(panel, "Old text.")
    panel.ui.reportText.moveCursor(qt.QTextCursor.End)
    action = next(action for action in actions if action.text == "Pleural effusion")
    action.trigger()
    text = panel._parameterNode.report
    assert text.startswith("Old text. ")
    assert "effusion" in text
    started = []
    monkeypatch.setattr(panel.logic, "start", lambda *arguments: started.append(arguments) or slow())

    def slow() -> None:
        raise ValueError("stopped by the test")

    panel.ui.reportText.setFocus()
    press(panel.ui.reportText, qt.Qt.Key_Return, qt.Qt.ControlModifier)
    host.process_events()
    assert len(started) == 1
    assert panel._parameterNode.report == text, "Ctrl+Enter is not text"
    type_report(panel, "Another.")
    assert panel.ui.historyBox.itemData(1) == text
    panel.ui.historyBox.setCurrentIndex(1)
    panel.ui.historyBox.activated.emit(1)
    assert panel.ui.reportText.plainText == text
    panel.ui.historyBox.activated.emit(panel.ui.historyBox.count - 1)
    assert panel.ui.historyBox.count == 1, "forgotten"


def press(widget: Any, key: Any, modifiers: Any) -> None:
    """A key press as the window system sends it: shortcuts first."""
    for kind in (qt.QEvent.ShortcutOverride, qt.QEvent.KeyPress, qt.QEvent.KeyRelease):
        qt.QCoreApplication.sendEvent(widget, qt.QKeyEvent(kind, key, modifiers))


def test_report_and_masks_that_contradict_each_other(host: Any, panel: Any, scene: Any, picture: Picture) -> None:
    type_report(panel, "Large pneumothorax on the right. No pleural effusion.")
    host.wait(lambda: "effusion" in panel.ui.checkLabel.text, PATIENCE)
    assert panel.ui.applyButton.enabled, "a warning does not forbid"
    picture(panel, "22-generate-contradiction")
    panel.ui.tabs.setCurrentIndex(1)
    assert not panel.ui.checkLabel.visible, "an edit uses none of these masks"
    panel.ui.tabs.setCurrentIndex(0)
    host.wait(lambda: "effusion" in panel.ui.checkLabel.text, PATIENCE)
    slicer.mrmlScene.Clear(0)
    assert not panel.ui.checkLabel.visible


def test_a_report_without_disease_segments_is_drafted(host: Any, panel: Any, scene: Any) -> None:
    panel.ui.segmentTable.item(row_of(panel, "Pleural effusion"), 0).setCheckState(qt.Qt.Unchecked)
    type_report(panel, "Right pleural effusion.")
    host.wait(lambda: "drafted from the report: Pleural effusion (right)" in panel.ui.checkLabel.text, PATIENCE)
    panel.ui.draftBox.setChecked(False)
    host.wait(lambda: "paint it to say where" in panel.ui.checkLabel.text, PATIENCE)
    assert "drafted" not in panel.ui.checkLabel.text
    panel.ui.draftBox.setChecked(True)


# Runs


def test_variants(host: Any, panel: Any, scene: Any, picture: Picture) -> None:
    type_report(panel, "Right pleural effusion.")
    panel.ui.seedBox.setValue(7)
    panel.ui.variantsBox.setValue(2)
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Cancel"
    assert not panel.ui.tabs.enabled
    host.wait(lambda: "1 of 2" in panel.ui.progressBar.format or not panel.logic.running, PATIENCE)
    picture(panel, "23-generate-running")
    finish(host, panel, PATIENCE)
    assert "Done" in panel.ui.statusLabel.text, panel.ui.statusLabel.text
    first, second = panel.logic.runner.volumes
    assert [first.GetName(), second.GetName()] == [
        "Synthetic foundation-embedded seed 7",
        "Synthetic foundation-embedded seed 8",
    ]
    assert (array(first) != array(second)).mean() > 0.5
    for node in (first, second):
        assert_same_grid(node, scene.volume)
        assert node.GetAttribute("CTGen.Synthetic") == "true"
        assert node.GetAttribute("CTGen.Report") == "Right pleural effusion."
        assert json.loads(node.GetAttribute("CTGen.Record"))["task"] == "generate"
        mask = node.GetNodeReference("CTGen.Mask")
        assert_same_grid(mask, scene.volume)
        expected = scene.labels.astype(int)
        expected = np.where(expected == 159, 259, expected)
        np.testing.assert_array_equal(array(mask), np.where(np.isin(scene.labels, list(NAMES)), expected, 0))
        assert mask.GetDisplayNode().GetColorNode().GetColorName(259) == "Pleural effusion or thickening"
    assert first.GetNodeReference("CTGen.Mask") is second.GetNodeReference("CTGen.Mask")
    assert contents(first) == [
        first.GetName(), mask.GetName(), second.GetName(), "CTGen: Right pleural effusion. report",
    ]  # fmt: skip
    text = slicer.util.getNode("CTGen: Right pleural effusion. report").GetText()
    assert text.startswith("Right pleural effusion.")
    assert text.count("record_id") == 2
    assert slicer.app.layoutManager().shown_views() == ["CTGen1", "CTGen2"]
    picture(panel, "24-generate-variants")
    choose(panel.ui.windowBox, "soft")
    assert second.GetDisplayNode().GetWindow() == 400
    panel.ui.restoreButton.click()
    assert slicer.app.layoutManager().shown_views() == ["Red", "Green", "Yellow"]
    assert not os.path.exists(panel.logic.job.folder)


def test_preview_and_text_alone(host: Any, panel: Any, scene: Any) -> None:
    panel.ui.segmentationSelector.setCurrentNode(None)
    panel.ui.referenceSelector.setCurrentNode(None)
    assert "Choose a segmentation, or write a report" in panel.ui.hintLabel.text
    type_report(panel, "Normal chest.")
    panel.ui.referenceSelector.setCurrentNode(scene.volume)
    panel.ui.stepsBox.setValue(1)
    panel.ui.previewButton.click()
    finish(host, panel, PATIENCE)
    assert "Done" in panel.ui.statusLabel.text, panel.ui.statusLabel.text
    (made,) = panel.logic.runner.volumes
    assert made.GetName() == "Preview foundation-embedded seed 0"
    assert made.GetNodeReference("CTGen.Mask") is None


def test_cancel_keeps_what_is_done(host: Any, panel: Any, scene: Any, picture: Picture) -> None:
    panel.ui.variantsBox.setValue(3)
    panel.ui.stepsBox.setValue(1)
    panel.ui.applyButton.click()
    host.wait(lambda: len(panel.logic.runner.volumes) == 1, PATIENCE)
    pid, inputs = panel.logic.job.pid, panel.logic.runner._inputs
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Stop now"
    finish(host, panel, 20)
    assert "Cancelled" in panel.ui.statusLabel.text
    assert len(panel.logic.runner.volumes) == 1
    assert not alive(pid)
    assert not os.path.exists(inputs)
    assert panel.ui.applyButton.text == "Generate"
    assert panel.ui.applyButton.enabled
    picture(panel, "25-generate-cancelled")


def test_what_if(host: Any, panel: Any, scene: Any, picture: Picture) -> None:
    panel.ui.tabs.setCurrentIndex(2)
    assert "same" in panel.ui.hintLabel.text
    choose(panel.ui.factorBox, "diseases")
    assert not panel.ui.otherReportText.visible
    run(host, panel)
    healthy, diseased = panel.logic.runner.volumes
    assert healthy.GetName() == "Synthetic A without diseases seed 0"
    assert not scene.segmentation.GetDisplayNode().GetVisibility2DFill()
    asked = [request["options"]["draft"] for request in panel.logic.runner.plan.requests]
    assert asked == [False, True], "a draft would bring the diseases back into A"
    difference = slicer.util.getNode("B minus A")
    np.testing.assert_array_equal(array(difference), array(diseased).astype(int) - array(healthy))
    lesion = scene.labels == 159
    change = np.abs(array(difference))
    assert change[lesion].mean() > 2 * change[~lesion].mean(), "the disease is where its mask is"
    assert (array(healthy.GetNodeReference("CTGen.Mask")) < 250).all()
    assert (array(diseased.GetNodeReference("CTGen.Mask")) == 259).sum() == lesion.sum()
    assert len(slicer.app.layoutManager().shown_views()) == 3
    picture(panel, "26-what-if")


def test_edit(host: Any, panel: Any, scene: Any, picture: Picture) -> None:
    panel.ui.tabs.setCurrentIndex(1)
    assert not panel.ui.previewButton.visible
    assert "segment" in panel.ui.hintLabel.text
    choose(panel.ui.editSegmentBox, segment_id(scene.segmentation, "Liver"))
    panel.ui.editDifferenceBox.setChecked(True)
    type_report(panel, "Hypodense liver lesion.")
    run(host, panel)
    (edited,) = panel.logic.runner.volumes
    assert_same_grid(edited, scene.volume)
    before, after = array(scene.volume), array(edited)
    changed = before != after
    assert changed.any()
    difference = next(node for node in volumes() if "difference" in node.GetName())
    np.testing.assert_array_equal(array(difference), after - before)
    far = ~grown(scene.labels == 1)
    assert not (changed & far).any(), "outside the feathered region nothing may change"
    assert len(slicer.app.layoutManager().shown_views()) == 3
    picture(panel, "27-edit")


def grown(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    return ndimage.binary_dilation(mask, iterations=1)


def test_what_cannot_be_sent_is_refused(panel: Any, scene: Any) -> None:
    panel.ui.tabs.setCurrentIndex(1)
    elsewhere = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = np.eye(4)
    matrix[0, 3] = 5000
    elsewhere.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    choose(panel.ui.editSegmentBox, segment_id(scene.segmentation, "Liver"))
    scene.segmentation.SetAndObserveTransformNodeID(elsewhere.GetID())
    panel.ui.applyButton.click()
    assert "region lies outside the CT" in panel.ui.statusLabel.text
    assert not panel.logic.running
    sheared = np.eye(4)
    sheared[0, 1] = 0.2
    panel.ui.editVolumeSelector.setCurrentNode(add_volume(array(scene.volume), sheared, "Sheared"))
    assert "not perpendicular" in panel.ui.hintLabel.text
    assert not panel.ui.applyButton.enabled


def test_an_error_of_the_engine_is_shown_with_what_to_do(host: Any, panel: Any, scene: Any, picture: Picture) -> None:
    corner = np.zeros(SHAPE, np.uint8)
    corner[:, :8, :8] = 1  # air
    effusion = segment_id(scene.segmentation, "Pleural effusion")
    slicer.util.updateSegmentBinaryLabelmapFromArray(corner, scene.segmentation, effusion, scene.volume)
    host.wait(lambda: "outside the body" in panel.ui.checkLabel.text, PATIENCE)
    panel.ui.applyButton.click()
    finish(host, panel, PATIENCE)
    assert "outside the body" in panel.ui.statusLabel.text
    assert "Move the segment" in panel.ui.statusLabel.text
    assert panel.ui.openFolderButton.enabled
    assert set(os.listdir(panel.logic.failedFolder)) <= {"job.json", "log.txt"}
    assert volumes() == [scene.volume]
    picture(panel, "29-generate-error")


def test_organs_below_diseases_that_were_cut_out_of_them() -> None:
    from CTGenLib.geometry import Grid
    from CTGenLib.segments import fillUnder

    organs = np.full((4, 40, 40), 200, np.uint8)
    organs[:, :2] = 0  # air
    organs[:, 10:20, 10:30], organs[:, 20:30, 10:30] = 28, 29
    hidden = np.zeros(organs.shape, bool)
    hidden[:, 15:25, 12:16] = hidden[:, :2, 5:9] = True
    cut = np.where(hidden, 0, organs).astype(np.uint8)
    np.testing.assert_array_equal(fillUnder(cut, hidden, Grid((40, 40, 4), np.diag([5.0, 5.0, 8.0, 1.0]))), organs)


def test_closing_the_scene_stops_the_run_and_keeps_the_report(host: Any, panel: Any, scene: Any) -> None:
    type_report(panel, "Small nodule in the left upper lobe.")
    panel.ui.applyButton.click()
    pid, folder, inputs = panel.logic.job.pid, panel.logic.job.folder, panel.logic.runner._inputs
    slicer.mrmlScene.Clear(0)
    host.process_events()
    assert not panel.logic.running
    assert not alive(pid)
    assert not os.path.exists(folder)
    assert not os.path.exists(inputs)
    assert "scene was closed" in panel.ui.statusLabel.text
    assert panel.ui.segmentTable.rowCount == 0
    assert panel.ui.reportText.plainText == ""
    assert panel.ui.historyBox.itemData(1) == "Small nodule in the left upper lobe."


def test_leaving_and_coming_back_keeps_choices_and_run(host: Any, panel: Any, scene: Any) -> None:
    type_report(panel, "Cardiomegaly.\nNo effusion.")
    panel.ui.applyButton.click()
    host.leave(panel)
    host.process_events()
    assert panel.logic.running
    host.enter(panel)
    assert panel.ui.applyButton.text == "Cancel"
    assert panel.ui.reportText.plainText == "Cardiomegaly.\nNo effusion."
    panel.ui.applyButton.click()
    panel.ui.applyButton.click()
    finish(host, panel, 20)


def test_choices_are_saved_with_the_scene(host: Any, panel: Any, scene: Any, tmp_path: Path) -> None:
    type_report(panel, 'Line one "quoted" & <b>.\nLine two.')
    panel.ui.guidanceBox.setValue(1.0)
    choose(panel.ui.solverBox, "unipc")
    path = str(tmp_path / "scene.mrml")
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.Commit()
    slicer.mrmlScene.Clear(0)
    assert panel.ui.reportText.plainText == ""
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.Import()
    host.process_events()
    host.enter(panel)
    assert panel.ui.reportText.plainText == 'Line one "quoted" & <b>.\nLine two.'
    assert panel._parameterNode.solver == "unipc"
    host.problems.take()  # the voxels were not saved: MRML says so


def test_defaults_are_those_of_the_engine(panel: Any) -> None:
    from ctgencore.tasks.edit import EditOptions
    from ctgencore.tasks.generate import GenerateOptions
    from CTGenGenerateLib import plans

    for task, cls in (("generate", GenerateOptions), ("edit", EditOptions)):
        defaults = dataclasses.asdict(cls())
        for name, value in plans.options(panel._parameterNode, task).items():
            assert value == defaults[name], f"{task}: {name}"


# Real masks


def test_real_masks(host: Any, panel: Any, ct_data: Path, picture: Picture) -> None:
    case = ct_data / "TotalSegmentator_example_ct"
    if not (case / "seg.nii.gz").is_file():
        pytest.skip(f"no masks in {case}")
    _volume, segmentation = load_segmentation(case)
    panel.ui.segmentationSelector.setCurrentNode(segmentation)
    wait_for_labels(host, panel)
    host.wait(lambda: not any(row.waiting for row in panel.table.rows))
    wanted = {"kidney_right": "right kidney (5)", "vertebrae_L3": "vertebrae L3 (35)", "hip_left": "left hip"}
    for name, label in wanted.items():
        assert cell(panel, row_of(panel, name), 1).startswith(label)
    unknown = [row.name for row in panel.table.used() if row.label is None]
    for name in unknown:
        panel.ui.segmentTable.item(row_of(panel, name), 0).setCheckState(qt.Qt.Unchecked)
    assert len(unknown) <= 5, unknown
    panel.ui.stepsBox.setValue(2)
    panel.ui.spacingInBox.setValue(4.0)
    panel.ui.spacingBetweenBox.setValue(8.0)
    assert "92 x 76 x 42 voxels of 4 x 4 x 8 mm" in panel.ui.gridInfoLabel.text
    run(host, panel)
    (made,) = panel.logic.runner.volumes
    assert made.GetImageData().GetDimensions() == (92, 76, 42)
    picture(panel, "28-real-masks")


@pytest.mark.heavy
def test_module_self_test(host: Any, panel: Any) -> None:
    """The test that Slicer itself would run."""
    import CTGenGenerate

    CTGenGenerate.CTGenGenerateTest().runTest()


def test_example_of_the_documentation(host: Any, panel: Any, scene: Any, capsys: Any) -> None:
    text = (GENERATE.parents[2] / "CTGenCore" / "docs" / "slicer.md").read_text(encoding="utf-8")
    example = text.split("```python\n")[2].split("```")[0]
    names = {"slicer": slicer}
    exec(compile(example, "slicer.md", "exec"), names)
    names["wishes"].steps = 1
    said: list[str] = []
    host.wait(lambda: said.append(capsys.readouterr().out) or "".join(said), PATIENCE)
    assert "".join(said) == "done\n"
