"""Why a run is not possible now, in words that say what to do."""

from __future__ import annotations

from collections.abc import Sequence

from CTGenLib import geometry
from slicer.i18n import tr as _

ONE, COMPARE = range(2)  # what to do: the panel's tabs


def chosen(parameters, engine) -> list[str]:
    """The codecs to compare: those that are checked and can run here, in the engine's order."""
    names = parameters.comparedCodecs.split()
    return [row["name"] for row in (engine.codecs if engine else []) if row["available"] and row["name"] in names]


def problem(parameters, engine, what: int) -> str:
    """Why a run is not possible now; empty when it is.

    Args:
        parameters: the parameter node.
        engine: from EngineCheck, or None.
        what: ONE or COMPARE.
    """
    text = _inputProblem(parameters)
    if text:
        return text
    if what == ONE and parameters.outputVolume is parameters.inputVolume:
        return _("The output must not be the input.")
    if parameters.window == "custom" and parameters.customLow >= parameters.customHigh:
        return _("The window's lower end must be below its upper end.")
    if engine is None or engine.torch is None:
        return _("The engine is not ready; see Engine below.")
    return _codecProblem(parameters, engine) if what == ONE else _comparisonProblem(chosen(parameters, engine))


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
