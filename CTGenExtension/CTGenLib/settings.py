"""The user's settings, kept by Slicer between sessions."""

from __future__ import annotations

import json

import qt
import slicer

_PYTHON = "CTGen/PythonPath"
_REPORTS = "CTGen/Reports"
_AUGMENT_OUTPUT = "CTGen/AugmentOutput"
REPORTS_KEPT = 20


def pythonPath() -> str:
    """The interpreter that the user chose; empty: Slicer's own."""
    return slicer.util.settingsValue(_PYTHON, "", converter=str).strip()


def setPythonPath(path: str) -> None:
    """Remember the user's interpreter; empty: Slicer's own."""
    qt.QSettings().setValue(_PYTHON, path.strip())


def augmentOutput() -> str:
    """The folder of the last augmentation that was not finished; empty: there is none."""
    return slicer.util.settingsValue(_AUGMENT_OUTPUT, "", converter=str)


def setAugmentOutput(folder: str) -> None:
    """Remember where an augmentation goes on after Slicer was started again; empty: nowhere."""
    qt.QSettings().setValue(_AUGMENT_OUTPUT, folder)


def reports() -> list[str]:
    """Reports of earlier runs, the latest first."""
    try:
        texts = json.loads(slicer.util.settingsValue(_REPORTS, "[]", converter=str))
    except ValueError:  # written by something else
        return []
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else []


def rememberReport(text: str) -> None:
    """Put a report to the top; an empty one is not worth it."""
    text = text.strip()
    if text:
        kept = [text, *(other for other in reports() if other != text)][:REPORTS_KEPT]
        qt.QSettings().setValue(_REPORTS, json.dumps(kept))


def forgetReports() -> None:
    """Forget them all."""
    qt.QSettings().remove(_REPORTS)
