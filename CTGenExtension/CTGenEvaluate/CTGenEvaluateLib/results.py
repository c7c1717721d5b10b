"""Results of an evaluation in the scene: table, chart, error map, the engine's file; and how they belong together.

Everything hangs on the table by node references, so that it is all there again when a scene is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import slicer
from CTGenLib import errormap, geometry, result
from CTGenLib.runfolder import RunFolder
from slicer.i18n import tr as _

from . import chart, table
from .job import EvaluationJob, Pair

TEST, REFERENCE, ERROR_MAP, DETAILS = "CTGen.TestVolume", "CTGen.ReferenceVolume", "CTGen.ErrorMap", "CTGen.Details"
ORGANS, TEST_ORGANS = "CTGen.Organs", "CTGen.TestOrgans"
FOLDER, IMAGES = "CTGen.ResultsFolder", "CTGen.ImageFolders"


def add(job: EvaluationJob, outcome, ids: Mapping[str, int]):
    """Put what a job found into the scene.

    Args:
        job: that is done; its files still exist.
        outcome: of the job.
        ids: name of an organ -> its label.

    Returns:
        The table node.

    Raises:
        GeometryError: the error map does not lie on the test volume's grid.
    """
    evaluation, pair = json.loads(outcome.record), job.pair
    difference = outcome.result["outputs"].get("difference")
    errors = geometry.readVolume(difference, pair.grid) if pair is not None and difference else None
    name = pair.test.GetName() if pair is not None else _folderName(job)
    if pair is not None:
        _rename(evaluation, name)
    title = _("Evaluation of {name}").format(name=name)
    folder = RunFolder(title, pair.test if pair is not None else None)
    lines = evaluation["summary"]
    spots = table.places(lines, pair.grid.size, ids, pair.organArrays) if pair is not None else [None] * len(lines)
    node = table.makeTable(evaluation, spots)
    folder.add(node, title)
    if pair is None:
        images = [job.request[key] for key in ("input", "reference", "mask") if job.request[key]]
        node.SetAttribute(FOLDER, job.resultsFolder)
        node.SetAttribute(IMAGES, json.dumps(images))
    else:
        _addDetails(folder, node, evaluation)
        _addReferences(node, pair)
        node.SetAttribute(chart.COLORS_ATTRIBUTE, json.dumps(pair.colors))
    if errors is not None:
        record = {key: evaluation.get(key) for key in ("options", "versions", "created_utc")} | {"task": "evaluate"}
        record["ctgencore_version"] = evaluation["versions"].get("ctgencore", "")
        folder.addDifferenceVolume(errors, _("{name} error").format(name=name), json.dumps(record))
        errormap.show([errors], errormap.scale([errors]))
        node.SetNodeReferenceID(ERROR_MAP, errors.GetID())
    choices = chart.plottable(lines)
    if choices:
        chart.draw(folder, node, choices[0][1])
    return node


def volumes(node) -> list:
    """What to look at side by side: reference, test, error map, as far as they are there."""
    found = [node.GetNodeReference(role) for role in (REFERENCE, TEST, ERROR_MAP)]
    return [volume for volume in found if volume is not None]


def jump(node, row: int) -> str:
    """Move all slice views to the worst slice of a row, turned so that they show voxel planes.

    Returns:
        What was done, or why nothing was.
    """
    voxel, volume = table.place(node, row), node.GetNodeReference(TEST)
    if node.GetAttribute(FOLDER):
        return _("The volumes of a folder are not in the scene; load the worst case to see it.")
    if voxel is None:
        return _("This number has no worst slice.")
    if volume is None:
        return _("The volume is not in the scene any more.")
    grid = geometry.worldGrid(volume)
    position = grid.ijkToWorld[:3, :3] @ voxel + grid.ijkToWorld[:3, 3]
    manager = slicer.app.layoutManager()
    for name in manager.sliceViewNames() if manager is not None else ():
        manager.sliceWidget(name).mrmlSliceNode().RotateToVolumePlane(volume)
    slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *position)
    return _("Slice {slice} of {name}.").format(slice=voxel[2], name=volume.GetName())


def _folderName(job: EvaluationJob) -> str:
    return job.request["input"].replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def _rename(evaluation: dict[str, Any], name: str) -> None:
    """The only case is called like the file that it went in; users know the node's name."""
    for line in (*evaluation["rows"], *evaluation["failures"]):
        line["case"] = name
    evaluation["inputs"] = {name: next(iter(evaluation["inputs"].values()), {})}
    for line in evaluation["summary"]:
        line["worst"] = name if line["worst"] else ""


def _addDetails(folder: RunFolder, node, evaluation: Mapping[str, Any]) -> None:
    details = slicer.vtkMRMLTextNode()
    details.SetText(json.dumps(evaluation, indent=1))
    folder.add(details, _("{name} details").format(name=node.GetName()))
    node.SetNodeReferenceID(DETAILS, details.GetID())


def _addReferences(node, pair: Pair) -> None:
    for role, other in (
        (TEST, pair.test),
        (REFERENCE, pair.reference),
        (ORGANS, pair.organs),
        (TEST_ORGANS, pair.testOrgans),
    ):
        if other is not None and result.isInScene(other):
            node.SetNodeReferenceID(role, other.GetID())
