"""The parts of a panel that every CTGen module has: the engine, and what a job is doing.

Both work on widgets of the module's own .ui file, found by name; a .ui that lacks one fails at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from . import install, settings
from .engine import Engine, EngineCheck

SILENCE_S = 30.0  # a first load of a large codec is silent for some seconds; half a minute is worth a word
RED = "color: #b00000"


def duration(seconds: float) -> str:
    """Seconds for people."""
    seconds = round(seconds)
    if seconds < 90:
        return _("{seconds} s").format(seconds=seconds)
    return _("{minutes} min {seconds} s").format(minutes=seconds // 60, seconds=seconds % 60)


def fillBox(box: Any, items: Sequence[tuple[str, str]], current: str) -> None:
    """Put (text, data) rows into a combo box, with the current value even if it is not among them."""
    rows = list(items)
    if current and current not in [data for _text, data in rows]:
        rows.append((current, current))
    if [(box.itemText(row), box.itemData(row)) for row in range(box.count)] != rows:
        box.clear()
        for text, data in rows:
            box.addItem(text, data)
    box.setCurrentIndex(next((row for row, (_text, data) in enumerate(rows) if data == current), -1))


class RunSection:
    """Progress and log (progressBar, statusLabel, logText, logButton, copyLogButton, openFolderButton).

    Args:
        ui: the module's widgets.
        logic: has ``running``, ``job`` and ``failedFolder``.

    Attributes:
        part: put before what the engine does, when a run has several jobs or cases.
        note: said instead of how long the engine runs or is silent, unless empty.
    """

    def __init__(self, ui: Any, logic: Any) -> None:
        self.ui, self._logic = ui, logic
        self._stage = self.part = self.note = ""
        self._began = self._heard = 0.0
        ui.progressBar.setVisible(False)
        ui.copyLogButton.connect("clicked(bool)", self.onCopyLogButton)
        ui.openFolderButton.connect("clicked(bool)", self.onOpenFolderButton)
        self._clock = qt.QTimer()
        self._clock.setInterval(1000)
        self._clock.connect("timeout()", self._onClock)

    def begin(self) -> None:
        """A job has started."""
        self._began = self._heard = time.monotonic()
        self._clock.start()
        self.ui.progressBar.setRange(0, 0)
        self.ui.progressBar.format = ""
        self.ui.progressBar.setVisible(True)
        self.ui.openFolderButton.enabled = False
        self.say(_("Starting the engine..."))

    def hear(self, event: dict[str, Any]) -> None:
        """Show an event of the engine."""
        self._heard = time.monotonic()
        kind = event["event"]
        if kind == "stage":
            self.ui.progressBar.setRange(0, 0)
            self._stage = str(event.get("stage", ""))
            self._onClock()
        elif kind == "progress":
            self.ui.progressBar.setRange(0, int(event["total"]))
            self.ui.progressBar.setValue(int(event["done"]))
            self.ui.progressBar.format = self.part + _(
                "{stage}: {done} of {total} {unit}, {rate:.1f}/s, {left} left"
            ).format(
                stage=event["stage"],
                done=event["done"],
                total=event["total"],
                unit=event["unit"],
                rate=event["rate"],
                left=duration(event["eta_s"]),
            )

    def end(self, message: str, failed: bool = False) -> None:
        """Nothing runs any more."""
        self._clock.stop()
        self._stage = ""
        self.ui.progressBar.setVisible(False)
        self.ui.openFolderButton.enabled = bool(failed and self._logic.failedFolder)
        if failed:
            self.ui.logButton.collapsed = False
        self.say(message, failed)

    def say(self, message: str, failed: bool = False) -> None:
        """Put a message into the status line."""
        self.ui.statusLabel.text = message
        self.ui.statusLabel.styleSheet = RED if failed else ""

    def log(self, text: str) -> None:
        """Add a line to the log."""
        self.ui.logText.appendPlainText(text)

    def stop(self) -> None:
        """The panel goes away."""
        self._clock.stop()

    def onCopyLogButton(self) -> None:
        """Copy the log."""
        slicer.app.clipboard().setText(self.ui.logText.plainText)

    def onOpenFolderButton(self) -> None:
        """Show the folder of the job that failed."""
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._logic.failedFolder))

    def _onClock(self) -> None:
        """Once a second while a job runs."""
        if not self._logic.running:
            return
        now = time.monotonic()
        words = [self.part + _("Running for {time}.").format(time=duration(now - self._began))]
        if self._logic.job.cancelling:
            words = [_("Cancelling...")]
        elif self.note:
            words = [self.note]
        elif now - self._heard > SILENCE_S:
            silence = duration(now - self._heard)
            words.append(_("No news from the engine for {time}; wait or cancel.").format(time=silence))
        elif self.ui.progressBar.maximum == 0 and self._stage:
            words.append(_("Stage: {stage}.").format(stage=self._stage))
        self.say(" ".join(words))


class EngineSection:
    """What is known of the engine (engineLabel, engineButton, checkEngineButton, installButton, pythonPathEdit).

    Args:
        ui: the module's widgets.
        requirements: path of the module's requirements.txt.
        run: where to say and log what happens.
        onChange: called when the engine was found, was not found, or is being looked for.

    Attributes:
        engine: the engine that answered, or None.
        checking: it is being looked for.
        problems: why each interpreter that was tried did not do.
    """

    def __init__(self, ui: Any, requirements: str, run: RunSection, onChange: Callable[[], None]) -> None:
        self.ui, self._requirements, self._run, self._onChange = ui, requirements, run, onChange
        self.engine: Engine | None = None
        self.problems: list[str] = []
        self._check: EngineCheck | None = None
        ui.pythonPathEdit.currentPath = settings.pythonPath()
        ui.checkEngineButton.connect("clicked(bool)", self.onCheckEngineButton)
        ui.installButton.connect("clicked(bool)", self.onInstallButton)

    @property
    def checking(self) -> bool:
        """Whether the answer is still to come."""
        return self._check is not None

    @property
    def ready(self) -> bool:
        """Whether jobs can run."""
        return self.engine is not None and self.engine.torch is not None

    def deviceItems(self) -> list[tuple[str, str]]:
        """(text, name) of what the engine can compute on."""
        items = [(_("automatic"), "auto")]
        for row in self.engine.devices if self.engine else []:
            text = _("{id}: {name}, {free:.1f} GiB free")
            items.append((text.format(id=row["id"], name=row["name"], free=row["memory_free_gib"]), row["id"]))
        return items

    def checkOnce(self) -> None:
        """Look for the engine if that has not been done."""
        if self.engine is None and not self.checking:
            self.onCheckEngineButton()

    def stop(self) -> None:
        """The panel goes away."""
        if self._check is not None:
            self._check.stop()
            self._check = None

    def onCheckEngineButton(self) -> None:
        """Look for the engine; the answer comes later."""
        settings.setPythonPath(self.ui.pythonPathEdit.currentPath)
        self.engine = None
        self._check = EngineCheck(self._onEngine)
        self._onChange()

    def onInstallButton(self) -> None:
        """Install what the bundled engine needs, after asking."""
        if settings.pythonPath():
            text = _("Install works on Slicer's own Python. For the chosen one, run: {python} -m pip install ctgencore")
            self._run.say(text.format(python=settings.pythonPath()))
            return
        try:
            installed = install.installRequirements(self._requirements)
        except install.InstallError as error:
            self._run.log(str(error))
            self._run.say(str(error), failed=True)
            return
        if installed:
            self.onCheckEngineButton()

    def show(self, running: bool) -> None:
        """Bring the section up to date."""
        if self.checking:
            text = _("Looking for the engine...")
        elif self.ready:
            text = _("Ready: ctgencore {version}, PyTorch {torch}, {python}").format(
                version=self.engine.version, torch=self.engine.torch, python=self.engine.interpreter.describe()
            )
        elif self.engine is not None:
            text = _("PyTorch is missing in {python}. Click Install, or choose another Python.").format(
                python=self.engine.interpreter.describe()
            )
        else:
            hint = _("No engine found. Click Install, or choose a Python that has ctgencore.")
            text = "\n".join([hint, *self.problems])
        self.ui.engineLabel.text = text
        self.ui.engineLabel.styleSheet = "" if self.checking else "color: green" if self.ready else RED
        self.ui.pythonPathEdit.enabled = not running
        self.ui.checkEngineButton.enabled = not self.checking
        self.ui.installButton.enabled = not (self.checking or self.ready or running)

    def _onEngine(self, engine: Engine | None, problems: list[str]) -> None:
        self._check, self.engine, self.problems = None, engine, problems
        if engine is None:
            for problem in problems:
                self._run.log(problem)
        if not self.ready:
            self.ui.engineButton.collapsed = False
        self._onChange()
