"""How codecs compare, as a table node; and its codecs' volumes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import slicer
from CTGenLib import errormap, result
from CTGenLib.tables import addNumbers, addTexts
from slicer.i18n import tr as _

ATTRIBUTE = "CTGen.Comparison"  # of a table: the engine's rows, JSON
SCALE_ATTRIBUTE = "CTGen.DifferenceScale"  # of a table: HU at the ends of the scale of all differences
VOLUME, DIFFERENCE = "CTGen.Reconstruction.", "CTGen.Difference."  # roles of a table's volumes: these and the codec
MIB = 2**20


def make(window: str):
    """A table node without rows that is in no scene.

    Args:
        window: HU window of the comparison, as the engine has it.
    """
    node = slicer.vtkMRMLTableNode()
    node.SetLocked(True)
    node.SetUseColumnTitleAsColumnHeader(True)
    node.SetAttribute(ATTRIBUTE, json.dumps({"window": window, "rows": []}))
    return node


def numbers() -> dict[str, str]:
    """Title of each number of a row, by the name that value() knows."""
    return {
        "psnr": _("PSNR (dB)"),
        "mae_hu": _("MAE (HU)"),
        "edge_shift_mm": _("Edges (mm)"),
        "seconds": _("Time (s)"),
        "memory": _("Memory (MiB)"),
        "seam_hu": _("Seams (HU)"),
    }


def value(row: Mapping[str, Any], name: str) -> float:
    """A number of a row; nan: there is none."""
    if name == "memory":
        return math.nan if row["peak_bytes"] is None else row["peak_bytes"] / MIB
    if name == "psnr" and row["psnr"] is None and not row["error"]:
        return math.inf  # output and input are equal, and JSON has no infinity
    return math.nan if row[name] is None else float(row[name])


def weightsText(weights: str) -> str:
    """Where weights are, for people."""
    return {"packaged": _("packaged"), "installed": _("installed"), "missing": _("not installed")}.get(weights, weights)


def fill(node, rows: list[dict[str, Any]]) -> None:
    """Put the engine's rows into a table node."""
    with slicer.util.NodeModify(node):
        node.SetAttribute(ATTRIBUTE, json.dumps(read(node) | {"rows": rows}))
        node.RemoveAllColumns()
        addTexts(node, "Codec", _("Codec"), [row["codec"] for row in rows])
        for name, title in numbers().items():
            addNumbers(node, name, title, [value(row, name) for row in rows])
        addTexts(node, "License", _("License"), [row["license"] for row in rows])
        addTexts(node, "Weights", _("Weights"), [weightsText(row["weights"]) for row in rows])
        addTexts(node, "Error", _("Error"), [row["error"] or "" for row in rows])


def read(node) -> dict[str, Any]:
    """Window and rows of a table node."""
    return json.loads(node.GetAttribute(ATTRIBUTE))


def setVolumes(node, codec: str, output, difference) -> None:
    """Remember which volumes a codec made."""
    node.SetNodeReferenceID(VOLUME + codec, output.GetID())
    node.SetNodeReferenceID(DIFFERENCE + codec, difference.GetID())


def volumes(node, codec: str) -> list:
    """Input, reconstruction and difference, as far as they are in the scene; nothing when the codec's are not."""
    made = [node.GetNodeReference(role + codec) for role in (VOLUME, DIFFERENCE)]
    found = [each for each in made if each is not None]
    source = node.GetNodeReference(result.SOURCE_REFERENCE)
    return [source, *found] if found and source is not None else found


def differences(node) -> list:
    """The differences of all codecs that are in the scene."""
    found = [node.GetNodeReference(DIFFERENCE + row["codec"]) for row in read(node)["rows"]]
    return [each for each in found if each is not None]


def scale(node) -> float:
    """HU at the ends of the scale of all differences; 0: not set yet."""
    return float(node.GetAttribute(SCALE_ATTRIBUTE) or 0.0)


def setScale(node, limit: float) -> None:
    """Show all differences with this scale."""
    node.SetAttribute(SCALE_ATTRIBUTE, f"{limit:g}")
    errormap.show(differences(node), limit)


def summary(rows: Iterable[Mapping[str, Any]]) -> str:
    """The codec that comes closest, in words; empty: none."""
    worked = [row for row in rows if not row["error"]]
    if not worked:
        return ""
    best = max(worked, key=lambda row: value(row, "psnr"))
    return _("{codec} comes closest: PSNR {psnr:.1f} dB, mean absolute error {mae:.1f} HU.").format(
        codec=best["codec"], psnr=value(best, "psnr"), mae=best["mae_hu"]
    )
