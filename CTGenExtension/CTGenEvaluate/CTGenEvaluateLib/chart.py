"""A metric by region as bars: a chart node, and one series node per region so that the legend names them."""

from __future__ import annotations

import json
import math
from typing import Any

import slicer
import vtk
from CTGenLib import tables
from CTGenLib.compare import COLORS
from slicer.i18n import tr as _

from . import table

REFERENCE = "CTGen.Chart"
METRIC_ATTRIBUTE = "CTGen.Plotted"  # of the table: the metric that the chart shows
COLORS_ATTRIBUTE = "CTGen.Colors"  # of the table: region -> (r, g, b), as far as known
MOST = 16  # bars; those of the worst regions
ALL = "all"  # the region that is the whole volume


def plottable(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(title, name) of the metrics that have several regions."""
    regions: dict[str, tuple[str, int]] = {}
    for line in lines:
        if line["region"] != ALL and math.isfinite(tables.number(line["mean"])):
            regions[line["metric"]] = (line["title"], regions.get(line["metric"], ("", 0))[1] + 1)
    return [(title, name) for name, (title, count) in regions.items() if count > 1]


def draw(folder, tableNode, metric: str):
    """Make a chart of one metric, or change the one that the table has.

    Args:
        folder: RunFolder for a new chart; None: the table has one.
        tableNode: the result table.
        metric: recipe's name; see plottable.

    Returns:
        The vtkMRMLPlotChartNode.
    """
    scene = slicer.mrmlScene
    colors = json.loads(tableNode.GetAttribute(COLORS_ATTRIBUTE) or "{}")
    lines = [line for line in table.read(tableNode)["summary"] if line["metric"] == metric and line["region"] != ALL]
    lines = [line for line in lines if math.isfinite(tables.number(line["mean"]))]
    badness = {"lower": lambda v: -v, "zero": lambda v: -abs(v)}.get(lines[0]["better"], lambda v: v)
    lines = sorted(lines, key=lambda line: badness(tables.number(line["mean"])))[:MOST]
    chart = tableNode.GetNodeReference(REFERENCE)
    if chart is None:
        chart = slicer.vtkMRMLPlotChartNode()
        folder.add(chart, _("{name} chart").format(name=tableNode.GetName()))
        tableNode.SetNodeReferenceID(REFERENCE, chart.GetID())
    tableNode.SetAttribute(METRIC_ATTRIBUTE, metric)
    clear(chart)
    values = slicer.vtkMRMLTableNode()  # one row: a bar for each column
    values.SetName(f"{chart.GetName()} values")
    values.HideFromEditorsOn()
    scene.AddNode(values)
    for place, line in enumerate(lines):
        column = vtk.vtkDoubleArray()
        column.SetName(line["region"])
        column.InsertNextValue(tables.number(line["mean"]))
        values.AddColumn(column)
        series = slicer.vtkMRMLPlotSeriesNode()
        series.SetName(line["region"])
        series.HideFromEditorsOn()
        scene.AddNode(series)
        series.SetAndObserveTableNodeID(values.GetID())
        series.SetPlotType(series.PlotTypeBar)
        series.SetYColumnName(line["region"])
        series.SetColor(*(colors.get(line["region"]) or _paletteColor(place)))
        chart.AddAndObservePlotSeriesNodeID(series.GetID())
    line = lines[0]
    unit = f" ({line['unit']})" if line["unit"] else ""
    chart.SetTitle(_("{metric} by region, the worst first").format(metric=line["title"]))
    chart.SetYAxisTitle(f"{line['title']}{unit}")
    chart.SetXAxisTitle(_("regions as in the legend, from left to right"))
    chart.SetTitleFontSize(16)
    chart.SetLegendFontSize(12)
    chart.SetAxisTitleFontSize(13)
    chart.SetXAxisRangeAuto(False)  # bars lie around 0, which Slicer's own range would cut off
    chart.SetXAxisRange(-0.5, 1.0)  # the legend needs the right part
    return chart


def clear(chart) -> None:
    """Remove the series of a chart and their values."""
    gone = []
    for number in range(chart.GetNumberOfPlotSeriesNodes()):
        series = chart.GetNthPlotSeriesNode(number)
        gone += [series, *([series.GetTableNode()] if number == 0 else [])]
    chart.RemoveAllPlotSeriesNodeIDs()
    for node in gone:
        slicer.mrmlScene.RemoveNode(node)


def _paletteColor(place: int) -> tuple[float, float, float]:
    text = COLORS[place % len(COLORS)]
    return tuple(int(text[start : start + 2], 16) / 255 for start in (1, 3, 5))
