"""Results in the panel: table, verdict, remarks, chart, the way to the worst slices, exports."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import qt
import slicer
from CTGenLib import errormap
from CTGenLib.compare import CompareLayout
from CTGenLib.rows import Row
from CTGenLib.sections import RunSection, fillBox
from slicer.i18n import tr as _

from . import chart, export, panel, results, table


class ResultSection:
    """Shows one evaluation.

    Args:
        ui: the module's widgets (resultView, verdictLabel, remarksLabel, plotBox, and the buttons below them).
        run: where to say and log what happens.
        readOrgans: gives the rows of a label source; see CTGenLib.rows.readRows.

    Attributes:
        compare: the layout for looking at volumes side by side.
        page: the export that runs, or None.
    """

    def __init__(self, ui: Any, run: RunSection, readOrgans: Callable[[Any], list[Row]]) -> None:
        self.ui, self._run, self._readOrgans = ui, run, readOrgans
        self.compare = CompareLayout()
        self.page: export.PageExport | None = None
        self._node = self._engine = None
        ui.resultSelector.addAttribute("vtkMRMLTableNode", table.ATTRIBUTE)
        view = ui.resultView
        view.verticalHeader().setVisible(False)
        view.verticalHeader().setDefaultSectionSize(22)
        view.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        view.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        view.connect("selectionChanged()", self.onRow)
        view.connect("clicked(QModelIndex)", self.onRow)  # again on the same row, after the user has scrolled away
        ui.plotBox.connect("activated(int)", self.onPlotBox)
        ui.compareButton.connect("clicked(bool)", self.onCompareButton)
        ui.restoreButton.connect("clicked(bool)", self.onRestoreButton)
        ui.csvButton.connect("clicked(bool)", self.onCsvButton)
        ui.pageButton.connect("clicked(bool)", self.onPageButton)

    def show(self, node, engine) -> None:
        """Bring the section up to date.

        Args:
            node: the result table, or None.
            engine: that can write pages, or None.
        """
        ui = self.ui
        self._node, self._engine = node, engine
        if ui.resultView.mrmlTableNode() is not node:
            ui.resultView.setMRMLTableNode(node)
            if node is not None:
                self._arrange()
        ui.resultView.setVisible(node is not None)
        evaluation = table.read(node) if node is not None else {}
        for label, text in (
            (ui.verdictLabel, panel.verdictText(evaluation)),
            (ui.remarksLabel, panel.remarksText(evaluation)),
        ):
            label.text = text
            label.setVisible(bool(text))
        plots = chart.plottable(evaluation["summary"]) if evaluation else []
        shown = node.GetAttribute(chart.METRIC_ATTRIBUTE) if plots else ""
        fillBox(ui.plotBox, plots, shown or "")
        self._showButtons(bool(plots))

    def _arrange(self) -> None:
        """Bring the columns that matter most into a narrow panel."""
        view, node = self.ui.resultView, self._node
        for name, width in (("Metric", 118), ("Region", 96), ("Value", 64), ("Unit", 36)):
            view.setColumnWidth(node.GetColumnIndex(name), width)
        for name in table.PLACE:
            view.setColumnHidden(node.GetColumnIndex(name), True)

    def _showButtons(self, plots: bool) -> None:
        ui, node = self.ui, self._node
        ui.plotBox.enabled = plots
        ui.compareButton.enabled = bool(node is not None and (results.volumes(node) or self._chart()))
        ui.restoreButton.enabled = self.compare.shown
        ui.csvButton.enabled = node is not None
        ui.pageButton.enabled = bool(node is not None and self._engine is not None and self.page is None)

    def _chart(self):
        return self._node.GetNodeReference(chart.REFERENCE)

    def stop(self) -> None:
        """The panel goes away."""
        if self.page is not None:
            self.page.stop()
            self.page = None

    def forget(self) -> None:
        """The scene goes away."""
        self.stop()
        self.compare.restore()

    def onRow(self) -> None:
        """Show where the selected number is worst."""
        view = self.ui.resultView
        chosen = view.selectionModel().selectedRows()
        if self._node is not None and chosen:
            row = view.sortFilterProxyModel().mapToSource(chosen[0]).row()
            self._run.say(results.jump(self._node, row))

    def onPlotBox(self, index: int) -> None:
        """Draw another metric."""
        chart.draw(None, self._node, self.ui.plotBox.itemData(index))

    def onCompareButton(self) -> None:
        """Show reference, test and error map side by side, and the chart."""
        self.compare.show(results.volumes(self._node), self._chart())
        errors = self._node.GetNodeReference(results.ERROR_MAP)
        if errors is not None:
            errormap.showLegend(errors, _("test - reference"))
        self._fill(False)
        self.ui.restoreButton.enabled = self.compare.shown

    def onRestoreButton(self) -> None:
        """Back to the layout before."""
        self.compare.restore()
        self._fill(True)
        self.ui.restoreButton.enabled = self.compare.shown

    def _fill(self, filled: bool) -> None:
        """Show the organs with their fill in slices, or as outlines: the fill would hide the errors."""
        for role in (results.ORGANS, results.TEST_ORGANS):
            organs = self._node.GetNodeReference(role) if self._node is not None else None
            if organs is not None and organs.IsA("vtkMRMLSegmentationNode") and organs.GetDisplayNode() is not None:
                organs.GetDisplayNode().SetVisibility2DFill(filled)

    def onCsvButton(self) -> None:
        """Write every number of every case."""
        path = self._askPath(_("Export numbers"), "CSV (*.csv)", ".csv")
        if not path:
            return
        try:
            export.writeCsv(self._node, path)
        except (ValueError, OSError) as error:
            self._run.say(str(error), failed=True)
        else:
            self._run.say(_("Wrote {path}.").format(path=path))

    def onPageButton(self) -> None:
        """Write a page with volumes, numbers and plots that needs nothing but a browser."""
        path = self._askPath(_("Export page"), "HTML (*.html)", ".html")
        if not path:
            return
        try:
            organs = self._readOrgans(self._node.GetNodeReference(results.ORGANS))
            self.page = export.PageExport(
                self._engine.interpreter, self._node, organs, path, self._run.log, self._onPage
            )
        except (ValueError, OSError) as error:
            self._run.say(str(error), failed=True)
            return
        self._run.say(_("Writing {path}...").format(path=path))
        self.ui.pageButton.enabled = False

    def _askPath(self, title: str, filters: str, extension: str) -> str:
        """Where to write; empty: nowhere."""
        start = os.path.join(os.path.expanduser("~"), self._node.GetName().replace(os.sep, "_") + extension)
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, start, filters)
        return path + extension if path and not path.lower().endswith(extension) else path

    def _onPage(self, message: str, written: bool) -> None:
        self.page = None
        self._run.say(message, failed=not written)
        self.show(self._node, self._engine)
