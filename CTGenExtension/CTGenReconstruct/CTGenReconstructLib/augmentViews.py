"""Views of a data set, as the text that the engine reads, and the table that they are chosen in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import qt
from slicer.i18n import tr as _

CODEC, WINDOW, NOISE_FROM, NOISE_TO, GRAIN_FROM, GRAIN_TO, NAME = range(7)
WINDOWS = ("wide", "soft", "lung", "wide|soft")
SHARE_WIDTH, NAME_WIDTH, WINDOW_WIDTH = 36, 54, 64  # pixels: the codec gets what is left of a narrow panel
ROW_HEIGHT, ROWS_SHOWN, AROUND = 26, 5, 56  # pixels of a row; rows until it scrolls; pixels of heading and scroll bar
FIRST = "embedded"


@dataclass(frozen=True)
class View:
    """One more version of every case.

    Attributes:
        codec: a name, or several with ``|`` between, of which each case gets one.
        window: HU windows, likewise.
        noise: least and most noise on the latents, in standard deviations of each channel.
        grain: least and most share of what the codec lost that is added back.
        name: part of the file names; empty: the codec's.
    """

    codec: str = FIRST
    window: str = "wide"
    noise: tuple[float, float] = (0.0, 0.0)
    grain: tuple[float, float] = (0.0, 0.0)
    name: str = ""

    def text(self) -> str:
        """For the engine: ``grain=wan2.1|embedded,window=soft,noise=0..0.2,residual=0.5``."""
        parts = [f"{self.name}={self.codec}" if self.name else self.codec]
        if self.window != "wide":
            parts.append(f"window={self.window}")
        for key, (low, high) in (("noise", self.noise), ("residual", self.grain)):
            if high > 0:
                parts.append(f"{key}={low:g}" if low == high else f"{key}={low:g}..{high:g}")
        return ",".join(parts)

    @staticmethod
    def parse(text: str) -> View:
        """Read what text() wrote. What is not understood stays with the codec: the engine says what is wrong."""
        unknown, known = [], {}
        for part in text.split(","):
            key, _equals, value = part.partition("=")
            if key == "window":
                known["window"] = value
            elif key in ("noise", "residual") and (ends := _ends(value)):
                known["noise" if key == "noise" else "grain"] = ends
            else:
                unknown.append(part)
        name, equals, codec = ",".join(unknown).partition("=")
        return View(codec=codec, name=name, **known) if equals else View(codec=name, **known)


def _ends(text: str) -> tuple[float, float] | None:
    """Both ends of ``A`` or ``A..B``; None: they are none."""
    low, dots, high = text.partition("..")
    try:
        return float(low), float(high if dots else low)
    except ValueError:
        return None


class ViewTable:
    """The table of views: everything is chosen in its cells.

    Args:
        ui: the module's widgets (viewTable, addViewButton, removeViewButton).
        onChange: called with the texts of all views when the user has changed one.
    """

    def __init__(self, ui: Any, onChange: Callable[[list[str]], None]) -> None:
        self.ui, self._onChange = ui, onChange
        self._filling = False
        self._codecs: list[str] = []
        table = ui.viewTable
        titles = {
            CODEC: (_("Codec"), _("The autoencoder; with | between several each case gets one of them")),
            WINDOW: (
                _("Window"),
                _("HU that the codec sees: wide, soft, lung, or two numbers such as -150 250; with | between several"),
            ),
            NOISE_FROM: (_("Noise\nfrom"), _("Least noise on the latents, in standard deviations of each channel")),
            NOISE_TO: (_("Noise\nto"), _("Most noise; each case gets a level between")),
            GRAIN_FROM: (_("Grain\nfrom"), _("Least share of what the codec lost that is added back; 0.5 is half")),
            GRAIN_TO: (_("Grain\nto"), _("Most share that is added back; each case gets one between")),
            NAME: (_("Name"), _("Part of the file names; empty: the codec's name")),
        }
        table.setColumnCount(len(titles))
        for column, (title, tip) in titles.items():
            item = qt.QTableWidgetItem(title)
            item.setToolTip(tip)
            table.setHorizontalHeaderItem(column, item)
        self._tips = [tip for _title, tip in titles.values()]
        table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        table.verticalHeader().setDefaultSectionSize(ROW_HEIGHT)
        header = table.horizontalHeader()
        header.setHighlightSections(False)
        header.setMinimumSectionSize(SHARE_WIDTH)
        header.setSectionResizeMode(CODEC, qt.QHeaderView.Stretch)
        for column in (NOISE_FROM, NOISE_TO, GRAIN_FROM, GRAIN_TO):
            table.setColumnWidth(column, SHARE_WIDTH)
        table.setColumnWidth(WINDOW, WINDOW_WIDTH)
        table.setColumnWidth(NAME, NAME_WIDTH)
        table.connect("itemSelectionChanged()", self._showButtons)
        ui.addViewButton.connect("clicked(bool)", self.onAddViewButton)
        ui.removeViewButton.connect("clicked(bool)", self.onRemoveViewButton)

    def show(self, texts: Sequence[str], codecs: Sequence[str]) -> None:
        """Bring the table up to date.

        Args:
            texts: one per view.
            codecs: names to choose from.
        """
        self._filling = True
        if list(codecs) != self._codecs:
            self._codecs = list(codecs)
            self._fill([])  # rows offer other codecs now
        if self.texts() != list(texts):
            self._fill([View.parse(text) for text in texts])
        self._filling = False
        self._showButtons()

    def texts(self) -> list[str]:
        """The views as they are in the table."""
        return [self._read(row).text() for row in range(self.ui.viewTable.rowCount)]

    def onAddViewButton(self) -> None:
        """One more view: like the selected one, under another name."""
        views = [self._read(row) for row in range(self.ui.viewTable.rowCount)]
        row = self.ui.viewTable.currentRow()
        like = views[row if 0 <= row < len(views) else -1] if views else View()
        taken = {view.name or view.codec for view in views}
        name = like.name or like.codec.split("|")[0]
        stem, dash, number = name.rpartition("-")
        stem = stem if dash and number.isdigit() and name not in self._codecs else name
        free = next(each for each in (name, *(f"{stem}-{n}" for n in range(2, 99))) if each not in taken)
        self._set([*views, replace(like, name="" if free == like.codec else free)])
        self.ui.viewTable.selectRow(len(views))

    def onRemoveViewButton(self) -> None:
        """Drop the selected view."""
        views = [self._read(row) for row in range(self.ui.viewTable.rowCount)]
        row = self.ui.viewTable.currentRow()
        if 0 <= row < len(views):
            self._set(views[:row] + views[row + 1 :])

    def _set(self, views: Sequence[View]) -> None:
        self._filling = True
        self._fill(views)
        self._filling = False
        self._tell()

    def _fill(self, views: Sequence[View]) -> None:
        table = self.ui.viewTable
        table.setRowCount(0)
        table.setRowCount(len(views))
        for row, view in enumerate(views):
            cells = {
                CODEC: self._choice(self._codecs, view.codec),
                WINDOW: self._choice(WINDOWS, view.window),
                NAME: self._name(view.name),
            }
            for first, ends in ((NOISE_FROM, view.noise), (GRAIN_FROM, view.grain)):
                cells[first], cells[first + 1] = self._shares(*ends)
            for column, cell in cells.items():
                cell.toolTip = self._tips[column]
                table.setCellWidget(row, column, cell)
        table.setFixedHeight(min(max(len(views), 1), ROWS_SHOWN) * ROW_HEIGHT + AROUND)

    def _choice(self, items: Sequence[str], current: str):
        box = qt.QComboBox()
        box.setEditable(True)
        for item in items:
            box.addItem(item)
        box.setMinimumContentsLength(4)
        box.setEditText(current)
        box.lineEdit().setCursorPosition(0)  # the beginning says more than the end
        box.connect("editTextChanged(QString)", self._tell)
        return box

    def _shares(self, low: float, high: float) -> list:
        """Two boxes; the second goes along when the first passes it."""
        boxes = [qt.QDoubleSpinBox(), qt.QDoubleSpinBox()]
        for box, value in zip(boxes, (low, high), strict=True):
            box.setRange(0.0, 1.0)
            box.setSingleStep(0.05)
            box.setDecimals(2)
            box.setButtonSymbols(qt.QAbstractSpinBox.NoButtons)
            box.setFrame(False)
            box.setValue(value)
        boxes[1].setMinimum(low)
        boxes[0].connect("valueChanged(double)", lambda value: boxes[1].setMinimum(value))
        for box in boxes:
            box.connect("valueChanged(double)", self._tell)
        return boxes

    def _name(self, name: str):
        line = qt.QLineEdit()
        line.setFrame(False)
        line.setPlaceholderText(_("codec"))
        line.setText(name)
        line.connect("textChanged(QString)", self._tell)
        return line

    def _read(self, row: int) -> View:
        cells = [self.ui.viewTable.cellWidget(row, column) for column in range(7)]
        shares = [cells[column].value for column in (NOISE_FROM, NOISE_TO, GRAIN_FROM, GRAIN_TO)]
        return View(
            cells[CODEC].currentText.strip(),
            cells[WINDOW].currentText.strip(),
            (shares[0], shares[1]),
            (shares[2], shares[3]),
            cells[NAME].text.strip(),
        )

    def _tell(self) -> None:
        if not self._filling:
            self._onChange(self.texts())

    def _showButtons(self) -> None:
        self.ui.removeViewButton.enabled = self.ui.viewTable.currentRow() >= 0
