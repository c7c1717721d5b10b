"""Slice views: MRML's own slice logics and displayable managers, drawn by VTK into offscreen windows."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

import numpy as np
import slicer
import vtk
from PySide6 import QtGui
from vtk.util.numpy_support import vtk_to_numpy

from .plots import PlotWidget


class SliceWidget:
    """One slice view.

    Args:
        logic: vtkMRMLSliceLogic.
        application_logic: what displayable managers ask for the views.
    """

    def __init__(self, logic: Any, application_logic: Any) -> None:
        self._logic, self._application_logic = logic, application_logic
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()  # the managers ask it for events
        self._interactor.SetRenderWindow(self._window)
        self._base = self._add_renderer()
        # As in Slicer it lives as long as the view: a legend that is older than its view stays invisible.
        self._legends = self._manage("vtkMRMLColorLegendDisplayableManager", self._base)

    def _add_renderer(self) -> Any:
        renderer = vtk.vtkRenderer()
        self._window.AddRenderer(renderer)
        return renderer

    def _manage(self, manager_name: str, renderer: Any) -> Any:
        """Have one of MRML's displayable managers draw into a renderer."""
        group = slicer.vtkMRMLDisplayableManagerGroup()
        group.SetRenderer(renderer)
        manager = getattr(slicer, manager_name)()
        manager.SetMRMLApplicationLogic(self._application_logic)
        group.AddDisplayableManager(manager)
        group.SetMRMLDisplayableNode(self.mrmlSliceNode())
        return group

    def sliceLogic(self) -> Any:
        """The real vtkMRMLSliceLogic."""
        return self._logic

    def mrmlSliceNode(self) -> Any:
        """Its slice node."""
        return self._logic.GetSliceNode()

    def draw(self, width: int, height: int) -> QtGui.QImage:
        """Render the view; black when it shows no volume."""
        node = self.mrmlSliceNode()
        if tuple(node.GetDimensions()[:2]) != (width, height):
            node.SetDimensions(width, height, 1)
            self._logic.FitSliceToAll(width, height)
        self._window.SetSize(width, height)
        self._window.RemoveRenderer(self._base)
        self._base = self._add_renderer()
        if self._logic.GetSliceCompositeNode().GetBackgroundVolumeID():
            self._logic.UpdatePipeline()
            mapper = vtk.vtkImageMapper()
            mapper.SetInputConnection(self._logic.GetImageDataConnection())
            mapper.SetColorWindow(255)
            mapper.SetColorLevel(127.5)
            image = vtk.vtkActor2D()
            image.SetMapper(mapper)
            self._base.AddViewProp(image)
        segmentations = self._manage("vtkMRMLSegmentationsDisplayableManager2D", self._base)
        self._window.Render()
        shown = picture(self._window)
        segmentations.SetMRMLDisplayableNode(None)
        return shown


def picture(window: Any) -> QtGui.QImage:
    """What a render window shows."""
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.Update()
    image = grabber.GetOutput()
    columns, rows, _ = image.GetDimensions()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(rows, columns, 3)[::-1]
    pixels = np.ascontiguousarray(pixels)
    return QtGui.QImage(pixels.data, columns, rows, 3 * columns, QtGui.QImage.Format.Format_RGB888).copy()


class LayoutManager:
    """MRML's own layout logic, and a slice logic for every slice view that a layout has."""

    def __init__(self, application_logic: Any) -> None:
        self._application_logic = application_logic
        self._logics = vtk.vtkCollection()
        self._widgets: dict[str, SliceWidget] = {}
        self._plots: dict[str, PlotWidget] = {}
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
        for view in self._shown("vtkMRMLSliceNode"):
            if view.GetLayoutName() not in self._widgets:
                logic = slicer.vtkMRMLSliceLogic()
                logic.SetMRMLApplicationLogic(self._application_logic)
                logic.SetMRMLScene(slicer.mrmlScene)
                logic.SetSliceNode(view)
                self._logics.AddItem(logic)
                self._widgets[view.GetLayoutName()] = SliceWidget(logic, self._application_logic)
        for view in self._shown("vtkMRMLPlotViewNode"):
            self._plots[view.GetLayoutName()] = PlotWidget(view)

    @property
    def layout(self) -> int:
        """Number of the layout that is shown."""
        return self._layout_logic.GetLayoutNode().GetViewArrangement()

    def _shown(self, class_name: str) -> list[Any]:
        """View nodes of the layout, in reading order."""
        nodes = self._layout_logic.GetViewNodes()
        every = [nodes.GetItemAsObject(index) for index in range(nodes.GetNumberOfItems())]
        return [node for node in every if node.IsA(class_name)]

    def shown_views(self) -> list[str]:
        """Names of the slice views that the layout shows."""
        return [node.GetLayoutName() for node in self._shown("vtkMRMLSliceNode")]

    def columns(self) -> int:
        """How many slice views stand side by side, where the layout has nothing but rows of them; else 0."""
        description = self._layout_logic.GetLayoutNode().GetCurrentLayoutDescription()
        layouts = [
            each for each in ElementTree.fromstring(description).iter("layout") if each.get("type") == "horizontal"
        ]
        rows = [[view.get("class") for view in layout.findall("item/view")] for layout in layouts]
        grid = len(rows) > 1 and {name for row in rows for name in row} == {"vtkMRMLSliceNode"}
        return max(map(len, rows)) if grid else 0

    def shown_plots(self) -> list[PlotWidget]:
        """The plot views that the layout shows."""
        return [self._plots[node.GetLayoutName()] for node in self._shown("vtkMRMLPlotViewNode")]

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
