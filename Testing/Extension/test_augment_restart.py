"""A run of the Augment tab is taken up after Slicer was restarted. The test opens panels of its own: hence its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from augmenting import CODEC, PATIENCE, assert_same_files, begin, cell, images, look, make_data_set, select, views
from conftest import MODULE
from driving import Picture, alive, choose, finish


@pytest.mark.heavy
def test_a_run_is_taken_up_after_a_restart(host: Any, chest: np.ndarray, tmp_path: Path, picture: Picture) -> None:
    """Cancelled, then ended with Slicer itself; what is done stays as it is. The bytes are those of a run in one go."""
    big = np.tile(chest, (4, 2, 2))
    source = make_data_set(tmp_path / "Dataset022_Big", {f"ct{n}": big + n for n in range(3)})
    output = tmp_path / "Dataset504_Views"

    def open_panel() -> Any:
        panel = host.open_module(MODULE)
        host.wait(lambda: not panel.engineSection.checking, PATIENCE)
        panel.ui.tabs.setCurrentIndex(2)
        return panel

    panel = open_panel()
    select(host, panel, source, output, "dct16")
    panel.ui.augmentSeedBox.value = 11
    choose(panel.ui.modeBox, "replace")
    look(host, panel)
    begin(panel)
    pid = panel.logic.job.pid
    host.wait(lambda: len(images(output)) >= 1, PATIENCE)
    panel.ui.applyButton.click()
    assert panel.ui.applyButton.text == "Stop now"
    finish(host, panel, 30)
    assert panel.ui.statusLabel.text.startswith("Cancelled."), panel.ui.statusLabel.text
    assert not alive(pid)
    done = images(output)
    assert 0 < len(done) < 3
    stamps = {name: (output / name).stat().st_mtime_ns for name in done}
    assert panel.ui.resumeFrame.visible
    picture(panel, "66-augment-cancelled")
    cell(panel, 0, CODEC).setEditText("embedded")
    look(host, panel)
    assert "unfinished run with other choices" in panel.ui.hintLabel.text
    host.close_module(panel)

    slicer.mrmlScene.Clear(0)
    host.process_events()
    panel = open_panel()
    assert panel._parameterNode.dataSet == ""
    assert panel.ui.resumeFrame.visible, "it is offered to a user who has chosen nothing"
    assert output.name in panel.ui.resumeLabel.text
    assert panel.ui.resumeLabel.toolTip == str(output)
    picture(panel, "67-augment-resume")
    panel.ui.resumeButton.click()
    assert panel.logic.running, panel.ui.statusLabel.text
    assert panel._parameterNode.dataSet == str(source)
    assert panel._parameterNode.augmentMode == "replace"
    assert panel.ui.augmentSeedBox.value == 11
    assert views(panel) == ["dct16"]
    pid = panel.logic.job.pid
    host.wait(lambda: len(images(output)) >= 2, PATIENCE)
    host.close_module(panel)  # Slicer ends
    assert not alive(pid)

    panel = open_panel()
    panel.ui.resumeButton.click()
    finish(host, panel, PATIENCE)
    assert "3 cases" in panel.ui.statusLabel.text, panel.ui.statusLabel.text + panel.ui.logText.plainText
    assert "were done before" in panel.ui.statusLabel.text
    assert stamps == {name: (output / name).stat().st_mtime_ns for name in done}, "a finished case was made again"
    assert not panel.ui.resumeFrame.visible

    whole = tmp_path / "whole" / output.name
    panel.ui.augmentOutputEdit.currentPath = str(whole)
    look(host, panel)
    begin(panel)
    finish(host, panel, PATIENCE)
    assert_same_files(output, whole)
    host.close_module(panel)
