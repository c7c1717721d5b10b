"""Pictures of a module panel beside real slice views, captioned as what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtGui

from .views import ORIENTATIONS, draw_slice

CAPTION = "host-rendered (not 3D Slicer)"
_COLORS = {"Red": "#f34a33", "Green": "#6eb04b", "Yellow": "#edd54c"}
_VIEW, _BAR, _CAPTION = 300, 18, 22


def save(panel: Any, layout_manager: Any, path: Path) -> None:
    """Draw panel and views into a PNG.

    Args:
        panel: the module's QWidget.
        layout_manager: the host's.
        path: file to write; its folder is made.
    """
    picture = panel.grab()
    names = list(ORIENTATIONS)
    height = max(picture.height(), (_VIEW + _BAR) * len(names)) + _CAPTION
    canvas = QtGui.QImage(picture.width() + _VIEW, height, QtGui.QImage.Format.Format_RGB32)
    canvas.fill(QtGui.QColor("#202020"))
    painter = QtGui.QPainter(canvas)
    painter.drawPixmap(0, 0, picture)
    for row, name in enumerate(names):
        top = row * (_VIEW + _BAR)
        painter.fillRect(picture.width(), top, _VIEW, _BAR, QtGui.QColor(_COLORS[name]))
        painter.setPen(QtGui.QColor("black"))
        area = QtCore.QRect(picture.width() + 6, top, _VIEW, _BAR)
        painter.drawText(area, QtCore.Qt.AlignmentFlag.AlignVCenter, ORIENTATIONS[name])
        view = draw_slice(layout_manager.sliceWidget(name).sliceLogic(), _VIEW, _VIEW)
        painter.drawImage(picture.width(), top + _BAR, view)
    painter.setPen(QtGui.QColor("white"))
    area = QtCore.QRect(6, height - _CAPTION, canvas.width() - 12, _CAPTION)
    painter.drawText(area, QtCore.Qt.AlignmentFlag.AlignVCenter, CAPTION)
    painter.end()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not canvas.save(str(path)):
        raise OSError(f"cannot write {path}")
