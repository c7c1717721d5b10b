"""A host for scripted Slicer modules: Slicer's real MRML libraries (slicer-core) under stand-in widgets (PySide6).

It is not 3D Slicer. Scene, nodes, storage, slice rendering, Qt events, .ui files, processes and timers are real;
PythonQt, qMRML widgets, the application and the base classes of scripted modules are imitated, strictly.
"""

from __future__ import annotations

import importlib
import os
import re
import stat
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

UPSTREAM = "SLICERHOST_SLICER_SOURCE"  # optional: a Slicer source tree whose own Base/Python replaces the stand-ins
_HERE = Path(__file__).resolve().parent


class Host:
    """The running host; :func:`start` makes the only one."""

    def __init__(self) -> None:
        os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
        if sys.platform == "linux":  # without this VTK first asks for an X server, and warns
            os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
        slicer = _slicer_without_leaks()
        from . import ctkwidgets, problems, pythonqt, uifile

        problems.install()
        qt = pythonqt.make_qt_module()
        qt.QUiLoader = uifile.QUiLoader
        sys.modules["qt"] = qt
        ctk = types.ModuleType("ctk")
        for name, cls in ctkwidgets.WIDGETS.items():
            setattr(ctk, name, cls)
        sys.modules["ctk"] = ctk

        from . import application, mrmlwidgets

        for name, cls in mrmlwidgets.WIDGETS.items():
            setattr(slicer, name, cls)
        slicer.qSlicerScriptedLoadableModule = application.ScriptedModule
        uifile.CUSTOM_WIDGETS.update(ctkwidgets.WIDGETS | mrmlwidgets.WIDGETS)
        self.problems, self.slicer = problems, slicer
        self.app = slicer.app = application.Application()
        self.app.start_scene()
        self._add_python_slicer()
        source = os.environ.get(UPSTREAM)
        folder = Path(source) / "Base/Python/slicer" if source else _HERE / "slicer"
        if source:
            _name_other_widgets(folder, {"ctk": ctk, "slicer": slicer})
        slicer.__path__.append(str(folder))

    def _add_python_slicer(self) -> None:
        """Slicer has its interpreter, PythonSlicer, on PATH: here a launcher of this one."""
        folder = Path(self.app.temporaryPath) / "bin"
        folder.mkdir()
        launcher = folder / "PythonSlicer"
        launcher.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
        os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"

    def open_module(self, path: Path) -> Any:
        """Load a scripted module, make its panel, call ``setup`` and ``enter``.

        Args:
            path: the module's .py file.

        Returns:
            The module's widget object.
        """
        name = path.stem
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        python = importlib.import_module(name)
        entry = self.slicer.qSlicerScriptedLoadableModule(str(path))
        manager = self.app.moduleManager()
        manager.modules[name] = entry
        setattr(self.slicer.modules, name.lower(), entry)
        setattr(self.slicer.moduleNames, name, name)
        self.module = getattr(python, name)(entry)
        panel = self.slicer.qSlicerScriptedLoadableModuleWidget()
        widget = getattr(python, f"{name}Widget")(panel)
        panel.python_widget = widget
        entry.set_widget(panel)
        panel.setMRMLScene(self.slicer.mrmlScene)
        panel.resize(440, 900)
        panel.show()
        widget.setup()
        self.enter(widget)
        return widget

    def enter(self, widget: Any) -> None:
        """As if the user came to the module."""
        widget.parent.isEntered = True
        widget.enter()

    def leave(self, widget: Any) -> None:
        """As if the user went to another module."""
        widget.parent.isEntered = False
        widget.exit()

    def close_module(self, widget: Any) -> None:
        """As at the end of the application."""
        name = widget.moduleName
        self.app.moduleManager().aboutToUnload.emit(name)
        widget.parent.hide()
        widget.parent.deleteLater()
        self.process_events()

    def process_events(self) -> None:
        """Let Qt work off what waits, deletions included."""
        from PySide6 import QtCore

        self.app.processEvents()
        QtCore.QCoreApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete)

    def wait(self, done: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Run the event loop until ``done()``.

        Raises:
            TimeoutError: it did not happen in time.
        """
        end = time.monotonic() + timeout_s
        while not done():
            if time.monotonic() > end:
                raise TimeoutError(f"not done within {timeout_s:g} s; problems so far: {self.problems.found}")
            self.app.processEvents()
            time.sleep(0.005)

    def screenshot(self, widget: Any, path: Path) -> None:
        """Save a picture of the panel beside the slice views."""
        from .screenshot import save

        self.process_events()
        save(widget.parent, self.app.layoutManager(), path)


def _name_other_widgets(folder: Path, modules: dict[str, Any]) -> None:
    """Slicer's own Python files name widgets that we do not imitate: they may be compared with, never made."""

    def refuse(self: Any, *_: Any) -> None:
        raise NotImplementedError(f"the test host has no {type(self).__name__}")

    for path in folder.rglob("*.py"):
        for module, name in re.findall(r"\b(ctk|slicer)\.((?:ctk|qMRML|qSlicer)\w+)", path.read_text(encoding="utf-8")):
            if not hasattr(modules[module], name):
                setattr(modules[module], name, type(name, (), {"__init__": refuse}))


def _slicer_without_leaks() -> Any:
    """slicer-core's module, less the names that real Slicer does not have at top level (slicer.loadVolume, ...)."""
    import slicer
    import slicer.util

    for name in dir(slicer):
        if not name.startswith(("vtk", "_")) and name not in ("util", "slicer_core"):
            delattr(slicer, name)
    return slicer


_host: Host | None = None


def start() -> Host:
    """The host of this process."""
    global _host
    if _host is None:
        _host = Host()
    return _host
