"""Stand-ins for the CTK widgets that the modules use; a widget that is not here cannot be used without noticing."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal


class ctkCollapsibleButton(QtWidgets.QWidget):  # noqa: N801
    """A header that shows and hides what lies below it."""

    contentsCollapsed = Signal(bool)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._header = QtWidgets.QToolButton(self)
        self._header.setObjectName("qt_header")
        self._header.setToolButtonStyle(QtCore.Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self._header.setSizePolicy(QtWidgets.QSizePolicy.Policy.Expanding, QtWidgets.QSizePolicy.Policy.Fixed)
        self._header.clicked.connect(lambda: self._set_collapsed(not self._collapsed))
        self._collapsed = False
        self._show_arrow()
        self.setContentsMargins(0, self._header.sizeHint().height() + 2, 0, 0)

    def _show_arrow(self) -> None:
        arrow = QtCore.Qt.ArrowType.RightArrow if self._collapsed else QtCore.Qt.ArrowType.DownArrow
        self._header.setArrowType(arrow)

    def _get_text(self) -> str:
        return self._header.text

    def _set_text(self, text: str) -> None:
        self._header.setText(text)
        self._header.setMinimumHeight(self._header.sizeHint().height())

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def _set_collapsed(self, collapsed: bool) -> None:
        if collapsed == self._collapsed:
            return
        self._collapsed = collapsed
        for child in self.children():
            if isinstance(child, QtWidgets.QWidget) and child is not self._header:
                child.setVisible(not collapsed)
        self.setMaximumHeight(self._header.sizeHint().height() + 2 if collapsed else 16777215)
        self._show_arrow()
        self.contentsCollapsed.emit(collapsed)

    text = Property(str, _get_text, _set_text)
    collapsed = Property(bool, _get_collapsed, _set_collapsed)

    def showEvent(self, event: Any) -> None:
        """Children made visible by being shown with their parent stay hidden while collapsed."""
        if self._collapsed:
            for child in self.children():
                if isinstance(child, QtWidgets.QWidget) and child is not self._header:
                    child.hide()
        super().showEvent(event)

    def resizeEvent(self, event: Any) -> None:
        """Keep the header across the top."""
        self._header.setGeometry(0, 0, self.width, self._header.sizeHint().height())
        super().resizeEvent(event)


class ctkPathLineEdit(QtWidgets.QWidget):  # noqa: N801
    """A path with a browse button."""

    currentPathChanged = Signal(str)
    Dirs, Files = 0x001, 0x002

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._edit = QtWidgets.QLineEdit(self)
        self._button = QtWidgets.QToolButton(self)
        self._button.setText("...")
        row.addWidget(self._edit)
        row.addWidget(self._button)
        self._edit.textChanged.connect(self.currentPathChanged.emit)
        self._filters = self.Files

    def _get_path(self) -> str:
        return self._edit.text

    def _set_path(self, path: str) -> None:
        self._edit.setText(path)

    def _get_filters(self) -> int:
        return self._filters

    def _set_filters(self, filters: int) -> None:
        self._filters = filters

    currentPath = Property(str, _get_path, _set_path)
    filters = Property(int, _get_filters, _set_filters)


class ctkMessageBox(QtWidgets.QMessageBox):  # noqa: N801
    """A message box; tests never show one (the application is in testing mode)."""


WIDGETS = {cls.__name__: cls for cls in (ctkCollapsibleButton, ctkPathLineEdit, ctkMessageBox)}
