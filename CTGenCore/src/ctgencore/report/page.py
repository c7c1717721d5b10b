"""Write cases (input and output of a task) as one HTML page with slices in three planes, metrics and provenance.

The page holds whole slices at full resolution, evenly spaced along each axis, as many as fit a size limit: averaging
voxels instead would hide the very blur that one wants to see. HU are kept in steps of 4, so that any window can be
set in the browser; the difference is computed there.
"""

from __future__ import annotations

import base64
import html
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError
from ..geometry import AxisPlan, Geometry
from ..intensity import WINDOWS, Window
from ..metrics.voxel import reconstruction_metrics
from ..provenance import RunRecord
from ..volume import Volume

PAGE_BYTES = 12_000_000  # opens at once in today's browsers and still passes as a mail attachment
BYTES_PER_VOXEL = 1.2  # of base64 text, measured on chest CT at steps of 4 HU
HU_STEP = 4  # finer than the noise of any CT; half the size of single HU
HU_LOWEST, HU_HIGHEST = -1024, 3071
PLANES = ("axial", "coronal", "sagittal")
METRIC_TITLES = {
    "psnr": "PSNR, dB",
    "mse_255": "MSE, 0..255 scale",
    "ssim": "SSIM",
    "mae_hu": "MAE, HU",
    "bias_hu": "bias, HU",
    "dice_lung": "Dice < -400 HU",
    "dice_bone": "Dice > 250 HU",
}


@dataclass(frozen=True)
class Case:
    """One pair of volumes on the same grid.

    Attributes:
        title: shown above it.
        source, result: input and output, HU.
        metrics: name to number, shown as a table.
        window: HU range of the metrics and the difference; a network that saw no more cannot return more.
        names: what the pictures of source, result and difference are called.
        text: shown above the pictures, such as the report that was generated from.
    """

    title: str
    source: Volume
    result: Volume
    metrics: dict[str, float]
    window: Window = WINDOWS["wide"]
    names: tuple[str, str, str] = ("input", "output", "difference")
    text: str = ""

    @staticmethod
    def generated(title: str, combined: np.ndarray, result: Volume) -> Case:
        """A generated CT beside the mask that it follows, drawn with the typical HU of every label.

        Args:
            title: shown above it.
            combined: (Z, Y, X) organ ids with diseases painted over them, on the grid of ``result``.
            result: with its record, whose report and quality gate are shown.
        """
        from ..diffusion.conditions import TISSUE_HU

        assert result.record is not None
        checks = result.record.results["quality"]["checks"]
        return Case(
            title,
            Volume(TISSUE_HU[combined], result.geometry),
            result,
            {check["name"]: check["value"] for check in checks},
            names=("mask, in typical HU", "generated", "generated minus mask"),
            text=result.record.options["report"],
        )

    @staticmethod
    def of(path: Path, source: Volume, result: Volume) -> Case:
        """A case with the voxel metrics of the result against its input, inside the window of its record.

        Args:
            path: of the input; names the case.
            source, result: input and output, HU.

        Raises:
            InputError: the grids differ.
        """
        options = result.record.options if result.record is not None else {}
        window = Window.parse(options.get("window", "wide"))
        title = "/".join(path.parts[-2:]) if path.is_dir() else path.name  # DICOM folders are all called the same
        return Case(title, source, result, reconstruction_metrics(result, source, window.lo, window.hi), window)


