"""The list of codecs to compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt
from slicer.i18n import tr as _

from . import table

CODEC, LICENSE, WEIGHTS = range(3)


class CodecTable:
    """A table of codecs with check boxes. Those that cannot run here are gray and have none.

    Args:
        ui: the module's widgets (codecTable, codecTableLabel).
        onCheck: called with the names that are checked when the user has changed them.
    """

    def __init__(self, ui: Any, onCheck: Callable[[list[str]], None]) -> None:
        self.ui, self._onCheck = ui, onCheck
        self._filling = False
        self._rows: list[Mapping[str, Any]] = []
        widget = ui.codecTable
        widget.setColumnCount(3)
        widget.setHorizontalHeaderLabels([_("Codec"), _("License"), _("Weights")])
        widget.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        widget.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        widget.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        widget.verticalHeader().setVisible(False)
        widget.verticalHeader().setDefaultSectionSize(22)
        header = widget.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionResizeMode(CODEC, qt.QHeaderView.Stretch)
        header.setSectionResizeMode(LICENSE, qt.QHeaderView.Interactive)
        header.setSectionResizeMode(WEIGHTS, qt.QHeaderView.ResizeToContents)
        widget.setColumnWidth(LICENSE, 84)
        widget.connect("cellChanged(int,int)", self._onCell)
        widget.connect("itemSelectionChanged()", self._showSelection)
        self._showSelection()

    def show(self, codecs: Sequence[Mapping[str, Any]], checked: Sequence[str]) -> None:
        """Bring the table up to date.

        Args:
            codecs: rows of the engine's ``info --json``.
            checked: names that are checked.
        """
        widget = self.ui.codecTable
        self._filling = True
        self._rows = sorted(codecs, key=lambda row: not row["available"])
        widget.setRowCount(len(self._rows))
        for number, row in enumerate(self._rows):
            for column, text in enumerate((row["name"], row["license"], table.weightsText(row["weights"]))):
                self._item(number, column, text, row)
            item, checkable = widget.item(number, CODEC), bool(row["available"])
            flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable
            item.setFlags(flags | qt.Qt.ItemIsUserCheckable if checkable else flags)
            if checkable:
                item.setCheckState(qt.Qt.Checked if row["name"] in checked else qt.Qt.Unchecked)
            else:
                item.setData(qt.Qt.CheckStateRole, None)
        self._filling = False
        self._showSelection()

    def _item(self, number: int, column: int, text: str, row: Mapping[str, Any]) -> None:
        widget = self.ui.codecTable
        item = widget.item(number, column)
        if item is None:
            item = qt.QTableWidgetItem()
            widget.setItem(number, column, item)
        gray = qt.QBrush(widget.palette.color(qt.QPalette.Disabled, qt.QPalette.Text))
        item.setText(text)
        item.setData(qt.Qt.ForegroundRole, None if row["available"] else gray)
        item.setToolTip("\n".join([row["title"], about(row)]))

    def _onCell(self, number: int, column: int) -> None:
        if self._filling or column != CODEC:
            return
        widget = self.ui.codecTable
        states = [widget.item(place, CODEC).checkState() for place in range(widget.rowCount)]
        self._onCheck([
            row["name"]
            for row, state in zip(self._rows, states, strict=True)
            if row["available"] and state == qt.Qt.Checked
        ])  # fmt: skip

    def _showSelection(self) -> None:
        """Say more of the selected codec, and why it cannot run."""
        number = self.ui.codecTable.currentRow()
        row = self._rows[number] if 0 <= number < len(self._rows) else None
        text = _("Click on a codec to read more about it.") if self._rows else ""
        self.ui.codecTableLabel.text = f"{row['title']}: {about(row)}" if row is not None else text


def about(row: Mapping[str, Any] | None) -> str:
    """What is worth knowing of a codec before it is used, and why it cannot be used."""
    if row is None:
        return _("Details appear when the engine has been checked.")
    text = _("{description} License: {license}.").format(description=row["description"], license=row["license"])
    return text if row["available"] else f"{text}\n{row['why']}"
