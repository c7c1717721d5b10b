"""The host must refuse what Slicer refuses, and notice what Slicer would only print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import ctk
import numpy as np
import pytest
import qt
import slicer
import vtk
from conftest import add_volume
from segmenting import add_segmentation
from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper


def test_properties_are_attributes() -> None:
    label = qt.QLabel()
    label.text = "x"
    assert label.text == "x"
    with pytest.raises(TypeError, match="not callable"):
        label.text()
    with pytest.raises(AttributeError, match="no property 'txt'"):
        label.txt = "typing error"


def test_unknown_signals_and_greedy_slots_are_errors() -> None:
    button = qt.QPushButton()
    with pytest.raises(ValueError, match="has no signal 'pressedTwice"):
        button.connect("pressedTwice()", lambda: None)
    with pytest.raises(ValueError, match="needs 2 arguments"):
        button.connect("clicked(bool)", lambda a, b: None)
    heard = []
    button.connect("clicked(bool)", lambda: heard.append(1))
    button.connect("clicked(bool)", heard.append)
    button.click()
    assert heard == [1, False]


def test_disconnect() -> None:
    heard = []
    slot = heard.append
    box = qt.QCheckBox()
    box.connect("toggled(bool)", slot)
    box.setChecked(True)
    box.disconnect("toggled(bool)", slot)
    box.setChecked(False)
    assert heard == [True]
    with pytest.raises(ValueError, match="is not connected"):
        box.disconnect("toggled(bool)", slot)


def test_what_pythonqt_lacks_is_not_there() -> None:
    for name in ("Signal", "Slot", "Property"):
        assert not hasattr(qt, name)
    assert not hasattr(slicer, "loadVolume"), "slicer-core leaks slicer.util's names; Slicer does not have them"
    assert hasattr(slicer.util, "loadVolume")


def raise_it() -> None:
    raise RuntimeError("lost")


@pytest.mark.parametrize("where", ["slot", "timer", "observer"])
def test_exceptions_that_slicer_swallows_are_collected(host: Any, where: str) -> None:
    if where == "slot":
        button = qt.QPushButton()
        button.connect("clicked(bool)", raise_it)
        button.click()
    elif where == "timer":
        qt.QTimer.singleShot(0, raise_it)
        host.process_events()
    else:
        slicer.mrmlScene.AddObserver(vtk.vtkCommand.UserEvent, lambda caller, event: raise_it())
        slicer.mrmlScene.InvokeEvent(vtk.vtkCommand.UserEvent)
        slicer.mrmlScene.RemoveObservers(vtk.vtkCommand.UserEvent)
    assert any("RuntimeError: lost" in text for text in host.problems.take())


def test_vtk_errors_are_collected(host: Any) -> None:
    reader = vtk.vtkXMLImageDataReader()
    reader.SetFileName("/nowhere.vti")
    reader.Update()
    assert any("VTK ErrorEvent" in text for text in host.problems.take())


BROKEN = {
    "unknown widget class": ('<widget class="ctkFancyThing" name="x"/>', "unknown widget class 'ctkFancyThing'"),
    "unknown property": (
        '<widget class="QLabel" name="x"><property name="txt"><string>a</string></property></widget>',
        "has no property 'txt'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_ui_files_are_refused(tmp_path: Path, case: str) -> None:
    widget, words = BROKEN[case]
    path = tmp_path / "broken.ui"
    path.write_text(
        '<ui version="4.0"><class>W</class><widget class="QWidget" name="W"><layout class="QVBoxLayout" name="l">'
        f"<item>{widget}</item></layout></widget></ui>"
    )
    with pytest.raises(ValueError, match=words):
        slicer.util.loadUI(str(path))


def test_node_combo_box_follows_the_scene() -> None:
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    seen = []
    combo.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "a")
    assert combo.nodeCount() == 1
    combo.setCurrentNode(node)
    slicer.mrmlScene.RemoveNode(node)
    assert combo.currentNode() is None
    assert seen == [node, None]
    with pytest.raises(ValueError, match="no node class"):
        combo.nodeTypes = ["vtkMRMLScalarVolume"]


def test_collapsible_button_hides_its_content() -> None:
    button = ctk.ctkCollapsibleButton()
    layout = qt.QVBoxLayout(button)
    label = qt.QLabel("content")
    layout.addWidget(label)
    button.show()
    assert label.visible
    button.collapsed = True
    assert not label.visible
    button.collapsed = False
    assert label.visible
    button.hide()


def test_parameter_node_wrapper_checks_types_and_rules() -> None:
    @parameterNodeWrapper
    class Parameters:
        number: Annotated[int, WithinRange(0, 5)] = 3
        word: Annotated[str, Choice(["a", "b"])] = "a"
        volume: slicer.vtkMRMLScalarVolumeNode

    node = Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    assert (node.number, node.word, node.volume) == (3, "a", None)
    node.number = 5
    assert node.number == 5
    with pytest.raises(ValueError, match="within"):
        node.number = 6
    with pytest.raises(ValueError, match="one of"):
        node.word = "c"
    with pytest.raises(TypeError, match="int"):
        node.number = "5"
    with pytest.raises(TypeError, match="vtkMRMLScalarVolumeNode"):
        node.volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")


def test_tables_menus_and_shortcuts_behave_as_in_pythonqt() -> None:
    table = qt.QTableWidget(2, 3)
    assert (table.rowCount, table.columnCount) == (2, 3)
    with pytest.raises(TypeError, match="not callable"):
        table.rowCount()
    heard = []
    table.connect("cellChanged(int,int)", lambda row, column: heard.append((row, column)))
    table.setItem(1, 2, qt.QTableWidgetItem("x"))
    assert heard == [(1, 2)]
    menu = qt.QMenu()
    menu.addAction("first").connect("triggered(bool)", lambda: heard.append("first"))
    menu.actions()[0].trigger()
    assert heard[-1] == "first"
    with pytest.raises(ValueError, match="has no signal"):
        qt.QShortcut(qt.QKeySequence("Ctrl+Return"), table).connect("triggered()", lambda: None)


def test_layouts_are_those_of_mrml() -> None:
    manager = slicer.app.layoutManager()
    before = manager.layout
    assert manager.shown_views() == ["Red", "Green", "Yellow"]
    with pytest.raises(ValueError, match="no layout 4711"):
        manager.setLayout(4711)
    view = '<item><view class="vtkMRMLSliceNode" singletontag="Extra"/></item>'
    manager.layoutLogic().GetLayoutNode().AddLayoutDescription(4712, f'<layout type="horizontal">{view}</layout>')
    manager.setLayout(4712)
    assert manager.shown_views() == ["Extra"]
    assert manager.sliceWidget("Extra").mrmlSliceNode().GetLayoutName() == "Extra"
    manager.setLayout(before)
    assert manager.shown_views() == ["Red", "Green", "Yellow"]


def test_node_combo_box_filters_by_attribute() -> None:
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLTableNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "other").SetAttribute("Kind", "no")
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "mine")
    mine.SetAttribute("Mine", "1")
    assert combo.nodeCount() == 2
    combo.addAttribute("vtkMRMLTableNode", "Mine")
    assert [node.GetName() for node in combo.nodes()] == ["mine"]
    with pytest.raises(ValueError, match="does not offer"):
        combo.addAttribute("vtkMRMLTextNode", "Mine")


def test_table_view_shows_the_node_and_tells_what_is_selected() -> None:
    node = table_of({"Name": ["a", "b"], "Value": [1.5, float("nan")]})
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetColumnTitle("Value", "How much")
    view = slicer.qMRMLTableView()
    view.setMRMLTableNode(node)
    model = view.sortFilterProxyModel()
    cells = [[model.index(row, place).data() for place in (0, 1)] for row in (0, 1)]
    assert cells == [["a", "1.5"], ["b", "nan"]]
    assert [model.headerData(place, qt.Qt.Horizontal) for place in (0, 1)] == ["Name", "How much"]
    heard = []
    rows = view.selectionModel().selectedRows
    view.connect("selectionChanged()", lambda: heard.append([index.row() for index in rows()]))
    view.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
    view.selectRow(1)
    assert heard == [[1]]
    with pytest.raises(TypeError, match="shows table nodes"):
        view.setMRMLTableNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode"))
    view.setMRMLTableNode(None)
    assert view.sortFilterProxyModel().rowCount() == 0


def table_of(columns: dict[str, list[Any]]) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "table")
    for name, values in columns.items():
        column = vtk.vtkStringArray() if isinstance(values[0], str) else vtk.vtkDoubleArray()
        column.SetName(name)
        for each in values:
            column.InsertNextValue(each)
        node.AddColumn(column)
    return node


def test_plot_views_draw_charts_and_refuse_what_slicer_leaves_out() -> None:
    manager = slicer.app.layoutManager()
    before = manager.layout
    view = '<item><view class="vtkMRMLPlotViewNode" singletontag="TestPlot"/></item>'
    manager.layoutLogic().GetLayoutNode().AddLayoutDescription(4713, f'<layout type="horizontal">{view}</layout>')
    manager.setLayout(4713)
    (plot,) = manager.shown_plots()
    assert not colors(plot.draw(80, 60))
    chart = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotChartNode", "chart")
    chart.SetLegendVisibility(False)
    series = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLPlotSeriesNode", "bars")
    series.SetAndObserveTableNodeID(table_of({"Name": ["a", "b"], "Value": [1.0, 3.0]}).GetID())
    series.SetPlotType(series.PlotTypeBar)
    series.SetColor(0.9, 0.1, 0.1)
    series.SetYColumnName("Value")
    chart.AddAndObservePlotSeriesNodeID(series.GetID())
    plot.mrmlPlotViewNode().SetPlotChartNodeID(chart.GetID())
    assert colors(plot.draw(160, 120))
    for wrong in ("Name", "nowhere"):
        series.SetYColumnName(wrong)
        with pytest.raises(ValueError, match=f"'{wrong}' cannot be plotted"):
            plot.draw(80, 60)
    manager.setLayout(before)


def test_color_legends_are_drawn_in_views_that_are_older() -> None:
    """As in Slicer: its displayable manager makes the legend when the node is added."""
    volume = add_volume(np.zeros((10, 40, 40), np.int16), np.diag([-2.0, -2.0, 2.0, 1.0]))
    view = slicer.app.layoutManager().sliceWidget("Red")
    dark = bright(view.draw(200, 200))
    logic = slicer.modules.colors.logic()
    assert logic.AddDefaultColorLegendDisplayNode(volume).GetVisibility()
    assert bright(view.draw(200, 200)) > dark
    slicer.mrmlScene.RemoveNode(logic.GetColorLegendDisplayNode(volume))
    assert bright(view.draw(200, 200)) == dark


def bright(image: Any) -> int:
    """How many pixels are white or nearly so."""
    pixels = (image.pixelColor(x, y) for x in range(image.width()) for y in range(image.height()))
    return sum(pixel.value() > 200 for pixel in pixels)


def test_file_dialogs_are_refused() -> None:
    with pytest.raises(RuntimeError, match="nobody is there"):
        qt.QFileDialog.getSaveFileName(None, "Save", "", "*.csv")


def test_segmentations_are_drawn_over_slices() -> None:
    voxels = np.zeros((10, 40, 40), np.int16)
    volume = add_volume(voxels, np.diag([-2.0, -2.0, 2.0, 1.0]))
    view = slicer.app.layoutManager().sliceWidget("Red")
    assert not colors(view.draw(60, 60))
    mask = voxels.astype(np.uint8)
    mask[:, 10:30, 10:30] = 1
    add_segmentation(mask, volume, {1: "block"})
    assert colors(view.draw(60, 60))


def colors(image: Any) -> bool:
    """Whether any pixel is not grey."""
    pixels = (image.pixelColor(x, y) for x in range(image.width()) for y in range(image.height()))
    return any(pixel.saturation() > 60 and pixel.value() > 30 for pixel in pixels)
