"""Pictures of a module panel beside real slice views, captioned as what they are."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

CAPTION = "host-rendered (not 3D Slicer)"
_VIEW, _BAR, _CAPTION, _HEIGHT = 300, 18, 22, 900
_PLOT = 420


def save(panel: Any, layout_manager: Any, path: Path) -> None:
    """Draw panel and views into a PNG.

    Args:
        panel: the module's QWidget.
        layout_manager: the host's.
        path: file to write; its folder is made.
    """
    layout = panel.layout()  # Slicer has the panel in a scroll area: it gets the height that it asks for
    layout.activate()
    panel.resize(panel.width, max(_HEIGHT, layout.totalHeightForWidth(panel.width), layout.totalMinimumSize().height()))
    QtWidgets.QApplication.processEvents()
    picture = panel.grab()
    names, plots = layout_manager.shown_views(), layout_manager.shown_plots()
    rows = 1 if plots else math.ceil(picture.height() / (_VIEW + _BAR))
    columns = layout_manager.columns() or max(1, math.ceil(len(names) / rows))
    below = (_VIEW + _BAR) * math.ceil(len(names) / columns)
    height = max(picture.height(), below + _PLOT * len(plots)) + _CAPTION
    canvas = QtGui.QImage(picture.width() + _VIEW * columns, height, QtGui.QImage.Format.Format_RGB32)
    canvas.fill(QtGui.QColor("#202020"))
    painter = QtGui.QPainter(canvas)
    painter.drawPixmap(0, 0, picture)
    for place, name in enumerate(names):
        node = layout_manager.sliceWidget(name).mrmlSliceNode()
        left, top = picture.width() + (place % columns) * _VIEW, (place // columns) * (_VIEW + _BAR)
        color = QtGui.QColor.fromRgbF(*node.GetLayoutColor())
        painter.fillRect(left, top, _VIEW, _BAR, color)
        painter.setPen(QtGui.QColor("black"))
        area = QtCore.QRect(left + 6, top, _VIEW, _BAR)
        text = f"{node.GetLayoutLabel()}: {_shown(layout_manager.sliceWidget(name).sliceLogic())}"
        painter.drawText(area, QtCore.Qt.AlignmentFlag.AlignVCenter, text)
        view = layout_manager.sliceWidget(name).draw(_VIEW, _VIEW)
        painter.drawImage(left, top + _BAR, view)
    for place, plot in enumerate(plots):
        painter.drawImage(picture.width(), below + place * _PLOT, plot.draw(_VIEW * columns, _PLOT))
    painter.setPen(QtGui.QColor("white"))
    area = QtCore.QRect(6, height - _CAPTION, canvas.width() - 12, _CAPTION)
    painter.drawText(area, QtCore.Qt.AlignmentFlag.AlignVCenter, CAPTION)
    painter.end()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not canvas.save(str(path)):
        raise OSError(f"cannot write {path}")


def _shown(logic: Any) -> str:
    """Orientation and volumes of a view."""
    names = [logic.GetSliceNode().GetOrientation()]
    for layer in (logic.GetBackgroundLayer(), logic.GetForegroundLayer()):
        volume = layer.GetVolumeNode() if layer is not None else None
        if volume is not None:
            names.append(volume.GetName())
    return ", ".join(names)
