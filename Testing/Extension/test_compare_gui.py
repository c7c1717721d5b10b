"""The Compare tab of CTGenReconstruct driven as a user drives it: real module, real scene, real engine processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import qt
import slicer
from conftest import MODULE, add_volume, oblique
from driving import Picture, alive, assert_same_grid, finish, volumes
from evaluating import array, center_of, check_colors, contents, load_scene

PATIENCE = 300  # seconds for something that takes five: the machine may be busy
BROKEN = "leanvae-4"  # between 'embedded' and the other codecs that need no weights from outside


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache in which one codec has weights that are those of something else."""
    from ctgencore import hub
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("home")
    save_file({"something": np.zeros(3, np.float32)}, folder / "else.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CTGEN_HOME", str(folder))
        hub.import_weights(BROKEN, folder / "else.safetensors", accept_license=True)
        yield folder


@pytest.fixture(scope="module")
def panel(host: Any, home: Path) -> Iterator[Any]:
    """One panel for the whole file: it has to survive a closed scene after every test."""
    widget = host.open_module(MODULE)
    host.wait(lambda: not widget.engineSection.checking, PATIENCE)
    assert widget.engine is not None, widget.engineSection.problems
    widget.ui.tabs.setCurrentIndex(1)
    yield widget
    host.close_module(widget)


def row_of(panel: Any, codec: str) -> int:
    cells = panel.ui.codecTable
    return [cells.item(row, 0).text() for row in range(cells.rowCount)].index(codec)


def check(panel: Any, *codecs: str) -> None:
    """Check these codecs and no others."""
    cells = panel.ui.codecTable
    for row in range(cells.rowCount):
        item = cells.item(row, 0)
        if item.flags() & qt.Qt.ItemIsUserCheckable:
            item.setCheckState(qt.Qt.Checked if item.text() in codecs else qt.Qt.Unchecked)


HOLD = """
import json, os, signal, sys, time
from pathlib import Path
while True:  # hold the engine when its first codec is done
    for path in Path(sys.argv[1]).rglob("comparison.json"):
        if json.loads(path.read_text())["rows"]:
            sys.exit(os.kill(int(sys.argv[2]), signal.SIGSTOP))
    time.sleep(0.001)
"""


def begin(panel: Any, node: Any, *codecs: str) -> None:
    panel.ui.inputSelector.setCurrentNode(node)
    check(panel, *codecs)
    assert panel.ui.applyButton.enabled, panel.ui.hintLabel.text
    panel.ui.applyButton.click()
    assert panel.logic.running, panel.ui.statusLabel.text
    assert panel.ui.applyButton.text == "Cancel"


def shown(panel: Any) -> list[list[str]]:
    """The table of results as the user reads it."""
    view = panel.ui.comparisonView
    cells = [[view.item(row, column) for column in range(view.columnCount)] for row in range(view.rowCount)]
    return [["" if cell is None else cell.text() for cell in row] for row in cells]


def sort(panel: Any, heading: str, order: Any) -> list[str]:
    """Codecs in the order of a column."""
    view = panel.ui.comparisonView
    headings = [view.horizontalHeaderItem(column).text() for column in range(view.columnCount)]
    view.sortItems(headings.index(heading), order)
    return [row[0] for row in shown(panel)]


def click(panel: Any, codec: str) -> None:
    panel.ui.comparisonView.selectRow([row[0] for row in shown(panel)].index(codec))


def in_views() -> list[str]:
    """What the views of the layout show, in reading order."""
    manager = slicer.app.layoutManager()
    logics = [manager.sliceWidget(name).sliceLogic() for name in manager.shown_views()]
    assert all(logic.GetSliceCompositeNode().GetLinkedControl() for logic in logics)
    return [logic.GetBackgroundLayer().GetVolumeNode().GetName() for logic in logics]


def test_codecs_are_listed_with_what_keeps_them_from_running(panel: Any, volume: Any, picture: Picture) -> None:
    ui = panel.ui
    ui.inputSelector.setCurrentNode(volume)
    assert not ui.comparisonButton.visible
    assert ui.applyButton.text == "Compare"
    assert ui.applyButton.enabled, "two codecs are checked from the start"
    check(panel, "embedded")
    assert "at least two" in ui.hintLabel.text
    assert not ui.applyButton.enabled
    for row in panel.engine.codecs:
        item = ui.codecTable.item(row_of(panel, row["name"]), 0)
        gray = item.foreground().color() == ui.codecTable.palette.color(qt.QPalette.Disabled, qt.QPalette.Text)
        assert bool(item.flags() & qt.Qt.ItemIsUserCheckable) == row["available"] != gray
        assert row["why"] in item.toolTip()
        assert row["license"] in item.toolTip()
    assert ui.codecTable.item(row_of(panel, "dct16"), 2).text() == "packaged"
    assert ui.codecTable.item(row_of(panel, BROKEN), 2).text() == "installed"
    assert ui.codecTable.item(row_of(panel, "leanvae"), 2).text() == "not installed"
    ui.codecTable.selectRow(row_of(panel, "leanvae"))
    assert "ctgencore download leanvae" in ui.codecTableLabel.text
    picture(panel, "50-compare-choose")
    check(panel, "embedded", "identity")
    assert panel._parameterNode.comparedCodecs == "embedded identity"
    assert panel.logic.comparisonOptions(panel._parameterNode, panel.engine)["codecs"] == ["embedded", "identity"]
    panel._parameterNode.comparedCodecs = "embedded leanvae"  # a scene from a computer that has it
    assert "at least two" in ui.hintLabel.text
    ui.tabs.setCurrentIndex(0)
    assert ui.applyButton.text == "Apply"
    assert ui.applyButton.enabled, ui.hintLabel.text
    ui.tabs.setCurrentIndex(1)


