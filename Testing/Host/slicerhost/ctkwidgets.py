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


class ctkSliderWidget(QtWidgets.QWidget):  # noqa: N801
    """A slider with a spin box; both always show the same value."""

    valueChanged = Signal(float)
    SIGNAL_ALIASES = {"valueChanged(double)": "valueChanged"}

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        self._box = QtWidgets.QDoubleSpinBox(self)
        row.addWidget(self._slider)
        row.addWidget(self._box)
        self._slider.valueChanged.connect(lambda place: self._box.setValue(place / self._unit()))
        self._box.valueChanged.connect(self._changed)
        self._fit()

    def _unit(self) -> float:
        return 10.0**self._box.decimals

    def _fit(self) -> None:
        """Let the slider have a place for every value of the box."""
        value = self._box.value
        self._slider.blockSignals(True)
        self._slider.setRange(round(self._box.minimum * self._unit()), round(self._box.maximum * self._unit()))
        self._slider.setSingleStep(max(1, round(self._box.singleStep * self._unit())))
        self._slider.setValue(round(value * self._unit()))
        self._slider.blockSignals(False)

    def _changed(self, value: float) -> None:
        self._fit()
        self.valueChanged.emit(value)

    def _of_box(name: str) -> Any:  # noqa: N805
        def get(self: Any) -> float:
            return float(getattr(self._box, name))

        def put(self: Any, value: float) -> None:
            setattr(self._box, name, value)
            self._fit()

        return Property(float, get, put)

    def setValue(self, value: float) -> None:
        """Move both."""
        self._box.setValue(value)

    def _get_page_step(self) -> float:
        return self._slider.pageStep / self._unit()

    def _set_page_step(self, step: float) -> None:
        self._slider.setPageStep(round(step * self._unit()))

    def _get_decimals(self) -> int:
        return self._box.decimals

    def _set_decimals(self, decimals: int) -> None:
        self._box.setDecimals(decimals)
        self._fit()

    def _get_suffix(self) -> str:
        return self._box.suffix

    def _set_suffix(self, suffix: str) -> None:
        self._box.setSuffix(suffix)

    value, singleStep = _of_box("value"), _of_box("singleStep")
    minimum, maximum = _of_box("minimum"), _of_box("maximum")
    pageStep = Property(float, _get_page_step, _set_page_step)
    decimals = Property(int, _get_decimals, _set_decimals)
    suffix = Property(str, _get_suffix, _set_suffix)


class ctkMessageBox(QtWidgets.QMessageBox):  # noqa: N801
    """A message box; tests never show one (the application is in testing mode)."""


WIDGETS = {cls.__name__: cls for cls in (ctkCollapsibleButton, ctkPathLineEdit, ctkSliderWidget, ctkMessageBox)}
