"""Why a run is not possible now, in words that say what to do."""

from __future__ import annotations

from CTGenLib import geometry, segments
from CTGenLib.labels import DISEASE
from slicer.i18n import tr as _

from . import plans

GENERATE, EDIT, WHAT_IF = range(3)  # what to run: the panel's tabs


def problem(parameters, engine, what: int, rows) -> str:
    """Why a run is not possible now; empty when it is.

    Args:
        parameters: the parameter node.
        engine: from EngineCheck, or None.
        what: GENERATE, EDIT or WHAT_IF.
        rows: segments that are used; see CTGenLib.rows.readRows.
    """
    try:
        text = _editProblem(parameters) if what == EDIT else _inputProblem(parameters, rows)
    except geometry.GeometryError as error:
        return str(error)
    if not text and what == WHAT_IF:
        text = _factorProblem(parameters, rows)
    return text or _engineProblem(parameters, engine)


def _inputProblem(parameters, rows) -> str:
    if not rows and not parameters.report.strip():
        return _("Choose a segmentation, or write a report.")
    plans.targetGrid(parameters)
    if any(row.waiting for row in rows):
        return _("Waiting for the engine to say what the segments stand for.")
    unknown = [row.name for row in rows if row.label is None]
    if unknown:
        more = _(" ({count} more are unknown)").format(count=len(unknown) - 1) if len(unknown) > 1 else ""
        return _("Say what '{name}' stands for, or uncheck it.").format(name=unknown[0]) + more
    return ""


def _factorProblem(parameters, rows) -> str:
    if parameters.factor == "diseases":
        if not any(row.label is not None and row.label.kind == DISEASE for row in rows):
            return _("No segment stands for a disease; there is nothing to leave out.")
        return ""
    if parameters.otherReport.strip() == parameters.report.strip():
        return _("The reports of A and B are the same. Change that of B.")
    return ""


def _editProblem(parameters) -> str:
    if parameters.editVolume is None:
        return _("Choose the CT to change.")
    geometry.checkExportable(parameters.editVolume)
    if parameters.editRegion is None:
        return _("Choose the segmentation that holds the region.")
    if parameters.editSegment not in segments.segmentIds(parameters.editRegion):
        return _("Choose the segment to draw anew.")
    segments.ownGrid(parameters.editRegion)
    return ""


def _engineProblem(parameters, engine) -> str:
    if engine is None or engine.torch is None:
        return _("The engine is not ready; see Engine below.")
    row = engine.generator(parameters.model)
    if row is None:
        return _("The engine does not know the model '{name}'.").format(name=parameters.model)
    if not row["available"]:
        return _("The model '{name}' is not installed.").format(name=parameters.model)
    if parameters.guidance != 1 and not row["guidance"]:
        return _("'{name}' was trained without condition dropout: set Guidance to 1.").format(name=parameters.model)
    return ""
