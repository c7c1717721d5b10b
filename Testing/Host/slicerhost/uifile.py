"""Loads .ui files as Slicer does, and refuses unknown classes, properties, signals and slots."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from PySide6 import QtCore, QtUiTools

from . import pythonqt

CUSTOM_WIDGETS: dict[str, type] = {}


class _Builder(QtUiTools.QUiLoader):
    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        if class_name in CUSTOM_WIDGETS:
            widget = CUSTOM_WIDGETS[class_name](parent)
            widget.setObjectName(name)
            return widget
        return super().createWidget(class_name, parent, name)


class QUiLoader:
    """What ``slicer.util.loadUI`` uses."""

    def load(self, file: QtCore.QFile) -> Any:
        """The widget tree of an open .ui file."""
        tree = ElementTree.fromstring(bytes(file.readAll().data()))
        connections = tree.find("connections")
        for tag in ("customwidgets", "connections"):
            part = tree.find(tag)
            if part is not None:
                tree.remove(part)
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(tree))
        buffer.open(QtCore.QBuffer.OpenModeFlag.ReadOnly)
        builder = _Builder()
        for element in tree.iter("widget"):
            if element.get("class") not in {*CUSTOM_WIDGETS, *builder.availableWidgets()}:
                raise ValueError(f".ui file: unknown widget class '{element.get('class')}' of '{element.get('name')}'")
        top = builder.load(buffer)
        if top is None:
            raise ValueError(f".ui file: {builder.errorString()}")
        widgets = {widget.objectName: widget for widget in [top, *top.findChildren(QtCore.QObject)]}
        _check_properties(tree, widgets)
        for connection in connections if connections is not None else []:
            _connect(connection, widgets)
        return top


def _check_properties(tree: ElementTree.Element, widgets: dict[str, Any]) -> None:
    for element in tree.iter("widget"):
        meta = widgets[element.get("name")].metaObject()
        for entry in element.findall("property"):
            if entry.get("name") == "buddy":  # not a Q_PROPERTY: Designer's word for QLabel.setBuddy
                if entry.findtext("cstring") not in widgets:
                    raise ValueError(f".ui file: buddy '{entry.findtext('cstring')}' does not exist")
            elif entry.get("stdset") != "0" and meta.indexOfProperty(entry.get("name")) < 0:
                raise ValueError(
                    f".ui file: {element.get('class')} '{element.get('name')}' has no property '{entry.get('name')}'"
                )


def _connect(connection: ElementTree.Element, widgets: dict[str, Any]) -> None:
    sender, signal, receiver, slot = (connection.findtext(tag) for tag in ("sender", "signal", "receiver", "slot"))
    for name in (sender, receiver):
        if name not in widgets:
            raise ValueError(f".ui file: connection names unknown widget '{name}'")
    target = getattr(widgets[receiver], slot.split("(")[0], None)
    if not callable(target):
        raise ValueError(f".ui file: {receiver} has no slot '{slot}'")
    pythonqt.connect(widgets[sender], signal, target)
