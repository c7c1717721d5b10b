"""What the panel and the views show of the parameters; nothing here changes them."""

from __future__ import annotations

from typing import Any

import slicer
from CTGenLib import geometry, segments
from CTGenLib.runfolder import WINDOWS
from CTGenLib.sections import fillBox
from slicer.i18n import tr as _

from . import plans
from .problems import WHAT_IF

SOLVERS = ("ddim", "dpm++", "unipc")


def show(ui: Any, parameters, engineSection) -> None:
    """Bring all widgets up to date that are not bound to a parameter.

    Args:
        ui: the module's widgets.
        parameters: the parameter node.
        engineSection: knows the engine and its devices.
    """
    engine = engineSection.engine
    rows = engine.generators if engine else []
    fillBox(ui.modelBox, [(_title(row), row["name"]) for row in rows], parameters.model)
    fillBox(ui.deviceBox, engineSection.deviceItems(), parameters.device)
    fillBox(ui.solverBox, [(name, name) for name in SOLVERS], parameters.solver)
    factors = ((_("the report"), "report"), (_("with or without the disease segments"), "diseases"))
    fillBox(ui.factorBox, factors, parameters.factor)
    windows = {"lung": _("lung"), "soft": _("soft tissue"), "bone": _("bone")}
    fillBox(ui.windowBox, [(windows[name], name) for name in WINDOWS], parameters.window)
    items = _segmentItems(parameters.editRegion)
    known = parameters.editSegment in [segmentId for _name, segmentId in items]
    fillBox(ui.editSegmentBox, items, parameters.editSegment if known else "")
    if ui.otherReportText.plainText != parameters.otherReport:
        ui.otherReportText.setPlainText(parameters.otherReport)
    for widget in (ui.otherReportText, ui.otherReportTextLabel):
        widget.setVisible(parameters.factor == "report")
    row = engine.generator(parameters.model) if engine else None
    ui.variantsBox.enabled = ui.tabs.currentIndex != WHAT_IF
    ui.guidanceBox.enabled = bool(row is None or row["guidance"] or parameters.guidance != 1)
    ui.modelInfoLabel.text = _modelInfo(row)
    ui.gridInfoLabel.text = gridInfo(parameters)


def showVolume(volume) -> None:
    """Show a new volume in all slice views, fitted if they were empty."""
    manager = slicer.app.layoutManager()
    if manager is not None:
        composite = manager.sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
        empty = not composite.GetBackgroundVolumeID()
        slicer.util.setSliceViewerLayers(background=volume, foreground=None, fit=empty)


def showFill(segmentation, filled: bool) -> None:
    """Show a segmentation in slices with its fill, or its outlines only."""
    if segmentation is not None and segmentation.GetDisplayNode() is not None:
        segmentation.GetDisplayNode().SetVisibility2DFill(filled)


def gridInfo(parameters) -> str:
    """The grid of a new CT in words, or why there is none."""
    try:
        grid = plans.targetGrid(parameters)
    except geometry.GeometryError as error:
        return str(error)
    if grid is None:
        return _("The new CT gets the model's own grid.")
    return _("The new CT: {size} voxels of {spacing} mm").format(
        size=" x ".join(str(count) for count in grid.size),
        spacing=" x ".join(f"{length:.3g}" for length in grid.spacing()),
    )


def _title(row: dict[str, Any]) -> str:
    return row["title"] if row["available"] else _("{title} (not installed)").format(title=row["title"])


def _modelInfo(row: dict[str, Any] | None) -> str:
    if row is None:
        return _("Details appear when the engine has been checked.")
    text = _("{description} License: {license}.").format(description=row["description"], license=row["license"])
    return text if row["available"] else f"{text}\n{row['why']}"


def _segmentItems(segmentation) -> list[tuple[str, str]]:
    if segmentation is None:
        return []
    every = segmentation.GetSegmentation()
    return [(every.GetSegment(segmentId).GetName(), segmentId) for segmentId in segments.segmentIds(segmentation)]
