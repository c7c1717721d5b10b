"""Write cases and evaluations as one HTML page: slices in three planes, metrics, plots, provenance, failures.

The page holds axial slices at full resolution; the browser cuts the other planes out of them. When they do not all fit
the size limit it holds fewer, evenly spaced, and always those that a metric calls worst: averaging voxels instead would
hide the very blur that one wants to see. HU are kept in the finest steps that fit (1, 2 or 4 HU), so that any window
can be set in the browser; the difference is computed there.
"""

from __future__ import annotations

import html
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__, labels
from ..errors import InputError
from ..geometry import AxisPlan, Geometry
from ..intensity import WINDOWS, Window
from ..metrics.voxel import reconstruction_metrics
from ..volume import LabelMap, Volume
from .colors import color_of
from .pack import HU_LOWEST, STEPS, pack_labels, pack_slice, to_steps

PAGE_BYTES = 39_000_000  # every slice of a 512x512x128 pair
SCRIPTS = ("store.js", "paint.js", "viewer.js", "player.js", "charts.js", "tables.js", "app.js")
_HIGHEST_LABEL = 65_535
_SAMPLED = 8  # slices packed to see what one takes
METRIC_FACTS = {  # of Case.of; those of an evaluation bring their own
    "psnr": {"title": "PSNR", "unit": "dB", "better": "higher"},
    "mse_255": {"title": "MSE, 0..255 scale", "unit": "", "better": "lower"},
    "ssim": {"title": "SSIM", "unit": "", "better": "higher"},
    "mae_hu": {"title": "Mean absolute error", "unit": "HU", "better": "lower"},
    "bias_hu": {"title": "Mean error", "unit": "HU", "better": "zero"},
    "dice_lung": {"title": "Dice of voxels below -400 HU", "unit": "", "better": "higher"},
    "dice_bone": {"title": "Dice of voxels above 250 HU", "unit": "", "better": "higher"},
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """Volumes on one grid that are looked at together.

    Attributes:
        title: shown above them; rows of an evaluation find their case by it.
        volumes: name to volume, HU; the difference shown is the second minus the first.
        labels: drawn over the volumes.
        metrics: name to number, of the whole volume.
        window: HU range of the metrics and the difference; a network that saw no more cannot return more.
        text: shown beside the pictures, such as the report that was generated from.
        synthetic: that the anatomy is invented although no record says so: phantoms, drawn masks.
        origins: name of a volume to what is known of where it comes from, in words.
    """

    title: str
    volumes: Mapping[str, Volume]
    labels: LabelMap | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    window: Window = WINDOWS["wide"]
    text: str = ""
    synthetic: bool = False
    origins: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(
        path: Path,
        source: Volume,
        result: Volume,
        labels: LabelMap | None = None,
        names: tuple[str, str] = ("input", "output"),
    ) -> Case:
        """A case with the voxel metrics of the result against its input, inside the window of its record.

        Args:
            path: of the input; names the case.
            source, result: input and output, HU.
            labels: drawn over both.
            names: what source and result are called.

        Raises:
            InputError: the grids differ.
        """
        options = result.record.options if result.record is not None else {}
        window = Window.parse(options.get("window", "wide"))
        title = "/".join(path.parts[-2:]) if path.is_dir() else path.name  # DICOM folders are all called the same
        metrics = reconstruction_metrics(result, source, window.lo, window.hi)
        volumes = dict(zip(names, (source, result), strict=True))
        return Case(title=title, volumes=volumes, labels=labels, metrics=metrics, window=window)

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
            title=title,
            volumes={"mask, in typical HU": Volume(TISSUE_HU[combined], result.geometry), "generated": result},
            labels=LabelMap(combined, result.geometry),
            metrics={check["name"]: check["value"] for check in checks},
            text=result.record.options["report"],
            synthetic=True,
        )

    def check(self) -> None:
        """Refuse what cannot be drawn.

        Raises:
            InputError: no volumes, grids that differ, or voxels that are not finite.
        """
        if not self.volumes:
            raise InputError(f"{self.title}: a case of a page needs at least one volume; got none.")
        first = next(iter(self.volumes.values())).geometry
        for name, volume in self.volumes.items():
            volume.geometry.assert_equal(first, what=f"the volumes of {self.title}")
            if not math.isfinite(float(volume.voxels.min()) + float(volume.voxels.max())):
                raise InputError(
                    f"{self.title}, {name}: voxels must be finite HU; some are NaN or infinite. Repair them."
                )
        if self.labels is not None:
            self.labels.geometry.assert_equal(first, tol_mm=1e-3, what=f"volumes and labels of {self.title}")

    def kind(self, name: str) -> str:
        """``synthetic``, ``processed`` (by CTGen) or empty: what a volume must be marked as."""
        volume = self.volumes[name]
        if self.synthetic or volume.is_synthetic:
            return "synthetic"
        return "processed" if volume.record is not None or "ctgen_tag" in volume.meta else ""


