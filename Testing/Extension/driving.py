"""What the GUI tests do to the panel, in a user's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import vtk

Picture = Callable[[Any, str], None]


def choose(combo: Any, data: str) -> None:
    """Choose an entry as a user does."""
    row = combo.findData(data)
    assert row >= 0, f"no entry {data}"
    combo.setCurrentIndex(row)


def volumes() -> list[Any]:
    return list(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def start(host: Any, panel: Any, node: Any, codec: str = "embedded") -> None:
    panel.ui.inputSelector.setCurrentNode(node)
    choose(panel.ui.codecBox, codec)
    assert panel.ui.applyButton.enabled, panel.ui.hintLabel.text
    panel.ui.applyButton.click()
    assert panel.logic.running
    assert panel.ui.applyButton.text == "Cancel"


def finish(host: Any, panel: Any, seconds: float = 120) -> None:
    host.wait(lambda: not panel.logic.running, seconds)


def assert_same_grid(one: Any, other: Any) -> None:
    """Equal to the last digit but one: MRML keeps directions and spacing apart."""
    matrices = []
    for node in (one, other):
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        matrices.append(slicer.util.arrayFromVTKMatrix(matrix))
    np.testing.assert_allclose(*matrices, atol=1e-12, rtol=0)
    assert one.GetImageData().GetDimensions() == other.GetImageData().GetDimensions()


def wait_for_progress(host: Any, panel: Any) -> None:
    host.wait(lambda: panel.ui.progressBar.maximum > 0 and "/s" in panel.ui.progressBar.format, 60)


def use_python(host: Any, panel: Any, path: str) -> None:
    panel.ui.pythonPathEdit.currentPath = path
    panel.ui.checkEngineButton.click()
    host.wait(lambda: not panel.engineSection.checking, 120)
