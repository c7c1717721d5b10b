"""The part of the panel that shows how codecs compare: numbers, volumes side by side, one scale for all differences."""

from __future__ import annotations

import html
from typing import Any

import qt
from CTGenLib import errormap
from CTGenLib.compare import CompareLayout
from CTGenLib.sections import RunSection
from slicer.i18n import tr as _

from . import table

COLUMNS = 3  # input, reconstruction, difference
MOST = CompareLayout.MOST // COLUMNS  # codecs side by side
WIDTHS = {
    "codec": 90, "psnr": 60, "mae_hu": 52, "edge_shift_mm": 56, "seconds": 52, "memory": 66, "seam_hu": 56,
    "license": 84, "weights": 84,
}  # fmt: skip
DECIMALS = {"psnr": 2, "mae_hu": 2, "edge_shift_mm": 3, "seconds": 1, "memory": 1, "seam_hu": 2}
ROW_HEIGHT, ROWS_SHOWN, AROUND = 22, 8, 58  # pixels of a row; rows until it scrolls; pixels of heading and scroll bar


class ComparisonSection:
    """Shows one comparison.

    Args:
        ui: the module's widgets (comparisonSelector, comparisonView, comparisonLabel, scaleSlider, restoreButton).
        run: where to say what happens.

    Attributes:
        compare: the layout for looking at volumes side by side.
    """

    def __init__(self, ui: Any, run: RunSection) -> None:
        self.ui, self._run = ui, run
        self.compare = CompareLayout()
        self._node = None
        self._content = self._lookedAt = ""
        self._filling = False
        ui.comparisonSelector.addAttribute("vtkMRMLTableNode", table.ATTRIBUTE)
        view = ui.comparisonView
        view.verticalHeader().setVisible(False)
        view.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        view.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        view.setSelectionMode(qt.QAbstractItemView.ExtendedSelection)
        view.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        titles = {"codec": _("Codec"), **table.numbers(), "license": _("License"), "weights": _("Weights")}
        self._names = list(titles)
        view.setColumnCount(len(titles))
        view.setHorizontalHeaderLabels([title.replace(" (", "\n(") for title in titles.values()])
        for column, name in enumerate(titles):
            view.setColumnWidth(column, WIDTHS[name])
        view.horizontalHeader().setHighlightSections(False)
        view.horizontalHeader().setSortIndicator(self._names.index("psnr"), qt.Qt.DescendingOrder)
        view.connect("itemSelectionChanged()", self.onRows)
        view.connect("cellClicked(int,int)", self.onRows)  # again on the same row, after the user has left the layout
        ui.scaleSlider.connect("valueChanged(double)", self.onScale)
        ui.restoreButton.connect("clicked(bool)", self.onRestoreButton)

    def show(self, node) -> None:
        """Bring the section up to date.

        Args:
            node: the table node of a comparison, or None.
        """
        ui = self.ui
        content = node.GetAttribute(table.ATTRIBUTE) if node is not None else ""
        if node is not self._node or content != self._content:
            self._node, self._content = node, content
            self._fill(table.read(node)["rows"] if node is not None else [])
        for widget in (ui.comparisonView, ui.scaleLabel, ui.scaleSlider):
            widget.setVisible(node is not None)
        self._filling = True
        if node is not None and table.scale(node):
            ui.scaleSlider.value = table.scale(node)
        self._filling = False
        ui.restoreButton.enabled = self.compare.shown

    def _fill(self, rows: list[dict[str, Any]]) -> None:
        view, numbers, selected = self.ui.comparisonView, table.numbers(), self.selected()
        self._filling = True
        view.setSortingEnabled(False)  # else rows would move while they are filled
        view.clearContents()
        view.setRowCount(len(rows))
        for number, row in enumerate(rows):
            for column, name in enumerate(self._names):
                cell = round(table.value(row, name), DECIMALS[name]) if name in numbers else row[name]
                if cell == cell:  # not nan: Qt sorts rows without a cell behind all others
                    text = table.weightsText(cell) if name == "weights" else cell
                    view.setItem(number, column, _item(text, row["error"] or ""))
        view.setColumnHidden(self._names.index("seam_hu"), all(row["seam_hu"] is None for row in rows))
        view.setSortingEnabled(True)
        self._select(selected)
        view.setFixedHeight(min(len(rows), ROWS_SHOWN) * ROW_HEIGHT + AROUND)
        self._filling = False
        failed = [f"{row['codec']}: {row['error']}" for row in rows if row["error"]]
        lines = "<br>".join(html.escape(line).replace("\n", "<br>") for line in failed)
        self.ui.comparisonLabel.text = f'<span style="color: #b00000">{lines}</span>' if failed else ""
        self.ui.comparisonLabel.setVisible(bool(failed))

    def forget(self) -> None:
        """The scene goes away."""
        self.compare.restore()
        self._lookedAt = ""

    def select(self, codec: str) -> None:
        """Show a codec as if the user had clicked on it."""
        self._select([codec])

    def _select(self, codecs: list[str]) -> None:
        view = self.ui.comparisonView
        view.clearSelection()
        view.setSelectionMode(qt.QAbstractItemView.MultiSelection)  # else the last one would be the only one
        for number in range(view.rowCount):
            if view.item(number, 0).text() in codecs:
                view.selectRow(number)
        view.setSelectionMode(qt.QAbstractItemView.ExtendedSelection)

    def selected(self) -> list[str]:
        """Codecs of the selected rows, in the order of the table."""
        view = self.ui.comparisonView
        every = [view.item(number, 0) for number in range(view.rowCount)]
        return [item.text() for item in every if item is not None and item.isSelected()]

    def onRows(self) -> None:
        """Show input, reconstruction and difference of the selected codecs, where the views look at now."""
        if self._filling or self._node is None:
            return
        codecs = self.selected()
        shown = [table.volumes(self._node, codec) for codec in codecs]
        missing = [codec for codec, found in zip(codecs, shown, strict=True) if not found]
        shown = [found for found in shown if found][:MOST]
        if missing:
            self._run.say(_("There is no volume of {codecs}.").format(codecs=", ".join(missing)))
        if not shown:
            return
        columns = min(len(found) for found in shown)
        flat = [volume for found in shown for volume in found[-columns:]]
        self.compare.show(flat, columns=columns, stay=self._lookedAt == self._node.GetID())
        self._lookedAt = self._node.GetID()
        differences = table.differences(self._node)
        for volume in flat:
            if volume in differences:
                errormap.showLegend(volume, _("output - input"))
        self.ui.restoreButton.enabled = self.compare.shown

    def onScale(self, limit: float) -> None:
        """Another scale for all differences."""
        if not self._filling and self._node is not None:
            table.setScale(self._node, limit)

    def onRestoreButton(self) -> None:
        """Back to the layout before."""
        self.compare.restore()
        self.ui.restoreButton.enabled = self.compare.shown


def _item(cell: str | float, error: str):
    """A cell that sorts as what it is."""
    item = qt.QTableWidgetItem()
    item.setData(qt.Qt.DisplayRole, cell)
    if not isinstance(cell, str):
        item.setTextAlignment(qt.Qt.AlignRight | qt.Qt.AlignVCenter)
    item.setToolTip(error)
    if error:
        item.setForeground(qt.QBrush(qt.QColor("#b00000")))
    return item