class Page:
    """A page that is filled case by case, so that only one case needs to be in memory.

    Args:
        cases: how many will be added; each gets its share of ``max_bytes``.
        evaluations: name of a run to the content of its ``evaluation.json`` (see `docs/evaluate.md`).
        max_bytes: about how large the page may get; it decides how fine HU are and how many slices it holds.
    """

    def __init__(
        self,
        cases: int = 1,
        *,
        evaluations: Mapping[str, Mapping[str, Any]] | None = None,
        max_bytes: int = PAGE_BYTES,
    ) -> None:
        evaluations = evaluations or {}
        self._budget = max_bytes // max(cases, 1)
        self._runs = [_run(name, content) for name, content in evaluations.items()]
        self._metrics = {name: facts for content in evaluations.values() for name, facts in content["metrics"].items()}
        self._own = _run("", {})
        self._cases: list[dict[str, Any]] = []
        self._blocks: list[str] = []
        self._provenance: list[str] = []

    def add(self, case: Case) -> None:
        """Pack a case.

        Raises:
            InputError: it cannot be drawn.
        """
        case.check()
        number, turn, worst = len(self._cases), _Turn.of(case), set()
        self._own["rows"] += [
            {"case": case.title, "metric": name, "region": "all", "value": _plain(value), "note": "", "at": None}
            for name, value in case.metrics.items()
        ]
        for row in (row for run in self._runs for row in run["rows"] if row["case"] == case.title):
            if row["slice"] is not None:
                row["at"] = turn.place(row["slice"])
                if turn.axis == 0:
                    worst.add(row["at"][1])
        facts, packed = _case_data(case, self._budget, worst)
        self._cases.append(facts)
        self._blocks += [
            f'<script type="text/plain" id="case{number}-{key}">{text}</script>' for key, text in packed.items()
        ]
        self._provenance.append(_provenance(number, case))

    def note(self, run: str, text: str) -> None:
        """Add a remark to a run."""
        next(each for each in self._runs if each["name"] == run)["notes"].append(text)

    def write(self, path: str | Path) -> Path:
        """Write the page, atomically.

        Args:
            path: of the HTML file, in an existing folder.

        Returns:
            The path.

        Raises:
            InputError: there is nothing to show, or the folder is missing.
        """
        path = Path(path)
        runs = [*([self._own] if self._own["rows"] else []), *self._runs]
        if not self._cases and not runs:
            raise InputError("A page needs at least one case or evaluation; got none.")
        if not path.parent.is_dir():
            raise InputError(f"Cannot write {path}: the folder {path.parent} does not exist. Make it first.")
        metrics = {**METRIC_FACTS, **self._metrics}
        data = {"lowest": HU_LOWEST, "cases": self._cases, "runs": runs, "metrics": metrics}
        here = Path(__file__).parent
        parts = {
            "VERSION": __version__,
            "STYLE": (here / "style.css").read_text(encoding="utf-8"),
            "PROVENANCE": "\n".join(self._provenance),
            "DATA": json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"),
            "BLOCKS": "\n".join(self._blocks),
            "SCRIPT": "\n".join((here / name).read_text(encoding="utf-8") for name in SCRIPTS),
        }
        template = (here / "page.html").read_text(encoding="utf-8")
        text = re.sub("@([A-Z]+)@", lambda match: parts[match[1]], template)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return path


