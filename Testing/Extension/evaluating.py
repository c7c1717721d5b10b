"""What the tests of CTGenEvaluate read from its results, and write for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qt
import slicer
import vtk

NAMES_OF_ENGINE = ("left lung upper lobe", "right lung upper lobe", "aorta", "liver", "body", "vertebrae T9")


def array(node: Any) -> np.ndarray:
    return slicer.util.arrayFromVolume(node)


def column(node: Any, name: str) -> list[str]:
    return [node.GetTable().GetValueByName(row, name).ToString() for row in range(node.GetNumberOfRows())]


def value(node: Any, recipe: str, region: str = "all") -> float:
    return node.GetTable().GetValueByName(row_of(node, recipe, region), "Value").ToDouble()


def row_of(node: Any, recipe: str, region: str = "all") -> int:
    """The only row of a metric and a region."""
    pairs = list(zip(column(node, "Recipe"), column(node, "Region"), strict=True))
    assert pairs.count((recipe, region)) == 1, f"{recipe} in {region}: {pairs.count((recipe, region))} rows"
    return pairs.index((recipe, region))


def measured(panel: Any) -> dict[str, str]:
    """Title in the list of metrics -> whether it can be measured."""
    cells = panel.ui.metricTable
    return {cells.item(row, 0).text(): cells.item(row, 2).text() for row in range(cells.rowCount)}


def click_row(panel: Any, row: int) -> None:
    panel.ui.resultView.selectRow(row)


def center_of(view: str) -> np.ndarray:
    """What a slice view looks at, RAS mm."""
    node = slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode()
    return slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())[:3, 3]


def ijk(volume: Any, position: np.ndarray) -> np.ndarray:
    matrix = vtk.vtkMatrix4x4()
    volume.GetRASToIJKMatrix(matrix)
    return (slicer.util.arrayFromVTKMatrix(matrix) @ [*position, 1.0])[:3]


def save_to(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Answer the file dialog, as PythonQt does: with one text."""
    monkeypatch.setattr(qt.QFileDialog, "getSaveFileName", staticmethod(lambda *arguments: str(path)))


def check_colors(errors: Any) -> None:
    """Too low is blue, right is black, too high is orange."""
    table = errors.GetDisplayNode().GetColorNode()
    low, right, high = (table.GetLookupTable().GetTableValue(index)[:3] for index in (40, 127, 215))
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert max(right) < 0.05


def check_chart(node: Any, chart: Any, recipe: str, sign: int | None) -> None:
    """One bar per organ with the table's number, the worst first."""
    bars = {}
    for number in range(chart.GetNumberOfPlotSeriesNodes()):
        series = chart.GetNthPlotSeriesNode(number)
        bars[series.GetName()] = series.GetTableNode().GetTable().GetValueByName(0, series.GetYColumnName()).ToDouble()
    assert set(bars) == set(NAMES_OF_ENGINE)
    for region, height in bars.items():
        assert height == pytest.approx(value(node, recipe, region), rel=1e-4)
    badness = [abs(height) if sign is None else -sign * height for height in bars.values()]
    assert badness == sorted(badness, reverse=True)


def assert_voxel_plane(volume: Any, view: str) -> None:
    """The view lies along two voxel axes."""
    node = slicer.app.layoutManager().sliceWidget(view).mrmlSliceNode()
    normal = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())[:3, 2]
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    axis = slicer.util.arrayFromVTKMatrix(matrix)[:3, 2]
    assert abs(normal @ axis) / np.linalg.norm(axis) == pytest.approx(1.0, abs=1e-6)


def contents(node: Any) -> list[str]:
    """Names of everything in the folder that holds a node."""
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    ids: list[int] = []
    tree.GetItemChildren(tree.GetItemParent(tree.GetItemByDataNode(node)), ids)
    return [tree.GetItemName(item) for item in ids]


def load_scene(path: Path) -> None:
    folder = path.parent / "unpacked"
    folder.mkdir()
    assert slicer.vtkMRMLApplicationLogic().UnpackSlicerDataBundle(str(path), str(folder))
    slicer.mrmlScene.SetURL(str(next(folder.rglob("*.mrml"))))
    assert slicer.mrmlScene.Import()


def write(voxels: np.ndarray, path: Path, spacing: float) -> None:
    import SimpleITK as sitk

    path.parent.mkdir(exist_ok=True)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((5.6, 5.6, spacing))
    sitk.WriteImage(image, str(path))