def test_two_codecs(host: Any, panel: Any, volume: Any, chest: np.ndarray, picture: Picture, tmp_path: Path) -> None:
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevel(1400, -500)
    begin(panel, volume, "embedded", "dct16")
    assert not panel.ui.tabs.enabled
    host.wait(lambda: len(shown(panel)) == 1, PATIENCE)
    assert panel.logic.running, "the first row is there before the second codec is done"
    assert shown(panel)[0][0] == "embedded"
    assert in_views() == ["Chest CT", "Chest CT embedded", "Chest CT embedded difference"]
    picture(panel, "51-compare-running")
    finish(host, panel, PATIENCE)
    assert panel.ui.statusLabel.text.startswith("Done in"), panel.ui.statusLabel.text
    assert not os.path.exists(panel.logic.job.folder), "patient data was left behind"
    picture(panel, "52-compare-done")

    node = panel._parameterNode.comparison
    assert contents(node) == [
        "Codecs on Chest CT",
        *("Chest CT embedded", "Chest CT embedded difference", "Chest CT dct16", "Chest CT dct16 difference"),
    ]
    seen = chest.clip(-1000, 1000).astype(float)
    mean_error = {}
    for codec in ("embedded", "dct16"):
        output, difference = (slicer.util.getNode(f"Chest CT {codec}{end}") for end in ("", " difference"))
        np.testing.assert_array_equal(array(difference), array(output) - chest)
        assert_same_grid(output, volume)
        assert (output.GetDisplayNode().GetWindow(), output.GetDisplayNode().GetLevel()) == (1400, -500)
        assert json.loads(output.GetAttribute("CTGen.Record"))["codec"] == codec
        check_colors(difference)
        mean_error[codec] = np.abs(array(output) - seen).mean()
    cells = {row[0]: row for row in shown(panel)}
    for codec, expected in mean_error.items():
        assert float(cells[codec][2]) == pytest.approx(expected, rel=1e-3)
        assert cells[codec][7:] == ["Apache-2.0", "packaged"]
    best = min(mean_error, key=mean_error.get)
    assert f"{best} comes closest" in panel.ui.statusLabel.text
    assert shown(panel)[0][0] == best, "the best lies on top until the user sorts"

    differences = [slicer.util.getNode(f"Chest CT {codec} difference") for codec in mean_error]
    scales = [each.GetDisplayNode().GetWindow() / 2 for each in differences]
    assert scales == [panel.ui.scaleSlider.value] * 2
    panel.ui.scaleSlider.value = 155
    assert [each.GetDisplayNode().GetWindow() for each in differences] == [310, 310]
    assert {each.GetDisplayNode().GetLevel() for each in differences} == {0}

    views = slicer.app.layoutManager().shown_views()
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, 31.0, 12.0, 7.0)
    first = slicer.app.layoutManager().sliceWidget(views[0]).mrmlSliceNode()
    zoom = [part / 2 for part in first.GetFieldOfView()]
    first.SetFieldOfView(*zoom)
    place = center_of(views[0])
    click(panel, "dct16")
    assert in_views() == ["Chest CT", "Chest CT dct16", "Chest CT dct16 difference"]
    np.testing.assert_allclose(center_of(views[0]), place, err_msg="the view moved away from where the user looked")
    assert list(first.GetFieldOfView()) == zoom
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(differences[1])
    assert legend.GetVisibility()
    picture(panel, "53-compare-other-codec")
    panel.ui.comparisonView.selectAll()
    assert len(in_views()) == 6
    assert in_views()[::3] == ["Chest CT"] * 2
    picture(panel, "54-compare-both")
    panel.ui.restoreButton.click()
    assert slicer.app.layoutManager().shown_views() == ["Red", "Green", "Yellow"]
    assert not panel.ui.restoreButton.enabled

    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    host.process_events()
    assert panel._parameterNode.comparison is None
    assert not panel.ui.comparisonButton.visible
    load_scene(tmp_path / "scene.mrb")
    host.process_events()
    host.enter(panel)
    assert {row[0]: row for row in shown(panel)} == cells
    assert panel.ui.scaleSlider.value == 155
    click(panel, "embedded")
    assert in_views() == ["Chest CT", "Chest CT embedded", "Chest CT embedded difference"]
    slicer.mrmlScene.RemoveNode(slicer.util.getNode("Chest CT dct16"))
    click(panel, "dct16")
    assert in_views() == ["Chest CT", "Chest CT dct16 difference"], "what is left of it"
    slicer.mrmlScene.RemoveNode(slicer.util.getNode("Chest CT dct16 difference"))
    click(panel, "embedded")
    click(panel, "dct16")
    assert "no volume of dct16" in panel.ui.statusLabel.text
    slicer.mrmlScene.Clear(0)
    assert slicer.app.layoutManager().shown_views() == ["Red", "Green", "Yellow"]


