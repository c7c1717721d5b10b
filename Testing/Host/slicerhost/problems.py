"""Collects what Slicer would only print: exceptions in slots, observers, timers and threads; VTK and Qt errors."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import Any

import vtk
from PySide6 import QtCore

# The offscreen platform says this once per resized window; it is about the platform, not about the code under test.
_BENIGN_QT = ("This plugin does not support propagateSizeHints()",)

found: list[str] = []


def install() -> None:
    """Start collecting for the whole process."""
    sys.excepthook = lambda kind, value, trace: _exception("uncaught", kind, value, trace)
    sys.unraisablehook = lambda args: _exception("unraisable", args.exc_type, args.exc_value, args.exc_traceback)
    threading.excepthook = lambda args: _exception("thread", args.exc_type, args.exc_value, args.exc_traceback)
    window = vtk.vtkOutputWindow.GetInstance()
    for event in ("ErrorEvent", "WarningEvent"):
        window.AddObserver(event, _vtk_message)
    QtCore.qInstallMessageHandler(_qt_message)


def take() -> list[str]:
    """Everything found since the last call."""
    taken = list(found)
    found.clear()
    return taken


def _exception(where: str, kind: Any, value: Any, trace: Any) -> None:
    text = f"exception ({where}):\n" + "".join(traceback.format_exception(kind, value, trace))
    found.append(text)
    print(text, file=sys.stderr)


@vtk.calldata_type(vtk.VTK_STRING)
def _vtk_message(_window: Any, event: str, text: str) -> None:
    found.append(f"VTK {event}: {text.strip()}")


def _qt_message(kind: Any, _context: Any, text: str) -> None:
    if kind in (QtCore.QtMsgType.QtDebugMsg, QtCore.QtMsgType.QtInfoMsg) or any(part in text for part in _BENIGN_QT):
        return
    found.append(f"Qt {kind.name}: {text}")
