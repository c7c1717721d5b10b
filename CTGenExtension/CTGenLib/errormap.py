"""How volumes of errors are shown: blue where a CT is too low, orange where it is too high, else black."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import slicer
from slicer.i18n import tr as _

from . import result

COLORS_NAME = "CTGen error"
STEPS = (10, 20, 50, 100, 200, 500, 1000, 2000)  # HU at the ends of the scale
SHARE = 97.0  # percent of the voxels that are not right and that the scale covers
LOOKED_AT = 2_000_000  # voxels of a map that are looked at for its scale; all of a large CT would take seconds
TOO_LOW, TOO_HIGH = (0.30, 0.65, 1.0), (1.0, 0.55, 0.15)  # told apart by color-blind people too


def scale(nodes: Iterable) -> float:
    """HU at the ends of one scale that fits the errors of all these maps."""
    reach = max((_reach(node) for node in nodes), default=0.0)
    return float(next((step for step in STEPS if step >= reach), STEPS[-1]))


def show(nodes: Iterable, limit: float) -> None:
    """Give error maps their colors and one scale.

    Args:
        nodes: volumes of differences in HU.
        limit: HU at the ends of the scale.
    """
    colors = _colors().GetID()
    for node in nodes:
        node.GetDisplayNode().SetAndObserveColorNodeID(colors)
        result.showWindow(node, 2.0 * limit, 0.0)


def showLegend(node, title: str) -> None:
    """Show the color legend. Slicer draws it only in views that are older than the legend, so it is made anew."""
    logic = slicer.modules.colors.logic()
    legend = logic.GetColorLegendDisplayNode(node)
    if legend is not None:
        slicer.mrmlScene.RemoveNode(legend)
    legend = logic.AddDefaultColorLegendDisplayNode(node)
    legend.SetTitleText(_("{title} (HU)").format(title=title))
    legend.SetLabelFormat("%.0f")


def _reach(node) -> float:
    voxels = slicer.util.arrayFromVolume(node).ravel()
    error = np.abs(voxels[:: max(1, voxels.size // LOOKED_AT)])
    return float(np.percentile(error[error > 0], SHARE)) if error.any() else 0.0


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