def test_a_codec_that_fails_leaves_the_others(
    host: Any, panel: Any, home: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Left-handed and moved by a transform, so that it also shows where results lie."""
    monkeypatch.setenv("CTGEN_HOME", str(home))
    voxels = np.random.default_rng(0).integers(-900, 900, (5, 16, 24)).astype(np.int16)
    node = add_volume(voxels, oblique((0.7, 0.9, 3.0), left_handed=True), "Noise")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    moved = np.eye(4)
    moved[:3, 3] = 10, -20, 1300
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(moved))
    node.SetAndObserveTransformNodeID(transform.GetID())
    begin(panel, node, "embedded", BROKEN, "identity")
    finish(host, panel, PATIENCE)
    assert f"Failed: {BROKEN}" in panel.ui.statusLabel.text, panel.ui.statusLabel.text
    assert "identity comes closest: PSNR inf" in panel.ui.statusLabel.text
    picture(panel, "55-compare-one-failed")
    assert BROKEN in panel.ui.comparisonLabel.text
    assert BROKEN in panel.ui.logText.plainText
    for order in (qt.Qt.AscendingOrder, qt.Qt.DescendingOrder):
        codecs = sort(panel, "PSNR\n(dB)", order)
        assert codecs[-1] == BROKEN, "without a number it comes last"
        assert codecs[:2] == ["embedded", "identity"][:: 1 if order == qt.Qt.AscendingOrder else -1]
    output = slicer.util.getNode("Noise identity")
    np.testing.assert_array_equal(array(output), voxels)
    assert_same_grid(output, node)
    assert output.GetTransformNodeID() == transform.GetID()
    assert len(volumes()) == 5
    click(panel, BROKEN)
    assert f"no volume of {BROKEN}" in panel.ui.statusLabel.text
    assert not os.path.exists(panel.logic.job.folder), "patient data was left behind"


def test_cancel_keeps_what_is_done(host: Any, panel: Any, chest: np.ndarray, picture: Picture) -> None:
    node = add_volume(np.tile(chest, (2, 2, 1)), np.diag([-5.6, -2.8, 4.0, 1.0]), "Larger CT")
    begin(panel, node, "embedded", "dct16")
    pid, folder = panel.logic.job.pid, panel.logic.job.folder
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder, str(pid)])  # the second codec is quick
    host.leave(panel)
    host.wait(lambda: len(volumes()) == 3, PATIENCE)
    assert panel.logic.running, "a job goes on when the user leaves"
    assert slicer.app.layoutManager().shown_views() == ["Red", "Green", "Yellow"], "... and leaves the views alone"
    host.enter(panel)
    assert shown(panel)[0][0] == "embedded"
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Stop now"
    assert holder.wait(PATIENCE) == 0
    os.kill(pid, signal.SIGCONT)
    finish(host, panel, 20)
    assert panel.ui.statusLabel.text == "Cancelled. Kept: embedded."
    assert [each.GetName() for each in volumes()] == [
        *("Larger CT", "Larger CT embedded", "Larger CT embedded difference"),
    ]
    assert len(shown(panel)) == 1
    picture(panel, "56-compare-cancelled")
    assert not alive(pid)
    assert not os.path.exists(folder)

    begin(panel, node, "embedded", "dct16")
    pid, folder = panel.logic.job.pid, panel.logic.job.folder
    slicer.mrmlScene.Clear(0)
    host.process_events()
    assert not panel.logic.running
    assert not alive(pid)
    assert not os.path.exists(folder)
    assert "scene was closed" in panel.ui.statusLabel.text
    assert volumes() == []


def test_a_result_that_lies_elsewhere_is_not_added(panel: Any, volume: Any, tmp_path: Path) -> None:
    """The engine and the scene disagree about the grid: the row says so, and nothing else happens."""
    from CTGenLib import geometry
    from CTGenReconstructLib.comparison import Comparison, ComparisonJob

    panel.ui.inputSelector.setCurrentNode(volume)
    grid = geometry.worldGrid(volume)
    moved = grid.ijkToWorld.copy()
    moved[0, 3] += 0.01
    geometry.exportArray(array(volume), geometry.Grid(grid.size, moved), str(tmp_path / "x.nrrd"))
    (tmp_path / "x.json").write_text("{}")
    job = SimpleNamespace(grid=grid, path=lambda name: str(tmp_path / name), log=lambda text: None)
    job.read = lambda name: ComparisonJob.read(job, name)
    comparison = Comparison(panel._parameterNode, {"window": "wide"})
    comparison.add({"codec": "embedded", "error": None, "volume": "x.nrrd", "difference": "x.nrrd"}, job)
    assert "does not lie where the input lies" in comparison.rows[0]["error"]
    assert comparison.table is None
    assert volumes() == [volume]
