"""Augmenting a data set and adding a case to one, as jobs; and the run that was left unfinished."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import slicer
from CTGenLib import geometry, segments, settings
from CTGenLib.job import INPUT, EngineJob, Outcome
from slicer.i18n import tr as _

from . import problems
from .logic import ReconstructionLogic
from .problems import AUGMENT

HIDDEN, REQUEST, PAUSE = ".ctgen", "job.json", "pause"  # in the output folder
LABELS = "labels.nrrd"


def request(parameters) -> dict[str, Any]:
    """What the parameters ask for, as the engine's job without ``op`` and ``id``."""
    return {
        "task": "augment",
        "input": os.path.abspath(parameters.dataSet.strip()),
        "output": os.path.abspath(parameters.augmentOutput.strip()),
        "options": {
            "views": json.loads(parameters.views),
            "mode": parameters.augmentMode,
            "layout": parameters.augmentLayout,
            "seed": parameters.augmentSeed,
            "device": parameters.device,
        },
    }


def unfinished(output: str) -> dict[str, Any] | None:
    """The request of a run into this folder that was not finished, or None."""
    try:
        with open(os.path.join(output, HIDDEN, REQUEST), encoding="utf-8") as file:
            found = json.load(file)
        options = found["options"]
        texts = [found["input"], options["mode"], options["layout"], options["device"], *options["views"]]
        whole = all(isinstance(text, str) for text in texts) and isinstance(options["seed"], int)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found | {"output": os.path.abspath(output)} if whole and options["views"] else None  # it may have been moved


def choose(parameters, asked: Mapping[str, Any]) -> None:
    """Put a request into the parameters."""
    options = asked["options"]
    with slicer.util.NodeModify(parameters):
        parameters.dataSet, parameters.augmentOutput = asked["input"], asked["output"]
        parameters.views = json.dumps(options["views"])
        parameters.augmentMode, parameters.augmentLayout = options["mode"], options["layout"]
        parameters.augmentSeed, parameters.device = options["seed"], options["device"]


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two requests make the same; the device does not count."""
    mine, theirs = (dict(each["options"]) | {"device": "", "input": each["input"]} for each in (one, other))
    return mine == theirs


class AugmentJob(EngineJob):
    """A running augmentation. The request lies in the output folder until all is done, so that it can be taken up
    again, also when Slicer or the computer was switched off meanwhile.

    Args:
        interpreter, request, onEvent, onLog, onEnd: see EngineJob; the request's paths are absolute.
    """

    OUTPUTS = ("dataset",)
    HAS_RECORD = False
    EXIT_CODES = (0, 1)  # 1: some cases failed

    @property
    def output(self) -> str:
        """The folder of the new data set."""
        return str(self.request["output"])

    @property
    def pausing(self) -> bool:
        """Whether no new case is to begin."""
        return os.path.exists(self._hidden(PAUSE))

    def pause(self, wanted: bool) -> None:
        """Let no new case begin, or go on."""
        if wanted:
            with open(self._hidden(PAUSE), "w", encoding="utf-8"):
                pass
        else:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self._hidden(PAUSE))

    def forget(self) -> None:
        """All is done: there is nothing to take up again."""
        with contextlib.suppress(OSError):
            os.remove(self._hidden(REQUEST))

    def _hidden(self, name: str) -> str:
        return os.path.join(self.output, HIDDEN, name)

    def _writeInputs(self) -> None:
        os.makedirs(self._hidden(""), exist_ok=True)
        with open(self._hidden(REQUEST), "w", encoding="utf-8") as file:
            json.dump(self.request, file, indent=2)
        self.pause(False)
        settings.setAugmentOutput(self.output)


class CaseJob(EngineJob):
    """A volume and a segmentation of the scene on their way into a data set.

    Args:
        interpreter: how to start the engine.
        parameters: the parameter node.
        onEvent, onLog, onEnd: see EngineJob.
    """

    OUTPUTS = ("image", "label")
    HAS_RECORD = False

    def __init__(
        self,
        interpreter,
        parameters,
        onEvent: Callable[[dict[str, Any]], None],
        onLog: Callable[[str], None],
        onEnd: Callable[[Outcome], None],
    ) -> None:
        self._volume, self._segmentation = parameters.caseVolume, parameters.caseSegmentation
        self._segments = segments.usedSegments(self._segmentation)
        request = {
            "task": "case",
            "input": INPUT,
            "mask": LABELS,
            "output": os.path.abspath(parameters.dataSet.strip()),
            "options": {
                "name": problems.caseName(parameters),
                "patient": parameters.casePatient.strip(),
                "labels": {name: value for value, (_id, name) in enumerate(self._segments, 1)},
            },
        }
        super().__init__(interpreter, request, onEvent, onLog, onEnd)

    def _writeInputs(self) -> None:
        grid = geometry.exportVolume(self._volume, self.path(INPUT))
        values = [(segmentId, value) for value, (segmentId, _name) in enumerate(self._segments, 1)]
        labels = segments.labelArray(self._segmentation, values, grid)
        if not labels.any():
            raise geometry.GeometryError(
                _("No segment of '{name}' lies on the CT.").format(name=self._segmentation.GetName())
            )
        geometry.exportArray(labels, grid, self.path(LABELS))


class AugmentationLogic(ReconstructionLogic):
    """What CTGenReconstructLogic does, but for the parameter node."""

    @property
    def augmenting(self):
        """Whether the job that runs works on files and needs nothing of the scene."""
        return self.running and isinstance(self.job, AugmentJob)

    def startAugmentation(self, parameterNode, engine, onEvent=None, onLog=None, onEnd=None):
        """Start a run over a data set and return. Cases that an earlier run finished are not made again.

        Args:
            parameterNode: what to do.
            engine: from EngineCheck.
            onEvent: called with the engine's events.
            onLog: called with lines of text.
            onEnd: called with the Outcome; failed cases are in the metrics of its result.

        Raises:
            ValueError: what problem() says.
            OSError: the engine cannot be started, or the output folder cannot be written.
        """
        self._prepare(parameterNode, engine, AUGMENT)
        self.job = AugmentJob(
            engine.interpreter,
            request(parameterNode),
            onEvent or (lambda event: None),
            onLog or (lambda text: None),
            lambda outcome: self._endAugmentation(outcome, onEnd or (lambda outcome: None)),
        )

    def startCase(self, parameterNode, engine, onEvent=None, onLog=None, onEnd=None):
        """Start to add a case to the data set and return.

        Args:
            parameterNode: caseVolume, caseSegmentation, caseName, casePatient and dataSet.
            engine: from EngineCheck.
            onEvent: called with the engine's events.
            onLog: called with lines of text.
            onEnd: called with the Outcome.

        Raises:
            ValueError: what problems.caseProblem() says; a GeometryError is one.
            OSError: the engine cannot be started.
        """
        self._begin(problems.caseProblem(parameterNode, engine))
        self.job = CaseJob(
            engine.interpreter,
            parameterNode,
            onEvent or (lambda event: None),
            onLog or (lambda text: None),
            lambda outcome: self._endCase(outcome, onEnd or (lambda outcome: None)),
        )

    def _endAugmentation(self, outcome, onEnd):
        with contextlib.suppress(OSError):
            self.job.pause(False)
        if outcome.kind == "done" and not outcome.result["metrics"]["failed"]:
            self.job.forget()
            settings.setAugmentOutput("")
        self._tidy(outcome)
        onEnd(outcome)

    def _endCase(self, outcome, onEnd):
        self._tidy(outcome)
        onEnd(outcome)
