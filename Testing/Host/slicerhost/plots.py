"""Plot views: what Slicer's qMRMLPlotView makes of chart and series nodes, with VTK's own chart."""

from __future__ import annotations

from typing import Any

import slicer
import vtk
from PySide6 import QtGui

_BARS = (slicer.vtkMRMLPlotSeriesNode.PlotTypeBar, slicer.vtkMRMLPlotSeriesNode.PlotTypeScatterBar)


class PlotWidget:
    """One plot view.

    Args:
        view: vtkMRMLPlotViewNode.
    """

    def __init__(self, view: Any) -> None:
        self._view = view

    def mrmlPlotViewNode(self) -> Any:
        """Its view node."""
        return self._view

    def chart(self) -> Any:
        """The chart node that it shows, or None."""
        return slicer.mrmlScene.GetNodeByID(self._view.GetPlotChartNodeID() or "")

    def draw(self, width: int, height: int) -> QtGui.QImage:
        """Render the chart; empty when there is none.

        Raises:
            ValueError: a series is one that Slicer would leave out, saying so in its log at most.
        """
        from .views import picture

        view = vtk.vtkContextView()
        window = view.GetRenderWindow()
        window.SetOffScreenRendering(1)
        window.SetSize(width, height)
        view.GetRenderer().SetBackground(1.0, 1.0, 1.0)
        node = self.chart()
        if node is not None:
            chart = vtk.vtkChartXY()
            view.GetScene().AddItem(chart)
            for number in range(node.GetNumberOfPlotSeriesNodes()):
                chart.AddPlot(_plot(node.GetNthPlotSeriesNode(number)))
            _decorate(chart, node)
        window.Render()
        return picture(window)


def _plot(series: Any) -> Any:
    """One series as VTK draws it."""
    table = series.GetTableNode().GetTable() if series.GetTableNode() is not None else None
    needed = [series.GetYColumnName(), *([series.GetXColumnName()] if series.IsXColumnRequired() else [])]
    for column in needed:
        array = table.GetColumnByName(column) if table is not None and column else None
        if array is None or array.IsA("vtkStringArray") or array.IsA("vtkBitArray"):
            raise ValueError(f"series '{series.GetName()}': column '{column}' cannot be plotted")
    plot = vtk.vtkPlotBar() if series.GetPlotType() in _BARS else vtk.vtkPlotLine()
    plot.SetColorF(*series.GetColor())
    plot.GetPen().SetOpacityF(series.GetOpacity())
    plot.SetWidth(series.GetLineWidth())
    plot.SetUseIndexForXSeries(not series.IsXColumnRequired())
    plot.SetInputData(table, needed[-1], needed[0])
    plot.SetLabel(series.GetName())
    return plot


def _decorate(chart: Any, node: Any) -> None:
    """Titles, legend and ranges."""
    chart.SetTitle(node.GetTitle() or "" if node.GetTitleVisibility() else "")
    chart.GetTitleProperties().SetFontSize(node.GetTitleFontSize())
    chart.SetShowLegend(bool(node.GetLegendVisibility()))
    chart.GetLegend().GetLabelProperties().SetFontSize(node.GetLegendFontSize())
    for axis, name in ((vtk.vtkAxis.BOTTOM, "X"), (vtk.vtkAxis.LEFT, "Y")):
        item = chart.GetAxis(axis)
        visible = getattr(node, f"Get{name}AxisTitleVisibility")()
        item.SetTitle(getattr(node, f"Get{name}AxisTitle")() or "" if visible else "")
        item.GetTitleProperties().SetFontSize(node.GetAxisTitleFontSize())
        item.GetTitleProperties().SetBold(False)
        item.GetLabelProperties().SetFontSize(node.GetAxisLabelFontSize())
        item.SetGridVisible(bool(node.GetGridVisibility()))
        if not getattr(node, f"Get{name}AxisRangeAuto")():
            item.SetBehavior(vtk.vtkAxis.FIXED)
            item.SetRange(*getattr(node, f"Get{name}AxisRange")())
