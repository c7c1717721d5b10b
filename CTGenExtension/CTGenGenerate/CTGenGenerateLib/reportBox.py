"""The report: text, history, sentences for findings, Ctrl+Enter, and what the engine says about it."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

import qt
from CTGenLib import settings
from slicer.i18n import tr as _

FORGET = "\n"  # no report is this
SHOWN = 60  # characters of an old report in the list
MARKS = {"error": ("#b00000", "&#9888;"), "warning": ("#a06000", "&#9888;"), "info": ("#606060", "&#8505;")}


class ReportBox:
    """The report section of the panel.

    Args:
        ui: the module's widgets (reportText, historyBox, templatesButton, checkLabel).
        shortcutParent: Ctrl+Enter works while the focus is inside this widget.
        onText: called when the user has changed the text.
        onRun: called at Ctrl+Enter.
    """

    def __init__(self, ui: Any, shortcutParent: Any, onText: Callable[[], None], onRun: Callable[[], None]) -> None:
        self.ui, self._onText = ui, onText
        self._filling = False
        self._findings: list[tuple[str, str]] = []
        self._menu = qt.QMenu(ui.templatesButton)
        ui.templatesButton.setMenu(self._menu)
        ui.templatesButton.enabled = False
        ui.reportText.connect("textChanged()", self._onTextChanged)
        ui.historyBox.connect("activated(int)", self._onHistory)
        self._shortcuts = []
        for keys in ("Ctrl+Return", "Ctrl+Enter"):
            shortcut = qt.QShortcut(qt.QKeySequence(keys), shortcutParent)
            shortcut.setContext(qt.Qt.WidgetWithChildrenShortcut)
            shortcut.connect("activated()", onRun)
            self._shortcuts.append(shortcut)
        self._fillHistory()

    def setText(self, text: str) -> None:
        """Show a text that was not typed here."""
        if self.ui.reportText.plainText != text:
            self._filling = True
            self.ui.reportText.setPlainText(text)
            self._filling = False

    def setFindings(self, findings: list[tuple[str, str]]) -> None:
        """Offer sentences, (finding, sentence) each."""
        if findings == self._findings:
            return
        self._findings = list(findings)
        self._menu.clear()
        for name, sentence in self._findings:
            action = self._menu.addAction(name)
            action.setToolTip(sentence)
            action.connect("triggered(bool)", lambda checked=False, sentence=sentence: self.insert(sentence))
        self.ui.templatesButton.enabled = bool(self._findings)

    def insert(self, sentence: str) -> None:
        """Add a sentence at the cursor."""
        text, cursor = self.ui.reportText.plainText, self.ui.reportText.textCursor()
        before = text[: cursor.position()]
        cursor.insertText((" " if before and not before[-1].isspace() else "") + sentence)

    def remember(self, text: str) -> None:
        """Put a report to the top of the history."""
        settings.rememberReport(text)
        self._fillHistory()

    def showProblems(self, problems: list[dict[str, Any]]) -> None:
        """Show what is odd about report and masks: rows with severity, message and fix."""
        lines = []
        for problem in problems:
            color, mark = MARKS.get(str(problem.get("severity")), MARKS["warning"])
            text = html.escape(f"{problem.get('message', '')} {problem.get('fix', '')}".strip())
            lines.append(f'<span style="color: {color}">{mark} {text}</span>')
        self.ui.checkLabel.text = "<br>".join(lines)
        self.ui.checkLabel.setVisible(bool(lines))

    def _fillHistory(self) -> None:
        box = self.ui.historyBox
        box.clear()
        box.addItem(_("Earlier reports"), "")
        for text in settings.reports():
            line = " ".join(text.split())
            box.addItem(line if len(line) <= SHOWN else line[: SHOWN - 3] + "...", text)
        box.enabled = box.count > 1
        if box.enabled:
            box.addItem(_("(forget these)"), FORGET)

    def _onHistory(self, index: int) -> None:
        text = self.ui.historyBox.itemData(index)
        self.ui.historyBox.setCurrentIndex(0)
        if text == FORGET:
            settings.forgetReports()
            self._fillHistory()
        elif text:
            self.ui.reportText.setPlainText(text)

    def _onTextChanged(self) -> None:
        if not self._filling:
            self._onText()
