"""Why a run is not possible now, in words that say what to do."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from CTGenLib import geometry, segments
from slicer.i18n import tr as _

ONE, COMPARE, AUGMENT = range(3)  # what to do: the panel's tabs
CASE_NAME = re.compile(r"[A-Za-z0-9.-]+(_[A-Za-z0-9.-]+)*")  # two underscores stand between a case and its view
MOST_SEGMENTS = 255  # labels of a byte


def chosen(parameters, engine) -> list[str]:
    """The codecs to compare: those that are checked and can run here, in the engine's order."""
    names = parameters.comparedCodecs.split()
    return [row["name"] for row in (engine.codecs if engine else []) if row["available"] and row["name"] in names]


def problem(parameters, engine, what: int) -> str:
    """Why a run is not possible now; empty when it is.

    Args:
        parameters: the parameter node.
        engine: from EngineCheck, or None.
        what: ONE, COMPARE or AUGMENT; of the last, only what can be told without looking at the data set.
    """
    if what == AUGMENT:
        return augmentProblem(parameters, engine)
    text = _inputProblem(parameters)
    if text:
        return text
    if what == ONE and parameters.outputVolume is parameters.inputVolume:
        return _("The output must not be the input.")
    if parameters.window == "custom" and parameters.customLow >= parameters.customHigh:
        return _("The window's lower end must be below its upper end.")
    return _engineProblem(engine) or (
        _codecProblem(parameters, engine) if what == ONE else _comparisonProblem(chosen(parameters, engine))
    )


def augmentProblem(parameters, engine) -> str:
    """Why a data set cannot be augmented now, as far as the parameters alone tell; empty when it can."""
    source, output = parameters.dataSet.strip(), parameters.augmentOutput.strip()
    if not source:
        return _("Choose the folder of a data set.")
    if not os.path.exists(source):
        return _("There is nothing at {path}.").format(path=source)
    if not output:
        return _("Choose a folder for the result; a run that was stopped goes on there.")
    if os.path.exists(output) and not os.path.isdir(output):
        return _("{path} is a file; the result needs a folder.").format(path=output)
    folders = [os.path.realpath(path) for path in (source, output)]
    if any(os.path.join(one, "").startswith(os.path.join(other, "")) for one, other in (folders, folders[::-1])):
        return _("The result needs a folder that is neither that of the data set, nor inside it, nor around it.")
    if parameters.views == "[]":
        return _("Add a view: without one there is nothing to make.")
    return _engineProblem(engine)


def caseProblem(parameters, engine) -> str:
    """Why the volume and segmentation of the scene cannot become a case; empty when they can."""
    volume, segmentation = parameters.caseVolume, parameters.caseSegmentation
    if volume is None or segmentation is None:
        return _("Choose a CT and its segmentation.")
    try:
        geometry.checkExportable(volume)
    except geometry.GeometryError as error:
        return str(error)
    every = segments.usedSegments(segmentation)
    names = [name for _id, name in every]
    if not 0 < len(names) <= MOST_SEGMENTS:
        return _("'{name}' has {count} segments; a case has 1 to {most}.").format(
            name=segmentation.GetName(), count=len(names), most=MOST_SEGMENTS
        )
    double = next((name for name in names if not name or names.count(name) > 1), None)
    if double is not None:
        return _("Every segment needs a name of its own; '{name}' is not.").format(name=double)
    if not CASE_NAME.fullmatch(caseName(parameters)):
        return _("Name the case: letters, digits, '.', '-' and single '_'.")
    if not parameters.dataSet.strip():
        return _("Choose the folder of the data set above; it may be a new one.")
    return _engineProblem(engine)


def caseName(parameters) -> str:
    """The case's name in the data set: as chosen, else that of the CT as far as it fits file names."""
    chosen = parameters.caseName.strip()
    if chosen or parameters.caseVolume is None:
        return chosen
    return re.sub(r"[^A-Za-z0-9.-]+", "_", parameters.caseVolume.GetName()).strip("_")


def _engineProblem(engine) -> str:
    if engine is None or engine.torch is None:
        return _("The engine is not ready; see Engine below.")
    return ""


def _inputProblem(parameters) -> str:
    if parameters.inputVolume is None:
        return _("Choose a CT volume.")
    try:
        geometry.checkExportable(parameters.inputVolume)
    except geometry.GeometryError as error:
        return str(error)
    return ""


def _codecProblem(parameters, engine) -> str:
    codec = engine.codec(parameters.codec)
    if codec is None:
        return _("The engine does not know the codec '{name}'.").format(name=parameters.codec)
    if not codec["available"]:
        return _("The codec '{name}' is not installed.").format(name=parameters.codec)
    if parameters.triplanar and not codec.get("is_2d"):
        return _("Triplanar works with 2D codecs; '{name}' is 3D.").format(name=parameters.codec)
    return ""


def _comparisonProblem(names: Sequence[str]) -> str:
    return "" if len(names) > 1 else _("Check at least two codecs to compare.")