def write_page(path: str | Path, cases: Sequence[Case], *, max_bytes: int = PAGE_BYTES) -> Path:
    """Write the page, atomically.

    Args:
        path: of the HTML file, in an existing folder.
        cases: what to show, in order.
        max_bytes: about how large the page may get; it decides how many slices it holds.

    Returns:
        The path.

    Raises:
        InputError: no cases, or the folder is missing.
    """
    path = Path(path)
    if not cases:
        raise InputError("A page needs at least one case; got none.")
    if not path.parent.is_dir():
        raise InputError(f"Cannot write {path}: the folder {path.parent} does not exist. Make it first.")
    voxels = int(max_bytes / len(cases) / 2 / BYTES_PER_VOXEL)
    data = [_case_data(case, voxels) for case in cases]
    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    sections = "\n".join(_section(number, case) for number, case in enumerate(cases))
    content = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    text = template.replace("@VERSION@", __version__).replace("@SECTIONS@", sections).replace("@DATA@", content)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def slices_per_plane(shape_zyx: tuple[int, int, int], voxels: int) -> tuple[int, int, int]:
    """How many slices along Z, Y and X make at most about ``voxels`` voxels; at least one each.

    The axial plane, where CT is sharpest, gets half of the voxels.
    """
    whole = int(np.prod(shape_zyx))
    plane = [whole // n for n in shape_zyx]
    count = [int(voxels * share / area) for share, area in zip((0.5, 0.25, 0.25), plane, strict=True)]
    return tuple(max(1, min(c, n)) for c, n in zip(count, shape_zyx, strict=True))  # type: ignore[return-value]


def to_display(voxels_ZYX: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Turn an array so that X runs to the patient's left, Y to the back and Z to the head, by the nearest axes.

    Returns:
        A view ``(Z, Y, X)`` and its spacing in mm ``(z, y, x)``. Oblique grids are shown along their own axes.
    """
    plan = AxisPlan.to_lps(geometry)
    return plan.apply(voxels_ZYX), plan.reorder(geometry.spacing_zyx)


def pack(slices: np.ndarray) -> str:
    """HU slices ``(N, H, W)`` as base64 text: steps of 4 HU, differences along rows, low bytes then high, deflated."""
    steps = np.rint((slices.clip(HU_LOWEST, HU_HIGHEST) - HU_LOWEST) / HU_STEP).astype(np.int16)
    change = np.diff(steps, axis=2, prepend=np.int16(0)).astype("<i2")
    packed = np.ascontiguousarray(change).view(np.uint8).reshape(-1, 2).T
    return base64.b64encode(zlib.compress(packed.tobytes(), 6)).decode("ascii")


def _case_data(case: Case, voxels: int) -> dict[str, Any]:
    case.result.geometry.assert_equal(case.source.geometry, what=f"input and output of {case.title}")
    source, spacing = to_display(case.source.voxels, case.source.geometry)
    result, _ = to_display(case.result.voxels, case.result.geometry)
    planes = []
    for axis, count in enumerate(slices_per_plane(source.shape, voxels)):
        size = source.shape[axis]
        index = np.unique(np.rint((np.arange(count) + 0.5) * size / count - 0.5).astype(int))
        stacks = [np.moveaxis(volume.take(index, axis=axis), axis, 0) for volume in (source, result)]
        if axis > 0:  # rows of coronal and sagittal slices are Z: the head belongs on top
            stacks = [stack[:, ::-1] for stack in stacks]
        rows, columns = (spacing[i] for i in range(3) if i != axis)
        planes.append(
            {
                "name": PLANES[axis],
                "index": index.tolist(),
                "of": size,
                "shape": list(stacks[0].shape[1:]),
                "mm": [rows, columns],
                "input": pack(stacks[0]),
                "output": pack(stacks[1]),
            }
        )
    return {"title": case.title, "names": case.names, "window": [case.window.lo, case.window.hi], "planes": planes}


def _section(number: int, case: Case) -> str:
    """Title, caption, metrics and record of a case; the script adds the viewer."""
    record = case.result.record
    kind = "Synthetic" if record is not None and record.synthetic else "Processed"
    cells = "".join(
        f"<tr><th>{html.escape(METRIC_TITLES.get(name, name))}</th><td>{value:.4g}</td></tr>"
        for name, value in case.metrics.items()
    )
    text = f"<blockquote>{html.escape(case.text)}</blockquote>" if case.text else ""
    return (
        f'<section data-case="{number}"><h2>{html.escape(case.title)}</h2>'
        f'<p class="caption">{kind} by CTGen ({html.escape(_made_by(record))}); not for diagnosis. '
        f"{html.escape(repr(case.source))}. Metrics and difference are inside the run's window, "
        f"{case.window.lo:g} to {case.window.hi:g} HU.</p>{text}"
        f'<div class="viewer"></div><div class="facts"><table>{cells}</table>'
        f"<details><summary>Provenance</summary><pre>{html.escape(record.to_json() if record else 'none')}</pre>"
        f"</details></div></section>"
    )


def _made_by(record: RunRecord | None) -> str:
    return record.tag() if record is not None else "no record"
