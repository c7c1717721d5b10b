"""Stand-in for qMRMLTableView over the real vtkMRMLTableNode."""

from __future__ import annotations

from typing import Any

import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Signal


class qMRMLTableView(QtWidgets.QTableView):  # noqa: N801
    """Shows a table node as text, one model row per table row, behind a proxy model as Slicer has it."""

    cellsSelected = Signal()
    SIGNAL_ALIASES = {"selectionChanged()": "cellsSelected"}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._observed: list[tuple[Any, int]] = []
        self._model = QtGui.QStandardItemModel(self)
        self._proxy = QtCore.QSortFilterProxyModel(self)
        self._proxy.setSourceModel(self._model)
        self.setModel(self._proxy)
        observed = self._observed
        self.destroyed.connect(lambda: _forget(observed))

    def setMRMLScene(self, scene: Any) -> None:
        """Slicer needs it for view nodes only."""

    def setMRMLTableNode(self, node: Any) -> None:
        """Show a table node or nothing."""
        if node is not None and not node.IsA("vtkMRMLTableNode"):
            raise TypeError(f"qMRMLTableView shows table nodes; got {node.GetClassName()}")
        _forget(self._observed)
        self._node = node
        if node is not None:
            tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda caller, event: self._fill())
            self._observed.append((node, tag))
        self._fill()
        self.horizontalHeader().setMinimumSectionSize(60)
        self.resizeColumnsToContents()

    def mrmlTableNode(self) -> Any:
        """The node, or None."""
        return self._node

    def tableModel(self) -> Any:
        """The model behind the proxy."""
        return self._model

    def sortFilterProxyModel(self) -> Any:
        """The model that the view shows."""
        return self._proxy

    def selectionChanged(self, selected: Any, deselected: Any) -> None:
        """Qt's notification; Slicer makes it a signal."""
        super().selectionChanged(selected, deselected)
        self.cellsSelected.emit()

    def _fill(self) -> None:
        node = self._node
        if node is None or node.GetNumberOfColumns() == 0:
            self._model.clear()
            return
        if not node.GetUseColumnTitleAsColumnHeader() or node.GetUseFirstColumnAsRowHeader():
            raise NotImplementedError("the test host shows column titles as header, and no row header")
        table = node.GetTable()
        self._model.setRowCount(table.GetNumberOfRows())
        self._model.setColumnCount(table.GetNumberOfColumns())
        for column in range(table.GetNumberOfColumns()):
            name = table.GetColumnName(column)
            title = node.GetColumnTitle(name) or name
            self._model.setHeaderData(column, QtCore.Qt.Orientation.Horizontal, title)
            for row in range(table.GetNumberOfRows()):
                item = QtGui.QStandardItem(table.GetValue(row, column).ToString())
                item.setEditable(not node.GetLocked())
                self._model.setItem(row, column, item)


def _forget(observed: list[tuple[Any, int]]) -> None:
    while observed:
        node, tag = observed.pop()
        node.RemoveObserver(tag)
