"""Why an evaluation is not possible now, in words that say what to do."""

from __future__ import annotations

import os
from collections.abc import Sequence

from CTGenLib import geometry
from CTGenLib.rows import Row
from slicer.i18n import tr as _

from .metrics import MetricTables, lacking

PAIR, FOLDERS = range(2)  # what to measure: the panel's tabs


def given(parameters, what: int, organs: Sequence[Row], testOrgans: Sequence[Row]) -> frozenset[str]:
    """Which parts of a case there are, beside the volume under test.

    Args:
        parameters: the parameter node.
        what: PAIR or FOLDERS.
        organs, testOrgans: rows of the label sources of a pair.
    """
    if what == FOLDERS:
        parts = {"reference": parameters.referenceFolder, "labels": parameters.organsFolder}
        return frozenset(name for name, folder in parts.items() if folder.strip())
    kinds = {row.label.kind for row in organs if row.used and row.label is not None}
    parts = {
        "reference": parameters.referenceVolume is not None,
        "labels": "organ" in kinds,
        "diseases": "disease" in kinds,
        "test_labels": any(row.used and row.label is not None for row in testOrgans),
    }
    return frozenset(name for name, there in parts.items() if there)


def problem(
    parameters, engine, tables: MetricTables, what: int, organs: Sequence[Row], testOrgans: Sequence[Row]
) -> str:
    """Why a run is not possible now; empty when it is.

    Args:
        parameters: the parameter node.
        engine: from EngineCheck, or None.
        tables: the engine's metrics.
        what: PAIR or FOLDERS.
        organs, testOrgans: rows of the label sources of a pair.
    """
    text = _foldersProblem(parameters) if what == FOLDERS else _pairProblem(parameters, organs, testOrgans)
    if text:
        return text
    if engine is None or engine.torch is None:
        return _("The engine is not ready; see Engine below.")
    if tables.waiting:
        return _("Waiting for the engine's metrics.")
    if tables.problem:
        return tables.problem
    metrics = tables.of(parameters.preset)
    if not metrics:
        return _("The engine has no metrics called '{name}'.").format(name=parameters.preset)
    parts = given(parameters, what, organs, testOrgans)
    troubles = [lacking(metric, parts, what == FOLDERS) for metric in metrics]
    if all(troubles):
        return _("None of these metrics can be measured: {first} {trouble}.").format(
            first=metrics[0].title, trouble=troubles[0]
        )
    return ""


def _pairProblem(parameters, organs: Sequence[Row], testOrgans: Sequence[Row]) -> str:
    if parameters.testVolume is None:
        return _("Choose the CT to test.")
    if parameters.referenceVolume is parameters.testVolume:
        return _("The reference must not be the CT to test.")
    try:
        for volume in (parameters.testVolume, parameters.referenceVolume):
            if volume is not None:
                geometry.checkExportable(volume)
    except geometry.GeometryError as error:
        return str(error)
    for node, rows in ((parameters.organs, organs), (parameters.testOrgans, testOrgans)):
        if any(row.waiting for row in rows):
            return _("Waiting for the engine to say what the segments stand for.")
        if node is not None and not any(row.used and row.label is not None for row in rows):
            return _("The engine knows none of the segments of '{name}'. Name them, or choose none.").format(
                name=node.GetName()
            )
    return ""


def _foldersProblem(parameters) -> str:
    wanted = (
        (parameters.testFolder, _("Choose the folder of the CTs to test."), True),
        (parameters.referenceFolder, "", False),
        (parameters.organsFolder, "", False),
    )
    for folder, question, needed in wanted:
        if not folder.strip():
            if needed:
                return question
        elif not os.path.exists(folder.strip()):
            return _("There is nothing at {path}.").format(path=folder.strip())
    results = parameters.resultsFolder.strip()
    if not results:
        return _("Choose a folder for the results; a run that was stopped goes on there.")
    if os.path.exists(results) and not os.path.isdir(results):
        return _("{path} is a file; the results need a folder.").format(path=results)
    inputs = [os.path.realpath(folder.strip()) for folder, _question, _needed in wanted if folder.strip()]
    if os.path.realpath(results) in inputs:
        return _("The folder of the results must be another one than those of the inputs.")
    return ""
