"""Slice views: MRML's own slice logics drawn by VTK into offscreen windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from PySide6 import QtGui
from vtk.util.numpy_support import vtk_to_numpy

ORIENTATIONS = {"Red": "Axial", "Green": "Coronal", "Yellow": "Sagittal"}


class SliceWidget:
    """One slice view."""

    def __init__(self, logic: Any) -> None:
        self._logic = logic

    def sliceLogic(self) -> Any:
        """The real vtkMRMLSliceLogic."""
        return self._logic

    def mrmlSliceNode(self) -> Any:
        """Its slice node."""
        return self._logic.GetSliceNode()


class LayoutManager:
    """The three slice views of the conventional layout."""

    def __init__(self, application_logic: Any) -> None:
        self._logics = vtk.vtkCollection()
        self._widgets: dict[str, SliceWidget] = {}
        application_logic.SetSliceLogics(self._logics)
        for name, orientation in ORIENTATIONS.items():
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(application_logic)
            logic.SetMRMLScene(slicer.mrmlScene)
            node = logic.AddSliceNode(name)
            node.SetOrientation(orientation)
            self._logics.AddItem(logic)
            self._widgets[name] = SliceWidget(logic)

    def sliceViewNames(self) -> tuple[str, ...]:
        """Red, Green, Yellow."""
        return tuple(self._widgets)

    def sliceWidget(self, name: str) -> SliceWidget:
        """One of them."""
        return self._widgets[name]

    def mrmlSliceLogics(self) -> Any:
        """All slice logics."""
        return self._logics

    def resetSliceViews(self) -> None:
        """Fit every view to what it shows."""
        for widget in self._widgets.values():
            node = widget.mrmlSliceNode()
            widget.sliceLogic().FitSliceToAll(*node.GetDimensions()[:2])


def draw_slice(logic: Any, width: int, height: int) -> QtGui.QImage:
    """Render one slice view.

    Args:
        logic: vtkMRMLSliceLogic.
        width, height: pixels.

    Returns:
        The picture; black when the view shows no volume.
    """
    node = logic.GetSliceNode()
    if tuple(node.GetDimensions()[:2]) != (width, height):
        node.SetDimensions(width, height, 1)
        logic.FitSliceToAll(width, height)
    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetSize(width, height)
    renderer = vtk.vtkRenderer()
    window.AddRenderer(renderer)
    if logic.GetSliceCompositeNode().GetBackgroundVolumeID():
        logic.UpdatePipeline()
        mapper = vtk.vtkImageMapper()
        mapper.SetInputConnection(logic.GetImageDataConnection())
        mapper.SetColorWindow(255)
        mapper.SetColorLevel(127.5)
        actor = vtk.vtkActor2D()
        actor.SetMapper(mapper)
        renderer.AddViewProp(actor)
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    columns, rows, _ = image.GetDimensions()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, 3)[::-1]
    pixels = np.ascontiguousarray(pixels)
    return QtGui.QImage(pixels.data, columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888).copy()
