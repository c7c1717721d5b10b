"""Slice views: MRML's own slice logics drawn by VTK into offscreen windows."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from PySide6 import QtGui
from vtk.util.numpy_support import vtk_to_numpy


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
    """MRML's own layout logic, and a slice logic for every slice view that a layout has."""

    def __init__(self, application_logic: Any) -> None:
        self._application_logic = application_logic
        self._logics = vtk.vtkCollection()
        self._widgets: dict[str, SliceWidget] = {}
        application_logic.SetSliceLogics(self._logics)
        self._layout_logic = slicer.vtkMRMLLayoutLogic()
        self._layout_logic.SetMRMLScene(slicer.mrmlScene)
        self.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)

    def layoutLogic(self) -> Any:
        """The real vtkMRMLLayoutLogic."""
        return self._layout_logic

    def setLayout(self, layout: int) -> None:
        """Show a layout, built-in or added to the layout node.

        Raises:
            ValueError: there is no such layout; Slicer would show nothing and say so in its log.
        """
        node = self._layout_logic.GetLayoutNode()
        if layout != slicer.vtkMRMLLayoutNode.SlicerLayoutNone and not node.IsLayoutDescription(layout):
            raise ValueError(f"there is no layout {layout}")
        node.SetViewArrangement(layout)
        for slice_node in self._shown():
            if slice_node.GetLayoutName() not in self._widgets:
                logic = slicer.vtkMRMLSliceLogic()
                logic.SetMRMLApplicationLogic(self._application_logic)
                logic.SetMRMLScene(slicer.mrmlScene)
                logic.SetSliceNode(slice_node)
                self._logics.AddItem(logic)
                self._widgets[slice_node.GetLayoutName()] = SliceWidget(logic)

    @property
    def layout(self) -> int:
        """Number of the layout that is shown."""
        return self._layout_logic.GetLayoutNode().GetViewArrangement()

    def _shown(self) -> list[Any]:
        """Slice nodes of the layout, in reading order."""
        nodes = self._layout_logic.GetViewNodes()
        every = [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]
        return [node for node in every if node.IsA("vtkMRMLSliceNode")]

    def shown_views(self) -> list[str]:
        """Names of the slice views that the layout shows."""
        return [node.GetLayoutName() for node in self._shown()]

    def sliceViewNames(self) -> tuple[str, ...]:
        """Every slice view that there is, shown or not."""
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
    group = _segmentations(logic, window, renderer)
    window.Render()
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    columns, rows, _ = image.GetDimensions()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, 3)[::-1]
    pixels = np.ascontiguousarray(pixels)
    group.SetMRMLDisplayableNode(None)
    return QtGui.QImage(pixels.data, columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888).copy()


def _segmentations(logic: Any, window: Any, renderer: Any) -> Any:
    """Have MRML's own displayable manager draw the segmentations into a slice view."""
    interactor = vtk.vtkGenericRenderWindowInteractor()  # the manager asks it for events
    interactor.SetRenderWindow(window)
    manager = slicer.vtkMRMLSegmentationsDisplayableManager2D()
    manager.SetMRMLApplicationLogic(slicer.app.applicationLogic())
    group = slicer.vtkMRMLDisplayableManagerGroup()
    group.SetRenderer(renderer)
    group.AddDisplayableManager(manager)
    group.SetMRMLDisplayableNode(logic.GetSliceNode())
    return group
