"""Volumes side by side in a layout of their own, and the way back."""

from __future__ import annotations

import math
from collections.abc import Sequence

import slicer

LAYOUT = 6217  # any number that no other extension uses
VIEW = "CTGen{number}"
PLOT = "CTGenPlot"
COLORS = ("#F34A33", "#6EB04B", "#EDD54C", "#3FA7D6", "#A06CD5", "#E58F3B", "#59C3C3", "#C97B84", "#9BC53D")


class CompareLayout:
    """One linked axial view per volume, and a chart below them if wanted.

    Attributes:
        shown: whether the layout is on.
    """

    MOST = len(COLORS)

    def __init__(self) -> None:
        self._before: int | None = None

    @property
    def shown(self) -> bool:
        """Whether the layout is on."""
        manager = slicer.app.layoutManager()
        return manager is not None and manager.layout == LAYOUT

    def show(self, volumes: Sequence, chart=None, columns: int = 0, stay: bool = False) -> None:
        """Show the volumes.

        Args:
            volumes: up to MOST nodes, in reading order.
            chart: vtkMRMLPlotChartNode, or None.
            columns: views in a row; 0: as many as look good.
            stay: where the views look at is kept if they are on already; else all of the volumes is shown.
        """
        manager = slicer.app.layoutManager()
        if manager is None or not (volumes or chart):
            return
        node = manager.layoutLogic().GetLayoutNode()
        if not self.shown:
            self._before = manager.layout
        text = description(len(volumes), chart is not None, columns)
        same = self.shown and node.GetLayoutDescription(LAYOUT) == text
        if not same:
            if node.IsLayoutDescription(LAYOUT):
                node.SetLayoutDescription(LAYOUT, text)
            else:
                node.AddLayoutDescription(LAYOUT, text)
            manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutNone)  # else a changed description is not seen
            manager.setLayout(LAYOUT)
        logics = [manager.sliceWidget(VIEW.format(number=number + 1)).sliceLogic() for number in range(len(volumes))]
        for logic in logics:  # a linked view would hand its volumes on
            logic.GetSliceCompositeNode().SetLinkedControl(0)
        for logic, volume in zip(logics, volumes, strict=True):
            composite = logic.GetSliceCompositeNode()
            composite.SetBackgroundVolumeID(volume.GetID())
            composite.SetForegroundVolumeID(None)
            composite.SetLabelVolumeID(None)
            if not (same and stay):
                logic.FitSliceToAll()
        for logic in logics:
            logic.GetSliceCompositeNode().SetLinkedControl(1)
        if chart is not None:
            slicer.mrmlScene.GetSingletonNode(PLOT, "vtkMRMLPlotViewNode").SetPlotChartNodeID(chart.GetID())

    def restore(self) -> None:
        """Back to the layout that was there before."""
        if self.shown and self._before is not None:
            slicer.app.layoutManager().setLayout(self._before)


def description(count: int, plot: bool = False, columns: int = 0) -> str:
    """The layout's XML: up to three views in a row, more in two rows, if not told otherwise; then the plot."""
    columns = columns or max(1, count if count <= 3 else math.ceil(count / 2))
    rows = []
    for first in range(1, count + 1, columns):
        cells = "".join(_view(number) for number in range(first, min(first + columns, count + 1)))
        rows.append(f'<item><layout type="horizontal">{cells}</layout></item>')
    if plot:
        view = f'<view class="vtkMRMLPlotViewNode" singletontag="{PLOT}"/>'
        rows.append(f'<item><layout type="horizontal"><item>{view}</item></layout></item>')
    return f'<layout type="vertical" split="true">{"".join(rows)}</layout>'


def _view(number: int) -> str:
    tag = VIEW.format(number=number)
    return (
        f'<item><view class="vtkMRMLSliceNode" singletontag="{tag}">'
        '<property name="orientation" action="default">Axial</property>'
        f'<property name="viewlabel" action="default">{number}</property>'
        f'<property name="viewcolor" action="default">{COLORS[number - 1]}</property>'
        '<property name="viewgroup" action="default">7</property></view></item>'
    )