def write_page(path: str | Path, cases: Sequence[Case], *, max_bytes: int = PAGE_BYTES) -> Path:
    """Write a page of cases that are in memory; see :class:`Page`.

    Raises:
        InputError: nothing to show, the folder is missing, or a case cannot be drawn.
    """
    page = Page(len(cases), max_bytes=max_bytes)
    for case in cases:
        page.add(case)
    return page.write(path)


def to_display(voxels_ZYX: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Turn an array so that X runs to the patient's left, Y to the back and Z to the head, by the nearest axes.

    Returns:
        A view ``(Z, Y, X)`` and its spacing in mm ``(z, y, x)``. Oblique grids are shown along their own axes.
    """
    plan = AxisPlan.to_lps(geometry)
    return plan.apply(voxels_ZYX), plan.reorder(geometry.spacing_zyx)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What :func:`to_display` does to the slices along an array's first axis."""

    axis: int
    last: int
    flipped: bool

    @staticmethod
    def of(case: Case) -> _Turn:
        geometry = next(iter(case.volumes.values())).geometry
        plan = AxisPlan.to_lps(geometry)
        axis = plan.axes.index(0)
        return _Turn(axis, geometry.shape_zyx[0] - 1, plan.flips[axis])

    def place(self, index: int) -> list[int]:
        """Axis and index of the slice as displayed."""
        return [self.axis, self.last - index if self.flipped else index]


def choose_slices(size: int, count: int, wanted: Iterable[int]) -> list[int]:
    """``count`` of ``size`` slices: those wanted, evenly thinned if they are too many, and others evenly spaced."""
    count = min(count, size)
    kept = sorted({index for index in wanted if 0 <= index < size})
    kept = [kept[place] for place in _spread(len(kept), min(count, len(kept)))]
    others = sorted(set(range(size)) - set(kept))
    return sorted([*kept, *(others[place] for place in _spread(len(others), count - len(kept)))])


def _spread(size: int, count: int) -> list[int]:
    """``count`` indices below ``size``, evenly spaced."""
    return [round((place + 0.5) * size / count - 0.5) for place in range(count)]


def _case_data(case: Case, budget: int, worst: set[int]) -> tuple[dict[str, Any], dict[str, str]]:
    """What the script must know of a case, and its slices as text, one a line."""
    geometry = next(iter(case.volumes.values())).geometry
    stacks = {name: to_display(volume.voxels, geometry)[0] for name, volume in case.volumes.items()}
    shape = next(iter(stacks.values())).shape
    spacing = to_display(np.empty(geometry.shape_zyx, np.uint8), geometry)[1]
    found, numbers = _number_labels(case.labels) if case.labels is not None else ([], None)
    numbers = None if numbers is None else to_display(numbers, geometry)[0]
    step, indices = _fit([*stacks.values()], numbers, budget, worst)
    packed = {
        f"volume{place}": "\n".join(pack_slice(to_steps(stack[index], step)) for index in indices)
        for place, stack in enumerate(stacks.values())
    }
    if numbers is not None:
        packed["labels"] = "\n".join(pack_labels(numbers[index]) for index in indices)
    facts = {
        "title": case.title,
        "text": case.text,
        "window": [case.window.lo, case.window.hi],
        "shape": list(shape),
        "mm": list(spacing),
        "step": step,
        "slices": indices,
        "volumes": [{"name": name, "kind": case.kind(name)} for name in case.volumes],
        "labels": found,
    }
    return facts, packed


def _fit(stacks: list[np.ndarray], numbers: np.ndarray | None, budget: int, worst: set[int]) -> tuple[int, list[int]]:
    """The finest step of HU at which all slices fit; else the coarsest, and the slices to keep."""
    size = len(stacks[0])
    sample = _spread(size, min(size, _SAMPLED))
    fixed = 0 if numbers is None else np.mean([len(pack_labels(numbers[index])) for index in sample])
    for step in STEPS:
        taken = fixed + np.mean([sum(len(pack_slice(to_steps(stack[i], step))) for stack in stacks) for i in sample])
        if taken * size <= budget:
            return step, list(range(size))
    return STEPS[-1], choose_slices(size, max(1, int(budget / taken)), worst)


def _number_labels(found: LabelMap) -> tuple[list[dict[str, Any]], np.ndarray]:
    """Name, color and value of every label that is there, and the map with 1, 2, ... in their place."""
    lowest, highest = int(found.voxels.min()), int(found.voxels.max())
    present = np.zeros(_HIGHEST_LABEL + 1, bool)
    if lowest >= 0 and highest <= _HIGHEST_LABEL:
        present[found.voxels] = True
    values = [value for value in np.flatnonzero(present).tolist() if value]
    if lowest < 0 or highest > _HIGHEST_LABEL or len(values) > 255:
        raise InputError(
            f"A page draws up to 255 labels, each from 1 to {_HIGHEST_LABEL}; got {len(values) or 'values'} from "
            f"{lowest} to {highest}. Give a label map, not an image."
        )
    number = np.zeros(len(present), np.uint8)
    number[values] = np.arange(1, len(values) + 1)
    facts = [
        {
            "name": found.names.get(value) or labels.name_of(value),
            "color": color_of(value),
            "body": value == labels.BODY,
        }
        for value in values
    ]
    return facts, number[found.voxels]


def _run(name: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation as the script needs it: ``at`` is where a row's worst slice lies on the page, if it does."""
    lists = {key: list(content.get(key, [])) for key in ("summary", "verdicts", "failures", "notes")}
    about = ("created_utc", "versions", "options", "cases", "sets", "inputs")
    return {
        "name": name,
        "rows": [{**row, "at": None} for row in content.get("rows", [])],
        **lists,
        "about": {key: content.get(key) for key in about},
    }


def _plain(value: float) -> float | str | None:
    """A number as `evaluation.json` has it: null for nan, ``inf`` as text."""
    return value if math.isfinite(value) else None if math.isnan(value) else str(value)


def _provenance(number: int, case: Case) -> str:
    """What is known of a case's volumes. Plain HTML: it can be read, and found, without the script."""
    parts = []
    for name, volume in case.volumes.items():
        kind, record = case.kind(name), volume.record
        badge = f'<b class="badge {kind}">{kind}</b>' if kind else ""
        tag = record.tag() if record is not None else volume.meta.get("ctgen_tag", "no record")
        origin = case.origins.get(name) or f"{f'{kind.capitalize()}: ' if kind else ''}{tag}."
        facts = ""
        if record is not None:
            rows = {
                "Task": record.task,
                "Codec": record.codec,
                "Weights": ", ".join(str(item.get("name", "")) for item in record.weights),
                "Seed": str(record.seed),
                "Device": record.device,
                "Made": record.created_utc,
                "Notes": "; ".join(record.notes),
                "Record": record.record_id,
            }
            cells = "".join(f"<dt>{key}</dt><dd>{html.escape(value)}</dd>" for key, value in rows.items() if value)
            facts = (
                f"<dl>{cells}</dl><details><summary>Whole record</summary>"
                f"<pre>{html.escape(record.to_json())}</pre></details>"
            )
        parts.append(
            f"<article><h3>{html.escape(name)} {badge}</h3><p>{html.escape(origin)} {html.escape(repr(volume))}</p>"
            f"{facts}</article>"
        )
    text = f"<blockquote>{html.escape(case.text)}</blockquote>" if case.text else ""
    return (
        f'<section data-case="{number}"><h2>{html.escape(case.title)}</h2>'
        f'<p class="dim">For research; not for diagnosis. '
        f"Metrics and difference are inside {case.window.lo:g} to {case.window.hi:g} HU.</p>{text}"
        f'<div class="cards">{"".join(parts)}</div></section>'
    )
