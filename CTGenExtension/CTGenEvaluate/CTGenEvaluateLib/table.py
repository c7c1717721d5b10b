"""What an evaluation found as a table node, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import slicer
from CTGenLib.tables import addNumbers, addTexts
from slicer.i18n import tr as _

ATTRIBUTE = "CTGen.Evaluation"  # of a table: the evaluation without its rows, JSON
PLACE = ("i", "j", "k")  # columns that are for jumping and not shown


def text(value: float) -> str:
    """A number for people."""
    return "-" if math.isnan(value) else f"{value:.4g}"


def betterText(better: str) -> str:
    """Which direction is good."""
    return {"higher": _("higher"), "lower": _("lower"), "zero": _("near 0")}.get(better, "")


def makeTable(evaluation: Mapping[str, Any], places: Sequence[tuple[int, int, int] | None]):
    """The summary as a table node, one row per metric and region.

    Args:
        evaluation: content of evaluation.json.
        places: for each line of the summary the voxel (i, j, k) to look at, or None.

    Returns:
        A vtkMRMLTableNode that is in no scene.
    """
    lines = evaluation["summary"]
    several = evaluation["cases"] > 1
    node = slicer.vtkMRMLTableNode()
    node.SetLocked(True)
    node.SetAttribute(ATTRIBUTE, json.dumps({key: part for key, part in evaluation.items() if key != "rows"}))

    node.SetUseColumnTitleAsColumnHeader(True)
    addTexts(node, "Metric", _("Metric"), [line["title"] for line in lines])
    addTexts(node, "Region", _("Region"), [line["region"] for line in lines])
    addNumbers(node, "Value", _("Mean") if several else _("Value"), [line["mean"] for line in lines])
    addTexts(node, "Unit", _("Unit"), [line["unit"] for line in lines])
    addTexts(node, "Better", _("Better"), [betterText(line["better"]) for line in lines])
    if several:
        addTexts(node, "Cases", _("Cases"), [str(line["n"]) for line in lines])
        addNumbers(node, "SD", _("SD"), [line["sd"] for line in lines])
        addNumbers(node, "CI95Low", _("95% CI from"), [line["ci95"][0] for line in lines])
        addNumbers(node, "CI95High", _("to"), [line["ci95"][1] for line in lines])
        addTexts(node, "WorstCase", _("Worst case"), [line["worst"] for line in lines])
    slices = ["" if line["slice"] is None else str(line["slice"]) for line in lines]
    addTexts(node, "WorstSlice", _("Worst slice"), slices)
    addTexts(node, "Note", _("Note"), [line["note"] for line in lines])
    addTexts(node, "Recipe", _("Recipe"), [line["metric"] for line in lines])
    for axis, name in enumerate(PLACE):
        addTexts(node, name, name, ["" if place is None else str(place[axis]) for place in places])
    return node


def read(node) -> dict[str, Any]:
    """The evaluation that a table node carries, without its rows."""
    return json.loads(node.GetAttribute(ATTRIBUTE))


def place(node, row: int) -> tuple[int, int, int] | None:
    """The voxel to look at for a row, or None."""
    cells = [cell(node, row, name) for name in PLACE]
    return tuple(int(each) for each in cells) if all(cells) else None


def cell(node, row: int, column: str) -> str:
    """A cell's text."""
    return node.GetTable().GetValueByName(row, column).ToString()


def places(
    lines: Sequence[Mapping[str, Any]],
    size: tuple[int, int, int],
    ids: Mapping[str, int],
    organs: Sequence[np.ndarray],
) -> list[tuple[int, int, int] | None]:
    """Where each line's worst slice is to be looked at: in the middle of its organ there, else of the slice.

    Args:
        lines: of the summary.
        size: of the volume under test, voxels along i, j, k.
        ids: name of an organ -> its number in ``organs``.
        organs: (k, j, i) label arrays.
    """
    found: list[tuple[int, int, int] | None] = []
    for line in lines:
        k = line["slice"]
        if k is None or not 0 <= k < size[2]:
            found.append(None)
            continue
        i, j = size[0] // 2, size[1] // 2
        for array in organs:
            voxels = np.argwhere(array[k] == ids.get(line["region"], -1))
            if len(voxels):
                j, i = voxels[np.abs(voxels - voxels.mean(axis=0)).sum(axis=1).argmin()].tolist()
                break
        found.append((i, j, k))
    return found
