"""The table that says which segment stands for which label, and who lies on top."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from CTGenLib import segments
from CTGenLib.labels import Label, LabelTables
from CTGenLib.rows import Row, readRows
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

SURE = 0.75  # suggestions below are marked
REFRESH_MS = 50
SEGMENT, LABEL, NOTE = range(3)


class SegmentTable(VTKObservationMixin):
    """Keeps the table and the segmentation's tags in step.

    Args:
        ui: the module's widgets (segmentTable, labelBox, suggestButton, upButton, downButton).
        tables: the engine's labels.
        onChange: called when what goes to the engine may have changed.

    Attributes:
        rows: as shown, lowest layer first.
    """

    def __init__(self, ui: Any, tables: LabelTables, onChange: Callable[[], None]) -> None:
        VTKObservationMixin.__init__(self)
        self.ui, self._tables, self._onChange = ui, tables, onChange
        self._node = None
        self._filling = False
        self.rows: list[Row] = []
        table = ui.segmentTable
        table.setColumnCount(3)
        table.setHorizontalHeaderLabels([_("Segment"), _("Stands for"), _("Sure")])
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        table.verticalHeader().setVisible(False)
        table.verticalHeader().setDefaultSectionSize(22)
        header = table.horizontalHeader()
        for column, mode in (
            (SEGMENT, qt.QHeaderView.Interactive),
            (LABEL, qt.QHeaderView.Stretch),
            (NOTE, qt.QHeaderView.ResizeToContents),
        ):
            header.setSectionResizeMode(column, mode)
        table.setColumnWidth(SEGMENT, 140)
        table.connect("cellChanged(int,int)", self._onCell)
        table.connect("itemSelectionChanged()", self._showSelection)
        completer = ui.labelBox.completer()
        completer.setFilterMode(qt.Qt.MatchContains)
        completer.setCompletionMode(qt.QCompleter.PopupCompletion)
        ui.labelBox.connect("activated(int)", self._onLabelChosen)
        ui.labelBox.lineEdit().connect("returnPressed()", self._onLabelTyped)
        ui.suggestButton.connect("clicked(bool)", self._onSuggestButton)
        ui.upButton.connect("clicked(bool)", lambda: self._move(-1))
        ui.downButton.connect("clicked(bool)", lambda: self._move(1))
        self._timer = qt.QTimer()  # a stroke of the Segment Editor sends many events
        self._timer.setSingleShot(True)
        self._timer.setInterval(REFRESH_MS)
        self._timer.connect("timeout()", self.update)
        self.update()

    def setSegmentation(self, node) -> None:
        """Show another segmentation, or none."""
        if node is self._node:
            return
        self.removeObservers()
        self._node = node
        if node is not None:
            for event in (
                slicer.vtkSegmentation.SegmentAdded,
                slicer.vtkSegmentation.SegmentRemoved,
                slicer.vtkSegmentation.SegmentModified,
                slicer.vtkSegmentation.SegmentsOrderModified,
                slicer.vtkSegmentation.SourceRepresentationModified,
            ):
                self.addObserver(node, event, self._onSegmentation)
        self.update()

    def stop(self) -> None:
        """The panel goes away."""
        self._timer.stop()
        self.removeObservers()

    def used(self) -> list[Row]:
        """The rows that go to the engine, lowest layer first."""
        return [row for row in self.rows if row.used]

    # From the segmentation to the table

    def _onSegmentation(self, caller=None, event=None) -> None:
        self._timer.start()

    def update(self) -> None:
        """Read the segmentation again, ask the engine about new names, show the rows."""
        self._fillLabelBox()
        self.rows = readRows(self._node, self._tables)
        self._fill()
        self._onChange()

    def _fillLabelBox(self) -> None:
        box, labels = self.ui.labelBox, self._tables.labels
        if box.count == len(labels):
            return
        box.clear()
        for label in labels.values():
            box.addItem(_text(label), label.id)
        box.setCurrentIndex(-1)

    def _fill(self) -> None:
        table = self.ui.segmentTable
        selected = {row.segmentId for row in self._selected()}
        self._filling = True
        table.setRowCount(len(self.rows))
        for number, row in enumerate(self.rows):
            first = self._item(number, SEGMENT, row.name)
            first.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable)
            first.setCheckState(qt.Qt.Checked if row.used else qt.Qt.Unchecked)
            first.setData(qt.Qt.UserRole, row.segmentId)
            first.setData(qt.Qt.DecorationRole, qt.QColor.fromRgbF(*row.color))
            self._item(number, LABEL, _text(row.label) if row.label else "")
            note, tip, icon = self._note(row)
            item = self._item(number, NOTE, note)
            item.setIcon(qt.QIcon() if icon is None else table.style().standardIcon(icon))
            for column in (SEGMENT, LABEL, NOTE):
                table.item(number, column).setToolTip(tip)
        table.clearSelection()
        table.setSelectionMode(qt.QAbstractItemView.MultiSelection)
        for number, row in enumerate(self.rows):
            if row.segmentId in selected:
                table.selectRow(number)
        table.setSelectionMode(qt.QAbstractItemView.ExtendedSelection)
        self._filling = False
        self._showSelection()

    def _item(self, number: int, column: int, text: str):
        table = self.ui.segmentTable
        item = table.item(number, column)
        if item is None:
            item = qt.QTableWidgetItem()
            table.setItem(number, column, item)
        item.setText(text)
        return item

    def _note(self, row: Row) -> tuple[str, str, Any]:
        if row.waiting:
            return "...", self._tables.problem or _("Waiting for the engine's labels"), None
        if row.label is None:
            tip = _("The engine does not know what this is: choose a label, or uncheck the segment")
            return _("unknown"), tip, qt.QStyle.SP_MessageBoxWarning if row.used else None
        if row.chosen:
            return _("chosen"), _("You chose this label"), None
        tip = _("Suggested: {why}").format(why=row.suggestion.why)
        icon = None if row.suggestion.confidence >= SURE else qt.QStyle.SP_MessageBoxQuestion
        return f"{row.suggestion.confidence:.0%}", tip, icon

    # From the table to the segmentation

    def _selected(self) -> list[Row]:
        table = self.ui.segmentTable
        ids = set()
        for number in range(table.rowCount):
            item = table.item(number, SEGMENT)
            if item is not None and item.isSelected():
                ids.add(item.data(qt.Qt.UserRole))
        return [row for row in self.rows if row.segmentId in ids]

    def _showSelection(self) -> None:
        if self._filling:
            return
        rows = self._selected()
        for widget in (self.ui.labelBox, self.ui.suggestButton):
            widget.enabled = bool(rows and self._tables.labels)
        for button, step in ((self.ui.upButton, -1), (self.ui.downButton, 1)):
            button.enabled = self._neighbor(step) is not None
        label = rows[0].label if rows else None
        self.ui.labelBox.setCurrentIndex(self.ui.labelBox.findData(label.id) if label else -1)
        if label is None:
            self.ui.labelBox.setEditText("")

    def _onCell(self, number: int, column: int) -> None:
        if self._filling or column != SEGMENT:
            return
        item = self.ui.segmentTable.item(number, SEGMENT)
        used = item.checkState() == qt.Qt.Checked
        self._setTag([self.rows[number].segmentId], segments.USE_TAG, "" if used else "0")

    def _onLabelChosen(self, index: int) -> None:
        self._choose(self._tables.labels.get(self.ui.labelBox.itemData(index)))

    def _onLabelTyped(self) -> None:
        self._choose(self._tables.find(self.ui.labelBox.currentText.split(" (")[0]))

    def _choose(self, label: Label | None) -> None:
        if label is not None:
            self._setTag([row.segmentId for row in self._selected()], segments.LABEL_TAG, str(label.id))

    def _onSuggestButton(self) -> None:
        self._setTag([row.segmentId for row in self._selected()], segments.LABEL_TAG, "")

    def _setTag(self, segmentIds: list[str], name: str, text: str) -> None:
        """Keep a choice in the segments themselves; empty: forget it."""
        for segmentId in segmentIds:
            segment = self._node.GetSegmentation().GetSegment(segmentId)
            if text:
                segment.SetTag(name, text)
            else:
                segment.RemoveTag(name)
        self.update()

    def _neighbor(self, step: int) -> tuple[Row, Row] | None:
        """The selected row and the one that it can change places with."""
        selected = self._selected()
        if len(selected) != 1:
            return None
        place = self.rows.index(selected[0]) + step
        if not 0 <= place < len(self.rows) or self.rows[place].rank != selected[0].rank:
            return None
        return selected[0], self.rows[place]

    def _move(self, step: int) -> None:
        pair = self._neighbor(step)
        if pair is not None:
            segmentation = self._node.GetSegmentation()
            segmentation.SetSegmentIndex(pair[0].segmentId, segmentation.GetSegmentIndex(pair[1].segmentId))
            self.update()


def _text(label: Label) -> str:
    return f"{label.name} ({label.id})"
