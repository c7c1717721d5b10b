"""The user's settings, kept by Slicer between sessions."""

from __future__ import annotations

import qt
import slicer

_PYTHON = "CTGen/PythonPath"


def pythonPath() -> str:
    """The interpreter that the user chose; empty: Slicer's own."""
    return slicer.util.settingsValue(_PYTHON, "", converter=str).strip()


def setPythonPath(path: str) -> None:
    """Remember the user's interpreter; empty: Slicer's own."""
    qt.QSettings().setValue(_PYTHON, path.strip())
