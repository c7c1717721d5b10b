"""How a volume of errors is shown: blue where the test CT is too low, orange where it is too high, else black."""

from __future__ import annotations

import numpy as np
import slicer
from CTGenLib import result
from slicer.i18n import tr as _

COLORS_NAME = "CTGen error"
STEPS = (10, 20, 50, 100, 200, 500, 1000, 2000)  # HU at the ends of the scale
SHARE = 97.0  # percent of the voxels that are not right and that the scale covers
TOO_LOW, TOO_HIGH = (0.30, 0.65, 1.0), (1.0, 0.55, 0.15)  # told apart by color-blind people too


def show(node) -> None:
    """Give an error map its colors and a scale that fits its errors."""
    error = np.abs(slicer.util.arrayFromVolume(node))
    reach = float(np.percentile(error[error > 0], SHARE)) if error.any() else 0.0
    limit = next((step for step in STEPS if step >= reach), STEPS[-1])
    node.GetDisplayNode().SetAndObserveColorNodeID(_colors().GetID())
    result.showWindow(node, 2.0 * limit, 0.0)


def showLegend(node) -> None:
    """Show the color legend. Slicer draws it only in views that are older than the legend, so it is made anew."""
    logic = slicer.modules.colors.logic()
    legend = logic.GetColorLegendDisplayNode(node)
    if legend is not None:
        slicer.mrmlScene.RemoveNode(legend)
    legend = logic.AddDefaultColorLegendDisplayNode(node)
    legend.SetTitleText(_("test - reference (HU)"))
    legend.SetLabelFormat("%.0f")


def _colors():
    node = slicer.mrmlScene.GetFirstNode(COLORS_NAME, "vtkMRMLColorTableNode")
    if node is not None:
        return node
    node = slicer.vtkMRMLColorTableNode()
    node.SetTypeToUser()
    node.SetNumberOfColors(256)
    node.SetName(COLORS_NAME)
    for index in range(256):
        place = (index - 127.5) / 127.5
        color = TOO_HIGH if place > 0 else TOO_LOW
        bright = abs(place) ** 0.7  # small errors are to be seen
        white = max(0.0, abs(place) - 0.75) * 1.6  # and the largest stand out
        node.SetColor(index, f"{place:.2f}", *(min(1.0, part * bright + white) for part in color), 1.0)
    node.HideFromEditorsOff()
    slicer.mrmlScene.AddNode(node)
    return node
